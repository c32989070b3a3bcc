//! Opening a connection: address, TLS, handshake, all within one deadline.

use std::{
    net::{Shutdown, TcpStream},
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    tcp::{AMQPUriTcpExt as _, RustlsConnector, RustlsConnectorConfig},
    uri::{AMQPScheme, AMQPUri},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tidings_domain::{Error, Result};
use tokio::time::timeout;

use crate::failure;

/// TCP, TLS and AMQP's handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Seconds between heartbeats where the URL names none. The library gives a connection up after two of them in silence.
const HEARTBEAT_S: u16 = 10;

/// The largest frame that is asked for where the URL names none: the broker's own default. Not 0, which would take whatever the
/// broker has: the library sets aside 64 of them for a connection.
const FRAME_MAX: u32 = 131_072;

/// What every connection to the broker is made of.
pub(crate) struct Dialer {
    uri: AMQPUri,
    tls: Option<RustlsConnector>,
    name: String,
}

impl Dialer {
    /// Reads the address and the certificates. The context of an error never holds the URL.
    pub(crate) fn new(url: &str, ca_file: Option<&Path>, name: &str) -> Result<Self> {
        let bad = |what: &str| Error::misconfigured(format!("read AMQP_URL: {what}"));
        let parsed = url::Url::parse(url).map_err(|error| bad(&error.to_string()))?;
        if !matches!(parsed.scheme(), "amqp" | "amqps") {
            return Err(bad("it begins with amqp:// or amqps://"));
        }
        let Some(host) = parsed.host() else { return Err(bad("it names no host")) };
        let mut uri: AMQPUri = url.parse().map_err(|error: String| bad(&error))?;
        // The library takes an address in brackets for none at all, and then for localhost.
        if let url::Host::Ipv6(address) = host {
            uri.authority.host = address.to_string();
        }
        // A path that is absent or `/` alone is the default virtual host, as people expect; AMQP's empty name is nobody's.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        let tls = match uri.scheme {
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => Some(connector(ca_file)?),
        };
        Ok(Self { uri, tls, name: name.to_owned() })
    }

    /// The virtual host.
    pub(crate) fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    /// Opens a connection; `role` is added to its name.
    pub(crate) async fn dial(&self, role: &str) -> Result<(Connection, Socket)> {
        let runtime = lapin::runtime::default_runtime().map_err(failure::no_connection)?;
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} {role}", self.name).into())
            .with_client_property("product".into(), "Tidings".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let socket = Socket::default();
        let mut unless_connected = EndOnDrop(Some(socket.clone()));
        let slot = socket.clone();
        let tls = self.tls.clone();
        let own = runtime.clone();
        let connect = async move |uri: AMQPUri, _| {
            silence();
            let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
            let stream = plain.connect_async(&own).await.map_err(lapin::Error::from)?;
            if let AsyncTcpStream::Plain(stream) = &stream {
                slot.keep(TcpStream::from(stream.get_ref().as_fd().try_clone_to_owned()?));
            }
            match &tls {
                None => Ok(stream),
                Some(tls) => stream.into_rustls(tls, &uri.authority.host).await.map_err(lapin::Error::from),
            }
        };
        let connecting = Connection::connector(self.uri.clone(), runtime, connect, properties);
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => {
                unless_connected.0 = None;
                Ok((connection, socket))
            }
            Ok(Err(error)) => Err(failure::no_connection(error)),
            Err(_) => Err(Error::unavailable("connect to the broker: it does not answer")),
        }
    }
}

/// Keeps the library's words off the log, on the thread that runs a connection: it would log every returned message with its
/// body and headers. What happens to a connection is said by [`crate::link`].
fn silence() {
    // Forgotten on purpose: it holds for the thread's whole life, which is the connection's.
    std::mem::forget(tracing::dispatcher::set_default(&tracing::Dispatch::none()));
}

/// A handle to end a connection's socket by. The library's thread waits for a broker that is frozen as long as TCP does, also
/// after its connection was dropped; shut down, the socket ends and the thread with it.
#[derive(Clone, Default)]
pub(crate) struct Socket(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    stream: Option<TcpStream>,
    ended: bool,
}

impl Socket {
    fn keep(&self, stream: TcpStream) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.ended {
            let _ = stream.shutdown(Shutdown::Both);
        }
        kept.stream = Some(stream);
    }

    /// Ends it, also if it is made only later.
    pub(crate) fn end(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.ended = true;
        if let Some(stream) = kept.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Ends the socket of an attempt that failed or was dropped.
struct EndOnDrop(Option<Socket>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.end();
        }
    }
}

/// Those of the file alone, where there is one, else the system's.
fn connector(ca_file: Option<&Path>) -> Result<RustlsConnector> {
    let Some(file) = ca_file else {
        return RustlsConnectorConfig::new_with_native_certs()
            .and_then(RustlsConnectorConfig::connector_with_no_client_auth)
            .map_err(|error| Error::misconfigured("read the system's certificates").with_source(error));
    };
    Ok(RustlsConnector::from(client_config(&certificates(file)?)?))
}

/// Trusts `certificates` and nothing else.
fn client_config(certificates: &[CertificateDer<'static>]) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|error| {
            Error::misconfigured("read the certificates to trust: one cannot be used").with_source(error)
        })?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::misconfigured("set up TLS").with_source(error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The certificates of a file, at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = |error: rustls::pki_types::pem::Error| {
        let context = format!("read the certificates to trust, {}", file.display());
        Error::misconfigured(context).with_source(error)
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .map_err(read)?
        .collect::<std::result::Result<_, _>>()
        .map_err(read)?;
    if certificates.is_empty() {
        let context = format!("read the certificates to trust: {} holds none", file.display());
        return Err(Error::misconfigured(context));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(url: &str) -> Dialer {
        Dialer::new(url, None, "test").unwrap()
    }

    #[test]
    fn an_absent_virtual_host_is_the_default_one() {
        for url in ["amqp://localhost", "amqp://localhost/", "amqp://localhost/%2f"] {
            assert_eq!(dialer(url).vhost(), "/", "{url}");
        }
        assert_eq!(dialer("amqp://localhost/blue%20sky").vhost(), "blue sky");
    }

    #[test]
    fn an_address_in_brackets_is_kept() {
        assert_eq!(dialer("amqp://[::1]:5673").uri.authority.host, "::1");
    }

    #[test]
    fn a_url_that_cannot_be_read_is_not_quoted() {
        for url in ["amqp://user:hush@host:hush/", "http://user:hush@host/", "hush", "amqp:hush"] {
            let error = Dialer::new(url, None, "test").err().unwrap();
            assert_eq!(error.kind, tidings_domain::ErrorKind::Misconfigured);
            assert!(!error.chain().contains("hush"), "{}", error.chain());
        }
    }

    #[test]
    fn what_the_url_says_is_kept() {
        let query = dialer("amqp://h/?heartbeat=3&frame_max=262144").uri.query;
        assert_eq!((query.heartbeat, query.frame_max), (Some(3), Some(262_144)));
    }
}
