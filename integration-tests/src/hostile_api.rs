//! An API that answers as no server should: with what breaks parsers, fills memory, or never ends.
//!
//! A plain socket, below any HTTP library, which would not write such answers. It reads whole requests, and answers each
//! by the first segment of its path; the second one names the order.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait::pause;

/// Answers by the name of their case.
type Answers = BTreeMap<&'static str, Answer>;

/// Answer to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// These bytes; the connection stays open for the next request.
    KeepOpen(Vec<u8>),
    /// These bytes, and then the end of the connection.
    Close(Vec<u8>),
    /// Bytes once, and then others until the client has closed the connection, with a pause before each.
    Endless {
        /// Bytes that come once.
        start: Vec<u8>,
        /// Bytes that are repeated.
        piece: Vec<u8>,
        /// Pause before each repetition.
        pause: Duration,
    },
    /// The first answer to an order's first request, the second to all later ones of the order.
    First(Box<Answer>, Box<Answer>),
}

/// Running API. Its threads end with the connections.
pub struct HostileApi {
    /// Base URL, `http://host:port`.
    pub url: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    answers: Answers,
    /// Number of requests by order.
    requests: Mutex<BTreeMap<String, usize>>,
    endless: AtomicUsize,
    bytes_written: AtomicUsize,
}

impl HostileApi {
    /// Starts an API with these answers.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(answers: Answers) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening for the callers")?;
        let address: SocketAddr = listener.local_addr().context("listening for the callers")?;
        let state = Arc::new(State {
            answers,
            ..State::default()
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // Whatever ends a connection is part of the answer, or the client's choice.
                std::thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        Ok(Self {
            url: format!("http://{address}"),
            state,
        })
    }

    /// Returns the number of requests of each order.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<String, usize> {
        self.state.requests().clone()
    }

    /// Returns the number of answers that do not end and are being written now.
    #[must_use]
    pub fn endless_answers(&self) -> usize {
        self.state.endless.load(Ordering::SeqCst)
    }

    /// Returns the number of bytes that all answers have had so far.
    #[must_use]
    pub fn bytes_written(&self) -> usize {
        self.state.bytes_written.load(Ordering::SeqCst)
    }
}

impl State {
    fn requests(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(stream: TcpStream, state: &State) -> Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(path) = read_request(&mut reader)? {
        let mut segments = path.split('/').skip(1);
        let (case, order) = (
            segments.next().unwrap_or_default(),
            segments.next().unwrap_or_default(),
        );
        let count = {
            let mut requests = state.requests();
            let count = requests.entry(order.to_owned()).or_default();
            *count += 1;
            *count
        };
        let answer = state
            .answers
            .get(case)
            .with_context(|| format!("no answer for {path}"))?;
        if !write(&mut writer, answer, count, state)? {
            break;
        }
    }
    Ok(())
}

/// Writes an answer. Returns `true` if the connection stays open.
fn write(stream: &mut TcpStream, answer: &Answer, count: usize, state: &State) -> Result<bool> {
    let mut write = |bytes: &[u8]| -> Result<()> {
        stream.write_all(bytes)?;
        state.bytes_written.fetch_add(bytes.len(), Ordering::SeqCst);
        Ok(())
    };
    match answer {
        Answer::KeepOpen(bytes) => write(bytes).map(|()| true),
        Answer::Close(bytes) => write(bytes).map(|()| false),
        Answer::First(first, later) => {
            let answer = if count == 1 { first } else { later };
            self::write(stream, answer, count, state)
        }
        Answer::Endless {
            start,
            piece,
            pause: before,
        } => {
            state.endless.fetch_add(1, Ordering::SeqCst);
            let result = write(start).and_then(|()| {
                loop {
                    pause(*before)?;
                    write(piece)?;
                }
            });
            state.endless.fetch_sub(1, Ordering::SeqCst);
            result
        }
    }
}

/// Reads a request with its body; returns its path, or `None` at the end of the connection.
fn read_request(reader: &mut BufReader<TcpStream>) -> Result<Option<String>> {
    let (mut path, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse()?;
        }
        if line.is_empty() {
            break;
        }
        path = path.or_else(|| line.split(' ').nth(1).map(str::to_owned));
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    path.context("a request without a path").map(Some)
}
