//! What Redis's errors say, without what we sent.

use redis::{ErrorKind, RedisError};

/// One line for the log and for people. A server's reply may quote arguments, and with them a password or a name: it is cut
/// there.
pub(crate) fn reason(error: &RedisError) -> String {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "it refuses the user or the password of REDIS_URL".to_owned();
    }
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    };
    let end = [", with args", " script: "].iter().filter_map(|quote| text.find(quote)).min();
    text[..end.unwrap_or(text.len())].to_owned()
}

#[cfg(test)]
mod tests {
    use redis::{ErrorKind, RedisError};

    use super::reason;

    #[test]
    fn arguments_are_not_repeated() {
        let refused = RedisError::from((ErrorKind::AuthenticationFailed, "WRONGPASS", "hush".to_owned()));
        assert_eq!(reason(&refused), "it refuses the user or the password of REDIS_URL");
        let quoting = "unknown command 'EVALSHA', with args beginning with: 'hush' ".to_owned();
        let quoting = RedisError::from((ErrorKind::Client, "ERR", quoting));
        assert_eq!(reason(&quoting), "ERR - Client: unknown command 'EVALSHA'");
        let refused = std::io::Error::other("connection refused");
        assert_eq!(reason(&RedisError::from(refused)), "connection refused");
    }
}
