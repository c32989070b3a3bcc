//! Faults of the settings: all of them are found before anything connects, and told together.

use std::fmt;

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The setting as the person named it, with where it came from.
    pub(crate) subject: String,
    /// What is wrong and how to mend it.
    pub(crate) message: String,
}

/// All that is wrong with the settings.
#[derive(Debug, Default)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl Faults {
    /// Adds one.
    pub(crate) fn add(&mut self, subject: impl Into<String>, message: impl fmt::Display) {
        self.0.push(Fault { subject: subject.into(), message: message.to_string() });
    }

    /// `value`, unless something is wrong.
    pub(crate) fn unless_any<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "{count} fault{} of the settings:", if count == 1 { "" } else { "s" })?;
        for Fault { subject, message } in &self.0 {
            writeln!(f, "  {subject}: {message}")?;
        }
        f.write_str("`tidings config` shows what is in force, and where each setting comes from")
    }
}

impl std::error::Error for Faults {}
