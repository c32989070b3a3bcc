//! Rows on their way into a statement: one JSON array of arrays, with long texts beside it in one run of bytes, so that they
//! are neither escaped nor parsed.

use serde::Serialize;
use serde_json::Value;
use sqlx::{Row, sqlite::SqliteRow};
use tidings_domain::{Result, time::Timestamp};
use uuid::Uuid;

use crate::fault::readable;

/// Rows for `json_each(?1)`, and for their long values `substr(?2, 1 + (value ->> 0), value ->> 1)`.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    json: String,
    bytes: Vec<u8>,
}

impl Packed {
    /// Adds a row: its long value's place and length, then `fields` (JSON values between commas).
    pub(crate) fn row(&mut self, long: &[u8], fields: &str) {
        use std::fmt::Write as _;
        self.json.push(if self.json.is_empty() { '[' } else { ',' });
        let _infallible = write!(self.json, "[{},{},{fields}]", self.bytes.len(), long.len());
        self.bytes.extend_from_slice(long);
    }

    /// The two parameters.
    pub(crate) fn into_parameters(mut self) -> (String, Vec<u8>) {
        self.json.push_str(if self.json.is_empty() { "[]" } else { "]" });
        // Of no bytes at all SQLite makes NULL, also by substr.
        self.bytes.push(0);
        (self.json, self.bytes)
    }
}

/// The JSON values of a tuple between commas, for [`Packed::row`].
pub(crate) fn fields(tuple: &impl Serialize) -> String {
    let mut json = to_json(tuple);
    json.pop();
    json.remove(0);
    json
}

/// Any of our values as JSON text.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts, numbers and lists of these are always JSON")
}

/// Ids as a JSON array of lower-case texts.
pub(crate) fn ids(ids: impl IntoIterator<Item = Uuid>) -> String {
    to_json(&ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>())
}

/// Reads an id that we wrote.
pub(crate) fn id(row: &SqliteRow, column: usize, what: &str) -> Result<Uuid> {
    readable(text(row, column).and_then(|text| Uuid::try_parse(text).ok()), what)
}

/// Reads a text.
pub(crate) fn text(row: &SqliteRow, column: usize) -> Option<&str> {
    row.try_get::<Option<&str>, _>(column).ok().flatten()
}

/// Reads a number.
pub(crate) fn number<T: TryFrom<i64>>(row: &SqliteRow, column: usize, what: &str) -> Result<T> {
    readable(row.try_get::<i64, _>(column).ok().and_then(|number| T::try_from(number).ok()), what)
}

/// Reads milliseconds.
pub(crate) fn time(row: &SqliteRow, column: usize, what: &str) -> Result<Timestamp> {
    readable(optional_time(row, column), what)
}

/// Reads milliseconds that may be absent.
pub(crate) fn optional_time(row: &SqliteRow, column: usize) -> Option<Timestamp> {
    row.try_get::<Option<i64>, _>(column).ok().flatten().map(Timestamp::from_millis)
}

/// Reads JSON that we wrote.
pub(crate) fn json(row: &SqliteRow, column: usize, what: &str) -> Result<Value> {
    readable(text(row, column).and_then(|text| serde_json::from_str(text).ok()), what)
}
