//! What commands print: tables for people, JSON for scripts, and why they failed.

use std::{
    io::{ErrorKind, Write as _},
    process::ExitCode,
};

/// Why a command did not do what was asked: an exit code and sentences for stderr.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// It was tried and refused, or failed: code 1.
    pub(crate) fn refused(text: impl std::fmt::Display) -> Self {
        Self { code: 1, text: text.to_string() }
    }

    /// It was asked for wrongly, which includes wrong settings: code 2.
    pub(crate) fn usage(text: impl std::fmt::Display) -> Self {
        Self { code: 2, text: text.to_string() }
    }

    /// The server does not answer: code 3.
    pub(crate) fn unreachable(text: impl std::fmt::Display) -> Self {
        Self { code: 3, text: text.to_string() }
    }

    /// The same with more said.
    pub(crate) fn with(self, more: &str) -> Self {
        Self { text: self.text + more, ..self }
    }

    /// Says why on stderr and gives the exit code.
    pub(crate) fn tell(self) -> ExitCode {
        if !self.text.is_empty() {
            let _ = writeln!(std::io::stderr(), "tidings: {}", self.text);
        }
        ExitCode::from(self.code)
    }
}

/// Writes to stdout. A reader that has gone away, such as `head`, is no fault.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::refused(format!("stdout cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Columns under their heads, each as wide as its widest entry.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heads.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(heads.map(|head| head));
    for row in rows {
        text.push_str(&line(row.each_ref().map(String::as_str)));
    }
    text
}

/// One line of a text that may hold anything: what the terminal would obey is shown as what it is, what is too long is
/// cut.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let plain = |c: char| {
        if c.is_whitespace() {
            ' '
        } else if c.is_control() {
            '\u{fffd}'
        } else {
            c
        }
    };
    let mut line: String = text.chars().take(max + 1).map(plain).collect();
    if line.chars().count() > max {
        line = line.chars().take(max.saturating_sub(1)).collect();
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [["a".to_owned(), "second".to_owned()], ["longer".to_owned(), "é".to_owned()]];
        assert_eq!(table(["ID", "TEXT"], &rows), "ID      TEXT\na       second\nlonger  é\n");
    }

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m", 20), "a b\u{fffd}[31m");
        assert_eq!(one_line("abcdef", 4), "abc…");
        assert_eq!(one_line("abcd", 4), "abcd");
    }
}
