//! Scenario: topics as `missing` plans them have no findings; then one setting is changed, and exactly that
//! is found.

use super::creation::missing;
use super::*;

fn required(topics: &Topics, role: Role) -> Requirements<'_> {
    Requirements {
        topics,
        role,
        forgets_keys: (role == Role::Validator).then_some(true),
        offsets_retention_minutes: None,
        unverified_brokers: &[],
        bootstrap_servers: "b:9092",
    }
}

/// Describes all topics as they are created.
fn created(partitions: usize, replication_factor: usize) -> ExistingTopics {
    missing(
        &Topics::default(),
        &ExistingTopics::new(),
        partitions,
        replication_factor,
    )
    .into_iter()
    .map(|new| {
        let configs = new
            .configs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let described = TopicDescription {
            id: None,
            partitions: new.partitions,
            replication_factor: new.replication_factor,
            configs,
        };
        (new.name, described)
    })
    .collect()
}

/// Changes one setting of one topic, and expects one finding, for the operator and for `role`.
#[track_caller]
fn check(
    role: Role,
    purpose: Purpose,
    change: impl Fn(&mut TopicDescription),
    severity: Severity,
    words: &[&str],
) {
    let topics = Topics::default();
    let mut existing = created(10, 3);
    change(existing.get_mut(purpose.name(&topics)).expect("it exists"));
    for role in [role, Role::Operator] {
        let findings = verify(&required(&topics, role), &existing);
        let [finding] = findings.as_slice() else {
            panic!("{findings:#?}")
        };
        assert_eq!(
            (finding.severity, finding.topic.as_str()),
            (severity, purpose.name(&topics))
        );
        let text = finding.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
    }
}

fn set(name: &'static str, value: &'static str) -> impl Fn(&mut TopicDescription) {
    move |described| {
        described.configs.insert(name.to_owned(), value.to_owned());
    }
}

use Purpose::{CallDeadLetters, Changelog, OrderDeadLetters, Orders, Parked, Pending, Processed};
use Role::{Caller, Operator, Validator};
use Severity::{Refuse, Warn};

#[test]
fn created_topics_have_no_findings() {
    let topics = Topics::default();
    for role in [Validator, Caller, Operator] {
        assert_eq!(verify(&required(&topics, role), &created(10, 3)), []);
        let alone = verify(&required(&topics, role), &created(10, 1));
        assert!(
            alone
                .iter()
                .all(|finding| finding.what.contains("replication factor 1")),
            "{alone:#?}"
        );
        assert!(!is_refused(&alone) && alone.len() == role.purposes().len());
    }
    assert_eq!(missing(&topics, &created(10, 3), 10, 3), []);
}

#[test]
fn each_role_verifies_its_own_topics() {
    let topics = Topics::default();
    let of = |role| verify(&required(&topics, role), &ExistingTopics::new());
    assert_eq!(
        (of(Validator).len(), of(Caller).len(), of(Operator).len()),
        (4, 5, 9)
    );
    let text = of(Caller)[0].to_string();
    assert!(
        text.contains("pending-api-calls does not exist") && text.contains("topics create"),
        "{text}"
    );
    assert!(is_refused(&of(Caller)));

    let mut existing = created(10, 3);
    existing.remove("payment-orders");
    assert_eq!(verify(&required(&topics, Caller), &existing), []);
}

#[test]
fn different_partition_counts_are_refused() {
    let eleven = |described: &mut TopicDescription| described.partitions = 11;
    let words = [
        "has 11 partitions",
        "payment-orders has 10",
        "cannot remove partitions",
    ];
    check(Validator, Changelog, eleven, Refuse, &words);
    let six = |described: &mut TopicDescription| described.partitions = 6;
    check(
        Validator,
        Pending,
        six,
        Refuse,
        &["has 6 partitions", "--partitions 10", "b:9092"],
    );
}

#[test]
fn changelog_that_expires_is_refused() {
    // All at once: `delete` before the limit is gone would delete keys.
    let repair = "--entity-name idempotency-key-store-changelog --add-config 'cleanup.policy=[compact,delete],\
                  retention.ms=-1,retention.bytes=-1,message.timestamp.type=CreateTime,";
    check(
        Validator,
        Changelog,
        set("cleanup.policy", "delete"),
        Refuse,
        &["cleanup.policy=delete", "paid twice", repair],
    );
    for limit in ["retention.ms", "retention.bytes"] {
        let what = format!("cleanup.policy=compact,delete and {limit}=604800000");
        let words = [what.as_str(), "paid twice", repair];
        check(Validator, Changelog, set(limit, "604800000"), Refuse, &words);
    }
}

