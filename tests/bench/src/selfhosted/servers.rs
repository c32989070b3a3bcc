//! PostgreSQL, RabbitMQ and Redis of the bench's own.

use std::time::Duration;

use anyhow::Context as _;
use tidings_servers::{
    postgres::{Postgres, PostgresOptions},
    rabbitmq::RabbitMq,
    redis::Redis,
};

use crate::process;

/// The three servers, private to this run.
pub(crate) struct Servers {
    pub(crate) postgres: Postgres,
    pub(crate) rabbitmq: RabbitMq,
    pub(crate) redis: Redis,
    pids: Pids,
}

/// The process of each server that all its others are below.
#[derive(Clone, Copy)]
pub(crate) struct Pids {
    pub(crate) postgres: u32,
    pub(crate) rabbitmq: u32,
    pub(crate) redis: u32,
}

impl Servers {
    /// Starts them; with `statements` Postgres counts what each statement costs.
    pub(crate) async fn start(statements: bool) -> anyhow::Result<Self> {
        let counted = [("shared_preload_libraries", "pg_stat_statements"), ("track_io_timing", "on")];
        let settings = counted
            .iter()
            .filter(|_| statements)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let options = PostgresOptions { settings, ..PostgresOptions::default() };
        let (postgres, rabbitmq, redis) =
            tokio::join!(Postgres::start_with(options), RabbitMq::start(), Redis::start());
        let pids = pids(&postgres, &rabbitmq, &redis).await?;
        Ok(Self { postgres, rabbitmq, redis, pids })
    }

    pub(crate) fn pids(&self) -> Pids {
        self.pids
    }

    /// Looks for their processes again, after one was restarted.
    pub(crate) async fn look_again(&mut self) -> anyhow::Result<()> {
        self.pids = pids(&self.postgres, &self.rabbitmq, &self.redis).await?;
        Ok(())
    }

    /// Which versions they are.
    pub(crate) async fn versions(&self) -> String {
        let postgres = self.postgres.psql("postgres", "show server_version").await;
        let broker = self.rabbitmq.ctl(&["version"]).await;
        format!("PostgreSQL {}, RabbitMQ {}", postgres.trim(), broker.trim())
    }
}

/// The name of the database of a URL.
pub(crate) fn database(url: &str) -> &str {
    let path = url.split('?').next().unwrap_or(url);
    path.rsplit('/').next().unwrap_or_default()
}

async fn pids(postgres: &Postgres, rabbitmq: &RabbitMq, redis: &Redis) -> anyhow::Result<Pids> {
    let file = postgres.psql("postgres", "select pg_read_file('postmaster.pid')").await;
    let postmaster = file.lines().next().context("a postmaster")?.trim().parse()?;
    let beam = rabbitmq.ctl(&["eval", "os:getpid()."]).await;
    let beam = beam.trim().trim_matches('"').parse().with_context(|| format!("a broker in {beam:?}"))?;
    let told = ask(redis, "INFO server").await?;
    let line = told.lines().find_map(|line| line.strip_prefix("process_id:")).context("a Redis")?;
    Ok(Pids { postgres: postmaster, rabbitmq: beam, redis: line.trim().parse()? })
}

/// What Redis answers to a command without arguments that hold spaces.
async fn ask(redis: &Redis, command: &str) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(redis.addr()).await?;
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// CPU that each server has used.
#[derive(Clone, Copy)]
pub(crate) struct Used {
    pub(crate) postgres: Duration,
    pub(crate) rabbitmq: Duration,
    pub(crate) redis: Duration,
}

impl Pids {
    pub(crate) fn used(self) -> anyhow::Result<Used> {
        Ok(Used {
            postgres: process::tree_cpu(self.postgres)?,
            rabbitmq: process::tree_cpu(self.rabbitmq)?,
            redis: process::tree_cpu(self.redis)?,
        })
    }
}
