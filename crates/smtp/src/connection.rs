//! One connection to the server: each command under its deadline, each outcome with its phase.
#![expect(clippy::disallowed_types, reason = "this adapter owns its sockets")]

use std::{future::Future, sync::Arc, time::Duration};

use lettre::transport::smtp::{
    Error as LettreError,
    authentication::{Credentials, Mechanism},
    client::{AsyncSmtpConnection, AsyncTokioStream},
    extension::ClientId,
    response::Response,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tidings_domain::{
    Error, Result as DomainResult,
    ports::{MailEnvelope, MailPhase, MailReply},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    failure::{Failure, one_line},
    settings::{SmtpSettings, Tls},
    stream::{Progress, Replies},
    upgrade,
};

/// What every connection needs, made once.
pub(crate) struct Connector {
    pub(crate) settings: SmtpSettings,
    hello: ClientId,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Connector {
    pub(crate) fn new(settings: SmtpSettings) -> DomainResult<Self> {
        let hello = settings.hello_name.clone().map_or_else(ClientId::default, ClientId::Domain);
        let tls = match settings.tls {
            Tls::None => None,
            Tls::StartTls | Tls::Wrapper => Some(tls(&settings).map_err(|error| {
                Error::misconfigured(format!("TLS for the mail server {}", settings.server()))
                    .with_source(error)
            })?),
        };
        Ok(Self { settings, hello, tls })
    }

    /// A connection that has said EHLO, is encrypted as the settings demand, and logged in.
    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        let deadlines = &self.settings.deadlines;
        let mut tcp = self.dial().await?;
        let peer = tcp.peer_addr().map_err(|error| Failure::lost(MailPhase::Connect, &error))?;
        let (smtp, progress) = match &self.tls {
            None => self.greet(Replies::new(tcp, peer, "")).await?,
            Some((connector, name)) => {
                let starttls = self.settings.tls == Tls::StartTls;
                if starttls {
                    upgrade::ask(&mut tcp, &self.hello, deadlines).await?;
                }
                let handshake = timeout(deadlines.starttls, connector.connect(name.clone(), tcp)).await;
                let tls = handshake
                    .map_err(|_| Failure::overdue(MailPhase::Tls, deadlines.starttls))?
                    .map_err(|error| Failure::lost(MailPhase::Tls, &error))?;
                // After STARTTLS there is no second greeting, and lettre waits for one.
                let first = if starttls { "220 encrypted\r\n" } else { "" };
                self.greet(Replies::new(tls, peer, first)).await?
            }
        };
        let mut connection = Connection { smtp, progress, out_of_step: false, mails: 0 };
        if let Some(login) = &self.settings.login {
            let credentials = Credentials::new(login.user.clone(), login.password.clone());
            let auth = connection.smtp.auth(&[Mechanism::Plain, Mechanism::Login], &credentials);
            within(MailPhase::Auth, deadlines.auth, auth).await?;
        }
        Ok(connection)
    }

    async fn dial(&self) -> Result<TcpStream, Failure> {
        let deadline = self.settings.deadlines.connect;
        let dialled =
            timeout(deadline, TcpStream::connect((self.settings.host.as_str(), self.settings.port))).await;
        let tcp = dialled
            .map_err(|_| Failure::overdue(MailPhase::Connect, deadline))?
            .map_err(|error| Failure::lost(MailPhase::Connect, &error))?;
        // A mail is two writes; with Nagle's delay the second waits for the first's acknowledgement, 40 ms.
        tcp.set_nodelay(true).map_err(|error| Failure::lost(MailPhase::Connect, &error))?;
        Ok(tcp)
    }

    /// Reads the greeting and says EHLO, each under its own deadline though lettre does both in one call.
    async fn greet<S>(&self, stream: Replies<S>) -> Result<(AsyncSmtpConnection, Arc<Progress>), Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    {
        let progress = stream.progress();
        let stream: Box<dyn AsyncTokioStream> = Box::new(stream);
        let deadlines = &self.settings.deadlines;
        let mut connecting = std::pin::pin!(AsyncSmtpConnection::connect_with_transport(stream, &self.hello));
        let mut until = Instant::now() + deadlines.greeting;
        let mut greeted = false;
        loop {
            tokio::select! {
                biased;
                connected = &mut connecting => {
                    let phase = if progress.has_spoken() { MailPhase::Ehlo } else { MailPhase::Greeting };
                    let smtp = connected.map_err(|error| Failure::of(phase, &error))?;
                    return Ok((smtp, progress));
                }
                () = progress.spoke(), if !greeted => {
                    greeted = true;
                    until = Instant::now() + deadlines.ehlo;
                }
                () = tokio::time::sleep_until(until) => {
                    return Err(if greeted {
                        Failure::overdue(MailPhase::Ehlo, deadlines.ehlo)
                    } else {
                        Failure::overdue(MailPhase::Greeting, deadlines.greeting)
                    });
                }
            }
        }
    }
}

/// rustls with the system's certificates and those of the settings, for the host of the settings.
fn tls(
    settings: &SmtpSettings,
) -> Result<(TlsConnector, ServerName<'static>), Box<dyn std::error::Error + Send + Sync>> {
    let name = ServerName::try_from(settings.host.clone())?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(pem) = &settings.ca_pem {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate?)?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    Ok((TlsConnector::from(Arc::new(config)), name))
}

async fn within<T>(
    phase: MailPhase,
    deadline: Duration,
    command: impl Future<Output = Result<T, LettreError>>,
) -> Result<T, Failure> {
    match timeout(deadline, command).await {
        Ok(outcome) => outcome.map_err(|error| Failure::of(phase, &error)),
        Err(_) => Err(Failure::overdue(phase, deadline)),
    }
}

/// An open connection between commands. After a failure that leaves it out of step it is dropped.
pub(crate) struct Connection {
    smtp: AsyncSmtpConnection,
    progress: Arc<Progress>,
    /// Whether a reply may still come that nobody reads.
    out_of_step: bool,
    /// Mails that it has carried.
    pub(crate) mails: u32,
}

impl Connection {
    /// MAIL FROM and RCPT TO, together where the server takes commands together (RFC 2920).
    pub(crate) async fn begin(
        &mut self,
        envelope: &MailEnvelope,
        settings: &SmtpSettings,
    ) -> Result<(), Failure> {
        let deadlines = &settings.deadlines;
        let mail = format!("MAIL FROM:<{}>\r\n", envelope.from.as_str());
        let rcpt = format!("RCPT TO:<{}>\r\n", envelope.to.as_str());
        if !self.progress.takes_commands_together() {
            self.command(MailPhase::MailFrom, deadlines.mail, mail).await?;
            return self.command(MailPhase::RcptTo, deadlines.rcpt, rcpt).await;
        }
        let sender = self.command(MailPhase::MailFrom, deadlines.mail, mail + &rcpt).await;
        if sender.as_ref().is_err_and(|failure| !failure.leaves_the_session_usable()) {
            return sender;
        }
        // Each command has its reply, also behind a sender that was refused.
        let reply = within(MailPhase::RcptTo, deadlines.rcpt, self.smtp.read_response()).await;
        self.out_of_step = reply.as_ref().is_err_and(|failure| failure.code == 0);
        sender?;
        positive(MailPhase::RcptTo, &reply?)
    }

    /// DATA and the mail.
    pub(crate) async fn data(
        &mut self,
        message: &[u8],
        settings: &SmtpSettings,
    ) -> Result<MailReply, Failure> {
        let (phase, deadline) = (MailPhase::Data, settings.deadlines.data);
        let go = within(phase, deadline, self.smtp.command("DATA\r\n")).await?;
        if code(&go) != 354 {
            return Err(Failure::misplaced(phase, code(&go)));
        }
        let (phase, deadline) = (MailPhase::Message, settings.deadlines.message);
        // lettre ends every mail with a line break and a dot of its own.
        let message = message.strip_suffix(b"\r\n").unwrap_or(message);
        let reply = within(phase, deadline, self.smtp.message(message)).await?;
        self.mails += 1;
        match code(&reply) {
            code @ 200..300 => {
                let text = reply.message().collect::<Vec<_>>().join(" ");
                Ok(MailReply { code, text: one_line(&text) })
            }
            code => Err(Failure::misplaced(phase, code)),
        }
    }

    /// Back to where MAIL FROM may come.
    pub(crate) async fn reset(&mut self, settings: &SmtpSettings) -> Result<(), Failure> {
        if self.out_of_step {
            return Err(Failure::misplaced(MailPhase::MailFrom, 0));
        }
        self.command(MailPhase::MailFrom, settings.deadlines.mail, "RSET\r\n".to_owned()).await
    }

    /// Whether the server still answers.
    pub(crate) async fn check(&mut self, settings: &SmtpSettings) -> Result<(), Failure> {
        self.command(MailPhase::MailFrom, settings.deadlines.mail, "NOOP\r\n".to_owned()).await
    }

    /// Takes leave, whatever the server makes of it.
    pub(crate) async fn quit(mut self, settings: &SmtpSettings) {
        let _ = within(MailPhase::MailFrom, settings.deadlines.quit, self.smtp.command("QUIT\r\n")).await;
    }

    async fn command(&mut self, phase: MailPhase, deadline: Duration, line: String) -> Result<(), Failure> {
        let reply = within(phase, deadline, self.smtp.command(line)).await?;
        positive(phase, &reply)
    }
}

/// A reply that says yes, and asks for nothing.
fn positive(phase: MailPhase, reply: &Response) -> Result<(), Failure> {
    match code(reply) {
        200..300 => Ok(()),
        code => Err(Failure::misplaced(phase, code)),
    }
}

fn code(reply: &Response) -> u16 {
    reply.code().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_waits_in_the_socket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let connector = Connector::new(SmtpSettings::from_url(&url).unwrap()).unwrap();
        let stream = connector.dial().await.unwrap();
        assert!(stream.nodelay().unwrap(), "each mail would wait 40 ms for a delayed acknowledgement");
    }
}
