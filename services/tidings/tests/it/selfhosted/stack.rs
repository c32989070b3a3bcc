//! A whole installation for one test: servers, a mail server, and any number of processes of the real program.
//!
//! ```ignore
//! let mut stack = Stack::start().await;                  // provisioned, and the four of them ready
//! stack.subscribe_confirmed(&["reader@example.com"]).await;   // a Stack is a client of its first api
//! let id = stack.publish("text").await;
//! stack.finished(&id).await;                             // waits by ?wait
//! stack.smtp.wait_for_mails(1).await;                    // the mail server, scripted: see tidings_servers::smtp
//! stack.kill("mailer").await;                            // kill -9; `stop` is SIGTERM
//! stack.up("mailer").await;                              // again, and ready
//! stack.up_as("watcher-2", &["cdc-watcher"]).await;      // another process
//! stack.to_rabbitmq.cut().await;                         // faults between our processes and a server
//! stack.process("api").until_state("rabbitmq", "waiting").await;
//! ```
//!
//! [`Stack::prepare`] provisions and starts nothing. Servers are shared by all tests unless a test brings its own
//! ([`Servers`]); a stack's namespace, database, virtual host and Redis database are its own in any case. Between its
//! processes and each server lies a proxy of its own (`to_postgres`, `to_rabbitmq`, `to_redis`, `to_smtp`). Only a few
//! stacks run at once: a test that waits for its turn waits in `prepare`.

