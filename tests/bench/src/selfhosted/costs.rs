//! What a message costs: CPU of each process and server, and memory of the four processes, over a stretch of the flow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;

use super::{
    installation::{Installation, SERVICES},
    servers::{Servers, Used},
};
use crate::{
    figures::micros,
    process::{self, Memory},
};

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// CPU used so far by everyone.
pub(crate) struct Meters {
    services: Vec<Duration>,
    servers: Used,
    bench: Duration,
}

/// CPU of everyone for each message, in µs.
#[derive(Clone, Debug)]
pub(crate) struct Costs {
    services: Vec<f64>,
    pub(crate) rabbitmq: f64,
    pub(crate) postgres: f64,
    redis: f64,
    bench: f64,
}

impl Meters {
    pub(crate) fn read(installation: &Installation, servers: &Servers) -> anyhow::Result<Self> {
        let services = SERVICES
            .iter()
            .map(|service| installation.service(service)?.cpu())
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { services, servers: servers.pids().used()?, bench: process::own_cpu()? })
    }

    /// What each of `count` messages has cost since `before`.
    pub(crate) fn since(&self, before: &Self, count: u64) -> Costs {
        let each = |now: Duration, then: Duration| micros(now.saturating_sub(then), count);
        Costs {
            services: self
                .services
                .iter()
                .zip(&before.services)
                .map(|(now, then)| each(*now, *then))
                .collect(),
            rabbitmq: each(self.servers.rabbitmq, before.servers.rabbitmq),
            postgres: each(self.servers.postgres, before.servers.postgres),
            redis: each(self.servers.redis, before.servers.redis),
            bench: each(self.bench, before.bench),
        }
    }
}

impl Costs {
    /// The four processes together.
    pub(crate) fn ours(&self) -> f64 {
        self.services.iter().sum()
    }
}

impl std::fmt::Display for Costs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each: Vec<String> = SERVICES
            .iter()
            .zip(&self.services)
            .map(|(service, cost)| format!("{service} {cost:.0}"))
            .collect();
        write!(
            f,
            "CPU µs a message: {} = {:.0}; RabbitMQ {:.0}, Postgres {:.0}, Redis {:.0}; load and sink {:.0}",
            each.join(" + "),
            self.ours(),
            self.rabbitmq,
            self.postgres,
            self.redis,
            self.bench
        )
    }
}

/// Looks at the memory of processes until it is asked what the most was.
pub(crate) struct MemoryWatch {
    ends: Arc<AtomicBool>,
    task: JoinHandle<Memory>,
}

impl MemoryWatch {
    pub(crate) fn start(pids: Vec<u32>) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ends);
        let task = tokio::spawn(async move {
            let mut most = Memory::default();
            while !seen.load(Ordering::Relaxed) {
                let mut now = Memory::default();
                for pid in &pids {
                    now += process::memory(*pid).unwrap_or_default();
                }
                most.resident = most.resident.max(now.resident);
                most.proportional = most.proportional.max(now.proportional);
                most.most = most.most.max(now.most);
                tokio::time::sleep(LOOK).await;
            }
            most
        });
        Self { ends, task }
    }

    /// The most that all of them had together at any look.
    pub(crate) async fn most(self) -> anyhow::Result<Memory> {
        self.ends.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}
