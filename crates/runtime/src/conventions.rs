//! Names of OpenTelemetry's messaging and database conventions, in one place.

/// What a span of a destination does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Hands a message to the bus.
    Publish,
    /// Takes messages from a queue.
    Receive,
    /// Handles one message.
    Process,
}

impl Operation {
    /// `messaging.operation.name`, and the first word of the span's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Receive => "receive",
            Self::Process => "process",
        }
    }

    /// `messaging.operation.type`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Publish => "send",
            Self::Receive => "receive",
            Self::Process => "process",
        }
    }
}

/// Which bus.
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// The topic's or queue's full name.
pub const MESSAGING_DESTINATION_NAME: &str = "messaging.destination.name";
/// What is done, in our words.
pub const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
/// What is done, in the conventions' words.
pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
/// The message's id.
pub const MESSAGING_MESSAGE_ID: &str = "messaging.message.id";
/// How many messages one operation has, where it is a batch.
pub const MESSAGING_BATCH_MESSAGE_COUNT: &str = "messaging.batch.message_count";
/// The kind of a failure.
pub const ERROR_TYPE: &str = "error.type";
/// The event of a failed attempt that is made again.
pub const EVENT_RETRY: &str = "tidings.retry";
/// The event of what is given up, with its reason.
pub const EVENT_DEAD_LETTER: &str = "tidings.dead_letter";
/// The event of an attempt whose outcome nobody knows.
pub const EVENT_UNKNOWN: &str = "tidings.unknown";
/// How many attempts have failed, with this one.
pub const ATTEMPTS: &str = "tidings.attempts";
/// Why something is given up: the dead letter's own word.
pub const REASON: &str = "tidings.reason";
/// The table.
pub const DB_COLLECTION_NAME: &str = "db.collection.name";
/// The statement's verb.
pub const DB_OPERATION_NAME: &str = "db.operation.name";
/// How many rows one operation has, where it is a batch.
pub const DB_OPERATION_BATCH_SIZE: &str = "db.operation.batch.size";
