//! The transport on `pgwire-replication`. Its worker task owns the socket, answers the server and reports positions,
//! whatever we do meanwhile.

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt as _;
use pgwire_replication::{
    Lsn as WireLsn, PgWireError, ReplicationClient, ReplicationConfig, ReplicationEvent, SslMode, TlsConfig,
    client::ReplicationMetrics,
};
use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgSslMode},
};
use tidings_domain::{Error, Result};
use tokio::time::timeout;
use url::Url;

use super::{
    failure::{Class, Failure},
    lsn::Lsn,
    transport::{Connector, Event, Gate, Identity, TextRow, Transport},
};

/// How long connecting, or an answer before the stream begins, may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long the worker may take to say goodbye.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// Events between the worker and us. The largest row has 255 KiB: so few bound the memory, and are enough for a burst.
const EVENTS: usize = 128;

/// The library reports a raised position at most this often. How often we raise it is our own matter.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// How often the worker reports where nothing else is to be done: what the server's `wal_sender_timeout` waits for.
const WAKEUP_INTERVAL: Duration = Duration::from_secs(1);

/// What each session sets for itself where the URL says nothing: that the server lets go of the slot soon where we are gone
/// without a word.
const SERVER: &str = "-c wal_sender_timeout=15s -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=3 \
                      -c tcp_keepalives_count=3";

/// What it sets whatever the URL says: texts as we read them.
const TEXTS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c timezone=UTC \
                     -c bytea_output=hex -c statement_timeout=0";

/// Makes connections to one slot.
pub(crate) struct PgwireConnector {
    config: ReplicationConfig,
}

impl PgwireConnector {
    /// For the slot and the publication of this (checked) name, by the same URL as the pool. The modes of TLS are libpq's;
    /// `prefer` takes TLS where the server has it, without looking at its certificate; `verify-ca` also asks for the right
    /// name, which libpq does not: the library (0.5.0) does not know the error again that its TLS library gives for it.
    pub(crate) fn new(
        url: &str,
        connect: &PgConnectOptions,
        ca_file: Option<PathBuf>,
        slot: &str,
    ) -> Result<Self> {
        // What the driver has read of the URL, the environment and the password file, put together again.
        let whole = connect.to_url_lossy();
        let password = whole.password().and_then(decoded).unwrap_or_default();
        let user = connect.get_username();
        let database = connect.get_database().unwrap_or(user);
        let mut config = match connect.get_socket() {
            Some(folder) => {
                let folder = folder.to_string_lossy().into_owned();
                ReplicationConfig::unix(folder, connect.get_port(), user, password, database, slot, slot)
            }
            None => {
                let host = connect.get_host();
                ReplicationConfig::new(host, user, password, database, slot, slot)
                    .with_port(connect.get_port())
                    .with_tls(tls(url, connect, ca_file)?)
            }
        };
        let options = [SERVER, connect.get_options().unwrap_or_default(), TEXTS].join(" ");
        config = config
            .with_options(options)
            .with_buffer_size(EVENTS)
            .with_status_interval(REPORT_INTERVAL)
            .with_wakeup_interval(WAKEUP_INTERVAL);
        if let Some(name) = connect.get_application_name() {
            config = config.with_application_name(name);
        }
        Ok(Self { config })
    }
}

fn tls(url: &str, connect: &PgConnectOptions, ca_file: Option<PathBuf>) -> Result<TlsConfig> {
    let url = Url::parse(url).map_err(|_| Error::misconfigured("read DATABASE_URL: it is no URL"))?;
    let file = |names: [&str; 3]| {
        url.query_pairs().find(|(key, _)| names.contains(&&**key)).map(|(_, value)| PathBuf::from(&*value))
    };
    let ca = ca_file.or_else(|| file(["sslrootcert", "ssl-root-cert", "ssl-ca"]));
    let mut tls = TlsConfig {
        mode: match connect.get_ssl_mode() {
            PgSslMode::Disable => SslMode::Disable,
            PgSslMode::Allow | PgSslMode::Prefer => SslMode::Prefer,
            PgSslMode::Require => SslMode::Require,
            PgSslMode::VerifyCa => SslMode::VerifyCa,
            PgSslMode::VerifyFull => SslMode::VerifyFull,
        },
        ca_pem_path: ca,
        ..TlsConfig::default()
    };
    if matches!(tls.mode, SslMode::VerifyFull) {
        // Said in so many words, the library also checks an address against the certificate.
        tls = tls.with_sni_hostname(connect.get_host());
    }
    tls.client_cert_pem_path = file(["sslcert", "ssl-cert", "sslcert"]);
    tls.client_key_pem_path = file(["sslkey", "ssl-key", "sslkey"]);
    Ok(tls)
}

