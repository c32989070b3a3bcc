//! The bus on RabbitMQ (3.10 to 4.3): a durable fanout exchange per topic, quorum queues, AMQP 0-9-1 by lapin.
//!
//! Publishing and consuming have a connection each, so that a memory alarm never holds up acknowledgements; declaring goes over
//! the second. A connection is made when it is first needed, and made again for as long as the process lives. Whatever hangs on
//! one ends with it: consumers end with an error and are opened anew by whoever has them.
//!
//! A file is named after the port that it implements.

mod bus;
mod consumer;
mod dependency;
mod depth;
mod dial;
mod failure;
mod link;
mod management;
mod message;
mod metrics;
mod names;
mod options;
mod publisher;
mod rabbitmq;
mod standing;
mod topology;
mod window;

pub use options::Options;
pub use rabbitmq::RabbitMq;
