//! The default rule: holds all requests back on demand, and forwards them later in their order.

use std::io::{ErrorKind, Result, Write};

use super::gate::Gate;
use super::{Proxy, Rule, Sockets};

/// Holds requests between [`Proxy::hold`] and [`Proxy::release`]; responses always pass.
#[derive(Default)]
pub struct HoldRequests {
    gate: Gate<State>,
}

#[derive(Default)]
struct State {
    holding: bool,
    withheld_bytes: usize,
}

impl Proxy {
    /// Starts a proxy that can hold requests back.
    ///
    /// # Errors
    /// There is no free port, or no thread left.
    pub fn start(server: std::net::SocketAddr) -> anyhow::Result<Self> {
        Self::with_rule(server, HoldRequests::default())
    }

    /// Holds requests from now on. Responses to earlier requests still pass.
    pub fn hold(&self) {
        self.rule().gate.update(|state| state.holding = true);
    }

    /// Forwards the held requests in their order, and all that follow.
    pub fn release(&self) {
        self.rule().gate.update(|state| state.holding = false);
    }

    /// Number of bytes held. At most one read per connection; the rest waits in the client's socket.
    #[must_use]
    pub fn withheld_bytes(&self) -> usize {
        self.rule().gate.lock().withheld_bytes
    }
}

impl Rule for HoldRequests {
    fn to_server(&self, _connection: u64, bytes: &[u8], mut sockets: Sockets<'_>) -> Result<()> {
        // One lock from here to the decision: bytes that need not wait are never counted as withheld.
        let mut state = self.gate.lock();
        state.withheld_bytes += bytes.len();
        let mut state = self.gate.wait_while(state, |state| state.holding);
        state.withheld_bytes -= bytes.len();
        // The proxy closes: a held request must not slip through to a broker that outlives the proxy.
        if state.is_closed() {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        drop(state);
        sockets.server.write_all(bytes)
    }

    fn close(&self) {
        self.gate.close();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::ops::ControlFlow;
    use std::time::Duration;

    use super::*;
    use crate::wait::await_until;

    const LIMIT: Duration = Duration::from_secs(10);

    fn read_byte(mut from: &TcpStream) -> u8 {
        let mut byte = [0];
        from.read_exact(&mut byte).expect("a byte arrives");
        byte[0]
    }

    #[test]
    fn requests_are_held_until_the_release() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let proxy = Proxy::start(listener.local_addr().expect("its port")).expect("a proxy");
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).expect("connected");
        let (mut server, _) = listener.accept().expect("connected");
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        }
        client.write_all(b"a").expect("written");
        assert_eq!(read_byte(&server), b'a');

        proxy.hold();
        client.write_all(b"b").expect("written");
        await_until("the byte is held", LIMIT, || {
            Ok(match proxy.withheld_bytes() {
                1 => ControlFlow::Break(()),
                count => ControlFlow::Continue(format!("{count} bytes")),
            })
        })
        .expect("withheld");
        server.write_all(b"c").expect("written");
        assert_eq!(read_byte(&client), b'c', "responses pass");
        server.set_nonblocking(true).expect("non-blocking");
        assert_eq!(
            server.read(&mut [0]).expect_err("nothing arrived").kind(),
            ErrorKind::WouldBlock
        );
        server.set_nonblocking(false).expect("blocking");

        client.write_all(b"d").expect("written");
        proxy.release();
        assert_eq!((read_byte(&server), read_byte(&server)), (b'b', b'd'));
        assert_eq!(proxy.withheld_bytes(), 0);
    }
}
