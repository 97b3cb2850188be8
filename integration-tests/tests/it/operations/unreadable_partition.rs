//! G4: a partition of the outbox that cannot be read, as one without a leader, holds up no other.
//!
//! Set-up: three partitions with calls, and a proxy that withholds the requests for the bounds of one of them when a caller
//! starts.
//!
//! Must hold: the caller makes the calls of the others, is not ready, and names the partition with the error. Once the bounds
//! can be read again it makes the calls of that one, too, without a restart; each order is charged once.

use anyhow::ensure;
use harness::api::Api;
use harness::orders::manual::{orders, send};
use harness::process::instance_lifecycle::await_ready;
use harness::proxy::withheld_list_offsets::WithheldListOffsets;

use crate::assertions::{LIMIT, await_outcomes, await_unready, await_verdicts};
use crate::fixtures::ProxiedPipeline;
use crate::run;

const ORDERS_PER_PARTITION: u32 = 10;

#[test]
fn unreadable_partition_holds_up_no_other() {
    run(|| {
        let proxied = ProxiedPipeline::start(WithheldListOffsets::default(), "unreadable", 3)?;
        let (pipeline, rule) = (&proxied.pipeline, proxied.proxy.rule());
        pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
        let api = Api::start(pipeline, &["--seed=1".into()])?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        for partition in 0..3 {
            let sent = orders(partition, &format!("o-{partition}"), ORDERS_PER_PARTITION);
            send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;
        }
        await_verdicts(pipeline)?;

        let outbox = &pipeline.topics.pending;
        rule.withhold(Some((outbox, 1)));
        let mut caller = pipeline.caller(1, &api.url)?;
        caller.process.start()?;
        let healthy = usize::try_from(ORDERS_PER_PARTITION * 2)?;
        await_outcomes(pipeline, healthy)?;
        let unreadable = format!("{outbox}/1 is not read");
        await_unready(&mut caller, &[&unreadable, "reading the bounds"])?;
        ensure!(rule.withheld() > 0, "no request was withheld");

        rule.withhold(None);
        await_outcomes(pipeline, usize::try_from(ORDERS_PER_PARTITION * 3)?)?;
        await_ready(&mut caller, LIMIT)?;
        let stats = api.stats()?;
        ensure!(
            stats.charges == u64::from(ORDERS_PER_PARTITION * 3) && stats.orders_charged_more_than_once == 0,
            "{stats:?}"
        );
        for service in [&mut validator, &mut caller] {
            service.process.terminate(LIMIT)?;
        }
        proxied.passed();
        Ok(())
    });
}
