//! A TCP proxy on loopback, with a rule for what passes; the usual rule can withhold what clients say.
//!
//! ```text
//! client ──▶ proxy ── held? ──▶ server
//!        ◀─────────────────────
//! ```
//!
//! Connections are taken and stay open meanwhile, so that a client sees a server that is slow, not one
//! that is gone.

pub mod delayed_end_txn;
pub mod delayed_join_group;
pub mod lost_end_txn;
mod wire;
pub mod withheld_find_coordinator;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// More connections than a few brokers make; each costs two threads.
const CONNECTIONS_MAX: usize = 64;
/// How late a connection may see that the proxy has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the server may take to accept; on loopback it does so at once or not at all.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// What passes a proxy, and when. A connection has a number of its own.
pub trait Rule: Send + Sync + 'static {
    /// Hands on what a client says, now or later; may wait.
    ///
    /// # Errors
    /// The connection is to be closed.
    fn to_server(&self, connection: u64, said: &[u8], ends: Ends<'_>) -> std::io::Result<()>;

    /// Hands on what the server answers.
    ///
    /// # Errors
    /// The connection is to be closed.
    fn to_client(&self, connection: u64, said: &[u8], client: &TcpStream) -> std::io::Result<()>;

    /// The proxy ends: whatever waits must go on.
    fn close(&self);
}

/// Both ends of a connection.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    /// Of which the proxy is the server.
    pub client: &'a TcpStream,
    /// Of which the proxy is the client.
    pub server: &'a TcpStream,
}

/// A proxy in front of one server; it ends when it is dropped.
pub struct Proxy<R: Rule = Gate> {
    address: SocketAddr,
    rule: Arc<R>,
    closed: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

/// The usual rule: what clients say can be withheld, and handed on later.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: bool,
    closed: bool,
    withheld_bytes: usize,
}

