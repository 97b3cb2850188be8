//! Stands empty until its first commit.
fn main() {}
