//! The table stream: `Changes` and `ChangeStream` on a replication slot.

pub(crate) mod provision;

/// What [`crate::Store::recover_slot`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredSlot {
    /// The slot's name.
    pub slot: String,
    /// What was wrong with the old one, in words.
    pub was: String,
    /// Where the new one begins, as the server writes it (`0/16B3748`).
    pub begins_at: String,
}
