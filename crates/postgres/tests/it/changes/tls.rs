//! The stream by the same URL and authority as the pool.

use std::io::Write as _;

use tidings_domain::{ErrorKind, Result};
use tidings_servers::{
    authority::{Authority, Certificate},
    postgres::{Postgres, PostgresOptions},
};

use super::rig::{Rig, open, take, texts};

async fn server(tls: Option<Certificate>, password: bool) -> Postgres {
    let password = password.then(|| "Geheim7".to_owned());
    Postgres::start_with(PostgresOptions {
        tls_only: tls.is_some(),
        tls,
        password,
        ..PostgresOptions::default()
    })
    .await
}

/// Opens a replication connection, as a look at the slot does; the pool's own doors are tested with the records.
async fn look(rig: &Rig, mode: &str, authority: &Authority) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&authority.pem()).unwrap();
    // Whoever names an authority has it asked, so none is named for that.
    let (mode, ca_file) = match mode {
        "require-as-it-is" => ("require", None),
        mode => (mode, Some(file.path().to_owned())),
    };
    let store = rig.store_with(&format!("{}?sslmode={mode}", rig.url), ca_file);
    store.changes().open().await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_stream_with_a_password() {
    let authority = Authority::new();
    let server = server(Some(authority.certificate("127.0.0.1")), true).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&authority.pem()).unwrap();
    let rig = Rig::bare(&server).await;
    let store = rig.store_with(&format!("{}?sslmode=verify-full", rig.url), Some(file.path().to_owned()));
    store.provision().await.unwrap();
    let mut stream = open(&store).await;
    rig.insert(&server, 1..=1).await;
    assert_eq!(texts(&take(&mut *stream, 1).await), ["1"]);
    let encrypted = "select ssl from pg_stat_ssl join pg_stat_replication using (pid)";
    assert_eq!(rig.sql(&server, encrypted).await, "t");
    drop(stream);
    store.close().await;
    for mode in ["verify-full", "verify-ca", "require", "prefer"] {
        look(&rig, mode, &authority).await.unwrap();
    }
    let stranger = Authority::new();
    for (mode, authority) in [("verify-full", &stranger), ("verify-ca", &stranger), ("disable", &authority)] {
        let error = look(&rig, mode, authority).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured, "{mode}: {}", error.chain());
        assert!(!error.chain().contains("Geheim7"), "{}", error.chain());
    }
    let wrong = rig.url.replace("Geheim7", "falsch");
    let error = rig
        .store_with(&format!("{wrong}?sslmode=require"), None)
        .changes()
        .open()
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured, "{}", error.chain());
    assert!(!error.chain().contains("falsch"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_name_or_an_old_one() {
    let authority = Authority::new();
    for certificate in [authority.certificate("elsewhere.example"), authority.expired("127.0.0.1")] {
        let server = server(Some(certificate), false).await;
        let rig = Rig::bare(&server).await;
        for mode in ["verify-full", "verify-ca"] {
            let error = look(&rig, mode, &authority).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Misconfigured, "{}", error.chain());
            assert!(error.context.contains("certificate"), "{}", error.chain());
        }
        // Who does not ask is let in, and told that nothing is provisioned.
        let error = look(&rig, "require-as-it-is", &authority).await.unwrap_err();
        assert!(error.context.contains("tidings provision"), "{}", error.chain());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_where_tls_is_asked_for() {
    let server = server(None, false).await;
    let rig = Rig::bare(&server).await;
    let authority = Authority::new();
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = look(&rig, mode, &authority).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured, "{mode}: {}", error.chain());
        assert!(!error.context.contains("provision"), "{mode}: {}", error.chain());
    }
    let error = look(&rig, "prefer", &authority).await.unwrap_err();
    assert!(error.context.contains("tidings provision"), "{}", error.chain());
}
