//! The broker's and the client library's errors as ours.

use lapin::ErrorKind as Cause;
use tidings_domain::{Error, ErrorKind};

/// The AMQP reply codes that are told apart.
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;
const ACCESS_REFUSED: u16 = 403;
const NOT_ALLOWED: u16 = 530;
const FRAME_ERROR: u16 = 501;

/// The client library ends a connection over which such a message comes, and it comes again until the queue's limit of
/// deliveries moves it to the safety net.
const UNREADABLE: &str = "the broker sent what AMQP's client library cannot read, such as a message with a header name that is \
                          not UTF-8 or with headers larger than a frame: if it goes on, take that message out of its queue by hand";

/// The broker's reply code, where it gave one.
pub(crate) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        Cause::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// Whether the broker says that something does not exist.
pub(crate) fn is_not_found(error: &lapin::Error) -> bool {
    code(error) == Some(NOT_FOUND)
}

/// What `what` failed with; nothing of it was done.
pub(crate) fn failed(what: &str, error: lapin::Error) -> Error {
    // The broker's own words name the thing, the property, its value and the one that was asked for.
    let said = match error.kind() {
        Cause::ProtocolError(error) => error.get_message().as_str().to_owned(),
        _ => String::new(),
    };
    match code(&error) {
        Some(NOT_FOUND) => Error::not_found(format!("{what}: {said}")),
        Some(PRECONDITION_FAILED | RESOURCE_LOCKED) => Error::conflict(format!(
            "{what}: {said}: something of that name stands with other properties: remove it, or choose another namespace"
        )),
        Some(ACCESS_REFUSED | NOT_ALLOWED) => {
            Error::misconfigured(format!("{what}: {said}: give the user of AMQP_URL these rights"))
        }
        _ => Error::unavailable(format!("{what}: the connection to the broker is lost")).with_source(error),
    }
}

/// Why a connection ended.
pub(crate) fn connection_lost(why: Option<lapin::Error>) -> Error {
    let lost = "the connection to the broker is lost";
    let Some(why) = why else { return Error::unavailable(lost) };
    Error::unavailable(if is_unreadable(&why) { UNREADABLE } else { lost }).with_source(why)
}

/// Whether a connection ended over what the client library cannot read.
pub(crate) fn is_unreadable(why: &lapin::Error) -> bool {
    matches!(why.kind(), Cause::ParsingError(_)) || code(why) == Some(FRAME_ERROR)
}

/// Why no connection came to be.
pub(crate) fn no_connection(error: lapin::Error) -> Error {
    if let Cause::ProtocolError(cause) = error.kind() {
        let said = cause.get_message().as_str();
        let mend = match cause.get_id() {
            ACCESS_REFUSED => "check user and password in AMQP_URL",
            NOT_ALLOWED => {
                "check the virtual host at the end of AMQP_URL, and that the user may use it (`rabbitmqctl set_permissions`)"
            }
            _ => "",
        };
        if !mend.is_empty() {
            return Error::misconfigured(format!("connect to the broker: {}: {mend}", without_login(said)));
        }
    }
    if let Cause::IOError(cause) = error.kind()
        && let Some(tls) = tls_error(cause)
    {
        return Error::misconfigured(format!(
            "connect to the broker by TLS: {tls}: check that the port of AMQP_URL speaks TLS, and its certificate"
        ));
    }
    Error::unavailable("connect to the broker").with_source(error)
}

/// The broker's words without the user's name, which it quotes.
fn without_login(said: &str) -> String {
    let mut quoted = false;
    let mut text = String::with_capacity(said.len());
    for part in said.split('\'') {
        text.push_str(if quoted { "'...'" } else { part });
        quoted = !quoted;
    }
    text
}

/// What TLS stumbled on, if it is that.
fn tls_error(error: &std::io::Error) -> Option<String> {
    let inner = error.get_ref()?;
    if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
        return Some(tls.to_string());
    }
    let mut next = inner.source();
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Some(tls.to_string());
        }
        next = cause.source();
    }
    None
}

/// The same error for each of several.
pub(crate) fn each(error: &Error, count: usize) -> Vec<tidings_domain::Result<()>> {
    (0..count).map(|_| Err(error.copy())).collect()
}

/// What everything answers once the bus is closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the bus is closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_not_quoted() {
        let said = "ACCESS_REFUSED - Login was refused for user 'bob' using mechanism PLAIN";
        assert!(!without_login(said).contains("bob"));
        assert!(without_login(said).ends_with("using mechanism PLAIN"));
    }
}
