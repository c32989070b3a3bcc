//! The api from outside: its router called as a service, over the memory adapters.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect fails")]

mod auth;
mod bad_input;
mod batch;
mod catalog;
mod dead_letters;
mod description;
mod framework;
mod mailbox;
mod pages;
mod publish;
mod status;
mod subscriptions;
mod topics;
mod world;
