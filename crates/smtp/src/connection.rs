//! One connection to the server: each command under its deadline, each outcome with its phase.
#![expect(clippy::disallowed_types, reason = "this adapter owns its sockets")]

use std::{future::Future, sync::Arc, time::Duration};

use lettre::transport::smtp::{
    Error as LettreError,
    authentication::{Credentials, Mechanism},
    client::{AsyncSmtpConnection, AsyncTokioStream, Certificate, TlsParameters},
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
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    failure::{Failure, one_line},
    settings::{SmtpSettings, Tls},
    stream::{Observed, Progress},
};

/// What every connection needs, made once.
pub(crate) struct Connector {
    pub(crate) settings: SmtpSettings,
    hello: ClientId,
    starttls: Option<TlsParameters>,
    wrapper: Option<(TlsConnector, ServerName<'static>)>,
}

impl Connector {
    pub(crate) fn new(settings: SmtpSettings) -> DomainResult<Self> {
        let hello = settings.hello_name.clone().map_or_else(ClientId::default, ClientId::Domain);
        let bad = |what: &str, error: &dyn std::error::Error| {
            Error::misconfigured(format!("mail server {}: {what}: {error}", settings.server()))
        };
        let mut starttls = None;
        let mut wrapper = None;
        match settings.tls {
            Tls::None => {}
            Tls::StartTls => {
                let mut builder = TlsParameters::builder(settings.host.clone());
                if let Some(pem) = &settings.ca_pem {
                    let certificate =
                        Certificate::from_pem(pem).map_err(|error| bad("the CA file", &error))?;
                    builder = builder.add_root_certificate(certificate);
                }
                starttls = Some(builder.build_rustls().map_err(|error| bad("TLS", &error))?);
            }
            Tls::Wrapper => {
                let name =
                    ServerName::try_from(settings.host.clone()).map_err(|error| bad("the host", &error))?;
                let config = client_config(&settings).map_err(|error| bad("TLS", &*error))?;
                wrapper = Some((TlsConnector::from(Arc::new(config)), name));
            }
        }
        Ok(Self { settings, hello, starttls, wrapper })
    }

    /// A connection that has said EHLO, is encrypted as the settings demand, and logged in.
    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        let deadlines = &self.settings.deadlines;
        let tcp = self.dial().await?;
        let peer = tcp.peer_addr().map_err(|error| Failure::lost(MailPhase::Connect, &error))?;
        let progress = Arc::new(Progress::default());
        let stream: Box<dyn AsyncTokioStream> = match &self.wrapper {
            None => Box::new(Observed::new(tcp, peer, Arc::clone(&progress))),
            Some((connector, name)) => {
                let handshake = timeout(deadlines.starttls, connector.connect(name.clone(), tcp)).await;
                let tls = handshake
                    .map_err(|_| Failure::overdue(MailPhase::StartTls, deadlines.starttls))?
                    .map_err(|error| Failure::lost(MailPhase::StartTls, &error))?;
                Box::new(Observed::new(tls, peer, Arc::clone(&progress)))
            }
        };
        if self.starttls.is_some() {
            progress.to_be_encrypted();
        }
        let smtp = self.greet(stream, &progress).await?;
        let mut connection = Connection { smtp, mails: 0 };
        if let Some(parameters) = &self.starttls {
            let upgrade = connection.smtp.starttls(parameters.clone(), &self.hello);
            within(MailPhase::StartTls, deadlines.starttls, upgrade).await?;
            progress.encrypted();
        }
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
    async fn greet(
        &self,
        stream: Box<dyn AsyncTokioStream>,
        progress: &Progress,
    ) -> Result<AsyncSmtpConnection, Failure> {
        let deadlines = &self.settings.deadlines;
        let mut connecting = std::pin::pin!(AsyncSmtpConnection::connect_with_transport(stream, &self.hello));
        let mut until = Instant::now() + deadlines.greeting;
        let mut greeted = false;
        loop {
            tokio::select! {
                biased;
                connected = &mut connecting => {
                    let phase = if progress.has_spoken() { MailPhase::Ehlo } else { MailPhase::Greeting };
                    return connected.map_err(|error| Failure::of(phase, &error));
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

/// rustls with the system's certificates and those of the settings.
fn client_config(settings: &SmtpSettings) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(pem) = &settings.ca_pem {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate?)?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
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
    /// Mails that it has carried.
    pub(crate) mails: u32,
}

impl Connection {
    /// MAIL FROM and RCPT TO.
    pub(crate) async fn begin(
        &mut self,
        envelope: &MailEnvelope,
        settings: &SmtpSettings,
    ) -> Result<(), Failure> {
        let deadlines = &settings.deadlines;
        let mail = format!("MAIL FROM:<{}>\r\n", envelope.from.as_str());
        self.command(MailPhase::MailFrom, deadlines.mail, mail).await?;
        let rcpt = format!("RCPT TO:<{}>\r\n", envelope.to.as_str());
        self.command(MailPhase::RcptTo, deadlines.rcpt, rcpt).await
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
        match code(&reply) {
            200..300 => Ok(()),
            code => Err(Failure::misplaced(phase, code)),
        }
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
