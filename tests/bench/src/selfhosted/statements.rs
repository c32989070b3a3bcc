//! Which statements a message costs, as `pg_stat_statements` counts them.

use super::servers::Servers;

/// The most that are printed.
const SHOWN: u32 = 40;

/// Begins to count.
pub(crate) async fn begin(servers: &Servers, database: &str) {
    let sql = "create extension if not exists pg_stat_statements; select pg_stat_statements_reset()";
    servers.postgres.psql(database, sql).await;
}

/// Prints what each statement cost, the dearest first, for each of `count` messages.
pub(crate) async fn print(servers: &Servers, database: &str, count: u64) {
    let sql = format!(
        "select round(calls * 1000.0 / {count}, 1) || ' calls/1000, ' || round(rows::numeric / greatest(calls, 1), 1)
             || ' rows, ' || round((total_exec_time * 1000 / {count})::numeric, 1) || ' us a message, '
             || round((total_exec_time * 1000 / greatest(calls, 1))::numeric) || ' us a call, wal '
             || round(wal_bytes / {count}) || ' B a message: ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 110)
         from pg_stat_statements where dbid = (select oid from pg_database where datname = current_database())
         order by total_exec_time desc limit {SHOWN}"
    );
    println!();
    println!("statements of {count} messages:");
    for line in servers.postgres.psql(database, &sql).await.lines() {
        println!("  {line}");
    }
}
