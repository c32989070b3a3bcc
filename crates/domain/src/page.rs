//! Lists in pages: newest first, with an opaque cursor.

use serde::{Deserialize, Serialize};

/// The page size when none is asked for.
pub const DEFAULT_LIMIT: u32 = 50;

/// The largest page.
pub const MAX_LIMIT: u32 = 250;

/// Which page is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Entries at most, 1 to [`MAX_LIMIT`].
    pub limit: u32,
    /// The `next_cursor` of the page before; a cursor that no page gave is [`crate::ErrorKind::Rejected`].
    pub cursor: Option<String>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, cursor: None }
    }
}

/// One page. An entry that is added or removed meanwhile never makes another entry appear twice or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The entries, newest first.
    pub data: Vec<T>,
    /// What to ask the next page with; absent on the last.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Cuts `entries`, of which one more than `limit` was read, into a page whose cursor is made by `cursor` of its
    /// last entry.
    pub fn cut(mut entries: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Self {
        let limit = limit as usize;
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next_cursor = if more { entries.last().map(cursor) } else { None };
        Self { data: entries, next_cursor }
    }
}

/// Writes a cursor of (time in milliseconds, id): the order of every list.
pub fn encode_cursor(millis: i64, id: uuid::Uuid) -> String {
    format!("{millis:x}.{}", id.simple())
}

/// Reads a cursor that [`encode_cursor`] wrote.
pub fn decode_cursor(cursor: &str) -> crate::Result<(i64, uuid::Uuid)> {
    cursor
        .split_once('.')
        .and_then(|(millis, id)| {
            Some((i64::from_str_radix(millis, 16).ok()?, uuid::Uuid::try_parse(id).ok()?))
        })
        .ok_or_else(|| crate::Error::rejected("the cursor was not made by this list: begin without one"))
}