/// Percent-decoding, as URLs have it.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).ok()?);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[async_trait]
impl Connector for PgwireConnector {
    async fn connect(&self) -> std::result::Result<Box<dyn Gate>, Failure> {
        // Whoever runs us has installed a provider; the library would else install another one for the whole process.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _installed_by_another = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let client = ReplicationClient::connect_gated(self.config.clone()).await.map_err(failure)?;
        let mut gate = PgwireGate { client: Some(client) };
        // It returns before it is connected: the first question finds out.
        gate.identify().await?;
        Ok(Box::new(gate))
    }
}

struct PgwireGate {
    /// None once it is closed.
    client: Option<ReplicationClient>,
}

impl PgwireGate {
    /// Runs `call` with the time limit; a client that does not answer is let go at once.
    async fn bounded<'a, T, F>(
        &'a mut self,
        call: impl FnOnce(&'a mut ReplicationClient) -> F,
    ) -> std::result::Result<T, Failure>
    where
        F: Future<Output = std::result::Result<T, PgWireError>> + 'a,
    {
        let client = self.client.as_mut().ok_or_else(|| Failure::away("the connection is closed"))?;
        match timeout(ANSWER_LIMIT, call(client)).await {
            Ok(answer) => answer.map_err(failure),
            Err(_) => Err(Failure::away("the server did not answer in time")),
        }
    }
}

impl Drop for PgwireGate {
    /// Not in order: the worker would wait for a server that may never answer.
    fn drop(&mut self) {
        if let Some(client) = &mut self.client {
            client.abort();
        }
    }
}

#[async_trait]
impl Gate for PgwireGate {
    async fn identify(&mut self) -> std::result::Result<Identity, Failure> {
        let answer = self.bounded(ReplicationClient::identify_system).await?;
        Ok(Identity { system_id: answer.system_id, timeline: answer.timeline })
    }

    async fn history(&mut self, timeline: u32) -> std::result::Result<Vec<(u32, Lsn)>, Failure> {
        let answer = self.bounded(|client| client.timeline_history(timeline)).await?;
        Ok(history(&String::from_utf8_lossy(&answer.content)))
    }

    async fn query(&mut self, sql: &str) -> std::result::Result<Vec<TextRow>, Failure> {
        let rows = self.bounded(|client| client.simple_query(sql)).await?;
        let text =
            |value: Option<bytes::Bytes>| value.map(|value| String::from_utf8_lossy(&value).into_owned());
        Ok(rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect())
    }

    async fn start(mut self: Box<Self>) -> std::result::Result<Box<dyn Transport>, Failure> {
        self.bounded(ReplicationClient::start).await?;
        self.bounded(ReplicationClient::wait_started).await?;
        let client = self.client.take().ok_or_else(|| Failure::away("the connection is closed"))?;
        let metrics = client.metrics();
        Ok(Box::new(PgwireTransport { client, metrics, received: 0 }))
    }
}

/// A history file: lines of a timeline's number, where it ended, and why.
fn history(text: &str) -> Vec<(u32, Lsn)> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, Lsn::parse(words.next()?)?))
    };
    text.lines().filter_map(entry).collect()
}

struct PgwireTransport {
    client: ReplicationClient,
    metrics: Arc<ReplicationMetrics>,
    received: u64,
}

