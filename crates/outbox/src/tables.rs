//! Tables on standard output and standard error.

use comfy_table::{ContentArrangement, Table};

/// Returns a table with these columns, which fits the terminal.
pub(crate) fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    table
}
