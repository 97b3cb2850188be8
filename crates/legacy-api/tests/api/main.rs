//! The stand-in API seen from outside: each fault from a raw TCP client, and the program as a process.

mod client;
mod faults;
mod outage;
mod program;
mod records;
