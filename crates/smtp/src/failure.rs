//! What a failure means: the table of this crate's front page as one function.

use tidings_domain::ports::{MailError, MailErrorClass, MailPhase};

/// The longest reply that is kept, in characters.
const MAX_TEXT_CHARS: usize = 500;

/// A refused, lost or overdue command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) phase: MailPhase,
    /// The reply code, 0 where no proper reply came.
    pub(crate) code: u16,
    pub(crate) text: String,
}

impl Failure {
    /// The server's own refusal, or a connection that did not give one.
    pub(crate) fn of(phase: MailPhase, error: &lettre::transport::smtp::Error) -> Self {
        let text = std::error::Error::source(error).map_or_else(|| error.to_string(), chain);
        let code = error.status().map_or(0, u16::from);
        Self { phase, code, text: one_line(&text) }
    }

    /// A connection that failed below SMTP.
    pub(crate) fn lost(phase: MailPhase, error: &dyn std::error::Error) -> Self {
        Self { phase, code: 0, text: one_line(&chain(error)) }
    }

    /// No reply in time.
    pub(crate) fn overdue(phase: MailPhase, deadline: std::time::Duration) -> Self {
        Self { phase, code: 0, text: format!("no reply within {deadline:?}") }
    }

    /// A positive reply that does not belong here: the session is out of step.
    pub(crate) fn misplaced(phase: MailPhase, code: u16) -> Self {
        Self { phase, code: 0, text: format!("the reply {code} does not belong here") }
    }

    /// Whether the session is at a command's end and can go on.
    pub(crate) fn leaves_the_session_usable(&self) -> bool {
        !matches!(self.code, 0 | 421 | 503)
    }

    /// Whether a session that was kept has turned out to be gone before anything of this mail was taken.
    pub(crate) fn is_of_a_stale_session(&self) -> bool {
        self.phase == MailPhase::MailFrom && matches!(self.code, 0 | 421)
    }

    pub(crate) fn class(&self) -> MailErrorClass {
        use MailErrorClass::{Login, Permanent, Recipient, Transient, Unavailable, Unknown};
        match (self.phase, self.code) {
            (MailPhase::Message, 0) => Unknown,
            (_, 0) => Unavailable,
            // Authentication is asked for only now, or was not enough: ours to mend, not the recipient's.
            (MailPhase::RcptTo | MailPhase::Data, 530 | 535 | 538) => Login,
            // The session is out of step.
            (MailPhase::RcptTo | MailPhase::Data, 503) => Unavailable,
            (MailPhase::Message | MailPhase::Data, 500..) => Permanent,
            (MailPhase::Message, _) => Transient,
            (MailPhase::MailFrom | MailPhase::RcptTo | MailPhase::Data, 421) => Unavailable,
            (MailPhase::MailFrom | MailPhase::RcptTo | MailPhase::Data, ..500) => Transient,
            (MailPhase::Auth | MailPhase::MailFrom, 500..) => Login,
            (MailPhase::RcptTo, _) if self.text.trim_start().starts_with("5.7.") => Permanent,
            (MailPhase::RcptTo, _) => Recipient,
            _ => Unavailable,
        }
    }
}

impl From<Failure> for MailError {
    fn from(failure: Failure) -> Self {
        Self { phase: failure.phase, class: failure.class(), code: failure.code, text: failure.text }
    }
}

/// An error with its causes, outermost first.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        // Some errors repeat their cause in their own words.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

/// Short, on one line, without control characters.
pub(crate) fn one_line(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(MAX_TEXT_CHARS).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        use MailErrorClass::{Login, Permanent, Recipient, Transient, Unavailable, Unknown};
        use MailPhase::{Auth, Connect, Data, Ehlo, Greeting, MailFrom, Message, RcptTo, StartTls};
        for (phase, code, text, class) in [
            (Data, 503, "bad sequence", Unavailable),
            (Data, 530, "authentication required", Login),
            (Connect, 0, "connection refused", Unavailable),
            (Greeting, 554, "no", Unavailable),
            (Greeting, 421, "busy", Unavailable),
            (Ehlo, 550, "no", Unavailable),
            (StartTls, 454, "no", Unavailable),
            (Auth, 535, "5.7.8 wrong", Login),
            (Auth, 454, "4.7.0 later", Unavailable),
            (MailFrom, 451, "later", Transient),
            (MailFrom, 421, "closing", Unavailable),
            (MailFrom, 550, "not yours", Login),
            (MailFrom, 0, "lost", Unavailable),
            (RcptTo, 451, "greylisted", Transient),
            (RcptTo, 421, "closing", Unavailable),
            (RcptTo, 550, "5.1.1 no such user", Recipient),
            (RcptTo, 554, "5.7.1 relay access denied", Permanent),
            (RcptTo, 530, "5.7.0 authenticate first", Login),
            (RcptTo, 0, "lost", Unavailable),
            (Data, 451, "later", Transient),
            (Data, 554, "no", Permanent),
            (Data, 0, "lost", Unavailable),
            (Message, 451, "later", Transient),
            (Message, 421, "closing", Transient),
            (Message, 454, "throttled", Transient),
            (Message, 552, "too large", Permanent),
            (Message, 554, "spam", Permanent),
            (Message, 0, "lost", Unknown),
        ] {
            let failure = Failure { phase, code, text: text.to_owned() };
            assert_eq!(failure.class(), class, "{failure:?}");
        }
    }

    #[test]
    fn replies_are_short_and_on_one_line() {
        assert_eq!(one_line(" a\r\nb\u{1b}[1m "), "a  b [1m");
        assert_eq!(one_line(&"x".repeat(2000)).len(), MAX_TEXT_CHARS);
    }
}
