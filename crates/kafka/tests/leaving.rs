//! Scenario: a consumer is dropped after it has lost its partitions and before it has released them. It
//! leaves its group nevertheless, although closing waits for the release and nobody polls any longer.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use kafka::{Consumer, ConsumerEvent, KafkaSettings, Membership};
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// Timeout of each step.
const LIMIT: Duration = Duration::from_secs(30);
const TOPIC: &str = "orders";

fn join(brokers: String) -> Consumer {
    let settings = KafkaSettings {
        bootstrap_servers: brokers,
        group_id: "group".into(),
        properties: [].into(),
    };
    let membership = Membership {
        instance_id: None,
        session_timeout: Duration::from_secs(6),
        heartbeat_interval: Duration::from_millis(100),
        prefetch_kib_max: 1024,
    };
    Consumer::join(&settings, &membership, TOPIC).expect("valid settings")
}

/// Waits for the next rebalance.
fn rebalance(consumer: &Consumer) -> ConsumerEvent<'_> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if let Some(event) = consumer
            .poll(Duration::from_millis(10))
            .expect("the broker responds")
        {
            return event;
        }
    }
    panic!("no rebalance within {LIMIT:?}");
}

#[test]
fn consumer_leaves_before_releasing_lost_partitions() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(TOPIC, 2, 1).expect("a topic");
    let consumer = join(cluster.bootstrap_servers());
    let ConsumerEvent::Assigned { partitions, .. } = rebalance(&consumer) else {
        panic!("no partitions were assigned");
    };
    consumer.accept(&partitions).expect("a member");

    // The coordinator no longer knows the member, so that its partitions are lost.
    cluster.request_errors(
        RDKafkaApiKey::Heartbeat,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID],
    );
    assert!(matches!(rebalance(&consumer), ConsumerEvent::Lost { .. }));

    let (left, leaving) = mpsc::channel();
    std::thread::spawn(move || {
        consumer.leave();
        left.send(())
    });
    leaving.recv_timeout(LIMIT).expect("the consumer has left");
}
