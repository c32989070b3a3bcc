//! One connection to the scripted server.

use std::{io, sync::Arc, time::Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    sync::watch,
};

use super::{Act, ReceivedMail, Shared, Step};

/// Whether and how the server speaks TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Not at all.
    #[default]
    None,
    /// After STARTTLS, which it offers.
    StartTls,
    /// From the first byte.
    Wrapper,
}

/// Counts a connection as open while it lives.
pub(super) struct Open {
    shared: Arc<Shared>,
    pub(super) number: u64,
}

impl Open {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let number = shared.update(|seen| {
            seen.sessions += 1;
            seen.open_sessions += 1;
            seen.most_open_sessions = seen.most_open_sessions.max(seen.open_sessions);
            seen.sessions
        });
        Self { shared: Arc::clone(shared), number }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.update(|seen| seen.open_sessions -= 1);
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What follows a step.
enum Next {
    /// The reply with this code was sent.
    Replied(u16),
    /// The connection is to end.
    Close,
}

struct Session<'a> {
    shared: &'a Shared,
    number: u64,
    stream: BufReader<Box<dyn Stream>>,
    secure: bool,
    from: Option<(String, Instant)>,
    to: Option<String>,
    /// Seen up to the command under way, so that a release after its record is never missed.
    releases: watch::Receiver<u64>,
}

pub(super) async fn run(
    shared: &Shared,
    number: u64,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) {
    let mut stream: Box<dyn Stream> = Box::new(stream);
    let wrapped = shared.options.tls == TlsMode::Wrapper;
    if wrapped {
        let Some(acceptor) = &shared.options.acceptor else { return };
        let Ok(tls) = acceptor.accept(stream).await else { return };
        stream = Box::new(tls);
    }
    let stream = BufReader::new(stream);
    let releases = shared.releases.subscribe();
    let mut session = Session { shared, number, stream, secure: wrapped, from: None, to: None, releases };
    // A connection that ends is no fault of the server's: what was seen is recorded.
    let _ = session.serve().await;
}

