//! A data folder and its postmaster. Every call blocks.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{PostgresOptions, StopMode};
use crate::{
    guardian::Guardian,
    port::Port,
    process::Process,
    program,
    server::{Kind, Server},
};

/// Small, and fit for tests: no background write comes between what they do.
const SETTINGS: &str = "\
max_connections = 200
wal_level = logical
max_replication_slots = 50
max_wal_senders = 50
shared_buffers = '64MB'
# A file, so that a killed server leaves no shared memory behind.
dynamic_shared_memory_type = mmap
checkpoint_timeout = '30min'
max_wal_size = '4GB'
timezone = 'UTC'
log_timezone = 'UTC'
";

/// Run in the image, by its own user, when the data is new.
const COPY: &str = "\
for file in /docker-entrypoint-initdb.d/*.conf /docker-entrypoint-initdb.d/server.*; do
    [ ! -f \"$file\" ] || install -m 600 \"$file\" \"$PGDATA/\"
done
";

pub(super) struct Cluster {
    options: PostgresOptions,
    port: Port,
    server: Server,
    /// Whom it runs as, if not as us: it refuses to run as root.
    user: Option<(u32, u32)>,
}

impl Cluster {
    /// Makes the data; starts nothing.
    pub(super) fn new(options: PostgresOptions) -> Self {
        let mut folders = program::versions("/usr/lib/postgresql", "bin");
        folders.extend([18, 17, 16, 15].into_iter().flat_map(|version| {
            ["/opt/homebrew/opt", "/usr/local/opt"]
                .map(|opt| PathBuf::from(format!("{opt}/postgresql@{version}/bin")))
        }));
        let kind = Kind { name: "PostgreSQL", program: "initdb", folders, image: "postgres:17-alpine" };
        let server = Server::new("postgres", &kind);
        let user = program::is_root(server.folder())
            .then(|| program::user(&["postgres", "nobody"]).expect("PostgreSQL refuses to run as root"));
        let cluster = Self { options, port: Port::new(), server, user };
        if let Some(bytes) = cluster.options.disk_bytes {
            let disk = cluster.server.folder().join("disk");
            fs::create_dir(&disk).expect("a folder of ours can be written");
            program::run(&mut mount(bytes, &disk), "");
            cluster.give(&disk);
        }
        match &cluster.server {
            Server::Program(process, _) => cluster.init(process),
            Server::Image(container) => {
                let settings = container.folder().join("settings");
                fs::create_dir(&settings).expect("a folder of ours can be written");
                for (name, text) in cluster.files().iter().chain([&("copy.sh", COPY.to_owned())]) {
                    fs::write(settings.join(name), text).expect("a folder of ours can be written");
                }
            }
        }
        cluster
    }

    /// Whether a disk of its own can be mounted here.
    pub(super) fn may_have_disk() -> bool {
        let guardian = Guardian::new("disk");
        let disk = guardian.folder().join("disk");
        fs::create_dir(&disk).expect("a folder of ours can be written");
        let mut command = mount(4096, &disk);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn init(&self, process: &Process) {
        let folder = process.folder();
        self.give(folder);
        self.give(&folder.join("pids"));
        let mut command = self.server.tool("initdb");
        command.args(["--no-locale", "--encoding=UTF8", "--username=postgres", "--no-sync", "--pgdata"]);
        command.arg(self.data());
        command.current_dir(folder);
        if let Some(password) = &self.options.password {
            let file = folder.join("password");
            self.write(&file, password);
            command.arg("--pwfile").arg(file);
        }
        self.become_user(&mut command);
        program::run(&mut command, "");
        for (name, text) in self.files() {
            self.write(&self.data().join(name), &text);
        }
    }

    /// The files in the data folder that say how it runs.
    fn files(&self) -> Vec<(&'static str, String)> {
        let mut files = Vec::new();
        let mut settings = SETTINGS.to_owned();
        if let Some(tls) = &self.options.tls {
            settings += "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n";
            files.push(("server.crt", tls.certificate.clone()));
            files.push(("server.key", tls.key.clone()));
        }
        for (name, value) in &self.options.settings {
            settings += &format!("{name} = '{}'\n", value.replace('\'', "''"));
        }
        files.push(("postgresql.conf", settings));
        let kind = if self.options.tls_only { "hostssl" } else { "host" };
        let method = if self.options.password.is_some() { "scram-sha-256" } else { "trust" };
        // Its own entry point starts it on a Unix socket for a moment. Only the loopback reaches it otherwise.
        let rules = format!(
            "local all all trust\n{kind} all all all {method}\n{kind} replication all all {method}\n"
        );
        files.push(("pg_hba.conf", rules));
        files
    }

    /// Starts the postmaster; returns when it answers.
    pub(super) fn start(&self) {
        let is_ready = || self.answers().unwrap_or(false);
        match &self.server {
            Server::Program(process, programs) => {
                // One that was killed leaves it, with an id that may be another process's by now. The guardian reads it all the same.
                let state = self.data().join("postmaster.pid");
                let _ = fs::rename(&state, state.with_extension("old"));
                let mut command = process.command(&programs.join("postgres"));
                command.arg("-D").arg(self.data()).args(["-p", &self.port.number().to_string()]);
                command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
                program::without_variables(&mut command, &["PG"]);
                self.become_user(&mut command);
                process.start(command, is_ready);
            }
            Server::Image(container) => {
                let settings = container.folder().join("settings");
                let mut options = vec![
                    format!("--publish={}:5432", self.port.address()),
                    format!("--volume={}:/docker-entrypoint-initdb.d:ro", settings.display()),
                    format!(
                        "--env=POSTGRES_PASSWORD={}",
                        self.options.password.as_deref().unwrap_or("postgres")
                    ),
                    "--env=POSTGRES_INITDB_ARGS=--no-locale --encoding=UTF8".to_owned(),
                ];
                if self.options.disk_bytes.is_some() {
                    let disk = container.folder().join("disk");
                    options.push(format!("--volume={}:/disk", disk.display()));
                    options.push("--env=PGDATA=/disk/data".to_owned());
                }
                container.start(
                    &options,
                    &["postgres", "-c", "listen_addresses=*"].map(str::to_owned),
                    is_ready,
                );
            }
        }
    }

    /// Whether it takes sessions: it asks who we are, or refuses us for another reason than that it starts. None: it is not there.
    fn answers(&self) -> Option<bool> {
        let mut stream = program::connect(self.address())?;
        let mut startup = vec![0, 0, 0, 0, 0, 3, 0, 0];
        startup.extend(b"user\0postgres\0database\0postgres\0\0");
        startup[3] = u8::try_from(startup.len()).expect("the packet is short");
        stream.write_all(&startup).ok()?;
        let mut head = [0; 5];
        stream.read_exact(&mut head).ok()?;
        if head[0] == b'R' {
            return Some(true);
        }
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        // `cannot_connect_now`: it starts, recovers or stops.
        Some(head[0] == b'E' && !text.contains("57P03"))
    }

    pub(super) fn stop(&self, mode: StopMode) {
        self.server.stop(match mode {
            StopMode::Fast => "INT",
            StopMode::Immediate => "QUIT",
        });
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(super) fn url(&self, address: SocketAddr, database: &str) -> String {
        let password =
            self.options.password.as_ref().map(|password| format!(":{password}")).unwrap_or_default();
        format!("postgres://postgres{password}@{address}/{database}")
    }

    pub(super) fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        // In a container the server has the port that the image gives it.
        let address = match &self.server {
            Server::Program(..) => self.address(),
            Server::Image(_) => SocketAddr::from(([127, 0, 0, 1], 5432)),
        };
        super::psql(self.server.tool("psql"), &self.url(address, database), sql)
    }

    /// Fills the disk to the last byte.
    pub(super) fn fill(&self) {
        let mut ballast = fs::File::create(self.ballast()).expect("a folder of ours can be written");
        for block in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![0; block]).is_ok() {}
        }
    }

    /// Gives the room back.
    pub(super) fn empty(&self) {
        fs::remove_file(self.ballast()).expect("the disk was filled");
    }

    fn ballast(&self) -> PathBuf {
        assert!(self.options.disk_bytes.is_some(), "the server has no disk of its own");
        self.server.folder().join("disk").join("ballast")
    }

    fn data(&self) -> PathBuf {
        let folder = self.server.folder();
        if self.options.disk_bytes.is_some() { folder.join("disk/data") } else { folder.join("data") }
    }

    fn write(&self, file: &Path, text: &str) {
        fs::write(file, text).expect("a folder of ours can be written");
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("a file of ours has permissions");
        self.give(file);
    }

    fn give(&self, path: &Path) {
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group)).expect("root may give files away");
        }
    }

    fn become_user(&self, command: &mut Command) {
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
    }
}

/// The command that puts a small disk, in memory, onto `folder`.
fn mount(bytes: u64, folder: &Path) -> Command {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tidings"]).arg(folder);
    command
}
