//! Each fault, as the client sees it and as the API records it.

use std::{io::ErrorKind, time::Duration};

use legacy_api::{Cut, Decision, Fault, Faults, Lookup};

use crate::client::{Api, Seen, payment, receive};
use tokio::io::AsyncWriteExt;

async fn with(faults: Faults) -> Api {
    Api::start(|settings| settings.faults = faults).await
}

/// Checks one fault: what the client sees, what is recorded, and whether the customer is charged.
async fn check(faults: Faults, fault: Fault, status: Option<u16>, cut: Option<Cut>) -> Seen {
    let api = with(faults).await;
    let seen = api.pay("o-1").await;
    match (&seen, status, cut) {
        (Seen::Response { status: seen, .. }, Some(status), None) => assert_eq!(*seen, status),
        (Seen::Reset, None, Some(Cut::Reset)) | (Seen::Closed, None, Some(Cut::Closed)) => {}
        _ => panic!("{fault:?}: {seen:?}, expected status {status:?} or cut {cut:?}"),
    }
    let line = api.line("o-1").await;
    assert_eq!((line.fault, line.answered, line.cut), (Some(fault), status, cut));
    assert_eq!(line.processed, fault.processes());
    assert_eq!(line.decision, fault.processes().then_some(Decision::Charged));
    assert!(line.finished_at >= Some(line.arrived_at));
    let lookup = api.ask("GET", "/payments/o-1", "").await;
    assert_eq!(lookup.status(), if fault.processes() { 200 } else { 404 });
    let stats = api.stats().await;
    assert_eq!((stats.faults[&fault], stats.in_progress), (1, 0));
    seen
}

#[tokio::test]
async fn statuses_before_processing() {
    let faults = Faults {
        retry_after_s: 3,
        ..Faults::default()
    };
    let retry_after = |seen: Seen| match seen {
        Seen::Response { head, .. } => head.lines().any(|line| line == "retry-after: 3"),
        Seen::Reset | Seen::Closed => false,
    };
    let seen = check(
        Faults {
            before_500: 1.0,
            ..faults
        },
        Fault::Before500,
        Some(500),
        None,
    )
    .await;
    assert!(!retry_after(seen));
    let seen = check(
        Faults {
            before_503: 1.0,
            ..faults
        },
        Fault::Before503,
        Some(503),
        None,
    )
    .await;
    assert!(retry_after(seen));
    let seen = check(
        Faults {
            throttle: 1.0,
            ..faults
        },
        Fault::Throttle,
        Some(429),
        None,
    )
    .await;
    assert!(retry_after(seen));
}

#[tokio::test]
async fn statuses_after_processing() {
    let faults = Faults::default();
    check(
        Faults {
            lost_500: 1.0,
            ..faults
        },
        Fault::Lost500,
        Some(500),
        None,
    )
    .await;
    check(
        Faults {
            lost_502: 1.0,
            ..faults
        },
        Fault::Lost502,
        Some(502),
        None,
    )
    .await;
    check(
        Faults {
            lost_504: 1.0,
            ..faults
        },
        Fault::Lost504,
        Some(504),
        None,
    )
    .await;
}

#[tokio::test]
async fn connections_cut_before_and_after_processing() {
    let faults = Faults {
        silence_max: Duration::from_millis(20),
        ..Faults::default()
    };
    check(
        Faults {
            before_reset: 1.0,
            ..faults
        },
        Fault::BeforeReset,
        None,
        Some(Cut::Reset),
    )
    .await;
    check(
        Faults {
            lost_reset: 1.0,
            ..faults
        },
        Fault::LostReset,
        None,
        Some(Cut::Reset),
    )
    .await;
    check(
        Faults {
            lost_close: 1.0,
            ..faults
        },
        Fault::LostClose,
        None,
        Some(Cut::Closed),
    )
    .await;
    // A client that waits longer than the silence lasts.
    check(
        Faults {
            lost_silence: 1.0,
            ..faults
        },
        Fault::LostSilence,
        None,
        Some(Cut::Reset),
    )
    .await;
}

#[tokio::test]
async fn silence_lasts_until_the_client_leaves() {
    let api = with(Faults {
        lost_silence: 1.0,
        ..Faults::default()
    })
    .await;
    let stream = api.send("o-1").await;
    let line = api.line_when("o-1", |line| line.processed).await;
    assert_eq!((line.answered, line.cut, line.finished_at), (None, None, None));
    assert_eq!(api.stats().await.in_progress, 1);
    let unread = stream.try_read(&mut [0; 1]).unwrap_err();
    assert_eq!(unread.kind(), ErrorKind::WouldBlock, "silence, not an end");

    drop(stream);
    let line = api.line_when("o-1", |line| line.finished_at.is_some()).await;
    assert_eq!((line.answered, line.cut), (None, Some(Cut::ClientLeft)));
    let stats = api.stats().await;
    assert_eq!((stats.client_left, stats.in_progress, stats.charges), (1, 0, 1));
}

