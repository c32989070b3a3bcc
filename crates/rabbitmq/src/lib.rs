//! The bus on RabbitMQ (3.10 to 4.3): a durable fanout exchange per topic, quorum queues, AMQP 0-9-1 by lapin.
//!
//! Publishing and consuming have a connection each, so that a memory alarm never holds up acknowledgements. A connection is
//! made when it is first needed, and made again for as long as the process lives.
//!
//! A file is named after the port that it implements.

mod options;
mod rabbitmq;

pub use options::Options;
pub use rabbitmq::RabbitMq;
