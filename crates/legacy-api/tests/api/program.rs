//! The program as a process: its first line, its exit, and the settings it refuses.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::client::payment;

struct Running(Child);

impl Running {
    fn start(flags: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_legacy-api"));
        Running(
            command
                .args(flags)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    fn address(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        line.trim_end()
            .strip_prefix("listening on http://")
            .unwrap_or_else(|| panic!("{line:?}"))
            .to_owned()
    }

    /// Waits for the exit; returns its status and the text on standard error.
    fn wait(&mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.0.wait().unwrap().code(), stderr)
    }
}

impl Drop for Running {
    /// Kills the program, so that a failed test leaves none running.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn sigterm_ends_it_with_a_summary() {
    for threads in ["1", "2"] {
        let flags = [
            "--listen",
            "127.0.0.1:0",
            "--lost-silence",
            "1",
            "--threads",
            threads,
        ];
        let mut api = Running::start(&flags);
        let address = api.address();
        // A request that waits for its response does not delay the exit.
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(payment("o-1", "").as_bytes()).unwrap();
        let mut stats = TcpStream::connect(&address).unwrap();
        let mut reader = BufReader::new(stats.try_clone().unwrap());
        loop {
            stats
                .write_all(b"GET /payments/o-1 HTTP/1.1\r\nhost: api\r\n\r\n")
                .unwrap();
            let mut status = String::new();
            reader.read_line(&mut status).unwrap();
            let (mut line, mut length) = (String::new(), 0);
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            if status.contains("200") {
                break;
            }
        }
        kill(Pid::from_raw(api.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let (code, stderr) = api.wait();
        assert_eq!(code, Some(0), "{stderr}");
        assert!(
            stderr.contains("1 requests, 1 charges, 1 orders charged"),
            "{stderr}"
        );
    }
}

#[test]
fn invalid_settings_are_refused() {
    for (flags, word) in [
        (&["--lost-500", "0.7", "--before-500", "0.7"][..], "add up to 1.4"),
        (&["--reject", "2"][..], "a rate is from 0 to 1"),
        (&["--path", "/stats"][..], "hides an endpoint"),
    ] {
        let (code, stderr) = Running::start(&[flags, &["--listen", "127.0.0.1:0"]].concat()).wait();
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(word), "{stderr}");
    }
}

#[test]
fn address_in_use_is_refused_by_name() {
    let mut first = Running::start(&["--listen", "127.0.0.1:0"]);
    let address = first.address();
    let (code, stderr) = Running::start(&["--listen", &address]).wait();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&address), "{stderr}");
}
