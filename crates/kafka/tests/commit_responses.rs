//! Scenario: librdkafka repeats a commit by itself. Its response then says whether an earlier request may
//! still reach the coordinator. Nobody polls meanwhile.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use kafka::consumer::{CommitOffset, CommitResponse};
use kafka::group_offsets::GroupOffsets;
use kafka::{Consumer, ConsumerEvent, KafkaSettings, Membership};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use records::{Offset, Partition};

/// Timeout of each step.
const LIMIT: Duration = Duration::from_secs(30);
const TOPIC: &str = "orders";
/// Timeout of a request that is to time out. A loaded machine may take as long for any other.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Joins the group, and starts its partition. Requests time out after this time.
fn member(cluster: &MockCluster<'_, DefaultProducerContext>, request_timeout: Duration) -> Consumer {
    let request_timeout = request_timeout.as_millis().to_string();
    let settings = KafkaSettings {
        bootstrap_servers: cluster.bootstrap_servers(),
        group_id: "group".into(),
        properties: [("socket.timeout.ms".into(), request_timeout)].into(),
    };
    let membership = Membership {
        instance_id: None,
        session_timeout: Duration::from_secs(60),
        // One that times out would close the connection before the commit uses it.
        heartbeat_interval: Duration::from_secs(20),
        prefetch_kib_max: 1024,
    };
    let consumer = Consumer::join(&settings, &membership, TOPIC).expect("valid settings");
    let deadline = Instant::now() + LIMIT;
    let partitions = loop {
        assert!(Instant::now() < deadline, "no assignment within {LIMIT:?}");
        let polled = consumer.poll(Duration::from_millis(10)).expect("a response");
        if let Some(ConsumerEvent::Assigned { partitions, .. }) = polled {
            break partitions;
        }
    };
    consumer.accept(&partitions).expect("a member");
    consumer
        .start(Partition(0), Offset(0), None)
        .expect("its partition");
    consumer
}

fn commit(consumer: &Consumer) -> CommitResponse {
    consumer.commit_and_wait(&[CommitOffset {
        partition: Partition(0),
        offset: Offset(0),
        metadata: "note".into(),
        leader_epoch: None,
    }])
}

/// Commits without membership, after the coordinator has closed this number of connections instead of a
/// response.
fn commit_without_membership(lost: usize) -> CommitResponse {
    let cluster = cluster();
    let settings = KafkaSettings {
        bootstrap_servers: cluster.bootstrap_servers(),
        group_id: "group".into(),
        properties: [].into(),
    };
    cluster.request_errors(
        RDKafkaApiKey::OffsetCommit,
        &vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT; lost],
    );
    let offsets = GroupOffsets::open(&settings, "operator").expect("valid settings");
    let commit = CommitOffset {
        partition: Partition(0),
        offset: Offset(0),
        metadata: "note".into(),
        leader_epoch: None,
    };
    offsets.commit(TOPIC, &[commit])
}

fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(TOPIC, 1, 1).expect("a topic");
    cluster
}

#[test]
fn commit_is_in_flight_after_a_lost_connection() {
    let cluster = cluster();
    let consumer = member(&cluster, LIMIT);
    let answered = commit(&consumer);
    answered.result.expect("committed");
    assert_eq!(answered.request_in_flight, None);

    // The mock broker closes the connection instead of a response.
    cluster.request_errors(
        RDKafkaApiKey::OffsetCommit,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT],
    );
    let repeated = commit(&consumer);
    repeated.result.expect("committed by the repetition");
    let why = repeated.request_in_flight.expect("the first request");
    assert!(why.contains("Broker transport failure"), "{why}");

    let next = commit(&consumer);
    next.result.expect("committed");
    assert_eq!(next.request_in_flight, None, "of an earlier commit");
}

#[test]
fn commit_is_in_flight_after_a_request_timeout() {
    let cluster = cluster();
    let consumer = member(&cluster, REQUEST_TIMEOUT);
    let ready = Barrier::new(2);
    let repeated = std::thread::scope(|scope| {
        let committing = scope.spawn(|| {
            ready.wait();
            ready.wait();
            commit(&consumer)
        });
        // Only now: the thread may start late, and the broker must not be fast again by then.
        ready.wait();
        cluster
            .broker_round_trip_time(1, 3 * REQUEST_TIMEOUT)
            .expect("a slow broker");
        ready.wait();
        std::thread::sleep(REQUEST_TIMEOUT + REQUEST_TIMEOUT / 2);
        cluster
            .broker_round_trip_time(1, Duration::ZERO)
            .expect("a fast broker");
        committing.join().expect("no panic")
    });
    repeated.result.expect("committed by the repetition");
    let why = repeated.request_in_flight.expect("the first request");
    assert!(why.contains("Timed out"), "{why}");
}

#[test]
fn refused_commit_leaves_nothing_in_flight() {
    let cluster = cluster();
    let consumer = member(&cluster, LIMIT);
    cluster.request_errors(
        RDKafkaApiKey::OffsetCommit,
        // Not NOT_COORDINATOR: librdkafka then closes the connection, perhaps after it has sent the repetition.
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; 2],
    );
    let repeated = commit(&consumer);
    repeated.result.expect("committed by a repetition");
    assert_eq!(repeated.request_in_flight, None);
}

#[test]
fn repeated_commit_of_an_operator_is_in_flight() {
    let answered = commit_without_membership(0);
    answered.result.expect("committed");
    assert_eq!(answered.request_in_flight, None);
    let repeated = commit_without_membership(1);
    repeated.result.expect("committed by the repetition");
    let why = repeated.request_in_flight.expect("the first request");
    assert!(why.contains("Broker transport failure"), "{why}");
}
