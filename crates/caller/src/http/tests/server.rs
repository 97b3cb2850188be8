//! A server that misbehaves, on a real socket.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What the server does with a connection once it has read a request from it, or before.
#[derive(Clone, Copy, Debug)]
pub(super) enum Does {
    /// Closes it before reading anything.
    ResetsUnread,
    /// Says this before it reads anything, and closes.
    SaysBeforehand(&'static str),
    /// Reads a request, then closes in an orderly way.
    ClosesUnanswered,
    /// Reads a request, then resets.
    ResetsUnanswered,
    /// Reads a request, and is silent.
    Hangs,
    /// Reads a request, writes this, and closes.
    Answers(&'static str),
    /// Reads requests and answers each with this, as long as the client likes.
    AnswersAll(&'static str),
    /// Answers one request, waits to be told, and closes the idle connection.
    AnswersOneThenCloses(&'static str),
    /// Answers one request, reads another from the same connection, and closes it.
    AnswersOneReadsAnotherAndCloses(&'static str),
    /// Answers one request, reads another from the same connection, and resets it.
    AnswersOneReadsAnotherAndResets(&'static str),
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
    pub(super) async fn start(does: Does) -> Self {
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
                    does,
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

    /// The requests that it has read, each with its head and its body.
    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("a list").clone()
    }

    pub(super) fn requests(&self) -> usize {
        self.heads().len()
    }
}

async fn serve(
    mut stream: TcpStream,
    does: Does,
    heads: Arc<Mutex<Vec<String>>>,
    close: Arc<Notify>,
    closed: Arc<Notify>,
) {
    let mut answered = false;
    loop {
        if let Does::ResetsUnread = does {
            // Unread bytes and a linger of zero: the client sees a reset.
            stream.set_zero_linger().expect("a linger of zero");
            return;
        }
        if let Does::SaysBeforehand(text) = does {
            stream.write_all(text.as_bytes()).await.expect("written");
            // What the client said is read, so that the close is no reset that overtakes the text.
            let mut hello = [0; 4096];
            let _read = stream.read(&mut hello).await;
            return;
        }
        let Some(request) = read_request(&mut stream).await else {
            return;
        };
        heads.lock().expect("a list").push(request);
        match does {
            Does::ResetsUnread | Does::SaysBeforehand(_) | Does::ClosesUnanswered => return,
            Does::ResetsUnanswered => return stream.set_zero_linger().expect("a linger of zero"),
            Does::AnswersOneReadsAnotherAndCloses(_) if answered => return,
            Does::AnswersOneReadsAnotherAndResets(_) if answered => {
                return stream.set_zero_linger().expect("a linger of zero");
            }
            Does::AnswersOneReadsAnotherAndCloses(answer) | Does::AnswersOneReadsAnotherAndResets(answer) => {
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
            Does::Hangs => std::future::pending::<()>().await,
            Does::Answers(answer) => {
                stream.write_all(answer.as_bytes()).await.expect("written");
                return;
            }
            Does::AnswersAll(answer) => stream.write_all(answer.as_bytes()).await.expect("written"),
            Does::AnswersOneThenCloses(answer) => {
                stream.write_all(answer.as_bytes()).await.expect("written");
                close.notified().await;
                drop(stream);
                closed.notify_one();
                return;
            }
        }
        answered = true;
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
            // A question has no body.
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
