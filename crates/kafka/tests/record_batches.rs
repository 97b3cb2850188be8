//! Scenario: records are taken in batches. Each is returned once and in its order, also if its partition is started
//! anew while a batch is being read.

use std::time::{Duration, Instant};

use kafka::{Consumer, ConsumerEvent, KafkaSettings, Membership, Record};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use records::{Offset, Partition};

/// Timeout of each step.
const LIMIT: Duration = Duration::from_secs(30);
const TOPIC: &str = "orders";
const PARTITION: Partition = Partition(0);

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// Writes records whose values are these numbers.
fn write(cluster: &Cluster, numbers: std::ops::Range<usize>) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("enable.idempotence", "true")
        .create()
        .expect("a producer");
    for number in numbers {
        let value = number.to_string();
        let header = |key, value| Header { key, value };
        let headers = OwnedHeaders::new()
            .insert(header("a", Some("1")))
            .insert(header("none", None))
            .insert(header("a", Some("2")));
        let record = BaseRecord::<str, str>::to(TOPIC)
            .partition(PARTITION.0)
            .payload(&value)
            .headers(headers);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
    }
    producer.flush(LIMIT).expect("acknowledged");
}

/// Joins the group with batches, and starts the partition from its beginning.
fn member(cluster: &Cluster) -> Consumer {
    let settings = KafkaSettings {
        bootstrap_servers: cluster.bootstrap_servers(),
        group_id: "group".into(),
        properties: [].into(),
    };
    let membership = Membership {
        instance_id: None,
        session_timeout: Duration::from_secs(60),
        heartbeat_interval: Duration::from_secs(1),
        prefetch_kib_max: 1024,
    };
    let consumer = Consumer::join(&settings, &membership, TOPIC)
        .expect("valid settings")
        .with_batches();
    let deadline = Instant::now() + LIMIT;
    let partitions = loop {
        assert!(Instant::now() < deadline, "no assignment within {LIMIT:?}");
        let polled = consumer.poll(Duration::from_millis(10)).expect("a response");
        if let Some(ConsumerEvent::Assigned { partitions, .. }) = polled {
            break partitions;
        }
    };
    consumer.accept(&partitions).expect("a member");
    consumer.start(PARTITION, Offset(0), None).expect("its partition");
    consumer
}

fn cluster(records: usize) -> Cluster {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(TOPIC, 1, 1).expect("a topic");
    write(&cluster, 0..records);
    cluster
}

fn number(record: &Record<'_>) -> usize {
    let text = std::str::from_utf8(record.value().expect("a value")).expect("text");
    text.parse().expect("a number")
}

/// Returns the numbers of the next records, at least this many.
fn numbers(consumer: &Consumer, count: usize) -> Vec<usize> {
    let deadline = Instant::now() + LIMIT;
    let mut found = Vec::new();
    while found.len() < count {
        assert!(Instant::now() < deadline, "{} of {count}", found.len());
        assert!(
            consumer.poll(Duration::ZERO).expect("a response").is_none(),
            "no record is among the events"
        );
        let mut batch = consumer
            .take_records(Duration::from_millis(100))
            .expect("a batch");
        while let Some(record) = batch.next_record().expect("a record") {
            found.push(number(&record));
        }
    }
    found
}

/// Waits until more records than one have been fetched, and takes them.
fn full_batch(consumer: &Consumer) -> kafka::RecordBatch<'_> {
    let deadline = Instant::now() + LIMIT;
    while !consumer.is_behind() {
        assert!(Instant::now() < deadline, "nothing was fetched");
        let polled = consumer.poll(Duration::from_millis(10)).expect("a response");
        assert!(polled.is_none());
        // The position is known once a record was taken.
        let mut first = consumer
            .take_records(Duration::from_millis(100))
            .expect("a batch");
        while let Some(record) = first.next_record().expect("a record") {
            drop(record);
        }
    }
    consumer.start(PARTITION, Offset(0), None).expect("its partition");
    std::thread::sleep(Duration::from_millis(500));
    consumer.take_records(Duration::ZERO).expect("a batch")
}

#[test]
fn records_come_once_and_in_order() {
    let cluster = cluster(1_000);
    let consumer = member(&cluster);
    assert_eq!(numbers(&consumer, 1_000), (0..1_000).collect::<Vec<_>>());
    assert!(!consumer.is_behind());
    write(&cluster, 1_000..1_100);
    assert_eq!(numbers(&consumer, 100), (1_000..1_100).collect::<Vec<_>>());
    consumer.leave();
}

#[test]
fn partition_started_anew_leaves_no_gap() {
    let cluster = cluster(1_000);
    let consumer = member(&cluster);
    let mut batch = full_batch(&consumer);
    assert!(consumer.is_behind(), "a batch is not all");
    for expected in 0..3 {
        let record = batch.next_record().expect("a record").expect("some tens");
        assert_eq!(number(&record), expected);
    }
    // As after a pause whose records were dropped: the rest of the batch must not follow on those.
    consumer.start(PARTITION, Offset(1), None).expect("its partition");
    assert!(
        batch.next_record().expect("none").is_none(),
        "they are from before"
    );
    drop(batch);
    assert_eq!(numbers(&consumer, 999), (1..1_000).collect::<Vec<_>>());
    consumer.leave();
}

#[test]
fn batch_that_is_not_read_stops_its_partition() {
    let cluster = cluster(1_000);
    let consumer = member(&cluster);
    drop(full_batch(&consumer));
    for _ in 0..20 {
        let mut batch = consumer.take_records(Duration::from_millis(50)).expect("a batch");
        assert!(
            batch.next_record().expect("none").is_none(),
            "it would leave a gap"
        );
    }
    consumer.start(PARTITION, Offset(0), None).expect("its partition");
    assert_eq!(numbers(&consumer, 1_000), (0..1_000).collect::<Vec<_>>());
    consumer.leave();
}

#[test]
fn headers_are_those_of_the_record() {
    let cluster = cluster(1);
    let consumer = member(&cluster);
    let deadline = Instant::now() + LIMIT;
    let mut batch = loop {
        assert!(Instant::now() < deadline, "no record");
        let batch = consumer
            .take_records(Duration::from_millis(100))
            .expect("a batch");
        if !batch.is_empty() {
            break batch;
        }
    };
    let record = batch.next_record().expect("a record").expect("one");
    let one: Option<&[u8]> = Some(b"1");
    let all = [("a", one), ("none", None), ("a", Some(b"2"))];
    assert_eq!(record.headers().readable, all);
    assert_eq!(record.headers().unreadable, None);
}
