//! Flow control: the rate of calls, and the circuit breaker.

use super::*;
use crate::ShareLimit;

const INTERVAL: Duration = Duration::from_secs(5);

fn settings() -> FlowControlSettings {
    FlowControlSettings {
        breaker: BreakerSettings {
            failure_threshold: 2,
            rejections: ShareLimit {
                threshold: 2,
                window: 4,
            },
            probe_interval: INTERVAL,
        },
        rate: None,
        calls_in_flight_min: None,
    }
}

impl Scenario {
    /// A partition with calls from 0 on, an ownership lease, and this flow control.
    fn with_flow_control(policy: Policy, settings: FlowControlSettings, calls: i64) -> Self {
        let mut scenario = Self::under(policy);
        scenario.delivery = scenario.delivery.with_flow_control(settings);
        scenario.assign(loaded(Some(0), ""));
        for offset in 0..calls {
            scenario.pending(offset, &format!("key-{offset}"));
        }
        scenario.committed();
        scenario
    }

    fn refuse(&mut self, offset: i64) -> &mut Self {
        let call = self.id(offset);
        self.now += MS;
        self.respond_with(call, Response::NotSent(NotSent::NoConnection))
    }

    /// Ends the waits of these calls.
    fn waited(&mut self, offsets: &[i64]) {
        for offset in offsets {
            let call = self.id(*offset);
            self.on(Event::WaitElapsed(call));
        }
    }

    /// Lets one probe interval or more pass; commits are acknowledged at once.
    fn pass_to_probe(&mut self, time: Duration) -> &mut Self {
        self.committed();
        self.advance(time);
        let mut actions = std::mem::take(&mut self.actions);
        while actions.iter().any(|action| matches!(action, Action::Commit(_))) {
            actions.retain(|action| !matches!(action, Action::Commit(_)));
            self.committed();
            actions.append(&mut self.actions);
        }
        self.actions = actions;
        self
    }

    /// Counts the calls in a state.
    fn count(&self, state: &CallState) -> usize {
        let calls = self.delivery.calls();
        calls.filter(|(_, call)| call.state().0 == state).count()
    }

    /// Checks the actions of the last event that concern calls, intake and outages.
    #[track_caller]
    fn check_calls(&self, expected: &[&str]) -> &Self {
        let is_of_group = |action: &&Action<()>| matches!(action, Action::Commit(_) | Action::ExtendLease(_));
        let actions = self.actions.iter().filter(|action| !is_of_group(action));
        assert_eq!(actions.map(short).collect::<Vec<_>>(), expected);
        self
    }
}

#[test]
fn open_breaker_sends_one_probe_per_interval() {
    let mut scenario = Scenario::with_flow_control(Policy::Retry, settings(), 3);
    scenario.refuse(0).check_calls(&["wait 0 Attempt", "send 2"]);
    scenario
        .refuse(1)
        .check_calls(&["outage, 2 failed", "wait 1 Attempt"]);
    // A request from before the outage: its response changes nothing.
    scenario.refuse(2).check_calls(&["wait 2 Attempt"]);
    scenario.pending(3, "key-3").check_calls(&["pause"]);
    scenario.waited(&[0, 1, 2]);
    scenario.check_calls(&[]);
    assert_eq!(scenario.delivery.gauges().breaker, BreakerState::Open);
    // The probe is a call that was never tried, and the partition has one.
    scenario.pass_to_probe(INTERVAL).check_calls(&["send 3"]);
    assert_eq!(scenario.delivery.gauges().breaker, BreakerState::Probing);
    scenario
        .refuse(3)
        .check_calls(&["outage, 3 failed", "wait 3 Attempt"]);
    scenario.waited(&[3]);
    scenario.check_calls(&[]);
    scenario.pass_to_probe(INTERVAL).check_calls(&["send 0"]);
    scenario
        .respond(0, 422)
        .check_calls(&["outage is over", "publish 0", "send 1", "send 2"]);
    assert_eq!(scenario.delivery.gauges().breaker, BreakerState::Closed);
}

