//! Private servers and their faults, for tests: each listens on a free port of the loopback and belongs to one test.
//!
//! [`postgres::Postgres`], [`rabbitmq::RabbitMq`] and [`redis::Redis`] are handles of real servers: `start` gives a test one of
//! its own, to stop, kill, freeze and start again; `shared` the one of the test process, in which `database` or `vhost` makes
//! a place of a test's own. [`proxy::Proxy`] stands between two that must survive what lies between them, and
//! [`smtp::SmtpServer`] is a mail server that does as it is told.
//!
//! A server is a program of this machine, or a container of the official image where there is none or where
//! `TIDINGS_TEST_SERVERS=images` asks for it. `shared` takes the servers that `DATABASE_URL`, `AMQP_URL` and `REDIS_URL` name,
//! if they do.
//!
//! Nothing is left behind, however a test ends: a guardian child per server sees its pipe close and takes away processes,
//! containers and folders. The handles panic where they cannot do what they say: a test is to fail then.

mod container;
mod given;
mod guardian;
mod port;
mod process;
mod program;
mod server;

pub mod authority;
pub mod postgres;
pub mod proxy;
pub mod rabbitmq;
pub mod redis;
pub mod set;
pub mod smtp;

pub use server::Source;
