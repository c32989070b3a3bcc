//! Rules: what the server does at a step instead of what a good server does.

use std::time::Duration;

/// A step of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The greeting, right after the connection.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA, before its 354.
    Data,
    /// After the first bytes of the mail.
    Body,
    /// The final dot, before its reply. The mail is recorded.
    Message,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
}

/// What is done at a step.
#[derive(Clone, Debug)]
pub enum Act {
    /// Answers with these lines (without line ends), then goes on as that reply means.
    Reply(&'static str),
    /// Answers with these lines and closes the connection.
    ReplyAndClose(&'static str),
    /// Sends the usual reply a byte at a time with this pause between.
    Slowly(Duration),
    /// Sends these lines a byte at a time with this pause between.
    ReplySlowly(&'static str, Duration),
    /// Sends bytes that are no reply.
    Garbage(&'static [u8]),
    /// Never answers.
    Hang,
    /// Waits for [`super::SmtpServer::release`], then does as usual.
    Hold,
    /// Closes the connection at once. At [`Step::Body`]: after the first bytes of the mail.
    Close,
}

/// An act for a step.
#[derive(Clone, Debug)]
pub struct Rule {
    step: Step,
    act: Act,
    recipient: Option<String>,
    skip: usize,
    times: Option<usize>,
}

impl Rule {
    /// For every `step`.
    pub fn new(step: Step, act: Act) -> Self {
        Self { step, act, recipient: None, skip: 0, times: None }
    }

    /// Only when the transaction's recipient is `address` (from RCPT TO on).
    #[must_use]
    pub fn to(mut self, address: &str) -> Self {
        self.recipient = Some(address.to_owned());
        self
    }

    /// Not for the first `count` that fit.
    #[must_use]
    pub fn after(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// At most `count` times.
    #[must_use]
    pub fn times(mut self, count: usize) -> Self {
        self.times = Some(count);
        self
    }

    pub(super) fn take(&mut self, step: Step, recipient: &str) -> Option<Act> {
        if self.step != step || self.recipient.as_ref().is_some_and(|wanted| wanted != recipient) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        match &mut self.times {
            Some(0) => None,
            Some(left) => {
                *left -= 1;
                Some(self.act.clone())
            }
            None => Some(self.act.clone()),
        }
    }
}