use std::{
    collections::BTreeMap,
    ops::Deref,
    process::{ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tidings_servers::{proxy::Proxy, smtp::SmtpServer};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{process::Process, servers::Servers};
use crate::harness::{Client, PATIENCE, program, stderr, stdout};

/// Stacks at once: each is four processes of an unoptimised build.
static PLACES: Semaphore = Semaphore::const_new(3);

/// Numbers the stacks.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Short waits, so that a test of an outage is a matter of a second.
const QUICK: [(&str, &str); 17] = [
    ("TIDINGS_API_CATALOG_REFRESH_MS", "500"),
    ("TIDINGS_API_TOPOLOGY_CHECK_MS", "1000"),
    ("TIDINGS_SUBSCRIBER_PROBE_FIRST_MS", "50"),
    ("TIDINGS_SUBSCRIBER_PROBE_MOST_MS", "500"),
    ("TIDINGS_SUBSCRIBER_RETRY_FIRST_MS", "50"),
    ("TIDINGS_SUBSCRIBER_RETRY_MOST_MS", "500"),
    ("TIDINGS_CDC_WATCHER_RETRY_FIRST_MS", "50"),
    ("TIDINGS_CDC_WATCHER_RETRY_MOST_MS", "500"),
    ("TIDINGS_CDC_WATCHER_GAP_RETRY_S", "1"),
    ("TIDINGS_MAILER_RETRY_FIRST_S", "1"),
    ("TIDINGS_MAILER_RETRY_MOST_S", "1"),
    ("TIDINGS_MAILER_OUTAGE_FIRST_MS", "50"),
    ("TIDINGS_MAILER_OUTAGE_MOST_MS", "500"),
    ("TIDINGS_MAILER_LEASE_MS", "3000"),
    ("TIDINGS_STREAM_STANDBY_POLL_MS", "200"),
    ("TIDINGS_STREAM_STATUS_INTERVAL_MS", "200"),
    ("TIDINGS_GRACE_S", "15"),
];

/// The four services.
pub(crate) const ROLES: [&str; 4] = ["api", "subscriber", "cdc-watcher", "mailer"];

/// An installation. Dropped, all of it is gone.
pub(crate) struct Stack {
    api: Client,
    /// What it stands on.
    pub(crate) servers: Servers,
    /// Faults between our processes and a server.
    pub(crate) to_postgres: Proxy,
    pub(crate) to_rabbitmq: Proxy,
    pub(crate) to_redis: Proxy,
    pub(crate) to_smtp: Proxy,
    /// Where mail goes.
    pub(crate) smtp: SmtpServer,
    /// What prefixes its names in the broker, and names its slot.
    pub(crate) namespace: String,
    /// Its database and virtual host, past the proxies: for clients that are not ours.
    pub(crate) database: String,
    pub(crate) amqp: String,
    settings: Vec<(String, String)>,
    processes: BTreeMap<String, Process>,
    folder: TempDir,
    _place: SemaphorePermit<'static>,
}

impl Deref for Stack {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.api
    }
}

impl Stack {
    /// Provisioned on shared servers, all four services up and ready.
    pub(crate) async fn start() -> Self {
        Self::start_on(Servers::shared().await, &[]).await
    }

    /// The same with these variables set.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_on(Servers::shared().await, settings).await
    }

    /// The same on servers of its own.
    pub(crate) async fn start_on(servers: Servers, settings: &[(&str, &str)]) -> Self {
        let mut stack = Self::prepare(servers, settings).await;
        stack.provision().await;
        stack.up_all().await;
        stack
    }

    /// Servers, and nothing of ours in or before them.
    pub(crate) async fn prepare(servers: Servers, settings: &[(&str, &str)]) -> Self {
        let place = PLACES.acquire().await.unwrap();
        let (database, amqp) = (servers.postgres.database().await, servers.rabbitmq.vhost().await);
        let redis = servers.redis.database();
        let smtp = SmtpServer::start().await;
        let to_postgres = Proxy::to(servers.postgres.addr()).await;
        let to_rabbitmq = Proxy::to(servers.rabbitmq.addr()).await;
        let to_redis = Proxy::to(servers.redis.addr()).await;
        let to_smtp = Proxy::to(smtp.address()).await;
        let namespace = format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let api_addr = free_address();
        let url = format!("http://{api_addr}");
        let mut own = vec![
            ("TIDINGS_PROFILE", "selfhosted".to_owned()),
            ("TIDINGS_NAMESPACE", namespace.clone()),
            ("DATABASE_URL", to_postgres.url(&database)),
            ("AMQP_URL", to_rabbitmq.url(&amqp)),
            ("RABBITMQ_MANAGEMENT_URL", servers.rabbitmq.management_url()),
            ("REDIS_URL", to_redis.url(&redis)),
            ("SMTP_URL", to_smtp.url(&smtp.url())),
            ("TIDINGS_HTTP_ADDR", api_addr),
            ("TIDINGS_ADMIN_ADDR", "127.0.0.1:0".to_owned()),
            ("TIDINGS_PUBLIC_URL", url.clone()),
        ];
        own.extend(QUICK.map(|(name, value)| (name, value.to_owned())));
        let mut stack = Self {
            api: Client::new(Vec::new()),
            servers,
            to_postgres,
            to_rabbitmq,
            to_redis,
            to_smtp,
            smtp,
            namespace,
            database,
            amqp,
            settings: own.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            processes: BTreeMap::new(),
            folder: tempfile::Builder::new().prefix("tidings-it-").tempdir().unwrap(),
            _place: place,
        };
        stack.api.url = url;
        for (name, value) in settings {
            stack.set(name, value);
        }
        stack
    }

    /// Sets a variable for every process that is made, and every command that is run, from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.settings.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Gives it another namespace, before anything is provisioned.
    pub(crate) fn rename(&mut self, namespace: &str) {
        self.namespace = namespace.to_owned();
        self.set("TIDINGS_NAMESPACE", namespace);
    }

    /// Its virtual host, as the broker's tools name it.
    pub(crate) fn vhost(&self) -> String {
        let name = self.amqp.rsplit('/').next().unwrap();
        name.replace("%2F", "/").replace("%2f", "/").replace("%2D", "-")
    }

    /// The setting that processes are given.
    pub(crate) fn setting(&self, name: &str) -> &str {
        let found = self.settings.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("{name} is not set"))
    }

    /// Runs a command of the program to its end, with the stack's settings.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = program(self.folder.path());
        command.args(arguments).envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.env("TIDINGS_URL", &self.url).stdout(Stdio::piped()).stderr(Stdio::piped());
        timeout(PATIENCE, command.output())
            .await
            .unwrap_or_else(|_| panic!("{arguments:?} does not end"))
            .unwrap()
    }

    /// The same; it has to succeed. What it printed.
    pub(crate) async fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
        stdout(&output)
    }

    /// The same, read as JSON.
    pub(crate) async fn told(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(arguments).await).unwrap()
    }

    /// `tidings provision`.
    pub(crate) async fn provision(&self) -> String {
        self.done(&["provision", "--wait", "30"]).await
    }

    /// Starts all four services, each in a process of its own; returns when they are ready.
    pub(crate) async fn up_all(&mut self) {
        for role in ROLES {
            self.launch(role).await;
        }
        for role in ROLES {
            self.process(role).until_ready().await;
        }
    }

    /// Starts a service in a process of its own, or again; returns when it is ready.
    pub(crate) async fn up(&mut self, role: &str) {
        self.up_as(role, &[role]).await;
    }

    /// Starts a process of that name with these services, or again; returns when it is ready.
    pub(crate) async fn up_as(&mut self, name: &str, roles: &[&str]) {
        self.launch_as(name, roles).await;
        self.process(name).until_ready().await;
    }

    /// Starts a service in a process of its own, or again; returns when it listens.
    pub(crate) async fn launch(&mut self, role: &str) {
        self.launch_as(role, &[role]).await;
    }

    /// Starts a process of that name with these services, or again; returns when it listens. The first api has the address
    /// that the stack is a client of, each further one a free one.
    pub(crate) async fn launch_as(&mut self, name: &str, roles: &[&str]) {
        if !self.processes.contains_key(name) {
            self.make(name, roles);
        }
        self.process_mut(name).start().await;
    }

    /// A process that is not started: settings of its own can be set.
    pub(crate) fn make(&mut self, name: &str, roles: &[&str]) -> &mut Process {
        let mut settings = self.settings.clone();
        if name != "api" && roles.contains(&"api") {
            settings.push(("TIDINGS_HTTP_ADDR".to_owned(), "127.0.0.1:0".to_owned()));
        }
        let process = Process::new(name, roles, self.folder.path(), settings);
        self.api.add_log(process.log_file());
        self.processes.entry(name.to_owned()).or_insert(process)
    }

    /// A process by its name.
    pub(crate) fn process(&self, name: &str) -> &Process {
        self.processes.get(name).unwrap_or_else(|| panic!("there is no process {name}"))
    }

    /// A process by its name.
    pub(crate) fn process_mut(&mut self, name: &str) -> &mut Process {
        self.processes.get_mut(name).unwrap_or_else(|| panic!("there is no process {name}"))
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self, name: &str) {
        self.process_mut(name).kill().await;
    }

    /// SIGTERM; it has to end well.
    pub(crate) async fn stop(&mut self, name: &str) {
        let ended: ExitStatus = self.process_mut(name).stop().await;
        assert!(ended.success(), "{name} ended with {ended}:\n{}", self.process(name).log());
    }

    /// SIGTERM to all that run, one after the other; all have to end well.
    pub(crate) async fn stop_all(&mut self) {
        let running: Vec<String> = self
            .processes
            .iter()
            .filter(|(_, process)| process.is_running())
            .map(|(name, _)| name.clone())
            .collect();
        for name in running {
            self.stop(&name).await;
        }
    }

    /// A name of the broker's: `items`, `mail`, `topic-messages`, `notifications`, ....
    pub(crate) fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.namespace)
    }

    /// Runs statements in its database by `psql`; rows as lines with `|` between columns.
    pub(crate) async fn psql(&self, sql: &str) -> String {
        let name = self.database.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
        self.servers.postgres.psql(&name, sql).await.trim_end().to_owned()
    }

    /// How many mails of the mail server's hold this text, now.
    pub(crate) fn mails(&self, contains: &str) -> usize {
        self.smtp.mails().iter().filter(|mail| mail.text().contains(contains)).count()
    }

    /// All dead letters.
    pub(crate) async fn dead_letters(&self) -> Vec<Value> {
        self.all("/v1/dead-letters").await
    }
}

impl Drop for Stack {
    /// A slot outlives its readers and keeps a database from going: it goes with the stack.
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            process.cut();
        }
        let of_ours = format!("from pg_replication_slots where slot_name = '{}'", self.namespace);
        for _ in 0..20 {
            let output = std::process::Command::new("psql")
                .args(["-qAtX", "-d", &self.database])
                .args(["-c", &format!("select pg_terminate_backend(active_pid) {of_ours} and active")])
                .args(["-c", &format!("select pg_drop_replication_slot(slot_name) {of_ours} and not active")])
                .args(["-c", &format!("select count(*) {of_ours}")])
                .stdin(Stdio::null())
                .output();
            // A server that is down, or a test's own, takes it along.
            let stands = output.is_ok_and(|it| it.status.success() && it.stdout.ends_with(b"1\n"));
            if !stands {
                break;
            }
        }
    }
}

/// A port of this machine that nobody has right now.
pub(crate) fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Waits until `is_so`, which is asked again and again.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let look = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, look).await.is_ok(), "it never comes to this: {what}");
}