#[test]
fn changelog_that_keeps_forgotten_keys_is_refused() {
    let topics = Topics::default();
    let found = |change: (&'static str, &'static str), forgets_keys: Option<bool>, role| {
        let mut existing = created(10, 3);
        let changelog = existing.get_mut(Changelog.name(&topics)).expect("it exists");
        set(change.0, change.1)(changelog);
        let required = Requirements {
            forgets_keys,
            ..required(&topics, role)
        };
        let findings = verify(&required, &existing);
        assert!(findings.len() < 2, "{findings:#?}");
        findings.first().map(|finding| finding.severity)
    };
    let compact = ("cleanup.policy", "compact");
    assert_eq!(found(compact, Some(true), Validator), Some(Refuse));
    assert_eq!(found(compact, Some(false), Validator), None);
    assert_eq!(found(compact, None, Operator), Some(Warn));
    // What changes the times of records, or refuses them by it.
    for change in [
        ("message.timestamp.type", "LogAppendTime"),
        ("message.timestamp.after.max.ms", "3600000"),
        ("message.timestamp.before.max.ms", "0"),
    ] {
        assert_eq!(found(change, Some(true), Validator), Some(Refuse), "{change:?}");
        assert_eq!(found(change, Some(false), Validator), Some(Warn), "{change:?}");
    }
}

#[test]
fn compaction_of_records_that_are_needed_is_refused() {
    check(
        Validator,
        Orders,
        set("cleanup.policy", "compact"),
        Refuse,
        &["lost", "cleanup.policy=delete"],
    );
    check(
        Validator,
        Pending,
        set("cleanup.policy", "compact,delete"),
        Refuse,
        &["replay"],
    );
    check(
        Caller,
        Pending,
        set("cleanup.policy", "compact"),
        Refuse,
        &["replay"],
    );
    check(
        Validator,
        OrderDeadLetters,
        set("cleanup.policy", "compact"),
        Refuse,
        &["without a key"],
    );
    check(
        Caller,
        Processed,
        set("cleanup.policy", "compact,delete"),
        Refuse,
        &["last outcome of a key"],
    );
    check(
        Caller,
        Parked,
        set("cleanup.policy", "compact"),
        Warn,
        &["evidence"],
    );
}

#[test]
fn short_retention_is_a_warning() {
    check(
        Validator,
        Orders,
        set("retention.ms", "3600000"),
        Warn,
        &["for 1 h only", "no validator reads"],
    );
    check(
        Caller,
        Pending,
        set("retention.ms", "259200000"),
        Warn,
        &["for 3 days only", "retention.ms=604800000"],
    );
    check(
        Caller,
        Parked,
        set("retention.ms", "604800000"),
        Warn,
        &["for 7 days only", "no operator"],
    );
    check(
        Validator,
        Pending,
        set("retention.bytes", "1000000"),
        Warn,
        &["retention.bytes=-1"],
    );
    check(
        Validator,
        Pending,
        set("message.timestamp.type", "CreateTime"),
        Warn,
        &["clock"],
    );
}

#[test]
fn outbox_that_outlives_offsets_is_a_warning() {
    const MINUTES: i64 = 10_080;
    let topics = Topics::default();
    let found = |retention: &'static str, minutes: Option<i64>| {
        let mut existing = created(10, 3);
        let outbox = existing.get_mut(Pending.name(&topics)).expect("it exists");
        set("retention.ms", retention)(outbox);
        let required = Requirements {
            offsets_retention_minutes: minutes,
            ..required(&topics, Operator)
        };
        let findings = verify(&required, &existing);
        // Beside it the outcomes, if they are kept for less.
        let of_the_outbox = |finding: &&Finding| finding.topic == "pending-api-calls";
        assert!(findings.iter().filter(of_the_outbox).count() < 2, "{findings:#?}");
        findings.iter().find(of_the_outbox).map(|finding| {
            assert_eq!(finding.severity, Warn);
            finding.to_string()
        })
    };
    assert_eq!(found("604800000", Some(MINUTES)), None);
    assert_eq!(found("2592000000", None), None);
    let text = found("2592000000", Some(MINUTES)).expect("30 days are more than 7");
    assert!(text.contains("which is 7 days"), "{text}");
    assert!(text.contains("to 43200 or more"), "{text}");
    assert!(
        found("-1", Some(MINUTES)).is_some(),
        "no limit is longer than any"
    );
}

