//! TLS: who is trusted, and who is not.

use std::io::Write as _;

use tempfile::NamedTempFile;
use tidings_domain::{ErrorKind, Result};
use tidings_postgres::{Options, Store};
use tidings_servers::{
    authority::{Authority, Certificate},
    postgres::{Postgres, PostgresOptions},
};

use super::rig::options;

async fn server(tls: Option<Certificate>, tls_only: bool) -> Postgres {
    // As the program does first of all.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Postgres::start_with(PostgresOptions { tls, tls_only, ..PostgresOptions::default() }).await
}

fn file(pem: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(pem).unwrap();
    file
}

/// Whether a session with this mode gets in, trusting `authority`.
async fn enter(server: &Postgres, mode: &str, authority: Option<&Authority>) -> Result<()> {
    let file = authority.map(|authority| file(&authority.pem()));
    let url = format!("{}?sslmode={mode}", server.url("postgres"));
    let ca_file = file.as_ref().map(|file| file.path().to_owned());
    let store = Store::new(Options { ca_file, ..options(&url) })?;
    let entered = store.catalog().installation().await.map(|_| ());
    store.close().await;
    entered
}

async fn refused(server: &Postgres, mode: &str, authority: Option<&Authority>) {
    let error = enter(server, mode, authority).await.expect_err(mode);
    assert_eq!(error.kind, ErrorKind::Misconfigured, "{mode}: {}", error.chain());
}

#[tokio::test]
async fn the_right_authority_and_name_are_trusted() {
    let authority = Authority::new();
    let server = server(Some(authority.certificate("127.0.0.1")), true).await;
    for mode in ["verify-full", "verify-ca", "require", "prefer"] {
        enter(&server, mode, Some(&authority)).await.unwrap();
    }
    // Nobody is named whom to trust: encrypted all the same.
    enter(&server, "require", None).await.unwrap();
    refused(&server, "disable", None).await;
    let stranger = Authority::new();
    for mode in ["verify-full", "verify-ca", "require"] {
        refused(&server, mode, Some(&stranger)).await;
    }
    refused(&server, "verify-full", None).await;
}

#[tokio::test]
async fn another_name_is_trusted_only_where_names_are_not_asked_for() {
    let authority = Authority::new();
    let server = server(Some(authority.certificate("elsewhere.example")), true).await;
    refused(&server, "verify-full", Some(&authority)).await;
    enter(&server, "verify-ca", Some(&authority)).await.unwrap();
}

#[tokio::test]
async fn what_ran_out_is_not_trusted() {
    let authority = Authority::new();
    let server = server(Some(authority.expired("127.0.0.1")), true).await;
    refused(&server, "verify-full", Some(&authority)).await;
    refused(&server, "verify-ca", Some(&authority)).await;
}

#[tokio::test]
async fn plain_text_is_refused_where_tls_is_asked_for() {
    let server = server(None, false).await;
    for mode in ["require", "verify-ca", "verify-full"] {
        refused(&server, mode, Some(&Authority::new())).await;
    }
    enter(&server, "disable", None).await.unwrap();
    enter(&server, "prefer", None).await.unwrap();
}
