//! A TCP proxy on loopback that can withhold what clients say to a server.
//!
//! ```text
//! client ──▶ proxy ── held? ──▶ server
//!        ◀─────────────────────
//! ```
//!
//! Connections are taken and stay open meanwhile, so that a client sees a server that is slow, not one
//! that is gone.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
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

/// A proxy in front of one server; it ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    gate: Arc<Gate>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: bool,
    closed: bool,
    withheld_bytes: usize,
}

impl Proxy {
    /// Listens on a free port, and connects to the server anew for each client, so it need not run yet.
    ///
    /// # Errors
    /// There is no free port, or no thread left.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening for a proxy")?;
        let address = listener.local_addr().context("asking for the proxy's port")?;
        let gate = Arc::new(Gate::default());
        let acceptor = std::thread::Builder::new()
            .name("proxy".into())
            .spawn({
                let gate = Arc::clone(&gate);
                move || accept(&listener, server, &gate)
            })
            .context("starting a proxy")?;
        Ok(Self {
            address,
            gate,
            acceptor: Some(acceptor),
        })
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What clients say from now on is withheld from the server. Its answers to what they said before go on.
    pub fn hold(&self) {
        self.gate.lock().held = true;
    }

    /// Hands on what was withheld, in its order, and all that follows.
    pub fn release(&self) {
        self.gate.lock().held = false;
        self.gate.changed.notify_all();
    }

    /// How many bytes stand at the gate. A client's next ones wait in its own connection.
    #[must_use]
    pub fn withheld_bytes(&self) -> usize {
        self.gate.lock().withheld_bytes
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gate.lock().closed = true;
        self.gate.changed.notify_all();
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

fn accept(listener: &TcpListener, server: SocketAddr, gate: &Arc<Gate>) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    for client in listener.incoming() {
        if gate.lock().closed {
            break;
        }
        connections.retain(|connection| !connection.is_finished());
        // A client that cannot be served is closed at once, as by a server that does not run.
        if let Ok(client) = client
            && connections.len() < CONNECTIONS_MAX
        {
            let gate = Arc::clone(gate);
            connections.push(std::thread::spawn(move || {
                let _ended = connect(&client, server, &gate);
            }));
        }
    }
    for connection in connections {
        let _ended = connection.join();
    }
}

fn connect(client: &TcpStream, server: SocketAddr, gate: &Gate) -> std::io::Result<()> {
    let server = TcpStream::connect_timeout(&server, CONNECT_MAX)?;
    for stream in [client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK_EVERY))?;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| forward(client, &server, gate, |bytes| gate.pass(bytes)));
        forward(&server, client, gate, |_| true);
    });
    Ok(())
}

/// Until one side ends; the other is told.
fn forward(mut from: &TcpStream, mut to: &TcpStream, gate: &Gate, may_pass: impl Fn(usize) -> bool) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if !may_pass(count) || to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                if gate.lock().closed {
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
