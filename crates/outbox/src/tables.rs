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

/// Maximum number of characters of a cell.
const CELL_MAX: usize = 120;

/// Returns text that a producer wrote as one line of a table, cut to a readable length.
pub(crate) fn cell(text: &str) -> String {
    line(text, CELL_MAX)
}

/// Returns text of another program as one line, cut to this number of characters.
pub(crate) fn line(text: &str, chars_max: usize) -> String {
    let mut cell = String::new();
    for (number, char) in text.chars().enumerate() {
        if number == chars_max {
            cell.push('…');
            break;
        }
        push_printable(&mut cell, char);
    }
    cell
}

/// Returns text that a producer wrote, with its lines, for the terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' | '\t' => printable.push(char),
            char => push_printable(&mut printable, char),
        }
    }
    printable
}

fn push_printable(text: &mut String, char: char) {
    // An escape sequence of a record could change what the terminal shows of others.
    if char.is_control() {
        text.extend(char.escape_debug());
    } else {
        text.push(char);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_cannot_control_the_terminal() {
        assert_eq!(cell("a\u{1b}[2J\n\u{9b}é"), "a\\u{1b}[2J\\n\\u{9b}é");
        assert_eq!(printable("a\r\n\tb\0"), "a\\r\n\tb\\0");
    }

    #[test]
    fn cell_is_short() {
        assert_eq!(cell(&"é".repeat(CELL_MAX)), "é".repeat(CELL_MAX));
        assert_eq!(cell(&"é".repeat(5000)), format!("{}…", "é".repeat(CELL_MAX)));
    }
}
