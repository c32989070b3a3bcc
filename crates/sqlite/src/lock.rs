//! One server a folder: a lock that ends with the process.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
};

use tidings_domain::{Error, Result};

use crate::store::LOCK_FILE;

/// Takes the folder for as long as the file is held. The operating system frees it when the process ends, however it ends.
pub(crate) fn hold(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|error| {
        Error::misconfigured(format!(
            "write into the data folder {}: give this user the right to, or set TIDINGS_DATA_DIR to another folder",
            folder.display()
        ))
        .with_source(error)
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::misconfigured(format!(
            "another Tidings server runs on the data folder {}: stop it, or set TIDINGS_DATA_DIR to another folder",
            folder.display()
        ))),
        Err(TryLockError::Error(error)) => Err(Error::misconfigured(format!(
            "lock {}: use a folder on a file system that can lock files",
            path.display()
        ))
        .with_source(error)),
    }
}
