//! A consumer that is dropped leaves its group, also when it has lost its partitions and has not yet let them go:
//! librdkafka's closing waits for that, and nobody is left to do it.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use kafka::{Consumer, ConsumerEvent, KafkaSettings, Membership};
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

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
    Consumer::join(&settings, &membership, TOPIC).expect("sound settings")
}

/// The next rebalance.
fn rebalance(consumer: &Consumer) -> ConsumerEvent<'_> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if let Some(happening) = consumer.poll(Duration::from_millis(10)).expect("it answers") {
            return happening;
        }
    }
    panic!("nothing has happened");
}

#[test]
fn a_consumer_leaves_that_has_not_let_go_what_it_has_lost() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(TOPIC, 2, 1).expect("a topic");
    let consumer = join(cluster.bootstrap_servers());
    let ConsumerEvent::Assigned { partitions, .. } = rebalance(&consumer) else {
        panic!("it is assigned nothing");
    };
    consumer.accept(&partitions).expect("a member");

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
    leaving.recv_timeout(LIMIT).expect("it has left");
}
