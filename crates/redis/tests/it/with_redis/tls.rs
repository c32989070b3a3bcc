//! `rediss://` with a private authority.

use std::{io::Write as _, path::PathBuf};

use tempfile::NamedTempFile;
use tidings_servers::{
    authority::{Authority, Certificate},
    redis::{Redis, RedisOptions},
};

use crate::process::{PATIENT, Process, options};

async fn server(certificate: Certificate) -> Redis {
    // As the program does first of all.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Redis::start_with(RedisOptions { tls: Some(certificate), password: Some("s3cret".to_owned()) }).await
}

/// A process that trusts `authority` only.
fn process(url: &str, authority: &Authority) -> (Process, NamedTempFile) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&authority.pem()).unwrap();
    let mut options = options(url, PATIENT);
    options.ca_file = Some(PathBuf::from(file.path()));
    (Process::new(options), file)
}

#[tokio::test]
async fn a_server_of_the_right_name_is_used() {
    let authority = Authority::new();
    let server = server(authority.certificate("127.0.0.1")).await;
    let (process, _file) = process(&server.url(0), &authority);
    assert!(!process.differs(1, 7).await && process.differs(1, 8).await);
    assert_eq!((process.fallbacks(), process.trouble()), (0, None));
    server.kill().await;
    assert!(!process.differs(1, 9).await);
    server.start_again().await;
    process.until_up().await;
}

#[tokio::test]
async fn another_name_an_old_certificate_and_a_strange_authority_are_not() {
    let authority = Authority::new();
    let certificates = [
        authority.certificate("redis.example.com"),
        authority.expired("127.0.0.1"),
        Authority::new().certificate("127.0.0.1"),
    ];
    for certificate in certificates {
        let server = server(certificate).await;
        let (process, _file) = process(&server.url(0), &authority);
        assert!(!process.differs(1, 7).await);
        assert_eq!(process.fallbacks(), 1);
        process.until_trouble("certificate").await;
    }
}

#[tokio::test]
async fn where_tls_is_asked_for_nothing_is_said_in_plain_text_nor_the_other_way_round() {
    let authority = Authority::new();
    let secure = server(authority.certificate("127.0.0.1")).await;
    let plain = Redis::shared().await;
    let (process, _file) = process(&plain.url(0).replace("redis://", "rediss://"), &authority);
    let careless = Process::patient(&secure.url(0).replace("rediss://", "redis://"));
    for process in [process, careless] {
        assert!(!process.differs(1, 7).await);
        assert_eq!(process.fallbacks(), 1);
        assert!(process.trouble().is_some());
    }
}
