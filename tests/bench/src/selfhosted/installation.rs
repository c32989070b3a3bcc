//! One installation of the profile `selfhosted` on these servers: provisioned, four processes, one confirmed recipient.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tempfile::TempDir;

use super::servers::{Servers, database};
use crate::{
    process::Memory,
    server::{Server, Starting, cleared},
    sink::Sink,
};

/// The four services, in the order of the flow.
pub(crate) const SERVICES: [&str; 4] = ["api", "subscriber", "cdc-watcher", "mailer"];

/// The topic that is posted to.
pub(crate) const PATH: &str = "/v1/topics/messages/messages";

/// The installation. Dropped, its processes are ended.
pub(crate) struct Installation {
    folder: TempDir,
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    services: BTreeMap<&'static str, Server>,
    /// Its database's name.
    pub(crate) database: String,
}

impl Installation {
    /// Provisions it, starts the four processes and subscribes one recipient.
    pub(crate) async fn start(program: &Path, servers: &Servers, sink: &Sink) -> anyhow::Result<Self> {
        let url = servers.postgres.database().await;
        let database = database(&url).to_owned();
        let environment = vec![
            ("TIDINGS_PROFILE", "selfhosted".to_owned()),
            ("DATABASE_URL", url),
            ("AMQP_URL", servers.rabbitmq.vhost().await),
            ("RABBITMQ_MANAGEMENT_URL", servers.rabbitmq.management_url()),
            ("REDIS_URL", servers.redis.database()),
            ("SMTP_URL", format!("smtp://{}", sink.address)),
            ("TIDINGS_PUBLIC_URL", "http://127.0.0.1:8080".to_owned()),
            ("TIDINGS_MAIL_FROM", "bench@example.com".to_owned()),
        ];
        let mut installation = Self {
            folder: tempfile::Builder::new().prefix("tidings-bench-").tempdir()?,
            program: program.to_owned(),
            environment,
            services: BTreeMap::new(),
            database,
        };
        installation.provision()?;
        // In any order and all at once, as compose starts them.
        let mut starting = Vec::new();
        for service in SERVICES {
            starting.push((service, installation.spawn(service)?));
        }
        for (service, mut starting) in starting {
            installation.services.insert(service, starting.ready().await?);
        }
        installation.subscribe().await?;
        Ok(installation)
    }

    fn provision(&self) -> anyhow::Result<()> {
        let output = cleared(&self.program)
            .arg("provision")
            .current_dir(self.folder.path())
            .envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "provision: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn spawn(&self, service: &str) -> anyhow::Result<Starting> {
        Starting::spawn(&self.program, &[service], self.folder.path(), &self.environment)
    }

    /// Starts another process of `service`, which is not counted, and waits until it is ready.
    pub(crate) async fn another(&self, service: &str) -> anyhow::Result<Server> {
        let folder = self.folder.path().join("another");
        std::fs::create_dir_all(&folder)?;
        Server::start(&self.program, &[service], &folder, &self.environment).await
    }

    /// Takes the process of `service` out, for whoever kills it.
    pub(crate) fn take(&mut self, service: &'static str) -> anyhow::Result<Server> {
        self.services.remove(service).with_context(|| format!("no {service} runs"))
    }

    /// Puts a process in the place of one that was taken out.
    pub(crate) fn put(&mut self, service: &'static str, server: Server) {
        self.services.insert(service, server);
    }

    /// Starts `service`, which was taken out, again.
    pub(crate) async fn start_again(&mut self, service: &'static str) -> anyhow::Result<()> {
        let server = self.spawn(service)?.ready().await?;
        self.services.insert(service, server);
        Ok(())
    }

    /// Ends the four processes and starts them again, with these settings beside their own until the next time.
    pub(crate) async fn restart_with(&mut self, more: Vec<(&'static str, String)>) -> anyhow::Result<()> {
        self.services.clear();
        self.environment.retain(|(name, _)| !name.starts_with("OTEL_"));
        self.environment.extend(more);
        for service in SERVICES {
            self.start_again(service).await?;
        }
        Ok(())
    }

    /// The process of `service`.
    pub(crate) fn service(&self, service: &str) -> anyhow::Result<&Server> {
        self.services.get(service).with_context(|| format!("no {service} runs"))
    }

    /// Where the API listens.
    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.service("api")?.address)
    }

    /// How long each took from exec to ready.
    pub(crate) fn ready(&self) -> String {
        let each = self.services.iter().map(|(name, server)| format!("{name} {:.0}", millis(server)));
        each.collect::<Vec<_>>().join(", ")
    }

    /// The memory of the four together.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let mut all = Memory::default();
        for server in self.services.values() {
            all += server.memory()?;
        }
        Ok(all)
    }

    /// The processes, in the order of their names.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.services.values().map(Server::pid).collect()
    }

    /// The memory of each.
    pub(crate) fn memories(&self) -> anyhow::Result<Vec<(&'static str, Memory)>> {
        self.services.iter().map(|(name, server)| Ok((*name, server.memory()?))).collect()
    }

    /// Warnings and errors that they logged.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.services.values().flat_map(Server::complaints).collect()
    }

    /// One confirmed recipient of the topic `messages`.
    async fn subscribe(&self) -> anyhow::Result<()> {
        let url = format!("http://{}/v1/topics/messages/subscriptions", self.address()?);
        let body = json!({"email": "reader@example.com", "confirmed": true});
        let client = reqwest::Client::builder().no_proxy().build()?;
        let response = client.post(url).json(&body).send().await?;
        ensure!(response.status().is_success(), "subscribe: {}", response.text().await?);
        Ok(())
    }
}

fn millis(server: &Server) -> f64 {
    server.ready.as_secs_f64() * 1e3
}
