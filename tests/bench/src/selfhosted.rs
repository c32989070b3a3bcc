//! The profile `selfhosted`: four processes on private servers, beside the least that each hop could cost on the same servers
//! in the same run.

mod costs;
mod flow;
mod growth;
mod hops;
mod installation;
mod recovery;
mod servers;
mod statements;
mod telemetry;

use std::{path::Path, time::Duration};

use clap::{Args, ValueEnum};

use self::{
    flow::{Flow, Reached},
    hops::{Hop, Rounds, broker, mail, records, stream},
    installation::Installation,
    servers::Servers,
};
use crate::{figures::load_average, process::Memory, sink::Sink};

/// How long and how hard.
#[derive(Args)]
pub(crate) struct Options {
    /// Seconds of sustained load.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Seconds of every other phase.
    #[arg(long, default_value_t = 15)]
    phase_seconds: u64,
    /// Rounds of each hop, floor and ours in turn.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Messages of one round.
    #[arg(long, default_value_t = 100_000)]
    round: u64,
    /// Keep-alive connections of the closed load.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Messages under way at most during the bounded load.
    #[arg(long, default_value_t = 1000)]
    under_way: u64,
    /// Posts a second of the latency phase.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Items that are stored before everything is measured once more.
    #[arg(long, default_value_t = 1_000_000)]
    stored: u64,
    /// Rows of the large transaction.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Everything short: what is to be seen in two minutes.
    #[arg(long)]
    quick: bool,
    /// What is left out.
    #[arg(long, value_enum, value_delimiter = ',')]
    skip: Vec<Part>,
    /// Says what each SQL statement costs under the bounded load. Counting costs Postgres a little.
    #[arg(long)]
    statements: bool,
}

/// What can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Publishing and consuming alone.
    Broker,
    /// Rows and the table stream alone.
    Records,
    /// SMTP alone.
    Mail,
    /// The idle HTTP handler.
    Handler,
    /// The flow under load.
    Flow,
    /// The same with many stored items.
    Growth,
    /// The broker's restart and the watcher's takeover.
    Recovery,
    /// The large transaction.
    Transaction,
    /// What telemetry costs.
    Telemetry,
}

/// The name of the hop whose other side is the api under load.
const HANDLER: &str = "HTTP: idle axum handler; POST to 202";

impl Options {
    fn shortened(mut self) -> Self {
        if self.quick {
            (self.seconds, self.phase_seconds, self.rounds, self.round) = (8, 5, 1, 20_000);
            (self.stored, self.rows) = (self.stored.min(100_000), self.rows.min(100_000));
        }
        self
    }

    fn has(&self, part: Part) -> bool {
        !self.skip.contains(&part)
    }

    fn phase(&self) -> Duration {
        Duration::from_secs(self.phase_seconds)
    }
}

pub(crate) async fn run(program: &Path, options: Options) -> anyhow::Result<()> {
    let options = options.shortened();
    println!(
        "tidings bench selfhosted: {} connections, texts of 300 bytes, one recipient; load average {}",
        options.connections,
        load_average()
    );
    let mut servers = Servers::start(options.statements).await?;
    println!("{}; they, the load and the sink share the machine", servers.versions().await);
    let sink = Sink::start().await?;
    let mut verdict = Verdict::default();

    let mut hops = alone(&servers, &sink, &options).await?;
    hops::print(&hops);
    if let Some(hop) = hops.iter().find(|hop| hop.is(stream::NAME)) {
        verdict.at_most("reading half, CPU of pg_recvlogical", hop.client_ratio(), 1.2);
    }
    let mut installation = Installation::start(program, &servers, &sink).await?;
    println!();
    println!("ready after exec, ms: {}", installation.ready());

    if options.has(Part::Flow) {
        let flow = Flow { installation: &installation, servers: &servers, sink: &sink };
        let accepted = figures(&flow, &options, &mut verdict, "").await?;
        if let Some(handler) = hops.iter_mut().find(|hop| hop.is(HANDLER)) {
            handler.ours(accepted);
            hops::print(std::slice::from_ref(handler));
        }
    }

    if options.has(Part::Growth) {
        let took = growth::fill(&mut installation, &servers, options.stored).await?;
        println!();
        println!("{} items stored in {:.0} s; the same again:", options.stored, took.as_secs_f64());
        let flow = Flow { installation: &installation, servers: &servers, sink: &sink };
        figures(&flow, &options, &mut verdict, ", grown").await?;
    }
    if options.has(Part::Recovery) {
        println!();
        let resumed = recovery::broker(&installation, &mut servers, &sink).await?;
        println!(
            "broker restarted: accepted {:.2} s after it answers, mailed after {:.2} s",
            resumed.accepted.as_secs_f64(),
            resumed.mailed.as_secs_f64()
        );
        verdict.at_most("flow after a broker's restart, s", resumed.mailed.as_secs_f64(), 10.0);
        let resumed = recovery::watcher(&mut installation, &sink).await?;
        println!(
            "watcher killed: the first mail of a later POST after {:.2} s",
            resumed.mailed.as_secs_f64()
        );
        verdict.at_most("watcher's takeover, s", resumed.mailed.as_secs_f64(), 2.0);
    }
    if options.has(Part::Transaction) {
        growth::transaction(&installation, &servers, options.rows).await?.print();
    }
    if options.has(Part::Telemetry) {
        let load = (options.connections, options.under_way, options.phase());
        let (every, few) =
            telemetry::measure(&mut installation, &servers, &sink, options.rounds, load).await?;
        verdict.at_most("throughput that every trace costs, %", every, 10.0);
        verdict.at_most("throughput that 1 % of traces costs, %", few, 1.0);
    }
    for complaint in installation.complaints().iter().take(20) {
        println!("{complaint}");
    }
    verdict.print();
    println!("load average at the end {}", load_average());
    Ok(())
}

