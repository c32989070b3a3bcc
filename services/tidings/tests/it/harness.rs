//! Starts the real program on free ports and in a folder of its own, and drives it as its users do.
//!
//! Nothing here sleeps to synchronise: a server is ready when it says so on its stdout, a message is done when `?wait`
//! answers, a mail is there when the mailbox's `?wait` does.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

pub(crate) use self::client::{Answer, Client};

mod client;
pub(crate) mod collector;
pub(crate) mod wire;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tidings");

/// A server that can be stopped and started again on the same folder. Dropped, it is killed.
pub(crate) struct Server {
    folder: TempDir,
    settings: Vec<(String, String)>,
    /// The longest file that it may write, in bytes.
    file_limit: Option<u64>,
    running: Option<Running>,
    api: Client,
    /// Where health details and metrics are.
    pub(crate) admin_url: String,
    /// What it printed when it started.
    pub(crate) banner: String,
}

struct Running {
    child: Child,
    /// Kept open: what the server prints has a reader for as long as it runs.
    _stdout: BufReader<ChildStdout>,
}

/// The program with no settings of whoever runs the tests.
pub(crate) fn program(folder: &Path) -> Command {
    without_settings(PROGRAM, folder)
}

fn without_settings(program: &str, folder: &Path) -> Command {
    let mut command = match ends_with_us() {
        false => Command::new(program),
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--", program]);
            command
        }
    };
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        if ["TIDINGS_", "OTEL_", "SMTP_", "DATABASE_", "AMQP_", "REDIS_", "RABBITMQ_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Whether the system can be told to end a program with its parent, so that a test run which is killed leaves none behind.
fn ends_with_us() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let tried =
            std::process::Command::new("setpriv").args(["--pdeathsig", "KILL", "--", "true"]).output();
        tried.is_ok_and(|output| output.status.success())
    })
}

impl Deref for Server {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.api
    }
}

