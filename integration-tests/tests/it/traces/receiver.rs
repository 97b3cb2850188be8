//! Stand-ins that listen: an OTLP receiver, and a tap on the connections to the API.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// A span that was received, with the name of its service.
#[derive(Clone, Debug)]
pub(super) struct ReceivedSpan {
    pub(super) service: String,
    pub(super) span: Span,
}

impl ReceivedSpan {
    /// Returns an attribute as text; empty if there is none.
    pub(super) fn attribute(&self, name: &str) -> String {
        text(&self.span.attributes, name)
    }
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == name);
    match value.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

/// A receiver of spans. It refuses connections once it is closed.
pub(super) struct Receiver {
    pub(super) url: String,
    spans: Arc<Mutex<Vec<ReceivedSpan>>>,
    is_closed: Arc<AtomicBool>,
}

impl Receiver {
    /// Starts a receiver that asks for this header, as it stands in a request.
    pub(super) fn start(header: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening for spans")?;
        let url = format!("http://{}", listener.local_addr()?);
        let (spans, is_closed) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let receiver = Self {
            url,
            spans: Arc::clone(&spans),
            is_closed: Arc::clone(&is_closed),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_closed.load(Ordering::Relaxed) {
                    return;
                }
                let (spans, is_closed) = (Arc::clone(&spans), Arc::clone(&is_closed));
                // Ends with its connection.
                std::thread::spawn(move || drop(receive(&stream, header, &spans, &is_closed)));
            }
        });
        Ok(receiver)
    }

    /// Returns the spans that have come.
    pub(super) fn spans(&self) -> Vec<ReceivedSpan> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes away: connections are closed, and new ones are refused.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Wakes the listener, which then ends.
        drop(TcpStream::connect(self.url.trim_start_matches("http://")));
    }
}

fn receive(
    stream: &TcpStream,
    header: &str,
    spans: &Mutex<Vec<ReceivedSpan>>,
    is_closed: &AtomicBool,
) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head
            .split_once("content-length: ")
            .and_then(|(_, rest)| rest.lines().next())
            .context("a length")?;
        let mut body = vec![0; length.parse()?];
        reader.read_exact(&mut body)?;
        if is_closed.load(Ordering::Relaxed) {
            stream.shutdown(Shutdown::Both)?;
            return Ok(());
        }
        let is_right = head.starts_with("post /v1/traces ")
            && head.contains("content-type: application/x-protobuf\r\n")
            && head.contains(header);
        let status = if is_right { "200 OK" } else { "400 Bad Request" };
        if is_right {
            let request = ExportTraceServiceRequest::decode(body.as_slice())?;
            let mut kept = spans.lock().unwrap_or_else(PoisonError::into_inner);
            for of_resource in request.resource_spans {
                let resource = of_resource.resource.unwrap_or_default();
                let service = text(&resource.attributes, "service.name");
                let of_scopes = of_resource.scope_spans.into_iter();
                kept.extend(
                    of_scopes
                        .flat_map(|of_scope| of_scope.spans)
                        .map(|span| ReceivedSpan {
                            service: service.clone(),
                            span,
                        }),
                );
            }
        }
        let mut writer = stream;
        write!(writer, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")?;
    }
}

/// Forwards connections to the API, and keeps what the caller sends.
pub(super) struct Tap {
    pub(super) url: String,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    /// Starts a tap in front of this URL.
    pub(super) fn start(url: &str) -> Result<Self> {
        let (address, path) = url
            .trim_start_matches("http://")
            .split_once('/')
            .context("a URL with a path")?;
        let listener = TcpListener::bind("127.0.0.1:0").context("listening for calls")?;
        let sent: Arc<Mutex<Vec<u8>>> = Arc::default();
        let tap = Self {
            url: format!("http://{}/{path}", listener.local_addr()?),
            sent: Arc::clone(&sent),
        };
        let address = address.to_owned();
        std::thread::spawn(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                let Ok(api) = TcpStream::connect(&address) else {
                    continue;
                };
                let (Ok(from_api), Ok(to_caller)) = (api.try_clone(), caller.try_clone()) else {
                    continue;
                };
                let sent = Arc::clone(&sent);
                std::thread::spawn(move || forward(&caller, &api, Some(&sent)));
                std::thread::spawn(move || forward(&from_api, &to_caller, None));
            }
        });
        Ok(tap)
    }

    /// Returns the values of a header, in the order of the requests.
    pub(super) fn headers(&self, name: &str) -> Vec<String> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&sent);
        text.split("\r\n")
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::to_owned)
            .collect()
    }
}

fn forward(mut from: &TcpStream, mut to: &TcpStream, kept: Option<&Mutex<Vec<u8>>>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if let Some(kept) = kept {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(&buffer[..read]);
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // The other side may have closed it already.
    let _ = to.shutdown(Shutdown::Both);
}
