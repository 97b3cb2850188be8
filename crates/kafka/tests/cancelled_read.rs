//! Scenario: a read of a changelog is cancelled while records flow. It stops at once.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

use kafka::KafkaSettings;
use kafka::changelog::{ChangelogReader, ReadError};
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use records::{Offset, Partition};

const TOPIC: &str = "changelog";
const RECORDS: i64 = 1_000;

#[test]
fn cancelled_read_stops_while_records_flow() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(TOPIC, 1, 1).expect("a topic");
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .create()
        .expect("a producer");
    for _ in 0..RECORDS {
        producer
            .send(BaseRecord::to(TOPIC).partition(0).key("k").payload("v"))
            .map_err(|(error, _)| error)
            .expect("sent");
    }
    producer.flush(Duration::from_secs(30)).expect("delivered");
    let settings = KafkaSettings {
        bootstrap_servers: cluster.bootstrap_servers(),
        group_id: "group".into(),
        properties: [].into(),
    };
    let reader = ChangelogReader::open(&settings, TOPIC).expect("a reader");
    let seen = Cell::new(0);
    let result = reader.read(
        Partition(0),
        Offset(0),
        Offset(RECORDS),
        || seen.get() >= 3,
        |_| {
            seen.set(seen.get() + 1);
            Ok::<(), Infallible>(())
        },
    );
    assert!(matches!(result, Err(ReadError::Cancelled)), "{result:?}");
    assert_eq!(seen.get(), 3);
}
