//! A stand-in for a schema registry: its HTTP, with outages and refused credentials.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Running registry. Its thread ends with the process.
pub struct SchemaRegistry {
    /// Base URL, `http://host:port/PATH`.
    pub url: String,
    state: Arc<Mutex<State>>,
}

/// Schemas that a registry has lost.
pub struct LostSchemas(BTreeMap<String, Value>);

/// What a registry does with each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers.
    Up,
    /// Closes each connection.
    Down,
    /// Answers with this status, and a body that is no answer of a registry.
    Status(u16),
    /// Answers requests with this bearer token, and others with 401.
    Token(String),
}

struct State {
    behaviour: Behaviour,
    /// Answers by the path below the base URL.
    schemas: BTreeMap<String, Value>,
    requests: usize,
}

/// Path of the registry, as those that share a port with something else have one.
const BASE: &str = "/apis/registry";

impl SchemaRegistry {
    /// Starts a registry without schemas.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(behaviour: Behaviour) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening as a schema registry")?;
        let address = listener.local_addr().context("listening as a schema registry")?;
        let state = Arc::new(Mutex::new(State {
            behaviour,
            schemas: BTreeMap::new(),
            requests: 0,
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client may end its connection at any time.
                std::thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        Ok(Self {
            url: format!("http://{address}{BASE}"),
            state,
        })
    }

    /// Registers a schema of this type under an id; without a type it is Avro. `references` are names and subjects.
    pub fn register(&self, id: u32, schema_type: Option<&str>, schema: &str, references: &[(&str, &str)]) {
        let references: Vec<Value> = references
            .iter()
            .map(|(name, subject)| json!({"name": name, "subject": subject, "version": 1}))
            .collect();
        let mut answer = json!({"schema": schema, "references": references});
        if let Some(schema_type) = schema_type {
            answer["schemaType"] = schema_type.into();
        }
        self.state().schemas.insert(format!("/schemas/ids/{id}"), answer);
    }

    /// Registers a schema that others refer to by its subject, in version 1, which is deleted there.
    pub fn register_subject(&self, subject: &str, schema: &str) {
        let answer = json!({"subject": subject, "version": 1, "schema": schema});
        self.state()
            .schemas
            .insert(format!("/subjects/{subject}/versions/1?deleted=true"), answer);
    }

    /// Loses the schemas with an id; returns what [`Self::restore`] brings back.
    #[must_use]
    pub fn lose(&self) -> LostSchemas {
        let mut state = self.state();
        let (lost, left) = std::mem::take(&mut state.schemas)
            .into_iter()
            .partition(|(path, _)| path.starts_with("/schemas/ids/"));
        state.schemas = left;
        LostSchemas(lost)
    }

    /// Has schemas again that were lost.
    pub fn restore(&self, LostSchemas(lost): LostSchemas) {
        self.state().schemas.extend(lost);
    }

    /// Changes what the registry does.
    pub fn set(&self, behaviour: Behaviour) {
        self.state().behaviour = behaviour;
    }

    /// Returns the number of requests since the start.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.state().requests
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the requests of a connection until it ends.
fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                text => lines.push(text.to_owned()),
            }
        }
        let Some((status, body)) = answer(&lines, &mut lock(state)) else {
            return Ok(());
        };
        write!(
            stream,
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}

/// Returns status and body; `None` closes the connection.
fn answer(request: &[String], state: &mut State) -> Option<(u16, String)> {
    state.requests += 1;
    let has_token = |token: &str| {
        let expected = format!("authorization: bearer {token}").to_lowercase();
        request.iter().any(|line| line.to_lowercase() == expected)
    };
    match &state.behaviour {
        Behaviour::Down => return None,
        Behaviour::Status(status) => return Some((*status, "<html>an error page</html>".into())),
        Behaviour::Token(token) if !has_token(token) => {
            return Some((
                401,
                json!({"error_code": 401, "message": "Unauthorized"}).to_string(),
            ));
        }
        Behaviour::Token(_) | Behaviour::Up => {}
    }
    let path = request.first()?.split(' ').nth(1)?.strip_prefix(BASE)?;
    Some(match state.schemas.get(path) {
        Some(schema) => (200, schema.to_string()),
        None => (
            404,
            json!({"error_code": 40403, "message": "Schema not found"}).to_string(),
        ),
    })
}
