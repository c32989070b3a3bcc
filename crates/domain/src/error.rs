//! The one error of all ports: a kind to decide on, a context to read, a source to log.

use std::{sync::Arc, time::Duration};

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

type Source = dyn std::error::Error + Send + Sync;

/// What a caller decides on. *Unknown* apart from *transient* is the heart of the product: a timeout is never read as
/// a failure where the effect may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// This call failed and had no effect; the same call may succeed later.
    Transient,
    /// The effect may or may not have happened; the same call with the same id may be made again.
    Unknown,
    /// Nothing could be tried: the server is away. No attempt may be counted.
    Unavailable,
    /// The call can never succeed as it is (too large, malformed, forbidden by a rule of the store).
    Rejected,
    /// The thing named does not exist.
    NotFound,
    /// The thing exists with other content, or in a state that forbids the call.
    Conflict,
    /// The lease that the call acts under has run out or was taken over; nothing was changed.
    LeaseLost,
    /// The table stream cannot go on without skipping changes.
    Gap,
    /// The installation is not set up for the call (missing provisioning, wrong credentials, wrong settings).
    Misconfigured,
}

impl ErrorKind {
    /// The name used in logs, metrics and texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Unknown => "unknown",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::LeaseLost => "lease lost",
            Self::Gap => "gap",
            Self::Misconfigured => "misconfigured",
        }
    }
}

impl std::fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of a port. Its `Display` never repeats its source; the whole chain is logged once, by
/// [`Error::chain`], at the boundary that handles it.
#[derive(Debug)]
pub struct Error {
    /// What to decide on.
    pub kind: ErrorKind,
    /// What was being done and to what, lowercase, without a full stop, with the mend where there is one.
    pub context: String,
    /// When the server says that another try makes sense.
    pub retry_after: Option<Duration>,
    source: Option<Arc<Source>>,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind, self.context)
    }
}

impl std::error::Error for Error {
    /// The cause as it was given: adapters ask for its type.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl Error {
    /// An error of `kind` with its context.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), retry_after: None, source: None }
    }

    /// The same with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<Source>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// The same with the server's own hint of when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Shorthand for [`ErrorKind::Transient`].
    pub fn transient(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Transient, context)
    }

    /// Shorthand for [`ErrorKind::Unknown`].
    pub fn unknown(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unknown, context)
    }

    /// Shorthand for [`ErrorKind::Unavailable`].
    pub fn unavailable(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, context)
    }

    /// Shorthand for [`ErrorKind::Rejected`].
    pub fn rejected(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Rejected, context)
    }

    /// Shorthand for [`ErrorKind::NotFound`].
    pub fn not_found(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, context)
    }

    /// Shorthand for [`ErrorKind::Conflict`].
    pub fn conflict(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, context)
    }

    /// Shorthand for [`ErrorKind::LeaseLost`].
    pub fn lease_lost(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::LeaseLost, context)
    }

    /// Shorthand for [`ErrorKind::Gap`].
    pub fn gap(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Gap, context)
    }

    /// Shorthand for [`ErrorKind::Misconfigured`].
    pub fn misconfigured(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Misconfigured, context)
    }

    /// The same again, with the one source: what a group write gives to each of its entries.
    #[must_use]
    pub fn copy(&self) -> Self {
        let (context, source) = (self.context.clone(), self.source.clone());
        Self { kind: self.kind, context, retry_after: self.retry_after, source }
    }

    /// The whole chain in one line, outermost first, for the log.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            let cause = error.to_string();
            // Some libraries repeat the cause in their own words.
            if !line.ends_with(&cause) {
                line.push_str(": ");
                line.push_str(&cause);
            }
            next = error.source();
        }
        line
    }

    /// Whether the effect certainly did not happen and another try is worth it.
    pub fn is_outage(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Misconfigured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_does_not_repeat_the_source_and_chain_does() {
        let error = Error::transient("insert 3 items").with_source(std::io::Error::other("disk gone"));
        assert_eq!(error.to_string(), "transient: insert 3 items");
        assert_eq!(error.chain(), "transient: insert 3 items: disk gone");
        let copy = error.copy();
        assert_eq!(copy.chain(), error.chain());
        let source = std::error::Error::source(&copy).expect("a copy has its source");
        assert!(source.is::<std::io::Error>(), "the cause itself, not what it is kept in");
    }
}
