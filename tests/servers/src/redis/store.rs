//! One server's settings and life. Every call blocks.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::{
    DATABASES, RedisOptions,
    session::{Answer, Session},
};
use crate::{
    port::Port,
    server::{Kind, Server},
};

pub(super) struct Store {
    options: RedisOptions,
    port: Port,
    server: Server,
    /// With TLS: where it answers us, in plain text.
    plain: Option<Port>,
}

impl Store {
    /// Starts nothing.
    pub(super) fn new(options: RedisOptions) -> Self {
        let folders = ["/opt/homebrew/opt/redis/bin", "/usr/local/opt/redis/bin"].map(PathBuf::from).to_vec();
        let kind = Kind { name: "Redis", program: "redis-server", folders, image: "redis:8-alpine" };
        let plain = options.tls.is_some().then(Port::new);
        Self { options, port: Port::new(), server: Server::new("redis", &kind), plain }
    }

    /// Returns when it answers.
    pub(super) fn start(&self) {
        let is_ready = || self.ask(&["PING"]).is_some_and(|answer| answer == Answer::Said("PONG".to_owned()));
        match &self.server {
            Server::Program(process, programs) => {
                let folder = process.folder().display().to_string();
                let file =
                    self.configure("127.0.0.1", self.plain_port().number(), self.port.number(), &folder);
                let mut command = process.command(&programs.join("redis-server"));
                command.arg(file);
                process.start(command, is_ready);
            }
            Server::Image(container) => {
                self.configure("*", 6379, 6380, "/settings");
                let mut options = vec![
                    format!("--publish={}:6379", self.plain_port().address()),
                    // It runs there as a user of the image's, who reads and writes nothing.
                    format!("--volume={}:/settings:ro", container.folder().display()),
                ];
                if self.options.tls.is_some() {
                    options.push(format!("--publish={}:6380", self.port.address()));
                }
                let arguments = ["redis-server", "/settings/redis.conf"].map(str::to_owned);
                container.start(&options, &arguments, is_ready);
            }
        }
    }

    /// Writes its settings, which it sees in the folder `seen`; answers the file.
    fn configure(&self, bind: &str, plain: u16, tls: u16, seen: &str) -> PathBuf {
        let folder = self.server.folder();
        let write = |name: &str, text: &str| {
            let file = folder.join(name);
            fs::write(&file, text).expect("a folder of ours can be written");
            fs::set_permissions(file, fs::Permissions::from_mode(0o644))
                .expect("a file of ours has permissions");
        };
        let mut settings = format!("bind {bind}\nport {plain}\ndatabases {DATABASES}\n");
        settings += "protected-mode no\nsave \"\"\nappendonly no\n";
        if let Server::Program(..) = &self.server {
            settings += &format!("dir {seen}\n");
        }
        if let Some(password) = &self.options.password {
            settings += &format!("requirepass {password}\n");
        }
        if let Some(certificate) = &self.options.tls {
            write("server.crt", &certificate.certificate);
            write("server.key", &certificate.key);
            settings += &format!(
                "tls-port {tls}\ntls-cert-file {seen}/server.crt\ntls-key-file {seen}/server.key\n\
                 tls-auth-clients no\n",
            );
        }
        write("redis.conf", &settings);
        folder.join("redis.conf")
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(super) fn url(&self, number: u32) -> String {
        let scheme = if self.options.tls.is_some() { "rediss" } else { "redis" };
        let password = self.options.password.as_ref();
        let login = password.map(|password| format!(":{password}@")).unwrap_or_default();
        format!("{scheme}://{login}{}/{number}", self.address())
    }

    pub(super) fn version(&self) -> String {
        let Some(Answer::Said(info)) = self.ask(&["INFO", "server"]) else { panic!("it does not tell") };
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        version.expect("it tells its version").trim().to_owned()
    }

    pub(super) fn flush(&self) {
        let answer = self.ask(&["FLUSHALL"]);
        assert!(answer == Some(Answer::ok()), "cannot flush: {answer:?}");
    }

    fn plain_port(&self) -> &Port {
        self.plain.as_ref().unwrap_or(&self.port)
    }

    /// The answer to one command; none while it does not listen.
    fn ask(&self, command: &[&str]) -> Option<Answer> {
        let mut session = Session::open(self.plain_port().address())?;
        if let Some(password) = &self.options.password {
            session.ask(&["AUTH", password])?;
        }
        session.ask(command)
    }
}
