//! The messages of the output plugin `pgoutput`, protocol 1 (PostgreSQL, "Logical Replication Message Formats").
//!
//! Every length is checked against what is there; no input panics; what is left over at a message's end is an error. Rows
//! stay where they are: a tuple is a checked slice that is walked once.

use super::lsn::Lsn;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// `B`: a committed transaction begins.
    Begin {
        /// Where its commit stands.
        commit: Lsn,
        /// Its id.
        xid: u32,
    },
    /// `C`: it ends.
    Commit {
        /// The end of its commit.
        end: Lsn,
    },
    /// `R`: what a table looks like from here on.
    Relation(Relation<'a>),
    /// `I`: a new row.
    Insert {
        /// The table's number.
        table: u32,
        /// The row.
        row: Tuple<'a>,
    },
    /// `U`, `D`, `T`, `Y`, `O`: what is counted and ignored.
    Ignored(Ignored),
    /// `M`: `pg_logical_emit_message`.
    Logical {
        /// Whether it belongs to the transaction that it stands in.
        transactional: bool,
        /// Where it stands.
        lsn: Lsn,
        /// Whose it is.
        prefix: &'a [u8],
        /// What it says.
        content: &'a [u8],
    },
}

/// What is read and not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ignored {
    /// A row was changed.
    Update,
    /// A row was removed.
    Delete,
    /// Tables were emptied.
    Truncate,
    /// A type was described.
    Type,
    /// A transaction came from another server.
    Origin,
}

impl Ignored {
    /// The word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Type => "type",
            Self::Origin => "origin",
        }
    }
}

/// A table's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation<'a> {
    /// The table's number.
    pub(crate) table: u32,
    /// Names of its columns, in the order of tuples.
    pub(crate) columns: Vec<&'a [u8]>,
}

/// A row: a checked slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple<'a> {
    columns: u16,
    bytes: &'a [u8],
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// NULL.
    Null,
    /// Stored apart and not changed, and so not sent: absent, which is not NULL.
    Unchanged,
    /// As the type writes itself.
    Text(&'a [u8]),
    /// As the type sends itself, which we never ask for.
    Binary(&'a [u8]),
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// A message that protocol 1 does not have.
    UnknownMessage(u8),
    /// A kind of tuple or of value that protocol 1 does not have.
    UnknownKind(u8),
    /// It ends before it is whole.
    Short,
    /// It goes on after its end.
    Long,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownMessage(tag) => write!(f, "a message of the unknown kind '{}'", tag.escape_ascii()),
            Self::UnknownKind(tag) => write!(f, "a value of the unknown kind '{}'", tag.escape_ascii()),
            Self::Short => f.write_str("a message that ends before it is whole"),
            Self::Long => f.write_str("a message that goes on after its end"),
        }
    }
}

type Result<T> = std::result::Result<T, Malformed>;

/// Reads one message, all of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Result<Message<'_>> {
    let mut input = Input(bytes);
    let message = match input.u8()? {
        b'B' => {
            let commit = input.lsn()?;
            let _committed_at = input.u64()?;
            Message::Begin { commit, xid: input.u32()? }
        }
        b'C' => {
            let _flags = input.u8()?;
            let _commit = input.lsn()?;
            let end = input.lsn()?;
            let _committed_at = input.u64()?;
            Message::Commit { end }
        }
        b'R' => Message::Relation(input.relation()?),
        b'I' => {
            let table = input.u32()?;
            input.kind(b"N")?;
            Message::Insert { table, row: input.tuple()? }
        }
        b'U' => {
            let _table = input.u32()?;
            if input.kind(b"KON")? != b'N' {
                let _old = input.tuple()?;
                input.kind(b"N")?;
            }
            let _new = input.tuple()?;
            Message::Ignored(Ignored::Update)
        }
        b'D' => {
            let _table = input.u32()?;
            input.kind(b"KO")?;
            let _old = input.tuple()?;
            Message::Ignored(Ignored::Delete)
        }
        b'T' => {
            let tables = input.u32()?;
            let _options = input.u8()?;
            let bytes = usize::try_from(tables).ok().and_then(|tables| tables.checked_mul(4));
            input.take(bytes.ok_or(Malformed::Short)?)?;
            Message::Ignored(Ignored::Truncate)
        }
        b'Y' => {
            let _number = input.u32()?;
            let (_schema, _name) = (input.text()?, input.text()?);
            Message::Ignored(Ignored::Type)
        }
        b'O' => {
            let _commit = input.lsn()?;
            let _name = input.text()?;
            Message::Ignored(Ignored::Origin)
        }
        b'M' => {
            let transactional = input.u8()? & 1 != 0;
            let lsn = input.lsn()?;
            let prefix = input.text()?;
            let content = input.counted()?;
            Message::Logical { transactional, lsn, prefix, content }
        }
        tag => return Err(Malformed::UnknownMessage(tag)),
    };
    match input.0 {
        [] => Ok(message),
        _ => Err(Malformed::Long),
    }
}

impl<'a> Tuple<'a> {
    /// Its values, in order.
    pub(crate) fn values(self) -> impl Iterator<Item = Value<'a>> {
        let mut input = Input(self.bytes);
        (0..self.columns).map_while(move |_| input.value().ok())
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn> {
        self.u64().map(Lsn)
    }

    /// A text that ends with a zero byte.
    fn text(&mut self) -> Result<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Malformed::Short)?;
        let text = self.take(end)?;
        self.u8()?;
        Ok(text)
    }

    /// Bytes after their count; a count is never negative.
    fn counted(&mut self) -> Result<&'a [u8]> {
        let count = self.u32()?;
        let count = i32::try_from(count).ok().and_then(|count| usize::try_from(count).ok());
        self.take(count.ok_or(Malformed::Short)?)
    }

    fn kind(&mut self, known: &[u8]) -> Result<u8> {
        match self.u8()? {
            kind if known.contains(&kind) => Ok(kind),
            kind => Err(Malformed::UnknownKind(kind)),
        }
    }

    fn relation(&mut self) -> Result<Relation<'a>> {
        let table = self.u32()?;
        let (_schema, _name) = (self.text()?, self.text()?);
        let _replica_identity = self.u8()?;
        let count = self.u16()?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let _flags = self.u8()?;
            columns.push(self.text()?);
            let (_type, _modifier) = (self.u32()?, self.u32()?);
        }
        Ok(Relation { table, columns })
    }

    fn tuple(&mut self) -> Result<Tuple<'a>> {
        let columns = self.u16()?;
        let all = self.0;
        for _ in 0..columns {
            self.value()?;
        }
        Ok(Tuple { columns, bytes: &all[..all.len() - self.0.len()] })
    }

    fn value(&mut self) -> Result<Value<'a>> {
        Ok(match self.u8()? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            b't' => Value::Text(self.counted()?),
            b'b' => Value::Binary(self.counted()?),
            kind => return Err(Malformed::UnknownKind(kind)),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
