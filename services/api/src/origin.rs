//! With keys off, any web page could post to a server on loopback through its reader's browser. So a request that says
//! it comes from another origin, or that was sent to a name which is not ours (DNS rebinding), is refused.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, StatusCode, Uri, header};

use crate::problem::{Problem, Result};

/// The names that are ours.
pub(crate) struct OwnHosts {
    /// Host and port of the public address.
    public: Option<String>,
    /// Those that are allowed besides.
    allowed: Vec<String>,
}

impl OwnHosts {
    pub(crate) fn new(public_url: &str, allowed: &[String]) -> Self {
        Self {
            public: authority(public_url).map(str::to_ascii_lowercase),
            allowed: allowed.iter().map(|host| host.trim().to_ascii_lowercase()).collect(),
        }
    }

    /// Ends with 403 where `Host` is not ours.
    pub(crate) fn check_host(&self, headers: &HeaderMap, uri: &Uri) -> Result<()> {
        let Some(host) = host_of(headers, uri) else { return Ok(()) };
        if is_loopback(host_alone(host)) || self.is_own(host) {
            return Ok(());
        }
        Err(refused("foreign-host", format!("the request was sent to the name {host:?}, which is not ours")))
    }

    /// Ends with 403 where `Origin` is another than ours.
    pub(crate) fn check_origin(&self, headers: &HeaderMap, uri: &Uri) -> Result<()> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or("?");
        let from = authority(origin);
        let same = |host: &str| from.is_some_and(|from| from.eq_ignore_ascii_case(host));
        if host_of(headers, uri).is_some_and(same) || from.is_some_and(|from| self.is_own(from)) {
            return Ok(());
        }
        Err(refused(
            "foreign-origin",
            format!("the request comes from a web page of {origin:?}, which is not ours"),
        ))
    }

    /// An allowed name without a port stands for every port.
    fn is_own(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.public.as_ref() == Some(&host)
            || self.allowed.iter().any(|name| *name == host || name == host_alone(&host))
    }
}

fn refused(name: &str, detail: String) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, name, "The request is not for us", detail).mend(
        "with TIDINGS_AUTH=off only loopback, the host of TIDINGS_PUBLIC_URL and those in allowed_hosts are served: \
         add the name to allowed_hosts, or set TIDINGS_AUTH=required and send a key",
    )
}

fn host_of<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    match headers.get(header::HOST) {
        Some(host) => Some(host.to_str().unwrap_or("?")),
        None => uri.authority().map(axum::http::uri::Authority::as_str),
    }
}

/// Host and port of a URL or origin.
fn authority(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    Some(rest.split(['/', '?', '#']).next().unwrap_or(rest)).filter(|authority| !authority.is_empty())
}

/// A host without its port.
fn host_alone(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn is_loopback(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> OwnHosts {
        OwnHosts::new("https://tidings.example.com/x", &["api".to_owned(), "Other.example:9000".to_owned()])
    }

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_our_own_names_are_served() {
        let uri = Uri::from_static("/");
        for own in [
            "localhost:8080",
            "LOCALHOST",
            "127.0.0.1:1",
            "127.8.8.8",
            "[::1]:8080",
            "tidings.example.com",
            "api:8080",
            "other.example:9000",
        ] {
            assert!(hosts().check_host(&headers(own, None), &uri).is_ok(), "{own}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example:8080",
            "tidings.example.com:1",
            "other.example",
            "10.0.0.1",
            "[::2]",
        ] {
            assert!(hosts().check_host(&headers(foreign, None), &uri).is_err(), "{foreign}");
        }
        assert!(hosts().check_host(&HeaderMap::new(), &uri).is_ok());
    }

    #[test]
    fn only_our_own_pages_may_ask() {
        let uri = Uri::from_static("/");
        let check = |origin| hosts().check_origin(&headers("localhost:8080", origin), &uri);
        for own in ["http://localhost:8080", "https://tidings.example.com", "http://api:3"] {
            assert!(check(Some(own)).is_ok(), "{own}");
        }
        assert!(check(None).is_ok());
        for foreign in ["null", "https://evil.example", "http://localhost:3000", "http://127.0.0.1:8080", ""]
        {
            assert!(check(Some(foreign)).is_err(), "{foreign}");
        }
    }
}
