//! The api: the HTTP surface of Tidings as a tower service.
//!
//! [`Api::router`] is all of it without sockets, which are the caller's; [`run`] is its work in the background. It accepts
//! a message once the broker has confirmed it, and for that needs nothing but the broker: topics and keys are copies.

mod api;
mod auth;
mod batch;
mod catalog_copy;
mod content;
mod dead_letters;
mod extract;
mod front_door;
mod html;
mod limits;
mod mailbox;
mod message_view;
mod messages;
mod not_ready;
mod openapi;
mod origin;
mod pages;
mod probes;
mod problem;
mod publish;
mod routes;
mod settings;
mod subscriptions;
mod topics;
mod topology;
mod waiting;

pub use api::{Api, Context, run};
pub use not_ready::waiting_router;
pub use openapi::openapi_json;
pub use settings::{AdminKey, Auth, Settings};
