//! A child that outlives us by a moment: it owns a server's folder and takes everything away when we let go of it or die.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::SystemTime,
};

/// What finds and signals a process with its descendants; the guardian uses it, and we do.
const FAMILY: &str = include_str!("family.sh");
const GUARDIAN: &str = include_str!("guardian.sh");

/// Numbers the folders of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Holds the folder; dropped, the processes named in it are killed and it is removed. So too when this process is killed.
pub(crate) struct Guardian {
    folder: PathBuf,
    child: Child,
    /// Its other end closes with us, however we end.
    pipe: Option<ChildStdin>,
}

impl Guardian {
    /// Makes a folder whose name tells `what` it is for.
    pub(crate) fn new(what: &str) -> Self {
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
            let name = format!("tidings-{what}-{}-{number}-{now:x}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            // A name may be taken: others, in containers, may have our id and share the folder.
            if let Some(guardian) = Self::own(&folder) {
                return guardian;
            }
        }
    }

    fn own(folder: &Path) -> Option<Self> {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{FAMILY}\n{GUARDIAN}"), "sh"])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Its own group: what ends ours, such as Ctrl-C, must not end it.
            .process_group(0)
            .spawn()
            .expect("a shell can be started");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a pipe can be read");
        let pipe = child.stdin.take();
        if line.trim() == "ready" {
            return Some(Self { folder: folder.to_owned(), child, pipe });
        }
        child.wait().expect("a child can be waited for");
        None
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command for `program` that writes its process id into the folder before the program takes its place: at no moment can it
    /// run unknown to the guardian, and it does not start once the folder is gone.
    pub(crate) fn command(&self, name: &str, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ >"$1" && shift && exec "$@""#, "sh"])
            .arg(self.pid_file(name))
            .arg(program)
            .current_dir(&self.folder)
            .process_group(0);
        command
    }

    /// Says that the process `name` ended, so that its id may be another's by now.
    pub(crate) fn forget(&self, name: &str) {
        let _ = std::fs::remove_file(self.pid_file(name));
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.folder.join("pids").join(name)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.wait();
    }
}

/// Sends a signal, named without SIG, to a process and all that descend from it.
pub(crate) fn signal_family(signal: &str, root: u32) {
    let output = Command::new("sh")
        .args(["-c", &format!("{FAMILY}\nsignal_family \"$@\""), "sh", signal, &root.to_string()])
        .output()
        .expect("a shell can be started");
    assert!(output.status.success(), "cannot signal: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sends a signal, named without SIG, to one process.
pub(crate) fn signal(signal: &str, pid: u32) {
    let _ = Command::new("sh")
        .args(["-c", r#"kill "-$1" "$2""#, "sh", signal, &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}
