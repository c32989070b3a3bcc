//! The bounds of the services' own numbers: one with which a service would do nothing, or nothing else than turn, is a fault.

use std::ops::RangeInclusive;

use super::Shape;

const DAY_MS: u64 = 86_400_000;
const DAY_S: u64 = 86_400;
const MOST: u64 = 1_000_000;

/// What is out of its bounds, by the setting's key.
pub(super) fn faults(shape: &Shape) -> Vec<(&'static str, String)> {
    let Shape { api, subscriber, cdc_watcher, mailer, stream, .. } = shape;
    let count = |count: usize| count as u64;
    let all: Vec<(&str, u64, RangeInclusive<u64>)> = vec![
        ("database_max_connections", shape.database_max_connections.into(), 2..=1000),
        ("database_statement_timeout_ms", shape.database_statement_timeout_ms, 100..=DAY_MS),
        ("amqp_confirm_timeout_ms", shape.amqp_confirm_timeout_ms, 100..=DAY_MS),
        ("amqp_unconfirmed", count(shape.amqp_unconfirmed), 1..=65_535),
        ("redis_timeout_ms", shape.redis_timeout_ms, 1..=60_000),
        ("stream.status_interval_ms", stream.status_interval_ms, 10..=60_000),
        ("stream.heartbeat_interval_ms", stream.heartbeat_interval_ms, 100..=DAY_MS),
        // Below the server's wal_sender_timeout, 15 s: whoever stood still for longer may have lost the slot.
        ("stream.silence_limit_ms", stream.silence_limit_ms, 300..=13_000),
        ("stream.stall_limit_ms", stream.stall_limit_ms, 1000..=DAY_MS),
        ("stream.standby_poll_ms", stream.standby_poll_ms, 10..=DAY_MS),
        ("stream.read_ahead", count(stream.read_ahead), 1..=MOST),
        ("api.publish_timeout_ms", api.publish_timeout_ms, 10..=DAY_MS),
        ("api.body_timeout_ms", api.body_timeout_ms, 10..=DAY_MS),
        ("api.request_timeout_ms", api.request_timeout_ms, 10..=DAY_MS),
        ("api.max_wait_s", api.max_wait_s, 0..=DAY_S),
        ("api.max_concurrent_requests", count(api.max_concurrent_requests), 1..=MOST),
        ("api.max_concurrent_waits", count(api.max_concurrent_waits), 1..=MOST),
        ("api.max_concurrent_batches", count(api.max_concurrent_batches), 1..=MOST),
        ("api.publish_burst", api.publish_burst.into(), 1..=u32::MAX.into()),
        ("api.catalog_refresh_ms", api.catalog_refresh_ms, 10..=DAY_MS),
        ("api.catalog_max_age_s", api.catalog_max_age_s, 1..=365 * DAY_S),
        ("api.topology_check_ms", api.topology_check_ms, 10..=DAY_MS),
        ("subscriber.prefetch", count(subscriber.prefetch), 1..=MOST),
        ("subscriber.batch", count(subscriber.batch), 1..=1000),
        ("subscriber.concurrency", count(subscriber.concurrency), 1..=1000),
        ("subscriber.linger_ms", subscriber.linger_ms, 0..=60_000),
        ("subscriber.attempts", subscriber.attempts.into(), 1..=1000),
        ("subscriber.retry_first_ms", subscriber.retry_first_ms, 1..=DAY_MS),
        ("subscriber.retry_most_ms", subscriber.retry_most_ms, 1..=DAY_MS),
        ("subscriber.probe_first_ms", subscriber.probe_first_ms, 1..=DAY_MS),
        ("subscriber.probe_most_ms", subscriber.probe_most_ms, 1..=DAY_MS),
        ("subscriber.retention_days", subscriber.retention_days.into(), 1..=36_500),
        ("subscriber.retention_batch", subscriber.retention_batch.into(), 1..=10_000),
        ("subscriber.retention_pause_ms", subscriber.retention_pause_ms, 1..=DAY_MS),
        ("subscriber.retention_interval_s", subscriber.retention_interval_s, 1..=DAY_S),
        ("cdc_watcher.batch", count(cdc_watcher.batch), 1..=1000),
        ("cdc_watcher.concurrency", count(cdc_watcher.concurrency), 1..=1000),
        ("cdc_watcher.confirm_linger_ms", cdc_watcher.confirm_linger_ms, 0..=60_000),
        ("cdc_watcher.retry_first_ms", cdc_watcher.retry_first_ms, 1..=DAY_MS),
        ("cdc_watcher.retry_most_ms", cdc_watcher.retry_most_ms, 1..=DAY_MS),
        ("cdc_watcher.gap_retry_s", cdc_watcher.gap_retry_s, 1..=DAY_S),
        ("cdc_watcher.backlog_interval_s", cdc_watcher.backlog_interval_s, 1..=DAY_S),
        ("mailer.page_size", mailer.page_size.into(), 1..=10_000),
        ("mailer.concurrency", mailer.concurrency.into(), 1..=10_000),
        // A lease that ends before a mail can be sent hands it to another, who sends it again.
        ("mailer.lease_ms", mailer.lease_ms, 1000..=DAY_MS),
        ("mailer.poll_ms", mailer.poll_ms, 10..=DAY_MS),
        ("mailer.attempts", mailer.attempts.into(), 1..=1000),
        ("mailer.retry_first_s", mailer.retry_first_s, 1..=30 * DAY_S),
        ("mailer.retry_most_s", mailer.retry_most_s, 1..=30 * DAY_S),
        ("mailer.outage_first_ms", mailer.outage_first_ms, 1..=DAY_MS),
        ("mailer.outage_most_ms", mailer.outage_most_ms, 1..=DAY_MS),
    ];
    all.into_iter()
        .filter(|(_, value, bounds)| !bounds.contains(value))
        .map(|(key, value, bounds)| {
            (key, format!("{value} is not between {} and {}", bounds.start(), bounds.end()))
        })
        .collect()
}
