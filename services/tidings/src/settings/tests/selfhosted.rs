//! What `selfhosted` has to be told, by which process, and what of it is shown.

use super::*;

const DATABASE: (&str, &str) = ("DATABASE_URL", "postgres://tidings:hunter2@db:5432/tidings");
const AMQP: (&str, &str) = ("AMQP_URL", "amqp://tidings:hunter2@broker:5672/%2f");
const SMTP: (&str, &str) = ("SMTP_URL", "smtp://mail.example.com:25");
const PROFILE: (&str, &str) = ("TIDINGS_PROFILE", "selfhosted");

/// These with what the profile cannot be without.
fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[PROFILE, DATABASE, AMQP, SMTP], more].concat()
}

fn certificate() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").unwrap();
    file
}

#[test]
fn its_three_servers_are_required_and_redis_is_not() {
    let text = faults(&[PROFILE]);
    assert!(text.contains("3 faults"), "{text}");
    for name in ["DATABASE_URL", "AMQP_URL", "SMTP_URL"] {
        assert!(text.contains(&format!("{name}: the profile selfhosted needs it: write ")), "{text}");
    }
    let settings = read(&with(&[])).unwrap();
    let servers = settings.selfhosted.unwrap();
    assert_eq!(servers.database.url.expose(), DATABASE.1);
    assert!(servers.redis.is_none() && servers.amqp.declares && servers.amqp.management_url.is_none());
    assert!(read(&[]).unwrap().selfhosted.is_none(), "embedded has no servers");
}

#[test]
fn each_setting_arrives() {
    let servers = read(&with(&[
        ("REDIS_URL", "redis://:hunter2@cache:6379/1"),
        ("RABBITMQ_MANAGEMENT_URL", "http://tidings:hunter2@broker:15672"),
        ("TIDINGS_TOPOLOGY", "verify"),
        ("TIDINGS_DATABASE_MAX_CONNECTIONS", "7"),
        ("TIDINGS_DATABASE_STATEMENT_TIMEOUT_MS", "1234"),
        ("TIDINGS_AMQP_CONFIRM_TIMEOUT_MS", "4321"),
        ("TIDINGS_AMQP_UNCONFIRMED", "65"),
        ("TIDINGS_REDIS_TIMEOUT_MS", "99"),
        ("TIDINGS_STREAM_STANDBY_POLL_MS", "77"),
    ]))
    .unwrap()
    .selfhosted
    .unwrap();
    assert!(!servers.amqp.declares);
    assert_eq!(servers.amqp.management_url.unwrap().expose(), "http://tidings:hunter2@broker:15672");
    assert_eq!(servers.amqp.confirm_timeout.as_millis(), 4321);
    assert_eq!(servers.amqp.unconfirmed, 65);
    assert_eq!(servers.database.max_connections, 7);
    assert_eq!(servers.database.statement_timeout.as_millis(), 1234);
    let redis = servers.redis.unwrap();
    assert_eq!((redis.url.expose(), redis.timeout.as_millis()), ("redis://:hunter2@cache:6379/1", 99));
    assert_eq!(servers.stream.standby_poll_ms, 77);
}