/// Scenario: one order makes the API respond 500 each time, and there is no other call. Once the breaker is
/// open, another order must be read, for it would show that the API is healthy.
#[test]
fn open_breaker_reads_on_until_an_untried_call() {
    let mut scenario = Scenario::with_flow_control(Policy::Retry, settings(), 1);
    scenario.respond(0, 500).check_calls(&["wait 0 Attempt"]);
    scenario.waited(&[0]);
    scenario.check_calls(&["send 0 again: ambiguous"]);
    scenario
        .respond(0, 500)
        .check_calls(&["outage, 2 failed", "wait 0 Attempt"]);
    scenario.waited(&[0]);
    scenario.pending(1, "key-1").check_calls(&["pause"]);
    scenario
        .pass_to_probe(INTERVAL)
        .check_calls(&["send 0 again: ambiguous"]);
    scenario.committed();
    scenario
        .respond(0, 500)
        .check_calls(&["outage, 3 failed", "wait 0 Attempt"]);
    // It waits for the breaker, not for its own backoff.
    let tries = scenario.actions.iter().find_map(|action| match action {
        Action::Wait { tries, .. } => Some(*tries),
        _ => None,
    });
    assert_eq!(tries, Some(1));
    scenario.waited(&[0]);
    // The next probe is the other call.
    scenario
        .pass_to_probe(INTERVAL)
        .check_calls(&["send 1", "resume"]);
    scenario.committed();
    scenario
        .respond(1, 201)
        .check_calls(&["outage is over", "publish 1", "send 0 again: ambiguous"]);
}

/// Scenario: the API rejects each call. Once the breaker is open no call becomes a dead letter, each probe is
/// another call, and a call that is rejected again afterwards becomes one.
#[test]
fn mass_rejection_keeps_calls_and_probes_by_turns() {
    let limits = Limits {
        deferral: DeferralLimits {
            abandon_after: Some(MS),
            ..LIMITS.deferral
        },
        ..LIMITS
    };
    let mut scenario = Scenario::with(limits, Policy::Retry);
    scenario.delivery = scenario.delivery.with_flow_control(settings());
    scenario.assign(loaded(Some(0), ""));
    for offset in 0..3 {
        scenario.pending(offset, &format!("key-{offset}"));
    }
    scenario.committed();
    scenario.respond(0, 404).check_calls(&["publish 0", "send 2"]);
    scenario.acknowledge(0);
    scenario.now += MS;
    scenario
        .respond(1, 404)
        .check_calls(&["outage, 2 failed", "wait 1 Attempt"]);
    // In flight when it opened.
    scenario.now += MS;
    scenario.respond(2, 404).check_calls(&["wait 2 Attempt"]);
    scenario.pending(3, "key-3").check_calls(&["pause"]);
    scenario.waited(&[1, 2]);
    // The call that was never tried comes first, then the others by turns, however long they are kept.
    for (turn, probe) in [3, 1, 2, 3, 1, 2].into_iter().enumerate() {
        let sent = format!("send {probe}");
        scenario.pass_to_probe(Duration::from_secs(3_600));
        assert!(
            scenario.actions.iter().any(|action| short(action) == sent),
            "{turn}: {:?}",
            scenario.actions
        );
        let outage = format!("outage, {} failed", turn + 3);
        let wait = format!("wait {probe} Attempt");
        scenario.respond(probe, 403).check_calls(&[&outage, &wait]);
        scenario.waited(&[probe]);
    }
    assert_eq!(scenario.delivery.gauges().calls_open, 3);
    scenario.pass_to_probe(INTERVAL).check_calls(&["send 3"]);
    scenario
        .respond(3, 201)
        .check_calls(&["outage is over", "publish 3", "send 1", "send 2"]);
    scenario.respond(1, 422);
    assert_eq!(short(&scenario.actions[0]), "publish 1");
}

/// Scenario: the partition moves while its calls are kept. They go to the next owner, and none is final.
#[test]
fn kept_calls_are_released_and_not_final() {
    for policy in [Policy::Retry, Policy::Park, Policy::Verify] {
        let mut scenario = Scenario::with_flow_control(policy, settings(), 3);
        for _ in 0..3 {
            scenario.committed();
        }
        scenario.respond(0, 404).acknowledge(0);
        scenario.committed().respond(1, 404);
        assert_eq!(
            scenario.delivery.gauges().breaker,
            BreakerState::Open,
            "{policy:?}"
        );
        scenario.on(Event::Revoked(vec![P]));
        let is_published = |action: &Action<()>| matches!(action, Action::Publish { .. });
        assert!(!scenario.actions.iter().any(is_published), "{policy:?}");
        let offsets: Vec<i64> = scenario.delivery.calls().map(|(id, _)| id.offset.0).collect();
        for offset in offsets {
            scenario.respond(offset, 404);
            assert!(!scenario.actions.iter().any(is_published), "{policy:?} {offset}");
        }
        assert_eq!(scenario.delivery.calls().count(), 0, "{policy:?}");
    }
}

