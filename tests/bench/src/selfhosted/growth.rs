//! How it grows: a million stored items, and a transaction of a million rows.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{costs::MemoryWatch, installation::Installation, servers::Servers};
use crate::{figures::rate, process::Memory};

/// Rows of one statement.
const GROUP: u64 = 50_000;

/// What a finished message has a row in.
const TABLES: [&str; 3] = ["items", "notifications", "deliveries"];

/// Stored items of the past: each with its notification finished and its one delivery sent, as the newest of ours is.
///
/// What an insert puts into the table stream is nobody's news: the watcher is down, and the slot is moved past it, with the
/// row that says how far everything is confirmed moved first.
pub(crate) async fn fill(
    installation: &mut Installation,
    servers: &Servers,
    count: u64,
) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    // Its slot is free once the server has seen it go.
    installation.take("cdc-watcher")?.kill()?;
    let database = installation.database.clone();
    let psql = async |sql: &str| servers.postgres.psql(&database, sql).await;
    let active = "select count(*) from pg_replication_slots where active";
    while psql(active).await.trim() != "0" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The newest message that is done, row by row.
    psql(
        "create unlogged table bench_deliveries as select deliveries.* from deliveries join items on id = about
             where state = 'sent' and round = 0 order by stored_at desc limit 1;
         create unlogged table bench_items as select items.* from items, bench_deliveries where id = about;
         create unlogged table bench_notifications as select notifications.* from notifications, bench_items
             where item = id and notifications.round = 0;",
    )
    .await;
    let mut columns = Vec::new();
    for table in TABLES {
        let templates = psql(&format!("select count(*) from bench_{table}")).await;
        ensure!(templates.trim() == "1", "no finished message to copy: {table}");
        let written = format!(
            "select string_agg(quote_ident(attname), '|') from pg_attribute
             where attrelid = '{table}'::regclass and attnum > 0 and not attisdropped and attgenerated = ''"
        );
        columns.push(psql(&written).await.trim().to_owned());
    }
    let mut from = 0;
    while from < count {
        let to = (from + GROUP).min(count);
        psql(&group(&columns, from + 1, to)).await;
        from = to;
    }
    for table in TABLES {
        psql(&format!("drop table bench_{table}")).await;
        psql(&format!("vacuum analyze {table}")).await;
    }
    // What the fill left to be written is not what stored items cost.
    psql("checkpoint").await;
    psql(
        "update change_stream set confirmed = pg_current_wal_lsn(),
             within_commit = null, within_xid = null, within_ordinal = null;
         select pg_replication_slot_advance(slot_name, (select confirmed from change_stream))
             from pg_replication_slots where slot_name = (select slot from change_stream);",
    )
    .await;
    installation.start_again("cdc-watcher").await?;
    Ok(begun.elapsed())
}

/// The statement of one group: ids of version 7 with times a minute and more ago, one a millisecond. Rows are copies of one
/// that the services wrote, so that this need not know their columns: `columns` are those of each table that can be written.
fn group(columns: &[String], from: u64, to: u64) -> String {
    let copied = |at: usize, changed: &str| {
        let table = TABLES[at];
        let written = columns[at].replace('|', ", ");
        let copied = format!("copy.{}", columns[at].replace('|', ", copy."));
        format!(
            "insert into {table} ({written}) select {copied} from ids, bench_{table} as template,
             lateral jsonb_populate_record(template, jsonb_build_object({changed})) as copy"
        )
    };
    format!(
        "with ids as materialized (
             select now() - interval '1 minute' - number * interval '1 millisecond' as new_at,
                 (lpad(to_hex((extract(epoch from now()) * 1000)::bigint - 60000 - number), 12, '0') || '7'
                     || substr(md5(number::text), 1, 3) || '8' || substr(md5(number::text), 4, 15))::uuid as new_id
             from generate_series({from}, {to}) as number
         ), stored as ({}), notified as ({}) {}",
        copied(0, "'id', new_id, 'accepted_at', new_at, 'stored_at', new_at"),
        copied(1, "'item', new_id, 'captured_at', new_at, 'published_at', new_at"),
        copied(2, "'about', new_id, 'created_at', new_at, 'due_at', new_at, 'sent_at', new_at"),
    )
}

/// What a large transaction came to.
pub(crate) struct Transaction {
    rows: u64,
    /// From its commit until everything of it was confirmed.
    took: Duration,
    /// The watcher's memory before, and the most of it meanwhile.
    before: Memory,
    most: Memory,
}

/// One transaction of so many rows, of a topic that nobody is subscribed to, through the watcher.
pub(crate) async fn transaction(
    installation: &Installation,
    servers: &Servers,
    rows: u64,
) -> anyhow::Result<Transaction> {
    let database = &installation.database;
    let watcher = installation.service("cdc-watcher")?;
    let before = watcher.memory()?;
    let memory = MemoryWatch::start(vec![watcher.pid()]);
    let insert = format!(
        "insert into items (topic, message) select 'bulk', repeat('a text of three hundred bytes ', 10)
         from generate_series(1, {rows})"
    );
    let psql = async |sql: &str| servers.postgres.psql(database, sql).await;
    psql(&insert).await;
    let (committed, begun) = (psql("select pg_current_wal_lsn()").await, Instant::now());
    let behind = format!("select confirmed < '{}'::pg_lsn from change_stream", committed.trim());
    let patience = Duration::from_secs(60 + rows / 500);
    while psql(&behind).await.trim() != "f" {
        watcher.cpu()?;
        ensure!(begun.elapsed() < patience, "{rows} rows are not confirmed in {patience:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(Transaction { rows, took: begun.elapsed(), before, most: memory.most().await? })
}

impl Transaction {
    pub(crate) fn print(&self) {
        println!();
        println!("one transaction of {} rows through the watcher:", self.rows);
        println!(
            "  confirmed {:.0} s after its commit, {:.0} changes/s; the watcher's memory {:.0} MiB before, at most {:.0} MiB meanwhile",
            self.took.as_secs_f64(),
            rate(self.rows, self.took),
            self.before.resident,
            self.most.resident
        );
    }
}