#[test]
fn outcomes_that_expire_before_the_calls_are_a_warning() {
    let topics = Topics::default();
    let found = |processed: &'static str, pending: &'static str, segment: &'static str| {
        let mut existing = created(10, 3);
        let mut change = |purpose: Purpose, name, value| {
            set(name, value)(existing.get_mut(purpose.name(&topics)).expect("it exists"));
        };
        change(Processed, "retention.ms", processed);
        change(Pending, "retention.ms", pending);
        change(Pending, "segment.ms", segment);
        let findings = verify(&required(&topics, Caller), &existing);
        assert!(findings.len() < 2, "{findings:#?}");
        findings.first().map(|finding| {
            assert_eq!(
                (finding.severity, finding.topic.as_str()),
                (Warn, "payments-processed")
            );
            finding.to_string()
        })
    };
    const DAYS_30: &str = "2592000000";
    let text = found(DAYS_30, DAYS_30, "604800000").expect("the outbox keeps calls for 37 days");
    assert!(
        text.contains("37 days") && text.contains("retention.ms=3196800000"),
        "{text}"
    );
    assert_eq!(found("3196800000", DAYS_30, "604800000"), None);
    assert_eq!(found("-1", "-1", "604800000"), None);
    let text = found(DAYS_30, "-1", "604800000").expect("for ever is longer");
    assert!(text.contains("retention.ms=-1"), "{text}");
}

#[test]
fn weak_replication_is_found() {
    check(
        Validator,
        Pending,
        set("min.insync.replicas", "4"),
        Warn,
        &["more safety than there is", "min.insync.replicas=2"],
    );
    check(
        Validator,
        Pending,
        set("min.insync.replicas", "3"),
        Warn,
        &["one broker is down"],
    );
    check(
        Caller,
        Processed,
        set("min.insync.replicas", "1"),
        Warn,
        &["min.insync.replicas=2"],
    );
    check(
        Validator,
        Changelog,
        set("unclean.leader.election.enable", "true"),
        Refuse,
        &["paid twice"],
    );
    check(
        Caller,
        CallDeadLetters,
        set("unclean.leader.election.enable", "true"),
        Warn,
        &["without a trace"],
    );
}

#[test]
fn two_replicas_are_a_warning_either_way() {
    for (in_sync_min, words) in [("1", "one broker alone"), ("2", "one broker is down")] {
        let change = |described: &mut TopicDescription| {
            described.replication_factor = 2;
            set("min.insync.replicas", in_sync_min)(described);
        };
        check(Validator, Changelog, change, Warn, &[words, "three replicas"]);
    }
}

#[test]
fn too_small_record_limits_are_found() {
    check(
        Validator,
        Pending,
        set("max.message.bytes", "1048588"),
        Warn,
        &["becomes a dead letter"],
    );
    check(
        Validator,
        OrderDeadLetters,
        set("max.message.bytes", "1048588"),
        Warn,
        &["1114124", "headers"],
    );
    check(
        Validator,
        OrderDeadLetters,
        set("max.message.bytes", "1000"),
        Refuse,
        &["halts"],
    );
    check(
        Caller,
        CallDeadLetters,
        set("max.message.bytes", "1000"),
        Refuse,
        &["halts"],
    );
}

#[test]
fn one_topic_for_two_purposes_is_refused() {
    let topics = Topics {
        parked: "pending-api-calls".into(),
        ..Topics::default()
    };
    let findings = verify(&required(&topics, Caller), &created(10, 3));
    assert!(findings[0].what.contains("Pending and Parked"), "{findings:#?}");
    assert!(is_refused(&findings));
}

#[test]
fn created_topics_follow_existing_orders_topic() {
    let topics = Topics::default();
    let configs = [("max.message.bytes".to_owned(), "5000000".to_owned())].into();
    let orders = TopicDescription {
        id: None,
        partitions: 10,
        replication_factor: 3,
        configs,
    };
    let existing = ExistingTopics::from([(topics.orders.clone(), orders)]);
    let new = missing(&topics, &existing, 10, 3);
    assert_eq!(new.len(), 8);
    assert!(
        new.iter()
            .all(|new| new.name != topics.orders && new.configs["min.insync.replicas"] == "2")
    );
    let bytes = |purpose| {
        let new = new.iter().find(|new| new.purpose == purpose).expect("planned");
        new.configs["max.message.bytes"].parse::<u64>().expect("a number")
    };
    assert_eq!(bytes(Pending), 5_000_000 + HEADERS_BYTES);
    assert_eq!(bytes(Parked), 5_000_000 + 2 * HEADERS_BYTES);
}

#[test]
fn brokers_that_verify_no_transactions_are_refused() {
    let topics = Topics::default();
    let broker = |id, is_disabled| UnverifiedBroker { id, is_disabled };
    let found = |brokers: &[UnverifiedBroker]| {
        let required = Requirements {
            unverified_brokers: brokers,
            ..required(&topics, Validator)
        };
        let findings = verify(&required, &created(10, 3));
        assert!(findings.iter().all(|finding| finding.severity == Refuse));
        findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(found(&[]), [""; 0]);
    let [disabled, unsupported] = &found(&[broker(1, true), broker(2, false), broker(3, true)])[..] else {
        panic!("one finding for each cause");
    };
    assert!(
        disabled.contains("=false: 1, 3\n") && disabled.contains("--add-config"),
        "{disabled}"
    );
    assert!(
        unsupported.contains(": 2\n") && unsupported.contains("3.7"),
        "{unsupported}"
    );
}