/// Scenario: the breaker opens while calls with a recorded intent wait for a slot, or while their commit is
/// in flight.
#[test]
fn opening_breaker_takes_back_recorded_intents() {
    for is_committed in [true, false] {
        let three = BreakerSettings {
            failure_threshold: 3,
            ..settings().breaker
        };
        let settings = FlowControlSettings {
            breaker: three,
            ..settings()
        };
        let mut scenario = Scenario::with_flow_control(Policy::Park, settings, 9);
        // 0 went with the first commit, and 1 goes with this one.
        scenario.committed().check_calls(&["send 1"]);
        scenario.refuse(0);
        scenario.refuse(1);
        // The next one records one intent more than there are free slots.
        scenario
            .committed()
            .check_calls(&["send 2"])
            .check_intents(&[2, 3, 4]);
        if is_committed {
            scenario.committed().check_calls(&["send 3"]);
            assert_eq!(scenario.count(&CallState::IntentCommitted), 1);
        }
        scenario.refuse(2);
        assert_eq!(scenario.delivery.gauges().breaker, BreakerState::Open);
        if is_committed {
            scenario.advance(10 * MS).check_intents(&[3]);
        } else {
            scenario.committed().advance(10 * MS).check_intents(&[]);
        }
        scenario.committed();
        assert_eq!(
            scenario.count(&CallState::IntentCommitted) + scenario.count(&CallState::RecordingIntent),
            0
        );
        // The probe's intent is recorded before it is sent.
        scenario.advance(INTERVAL);
        assert_eq!(scenario.count(&CallState::RecordingIntent), 1);
        scenario.check_calls(&[]);
        let in_flight = scenario.count(&CallState::InFlight);
        scenario.committed();
        assert_eq!(scenario.count(&CallState::InFlight), in_flight + 1);
    }
}

/// Scenario: the only call is ambiguous, so its look-up is the probe. An outage does not use up its look-ups.
#[test]
fn look_up_probes_without_calls_and_is_not_abandoned() {
    let mut scenario = Scenario::with_flow_control(Policy::Verify, settings(), 1);
    scenario.committed();
    scenario.respond(0, 500);
    scenario.now += verify().quiescence();
    scenario.waited(&[0]);
    scenario.check_calls(&["look up 0"]);
    scenario
        .respond_to_look_up(0, 500)
        .check_calls(&["outage, 2 failed", "wait 0 LookUp"]);
    for failed in 3..50 {
        scenario.waited(&[0]);
        scenario.check_calls(&[]);
        scenario
            .pass_to_probe(Duration::from_secs(1_000))
            .check_calls(&["look up 0"]);
        let outage = format!("outage, {failed} failed");
        scenario
            .respond_to_look_up(0, 500)
            .check_calls(&[&outage, "wait 0 LookUp"]);
    }
    scenario.waited(&[0]);
    scenario.pass_to_probe(INTERVAL).check_calls(&["look up 0"]);
    scenario
        .respond_to_look_up(0, 200)
        .check_calls(&["outage is over", "publish 0"]);
}

