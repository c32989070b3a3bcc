use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::{Instant, sleep};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidings-services");

/// A set of this test's own.
struct Set {
    folder: std::path::PathBuf,
    name: &'static str,
}

impl Set {
    fn new(name: &'static str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        Self { folder, name }
    }

    /// What the program prints, if it ends well.
    fn run(&self, command: &str) -> Option<String> {
        let output = Command::new(PROGRAM)
            .args([command, "--name", self.name, "--folder"])
            .arg(&self.folder)
            // Addresses that are given would be the set's.
            .env_remove("DATABASE_URL")
            .env_remove("AMQP_URL")
            .env_remove("REDIS_URL")
            .output()
            .expect("it can be started");
        output.status.success().then(|| String::from_utf8(output.stdout).expect("it prints text"))
    }

    fn holder(&self) -> String {
        fs::read_to_string(self.folder.join(format!("{}.pid", self.name))).expect("it is up")
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        self.run("down");
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Processes whose command line names `part`, folders of ours and containers that are named so.
fn left_of(part: &str) -> Vec<String> {
    let processes = lines(Command::new("ps").args(["-A", "-o", "args="]));
    let containers = lines(Command::new("docker").args(["ps", "--all", "--format", "{{.Names}}"]));
    let folders = fs::read_dir(std::env::temp_dir()).expect("the folder can be read").flatten();
    let folders = folders.map(|entry| entry.path().display().to_string());
    processes.into_iter().chain(containers).chain(folders).filter(|line| line.contains(part)).collect()
}

/// What a command prints; nothing where it is not installed.
fn lines(command: &mut Command) -> Vec<String> {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().map(str::to_owned).collect()
}

fn kill(pid: &str) {
    let status = Command::new("sh").args(["-c", "kill -9 \"$1\"", "sh", pid]).stdin(Stdio::null()).status();
    assert!(status.expect("a shell can be started").success(), "it was there");
}

#[tokio::test]
async fn with_postgres_with_rabbitmq_with_redis_sets_stand_side_by_side_and_leave_nothing() {
    let (one, other) = (Set::new("one"), Set::new("other"));
    assert_eq!(one.run("env"), None, "it is down");
    let lines = one.run("up").expect("it starts");
    for name in ["DATABASE_URL='postgres://", "AMQP_URL='amqp://", "REDIS_URL='redis://"] {
        assert!(lines.contains(&format!("export {name}")), "{lines}");
    }
    assert_eq!(one.run("up").as_deref(), Some(lines.as_str()), "it is up already");
    assert_eq!(one.run("env").as_deref(), Some(lines.as_str()));

    let others = other.run("up").expect("a second starts beside it");
    assert!(lines.lines().all(|line| !others.contains(line)), "each has addresses of its own");
    let of_one = format!("-{}-", one.holder());
    assert!(!left_of(&of_one).is_empty(), "its servers are named after who holds them");
    one.run("down").expect("it ends");
    assert_eq!(left_of(&of_one), Vec::<String>::new());
    assert_eq!(one.run("env"), None, "it is down");

    assert_eq!(other.run("env").as_deref(), Some(others.as_str()), "the other goes on");
    let (holder, of_other) = (other.holder(), format!("-{}-", other.holder()));
    kill(&holder);
    let began = Instant::now();
    while !left_of(&of_other).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "left behind: {:#?}", left_of(&of_other));
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(other.run("env"), None, "a killed one is down");
    assert!(other.run("up").is_some(), "and can be started again");
}
