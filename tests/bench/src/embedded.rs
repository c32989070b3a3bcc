//! The embedded profile: throughput, latency, memory and start-up of one process on SQLite.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    figures::{micros, rate},
    floors,
    load::{self, Outcome, UnderWay},
    server::Server,
    sink::{Sink, wait_for},
};

const PATH: &str = "/v1/topics/messages/messages";

/// How long and how hard.
#[derive(Args)]
pub(crate) struct Options {
    /// Seconds of sustained load.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds of every other phase.
    #[arg(long, default_value_t = 15)]
    phase_seconds: u64,
    /// Keep-alive connections of the closed load.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Messages under way at most during the sustained load.
    #[arg(long, default_value_t = 1000)]
    under_way: u64,
    /// Posts a second of the latency phase.
    #[arg(long, default_value_t = 500)]
    rate: u32,
}

pub(crate) async fn run(program: &Path, options: &Options) -> anyhow::Result<()> {
    let phase = Duration::from_secs(options.phase_seconds);
    let sustained = Duration::from_secs(options.seconds);
    println!(
        "tidings bench embedded: {} connections, texts of 300 bytes, one recipient",
        options.connections
    );

    let noop = floors::noop_posts(options.connections, Duration::from_secs(5)).await?;
    println!("floor: axum handler that does nothing      {:>9.0} POST/s", rate(noop.accepted, noop.took));
    let rows = tokio::task::spawn_blocking(|| floors::row_writes(Duration::from_secs(8))).await??;
    println!("floor: one message's row writes, groups of 64 {rows:>6.0} messages/s, one thread");

    let folder = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let smtp =
        [("SMTP_URL", format!("smtp://{}", sink.address)), ("TIDINGS_MAIL_FROM", "bench@example.com".into())];
    let server = Server::start(program, &[], folder.path(), &smtp).await?;
    println!("ready after exec                           {:>9.0} ms", server.ready.as_secs_f64() * 1e3);
    subscribe(&server).await?;
    idle(&server).await?;
    latency(&server, &sink, options.rate, phase).await?;

    let (mailed, before) = (Arc::clone(&sink.taken), sink.taken.load(Ordering::Relaxed));
    sustain(&server, "SMTP sink", &mailed, before, options, sustained, rows).await?;
    accept(&server, &mailed, options.connections, phase).await?;
    let most = server.memory()?.most;
    println!("peak memory                                {most:>9.0} MiB");
    drop(server);

    let folder = tempfile::tempdir()?;
    let server = Server::start(program, &[], folder.path(), &[]).await?;
    subscribe(&server).await?;
    let mailed = Arc::new(AtomicU64::new(0));
    let counter = tokio::spawn(count_caught(server.address.to_string(), Arc::clone(&mailed)));
    sustain(&server, "mail catcher", &mailed, 0, options, sustained, rows).await?;
    counter.abort();
    Ok(())
}

/// One confirmed recipient of the topic `messages`.
async fn subscribe(server: &Server) -> anyhow::Result<()> {
    let url = format!("http://{}/v1/topics/messages/subscriptions", server.address);
    let body = json!({"email": "reader@example.com", "confirmed": true});
    let response = reqwest::Client::new().post(url).json(&body).send().await?;
    anyhow::ensure!(response.status().is_success(), "subscribe: {}", response.text().await?);
    Ok(())
}

async fn idle(server: &Server) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, begun) = (server.cpu()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let share = (server.cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    let resident = server.memory()?.resident;
    println!("idle                                       {resident:>9.1} MiB, {share:.1} % of a core");
    Ok(())
}

async fn latency(server: &Server, sink: &Sink, rate: u32, phase: Duration) -> anyhow::Result<()> {
    let cpu = server.cpu()?;
    let outcome = load::open(server.address, PATH, rate, phase).await?;
    sink.wait_for(outcome.accepted).await?;
    let cpu = server.cpu()? - cpu;
    let mails = sink.latencies(&outcome);
    println!(
        "at {rate}/s: {} accepted, {} refused, {} mails seen",
        outcome.accepted,
        outcome.failed,
        mails.len()
    );
    println!("  POST to 202    {}", outcome.latencies);
    println!("  POST to mail   {mails}");
    println!("  CPU            {:>7.0} µs a message", micros(cpu, outcome.accepted));
    Ok(())
}

async fn sustain(
    server: &Server,
    where_to: &str,
    mailed: &Arc<AtomicU64>,
    before: u64,
    options: &Options,
    duration: Duration,
    floor: f64,
) -> anyhow::Result<()> {
    let (cpu, begun) = (server.cpu()?, Instant::now());
    let limit = UnderWay { taken: Arc::clone(mailed), before, most: options.under_way };
    let outcome = load::closed(server.address, PATH, options.connections, duration, Some(limit)).await?;
    wait_for(mailed, before + outcome.accepted).await?;
    let (took, cpu) = (begun.elapsed(), server.cpu()? - cpu);
    let each = rate(outcome.accepted, took);
    println!(
        "sustained {} s into the {where_to}, at most {} under way:",
        duration.as_secs(),
        options.under_way
    );
    println!("  {each:>8.0} messages/s from POST to mailbox, {:.2} of the row-writes floor", each / floor);
    println!("  POST to 202    {}", outcome.latencies);
    println!(
        "  CPU            {:>7.0} µs a message; {} refused",
        micros(cpu, outcome.accepted),
        outcome.failed
    );
    Ok(())
}

async fn accept(
    server: &Server,
    mailed: &Arc<AtomicU64>,
    connections: usize,
    phase: Duration,
) -> anyhow::Result<()> {
    let before = mailed.load(Ordering::Relaxed);
    let outcome: Outcome = load::closed(server.address, PATH, connections, phase, None).await?;
    let meanwhile = mailed.load(Ordering::Relaxed) - before;
    println!(
        "unbounded: {:.0} POST/s accepted while {:.0} mails/s left",
        rate(outcome.accepted, outcome.took),
        rate(meanwhile, outcome.took)
    );
    wait_for(mailed, before + outcome.accepted).await
}

/// The newest mail's number is how many the catcher took.
async fn count_caught(address: String, mailed: Arc<AtomicU64>) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    loop {
        let request =
            client.get(format!("http://{address}/mailbox?limit=1")).header("accept", "application/json");
        let page: Value = request.send().await?.json().await?;
        if let Some(id) = page.pointer("/data/0/id").and_then(Value::as_u64) {
            mailed.store(id, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
