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

impl Story {
    /// A partition with calls from 0 on, and proof that it is ours, called at this pace.
    fn with_flow_control(policy: Policy, pace: FlowControlSettings, calls: i64) -> Self {
        let mut story = Self::under(policy);
        story.delivery = story.delivery.with_flow_control(pace);
        story.assign(loaded(Some(0), ""));
        for offset in 0..calls {
            story.pending(offset, &format!("key-{offset}"));
        }
        story.committed();
        story
    }

    fn refuse(&mut self, offset: i64) -> &mut Self {
        let call = self.id(offset);
        let report = Response::NotSent(NotSent::NoConnection);
        self.now += MS;
        self.tell(Event::ResponseReceived { call, report })
    }

    /// The waits of these calls are over.
    fn waited(&mut self, offsets: &[i64]) {
        for offset in offsets {
            let call = self.id(*offset);
            self.tell(Event::WaitElapsed(call));
        }
    }

    /// Time passes, one probe interval or more; commits are acknowledged at once.
    fn pass_to_probe(&mut self, time: Duration) -> &mut Self {
        self.committed();
        self.pass(time);
        let mut told = std::mem::take(&mut self.asked);
        while told.iter().any(|action| matches!(action, Action::Commit(_))) {
            told.retain(|action| !matches!(action, Action::Commit(_)));
            self.committed();
            told.append(&mut self.asked);
        }
        self.asked = told;
        self
    }

    /// How many calls are in a stage.
    fn count(&self, stage: &CallState) -> usize {
        let calls = self.delivery.calls();
        calls.filter(|(_, call)| call.state().0 == stage).count()
    }

    /// What was asked for last of calls, intake and outages.
    #[track_caller]
    fn check_calls(&self, expected: &[&str]) -> &Self {
        let is_of_group = |action: &&Action<()>| matches!(action, Action::Commit(_) | Action::ExtendLease(_));
        let asked = self.asked.iter().filter(|action| !is_of_group(action));
        assert_eq!(asked.map(short).collect::<Vec<_>>(), expected);
        self
    }
}

#[test]
fn while_the_api_is_ill_nothing_is_read_or_sent_but_one_probe_in_each_interval() {
    let mut story = Story::with_flow_control(Policy::Retry, pace(), 3);
    story.refuse(0).check_calls(&["wait 0 Attempt", "send 2"]);
    story
        .refuse(1)
        .check_calls(&["outage, 2 failed", "wait 1 Attempt"]);
    // Of before the outage: nothing is heard of it any more.
    story.refuse(2).check_calls(&["wait 2 Attempt"]);
    story.pending(3, "key-3").check_calls(&["pause"]);
    story.waited(&[0, 1, 2]);
    story.check_calls(&[]);
    assert_eq!(story.delivery.gauges().breaker, BreakerState::Open);
    // The next is one that was not tried, and the partition gives another such.
    story.pass_to_probe(INTERVAL).check_calls(&["send 3"]);
    assert_eq!(story.delivery.gauges().breaker, BreakerState::Probing);
    story
        .refuse(3)
        .check_calls(&["outage, 3 failed", "wait 3 Attempt"]);
    story.waited(&[3]);
    story.check_calls(&[]);
    story.pass_to_probe(INTERVAL).check_calls(&["send 0"]);
    story
        .answer(0, 422)
        .check_calls(&["outage is over", "publish 0", "send 1", "send 2"]);
    assert_eq!(story.delivery.gauges().breaker, BreakerState::Closed);
}

/// Story: one order makes the API answer 500 each time, and there is no other call. Once it is taken for an outage,
/// another order must be read, for it would show that the API is well.
#[test]
fn while_there_is_no_untried_call_the_partition_is_read_on() {
    let mut story = Story::with_flow_control(Policy::Retry, pace(), 1);
    story.answer(0, 500).check_calls(&["wait 0 Attempt"]);
    story.waited(&[0]);
    story.check_calls(&["send 0 again: ambiguous"]);
    story
        .answer(0, 500)
        .check_calls(&["outage, 2 failed", "wait 0 Attempt"]);
    story.waited(&[0]);
    story.pending(1, "key-1").check_calls(&["pause"]);
    story
        .pass_to_probe(INTERVAL)
        .check_calls(&["send 0 again: ambiguous"]);
    story.committed();
    story
        .answer(0, 500)
        .check_calls(&["outage, 3 failed", "wait 0 Attempt"]);
    // It waits for the breaker, not for a backoff of its own.
    let tries = story.asked.iter().find_map(|action| match action {
        Action::Wait { tries, .. } => Some(*tries),
        _ => None,
    });
    assert_eq!(tries, Some(1));
    story.waited(&[0]);
    // It is the other one's turn.
    story.pass_to_probe(INTERVAL).check_calls(&["send 1", "resume"]);
    story.committed();
    story
        .answer(1, 201)
        .check_calls(&["outage is over", "publish 1", "send 0 again: ambiguous"]);
}

