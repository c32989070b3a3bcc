//! Redis, private to a test. It keeps nothing on disk: a stop or a kill loses all, as may happen to it at any time.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::OnceCell;

use crate::{
    authority::Certificate,
    port::Port,
    process::Process,
    program::{self, beside},
};

/// How many databases a server has.
const DATABASES: u32 = 4096;

/// How a server differs from [`Redis::start`]'s.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Speaks TLS with this, and nothing else (`rediss://`).
    pub tls: Option<Certificate>,
    /// Asks for this password. Only letters and digits.
    pub password: Option<String>,
}

/// A server. It ends when it is dropped or when this process dies.
pub struct Redis {
    server: Arc<Server>,
    next: AtomicU32,
}

impl Redis {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        Self::start_with(RedisOptions::default()).await
    }

    /// Starts one on a free port.
    pub async fn start_with(options: RedisOptions) -> Self {
        let server = beside(move || {
            let server = Server::new(options);
            server.start();
            server
        })
        .await;
        Self { server: Arc::new(server), next: AtomicU32::new(1) }
    }

    /// The one that the tests of this process share: whoever asks first starts it. Take a database of your own in it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Redis> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// The URL of a database that nobody else was given.
    pub fn database(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(number < DATABASES, "all {DATABASES} databases are given away");
        self.url(number)
    }

    /// The URL of a database.
    pub fn url(&self, number: u32) -> String {
        let scheme = if self.server.options.tls.is_some() { "rediss" } else { "redis" };
        let password = self.server.options.password.as_ref();
        let login = password.map(|password| format!(":{password}@")).unwrap_or_default();
        format!("{scheme}://{login}{}/{number}", self.addr())
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.port.address()
    }

    /// Empties all databases.
    pub async fn flush(&self) {
        self.beside(|server| {
            assert!(server.ask("FLUSHALL").is_some_and(|answer| answer.starts_with("+OK")), "cannot flush");
        })
        .await;
    }

    /// Stops it; returns when it is down.
    pub async fn stop(&self) {
        self.beside(|server| {
            server.process.signal("TERM");
            server.process.wait();
        })
        .await;
    }

    /// Kills it (`kill -9`).
    pub async fn kill(&self) {
        self.beside(|server| server.process.kill()).await;
    }

    /// Starts it again, empty, on the same port; returns when it answers.
    pub async fn start_again(&self) {
        self.beside(Server::start).await;
    }

    /// Stops it where it stands: connections stay and nothing answers.
    pub fn freeze(&self) {
        self.server.process.signal_family("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.server.process.signal_family("CONT");
    }

    async fn beside(&self, work: impl FnOnce(&Server) + Send + 'static) {
        let server = Arc::clone(&self.server);
        beside(move || work(&server)).await;
    }
}

struct Server {
    options: RedisOptions,
    port: Port,
    process: Process,
    program: PathBuf,
    /// Answers us in plain text, whatever others need; the port's for others if that is plain too.
    plain: Option<Port>,
}

impl Server {
    fn new(options: RedisOptions) -> Self {
        let folders = ["/opt/homebrew/opt/redis/bin", "/usr/local/opt/redis/bin"].map(PathBuf::from);
        let program = program::find("redis-server", &folders).expect("Redis is installed");
        let plain = options.tls.is_some().then(Port::new);
        Self { options, port: Port::new(), process: Process::new("redis"), program, plain }
    }

    fn start(&self) {
        let folder = self.process.folder();
        let mut settings = format!(
            "bind 127.0.0.1\ndir {}\nsave \"\"\nappendonly no\ndatabases {DATABASES}\nport {}\n",
            folder.display(),
            self.plain.as_ref().unwrap_or(&self.port).number(),
        );
        if let Some(password) = &self.options.password {
            settings += &format!("requirepass {password}\n");
        }
        if let Some(tls) = &self.options.tls {
            fs::write(folder.join("server.crt"), &tls.certificate).expect("a folder of ours can be written");
            fs::write(folder.join("server.key"), &tls.key).expect("a folder of ours can be written");
            settings += &format!(
                "tls-port {}\ntls-cert-file server.crt\ntls-key-file server.key\ntls-auth-clients no\n",
                self.port.number(),
            );
        }
        let file = folder.join("redis.conf");
        fs::write(&file, settings).expect("a folder of ours can be written");
        let mut command = self.process.command(&self.program);
        command.arg(file);
        self.process.start(command, || self.ask("PING").is_some_and(|answer| answer.starts_with("+PONG")));
    }

    /// The answer to one command; none while it does not listen.
    fn ask(&self, command: &str) -> Option<String> {
        let address = self.plain.as_ref().unwrap_or(&self.port).address();
        let mut stream = program::connect(address)?;
        let mut lines = String::new();
        if let Some(password) = &self.options.password {
            lines += &format!("AUTH {password}\r\n");
        }
        stream.write_all(format!("{lines}{command}\r\nQUIT\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        // The last but one: AUTH answers before, QUIT after.
        answer.lines().rev().nth(1).map(str::to_owned)
    }
}
