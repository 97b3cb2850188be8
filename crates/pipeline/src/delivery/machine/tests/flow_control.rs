//! How fast the API is called, and what happens while it is ill.

use super::*;

const INTERVAL: Duration = Duration::from_secs(5);

fn pace() -> FlowControlSettings {
    FlowControlSettings {
        breaker: BreakerSettings {
            failure_threshold: 2,
            probe_interval: INTERVAL,
        },
        rate: None,
        calls_in_flight_min: None,
    }
}

impl Scenario {
    /// A partition with calls from 0 on, and proof that it is ours, called at this pace.
    fn with_flow_control(policy: Policy, pace: FlowControlSettings, calls: i64) -> Self {
        let mut scenario = Self::under(policy);
        scenario.delivery = scenario.delivery.with_flow_control(pace);
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

    /// The waits of these calls are over.
    fn waited(&mut self, offsets: &[i64]) {
        for offset in offsets {
            let call = self.id(*offset);
            self.on(Event::WaitElapsed(call));
        }
    }

    /// Time passes, one probe interval or more; commits are acknowledged at once.
    fn pass_to_probe(&mut self, time: Duration) -> &mut Self {
        self.committed();
        self.advance(time);
        let mut told = std::mem::take(&mut self.actions);
        while told.iter().any(|action| matches!(action, Action::Commit(_))) {
            told.retain(|action| !matches!(action, Action::Commit(_)));
            self.committed();
            told.append(&mut self.actions);
        }
        self.actions = told;
        self
    }

    /// How many calls are in a stage.
    fn count(&self, stage: &CallState) -> usize {
        let calls = self.delivery.calls();
        calls.filter(|(_, call)| call.state().0 == stage).count()
    }

    /// What was actions for last of calls, intake and outages.
    #[track_caller]
    fn check_calls(&self, expected: &[&str]) -> &Self {
        let is_of_group = |action: &&Action<()>| matches!(action, Action::Commit(_) | Action::ExtendLease(_));
        let actions = self.actions.iter().filter(|action| !is_of_group(action));
        assert_eq!(actions.map(short).collect::<Vec<_>>(), expected);
        self
    }
}

#[test]
fn while_the_api_is_ill_nothing_is_read_or_sent_but_one_probe_in_each_interval() {
    let mut scenario = Scenario::with_flow_control(Policy::Retry, pace(), 3);
    scenario.refuse(0).check_calls(&["wait 0 Attempt", "send 2"]);
    scenario
        .refuse(1)
        .check_calls(&["outage, 2 failed", "wait 1 Attempt"]);
    // Of before the outage: nothing is heard of it any more.
    scenario.refuse(2).check_calls(&["wait 2 Attempt"]);
    scenario.pending(3, "key-3").check_calls(&["pause"]);
    scenario.waited(&[0, 1, 2]);
    scenario.check_calls(&[]);
    assert_eq!(scenario.delivery.gauges().breaker, BreakerState::Open);
    // The next is one that was not tried, and the partition gives another such.
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

/// Scenario: one order makes the API answer 500 each time, and there is no other call. Once it is taken for an outage,
/// another order must be read, for it would show that the API is well.
#[test]
fn while_there_is_no_untried_call_the_partition_is_read_on() {
    let mut scenario = Scenario::with_flow_control(Policy::Retry, pace(), 1);
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
    // It waits for the breaker, not for a backoff of its own.
    let tries = scenario.actions.iter().find_map(|action| match action {
        Action::Wait { tries, .. } => Some(*tries),
        _ => None,
    });
    assert_eq!(tries, Some(1));
    scenario.waited(&[0]);
    // It is the other one's turn.
    scenario
        .pass_to_probe(INTERVAL)
        .check_calls(&["send 1", "resume"]);
    scenario.committed();
    scenario
        .respond(1, 201)
        .check_calls(&["outage is over", "publish 1", "send 0 again: ambiguous"]);
}

/// Scenario: the outage begins while calls whose beginning is noted wait for a place, or while their commit is under way.
#[test]
fn a_call_whose_beginning_is_noted_when_the_outage_begins_is_noted_as_not_begun() {
    for is_noted in [true, false] {
        let three = BreakerSettings {
            failure_threshold: 3,
            ..pace().breaker
        };
        let pace = FlowControlSettings {
            breaker: three,
            ..pace()
        };
        let mut scenario = Scenario::with_flow_control(Policy::Park, pace, 9);
        // 0 went with the first commit, and 1 goes with this one.
        scenario.committed().check_calls(&["send 1"]);
        scenario.refuse(0);
        scenario.refuse(1);
        // The next one takes one beginning more than there are free places.
        scenario
            .committed()
            .check_calls(&["send 2"])
            .check_intents(&[2, 3, 4]);
        if is_noted {
            scenario.committed().check_calls(&["send 3"]);
            assert_eq!(scenario.count(&CallState::IntentCommitted), 1);
        }
        scenario.refuse(2);
        assert_eq!(scenario.delivery.gauges().breaker, BreakerState::Open);
        if is_noted {
            scenario.advance(10 * MS).check_intents(&[3]);
        } else {
            scenario.committed().advance(10 * MS).check_intents(&[]);
        }
        scenario.committed();
        assert_eq!(
            scenario.count(&CallState::IntentCommitted) + scenario.count(&CallState::RecordingIntent),
            0
        );
        // The probe's beginning is noted before it is sent.
        scenario.advance(INTERVAL);
        assert_eq!(scenario.count(&CallState::RecordingIntent), 1);
        scenario.check_calls(&[]);
        let under_way = scenario.count(&CallState::InFlight);
        scenario.committed();
        assert_eq!(scenario.count(&CallState::InFlight), under_way + 1);
    }
}

/// Scenario: with nothing but an order of which nobody knows, the look-up is the probe; it is not given up for an outage.
#[test]
fn a_look_up_probes_when_there_is_no_call_for_it_and_is_not_given_up_meanwhile() {
    let mut scenario = Scenario::with_flow_control(Policy::Verify, pace(), 1);
    scenario.committed();
    scenario.respond(0, 500);
    scenario.now += verify().api_processing_max;
    scenario.waited(&[0]);
    scenario.check_calls(&["look up 0"]);
    scenario
        .respond_to_look_up(0, 503)
        .check_calls(&["outage, 2 failed", "wait 0 LookUp"]);
    for failed in 3..50 {
        scenario.waited(&[0]);
        scenario.check_calls(&[]);
        scenario
            .pass_to_probe(Duration::from_secs(1_000))
            .check_calls(&["look up 0"]);
        let outage = format!("outage, {failed} failed");
        scenario
            .respond_to_look_up(0, 503)
            .check_calls(&[&outage, "wait 0 LookUp"]);
    }
    scenario.waited(&[0]);
    scenario.pass_to_probe(INTERVAL).check_calls(&["look up 0"]);
    scenario
        .respond_to_look_up(0, 200)
        .check_calls(&["outage is over", "publish 0"]);
}

#[test]
fn requests_begin_at_their_rate_and_the_time_of_the_next_is_told() {
    let rate = RateSettings {
        requests: 4,
        per: Duration::from_secs(1),
    };
    let mut scenario = Scenario::with_flow_control(
        Policy::Retry,
        FlowControlSettings {
            rate: Some(rate),
            ..pace()
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
            // Nothing else is waited for: commits are answered at once here.
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

#[test]
fn under_park_only_what_the_rate_lets_go_soon_is_begun() {
    let rate = RateSettings {
        requests: 1,
        per: Duration::from_secs(1),
    };
    let mut scenario = Scenario::with_flow_control(
        Policy::Park,
        FlowControlSettings {
            rate: Some(rate),
            ..pace()
        },
        4,
    );
    for _ in 0..5 {
        scenario.committed();
    }
    let stages = scenario.delivery.calls().map(|(_, call)| call.state().0.clone());
    let begun =
        stages.filter(|stage| matches!(stage, CallState::RecordingIntent | CallState::IntentCommitted));
    assert_eq!(
        begun.count(),
        0,
        "one is sent, and the next is not due for a second"
    );
    assert_eq!(scenario.delivery.requests.in_flight(), 1);
}

#[test]
fn the_limit_of_calls_in_flight_is_found_out_by_trying() {
    let adaptive = FlowControlSettings {
        calls_in_flight_min: Some(1),
        ..pace()
    };
    let mut scenario = Scenario::with_flow_control(Policy::Retry, adaptive, 1);
    assert_eq!(scenario.delivery.gauges().calls_in_flight_limit, 1);
    for offset in 0..12 {
        scenario.pending(offset + 1, &format!("key-{}", offset + 1));
        scenario.respond(offset, 201).acknowledge(offset);
    }
    assert_eq!(scenario.delivery.gauges().calls_in_flight_limit, 2);
}

/// Scenario: calls wait for proof of ownership when their partition goes. Left in the queue they would take the only place,
/// and no call of the other partition could have its beginning noted.
#[test]
fn calls_that_are_gone_take_no_places() {
    let mut scenario = Scenario::under(Policy::Retry);
    let one = FlowControlSettings {
        calls_in_flight_min: Some(1),
        ..pace()
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
    scenario.committed().check(&["permit", "send 0"]);
}
