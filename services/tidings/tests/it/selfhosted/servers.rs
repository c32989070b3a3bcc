//! The servers that a stack stands on: those that the tests of this process share, or some of its own.

use std::ops::Deref;

use tidings_servers::{postgres::Postgres, rabbitmq::RabbitMq, redis::Redis};

/// A server of all tests, which none of them may stop, or one of a single test.
pub(crate) enum Either<T: 'static> {
    /// Everybody's.
    Shared(&'static T),
    /// This test's.
    Own(T),
}

impl<T> Deref for Either<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Shared(server) => server,
            Self::Own(server) => server,
        }
    }
}

/// All of a stack.
pub(crate) struct Servers {
    pub(crate) postgres: Either<Postgres>,
    pub(crate) rabbitmq: Either<RabbitMq>,
    pub(crate) redis: Either<Redis>,
}

impl Servers {
    /// The shared ones: a stack's database, virtual host and Redis database keep it apart from the others.
    pub(crate) async fn shared() -> Self {
        let (postgres, rabbitmq, redis) =
            tokio::join!(Postgres::shared(), RabbitMq::shared(), Redis::shared());
        Self {
            postgres: Either::Shared(postgres),
            rabbitmq: Either::Shared(rabbitmq),
            redis: Either::Shared(redis),
        }
    }

    /// With a Postgres of its own, to stop, kill or freeze.
    pub(crate) async fn with_own_postgres() -> Self {
        let (shared, postgres) = tokio::join!(Self::shared(), Postgres::start());
        Self { postgres: Either::Own(postgres), ..shared }
    }

    /// With a RabbitMQ of its own, to stop, kill, or raise alarms in.
    pub(crate) async fn with_own_rabbitmq() -> Self {
        let (shared, rabbitmq) = tokio::join!(Self::shared(), RabbitMq::start());
        Self { rabbitmq: Either::Own(rabbitmq), ..shared }
    }

    /// With a Redis of its own, to stop, kill or empty.
    pub(crate) async fn with_own_redis() -> Self {
        let (shared, redis) = tokio::join!(Self::shared(), Redis::start());
        Self { redis: Either::Own(redis), ..shared }
    }
}
