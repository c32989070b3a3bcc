//! What every profile can carry as text: UTF-8, XML 1.0 characters, bounded lengths.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The largest message in bytes: body, subject and attributes (as JSON) together. The last KiB of SNS's 256 is ours.
pub const MAX_MESSAGE_BYTES: usize = 255 * 1024;

/// The longest subject in characters: SNS takes fewer than 100.
pub const MAX_SUBJECT_CHARS: usize = 99;

/// Why a text cannot be carried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidText {
    /// Nothing to carry.
    #[error("the text is empty: send at least one byte")]
    Empty,
    /// Not UTF-8.
    #[error("the text is not UTF-8: byte {offset} begins no character")]
    NotUtf8 {
        /// Where the first bad byte stands.
        offset: usize,
    },
    /// A character that XML 1.0, and with it SNS, cannot carry.
    #[error(
        "the text holds U+{code:04X} at byte {offset}: control characters other than tab, CR and LF, and U+FFFE and U+FFFF, cannot be carried"
    )]
    Character {
        /// Its code point.
        code: u32,
        /// Where it stands.
        offset: usize,
    },
    /// A subject with a line break.
    #[error("a subject has no line breaks")]
    LineBreak,
    /// A subject that is too long.
    #[error("a subject has at most {MAX_SUBJECT_CHARS} characters, this one {chars}")]
    SubjectTooLong {
        /// How many it has.
        chars: usize,
    },
    /// Body, subject and attributes together are too large.
    #[error(
        "body, subject and attributes together take {bytes} bytes, at most {MAX_MESSAGE_BYTES} are carried"
    )]
    TooLarge {
        /// What they take.
        bytes: usize,
    },
}

/// Checks that `text` has only characters of XML 1.0 (its production 2), and at least one.
fn check_characters(text: &str) -> Result<(), InvalidText> {
    if text.is_empty() {
        return Err(InvalidText::Empty);
    }
    // Almost every text passes here, without a branch a byte; U+FFFE and U+FFFF begin with EF.
    let odd = |byte: u8| (byte < b' ') & !matches!(byte, b'\t' | b'\r' | b'\n') | (byte == 0xef);
    if !text.bytes().fold(false, |any, byte| any | odd(byte)) {
        return Ok(());
    }
    let bad = text.char_indices().find(|(_, c)| {
        (*c < ' ' && !matches!(c, '\t' | '\r' | '\n')) || matches!(c, '\u{fffe}' | '\u{ffff}')
    });
    match bad {
        Some((offset, c)) => Err(InvalidText::Character { code: u32::from(c), offset }),
        None => Ok(()),
    }
}

/// Whether every profile can carry `text` beside a message (attribute names and values, content types).
pub fn is_carried(text: &str) -> bool {
    text.is_empty() || check_characters(text).is_ok()
}

/// A message's text, byte for byte as it was posted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(Arc<str>);

impl Text {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, InvalidText> {
        check_characters(text)?;
        if text.len() > MAX_MESSAGE_BYTES {
            return Err(InvalidText::TooLarge { bytes: text.len() });
        }
        Ok(Self(text.into()))
    }

    /// Checks bytes that should be a text.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidText> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text),
            Err(error) => Err(InvalidText::NotUtf8 { offset: error.valid_up_to() }),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A subject: 1 to 99 characters without line breaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subject(Arc<str>);

impl Subject {
    /// Checks a subject.
    pub fn parse(text: &str) -> Result<Self, InvalidText> {
        check_characters(text)?;
        if text.contains(['\r', '\n', '\u{85}', '\u{2028}', '\u{2029}']) {
            return Err(InvalidText::LineBreak);
        }
        let chars = text.chars().count();
        if chars > MAX_SUBJECT_CHARS {
            return Err(InvalidText::SubjectTooLong { chars });
        }
        Ok(Self(text.into()))
    }

    /// The subject.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Text {
    type Error = InvalidText;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0.to_string()
    }
}

impl TryFrom<String> for Subject {
    type Error = InvalidText;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_xml_can_carry() {
        for good in ["x", "]]>", "tab\tcr\rlf\n", "日本語 🎉", "\u{7f}\u{80}"] {
            assert!(Text::parse(good).is_ok(), "{good:?}");
        }
        assert_eq!(Text::parse(""), Err(InvalidText::Empty));
        assert_eq!(Text::parse("a\0"), Err(InvalidText::Character { code: 0, offset: 1 }));
        assert_eq!(Text::parse("\u{ffff}"), Err(InvalidText::Character { code: 0xffff, offset: 0 }));
        assert_eq!(Text::from_bytes(b"ab\xff"), Err(InvalidText::NotUtf8 { offset: 2 }));
        assert!(Text::parse(&"x".repeat(MAX_MESSAGE_BYTES)).is_ok());
        assert!(Text::parse(&"x".repeat(MAX_MESSAGE_BYTES + 1)).is_err());
    }

    #[test]
    fn subjects_are_short_and_on_one_line() {
        assert!(Subject::parse(&"ä".repeat(99)).is_ok());
        assert_eq!(Subject::parse(&"ä".repeat(100)), Err(InvalidText::SubjectTooLong { chars: 100 }));
        assert_eq!(Subject::parse("a\nBcc: b@example.com"), Err(InvalidText::LineBreak));
    }
}
