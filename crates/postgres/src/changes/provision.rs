//! Publication and slot: made, looked at, and made anew.

use tidings_domain::Result;

use super::RecoveredSlot;
use crate::store::Shared;

pub(crate) async fn make_publication(_shared: &Shared) -> Result<()> {
    Ok(())
}

pub(crate) async fn make_slot(_shared: &Shared) -> Result<()> {
    Ok(())
}

pub(crate) async fn check(_shared: &Shared) -> Result<Vec<String>> {
    Ok(Vec::new())
}

pub(crate) async fn recover(_shared: &Shared) -> Result<RecoveredSlot> {
    todo!("stream")
}