/// Story: the outage begins while calls whose beginning is noted wait for a place, or while their commit is under way.
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
        let mut story = Story::with_flow_control(Policy::Park, pace, 9);
        // 0 went with the first commit, and 1 goes with this one.
        story.committed().check_calls(&["send 1"]);
        story.refuse(0);
        story.refuse(1);
        // The next one takes one beginning more than there are free places.
        story.committed().check_calls(&["send 2"]).check_begun(&[2, 3, 4]);
        if is_noted {
            story.committed().check_calls(&["send 3"]);
            assert_eq!(story.count(&CallState::IntentCommitted), 1);
        }
        story.refuse(2);
        assert_eq!(story.delivery.gauges().breaker, BreakerState::Open);
        if is_noted {
            story.pass(10 * MS).check_begun(&[3]);
        } else {
            story.committed().pass(10 * MS).check_begun(&[]);
        }
        story.committed();
        assert_eq!(
            story.count(&CallState::IntentCommitted) + story.count(&CallState::RecordingIntent),
            0
        );
        // The probe's beginning is noted before it is sent.
        story.pass(INTERVAL);
        assert_eq!(story.count(&CallState::RecordingIntent), 1);
        story.check_calls(&[]);
        let under_way = story.count(&CallState::InFlight);
        story.committed();
        assert_eq!(story.count(&CallState::InFlight), under_way + 1);
    }
}

/// Story: with nothing but an order of which nobody knows, the look-up is the probe; it is not given up for an outage.
#[test]
fn a_look_up_probes_when_there_is_no_call_for_it_and_is_not_given_up_meanwhile() {
    let mut story = Story::with_flow_control(Policy::Verify, pace(), 1);
    story.committed();
    story.answer(0, 500);
    story.now += verify().api_processing_max;
    story.waited(&[0]);
    story.check_calls(&["look up 0"]);
    story
        .answer_look_up(0, 503)
        .check_calls(&["outage, 2 failed", "wait 0 LookUp"]);
    for failed in 3..50 {
        story.waited(&[0]);
        story.check_calls(&[]);
        story
            .pass_to_probe(Duration::from_secs(1_000))
            .check_calls(&["look up 0"]);
        let outage = format!("outage, {failed} failed");
        story
            .answer_look_up(0, 503)
            .check_calls(&[&outage, "wait 0 LookUp"]);
    }
    story.waited(&[0]);
    story.pass_to_probe(INTERVAL).check_calls(&["look up 0"]);
    story
        .answer_look_up(0, 200)
        .check_calls(&["outage is over", "publish 0"]);
}

#[test]
fn requests_begin_at_their_rate_and_the_time_of_the_next_is_told() {
    let rate = RateSettings {
        requests: 4,
        per: Duration::from_secs(1),
    };
    let mut story = Story::with_flow_control(
        Policy::Retry,
        FlowControlSettings {
            rate: Some(rate),
            ..pace()
        },
        4,
    );
    let began = story.now;
    for offset in 0..4 {
        let sent = story
            .asked
            .iter()
            .filter(|action| matches!(action, Action::Send { .. }))
            .count();
        assert_eq!(sent, 1, "{offset}: {:?}", story.asked);
        assert_eq!(
            story.now - began,
            250 * MS * u32::try_from(offset).expect("small")
        );
        story.answer(offset, 201);
        story.committed();
        if offset < 3 {
            // Nothing else is waited for: commits are answered at once here.
            let mut at = story.delivery.wake_at(story.now).expect("a time");
            while at < began + 250 * MS * u32::try_from(offset + 1).expect("small") {
                story.now = at.max(story.now);
                story.tell(Event::Tick).committed();
                at = story.delivery.wake_at(story.now).expect("a time");
            }
            story.now = at;
            story.tell(Event::Tick);
        }
    }
}

#[test]
fn under_park_only_what_the_rate_lets_go_soon_is_begun() {
    let rate = RateSettings {
        requests: 1,
        per: Duration::from_secs(1),
    };
    let mut story = Story::with_flow_control(
        Policy::Park,
        FlowControlSettings {
            rate: Some(rate),
            ..pace()
        },
        4,
    );
    for _ in 0..5 {
        story.committed();
    }
    let stages = story.delivery.calls().map(|(_, call)| call.state().0.clone());
    let begun =
        stages.filter(|stage| matches!(stage, CallState::RecordingIntent | CallState::IntentCommitted));
    assert_eq!(
        begun.count(),
        0,
        "one is sent, and the next is not due for a second"
    );
    assert_eq!(story.delivery.requests.count(), 1);
}

#[test]
fn the_limit_of_calls_in_flight_is_found_out_by_trying() {
    let adaptive = FlowControlSettings {
        calls_in_flight_min: Some(1),
        ..pace()
    };
    let mut story = Story::with_flow_control(Policy::Retry, adaptive, 1);
    assert_eq!(story.delivery.gauges().calls_in_flight_limit, 1);
    for offset in 0..12 {
        story.pending(offset + 1, &format!("key-{}", offset + 1));
        story.answer(offset, 201).acknowledge(offset);
    }
    assert_eq!(story.delivery.gauges().calls_in_flight_limit, 2);
}

/// Story: calls wait for proof of ownership when their partition goes. Left in the queue they would take the only place,
/// and no call of the other partition could have its beginning noted.
#[test]
fn calls_that_are_gone_take_no_places() {
    let mut story = Story::under(Policy::Retry);
    let one = FlowControlSettings {
        calls_in_flight_min: Some(1),
        ..pace()
    };
    story.delivery = story.delivery.with_flow_control(one);
    story.assign(loaded(Some(0), ""));
    story.pending(0, "a").pending(1, "b");
    story.tell(Event::Lost(vec![P]));
    story.tell(Event::Committed(CommitResult::Fenced));
    story.policy = Policy::Park;
    assert_eq!(story.delivery.gauges().partitions, 0);
    story.assign(loaded(Some(0), ""));
    story.pending(0, "a").check(&["commit 0"]).check_begun(&[0]);
    story.committed().check(&["permit", "send 0"]);
}
