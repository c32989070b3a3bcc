//! The server that `REDIS_URL` names.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use super::session::{Answer, Session, encode};
use crate::given::{Parts, Traces, variable};

/// How long a claim holds of a process that could not take it away, in seconds. Longer than any test run.
const CLAIM_S: &str = "7200";

/// Names the server.
pub(super) const VARIABLE: &str = "REDIS_URL";

pub(super) struct Given {
    parts: Parts,
    address: SocketAddr,
    /// The database that the URL names. It is people's: only our claims of the others are there.
    home: u32,
    /// What is said before all else.
    login: Vec<String>,
    traces: Traces,
    next: Mutex<u32>,
}

/// Its URL, if there is one.
pub(super) fn url() -> Option<String> {
    variable(VARIABLE)
}

impl Given {
    pub(super) fn new(url: &str) -> Self {
        let parts = Parts::of(url);
        assert!(
            parts.scheme == "redis",
            "REDIS_URL begins with redis://: tests take databases in plain text"
        );
        let home = if parts.path.is_empty() { Some(0) } else { parts.path.parse().ok() };
        let home = home.unwrap_or_else(|| panic!("REDIS_URL ends with the number of a database, or without"));
        let mut login = Vec::new();
        if let Some((user, password)) = parts.login.trim_end_matches('@').split_once(':') {
            login.push("AUTH".to_owned());
            login.extend([user, password].into_iter().filter(|part| !part.is_empty()).map(decode));
        }
        let address = parts.address(6379);
        Self { parts, address, home, login, traces: Traces::new("redis"), next: Mutex::new(0) }
    }

    /// A database that is empty and that no other process takes; it is emptied when we end.
    pub(super) fn database(&self) -> u32 {
        // Held while we ask: another test of ours must not ask for the same.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut session = self.session();
        loop {
            let number = *next;
            *next += 1;
            if number != self.home && self.take(&mut session, number) {
                return number;
            }
        }
    }

    fn take(&self, session: &mut Session, number: u32) -> bool {
        let mut ask = |command: &[&str]| {
            session
                .ask(command)
                .unwrap_or_else(|| panic!("the server at REDIS_URL does not answer {command:?}"))
        };
        let (text, home) = (number.to_string(), self.home.to_string());
        let chosen = ask(&["SELECT", &text]);
        assert!(
            chosen == Answer::ok(),
            "every database of the server at REDIS_URL is in use ({chosen:?}): a test takes an empty one for itself, all \
             of them about a hundred; give it more (`redis-server --databases 256`)",
        );
        let is_empty = ask(&["DBSIZE"]) == Answer::Count(0);
        let claim = format!("tidings-tests:{number}");
        let owner = self.traces.unique("-");
        assert!(ask(&["SELECT", &home]) == Answer::ok(), "the database of REDIS_URL can be chosen");
        if !is_empty || ask(&["SET", &claim, &owner, "NX", "EX", CLAIM_S]) != Answer::ok() {
            return false;
        }
        let mut commands = self.login.iter().map(String::as_str).collect::<Vec<_>>();
        let mut script = if commands.is_empty() { String::new() } else { encode(&commands) };
        for command in
            [["SELECT", &text].as_slice(), &["FLUSHDB"], &["SELECT", &home], &["DEL", &claim], &["QUIT"]]
        {
            commands = command.to_vec();
            script += &encode(&commands);
        }
        self.traces.at_end(&format!(
            "printf '%s' '{}' | curl --silent --max-time 10 telnet://{}\n",
            script.replace('\'', r"'\''"),
            self.address,
        ));
        true
    }

    /// A connection that is logged in.
    fn session(&self) -> Session {
        let mut session = Session::open(self.address).expect("the server at REDIS_URL listens");
        if !self.login.is_empty() {
            let login: Vec<&str> = self.login.iter().map(String::as_str).collect();
            let answer = session.ask(&login);
            assert!(answer == Some(Answer::ok()), "the server at REDIS_URL refuses the login: {answer:?}");
        }
        session
    }

    pub(super) fn url(&self, number: u32) -> String {
        self.parts.with_path(&number.to_string())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A part of a URL as it is meant: `%40` is `@`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).expect("a login is text")
}
