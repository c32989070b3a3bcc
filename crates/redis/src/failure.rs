//! What Redis's errors say, without what we sent.

use redis::RedisError;

/// One line for the log and for people. A server's reply may quote arguments, and with them a password or a name: it is cut
/// there.
pub(crate) fn reason(error: &RedisError) -> String {
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
        let quoting = "ERR unknown command 'AUTH', with args beginning with: 'hush' ".to_owned();
        let error =
            RedisError::from((ErrorKind::AuthenticationFailed, "Password authentication failed", quoting));
        assert_eq!(
            reason(&error),
            "Password authentication failed - AuthenticationFailed: ERR unknown command 'AUTH'"
        );
        let refused = std::io::Error::other("connection refused");
        assert_eq!(reason(&RedisError::from(refused)), "connection refused");
    }
}
