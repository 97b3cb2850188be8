//! Transactions of the operator's commands.
//!
//! Each kind of change has one fixed transactional id: the second of two operators ends what the first has open,
//! fences it, and decides on what the topics have then.

use std::time::Duration;

use anyhow::bail;
use kafka::TransactionalProducer;
use kafka::admin::Admin;
use kafka::producer::RecordSizes;
use kafka::producer::transactional::{TransactionEnd, TransactionTimeouts};

use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT};
use crate::config::Config;

/// Maximum number of calls in one transaction.
pub(crate) const CALLS_MAX: usize = 1000;

const TIMEOUTS: TransactionTimeouts = TransactionTimeouts {
    transaction_timeout: Duration::from_secs(30),
    commit_timeout: Duration::from_secs(15),
};

/// Opens a producer that writes to these topics. An earlier operator's transaction is committed or aborted by then,
/// and whatever that one writes from now on is refused. So it comes before the topics are read.
pub(crate) fn open_producer(
    config: &Config,
    id: &str,
    topics: &[&str],
) -> anyhow::Result<TransactionalProducer> {
    let settings = config.connection();
    let described = Admin::connect(&settings, CLIENT_ID)?.describe(topics)?;
    for topic in topics {
        if !described.contains_key(*topic) {
            bail!("the topic {topic:?} does not exist: `outbox topics create` creates it");
        }
    }
    let sizes = RecordSizes::of(&described, topics.iter().copied());
    Ok(TransactionalProducer::open(
        &settings,
        id,
        TIMEOUTS,
        sizes,
        REQUEST_TIMEOUT,
    )?)
}

/// Fails unless the transaction is committed and the producer can go on. `what` is what it has written, as
/// `settlements`.
pub(crate) fn expect_committed(end: TransactionEnd, what: &str) -> anyhow::Result<()> {
    match end {
        TransactionEnd::Committed { .. } => Ok(()),
        TransactionEnd::CommittedRetireProducer { why, .. } => bail!(
            "the {what} were written, and the producer cannot continue: {why}. Run the command again, which does \
             the rest"
        ),
        TransactionEnd::Aborted(error) | TransactionEnd::Unknown(error) => {
            Err(anyhow::Error::new(error).context(format!(
                "the last {what} were not written, or that is not known: a second operator may have taken over. Run \
                 the command again, which does nothing twice"
            )))
        }
    }
}
