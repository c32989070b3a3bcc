//! Settings: one URL says where and how; the rest has defaults.

use std::{net::IpAddr, time::Duration};

use url::Url;

/// How the connection is protected. There is no opportunistic mode: whoever cuts STARTTLS out of a reply gets no mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Not at all: only to loopback unless it is asked for by name (`?tls=none`).
    None,
    /// STARTTLS, and no mail without it.
    StartTls,
    /// From the first byte (`smtps://`).
    Wrapper,
}

/// Who we are to the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(…)")
    }
}

/// How long each phase may take (RFC 5321, 4.5.3.2 asks for minutes; the mail itself gets them, since giving up after
/// it has begun leaves its outcome unknown).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Resolving the name and connecting.
    pub connect: Duration,
    /// Until the greeting.
    pub greeting: Duration,
    /// EHLO.
    pub ehlo: Duration,
    /// STARTTLS with its handshake and second EHLO; with `smtps://` the handshake.
    pub starttls: Duration,
    /// AUTH with its challenges.
    pub auth: Duration,
    /// MAIL FROM, also RSET and NOOP between mails.
    pub mail: Duration,
    /// RCPT TO.
    pub rcpt: Duration,
    /// DATA, until its 354.
    pub data: Duration,
    /// The mail itself, until the reply to its final dot.
    pub message: Duration,
    /// QUIT, after which the connection is closed in any case.
    pub quit: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(10),
            greeting: seconds(30),
            ehlo: seconds(30),
            starttls: seconds(30),
            auth: seconds(30),
            mail: seconds(60),
            rcpt: seconds(60),
            data: seconds(60),
            message: seconds(300),
            quit: seconds(5),
        }
    }
}

/// Where mail goes and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpSettings {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: Tls,
    /// Who we are; none sends no AUTH.
    pub login: Option<Login>,
    /// What we call ourselves in EHLO; this machine's name when it is not given.
    pub hello_name: Option<String>,
    /// Certificates (PEM) that are trusted beside the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// The most connections at once.
    pub max_connections: usize,
    /// Mails that one connection carries before it is closed.
    pub max_mails_per_connection: u32,
    /// How long a connection without work is kept.
    pub idle: Duration,
    /// How long each phase may take.
    pub deadlines: Deadlines,
}

impl SmtpSettings {
    /// Connections at once when nothing else is said: well below the 50 that Postfix grants a client
    /// (`smtpd_client_connection_count_limit`), and enough that the records of mails under way share commits.
    pub const DEFAULT_MAX_CONNECTIONS: usize = 32;

    /// Reads `smtp://[user:password@]host[:port][?tls=none|starttls]` (port 25, with a login 587) or
    /// `smtps://[user:password@]host[:port]` (port 465). `smtp://` demands STARTTLS unless the host is loopback or
    /// `tls=none` is said. User and password are percent-encoded. The error names the fault and never the password.
    pub fn from_url(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "write smtp://[user:password@]host[:port][?tls=none|starttls] or smtps://...";
        let url = Url::parse(text).map_err(|error| format!("it is no URL ({error}): {SHAPE}"))?;
        let host = match url.host_str() {
            Some(host) if !host.is_empty() => host.trim_matches(['[', ']']).to_owned(),
            _ => return Err(format!("it names no host: {SHAPE}")),
        };
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(format!("nothing follows the host but ?tls=: {SHAPE}"));
        }
        let login = match (decode(url.username())?, url.password().map(decode).transpose()?) {
            (user, Some(password)) if !user.is_empty() => Some(Login { user, password }),
            (user, None) if user.is_empty() => None,
            _ => return Err("user and password come together".to_owned()),
        };
        let mut asked = None;
        for (name, value) in url.query_pairs() {
            asked = match (&*name, &*value) {
                ("tls", "none") => Some(Tls::None),
                ("tls", "starttls") => Some(Tls::StartTls),
                ("tls", _) => return Err("tls is none or starttls".to_owned()),
                (name, _) => return Err(format!("there is no option {name:?}, only tls")),
            };
        }
        let tls = match (url.scheme(), asked) {
            ("smtps", None) => Tls::Wrapper,
            ("smtps", Some(_)) => {
                return Err("smtps:// speaks TLS from the first byte: leave ?tls= out".to_owned());
            }
            ("smtp", Some(tls)) => tls,
            ("smtp", None) if is_loopback(&host) => Tls::None,
            ("smtp", None) => Tls::StartTls,
            (scheme, _) => return Err(format!("{scheme}:// is not for mail: {SHAPE}")),
        };
        let default_port = match tls {
            Tls::Wrapper => 465,
            _ if login.is_some() => 587,
            _ => 25,
        };
        Ok(Self {
            port: url.port().unwrap_or(default_port),
            host,
            tls,
            login,
            hello_name: None,
            ca_pem: None,
            max_connections: Self::DEFAULT_MAX_CONNECTIONS,
            max_mails_per_connection: 1000,
            idle: Duration::from_secs(30),
            deadlines: Deadlines::default(),
        })
    }

    /// Where mail goes, for people: host and port, no login.
    pub fn server(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Percent-decodes a part of a URL.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = || std::str::from_utf8(after.get(..2)?).ok();
        if first == b'%' {
            let byte = hex().and_then(|hex| u8::from_str_radix(hex, 16).ok());
            bytes.push(byte.ok_or("user or password is not percent-encoded: a % is written %25")?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| "user or password is not UTF-8".to_owned())?;
    if text.contains(['\0', '\r', '\n']) {
        return Err("user or password holds a control character".to_owned());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> SmtpSettings {
        SmtpSettings::from_url(url).unwrap()
    }

    #[test]
    fn tls_is_demanded_away_from_loopback() {
        for (url, port, tls) in [
            ("smtp://localhost", 25, Tls::None),
            ("smtp://127.0.0.1:1025", 1025, Tls::None),
            ("smtp://[::1]:1025/", 1025, Tls::None),
            ("smtp://127.0.0.1?tls=starttls", 25, Tls::StartTls),
            ("smtp://mail.example.com", 25, Tls::StartTls),
            ("smtp://mail.example.com?tls=none", 25, Tls::None),
            ("smtp://u:p@mail.example.com", 587, Tls::StartTls),
            ("smtps://u:p@mail.example.com", 465, Tls::Wrapper),
        ] {
            let settings = read(url);
            assert_eq!((settings.port, settings.tls), (port, tls), "{url}");
        }
        assert_eq!(read("smtp://[::1]:1025").server(), "[::1]:1025");
    }

    #[test]
    fn logins_are_decoded_and_never_shown() {
        let settings = read("smtps://a%40example.com:p%25%2F%3A@mail.example.com");
        let login = settings.login.clone().unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("a@example.com", "p%/:"));
        assert!(!format!("{settings:?}").contains("p%/:"));
    }

    #[test]
    fn faults_are_named_without_the_password() {
        for (url, says) in [
            ("mail.example.com", "no URL"),
            ("http://mail.example.com", "not for mail"),
            ("smtp://", "host"),
            ("smtp://user@mail.example.com", "together"),
            ("smtp://mail.example.com?tls=maybe", "none or starttls"),
            ("smtp://mail.example.com?tsl=none", "\"tsl\""),
            ("smtps://mail.example.com?tls=none", "leave ?tls= out"),
            ("smtp://u:secret%zz@mail.example.com", "percent-encoded"),
            ("smtp://mail.example.com/path", "nothing follows"),
        ] {
            let fault = SmtpSettings::from_url(url).unwrap_err();
            assert!(fault.contains(says) && !fault.contains("secret"), "{url}: {fault}");
        }
    }
}