/// Each hop alone.
async fn alone(servers: &Servers, sink: &Sink, options: &Options) -> anyhow::Result<Vec<Hop>> {
    let rounds = Rounds { rounds: options.rounds, count: options.round };
    let mut hops = Vec::new();
    if options.has(Part::Broker) {
        hops.extend(broker::measure(servers, rounds).await?);
    }
    if options.has(Part::Records) {
        hops.extend(records::measure(servers, rounds).await?);
    }
    if options.has(Part::Mail) {
        hops.push(mail::measure(sink.address, rounds).await?);
    }
    if options.has(Part::Handler) {
        let mut handler = Hop::new(HANDLER);
        handler.floor(hops::idle_handler(options.connections, options.phase()).await?);
        hops.push(handler);
    }
    Ok(hops)
}

/// The figures of the whole flow; the rate of accepting, as a sample for the table of hops.
async fn figures(
    flow: &Flow<'_>,
    options: &Options,
    verdict: &mut Verdict,
    when: &str,
) -> anyhow::Result<hops::Sample> {
    let (memory, share) = flow.rest(options.phase()).await?;
    println!(
        "at rest: the four {:.1} MiB resident, {:.1} MiB proportional, {share:.1} % of a core",
        memory.resident, memory.proportional
    );
    println!("  {}", each(flow.installation)?);
    verdict.at_most(&format!("memory at rest, MiB{when}"), memory.resident, 60.0);

    let reached = flow.open(options.rate, options.phase()).await?;
    reached.print(&format!("{} POST/s, open loop", options.rate));
    verdict.at_most(&format!("p99 POST to 202, ms{when}"), reached.answers.percentile(99.0), 15.0);
    verdict.at_most(&format!("p99 POST to mail, ms{when}"), reached.mails.percentile(99.0), 60.0);

    let seconds = Duration::from_secs(options.seconds);
    if options.statements {
        statements::begin(flow.servers, &flow.installation.database).await;
    }
    let before = flow.sink.count();
    let bounded = flow.closed(options.connections, Some(options.under_way), seconds).await?;
    bounded.print(&format!(
        "{} connections for {} s, at most {} under way",
        options.connections, options.seconds, options.under_way
    ));
    if options.statements {
        let count = flow.sink.count() - before;
        statements::print(flow.servers, &flow.installation.database, count).await;
    }
    let unbounded = flow.closed(options.connections, None, seconds).await?;
    unbounded.print(&format!("{} connections for {} s, unbounded", options.connections, options.seconds));
    verdict.flow(&bounded, &unbounded, when);
    println!("  {}", each(flow.installation)?);
    Ok(hops::Sample { rate: unbounded.accepted, client: f64::NAN, server: f64::NAN })
}

/// The memory of each of the four now.
fn each(installation: &Installation) -> anyhow::Result<String> {
    let line = |(name, memory): (&str, Memory)| {
        format!("{name} {:.1} (at most {:.1})", memory.resident, memory.most)
    };
    let lines: Vec<String> = installation.memories()?.into_iter().map(line).collect();
    Ok(format!("MiB resident: {}", lines.join(", ")))
}

/// The figures to reach beside what was reached.
#[derive(Default)]
struct Verdict(Vec<(String, f64, f64, bool)>);

impl Verdict {
    fn at_most(&mut self, name: &str, reached: f64, limit: f64) {
        self.0.push((format!("{name} <="), reached, limit, reached <= limit));
    }

    fn at_least(&mut self, name: &str, reached: f64, limit: f64) {
        self.0.push((format!("{name} >="), reached, limit, reached >= limit));
    }

    fn flow(&mut self, bounded: &Reached, unbounded: &Reached, when: &str) {
        self.at_least(&format!("messages/s end to end{when}"), bounded.mailed.max(unbounded.mailed), 3500.0);
        self.at_least(&format!("POST to 202, 1/s{when}"), unbounded.accepted, 5000.0);
        let costs = &bounded.costs;
        self.at_most(&format!("CPU of the four, µs a message{when}"), costs.ours(), 200.0);
        self.at_most(&format!("CPU of RabbitMQ, µs a message{when}"), costs.rabbitmq, 130.0);
        self.at_most(&format!("CPU of Postgres, µs a message{when}"), costs.postgres, 90.0);
        let memory = bounded.memory.resident.max(unbounded.memory.resident);
        self.at_most(&format!("memory under load, MiB{when}"), memory, 150.0);
    }

    fn print(&self) {
        println!();
        println!("{:<48} {:>9} {:>9}", "figure to reach", "limit", "reached");
        for (name, reached, limit, holds) in &self.0 {
            println!("{name:<48} {limit:>9} {reached:>9.1}  {}", if *holds { "" } else { "missed" });
        }
    }
}
