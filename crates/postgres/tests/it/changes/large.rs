//! One transaction that is larger than memory should be.

use std::time::Duration;

use tidings_servers::postgres::Postgres;

use super::rig::{Rig, open, take, texts, until};

const ROWS: u32 = 200_000;

/// What this process holds, in KiB; 0 where the system does not tell.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_read_as_it_comes_and_a_restart_within_it_skips_what_was_confirmed() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    // Half a kilobyte each: a hundred megabytes together.
    let insert = format!(
        "insert into items (topic, message) select 'messages', n || repeat('x', 500) from generate_series(1, {ROWS}) n"
    );
    rig.sql(server, &insert).await;
    let before = resident_kib();
    let number = |text: &str| text.trim_end_matches('x').parse::<u32>().unwrap();
    let mut next = 1;
    let mut largest = 0;
    for confirmed in [60_000, 120_000, ROWS] {
        // Killed in between: the runtime goes, and everything in it.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = rig.store();
        let (last, kib) = runtime
            .spawn(async move {
                let mut stream = open(&store).await;
                let (mut last, mut kib) = (0, 0);
                while last < confirmed {
                    let captured = take(&mut *stream, 250).await;
                    for text in texts(&captured) {
                        assert_eq!(number(&text), next, "in order, and nothing twice");
                        next += 1;
                    }
                    last = next - 1;
                    kib = kib.max(resident_kib());
                    stream.confirm(captured[249].position).await.unwrap();
                }
                // What is confirmed last is recorded within a moment.
                tokio::time::sleep(Duration::from_millis(500)).await;
                std::mem::forget(stream);
                (last, kib)
            })
            .await
            .unwrap();
        runtime.shutdown_background();
        largest = largest.max(kib);
        next = last + 1;
    }
    assert!(largest < before + 60_000, "{before} KiB before, {largest} KiB while reading");
    until("nobody reads the slot", async || rig.slot(server, "active").await == "f").await;
    let store = rig.store();
    let mut stream = open(&store).await;
    super::rig::nothing_comes(&mut *stream).await;
    rig.insert(server, 7..=7).await;
    assert_eq!(texts(&take(&mut *stream, 1).await), ["7"]);
}