#[async_trait]
impl Transport for PgwireTransport {
    async fn next(&mut self, events: &mut Vec<Event>, most: usize) -> std::result::Result<(), Failure> {
        let first = self.client.recv().await.map_err(failure)?;
        self.received += 1;
        events.push(event(first.ok_or_else(|| Failure::away("the server ended the stream"))?));
        // Only what is known to be there: a receive that is given up while the worker ends would lose its error.
        while events.len() < most && self.received < self.metrics.events_forwarded() {
            let Some(next) = self.client.recv().now_or_never() else { break };
            self.received += 1;
            match next {
                Ok(Some(next)) => events.push(event(next)),
                Ok(None) => break,
                Err(error) => return Err(failure(error)),
            }
        }
        Ok(())
    }

    fn report(&mut self, applied: Lsn) {
        self.client.update_applied_lsn(WireLsn(applied.0));
    }

    fn reported(&mut self) -> Lsn {
        Lsn(self.metrics.last_applied_lsn().0)
    }

    async fn close(mut self: Box<Self>) {
        let _closed_or_late = timeout(CLOSE_LIMIT, self.client.shutdown()).await;
    }
}

impl Drop for PgwireTransport {
    fn drop(&mut self) {
        self.client.abort();
    }
}

fn event(event: ReplicationEvent) -> Event {
    match event {
        ReplicationEvent::Begin { final_lsn, xid, .. } => Event::Begin { commit: Lsn(final_lsn.0), xid },
        ReplicationEvent::Commit { end_lsn, .. } => Event::Commit { end: Lsn(end_lsn.0) },
        ReplicationEvent::XLogData { data, .. } => Event::Data(data),
        ReplicationEvent::Message { transactional, lsn, prefix, content } => {
            Event::Message { transactional, lsn: Lsn(lsn.0), prefix, content }
        }
        ReplicationEvent::KeepAlive { wal_end, reply_requested, .. } => {
            Event::KeepAlive { wal_end: Lsn(wal_end.0), reply_requested }
        }
        // Only where a place to stop at was given.
        ReplicationEvent::StoppedAt { reached } => {
            Event::KeepAlive { wal_end: Lsn(reached.0), reply_requested: false }
        }
    }
}

fn failure(error: PgWireError) -> Failure {
    let text = error.to_string();
    match error {
        PgWireError::Server(_) => Failure::of_server(text),
        PgWireError::Auth(_) => Failure { class: Class::Refused, text },
        PgWireError::Tls(_) if !is_cut_off(&text) => Failure { class: Class::Untrusted, text },
        PgWireError::Protocol(_) | PgWireError::MessageTooLarge { .. } => Failure::protocol(text),
        _ => Failure::away(text),
    }
}

/// Whether a handshake failed since the other side went away, not for what it showed.
fn is_cut_off(text: &str) -> bool {
    ["eof", "reset", "broken pipe", "os error"].iter().any(|word| text.to_ascii_lowercase().contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_is_lines_of_timelines() {
        let text = "1\t0/15D5A88\tno recovery target specified\n\n2\t0/3000000\tbefore 2026\n# nothing\n";
        assert_eq!(history(text), [(1, Lsn(0x15D_5A88)), (2, Lsn(0x300_0000))]);
    }

    #[test]
    fn a_password_is_decoded() {
        assert_eq!(decoded("a%40b%2Fc%25+").as_deref(), Some("a@b/c%+"));
        assert_eq!(decoded("%").as_deref(), Some("%"));
        assert_eq!(decoded("%ff"), None);
    }

    #[test]
    fn modes_of_tls_are_those_of_libpq() {
        for (mode, ours) in [
            ("disable", SslMode::Disable),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ] {
            let url = format!("postgres://u:p%40ss@127.0.0.1:1/d?sslmode={mode}");
            let connect: PgConnectOptions = url.parse().unwrap();
            let connector = PgwireConnector::new(&url, &connect, Some("/ca.pem".into()), "tidings").unwrap();
            assert_eq!(connector.config.tls.mode, ours);
            assert_eq!(connector.config.password, "p@ss");
            assert_eq!(connector.config.tls.ca_pem_path, Some("/ca.pem".into()));
            let named = connector.config.tls.sni_hostname.is_some();
            assert_eq!(named, mode == "verify-full");
        }
    }
}
