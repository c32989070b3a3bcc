//! Each hop alone, twice: the least that it could cost on these servers, and what our adapter makes of it. Rounds of both
//! take turns, so that what else the machine does falls on both.

pub(crate) mod broker;
pub(crate) mod mail;
pub(crate) mod records;
pub(crate) mod stream;

use std::time::{Duration, Instant};

use crate::{
    figures::{median, micros, rate},
    floors, process,
};

/// How often, and with how many messages.
#[derive(Clone, Copy)]
pub(crate) struct Rounds {
    pub(crate) rounds: u32,
    pub(crate) count: u64,
}

/// One round of one side of a hop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Messages a second.
    pub(crate) rate: f64,
    /// CPU of this process (or the child that stands for it) for each, in µs.
    pub(crate) client: f64,
    /// CPU of the server for each, in µs.
    pub(crate) server: f64,
}

/// Measures a round.
pub(crate) struct Stopwatch {
    begun: Instant,
    own: Duration,
    ended: Duration,
    server: Option<(u32, Duration)>,
}

impl Stopwatch {
    /// Begins; `server` is the process that serves, with all below it, where it is not this one.
    pub(crate) fn start(server: Option<u32>) -> anyhow::Result<Self> {
        let server = server.map(|pid| anyhow::Ok((pid, process::tree_cpu(pid)?))).transpose()?;
        Ok(Self { own: process::own_cpu()?, ended: process::ended_cpu()?, server, begun: Instant::now() })
    }

    /// Ends after `count` messages.
    pub(crate) fn stop(self, count: u64) -> anyhow::Result<Sample> {
        let took = self.begun.elapsed();
        let client = process::own_cpu()? - self.own + (process::ended_cpu()? - self.ended);
        let server = match self.server {
            Some((pid, before)) => process::tree_cpu(pid)?.saturating_sub(before),
            None => Duration::ZERO,
        };
        Ok(Sample { rate: rate(count, took), client: micros(client, count), server: micros(server, count) })
    }
}

/// All rounds of a hop.
pub(crate) struct Hop {
    name: String,
    floor: Vec<Sample>,
    ours: Vec<Sample>,
}

impl Hop {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), floor: Vec::new(), ours: Vec::new() }
    }

    pub(crate) fn floor(&mut self, sample: Sample) {
        self.floor.push(sample);
    }

    pub(crate) fn ours(&mut self, sample: Sample) {
        self.ours.push(sample);
    }

    /// Whether this is its name.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// CPU of our side for each message, as a multiple of the floor's.
    pub(crate) fn client_ratio(&self) -> f64 {
        median(self.ours.iter().map(|sample| sample.client)) / median(self.floor.iter().map(|s| s.client))
    }
}

/// A handler that answers a small JSON and does nothing else, under the load that the api gets; its CPU has the load's in it.
pub(crate) async fn idle_handler(connections: usize, duration: Duration) -> anyhow::Result<Sample> {
    let stopwatch = Stopwatch::start(None)?;
    let outcome = floors::noop_posts(connections, duration).await?;
    stopwatch.stop(outcome.accepted)
}

/// The table of hops: medians over the rounds.
pub(crate) fn print(hops: &[Hop]) {
    if hops.is_empty() {
        return;
    }
    println!();
    println!(
        "{:<44} {:>9} {:>9} {:>6} | {:>13} {:>13} {:>6}",
        "hop", "floor/s", "ours/s", "ratio", "floor CPU µs", "ours CPU µs", "ratio"
    );
    for hop in hops {
        let of = |samples: &[Sample], what: fn(&Sample) -> f64| median(samples.iter().map(what));
        let (floor, ours) = (of(&hop.floor, |s| s.rate), of(&hop.ours, |s| s.rate));
        let cpu = |samples: &[Sample]| (of(samples, |s| s.client), of(samples, |s| s.server));
        let (floor_cpu, ours_cpu) = (cpu(&hop.floor), cpu(&hop.ours));
        println!(
            "{:<44} {floor:>9.0} {ours:>9.0} {:>6.2} | {:>6.1} +{:>5.1} {:>6.1} +{:>5.1} {:>6.2}",
            hop.name,
            ours / floor,
            floor_cpu.0,
            floor_cpu.1,
            ours_cpu.0,
            ours_cpu.1,
            (ours_cpu.0 + ours_cpu.1) / (floor_cpu.0 + floor_cpu.1)
        );
    }
    println!(
        "CPU is this process + the server's, for each message. `ours` of the idle handler is the api's POST to 202."
    );
}
