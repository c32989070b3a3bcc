//! Addresses that people give: tests run against those servers then, and take away what they made there.
#![expect(clippy::disallowed_methods, reason = "people name their servers by variables")]

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::Path,
};

use crate::guardian::Guardian;

/// The address in the variable `name`, if there is one.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The parts of a URL as servers have them.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// Before `://`.
    pub(crate) scheme: String,
    /// User and password as they stand, with the `@`; or empty.
    pub(crate) login: String,
    /// Host and port.
    pub(crate) host: String,
    /// After the host, without the slash and what follows `?`.
    pub(crate) path: String,
    /// From `?` on; or empty.
    pub(crate) query: String,
}

impl Parts {
    /// Takes it apart.
    pub(crate) fn of(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or_else(|| panic!("a server's URL has no scheme"));
        let (rest, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, host) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let [scheme, login, host, path, query] = [scheme, login, host, path, query].map(str::to_owned);
        Self { scheme, login, host, path, query }
    }

    /// The same server with another path.
    pub(crate) fn with_path(&self, path: &str) -> String {
        format!("{}://{}{}/{path}{}", self.scheme, self.login, self.host, self.query)
    }

    /// The host without its port.
    pub(crate) fn name(&self) -> &str {
        match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => &self.host,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self, default_port: u16) -> SocketAddr {
        let host = if self.name() == self.host {
            format!("{}:{default_port}", self.host)
        } else {
            self.host.clone()
        };
        host.to_socket_addrs()
            .ok()
            .and_then(|mut found| found.next())
            .unwrap_or_else(|| panic!("{host} is no address"))
    }
}

/// Takes away what tests of this process made on a server that is not ours, when it ends.
pub(crate) struct Traces {
    guardian: Guardian,
}

impl Traces {
    /// Nothing to take away yet.
    pub(crate) fn new(what: &str) -> Self {
        Self { guardian: Guardian::new(what) }
    }

    /// A name that is nobody else's, of letters, digits and `separator`.
    pub(crate) fn unique(&self, separator: &str) -> String {
        let name = self.guardian.folder().file_name().expect("a folder of ours has a name");
        name.to_string_lossy().replace('-', separator)
    }

    /// Adds to what the shell runs at the end.
    pub(crate) fn at_end(&self, script: &str) {
        let file = self.guardian.folder().join("at-end");
        append_private(&file, script);
    }
}

fn append_private(file: &Path, text: &str) {
    use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _};
    OpenOptions::new()
        .create(true)
        .append(true)
        // It may hold a password.
        .mode(0o600)
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("a folder of ours can be written");
}
