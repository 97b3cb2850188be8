//! Outages: the API goes down and comes back on the same port.

use std::{io::ErrorKind, time::Duration};

use legacy_api::{Cut, Faults};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::client::{Api, Seen, receive, request};

async fn refused(api: &Api) -> bool {
    match TcpStream::connect(api.address).await {
        Ok(_) => false,
        Err(error) => {
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
                ),
                "{error}"
            );
            true
        }
    }
}

async fn until_refused(api: &Api) {
    while !refused(api).await {
        tokio::task::yield_now().await;
    }
}

async fn until_back(api: &Api) {
    while refused(api).await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn outage_refuses_and_resets_connections() {
    let faults = Faults {
        lost_silence: 1.0,
        ..Faults::default()
    };
    let api = Api::start(|settings| settings.faults = faults).await;
    let mut busy = api.send("o-1").await;
    api.line_when("o-1", |line| line.processed).await;
    let mut idle = TcpStream::connect(api.address).await.unwrap();
    idle.write_all(request("GET", "/stats", "", "").as_bytes())
        .await
        .unwrap();
    assert_eq!(receive(&mut idle).await.status(), 200);

    assert_eq!(api.ask("POST", "/control/down?for=10m", "").await.status(), 200);
    assert_eq!(receive(&mut busy).await, Seen::Reset);
    assert_eq!(receive(&mut idle).await, Seen::Closed);
    until_refused(&api).await;
    let line = api.line("o-1").await;
    assert_eq!((line.answered, line.cut), (None, Some(Cut::Down)));

    assert_eq!(api.ask("POST", "/control/down?for=0s", "").await.status(), 200);
    until_back(&api).await;
    api.ask("PUT", "/control/faults", r#"{"lost_silence":0.0}"#).await;
    assert_eq!(api.pay("o-2").await.status(), 201);
    assert_eq!(api.stats().await.downs, 1);
}

/// A free port could be given to another program, or to a client as its source port.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn port_stays_reserved_during_an_outage() {
    // No payments first: connections in TIME_WAIT would keep the port in use as well.
    let api = Api::start(|_| {}).await;
    api.ask("POST", "/control/down?for=10m", "").await;
    while api.stats().await.downs == 0 {
        tokio::task::yield_now().await;
    }
    let taken = tokio::net::TcpSocket::new_v4().unwrap().bind(api.address);
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[tokio::test]
async fn outage_ends_by_itself() {
    let api = Api::start(|_| {}).await;
    for n in 1..=3 {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream
            .write_all(request("POST", "/control/down?for=150ms", "", "").as_bytes())
            .await
            .unwrap();
        assert_eq!(receive(&mut stream).await.status(), 200);
        while api.stats().await.downs < n {
            tokio::task::yield_now().await;
        }
        until_back(&api).await;
        assert_eq!(api.pay(&format!("o-{n}")).await.status(), 201);
    }
}

#[tokio::test]
async fn outage_starts_as_the_settings_say() {
    let api = Api::start(|settings| {
        settings.down_after = Some(Duration::from_millis(10));
        settings.down_for = Some(Duration::from_secs(600));
    })
    .await;
    until_refused(&api).await;
    assert_eq!(api.stats().await.downs, 1);
}

#[tokio::test]
async fn slow_request_is_processed_despite_an_outage() {
    let faults = Faults {
        slow: 1.0,
        slow_for: Duration::from_secs(1),
        ..Faults::default()
    };
    let api = Api::start(|settings| settings.faults = faults).await;
    let mut stream = api.send("o-1").await;
    api.line_when("o-1", |_| true).await;
    api.ask("POST", "/control/down?for=10m", "").await;
    assert_eq!(receive(&mut stream).await, Seen::Reset);
    let line = api.line_when("o-1", |line| line.processed).await;
    assert_eq!(line.cut, Some(Cut::Down));
}