#[test]
fn requests_keep_the_rate_and_wake_on_time() {
    let rate = RateSettings {
        requests: 4,
        per: Duration::from_secs(1),
    };
    let mut scenario = Scenario::with_flow_control(
        Policy::Retry,
        FlowControlSettings {
            rate: Some(rate),
            ..settings()
        },
        4,
    );
    let began = scenario.now;
    for offset in 0..4 {
        let sent = scenario
            .actions
            .iter()
            .filter(|action| matches!(action, Action::Send { .. }))
            .count();
        assert_eq!(sent, 1, "{offset}: {:?}", scenario.actions);
        assert_eq!(
            scenario.now - began,
            250 * MS * u32::try_from(offset).expect("small")
        );
        scenario.respond(offset, 201);
        scenario.committed();
        if offset < 3 {
            // Nothing else is awaited: commits are acknowledged at once here.
            let mut at = scenario.delivery.wake_at(scenario.now).expect("a time");
            while at < began + 250 * MS * u32::try_from(offset + 1).expect("small") {
                scenario.now = at.max(scenario.now);
                scenario.on(Event::Tick).committed();
                at = scenario.delivery.wake_at(scenario.now).expect("a time");
            }
            scenario.now = at;
            scenario.on(Event::Tick);
        }
    }
}

/// Scenario: as many calls are final as may be before their commit is acknowledged, and the next one is due by the rate,
/// or as the probe of the open breaker. No tick can send it, so none must be due for it: the loop would spin.
#[test]
fn nothing_wakes_for_calls_that_await_commits() {
    let limits = Limits {
        calls_open_max: 100,
        ..LIMITS
    };
    let flow_control = FlowControlSettings {
        breaker: BreakerSettings {
            probe_interval: 100 * MS,
            ..settings().breaker
        },
        rate: Some(RateSettings {
            requests: 1_000,
            per: Duration::from_secs(1),
        }),
        calls_in_flight_min: None,
    };
    for is_outage in [false, true] {
        let mut scenario = Scenario::with(limits, Policy::Retry);
        scenario.delivery = scenario.delivery.with_flow_control(flow_control);
        scenario.assign(loaded(Some(0), ""));
        scenario.pending(0, "key-0");
        // The lease; the next commit is in flight from now on.
        scenario.committed();
        for offset in 0..31 {
            scenario.pending(offset + 1, &format!("key-{}", offset + 1));
            scenario.advance(MS);
            scenario.respond(offset, 201).acknowledge(offset);
        }
        scenario.pending(32, "key-32").advance(MS);
        scenario.respond(31, 201);
        scenario.pending(33, "key-33").advance(MS);
        scenario.acknowledge(31);
        let next = match is_outage {
            false => {
                scenario.respond(32, 201);
                scenario.pending(34, "key-34").advance(MS);
                assert_eq!(scenario.delivery.bound(scenario.now), Bound::Commits);
                34
            }
            true => {
                scenario.refuse(32);
                scenario.refuse(33);
                scenario.waited(&[32, 33]);
                scenario.advance(100 * MS);
                assert_eq!(scenario.delivery.bound(scenario.now), Bound::Api);
                32
            }
        };
        scenario.check_calls(&[]);
        assert!(scenario.has_commit_in_flight());
        assert!(scenario.delivery.has_ready() && scenario.delivery.flow.has_room(scenario.now));
        let wake_at = scenario
            .delivery
            .wake_at(scenario.now)
            .expect("the commit's timeout");
        assert!(
            wake_at > scenario.now,
            "{is_outage}: a tick that does nothing is due"
        );
        scenario.committed().check_calls(&[&format!("send {next}")]);
    }
}

#[test]
fn intents_are_recorded_only_as_the_rate_allows() {
    let rate = RateSettings {
        requests: 1,
        per: Duration::from_secs(1),
    };
    let mut scenario = Scenario::with_flow_control(
        Policy::Park,
        FlowControlSettings {
            rate: Some(rate),
            ..settings()
        },
        4,
    );
    for _ in 0..5 {
        scenario.committed();
    }
    let states = scenario.delivery.calls().map(|(_, call)| call.state().0.clone());
    let with_intent =
        states.filter(|state| matches!(state, CallState::RecordingIntent | CallState::IntentCommitted));
    assert_eq!(
        with_intent.count(),
        0,
        "one is sent, and the next is not due for a second"
    );
    assert_eq!(scenario.delivery.requests.in_flight(), 1);
}

#[test]
fn adaptive_limit_grows_with_healthy_responses() {
    let adaptive = FlowControlSettings {
        calls_in_flight_min: Some(1),
        ..settings()
    };
    let mut scenario = Scenario::with_flow_control(Policy::Retry, adaptive, 1);
    assert_eq!(scenario.delivery.gauges().calls_in_flight_limit, 1);
    for offset in 0..12 {
        scenario.pending(offset + 1, &format!("key-{}", offset + 1));
        scenario.respond(offset, 201).acknowledge(offset);
    }
    assert_eq!(scenario.delivery.gauges().calls_in_flight_limit, 2);
}