impl<R: Rule> Proxy<R> {
    /// Listens on a free port, and connects to the server anew for each client, so it need not run yet.
    ///
    /// # Errors
    /// There is no free port, or no thread left.
    pub fn with_rule(server: SocketAddr, rule: R) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening for a proxy")?;
        let address = listener.local_addr().context("asking for the proxy's port")?;
        let (rule, closed) = (Arc::new(rule), Arc::new(AtomicBool::new(false)));
        let acceptor = std::thread::Builder::new()
            .name("proxy".into())
            .spawn({
                let (rule, closed) = (Arc::clone(&rule), Arc::clone(&closed));
                move || accept(&listener, server, &rule, &closed)
            })
            .context("starting a proxy")?;
        Ok(Self {
            address,
            rule,
            closed,
            acceptor: Some(acceptor),
        })
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The bootstrap address through this proxy, `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Its rule.
    #[must_use]
    pub fn rule(&self) -> &R {
        &self.rule
    }
}

impl Proxy {
    /// A proxy that can withhold what clients say.
    ///
    /// # Errors
    /// There is no free port, or no thread left.
    pub fn start(server: SocketAddr) -> Result<Self> {
        Self::with_rule(server, Gate::default())
    }

    /// What clients say from now on is withheld from the server. Its answers to what they said before go on.
    pub fn hold(&self) {
        self.rule.lock().held = true;
    }

    /// Hands on what was withheld, in its order, and all that follows.
    pub fn release(&self) {
        self.rule.lock().held = false;
        self.rule.changed.notify_all();
    }

    /// How many bytes stand at the gate. A client's next ones wait in its own connection.
    #[must_use]
    pub fn withheld_bytes(&self) -> usize {
        self.rule.lock().withheld_bytes
    }
}

impl<R: Rule> Drop for Proxy<R> {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        self.rule.close();
        // The acceptor looks only when somebody connects.
        let _woken = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ended = acceptor.join();
        }
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits with so many bytes until they may pass. `false` if they never will.
    fn pass(&self, bytes: usize) -> bool {
        let mut state = self.lock();
        state.withheld_bytes += bytes;
        while state.held && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.withheld_bytes -= bytes;
        !state.closed
    }
}

impl Rule for Gate {
    fn to_server(&self, _connection: u64, said: &[u8], mut ends: Ends<'_>) -> std::io::Result<()> {
        if self.pass(said.len()) {
            ends.server.write_all(said)
        } else {
            Err(ErrorKind::ConnectionAborted.into())
        }
    }

    fn to_client(&self, _connection: u64, said: &[u8], mut client: &TcpStream) -> std::io::Result<()> {
        client.write_all(said)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

fn accept<R: Rule>(listener: &TcpListener, server: SocketAddr, rule: &Arc<R>, closed: &Arc<AtomicBool>) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    for (number, client) in (0..).zip(listener.incoming()) {
        if closed.load(Ordering::Acquire) {
            break;
        }
        connections.retain(|connection| !connection.is_finished());
        // A client that cannot be served is closed at once, as by a server that does not run.
        if let Ok(client) = client
            && connections.len() < CONNECTIONS_MAX
        {
            let (rule, closed) = (Arc::clone(rule), Arc::clone(closed));
            connections.push(std::thread::spawn(move || {
                let _ended = connect(&client, server, number, rule.as_ref(), &closed);
            }));
        }
    }
    for connection in connections {
        let _ended = connection.join();
    }
}

fn connect<R: Rule>(
    client: &TcpStream,
    server: SocketAddr,
    number: u64,
    rule: &R,
    closed: &AtomicBool,
) -> std::io::Result<()> {
    let server = TcpStream::connect_timeout(&server, CONNECT_MAX)?;
    for stream in [client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK_EVERY))?;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            forward(client, &server, closed, |said| {
                let server = &server;
                rule.to_server(number, said, Ends { client, server })
            });
        });
        forward(&server, client, closed, |said| {
            rule.to_client(number, said, client)
        });
    });
    Ok(())
}

/// Until one side ends; the other is told.
fn forward(
    mut from: &TcpStream,
    to: &TcpStream,
    closed: &AtomicBool,
    hand_on: impl Fn(&[u8]) -> std::io::Result<()>,
) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if hand_on(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                if closed.load(Ordering::Acquire) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    // Both may be gone already.
    let _told = to.shutdown(Shutdown::Write);
    let _deaf = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::wait::await_until;

    const LIMIT: Duration = Duration::from_secs(10);

    fn said(mut to: &TcpStream) -> u8 {
        let mut byte = [0];
        to.read_exact(&mut byte).expect("a byte came");
        byte[0]
    }

    #[test]
    fn what_clients_say_is_withheld_until_the_release() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let proxy = Proxy::start(listener.local_addr().expect("its port")).expect("a proxy");
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).expect("connected");
        let (mut server, _) = listener.accept().expect("connected");
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        }
        client.write_all(b"a").expect("written");
        assert_eq!(said(&server), b'a');

        proxy.hold();
        client.write_all(b"b").expect("written");
        await_until("the byte stands at the gate", LIMIT, || {
            Ok(match proxy.withheld_bytes() {
                1 => ControlFlow::Break(()),
                count => ControlFlow::Continue(format!("{count} bytes")),
            })
        })
        .expect("withheld");
        server.write_all(b"c").expect("written");
        assert_eq!(said(&client), b'c', "answers go on");
        server.set_nonblocking(true).expect("looks only");
        assert_eq!(
            server.read(&mut [0]).expect_err("nothing came").kind(),
            ErrorKind::WouldBlock
        );
        server.set_nonblocking(false).expect("waits");

        client.write_all(b"d").expect("written");
        proxy.release();
        assert_eq!((said(&server), said(&server)), (b'b', b'd'));
        assert_eq!(proxy.withheld_bytes(), 0);
    }

    #[test]
    fn the_end_of_either_side_is_handed_on() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let proxy = Proxy::start(listener.local_addr().expect("its port")).expect("a proxy");
        let connect = || {
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).expect("connected");
            (client, listener.accept().expect("connected").0)
        };
        let (client, mut server) = connect();
        drop(client);
        assert_eq!(server.read(&mut [0]).expect("told"), 0);
        let (mut client, server) = connect();
        drop(server);
        assert_eq!(client.read(&mut [0]).expect("told"), 0);
        let (mut client, _server) = connect();
        drop(proxy);
        assert_eq!(client.read(&mut [0]).expect("told"), 0);
    }
}
