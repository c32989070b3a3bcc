//! One process of the real program: started, asked, signalled, killed.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::harness::{PATIENCE, program};

/// How often a process is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// A process. Dropped, it is killed.
pub(crate) struct Process {
    name: String,
    roles: Vec<String>,
    folder: PathBuf,
    settings: Vec<(String, String)>,
    child: Option<Child>,
    /// Where its API is, in a process that has one.
    pub(crate) url: Option<String>,
    /// Where health details and metrics are.
    pub(crate) admin_url: String,
}

impl Process {
    /// One that runs `roles` with these variables, not started yet. `name` tells its files apart.
    pub(super) fn new(name: &str, roles: &[&str], folder: &Path, settings: Vec<(String, String)>) -> Self {
        Self {
            name: name.to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            folder: folder.to_owned(),
            settings,
            child: None,
            url: None,
            admin_url: String::new(),
        }
    }

    /// Starts it; returns when it listens, whatever it waits for then.
    pub(crate) async fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let _none_yet = std::fs::remove_file(self.ready_file());
        let log = std::fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let banner = std::fs::File::create(self.banner_file()).unwrap();
        let mut command = self.command();
        command.stdout(Stdio::from(banner)).stderr(Stdio::from(log));
        self.child = Some(command.spawn().unwrap());
        let listens = async {
            while !self.ready_file().exists() {
                let child = self.child.as_mut().expect("just started");
                if let Some(ended) = child.try_wait().unwrap() {
                    panic!("{} ended before it listened, {ended}:\n{}", self.name, self.log());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let listens = timeout(PATIENCE, listens).await;
        assert!(listens.is_ok(), "{} does not listen:\n{}", self.name, self.log());
        let told = self.told();
        self.url = told["url"].as_str().map(str::to_owned);
        self.admin_url = told["admin_url"].as_str().unwrap().to_owned();
    }

    /// The start of it, which a test may change.
    pub(crate) fn command(&self) -> Command {
        let mut command = program(&self.folder);
        command.arg("up").args(&self.roles).arg("--ready-file").arg(self.ready_file());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Sets a variable for its next start.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// What it says of itself on its admin address.
    pub(crate) async fn readiness(&self) -> Value {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let report = client.get(format!("{}/readyz", self.admin_url)).send().await;
        let report = report.unwrap_or_else(|error| panic!("{}: {error:?}\n{}", self.name, self.log()));
        let is_ok = report.status().is_success();
        let report: Value = report.json().await.unwrap();
        assert_eq!(report["ready"], is_ok, "{report:#}");
        report
    }

    /// Waits until its readiness is as `is_so` says; answers it.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let look = async {
            loop {
                let report = self.readiness().await;
                if is_so(&report) {
                    return report;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match timeout(PATIENCE, look).await {
            Ok(report) => report,
            Err(_) => panic!("{} is never {what}: {:#}\n{}", self.name, self.readiness().await, self.log()),
        }
    }

    /// Waits until it is ready.
    pub(crate) async fn until_ready(&self) {
        self.until("ready", |report| report["ready"] == true).await;
    }

    /// Waits until a part or dependency gives a reason that holds `text`.
    pub(crate) async fn until_it_says(&self, part: &str, text: &str) -> Value {
        let says = |report: &Value| {
            ["parts", "dependencies"]
                .iter()
                .any(|kind| report[kind][part]["reason"].as_str().is_some_and(|reason| reason.contains(text)))
        };
        self.until(&format!("{part} with {text:?}"), says).await
    }

    /// Waits until a part or dependency is in this state: `up`, `degraded`, `waiting`, `stopped`, `standing_by`.
    pub(crate) async fn until_state(&self, part: &str, state: &str) -> Value {
        let is_so = |report: &Value| {
            ["parts", "dependencies"].iter().any(|kind| report[kind][part]["state"] == state)
        };
        self.until(&format!("{part} {state}"), is_so).await
    }

    /// All samples of a metric, with their labels.
    pub(crate) async fn metric(&self, name: &str) -> Vec<(String, f64)> {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let text =
            client.get(format!("{}/metrics", self.admin_url)).send().await.unwrap().text().await.unwrap();
        let sample = |line: &str| {
            let (labels, value) = line.rsplit_once(' ')?;
            let rest = labels.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with('{'))
                .then(|| Some((rest.to_owned(), value.parse().ok()?)))?
        };
        text.lines().filter_map(sample).collect()
    }

    /// The sum of all samples of a metric.
    pub(crate) async fn total(&self, name: &str) -> f64 {
        self.metric(name).await.into_iter().map(|(_, value)| value).sum()
    }

    /// `kill -9`; returns when it is gone.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.child.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        child.kill().await.unwrap();
    }

    /// SIGTERM; how it ended.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM").await;
        self.ended().await
    }

    /// Sends a signal, such as STOP and CONT.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.pid();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().await.unwrap();
        assert!(sent.success());
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        let pid = self.child.as_ref().and_then(Child::id);
        pid.unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    /// Whether it was started and neither killed nor stopped.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        let ended = timeout(PATIENCE, child.wait()).await;
        ended.unwrap_or_else(|_| panic!("{} does not end:\n{}", self.name, self.log())).unwrap()
    }

    /// Everything that it has logged, over all its starts.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// What it printed for people at its last start: waits for it.
    pub(crate) async fn banner(&self) -> String {
        let printed = async {
            loop {
                let text = std::fs::read_to_string(self.banner_file()).unwrap_or_default();
                if text.ends_with('\n') {
                    return text;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let printed = timeout(PATIENCE, printed).await;
        printed.unwrap_or_else(|_| panic!("{} tells people nothing:\n{}", self.name, self.log()))
    }

    /// What its ready file tells now.
    pub(crate) fn told(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.ready_file()).unwrap()).unwrap()
    }

    /// Where it logs.
    pub(super) fn log_file(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn banner_file(&self) -> PathBuf {
        self.folder.join(format!("{}.banner", self.name))
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.join(format!("{}.ready", self.name))
    }

    /// Kills it without waiting for anything: for `drop`.
    pub(super) fn cut(&mut self) {
        if let Some(child) = &mut self.child {
            let _gone_already = child.start_kill();
        }
    }
}
