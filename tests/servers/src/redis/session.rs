//! A connection in plain text, as much of the protocol as tests need. Every call blocks.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::program;

pub(super) struct Session(BufReader<TcpStream>);

/// What comes back for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A status or a text.
    Said(String),
    /// A number.
    Count(i64),
    /// No value.
    Nothing,
    /// An error.
    Refused(String),
}

impl Answer {
    /// What most commands answer that did what they were told.
    pub(super) fn ok() -> Self {
        Self::Said("OK".to_owned())
    }
}

impl Session {
    /// None while nobody listens.
    pub(super) fn open(address: SocketAddr) -> Option<Self> {
        program::connect(address).map(|stream| Self(BufReader::new(stream)))
    }

    /// The answer; none if the connection ends.
    pub(super) fn ask(&mut self, command: &[&str]) -> Option<Answer> {
        self.0.get_mut().write_all(encode(command).as_bytes()).ok()?;
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        let (kind, rest) = line.trim_end().split_at_checked(1)?;
        Some(match kind {
            "+" => Answer::Said(rest.to_owned()),
            "-" => Answer::Refused(rest.to_owned()),
            ":" => Answer::Count(rest.parse().ok()?),
            "$" => match usize::try_from(rest.parse::<i64>().ok()?) {
                Ok(length) => {
                    let mut text = vec![0; length + 2];
                    self.0.read_exact(&mut text).ok()?;
                    text.truncate(length);
                    Answer::Said(String::from_utf8(text).ok()?)
                }
                Err(_) => Answer::Nothing,
            },
            _ => panic!("{command:?} answers {line:?}, which tests do not read"),
        })
    }
}

/// A command as it is sent: whatever its parts hold.
pub(super) fn encode(command: &[&str]) -> String {
    let parts = command.iter().map(|part| format!("${}\r\n{part}\r\n", part.len()));
    format!("*{}\r\n{}", command.len(), parts.collect::<String>())
}
