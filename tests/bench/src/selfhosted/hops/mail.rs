//! SMTP into the sink of this process: by hand, with everything that may be sent together sent together, and our adapter.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tidings_domain::{
    address::EmailAddress,
    ports::{Mail, MailEnvelope},
};
use tidings_smtp::{SmtpMail, SmtpSettings};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
};

use super::{Hop, Rounds, Sample, Stopwatch};
use crate::load;

/// Connections, and mails under way, of either side.
const CONNECTIONS: u64 = 8;

/// A mail as long as ours to one recipient.
fn mail() -> Bytes {
    let headers = "From: bench@example.com\r\nTo: reader@example.com\r\nSubject: a message\r\n\
                   Message-ID: <none@example.com>\r\nContent-Type: text/plain; charset=utf-8\r\n";
    // No number in front: the sink then keeps no time for it.
    Bytes::from(format!("{headers}\r\nmail {}\r\n", load::body(0)))
}

/// Both sides.
pub(crate) async fn measure(sink: SocketAddr, rounds: Rounds) -> anyhow::Result<Hop> {
    let mut hop = Hop::new("SMTP, 8 connections; CPU with the sink's");
    let ours = Ours::open(sink)?;
    for _ in 0..rounds.rounds {
        hop.floor(floor(sink, rounds.count).await?);
        hop.ours(ours.round(rounds.count).await?);
    }
    Ok(hop)
}

/// The floor: each connection pipelines MAIL, RCPT and DATA (RFC 2920).
async fn floor(sink: SocketAddr, count: u64) -> anyhow::Result<Sample> {
    let stopwatch = Stopwatch::start(None)?;
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connections.spawn(by_hand(sink, count / CONNECTIONS, mail()));
    }
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    stopwatch.stop(count / CONNECTIONS * CONNECTIONS)
}

async fn by_hand(sink: SocketAddr, count: u64, mail: Bytes) -> anyhow::Result<()> {
    let stream = TcpStream::connect(sink).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    reply(&mut stream, 220).await?;
    stream.write_all(b"EHLO bench\r\n").await?;
    reply(&mut stream, 250).await?;
    let begin = b"MAIL FROM:<bench@example.com>\r\nRCPT TO:<reader@example.com>\r\nDATA\r\n";
    let mut message = mail.to_vec();
    message.extend_from_slice(b".\r\n");
    for _ in 0..count {
        stream.write_all(begin).await?;
        for code in [250, 250, 354] {
            reply(&mut stream, code).await?;
        }
        stream.write_all(&message).await?;
        reply(&mut stream, 250).await?;
    }
    Ok(())
}

/// Reads one reply, all its lines.
async fn reply(stream: &mut BufReader<TcpStream>, wanted: u16) -> anyhow::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let code: u16 = line.get(..3).context("a reply")?.parse()?;
        ensure!(code == wanted, "answered {line:?}");
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(());
        }
    }
}

/// Ours.
struct Ours(Arc<SmtpMail>);

impl Ours {
    fn open(sink: SocketAddr) -> anyhow::Result<Self> {
        let mut settings = SmtpSettings::from_url(&format!("smtp://{sink}")).map_err(anyhow::Error::msg)?;
        settings.max_connections = usize::try_from(CONNECTIONS)?;
        Ok(Self(Arc::new(SmtpMail::new(settings)?)))
    }

    async fn round(&self, count: u64) -> anyhow::Result<Sample> {
        let envelope = MailEnvelope {
            from: EmailAddress::parse("bench@example.com")?,
            to: EmailAddress::parse("reader@example.com")?,
        };
        let stopwatch = Stopwatch::start(None)?;
        let mut callers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (port, envelope, mail) = (Arc::clone(&self.0), envelope.clone(), mail());
            callers.spawn(async move {
                for _ in 0..count / CONNECTIONS {
                    port.begin(&envelope).await?.data(mail.clone()).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        stopwatch.stop(count / CONNECTIONS * CONNECTIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Sink;

    #[tokio::test]
    async fn both_sides_bring_their_mails_to_the_sink() {
        let sink = Sink::start().await.unwrap();
        let count = 2 * CONNECTIONS;
        floor(sink.address, count).await.unwrap();
        assert_eq!(sink.count(), count);
        Ours::open(sink.address).unwrap().round(count).await.unwrap();
        assert_eq!(sink.count(), 2 * count);
    }
}
