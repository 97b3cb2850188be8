//! Tests of the stand-in from outside: each fault with a raw TCP client, and the program as a process.

mod client;
mod faults;
mod outage;
mod program;
mod records;
