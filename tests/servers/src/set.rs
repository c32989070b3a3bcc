//! A named set of servers for people. One process holds it, started in the background; a lock tells whether that runs.
#![expect(clippy::disallowed_methods, reason = "tests' servers are processes: nothing here is deterministic")]

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

use crate::{given::variable, guardian, postgres::Postgres, rabbitmq::RabbitMq, redis::Redis};

/// How long the servers of a set may take to start.
const PATIENCE: Duration = Duration::from_secs(180);

const POLL: Duration = Duration::from_millis(50);

/// A set, up or down. Its files lie in one folder and begin with its name.
pub struct Set {
    folder: PathBuf,
    name: String,
}

impl Set {
    /// The set `name` among those of `folder`.
    ///
    /// # Errors
    /// The name is not of letters, digits, `-` and `_`; the folder cannot be made.
    pub fn new(folder: &Path, name: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_plain) {
            return Err(format!("{name:?} is no name for a set: use letters, digits, - and _"));
        }
        fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let folder =
            fs::canonicalize(folder).map_err(|error| format!("cannot open {}: {error}", folder.display()))?;
        Ok(Self { folder, name: name.to_owned() })
    }

    /// Starts it, if it is down, by running `program` with `hold`; answers its lines for the shell.
    ///
    /// # Errors
    /// A server did not start; the text is what it printed.
    pub fn up(&self, program: &Path) -> Result<String, String> {
        if let Ok(lines) = self.env() {
            return Ok(lines);
        }
        let log = File::create(self.file("log")).map_err(|error| format!("cannot write a log: {error}"))?;
        let errors = log.try_clone().map_err(|error| format!("cannot write a log: {error}"))?;
        let mut holder = Command::new(program)
            .args(["hold", "--folder"])
            .arg(&self.folder)
            .args(["--name", &self.name])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // What ends us, such as Ctrl-C, must not end it.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Ok(lines) = self.env() {
                return Ok(lines);
            }
            // Another `up` of the same moment may hold it.
            if holder.try_wait().map_err(|error| error.to_string())?.is_some() && !self.is_held()? {
                let log = fs::read_to_string(self.file("log")).unwrap_or_default();
                return Err(format!("the servers did not start:\n{log}"));
            }
            thread::sleep(POLL);
        }
        guardian::signal("TERM", holder.id());
        Err(format!("the servers did not start within {PATIENCE:?}: see {}", self.file("log").display()))
    }

    /// Takes it down with all its data; returns when nothing of it is left. Nothing if it is down.
    ///
    /// # Errors
    /// It does not end.
    pub fn down(&self) -> Result<(), String> {
        let began = Instant::now();
        let mut asked = false;
        while self.is_held()? {
            // Its id may come a moment after its lock.
            let pid = fs::read_to_string(self.file("pid")).ok().and_then(|text| text.trim().parse().ok());
            if let (false, Some(pid)) = (asked, pid) {
                guardian::signal("TERM", pid);
                asked = true;
            }
            if began.elapsed() > PATIENCE {
                return Err(format!(
                    "the set {} does not end: see {}",
                    self.name,
                    self.file("log").display()
                ));
            }
            thread::sleep(POLL);
        }
        for kind in ["env", "pid", "log", "lock"] {
            let _ = fs::remove_file(self.file(kind));
        }
        Ok(())
    }

    /// The lines for the shell that name the addresses.
    ///
    /// # Errors
    /// It is down.
    pub fn env(&self) -> Result<String, String> {
        if self.is_held()?
            && let Ok(lines) = fs::read_to_string(self.file("env"))
        {
            return Ok(lines);
        }
        let name = if self.name == "default" { String::new() } else { format!(" --name {}", self.name) };
        Err(format!("the servers are down: `cargo xtask services up{name}` starts them"))
    }

    /// Starts the servers and holds them until a signal ends it (SIGTERM, SIGINT).
    ///
    /// # Errors
    /// Another process holds the set.
    pub fn hold(&self) -> Result<(), String> {
        let lock = self.lock_file()?;
        let began = Instant::now();
        // Whoever asks whether it is held holds it for a moment.
        while lock.try_lock().is_err() {
            if began.elapsed() > Duration::from_secs(2) {
                return Err(format!("another process holds the set {}", self.name));
            }
            thread::sleep(POLL);
        }
        let _ = fs::remove_file(self.file("env"));
        self.write("pid", &std::process::id().to_string())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start a runtime: {error}"))?;
        runtime.block_on(async {
            let mut ends = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
            // A terminal that closes is no reason to end.
            let _hangup = signal(SignalKind::hangup());
            let [Ok(terminate), Ok(interrupt)] = &mut ends else {
                return Err("cannot listen for signals".to_owned());
            };
            let ended = async {
                tokio::select! {
                    biased;
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            let serve = async {
                let (postgres, rabbitmq, redis) = tokio::join!(postgres(), rabbitmq(), redis());
                let lines: String =
                    [&postgres.1, &rabbitmq.1, &redis.1].into_iter().flatten().cloned().collect();
                self.write("env", &lines)?;
                std::future::pending::<()>().await;
                drop((postgres, rabbitmq, redis));
                Ok(())
            };
            tokio::select! {
                biased;
                () = ended => Ok(()),
                failed = serve => failed,
            }
        })?;
        // Blocking starts that go on are ended by their guardians when we are gone.
        runtime.shutdown_background();
        let _ = fs::remove_file(self.file("env"));
        Ok(())
    }

    fn is_held(&self) -> Result<bool, String> {
        match self.lock_file()?.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => {
                Err(format!("cannot lock {}: {error}", self.file("lock").display()))
            }
        }
    }

    fn lock_file(&self) -> Result<File, String> {
        let file = self.file("lock");
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .map_err(|error| format!("cannot open {}: {error}", file.display()))
    }

    /// Writes a file whole: whoever reads it finds all of it or none.
    fn write(&self, kind: &str, text: &str) -> Result<(), String> {
        let file = self.file(kind);
        let new = file.with_extension("new");
        File::create(&new)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&new, &file))
            .map_err(|error| format!("cannot write {}: {error}", file.display()))
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.name))
    }
}

