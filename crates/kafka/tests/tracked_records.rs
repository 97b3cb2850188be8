//! Scenario: a transaction with tracked records. The offset behind the last one of each partition is known once it is
//! committed.

use std::time::Duration;

use kafka::producer::RecordSizes;
use kafka::producer::transactional::{TransactionEnd, TransactionTimeouts};
use kafka::{KafkaSettings, OutgoingRecord, TransactionalProducer};
use rdkafka::mocking::MockCluster;
use records::{Offset, Partition};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn commit_has_each_tracked_record() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("changelog", 2, 1).expect("a topic");
    let settings = KafkaSettings {
        bootstrap_servers: cluster.bootstrap_servers(),
        group_id: "group".into(),
        properties: [].into(),
    };
    let limits = TransactionTimeouts {
        transaction_timeout: LIMIT,
        commit_timeout: LIMIT,
    };
    let sizes = RecordSizes::of(&[].into(), ["changelog"]);
    let producer = TransactionalProducer::open(&settings, "id", limits, sizes, LIMIT).expect("a producer");
    for (round, counts) in [(0, [200, 1]), (1, [3, 70]), (2, [1, 0])] {
        producer.begin().expect("begun");
        for (partition, count) in (0..).map(Partition).zip(counts) {
            for _ in 0..count {
                let record = OutgoingRecord {
                    topic: "changelog",
                    partition: Some(partition),
                    key: Some(b"key"),
                    value: Some(b"entry"),
                    headers: None,
                    at: None,
                };
                producer.send_tracked(record).expect("taken");
            }
        }
        let TransactionEnd::Committed { tracked } = producer.end_without_offsets(|| ()) else {
            panic!("round {round} is not committed");
        };
        // The mock broker writes no markers.
        let expected: &[(i32, i64)] = match round {
            0 => &[(0, 200), (1, 1)],
            1 => &[(0, 203), (1, 71)],
            _ => &[(0, 204)],
        };
        let expected = expected
            .iter()
            .map(|(partition, end)| (Partition(*partition), Offset(*end)));
        assert_eq!(tracked, expected.collect());
    }
}
