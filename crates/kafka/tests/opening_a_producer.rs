//! Scenario: the coordinator of a transactional id does not respond. Opening the producer ends soon after its
//! timeout all the same: the validator opens it on the thread that polls for its group.

use std::time::{Duration, Instant};

use kafka::producer::RecordSizes;
use kafka::producer::transactional::TransactionTimeouts;
use kafka::topics::ExistingTopics;
use kafka::{KafkaSettings, TransactionalProducer};
use rdkafka::mocking::MockCluster;

const TIMEOUT: Duration = Duration::from_secs(2);
/// Time for closing the producer that did not open.
const CLOSE_MAX: Duration = Duration::from_secs(5);

#[test]
fn silent_coordinator_holds_up_no_longer_than_allowed() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster
        .broker_round_trip_time(1, Duration::from_secs(600))
        .expect("a silent broker");
    let settings = KafkaSettings {
        bootstrap_servers: cluster.bootstrap_servers(),
        group_id: "group".into(),
        properties: [].into(),
    };
    let timeouts = TransactionTimeouts {
        transaction_timeout: Duration::from_secs(60),
        commit_timeout: Duration::from_secs(30),
    };
    let sizes = RecordSizes::of(&ExistingTopics::new(), []);
    let started = Instant::now();
    let opened = TransactionalProducer::open(&settings, "id", timeouts, sizes, TIMEOUT);
    let took = started.elapsed();
    assert!(opened.is_err());
    assert!(took < TIMEOUT + CLOSE_MAX, "{took:?}");
}
