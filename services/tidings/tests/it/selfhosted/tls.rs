//! TLS to every server, with certificates of an authority of our own: right ones are taken, wrong ones are named.

use std::path::{Path, PathBuf};

use tidings_servers::{
    authority::Authority,
    postgres::{Postgres, PostgresOptions},
    rabbitmq::{RabbitMq, RabbitMqOptions},
    redis::{Redis, RedisOptions},
    smtp::{Options, SmtpServer, TlsMode},
};

use super::{
    servers::{Either, Servers},
    stack::Stack,
};
use crate::harness::stderr;

/// The address that all servers of the tests have.
const HOST: &str = "127.0.0.1";

/// Servers that speak nothing else, with certificates that `sign` makes.
async fn servers(certificate: impl Fn() -> tidings_servers::authority::Certificate) -> Servers {
    let postgres = PostgresOptions { tls: Some(certificate()), tls_only: true, ..PostgresOptions::default() };
    let rabbitmq = RabbitMqOptions { tls: Some(certificate()), ..RabbitMqOptions::default() };
    let redis = RedisOptions { tls: Some(certificate()), ..RedisOptions::default() };
    let (postgres, rabbitmq, redis) = tokio::join!(
        Postgres::start_with(postgres),
        RabbitMq::start_with(rabbitmq),
        Redis::start_with(redis)
    );
    Servers { postgres: Either::Own(postgres), rabbitmq: Either::Own(rabbitmq), redis: Either::Own(redis) }
}

/// The settings that trust `ca` and ask for TLS to every server.
fn ask_for_tls(stack: &mut Stack, ca: &Path) {
    for name in
        ["TIDINGS_DATABASE_CA_FILE", "TIDINGS_AMQP_CA_FILE", "TIDINGS_REDIS_CA_FILE", "TIDINGS_SMTP_CA_FILE"]
    {
        stack.set(name, ca.to_str().unwrap());
    }
    let database =
        format!("{}?sslmode=verify-full", stack.setting("DATABASE_URL").split('?').next().unwrap());
    stack.set("DATABASE_URL", &database);
}

fn ca_file(folder: &Path, authority: &Authority) -> PathBuf {
    let path = folder.join("ca.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    path
}

#[tokio::test]
async fn with_a_private_authority_everything_is_encrypted_and_a_wrong_name_is_told() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = ca_file(folder.path(), &authority);
    let mut stack = Stack::prepare(servers(|| authority.certificate(HOST)).await, &[]).await;
    let smtp = SmtpServer::start_with(Options {
        tls: TlsMode::StartTls,
        acceptor: Some(authority.acceptor(HOST)),
        ..Options::default()
    })
    .await;
    let smtp_url = format!("{}?tls=starttls", smtp.url());
    stack.set("SMTP_URL", &smtp_url);
    ask_for_tls(&mut stack, &ca);
    assert!(stack.setting("AMQP_URL").starts_with("amqps://"));
    assert!(stack.setting("REDIS_URL").starts_with("rediss://"));
    stack.provision().await;
    stack.up_all().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let id = stack.publish("under seal").await;
    assert_eq!(stack.finished(&id).await["deliveries"]["sent"], 1);
    assert!(smtp.wait_for_mails(1).await[0].text().contains("under seal"));
    let sessions = "select count(*) filter (where ssl), count(*) filter (where not ssl) \
        from pg_stat_ssl join pg_stat_activity using (pid) where application_name like 'tidings%'";
    let counted = stack.psql(sessions).await;
    let (sealed, open) = counted.split_once('|').unwrap();
    assert!(sealed.parse::<u32>().unwrap() >= 4 && open == "0", "{counted}");
    let api = stack.process("api").readiness().await;
    assert_eq!(api["degraded"], false, "{api:#}");
    for (case, server, says) in wrong_mail_servers(&authority).await {
        let url = format!("{}?tls=starttls", server.url());
        mail_server_named(&mut stack, case, &url, says).await;
        let seen = server.seen();
        assert_eq!((seen.count("AUTH"), seen.count("MAIL")), (0, 0), "{case}: {:?}", seen.commands);
    }
    let by_name = smtp_url.replace(HOST, "localhost");
    mail_server_named(&mut stack, "name", &by_name, "certificate").await;
    // They wait for the right one, and no attempt of theirs was used.
    stack.set("SMTP_URL", &smtp_url);
    stack.up_as("mailer-right", &["mailer"]).await;
    smtp.wait_for_mails(5).await;
    for message in stack.all("/v1/messages").await {
        let id = message["id"].as_str().unwrap();
        stack.finished(id).await;
        assert_eq!(stack.deliveries(id).await[0]["attempts"], 1, "{id}");
    }
    stack.stop_all().await;

    // The certificates are for the address: by another name of the machine the servers are strangers.
    for name in ["DATABASE_URL", "AMQP_URL", "REDIS_URL", "SMTP_URL"] {
        let by_name = stack.setting(name).replace(HOST, "localhost");
        stack.set(name, &by_name);
    }
    let refused = stack.run(&["provision"]).await;
    assert_ne!(refused.status.code(), Some(0), "{refused:?}");
    assert!(stderr(&refused).contains("certificate"), "{refused:?}");
    named(&mut stack, "name").await;
}