#[test]
fn wrong_addresses_are_told_together_and_without_their_passwords() {
    let text = faults(&[
        PROFILE,
        SMTP,
        ("DATABASE_URL", "mysql://tidings:hunter2@db/tidings"),
        ("AMQP_URL", "amqp://tidings:hunter2@:99999999/"),
        ("REDIS_URL", "redis:hunter2"),
        ("RABBITMQ_MANAGEMENT_URL", "broker:15672"),
        ("TIDINGS_TOPOLOGY", "perhaps"),
        ("TIDINGS_STREAM_HEARTBEAT_INTERVAL_MS", "5000"),
        ("TIDINGS_AMQP_UNCONFIRMED", "0"),
    ]);
    for part in [
        "7 faults",
        "DATABASE_URL: it does not begin with postgres:// or postgresql://",
        "AMQP_URL: it is no URL",
        "REDIS_URL: it names no host",
        "RABBITMQ_MANAGEMENT_URL: it does not begin with http:// or https://",
        "TIDINGS_TOPOLOGY: \"perhaps\" is neither declare nor verify",
        "TIDINGS_STREAM_SILENCE_LIMIT_MS: a server that only misses a heartbeat is not dead",
        "TIDINGS_AMQP_UNCONFIRMED: 0 is not between 1 and 65535",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}

/// Whoever names a file believes that certificates are looked at.
#[test]
fn certificates_that_would_not_be_looked_at_are_faults() {
    let file = certificate();
    let path = file.path().to_str().unwrap();
    let files =
        [("TIDINGS_DATABASE_CA_FILE", path), ("TIDINGS_AMQP_CA_FILE", path), ("TIDINGS_REDIS_CA_FILE", path)];
    let text = faults(&with(&files));
    for name in files.map(|(name, _)| name) {
        assert!(text.contains(&format!("{name}: no certificate is looked at")), "{text}");
    }
    let looked_at = [
        PROFILE,
        SMTP,
        ("DATABASE_URL", "postgres://tidings@db/tidings?sslmode=verify-full"),
        ("AMQP_URL", "amqps://broker"),
        ("REDIS_URL", "rediss://cache"),
    ];
    let servers = read(&[&looked_at[..], &files].concat()).unwrap().selfhosted.unwrap();
    assert_eq!(servers.database.ca_file.as_deref(), Some(file.path()));
    std::fs::write(file.path(), "nothing of the kind").unwrap();
    assert!(faults(&[&looked_at[..], &files].concat()).contains("there is no certificate (PEM) in"));
    assert!(faults(&with(&[("TIDINGS_AMQP_CA_FILE", "/nowhere/at/all")])).contains("cannot be read"));
}

#[test]
fn keys_concern_the_api_alone() {
    let elsewhere = with(&[("TIDINGS_HTTP_ADDR", "0.0.0.0:8080")]);
    for roles in [&[Role::Api][..], &Role::ALL, &[]] {
        let text = read_for(&elsewhere, roles).expect_err("it has no key").to_string();
        assert!(text.contains("TIDINGS_ADMIN_KEY"), "{text}");
    }
    for role in [Role::Subscriber, Role::CdcWatcher, Role::Mailer] {
        let settings = read_for(&elsewhere, &[role]).unwrap();
        assert_eq!(settings.admin_addr.port(), Role::admin_port(&[role]));
    }
    // They don't listen at that address, so that theirs may be the same.
    let same = with(&[("TIDINGS_ADMIN_ADDR", "127.0.0.1:8080")]);
    assert!(read_for(&same, &[Role::Mailer]).is_ok());
    assert!(read_for(&same, &[Role::Api]).is_err());
}

#[test]
fn a_mailer_by_itself_knows_where_links_lead() {
    let free = with(&[("TIDINGS_HTTP_ADDR", "127.0.0.1:0")]);
    let text = read_for(&free, &[Role::Mailer]).expect_err("the port is not known").to_string();
    assert!(text.contains("TIDINGS_PUBLIC_URL: a mailer by itself"), "{text}");
    assert!(read_for(&free, &[Role::Mailer, Role::Api]).is_ok());
    assert!(read_for(&free, &[Role::Subscriber]).is_ok());
}

#[test]
fn whoever_provisions_mails_nobody_and_serves_nobody() {
    let sources = sources(&[PROFILE, DATABASE, AMQP, ("TIDINGS_HTTP_ADDR", "0.0.0.0:8080")]);
    let mut faults = Faults::default();
    let layers = layers(&sources, &mut faults);
    std::fs::remove_file(sources.file.unwrap()).unwrap();
    check(layers, Scope::Operate(&[]), faults).unwrap();
}

#[test]
fn passwords_come_from_files_and_are_shown_to_nobody() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n", DATABASE.1)).unwrap();
    let sources = sources(&[
        PROFILE,
        SMTP,
        AMQP,
        ("DATABASE_URL_FILE", file.path().to_str().unwrap()),
        ("REDIS_URL", "redis://:hunter2@cache"),
        ("RABBITMQ_MANAGEMENT_URL", "http://tidings:hunter2@broker:15672"),
    ]);
    let mut faults = Faults::default();
    let layers = layers(&sources, &mut faults);
    std::fs::remove_file(sources.file.unwrap()).unwrap();
    for shown in [report::text(&layers), report::json(&layers).to_string()] {
        assert!(!shown.contains("hunter2"), "{shown}");
        for part in ["@db:5432/tidings", "@broker:5672", "@cache", "@broker:15672"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
    let settings = check(layers, Scope::Serve(&[]), faults).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
}
