//! Stands empty until the programs can be measured.
fn main() {}
