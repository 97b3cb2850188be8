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

/// Writes calls, or orders, in transactions of a limited number.
pub(crate) struct Batches<'a, C> {
    producer: &'a TransactionalProducer,
    commit: C,
    /// Number of those in the open transaction; 0 if none is open.
    open: usize,
}

impl<'a, C: Fn(usize) -> anyhow::Result<()>> Batches<'a, C> {
    /// `commit` ends a transaction with this number of calls.
    pub(crate) const fn new(producer: &'a TransactionalProducer, commit: C) -> Self {
        Self {
            producer,
            commit,
            open: 0,
        }
    }

    /// Writes one call, in the open transaction or in a new one.
    pub(crate) fn write(&mut self, write: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        if self.open == 0 {
            self.producer.begin()?;
        }
        write()?;
        self.open += 1;
        match self.open {
            CALLS_MAX => self.commit(),
            _ => Ok(()),
        }
    }

    /// Ends the open transaction, if there is one.
    pub(crate) fn commit(&mut self) -> anyhow::Result<()> {
        match std::mem::take(&mut self.open) {
            0 => Ok(()),
            calls => (self.commit)(calls),
        }
    }
}