#[tokio::test]
async fn what_is_expired_or_of_another_authority_or_plain_is_told() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = ca_file(folder.path(), &authority);
    let mut stack = Stack::prepare(servers(|| authority.expired(HOST)).await, &[]).await;
    ask_for_tls(&mut stack, &ca);
    named(&mut stack, "expired").await;

    let stranger = folder.path().join("stranger");
    std::fs::create_dir(&stranger).unwrap();
    ask_for_tls(&mut stack, &ca_file(&stranger, &Authority::new()));
    named(&mut stack, "stranger").await;
    drop(stack);

    // Servers that speak no TLS, and clients that ask for it.
    let mut stack = Stack::prepare(Servers::shared().await, &[]).await;
    let amqp = stack.setting("AMQP_URL").replace("amqp://", "amqps://");
    stack.set("AMQP_URL", &amqp);
    let redis = stack.setting("REDIS_URL").replace("redis://", "rediss://");
    stack.set("REDIS_URL", &redis);
    ask_for_tls(&mut stack, &ca);
    named(&mut stack, "plain").await;
}

/// Mail servers that no mail may go to: each with its case, and what has to be said of it.
async fn wrong_mail_servers(authority: &Authority) -> Vec<(&'static str, SmtpServer, &'static str)> {
    let start =
        async |tls, acceptor| SmtpServer::start_with(Options { tls, acceptor, ..Options::default() }).await;
    let elsewhere = authority.acceptor("mail.example.com");
    vec![
        ("plain", start(TlsMode::None, None).await, "starttls"),
        ("stranger", start(TlsMode::StartTls, Some(Authority::new().acceptor(HOST))).await, "certificate"),
        ("elsewhere", start(TlsMode::StartTls, Some(elsewhere)).await, "certificate"),
    ]
}

/// A mailer that finds its mail server wrong says so, and keeps what it has to send.
async fn mail_server_named(stack: &mut Stack, case: &str, url: &str, says: &str) {
    stack.set("SMTP_URL", url);
    let name = format!("mailer-{case}");
    if stack.process("mailer").is_running() {
        stack.stop("mailer").await;
    }
    stack.launch_as(&name, &["mailer"]).await;
    stack.publish(&format!("not to one that is {case}")).await;
    let report = stack.process(&name).until_it_says("smtp", says).await;
    assert_eq!(report["dependencies"]["smtp"]["state"], "waiting", "{report:#}");
    assert_eq!(stack.mails(&format!("not to one that is {case}")), 0);
    stack.stop(&name).await;
}

/// An api that finds all of its servers wrong says so of each, accepts nothing, and shows no password.
async fn named(stack: &mut Stack, case: &str) {
    let name = format!("api-{case}");
    stack.launch_as(&name, &["api"]).await;
    let api = stack.process(&name);
    let report = api
        .until("naming its servers", |report| {
            let says = |kind: &str, part: &str| {
                report[kind][part]["reason"]
                    .as_str()
                    .is_some_and(|reason| !reason.contains("not connected yet") && reason != "starting")
            };
            says("parts", "installation") && says("dependencies", "rabbitmq") && says("dependencies", "redis")
        })
        .await;
    assert_eq!(report["ready"], false, "{report:#}");
    let told = |kind: &str, part: &str| report[kind][part]["reason"].as_str().unwrap().to_lowercase();
    for (kind, part, of_plain) in [
        ("parts", "installation", &["tls"][..]),
        ("dependencies", "rabbitmq", &["corrupt message"]),
        // A plain Redis takes what it hears for the beginning of a command, or, where that has the end of a line, answers.
        ("dependencies", "redis", &["does it speak tls", "corrupt message"]),
    ] {
        let words = if case == "plain" { of_plain } else { &["certificate"] };
        let reason = told(kind, part);
        assert!(words.iter().any(|word| reason.contains(word)), "{case}, {part}: {report:#}");
    }
    assert!(
        !report.to_string().contains("guest:guest") && !api.log().contains("guest:guest"),
        "{}",
        api.log()
    );
    stack.kill(&name).await;
}
