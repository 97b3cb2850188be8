//! A TCP proxy on loopback, with a rule that decides what passes and when.
//!
//! ```text
//! client ──▶ proxy ── rule ──▶ server
//!        ◀──────────  rule ──
//! ```
//!
//! Connections stay open while a rule holds bytes back: the client sees a slow server, not a missing one.

pub mod delayed_end_txn;
pub mod delayed_join_group;
pub mod delayed_offset_commit;
mod gate;
mod hold_requests;
pub mod lost_end_txn;
mod wire;
pub mod withheld_find_coordinator;
pub mod withheld_list_offsets;

pub use hold_requests::HoldRequests;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// Maximum number of open connections; more than a few brokers and clients make. Each costs two threads.
const CONNECTIONS_MAX: usize = 64;
/// Interval at which an idle connection checks that the proxy still runs.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Timeout of a connection to the server, which on loopback accepts at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Decides what passes a proxy, and when. Connections are numbered.
pub trait Rule: Send + Sync + 'static {
    /// Forwards a client's bytes, now or later. May block the connection.
    ///
    /// # Errors
    /// The connection is to be closed.
    fn to_server(&self, connection: u64, bytes: &[u8], sockets: Sockets<'_>) -> std::io::Result<()>;

    /// Forwards the server's bytes; by default at once.
    ///
    /// # Errors
    /// The connection is to be closed.
    fn to_client(&self, _connection: u64, bytes: &[u8], mut client: &TcpStream) -> std::io::Result<()> {
        client.write_all(bytes)
    }

    /// Ends every wait of this rule, because the proxy closes.
    fn close(&self);
}

/// Both sockets of a proxied connection.
#[derive(Clone, Copy)]
pub struct Sockets<'a> {
    /// Socket to the client.
    pub client: &'a TcpStream,
    /// Socket to the server.
    pub server: &'a TcpStream,
}

/// A proxy in front of one server; dropping it closes all connections.
pub struct Proxy<R: Rule = HoldRequests> {
    address: SocketAddr,
    rule: Arc<R>,
    closed: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl<R: Rule> Proxy<R> {
    /// Starts a proxy on a free port. It connects to the server for each client, so the server may start
    /// later.
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

    /// Returns the port that clients connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the bootstrap address through this proxy, `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns the rule, to change what passes.
    #[must_use]
    pub fn rule(&self) -> &R {
        &self.rule
    }
}

impl<R: Rule> Drop for Proxy<R> {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        self.rule.close();
        // The acceptor blocks in accept until somebody connects. If this fails, it has ended already.
        let _woken = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            // A panic of it has been printed, and a drop during a panic must not panic again.
            let _ended = acceptor.join();
        }
    }
}

fn accept<R: Rule>(listener: &TcpListener, server: SocketAddr, rule: &Arc<R>, closed: &Arc<AtomicBool>) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    for (number, client) in (0..).zip(listener.incoming()) {
        if closed.load(Ordering::Acquire) {
            break;
        }
        connections.retain(|connection| !connection.is_finished());
        // A client over the limit is disconnected at once, as by a server that does not run.
        if let Ok(client) = client
            && connections.len() < CONNECTIONS_MAX
        {
            let (rule, closed) = (Arc::clone(rule), Arc::clone(closed));
            connections.push(std::thread::spawn(move || {
                // An error closes this connection, which is what the client then sees.
                let _ended = connect(&client, server, number, rule.as_ref(), &closed);
            }));
        }
    }
    for connection in connections {
        // Threads of a proxy must not outlive it. A panic of one has been printed.
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
    let server = TcpStream::connect_timeout(&server, CONNECT_TIMEOUT)?;
    for stream in [client, &server] {
        // Small requests must not wait for each other: timings are part of the scenarios.
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(POLL_INTERVAL))?;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            forward(client, &server, closed, |bytes| {
                let server = &server;
                rule.to_server(number, bytes, Sockets { client, server })
            });
        });
        forward(&server, client, closed, |bytes| {
            rule.to_client(number, bytes, client)
        });
    });
    Ok(())
}

/// Forwards bytes in one direction until either side closes, then closes the other.
fn forward(
    mut from: &TcpStream,
    to: &TcpStream,
    closed: &AtomicBool,
    forward_bytes: impl Fn(&[u8]) -> std::io::Result<()>,
) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if forward_bytes(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                // The read timeout exists for this check alone; a quiet connection is no error.
                if closed.load(Ordering::Acquire) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    // The sockets may be closed already; then there is nothing left to shut down.
    let _closed = to.shutdown(Shutdown::Write);
    let _closed = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_on_either_side_is_forwarded() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let proxy = Proxy::start(listener.local_addr().expect("its port")).expect("a proxy");
        let connect = || {
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).expect("connected");
            (client, listener.accept().expect("connected").0)
        };
        let (client, mut server) = connect();
        drop(client);
        assert_eq!(server.read(&mut [0]).expect("closed"), 0);
        let (mut client, server) = connect();
        drop(server);
        assert_eq!(client.read(&mut [0]).expect("closed"), 0);
        let (mut client, _server) = connect();
        drop(proxy);
        assert_eq!(client.read(&mut [0]).expect("closed"), 0);
    }
}
