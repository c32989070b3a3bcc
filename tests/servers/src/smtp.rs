//! A scripted SMTP server: it takes every mail and records it, unless a rule says otherwise for a command.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a server for tests: it owns sockets and tasks, and ends with the value"
)]

mod script;
mod session;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use script::{Act, Rule, Step};
pub use session::TlsMode;

/// How long a wait for something that should happen lasts before the test fails.
pub const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// A mail whose final dot was read.
#[derive(Clone, Debug)]
pub struct ReceivedMail {
    /// Which connection, counting from 1.
    pub session: u64,
    /// The address of MAIL FROM.
    pub from: String,
    /// The address of RCPT TO.
    pub to: String,
    /// The mail with dots unstuffed, CRLF line ends, without the final dot.
    pub source: Vec<u8>,
    /// When MAIL FROM was read.
    pub began_at: Instant,
    /// When the final dot was read.
    pub received_at: Instant,
    /// Whether the reply took it; false while the reply is held, for a refusal and for a connection that was dropped.
    pub taken: bool,
}

impl ReceivedMail {
    /// The source as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.source).into_owned()
    }

    /// The value of the first header `name`, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        let text = self.text();
        let head = text.split("\r\n\r\n").next()?.replace("\r\n ", " ").replace("\r\n\t", " ");
        let prefix = format!("{}:", name.to_ascii_lowercase());
        head.split("\r\n")
            .find(|line| line.to_ascii_lowercase().starts_with(&prefix))
            .map(|line| line[prefix.len()..].trim().to_owned())
    }
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Every mail whose final dot was read, in that order.
    pub mails: Vec<ReceivedMail>,
    /// Every line that was read outside mails, with its session, in order.
    pub commands: Vec<(u64, String)>,
    /// Connections that were made.
    pub sessions: u64,
    /// Connections that are open now.
    pub open_sessions: usize,
    /// The most that were open at once.
    pub most_open_sessions: usize,
}

impl Seen {
    /// How many commands began with `word`, in any case.
    pub fn count(&self, word: &str) -> usize {
        let word = word.to_ascii_uppercase();
        self.commands.iter().filter(|(_, line)| line.to_ascii_uppercase().starts_with(&word)).count()
    }

    /// The mails that a reply took.
    pub fn taken(&self) -> Vec<&ReceivedMail> {
        self.mails.iter().filter(|mail| mail.taken).collect()
    }
}

/// How the server is set up.
#[derive(Clone, Default)]
pub struct Options {
    /// Whether and how it speaks TLS.
    pub tls: TlsMode,
    /// What it speaks TLS with; needed for [`TlsMode::StartTls`] and [`TlsMode::Wrapper`].
    pub acceptor: Option<TlsAcceptor>,
    /// The user and password that AUTH takes; without it AUTH is not offered.
    pub login: Option<(String, String)>,
    /// Whether it says that it takes commands together (RFC 2920).
    pub pipelining: bool,
}

/// The server. It ends, with every connection, when it is dropped.
pub struct SmtpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<CancellationToken>,
    tasks: TaskTracker,
}

struct Shared {
    options: Options,
    seen: Mutex<Seen>,
    changed: watch::Sender<u64>,
    rules: Mutex<Vec<Rule>>,
    releases: watch::Sender<u64>,
}

impl Shared {
    fn update<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let result = change(&mut lock(&self.seen));
        self.changed.send_modify(|version| *version += 1);
        result
    }

    /// What the first rule that fits says, and counts it as used.
    fn act(&self, step: Step, recipient: &str) -> Option<Act> {
        lock(&self.rules).iter_mut().find_map(|rule| rule.take(step, recipient))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SmtpServer {
    /// Starts a server without TLS or AUTH on a free port.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// Starts a server on a free port.
    pub async fn start_with(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            options,
            seen: Mutex::default(),
            changed: watch::Sender::new(0),
            rules: Mutex::default(),
            releases: watch::Sender::new(0),
        });
        let mut server = Self { address, shared, running: None, tasks: TaskTracker::new() };
        server.serve(listener);
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The setting `SMTP_URL` for it (without TLS).
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Adds a rule; the first that fits a step decides it.
    pub fn rule(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Adds a rule for every `step` from now on.
    pub fn on(&self, step: Step, act: Act) {
        self.rule(Rule::new(step, act));
    }

    /// Adds a rule for the next `step` only.
    pub fn once(&self, step: Step, act: Act) {
        self.rule(Rule::new(step, act).times(1));
    }

    /// Removes all rules; what they hold stays held until [`SmtpServer::release`].
    pub fn clear_rules(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Lets go on whatever [`Act::Hold`] holds now.
    pub fn release(&self) {
        self.shared.releases.send_modify(|release| *release += 1);
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        lock(&self.shared.seen).clone()
    }

    /// The mails that were taken so far.
    pub fn mails(&self) -> Vec<ReceivedMail> {
        self.seen().taken().into_iter().cloned().collect()
    }

    /// Waits until `is_so` of what was seen; answers that. Fails the test after [`WAIT_LIMIT`].
    pub async fn wait_until(&self, what: &str, mut is_so: impl FnMut(&Seen) -> bool) -> Seen {
        let mut changed = self.shared.changed.subscribe();
        let wait = async {
            loop {
                changed.borrow_and_update();
                let seen = self.seen();
                if is_so(&seen) {
                    return seen;
                }
                changed.changed().await.expect("the server holds the sender");
            }
        };
        match tokio::time::timeout(WAIT_LIMIT, wait).await {
            Ok(seen) => seen,
            Err(_) => panic!("waited {WAIT_LIMIT:?} in vain until {what}; seen: {:?}", self.seen().commands),
        }
    }

    /// Waits until `count` mails were taken; answers them.
    pub async fn wait_for_mails(&self, count: usize) -> Vec<ReceivedMail> {
        let seen = self.wait_until(&format!("{count} mails"), |seen| seen.taken().len() >= count).await;
        seen.taken().into_iter().cloned().collect()
    }

    /// Waits until `count` commands beginning with `word` were read.
    pub async fn wait_for_commands(&self, word: &str, count: usize) {
        self.wait_until(&format!("{count} times {word}"), |seen| seen.count(word) >= count).await;
    }

    /// Ends every connection and stops listening: from now on connections are refused. Returns when that is so.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.cancel();
            self.tasks.close();
            self.tasks.wait().await;
        }
    }

    /// Listens again on the same port. What was seen before is kept.
    pub async fn start_again(&mut self) {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await.expect("the port that was ours is free");
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let (shared, stopped) = (Arc::clone(&self.shared), CancellationToken::new());
        self.running = Some(stopped.clone());
        self.tasks = TaskTracker::new();
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = stopped.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else { continue };
                let (shared, stopped) = (Arc::clone(&shared), stopped.clone());
                tasks.spawn(async move {
                    let open = session::Open::new(&shared);
                    tokio::select! {
                        biased;
                        () = stopped.cancelled() => {}
                        () = session::run(&shared, open.number, stream) => {}
                    }
                });
            }
        });
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.cancel();
        }
    }
}