impl Session<'_> {
    async fn serve(&mut self) -> io::Result<()> {
        if matches!(self.step(Step::Greeting, "220 scripted ESMTP").await?, Next::Close) {
            return Ok(());
        }
        while let Some(line) = self.line().await? {
            self.releases.borrow_and_update();
            self.shared.update(|seen| seen.commands.push((self.number, line.clone())));
            if matches!(self.command(&line).await?, Next::Close | Next::Replied(221)) {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn command(&mut self, line: &str) -> io::Result<Next> {
        let upper = line.to_ascii_uppercase();
        let word = upper.split([' ', ':']).next().unwrap_or_default();
        match word {
            "EHLO" | "HELO" => {
                let mut reply = "250-scripted\n250-8BITMIME\n250-ENHANCEDSTATUSCODES".to_owned();
                if self.shared.options.tls == TlsMode::StartTls && !self.secure {
                    reply.push_str("\n250-STARTTLS");
                }
                if self.shared.options.login.is_some() {
                    reply.push_str("\n250-AUTH PLAIN LOGIN");
                }
                if self.shared.options.pipelining {
                    reply.push_str("\n250-PIPELINING");
                }
                reply.push_str("\n250 SIZE 10000000");
                self.step(Step::Ehlo, &reply).await
            }
            "STARTTLS" => self.start_tls().await,
            "AUTH" => self.auth(line).await,
            "MAIL" if self.from.is_some() => self.reply("503 5.5.1 nested MAIL command").await,
            "MAIL" => {
                let next = self.step(Step::Mail, "250 2.1.0 sender ok").await?;
                if matches!(next, Next::Replied(200..300)) {
                    self.from = Some((address(line), Instant::now()));
                }
                Ok(next)
            }
            "RCPT" if self.from.is_some() => {
                let to = address(line);
                let next = self.step_for(Step::Rcpt, &to, "250 2.1.5 recipient ok").await?;
                if matches!(next, Next::Replied(200..300)) {
                    self.to = Some(to);
                }
                Ok(next)
            }
            "DATA" if self.to.is_some() => self.data().await,
            "RCPT" => self.step_for(Step::Rcpt, &address(line), "503 5.5.1 bad sequence of commands").await,
            "DATA" => self.reply("503 5.5.1 bad sequence of commands").await,
            "RSET" => {
                (self.from, self.to) = (None, None);
                self.step(Step::Rset, "250 2.0.0 ok").await
            }
            "NOOP" => self.step(Step::Noop, "250 2.0.0 ok").await,
            "QUIT" => self.step(Step::Quit, "221 2.0.0 bye").await,
            _ => self.reply("500 5.5.2 what").await,
        }
    }

    async fn data(&mut self) -> io::Result<Next> {
        let next = self.step(Step::Data, "354 go on").await?;
        if !matches!(next, Next::Replied(354)) {
            return Ok(next);
        }
        let mut source = Vec::new();
        let mut first = true;
        loop {
            let mut line = Vec::new();
            if self.stream.read_until(b'\n', &mut line).await? == 0 {
                return Ok(Next::Close);
            }
            let first = std::mem::take(&mut first);
            if first && let Some(act) = self.shared.act(Step::Body, &self.recipient()) {
                match act {
                    Act::Hang => std::future::pending::<()>().await,
                    Act::Hold => self.held().await,
                    _ => return Ok(Next::Close),
                }
            }
            if line == b".\r\n" {
                break;
            }
            source.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        let (from, began_at) = self.from.take().expect("DATA comes after MAIL");
        let to = self.recipient();
        let mail = ReceivedMail {
            session: self.number,
            from,
            to: to.clone(),
            source,
            began_at,
            received_at: Instant::now(),
            taken: false,
        };
        self.releases.borrow_and_update();
        let index = self.shared.update(|seen| {
            seen.mails.push(mail);
            seen.mails.len() - 1
        });
        self.to = None;
        // Marked before the reply is written, so that whoever has read the reply finds the mail.
        let act = self.shared.act(Step::Message, &to);
        let reply = format!("250 2.0.0 queued as {}", index + 1);
        let takes = match &act {
            None | Some(Act::Slowly(_)) => true,
            Some(Act::Reply(text) | Act::ReplyAndClose(text) | Act::ReplySlowly(text, _)) => {
                text.starts_with('2')
            }
            Some(Act::Hold) => {
                self.held().await;
                true
            }
            _ => false,
        };
        if takes {
            self.shared.update(|seen| seen.mails[index].taken = true);
        }
        match act {
            Some(Act::Hold) => self.reply(&reply).await,
            act => self.do_act(act, &reply).await,
        }
    }

    async fn start_tls(&mut self) -> io::Result<Next> {
        let next = self.step(Step::StartTls, "220 2.0.0 go on").await?;
        let (Next::Replied(220), Some(acceptor)) = (&next, &self.shared.options.acceptor) else {
            return Ok(next);
        };
        let plain = std::mem::replace(&mut self.stream, BufReader::new(Box::new(tokio::io::empty())));
        let tls = acceptor.accept(plain.into_inner()).await?;
        self.stream = BufReader::new(Box::new(tls));
        self.secure = true;
        Ok(Next::Replied(220))
    }

    async fn auth(&mut self, line: &str) -> io::Result<Next> {
        let mut words = line.split(' ').skip(1);
        let (mechanism, initial) = (words.next().unwrap_or_default().to_ascii_uppercase(), words.next());
        let initial = initial.map(str::to_owned);
        let given = if mechanism == "PLAIN" {
            let text = match initial {
                Some(text) => text,
                None => self.challenge("334 ").await?,
            };
            let text = decode(&text);
            let mut parts = text.split('\0').skip(1).map(str::to_owned);
            parts.next().zip(parts.next())
        } else {
            let user = self.challenge("334 VXNlcm5hbWU6").await?;
            let password = self.challenge("334 UGFzc3dvcmQ6").await?;
            Some((decode(&user), decode(&password)))
        };
        let good = given.is_some() && given == self.shared.options.login;
        let reply = if good { "235 2.7.0 welcome" } else { "535 5.7.8 wrong user or password" };
        self.step(Step::Auth, reply).await
    }

    async fn challenge(&mut self, reply: &str) -> io::Result<String> {
        self.reply(reply).await?;
        Ok(self.line().await?.unwrap_or_default())
    }

    async fn step(&mut self, step: Step, reply: &str) -> io::Result<Next> {
        let recipient = self.recipient();
        self.step_for(step, &recipient, reply).await
    }

    async fn step_for(&mut self, step: Step, recipient: &str, reply: &str) -> io::Result<Next> {
        let act = self.shared.act(step, recipient);
        self.do_act(act, reply).await
    }

    async fn do_act(&mut self, act: Option<Act>, usual: &str) -> io::Result<Next> {
        match act {
            None => self.reply(usual).await,
            Some(Act::Reply(text)) => self.reply(text).await,
            Some(Act::ReplyAndClose(text)) => {
                self.reply(text).await?;
                Ok(Next::Close)
            }
            Some(Act::Slowly(pause)) => self.reply_slowly(usual, pause).await,
            Some(Act::ReplySlowly(text, pause)) => self.reply_slowly(text, pause).await,
            Some(Act::Garbage(bytes)) => {
                self.stream.write_all(bytes).await?;
                self.stream.flush().await?;
                Ok(Next::Replied(0))
            }
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Hold) => {
                self.held().await;
                self.reply(usual).await
            }
            Some(Act::Close) => Ok(Next::Close),
        }
    }

    async fn held(&mut self) {
        // The sender lives as long as the server.
        let _ = self.releases.changed().await;
    }

    async fn reply(&mut self, text: &str) -> io::Result<Next> {
        let wire = text.replace('\n', "\r\n") + "\r\n";
        self.stream.write_all(wire.as_bytes()).await?;
        self.stream.flush().await?;
        Ok(Next::Replied(code(text)))
    }

    async fn reply_slowly(&mut self, text: &str, pause: std::time::Duration) -> io::Result<Next> {
        for byte in (text.replace('\n', "\r\n") + "\r\n").bytes() {
            self.stream.write_all(&[byte]).await?;
            self.stream.flush().await?;
            tokio::time::sleep(pause).await;
        }
        Ok(Next::Replied(code(text)))
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        if self.stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
    }

    fn recipient(&self) -> String {
        self.to.clone().unwrap_or_default()
    }
}

fn code(text: &str) -> u16 {
    text.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn address(line: &str) -> String {
    let between = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    between.map(|(address, _)| address.to_owned()).unwrap_or_default()
}

fn decode(text: &str) -> String {
    let bytes = BASE64_STANDARD.decode(text.trim()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
