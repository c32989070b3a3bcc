//! One server's settings and life. Every call blocks.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
};

use super::{DATABASES, RedisOptions};
use crate::{
    given::Parts,
    port::Port,
    program,
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
        let is_ready = || self.ask("PING").is_some_and(|answer| answer == "+PONG");
        match &self.server {
            Server::Program(process, programs) => {
                let file = self.configure("127.0.0.1", self.plain_port().number(), self.port.number());
                let mut command = process.command(&programs.join("redis-server"));
                command.arg(file);
                process.start(command, is_ready);
            }
            Server::Image(container) => {
                self.configure("*", 6379, 6380);
                let mut options = vec![
                    format!("--publish={}:6379", self.plain_port().address()),
                    format!("--volume={}:/settings:ro", container.folder().display()),
                    // Where files without a path are looked for.
                    "--workdir=/settings".to_owned(),
                ];
                if self.options.tls.is_some() {
                    options.push(format!("--publish={}:6380", self.port.address()));
                }
                let arguments = ["redis-server", "/settings/redis.conf"].map(str::to_owned);
                container.start(&options, &arguments, is_ready);
            }
        }
    }

    /// Writes its settings; answers the file.
    fn configure(&self, bind: &str, plain: u16, tls: u16) -> PathBuf {
        let folder = self.server.folder();
        let write = |name: &str, text: &str| {
            fs::write(folder.join(name), text).expect("a folder of ours can be written");
        };
        let mut settings = format!("bind {bind}\nport {plain}\ndatabases {DATABASES}\n");
        settings += "protected-mode no\nsave \"\"\nappendonly no\n";
        if let Some(password) = &self.options.password {
            settings += &format!("requirepass {password}\n");
        }
        if let Some(certificate) = &self.options.tls {
            write("server.crt", &certificate.certificate);
            write("server.key", &certificate.key);
            write("authority.crt", &certificate.authority);
            settings += &format!("tls-port {tls}\ntls-cert-file server.crt\ntls-key-file server.key\n");
            settings += "tls-ca-cert-file authority.crt\ntls-auth-clients no\n";
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

    pub(super) fn flush(&self) {
        let answer = self.ask("FLUSHALL");
        assert!(answer.as_deref() == Some("+OK"), "cannot flush: {answer:?}");
    }

    fn plain_port(&self) -> &Port {
        self.plain.as_ref().unwrap_or(&self.port)
    }

    /// The last line of the answer.
    fn ask(&self, command: &str) -> Option<String> {
        let answer = ask(self.plain_port().address(), self.options.password.as_deref(), command)?;
        answer.lines().next_back().map(str::to_owned)
    }
}

/// The answer to one command; none while it does not listen.
fn ask(address: SocketAddr, password: Option<&str>, command: &str) -> Option<String> {
    let mut stream = program::connect(address)?;
    let login = password.map(|password| format!("AUTH {password}\r\n")).unwrap_or_default();
    stream.write_all(format!("{login}{command}\r\nQUIT\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    // Without what QUIT answers.
    answer.strip_suffix("+OK\r\n").map(str::to_owned)
}

/// How many databases a server that is not ours has; what servers have by default, if it does not tell.
pub(super) fn databases(parts: &Parts) -> u32 {
    let password = parts.login.trim_end_matches('@').split_once(':').map(|(_, password)| password);
    let plain = parts.scheme == "redis";
    let answer = plain.then(|| ask(parts.address(6379), password, "CONFIG GET databases")).flatten();
    answer.and_then(|answer| answer.lines().next_back()?.trim().parse().ok()).unwrap_or(16)
}
