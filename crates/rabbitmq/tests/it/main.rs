//! The bus on a real RabbitMQ, and while that is away or ill.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without is a failure of the test")]

mod counts;
mod foreign;
mod log;
mod raw;
mod stage;
mod with_rabbitmq;
