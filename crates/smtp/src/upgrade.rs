//! STARTTLS (RFC 3207), up to the handshake. Read a byte at a time, so that whatever someone between us and the server
//! adds to the last plain reply goes into the handshake, where it is an error, and never into the secure session.

use std::time::Duration;

use lettre::transport::smtp::extension::ClientId;
use tidings_domain::ports::MailPhase;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use crate::{
    failure::{Failure, one_line},
    settings::Deadlines,
    stream::{MAX_LINE_BYTES, normal},
};

/// The most lines of a reply that are taken.
const MAX_LINES: usize = 256;

/// Says what there is to say before the handshake; Ok when the server is ready for it.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    hello: &ClientId,
    deadlines: &Deadlines,
) -> Result<(), Failure> {
    let greeting = reply(stream, MailPhase::Greeting, deadlines.greeting, "").await?;
    expect(&greeting, MailPhase::Greeting, 220)?;
    let offers = reply(stream, MailPhase::Ehlo, deadlines.ehlo, &format!("EHLO {hello}\r\n")).await?;
    expect(&offers, MailPhase::Ehlo, 250)?;
    if !offers.lines.iter().skip(1).any(|line| line.trim().eq_ignore_ascii_case("STARTTLS")) {
        let text = "the server does not offer STARTTLS: a server that speaks none is asked for by ?tls=none"
            .to_owned();
        return Err(Failure { phase: MailPhase::StartTls, code: 0, text });
    }
    let ready = reply(stream, MailPhase::StartTls, deadlines.starttls, "STARTTLS\r\n").await?;
    expect(&ready, MailPhase::StartTls, 220)
}

struct Reply {
    code: u16,
    lines: Vec<String>,
}

fn expect(reply: &Reply, phase: MailPhase, code: u16) -> Result<(), Failure> {
    if reply.code == code {
        return Ok(());
    }
    Err(Failure { phase, code: reply.code, text: one_line(&reply.lines.join(" ")) })
}

/// Says `command` and reads its reply.
async fn reply<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    phase: MailPhase,
    deadline: Duration,
    command: &str,
) -> Result<Reply, Failure> {
    let exchange = async {
        stream.write_all(command.as_bytes()).await?;
        stream.flush().await?;
        read(stream).await
    };
    match timeout(deadline, exchange).await {
        Ok(outcome) => outcome.map_err(|error| Failure::lost(phase, &error)),
        Err(_) => Err(Failure::overdue(phase, deadline)),
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Reply> {
    let bad = |text: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, text.to_owned());
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        loop {
            match stream.read_u8().await? {
                b'\n' => break,
                byte => line.push(byte),
            }
            if line.len() > MAX_LINE_BYTES {
                return Err(bad("a line of a reply is too long"));
            }
        }
        let line = normal(&line);
        let code = line.get(..3).and_then(|code| code.parse().ok()).filter(|code| (200..600).contains(code));
        let code: u16 = code.ok_or_else(|| bad("what came is no reply"))?;
        lines.push(line.get(4..).unwrap_or_default().to_owned());
        match line.as_bytes().get(3) {
            Some(b'-') if lines.len() < MAX_LINES => {}
            Some(b' ') => return Ok(Reply { code, lines }),
            _ => return Err(bad("what came is no reply")),
        }
    }
}
