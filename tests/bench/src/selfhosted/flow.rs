//! The whole flow under load: POST to 202 to the mail that the sink takes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    costs::{Costs, MemoryWatch, Meters},
    installation::{Installation, PATH},
    servers::Servers,
};
use crate::{
    figures::rate,
    latency::Latencies,
    load::{self, UnderWay},
    process::Memory,
    sink::Sink,
};

/// What is driven.
pub(crate) struct Flow<'a> {
    pub(crate) installation: &'a Installation,
    pub(crate) servers: &'a Servers,
    pub(crate) sink: &'a Sink,
}

/// What a stretch of load came to.
pub(crate) struct Reached {
    /// Posts accepted a second while there was load.
    pub(crate) accepted: f64,
    /// Mails taken a second while there was load.
    pub(crate) meanwhile: f64,
    /// Messages a second from the first POST to the last mail.
    pub(crate) mailed: f64,
    /// From POST to 202.
    pub(crate) answers: Latencies,
    /// From POST to the mail.
    pub(crate) mails: Latencies,
    /// CPU of everyone.
    pub(crate) costs: Costs,
    /// The most memory of the four together.
    pub(crate) memory: Memory,
    failed: u64,
    doubled: u64,
    lost: u64,
}

impl Flow<'_> {
    /// Nothing to do: memory of the four together, and their share of a core.
    pub(crate) async fn rest(&self, phase: Duration) -> anyhow::Result<(Memory, f64)> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, begun) = (Meters::read(self.installation, self.servers)?, Instant::now());
        tokio::time::sleep(phase).await;
        let seconds = u64::try_from(begun.elapsed().as_millis())?;
        // µs for each ms, in hundredths: a share of a core in percent.
        let share = Meters::read(self.installation, self.servers)?.since(&before, seconds).ours() / 10.0;
        Ok((self.installation.memory()?, share))
    }

    /// Posts at a fixed rate.
    pub(crate) async fn open(&self, each_second: u32, duration: Duration) -> anyhow::Result<Reached> {
        let address = self.installation.address()?;
        self.reach(load::open(address, PATH, each_second, duration)).await
    }

    /// Posts as fast as they are answered, at most `under_way` on their way where there is such a limit.
    pub(crate) async fn closed(
        &self,
        connections: usize,
        under_way: Option<u64>,
        duration: Duration,
    ) -> anyhow::Result<Reached> {
        let address = self.installation.address()?;
        let limit = under_way.map(|most| UnderWay {
            taken: Arc::clone(&self.sink.taken),
            before: self.sink.count(),
            most,
        });
        self.reach(load::closed(address, PATH, connections, duration, limit)).await
    }

    async fn reach(
        &self,
        load: impl Future<Output = anyhow::Result<load::Outcome>>,
    ) -> anyhow::Result<Reached> {
        self.sink.forget();
        let taken = self.sink.count();
        let meters = Meters::read(self.installation, self.servers)?;
        let memory = MemoryWatch::start(self.installation.pids());
        let begun = Instant::now();
        let outcome = load.await?;
        let meanwhile = self.sink.count() - taken;
        self.sink.wait_for(taken + outcome.accepted).await?;
        let took = begun.elapsed();
        let costs = Meters::read(self.installation, self.servers)?.since(&meters, outcome.accepted);
        let mails = self.sink.latencies(&outcome);
        Ok(Reached {
            accepted: rate(outcome.accepted, outcome.took),
            meanwhile: rate(meanwhile, outcome.took),
            mailed: rate(outcome.accepted, took),
            lost: outcome.accepted - mails.len() as u64,
            answers: outcome.latencies,
            mails,
            costs,
            memory: memory.most().await?,
            failed: outcome.failed,
            doubled: self.sink.doubled(),
        })
    }
}

impl Reached {
    /// Prints it.
    pub(crate) fn print(&self, title: &str) {
        println!();
        println!("{title}:");
        println!(
            "  {:.0} POST/s accepted, {:.0} mails/s meanwhile, {:.0} messages/s from the first POST to the last mail",
            self.accepted, self.meanwhile, self.mailed
        );
        println!("  POST to 202    {}", self.answers);
        println!("  POST to mail   {}", self.mails);
        println!("  {}", self.costs);
        println!(
            "  memory of the four: at most {:.0} MiB resident, {:.0} MiB proportional",
            self.memory.resident, self.memory.proportional
        );
        if self.failed + self.doubled + self.lost > 0 {
            println!(
                "  {} posts not accepted, {} mails doubled, {} accepted and not mailed",
                self.failed, self.doubled, self.lost
            );
        }
    }
}