/// Scenario: calls wait for the lease when their partition is lost. Left in the queue they would take the
/// only slot, and no call of the next assignment could have its intent recorded.
#[test]
fn released_calls_take_no_slots() {
    let mut scenario = Scenario::under(Policy::Retry);
    let one = FlowControlSettings {
        calls_in_flight_min: Some(1),
        ..settings()
    };
    scenario.delivery = scenario.delivery.with_flow_control(one);
    scenario.assign(loaded(Some(0), ""));
    scenario.pending(0, "a").pending(1, "b");
    scenario.on(Event::Lost(vec![P]));
    scenario.on(Event::Committed(CommitResult::Fenced));
    scenario.policy = Policy::Park;
    assert_eq!(scenario.delivery.gauges().partitions, 0);
    scenario.assign(loaded(Some(0), ""));
    scenario.pending(0, "a").check(&["commit 0"]).check_intents(&[0]);
    scenario.committed().check(&["extend lease", "send 0"]);
}

#[test]
fn paused_calls_are_kept_and_sent_after_resume() {
    let mut scenario = Scenario::with_flow_control(Policy::Retry, settings(), 1);
    scenario.on(Event::Paused(true)).check_calls(&[]);
    // The request in flight ends as usual; a failed one waits like all others.
    scenario.refuse(0).check_calls(&["wait 0 Attempt"]);
    scenario.pending(1, "key-1").check_calls(&[]);
    scenario.waited(&[0]);
    scenario.pass_to_probe(INTERVAL).check_calls(&[]);
    assert!(scenario.delivery.gauges().is_paused);
    scenario
        .on(Event::Paused(false))
        .check_calls(&["send 0", "send 1"]);
}

/// Killed during the pause, this process must leave no intent of a call that it never sent.
#[test]
fn pause_takes_intents_back() {
    let mut scenario = Scenario::with_flow_control(Policy::Park, settings(), 2);
    scenario.respond(0, 200);
    scenario.pending(2, "key-2");
    scenario.pending(3, "key-3");
    // The intents of these calls are in the commit in flight.
    assert!(scenario.count(&CallState::RecordingIntent) > 0);
    scenario.on(Event::Paused(true));
    scenario.committed();
    scenario.check_calls(&[]);
    assert_eq!(scenario.count(&CallState::IntentCommitted), 0);
    assert_eq!(scenario.count(&CallState::RecordingIntent), 0);
    scenario.on(Event::Paused(false)).check_intents(&[0, 1, 2, 3]);
}

#[test]
fn bound_is_what_calls_wait_for() {
    let bound = |scenario: &Scenario| scenario.delivery.bound(scenario.now);
    let mut scenario = Scenario::under(Policy::Park);
    assert_eq!(bound(&scenario), Bound::Partitions);
    scenario.assign(loaded(Some(0), ""));
    assert_eq!(bound(&scenario), Bound::None);
    scenario.pending(0, "a").check(&["commit 0"]);
    assert_eq!(bound(&scenario), Bound::Commits);
    scenario.committed();
    assert_eq!(
        bound(&scenario),
        Bound::None,
        "it is in flight, and no other call waits"
    );

    let mut scenario = Scenario::with_flow_control(Policy::Retry, settings(), 3);
    assert_eq!(bound(&scenario), Bound::Api, "two calls may be in flight");
    scenario.on(Event::Paused(true));
    assert_eq!(bound(&scenario), Bound::Pause);

    let slow = FlowControlSettings {
        rate: Some(RateSettings {
            requests: 1,
            per: Duration::from_secs(1),
        }),
        ..settings()
    };
    let mut scenario = Scenario::with_flow_control(Policy::Retry, slow, 2);
    assert_eq!(bound(&scenario), Bound::RateLimit);
    scenario.now += Duration::from_secs(1);
    assert_eq!(bound(&scenario), Bound::None, "it is sent at the next event");
    scenario.now += LIMITS.ownership_lease;
    assert_eq!(bound(&scenario), Bound::Commits, "the lease is over");
}
