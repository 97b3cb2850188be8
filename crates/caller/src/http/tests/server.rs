//! A server that misbehaves, on a real socket.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Behaviour of the server on each connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behaviour {
    /// Closes it before reading anything.
    ResetsUnread,
    /// Writes this before it reads anything, and closes.
    SaysBeforehand(&'static str),
    /// Reads a request, then closes without a reset.
    ClosesWithoutResponse,
    /// Reads a request, then resets.
    ResetsWithoutResponse,
    /// Reads a request, and never responds.
    Hangs,
    /// Reads nothing, so that a request fills all buffers on its way.
    ReadsNothing,
    /// Reads a request, writes this, and closes.
    Responds(&'static str),
    /// Responds to each request with this, until the client closes.
    RespondsToAll(&'static str),
    /// Responds to one request, waits for `close`, and closes the idle connection.
    RespondsOnceThenCloses(&'static str),
    /// Responds to one request, reads another from the same connection, and closes it.
    RespondsOnceThenReadsAndCloses(&'static str),
    /// Responds to one request, reads another from the same connection, and resets it.
    RespondsOnceThenReadsAndResets(&'static str),
}

pub(super) struct Server {
    pub(super) addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) close: Arc<Notify>,
    pub(super) closed: Arc<Notify>,
}

pub(super) const OK: &str = "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}";

impl Server {
    pub(super) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Self {
            addr: listener.local_addr().expect("an address"),
            heads: Arc::default(),
            connections: Arc::default(),
            close: Arc::default(),
            closed: Arc::default(),
        };
        let (heads, connections) = (Arc::clone(&server.heads), Arc::clone(&server.connections));
        let (close, closed) = (Arc::clone(&server.close), Arc::clone(&server.closed));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(
                    stream,
                    behaviour,
                    Arc::clone(&heads),
                    Arc::clone(&close),
                    Arc::clone(&closed),
                ));
            }
        });
        server
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/payments", self.addr)
    }

    /// Returns the requests received so far, each with head and body.
    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("a list").clone()
    }

    pub(super) fn requests(&self) -> usize {
        self.heads().len()
    }
}

async fn serve(
    mut stream: TcpStream,
    behaviour: Behaviour,
    heads: Arc<Mutex<Vec<String>>>,
    close: Arc<Notify>,
    closed: Arc<Notify>,
) {
    let mut has_responded = false;
    loop {
        if let Behaviour::ResetsUnread = behaviour {
            // Unread bytes and a linger of zero: the client sees a reset.
            stream.set_zero_linger().expect("a linger of zero");
            return;
        }
        if let Behaviour::SaysBeforehand(text) = behaviour {
            stream.write_all(text.as_bytes()).await.expect("written");
            // Read what the client sent: closing with unread bytes resets the connection, and the reset
            // overtakes the text.
            let mut hello = [0; 4096];
            let _read = stream.read(&mut hello).await;
            return;
        }
        if let Behaviour::ReadsNothing = behaviour {
            return std::future::pending().await;
        }
        let Some(request) = read_request(&mut stream).await else {
            return;
        };
        heads.lock().expect("a list").push(request);
        match behaviour {
            Behaviour::ResetsUnread
            | Behaviour::SaysBeforehand(_)
            | Behaviour::ReadsNothing
            | Behaviour::ClosesWithoutResponse => return,
            Behaviour::ResetsWithoutResponse => return stream.set_zero_linger().expect("a linger of zero"),
            Behaviour::RespondsOnceThenReadsAndCloses(_) if has_responded => return,
            Behaviour::RespondsOnceThenReadsAndResets(_) if has_responded => {
                return stream.set_zero_linger().expect("a linger of zero");
            }
            Behaviour::RespondsOnceThenReadsAndCloses(text)
            | Behaviour::RespondsOnceThenReadsAndResets(text) => {
                stream.write_all(text.as_bytes()).await.expect("written");
            }
            Behaviour::Hangs => std::future::pending::<()>().await,
            Behaviour::Responds(text) => {
                stream.write_all(text.as_bytes()).await.expect("written");
                return;
            }
            Behaviour::RespondsToAll(text) => stream.write_all(text.as_bytes()).await.expect("written"),
            Behaviour::RespondsOnceThenCloses(text) => {
                stream.write_all(text.as_bytes()).await.expect("written");
                close.notified().await;
                drop(stream);
                closed.notify_one();
                return;
            }
        }
        has_responded = true;
    }
}

/// Reads a head and its body; `None` at the end of the connection.
pub(super) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            // A look-up has no body.
            let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
            if body.len() >= length {
                return Some(text);
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&more[..n]),
        }
    }
}
