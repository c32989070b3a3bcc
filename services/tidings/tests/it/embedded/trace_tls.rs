//! A collector with a certificate of a private authority, by OpenTelemetry's own variables.

use std::path::Path;

use tidings_servers::authority::Authority;

use crate::harness::{Server, collector::Collector, run, stderr};

fn file(folder: &Path, name: &str, text: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn it_is_trusted_and_is_shown_who_we_are() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let collector = Collector::secure(authority.acceptor_of_own("127.0.0.1")).await;
    let ours = authority.certificate("tidings");
    let server = Server::start_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &file(folder.path(), "authority", &authority.pem())),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            &file(folder.path(), "certificate", ours.certificate.as_bytes()),
        ),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &file(folder.path(), "key", ours.key.as_bytes())),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ])
    .await;
    server.subscribe_confirmed(&["reader@example.com"]).await;
    let id = server.publish("over TLS").await;
    assert_eq!(server.finished(&id).await["state"], "done");
    collector.wait_until(|spans| spans.iter().any(|span| span.name == "send mail")).await;
    collector.push_that(|push| !push.samples.is_empty()).await;
}

#[tokio::test]
async fn one_of_another_authority_gets_nothing() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let collector = Collector::secure(authority.acceptor("127.0.0.1")).await;
    let stranger = Authority::new();
    let mut server = Server::start_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &file(folder.path(), "stranger", &stranger.pem())),
        ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", &file(folder.path(), "authority", &authority.pem())),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ])
    .await;
    let id = server.publish("for nobody").await;
    server.finished(&id).await;
    collector.push_that(|push| !push.samples.is_empty()).await;
    assert!(server.stop().await.success(), "{}", server.log());
    assert_eq!(collector.spans().len(), 0, "its certificate is a stranger's");
    assert!(server.log().contains("spans cannot be exported"), "{}", server.log());
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_a_fault_of_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/authority.pem"),
    ];
    let refused = run(folder.path(), &settings, &["up"]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let says = "  OTEL_EXPORTER_OTLP_CERTIFICATE: /nowhere/authority.pem cannot be read";
    assert!(stderr(&refused).contains(says), "{refused:?}");
}