impl Server {
    /// A ready server with nothing set but free ports and its folder.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A ready server with these variables set.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let mut server = Self::prepare(settings);
        server.restart().await;
        server
    }

    /// A server that is not started yet.
    pub(crate) fn prepare(settings: &[(&str, &str)]) -> Self {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let folder = tempfile::Builder::new().prefix("tidings-it-").tempdir().unwrap();
        let log = folder.path().join("log");
        Self {
            api: Client::new(vec![log]),
            folder,
            settings,
            file_limit: None,
            running: None,
            admin_url: String::new(),
            banner: String::new(),
        }
    }

    /// Starts it, again on the same folder and the same address where it ran before, and waits until it is ready.
    pub(crate) async fn restart(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let log = std::fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut child = self.up().stdout(Stdio::piped()).stderr(Stdio::from(log)).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        for _ in 0..6 {
            let read = timeout(PATIENCE, stdout.read_line(&mut banner)).await;
            let read = read.unwrap_or_else(|_| panic!("not ready in time:\n{}", self.log())).unwrap();
            assert_ne!(read, 0, "it ended before it was ready:\n{}", self.log());
        }
        let ready: Value = serde_json::from_slice(&std::fs::read(self.ready_file()).unwrap()).unwrap();
        assert_eq!(ready["ready"], true, "it is up and not ready:\n{}", self.log());
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        (self.api.url, self.admin_url, self.banner) = (text("url"), text("admin_url"), banner);
        self.running = Some(Running { child, _stdout: stdout });
    }

    /// Lets it write no file longer than this, from its next start on: the soft limit of the system, which
    /// [`Server::lift_file_limit`] can raise while it runs.
    pub(crate) fn limit_files(&mut self, bytes: u64) {
        self.file_limit = Some(bytes);
    }

    /// Lifts the limit of files from the running server.
    pub(crate) async fn lift_file_limit(&mut self) {
        self.file_limit = None;
        let pid = self.pid().to_string();
        let lifted =
            Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:"]).status().await.unwrap();
        assert!(lifted.success());
    }

    /// The start of the server, with all but what a start gives back.
    fn up(&self) -> Command {
        let addr = if self.url.is_empty() { "127.0.0.1:0" } else { self.url.trim_start_matches("http://") };
        let mut command = match self.file_limit {
            None => program(self.folder.path()),
            Some(bytes) => {
                // In blocks of 512 bytes. A write past it is an error then, not the end of the process.
                let script = format!("trap '' XFSZ; ulimit -S -f {}; exec \"$0\" \"$@\"", bytes / 512);
                let mut shell = without_settings("sh", self.folder.path());
                shell.args(["-c", &script, PROGRAM]);
                shell
            }
        };
        command
            .args(["up", "--ready-file"])
            .arg(self.ready_file())
            .env("TIDINGS_HTTP_ADDR", addr)
            .env("TIDINGS_ADMIN_ADDR", "127.0.0.1:0")
            .env("TIDINGS_DATA_DIR", self.data_dir())
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it where it has to refuse to; what it said, which is in no log.
    pub(crate) async fn refused(&self) -> String {
        assert!(self.running.is_none(), "it runs already");
        let output = timeout(PATIENCE, self.up().output()).await.expect("it ends in time").unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        stderr(&output)
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.child.kill().await.unwrap();
    }

    /// SIGTERM; how it ended.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM").await;
        self.ended().await
    }

    /// Sends a signal.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.pid();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().await.unwrap();
        assert!(sent.success());
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().and_then(|running| running.child.id()).expect("it runs")
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("it runs");
        let ended = timeout(PATIENCE, running.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end:\n{}", self.log())).unwrap()
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.path().join("ready.json")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Its data folder.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What the installed `sqlite3` answers to a statement on its file.
    pub(crate) async fn sqlite3(&self, statement: &str) -> String {
        let mut shell = Command::new("sqlite3");
        shell.args(["-cmd", ".timeout 10000"]).arg(self.database()).arg(statement);
        let output = shell.output().await.unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{statement}: {output:?}");
        stdout(&output).trim_end().to_owned()
    }

    /// Its SQLite file.
    pub(crate) fn database(&self) -> PathBuf {
        self.data_dir().join("tidings.db")
    }

    /// Readiness with its reasons, as the admin address tells it.
    pub(crate) async fn readiness(&self) -> Value {
        let report = self.client.get(format!("{}/readyz", self.admin_url)).send().await.unwrap();
        let is_ok = report.status().is_success();
        let report: Value = report.json().await.unwrap();
        assert_eq!(report["ready"], is_ok, "{report:#}");
        report
    }

    /// Waits until it is ready again.
    pub(crate) async fn until_ready(&self) {
        let look = async {
            while self.readiness().await["ready"] != true {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("it is never ready:\n{}", self.log()));
    }

    /// Subscribes an address to `messages` and confirms it by the link in its mail, as a reader does.
    pub(crate) async fn subscribe(&self, email: &str) {
        self.subscribe_to("messages", json!({ "email": email })).await;
    }

    /// Subscribes to a topic with all that a request may say, and confirms.
    pub(crate) async fn subscribe_to(&self, topic: &str, request: Value) {
        let email = request["email"].as_str().unwrap().to_owned();
        let path = format!("/v1/topics/{topic}/subscriptions");
        self.ok(self.request(Method::POST, &path).json(&request)).await;
        let link = self.link(&email, "/confirm/").await;
        self.ok(self.client.post(link)).await;
    }

    /// The newest mail to an address with this text in its subject or text; waits for it.
    pub(crate) async fn mail(&self, to: &str, contains: &str) -> Value {
        let query = [("to", to), ("contains", contains), ("wait", "30s")];
        let list = self.ok(self.request(Method::GET, "/mailbox").query(&query)).await;
        let id = &list["data"][0]["id"];
        assert!(id.is_u64(), "no mail to {to} contains {contains:?}: {list:#}\n{}", self.log());
        self.get(&format!("/mailbox/{id}")).await
    }

    /// The source of a caught mail.
    pub(crate) async fn source(&self, mail: &Value) -> String {
        let source = self.get(&format!("/mailbox/{}/source", mail["id"])).await;
        source.as_str().unwrap().to_owned()
    }

    /// How many mails an address has with this text, now.
    pub(crate) async fn mails(&self, to: &str, contains: &str) -> usize {
        let query = [("to", to), ("contains", contains), ("limit", "250")];
        let list = self.ok(self.request(Method::GET, "/mailbox").query(&query)).await;
        list["data"].as_array().unwrap().len()
    }

    /// The link with this in its path in the newest mail to an address that has one.
    pub(crate) async fn link(&self, to: &str, path: &str) -> String {
        let marker = format!("{}{path}", self.url);
        let mail = self.mail(to, &marker).await;
        let links = mail["links"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let link = links.into_iter().find(|link| link.starts_with(&marker));
        link.unwrap_or_else(|| panic!("no link {marker} in {mail:#}")).to_owned()
    }
}

/// Runs the program to its end in a folder, with these variables.
pub(crate) async fn run(folder: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = program(folder);
    command.args(arguments).envs(settings.iter().copied());
    timeout(PATIENCE, command.output()).await.expect("it ends in time").unwrap()
}

/// What a run printed to stdout.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a run printed to stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
