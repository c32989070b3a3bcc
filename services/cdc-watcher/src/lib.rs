//! The cdc-watcher.
