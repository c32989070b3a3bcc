//! Which server, and how to reach it.

use std::{fs, path::Path};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisResult,
    TlsCertificates, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tidings_domain::{Error, Result};

/// Commands that may wait to be written to the socket; more are not taken.
const WAITING: usize = 1024;

const SHAPE: &str = "write redis://[user:password@]host[:port][/database], or rediss:// for TLS";

/// A server that can be connected to.
pub(crate) struct Server {
    client: Client,
    /// Host and port, for texts.
    pub(crate) name: String,
    is_tls: bool,
}

impl Server {
    /// Reads the URL and the file of certificates. No error holds the URL: it has a password.
    pub(crate) fn new(url: &str, ca_file: Option<&Path>) -> Result<Self> {
        let info = url
            .into_connection_info()
            .map_err(|_| Error::misconfigured(format!("REDIS_URL is no URL of a Redis server: {SHAPE}")))?;
        if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
            let context =
                "REDIS_URL ends in #insecure: certificates are always checked, name your own in a file";
            return Err(Error::misconfigured(context));
        }
        let name = info.addr().to_string();
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        // Without it, a command that follows another waits for an acknowledgement that the server delays.
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self { client: client(info, ca_file)?, name, is_tls })
    }

    /// What to look at where it is silent: a plain Redis waits for the end of what it takes for a command.
    pub(crate) fn silence(&self) -> &'static str {
        if self.is_tls { " (rediss:// asks for TLS: does it speak TLS?)" } else { "" }
    }

    /// A new connection, logged in. Every command on it is timed by its caller.
    pub(crate) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WAITING);
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }
}

fn client(info: ConnectionInfo, ca_file: Option<&Path>) -> Result<Client> {
    let misconfigured =
        |error: redis::RedisError| Error::misconfigured("the Redis client cannot be made").with_source(error);
    let Some(ca_file) = ca_file else { return Client::open(info).map_err(misconfigured) };
    let file = ca_file.display();
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        let context = format!("{file} is given for Redis, and REDIS_URL asks for no TLS: write rediss://");
        return Err(Error::misconfigured(context));
    }
    let root_cert = fs::read(ca_file).map_err(|error| {
        Error::misconfigured(format!("read the certificates of Redis in {file}")).with_source(error)
    })?;
    if !root_cert.windows(BEGIN.len()).any(|window| window == BEGIN) {
        return Err(Error::misconfigured(format!("{file} holds no certificate (PEM)")));
    }
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(root_cert) };
    Client::build_with_tls(info, certificates).map_err(misconfigured)
}

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

#[cfg(test)]
mod tests {
    use tidings_domain::ErrorKind;

    use super::*;

    fn fault(url: &str, ca_file: Option<&Path>) -> String {
        let error = Server::new(url, ca_file).err().expect("it is refused");
        assert_eq!(error.kind, ErrorKind::Misconfigured);
        assert!(!error.chain().contains("hush"), "{}", error.chain());
        error.chain()
    }

    #[test]
    fn a_url_is_read_and_named_without_its_password() {
        for url in ["redis://user:hush@cache:6380/3", "rediss://:hush@cache:6380"] {
            assert_eq!(Server::new(url, None).expect("it is one").name, "cache:6380");
        }
        assert_eq!(Server::new("redis://[::1]", None).expect("it is one").name, "::1:6379");
    }

    #[test]
    fn what_cannot_be_is_named_without_the_password() {
        for url in ["", "cache:6379", "http://:hush@cache", "redis://:hush@cache/zero", "redis://:hush@"] {
            assert!(fault(url, None).contains("write redis://"), "{url}");
        }
        assert!(fault("rediss://:hush@cache#insecure", None).contains("always checked"));
        assert!(fault("redis://:hush@cache", Some(Path::new("ca.pem"))).contains("write rediss://"));
        assert!(fault("rediss://:hush@cache", Some(Path::new("no-such.pem"))).contains("no-such.pem"));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        fs::write(&file, "-----BEGIN RSA PRIVATE KEY-----").expect("written");
        assert!(fault("rediss://:hush@cache", Some(&file)).contains("no certificate"));
        fs::write(&file, "-----BEGIN CERTIFICATE-----\nhush\n").expect("written");
        fault("rediss://:hush@cache", Some(&file));
    }
}