/// The variables that name servers which run already.
pub fn given() -> Vec<&'static str> {
    ["DATABASE_URL", "AMQP_URL", "REDIS_URL"].into_iter().filter(|name| variable(name).is_some()).collect()
}

/// A line for the shell.
fn export(name: &str, value: &str) -> String {
    format!("export {name}='{}'\n", value.replace('\'', r"'\''"))
}

/// The server, unless its address is given; and its lines.
async fn postgres() -> (Option<Postgres>, Vec<String>) {
    if let Some(url) = variable("DATABASE_URL") {
        return (None, vec![export("DATABASE_URL", &url)]);
    }
    let postgres = Postgres::start().await;
    postgres.psql("postgres", "create database tidings").await;
    let line = export("DATABASE_URL", &postgres.url("tidings"));
    (Some(postgres), vec![line])
}

async fn rabbitmq() -> (Option<RabbitMq>, Vec<String>) {
    if let Some(url) = variable("AMQP_URL") {
        let management = variable("RABBITMQ_MANAGEMENT_URL");
        let lines = [("AMQP_URL", Some(url)), ("RABBITMQ_MANAGEMENT_URL", management)];
        return (None, lines.into_iter().filter_map(|(name, value)| Some(export(name, &value?))).collect());
    }
    let rabbitmq = RabbitMq::start().await;
    let lines = vec![
        export("AMQP_URL", &rabbitmq.url("/")),
        export("RABBITMQ_MANAGEMENT_URL", &rabbitmq.management_url()),
    ];
    (Some(rabbitmq), lines)
}

async fn redis() -> (Option<Redis>, Vec<String>) {
    if let Some(url) = variable("REDIS_URL") {
        return (None, vec![export("REDIS_URL", &url)]);
    }
    let redis = Redis::start().await;
    let line = export("REDIS_URL", &redis.url(0));
    (Some(redis), vec![line])
}
