//! The servers do what their handles say.

mod postgres;
mod rabbitmq;
mod redis;
