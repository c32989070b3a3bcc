//! A data folder and its postmaster. Every call blocks.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use super::{PostgresOptions, StopMode};
use crate::{port::Port, process::Process, program};

/// Small, and fit for tests: no background write comes between what they do.
const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
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

pub(super) struct Cluster {
    options: PostgresOptions,
    port: Port,
    process: Process,
    /// Where the programs lie.
    programs: PathBuf,
    /// Whom it runs as, if not as us: it refuses to run as root.
    user: Option<(u32, u32)>,
}

impl Cluster {
    /// Makes the data; starts nothing.
    pub(super) fn new(options: PostgresOptions) -> Self {
        let mut folders = program::versions("/usr/lib/postgresql", "bin");
        folders.extend([17, 18, 16, 15].into_iter().flat_map(|version| {
            ["/opt/homebrew/opt", "/usr/local/opt"]
                .map(|opt| PathBuf::from(format!("{opt}/postgresql@{version}/bin")))
        }));
        let initdb = program::find("initdb", &folders).expect("PostgreSQL is installed");
        let programs = initdb.parent().expect("a program lies in a folder").to_owned();
        let process = Process::new("postgres");
        let user = program::is_root(process.folder()).then(|| {
            program::user(&["postgres", "nobody"])
                .expect("PostgreSQL refuses to run as root: needs the user postgres")
        });
        let cluster = Self { options, port: Port::new(), process, programs, user };
        cluster.give(cluster.process.folder());
        cluster.give(&cluster.process.folder().join("pids"));
        cluster.init();
        cluster
    }

    fn init(&self) {
        let mut command = Command::new(self.programs.join("initdb"));
        command.args(["--no-locale", "--encoding=UTF8", "--username=postgres", "--no-sync", "--pgdata"]);
        command.arg(self.data());
        command.current_dir(self.process.folder());
        if let Some(password) = &self.options.password {
            let file = self.process.folder().join("password");
            self.write(&file, password);
            command.arg("--pwfile").arg(file);
        }
        self.become_user(&mut command);
        program::run(&mut command, "");

        let mut settings = SETTINGS.to_owned();
        if let Some(tls) = &self.options.tls {
            let (certificate, key) = (self.data().join("server.crt"), self.data().join("server.key"));
            self.write(&certificate, &tls.certificate);
            self.write(&key, &tls.key);
            settings += "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n";
        }
        for (name, value) in &self.options.settings {
            settings += &format!("{name} = '{}'\n", value.replace('\'', "''"));
        }
        let file = self.data().join("postgresql.conf");
        self.write(&file, &settings);
        let kind = if self.options.tls_only { "hostssl" } else { "host" };
        let method = if self.options.password.is_some() { "scram-sha-256" } else { "trust" };
        let rules =
            format!("{kind} all all 127.0.0.1/32 {method}\n{kind} replication all 127.0.0.1/32 {method}\n");
        self.write(&self.data().join("pg_hba.conf"), &rules);
    }

    /// Starts the postmaster; returns when it answers.
    pub(super) fn start(&self) {
        let state = self.data().join("postmaster.pid");
        // What a killed one left would say that it is ready.
        let _ = fs::remove_file(&state);
        let mut command = self.process.command(&self.programs.join("postgres"));
        command.arg("-D").arg(self.data()).args(["-p", &self.port.number().to_string()]);
        program::without_variables(&mut command, &["PG"]);
        self.become_user(&mut command);
        self.process.start(command, || {
            fs::read_to_string(&state)
                .is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
        });
    }

    pub(super) fn stop(&self, mode: StopMode) {
        self.process.signal(match mode {
            StopMode::Fast => "INT",
            StopMode::Immediate => "QUIT",
        });
        self.process.wait();
    }

    pub(super) fn kill(&self) {
        self.process.kill();
    }

    pub(super) fn signal(&self, name: &str) {
        self.process.signal_family(name);
    }

    pub(super) fn printed(&self) -> String {
        self.process.printed()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(super) fn url(&self, address: SocketAddr, database: &str) -> String {
        let password =
            self.options.password.as_ref().map(|password| format!(":{password}")).unwrap_or_default();
        format!("postgres://postgres{password}@{address}/{database}")
    }

    pub(super) fn psql(&self, url: &str, sql: &str) -> String {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", "-"]);
        program::without_variables(&mut command, &["PG"]);
        program::run(&mut command, sql).trim_end().to_owned()
    }

    fn data(&self) -> PathBuf {
        self.process.folder().join("data")
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
