use std::{net::SocketAddr, sync::Arc};

use tidings_servers::{
    authority::{Authority, Certificate},
    postgres::{Postgres, PostgresOptions},
    rabbitmq::{RabbitMq, RabbitMqOptions},
    redis::{Redis, RedisOptions},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

use crate::stream::{LONG, ask, connect};

/// A session over `stream` with a client that trusts `authority` and expects the loopback's address as name.
async fn secure(stream: TcpStream, authority: &Authority) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(&authority.pem()).expect("it is a certificate");
    roots.add(root).expect("it can be trusted");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").expect("an address is a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn exchange(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.expect("it reads");
    let mut answer = vec![0; 1024];
    let count = stream.read(&mut answer).await.expect("it answers");
    answer.truncate(count);
    answer
}

/// What the client says of a server on `address`, for certificates with a fault.
async fn complaint(address: SocketAddr, authority: &Authority) -> String {
    secure(connect(address).await, authority).await.expect_err("the client refuses").to_string()
}

fn redis(tls: Certificate) -> RedisOptions {
    RedisOptions { tls: Some(tls), ..RedisOptions::default() }
}

#[tokio::test]
async fn with_postgres_speaks_tls_and_only_that() {
    let authority = Authority::new();
    let postgres = Postgres::start_with(PostgresOptions {
        tls: Some(authority.certificate("127.0.0.1")),
        tls_only: true,
        ..PostgresOptions::default()
    })
    .await;
    let mut stream = connect(postgres.addr()).await;
    let agreed = ask(&mut stream, &[0, 0, 0, 8, 4, 210, 22, 47], LONG).await;
    assert_eq!(agreed.as_deref(), Some(&b"S"[..]));
    secure(stream, &authority).await.expect("the certificate is good");
    let in_plain_text = format!("{}?sslmode=disable", postgres.url("postgres"));
    assert!(in_plain_text.contains("127.0.0.1"));
    assert_eq!(
        postgres.psql("postgres", "select ssl from pg_stat_ssl where pid = pg_backend_pid()").await,
        "t"
    );
}

#[tokio::test]
async fn with_rabbitmq_speaks_tls_and_only_that() {
    let authority = Authority::new();
    let rabbitmq = RabbitMq::start_with(RabbitMqOptions {
        tls: Some(authority.certificate("127.0.0.1")),
        ..RabbitMqOptions::default()
    })
    .await;
    assert!(rabbitmq.url("/").starts_with("amqps://"));
    let mut stream =
        secure(connect(rabbitmq.addr()).await, &authority).await.expect("the certificate is good");
    let answer = exchange(&mut stream, b"AMQP\x00\x00\x09\x01").await;
    assert_eq!(answer.first(), Some(&1), "a method frame");
    assert!(rabbitmq.vhost().await.starts_with("amqps://"));
}

#[tokio::test]
async fn with_redis_speaks_tls_and_shows_certificates_with_faults() {
    let authority = Authority::new();
    let server = Redis::start_with(redis(authority.certificate("127.0.0.1"))).await;
    assert!(server.database().starts_with("rediss://"));
    let mut stream = secure(connect(server.addr()).await, &authority).await.expect("the certificate is good");
    assert_eq!(exchange(&mut stream, b"PING\r\n").await, b"+PONG\r\n");

    let stranger = complaint(server.addr(), &Authority::new()).await;
    assert!(stranger.contains("BadSignature") || stranger.contains("UnknownIssuer"), "{stranger}");
    let expired = Redis::start_with(redis(authority.expired("127.0.0.1"))).await;
    let expired = complaint(expired.addr(), &authority).await;
    assert!(expired.contains("xpired"), "{expired}");
    let misnamed = Redis::start_with(redis(authority.certificate("other.example"))).await;
    let misnamed = complaint(misnamed.addr(), &authority).await;
    assert!(misnamed.contains("not valid for name") || misnamed.contains("NotValidForName"), "{misnamed}");
}