#[tokio::test]
async fn slow_request_is_processed_even_without_a_client() {
    let slow_for = Duration::from_secs(2);
    let api = with(Faults {
        slow: 1.0,
        slow_for,
        ..Faults::default()
    })
    .await;
    let stream = api.send("o-1").await;
    let line = api.line_when("o-1", |_| true).await;
    assert_eq!((line.slow, line.processed, line.fault), (true, false, None));
    assert_eq!(api.ask("GET", "/payments/o-1", "").await.status(), 404);

    drop(stream);
    let line = api.line_when("o-1", |line| line.finished_at.is_some()).await;
    assert_eq!((line.processed, line.cut), (false, Some(Cut::ClientLeft)));
    assert_eq!(api.stats().await.in_progress, 1, "it is still in progress");
    let line = api.line_when("o-1", |line| line.processed).await;
    assert!(line.processed_at >= line.finished_at && line.processed_at >= Some(line.arrived_at + 1900));
    assert_eq!(api.get::<Lookup>("/payments/o-1").await.charges, 1);
    assert_eq!(api.stats().await.in_progress, 0);
}

#[tokio::test]
async fn latency_applies_to_every_response() {
    let api = with(Faults {
        latency: Duration::from_millis(100),
        ..Faults::default()
    })
    .await;
    assert_eq!(api.pay("o-1").await.status(), 201);
    let line = api.line("o-1").await;
    assert!(line.finished_at >= Some(line.arrived_at + 99), "{line:?}");
}

#[tokio::test]
async fn rejected_order_is_rejected_each_time() {
    let api = with(Faults {
        reject: 1.0,
        ..Faults::default()
    })
    .await;
    for _ in 0..2 {
        let seen = api.pay("o-1").await;
        assert_eq!(seen.status(), 422);
        assert!(
            seen.body()
                .contains(r#""reason":"the customer's account cannot be charged""#),
            "{seen:?}"
        );
    }
    assert_eq!(api.ask("GET", "/payments/o-1", "").await.status(), 404);
    let stats = api.stats().await;
    assert_eq!((stats.rejected, stats.charges, stats.requests), (2, 0, 2));
}

#[tokio::test]
async fn faults_can_be_changed_at_run_time() {
    let api = with(Faults {
        seed: 9,
        ..Faults::default()
    })
    .await;
    assert_eq!(api.pay("o-1").await.status(), 201);
    let seen = api
        .ask("PUT", "/control/faults", r#"{"lost_502":1.0,"latency":"5ms"}"#)
        .await;
    assert_eq!(seen.status(), 200);
    let expected = Faults {
        seed: 9,
        lost_502: 1.0,
        latency: Duration::from_millis(5),
        ..Faults::default()
    };
    assert_eq!(api.get::<Faults>("/control/faults").await, expected);
    assert_eq!(api.pay("o-2").await.status(), 502);

    for wrong in [
        r#"{"lost_502":1.5}"#,
        r#"{"lost_501":0.5}"#,
        r#"{"lost_500":0.5}"#,
        r#"{"latency":5}"#,
    ] {
        let seen = api.ask("PUT", "/control/faults", wrong).await;
        assert_eq!(seen.status(), 400, "{wrong}");
        assert!(seen.body().contains("nothing was changed"), "{seen:?}");
    }
    assert_eq!(api.get::<Faults>("/control/faults").await, expected);
}

#[tokio::test]
async fn same_seed_fails_same_requests_in_any_order() {
    let faults = Faults {
        seed: 42,
        before_500: 0.2,
        before_503: 0.1,
        lost_502: 0.2,
        lost_reset: 0.1,
        lost_close: 0.1,
        reject: 0.1,
        ..Faults::default()
    };
    let mut outcomes = Vec::new();
    for backwards in [false, true] {
        let api = with(faults).await;
        let mut orders: Vec<u32> = (0..40).flat_map(|n| [n, n, n]).collect();
        if backwards {
            orders.reverse();
            orders.sort_by_key(|n| (n * 7) % 5);
        }
        for n in orders {
            api.pay(&format!("o-{n}")).await;
        }
        let mut outcome: Vec<_> = api
            .lines::<legacy_api::RequestLine>("/requests")
            .await
            .into_iter()
            .map(|line| {
                (
                    line.order_id,
                    line.nth,
                    line.fault,
                    line.decision,
                    line.answered,
                    line.cut,
                )
            })
            .collect();
        outcome.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        outcomes.push(outcome);
    }
    assert_eq!(outcomes[0], outcomes[1]);
    assert!(outcomes[0].iter().any(|request| request.2.is_some()) && outcomes[0].len() == 120);
}

/// A reset on a connection that has served a request, like a pooled connection of a real client.
#[tokio::test]
async fn reused_connection_is_reset_too() {
    let api = with(Faults::default()).await;
    let mut stream = api.send("o-1").await;
    assert_eq!(receive(&mut stream).await.status(), 201);
    api.ask("PUT", "/control/faults", r#"{"lost_reset":1.0}"#).await;
    stream.write_all(payment("o-2", "").as_bytes()).await.unwrap();
    assert_eq!(receive(&mut stream).await, Seen::Reset);
    assert_eq!(api.line("o-2").await.decision, Some(Decision::Charged));
}
