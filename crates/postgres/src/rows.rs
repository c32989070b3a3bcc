//! Values on their way to and from the server.

use serde::Serialize;
use serde_json::Value;
use sqlx::{
    Decode, Encode, Postgres, Row, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueFormat, PgValueRef, types::Oid},
};
use tidings_domain::{Result, page::Page, time::Timestamp};
use uuid::Uuid;

use crate::fault::readable;

/// `timestamptz` of whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) Timestamp);

/// `timestamptz` and its arrays, by the numbers that every server has for them.
const TIMESTAMPTZ: Oid = Oid(1184);
const TIMESTAMPTZ_ARRAY: Oid = Oid(1185);

/// Milliseconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH_MILLIS: i64 = 946_684_800_000;

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl PgHasArrayType for Time {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ_ARRAY)
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> std::result::Result<IsNull, BoxDynError> {
        let micros = (self.0.as_millis() - EPOCH_MILLIS) * 1000;
        Encode::<Postgres>::encode(micros, buffer)
    }
}

impl Decode<'_, Postgres> for Time {
    fn decode(value: PgValueRef<'_>) -> std::result::Result<Self, BoxDynError> {
        if value.format() != PgValueFormat::Binary {
            return Err("a time came as text".into());
        }
        let micros = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        Ok(Self(Timestamp::from_millis(micros.div_euclid(1000).saturating_add(EPOCH_MILLIS))))
    }
}

/// What begins a text with a NUL in it, and what stands for one.
const MARK: char = '\u{1}';

/// A text that PostgreSQL can hold: one with a NUL is written otherwise (see `0004_dead_letters.sql`), any other as it is.
pub(crate) fn escape(text: &str) -> String {
    if !text.contains('\0') && !text.starts_with(MARK) {
        return text.to_owned();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    escaped.push(MARK);
    for c in text.chars() {
        match c {
            '\0' => escaped.extend([MARK, '0']),
            MARK => escaped.extend([MARK, MARK]),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Reads what [`escape`] wrote.
pub(crate) fn unescape(text: &str) -> String {
    let Some(escaped) = text.strip_prefix(MARK) else { return text.to_owned() };
    let mut plain = String::with_capacity(escaped.len());
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        match c {
            MARK if chars.next() == Some('0') => plain.push('\0'),
            c => plain.push(c),
        }
    }
    plain
}

/// Any of our values as JSON text.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts, numbers and lists of these are always JSON")
}

/// Reads an id.
pub(crate) fn id(row: &PgRow, column: usize, what: &str) -> Result<Uuid> {
    readable(row.try_get(column).ok(), what)
}

/// Reads an id that may be absent.
pub(crate) fn optional_id(row: &PgRow, column: usize) -> Option<Uuid> {
    row.try_get::<Option<Uuid>, _>(column).ok().flatten()
}

/// Reads a text.
pub(crate) fn text(row: &PgRow, column: usize) -> Option<&str> {
    row.try_get::<Option<&str>, _>(column).ok().flatten()
}

/// Reads a flag.
pub(crate) fn flag(row: &PgRow, column: usize, what: &str) -> Result<bool> {
    readable(row.try_get(column).ok(), what)
}

/// Reads an `integer`.
pub(crate) fn number(row: &PgRow, column: usize, what: &str) -> Result<u32> {
    readable(row.try_get::<i32, _>(column).ok().and_then(|number| u32::try_from(number).ok()), what)
}

/// Reads a `bigint` that counts.
pub(crate) fn count(row: &PgRow, column: usize, what: &str) -> Result<u64> {
    readable(row.try_get::<i64, _>(column).ok().and_then(|number| u64::try_from(number).ok()), what)
}

/// Reads a time.
pub(crate) fn time(row: &PgRow, column: usize, what: &str) -> Result<Timestamp> {
    readable(optional_time(row, column), what)
}

/// Reads a time that may be absent.
pub(crate) fn optional_time(row: &PgRow, column: usize) -> Option<Timestamp> {
    row.try_get::<Option<Time>, _>(column).ok().flatten().map(|time| time.0)
}

/// Reads JSON that was selected as text.
pub(crate) fn json(row: &PgRow, column: usize, what: &str) -> Result<Value> {
    readable(text(row, column).and_then(|text| serde_json::from_str(text).ok()), what)
}

/// A page of `found`, of which one more than `limit` was asked for. A row that `read` passes over makes the page shorter and
/// ends no list: `place` tells where the next page begins.
pub(crate) fn page<T>(
    found: &[PgRow],
    limit: u32,
    read: impl Fn(&PgRow) -> Option<T>,
    place: impl Fn(&PgRow) -> Option<String>,
) -> Page<T> {
    let shown = &found[..found.len().min(limit as usize)];
    let last = shown.last().filter(|_| shown.len() < found.len());
    Page { data: shown.iter().filter_map(read).collect(), next_cursor: last.and_then(place) }
}

/// An `integer` of a count of ours.
pub(crate) fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_with_a_nul_comes_back_as_it_was() {
        for text in
            ["", "plain", "a\0b", "\u{1}", "\u{1}\0", "\0\u{1}0", "\u{1}0", "a\u{1}b", "\0", "é\0\u{1}\u{1}"]
        {
            let escaped = escape(text);
            assert!(!escaped.contains('\0'), "{text:?}");
            assert_eq!(unescape(&escaped), text);
        }
        assert_eq!(escape("a\u{1}b"), "a\u{1}b", "a text without a NUL stays as it is");
    }
}
