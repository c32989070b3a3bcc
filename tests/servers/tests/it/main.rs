//! The servers do what their handles say.

mod postgres;
mod redis;
