//! Programs of this machine: where they lie, and running one to its end.
#![expect(clippy::disallowed_methods, reason = "tests' servers are processes: nothing here is deterministic")]

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    panic,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// Finds `name` in the first of `folders` that has it, else in `PATH`.
pub(crate) fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders
        .iter()
        .cloned()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The folders `parent/*/below`, the highest number first: versions that lie side by side.
pub(crate) fn versions(parent: &str, below: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join(below))))
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// Runs a command to its end with `input`; answers what it printed. Panics, with what it complained of, if it fails.
pub(crate) fn run(command: &mut Command, input: &str) -> String {
    try_run(command, input).unwrap_or_else(|complaint| panic!("{complaint}"))
}

/// The same, with the complaint as a value.
pub(crate) fn try_run(command: &mut Command, input: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", command.get_program().display()));
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    let input = input.to_owned();
    // Beside the reading: a program that prints much while it still reads would stop otherwise.
    let writer = std::thread::spawn(move || {
        // It may end before it read all; its status tells why.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("a child can be waited for");
    writer.join().expect("the writer does not panic");
    if !output.status.success() {
        return Err(format!(
            "{} ended with {}: {}{}",
            Path::new(command.get_program()).display(),
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout),
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Removes the variables whose names begin so from what `command` inherits: they would point it to another server.
pub(crate) fn without_variables(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in std::env::vars_os() {
        if prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

/// Whether we are root: a folder of ours tells.
pub(crate) fn is_root(folder: &Path) -> bool {
    fs::metadata(folder).expect("a folder of ours can be read").uid() == 0
}

/// User and group id of the first of `names` that exists here.
pub(crate) fn user(names: &[&str]) -> Option<(u32, u32)> {
    let file = fs::read_to_string("/etc/passwd").ok()?;
    names.iter().find_map(|name| {
        let line = file.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// A connection that gives up after a moment without an answer; none while nobody listens.
pub(crate) fn connect(address: SocketAddr) -> Option<TcpStream> {
    let limit = Duration::from_secs(30);
    let stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.set_write_timeout(Some(limit)).ok()?;
    Some(stream)
}

/// Runs `work`, which blocks, beside the runtime; a panic in it is the caller's.
pub(crate) async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => panic::resume_unwind(error.into_panic()),
    }
}
