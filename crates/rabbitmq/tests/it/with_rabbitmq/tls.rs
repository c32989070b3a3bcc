//! `amqps://` with a private authority.

use std::io::Write as _;

use tempfile::NamedTempFile;
use tidings_rabbitmq::{Options, RabbitMq};
use tidings_servers::{
    authority::{Authority, Certificate},
    rabbitmq::{RabbitMq as Server, RabbitMqOptions},
};

use crate::stage::{declare, options, publish, topic, until_down};

async fn server(certificate: Certificate) -> Server {
    Server::start_with(RabbitMqOptions { tls: Some(certificate), ..RabbitMqOptions::default() }).await
}

/// Options that trust `authority` only.
fn trusting(url: &str, server: &Server, authority: &Authority) -> (Options, NamedTempFile) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&authority.pem()).unwrap();
    let mut options = options(url, server);
    options.management_url = None;
    options.ca_file = Some(file.path().to_owned());
    (options, file)
}

#[tokio::test]
async fn a_server_of_the_right_name_is_used_and_others_are_not() {
    let authority = Authority::new();
    let server = server(authority.certificate("127.0.0.1")).await;
    let url = server.vhost().await;
    assert!(url.starts_with("amqps://"), "{url}");
    let (right, _file) = trusting(&url, &server, &authority);
    let rabbitmq = RabbitMq::new(right).unwrap();
    declare(&rabbitmq, &["messages"]).await.unwrap();
    publish(&*rabbitmq.bus(), &topic("messages"), 0..100).await;
    rabbitmq.close().await;
    // One that we do not trust.
    let (strange, _file) = trusting(&url, &server, &Authority::new());
    until_down(&RabbitMq::new(strange).unwrap(), "certificate").await;
    // Another name than the certificate's.
    let (other, _file) = trusting(&url.replace("127.0.0.1", "localhost"), &server, &authority);
    until_down(&RabbitMq::new(other).unwrap(), "certificate").await;
    // Plain text to a port that speaks TLS.
    let (plain, _file) = trusting(&url.replace("amqps://", "amqp://"), &server, &authority);
    until_down(&RabbitMq::new(plain).unwrap(), "broker").await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let server = server(authority.expired("127.0.0.1")).await;
    let (options, _file) = trusting(&server.vhost().await, &server, &authority);
    until_down(&RabbitMq::new(options).unwrap(), "certificate").await;
}

#[tokio::test]
async fn where_tls_is_asked_for_nothing_is_said_in_plain_text() {
    let server = Server::shared().await;
    let url = server.vhost().await.replace("amqp://", "amqps://");
    let (options, _file) = trusting(&url, server, &Authority::new());
    until_down(&RabbitMq::new(options).unwrap(), "TLS").await;
}

#[tokio::test]
async fn a_file_without_certificates_is_said_at_once() {
    let server = Server::shared().await;
    let (mut options, mut file) = trusting("amqps://localhost", server, &Authority::new());
    file.as_file_mut().set_len(0).unwrap();
    let error = RabbitMq::new(options.clone()).err().unwrap();
    assert!(error.context.contains("holds none"), "{}", error.context);
    options.ca_file = Some("/nowhere/ca.pem".into());
    let error = RabbitMq::new(options).err().unwrap();
    assert!(error.context.contains("/nowhere/ca.pem"), "{}", error.context);
}
