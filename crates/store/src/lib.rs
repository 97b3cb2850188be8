//! Stands empty until its first commit.
