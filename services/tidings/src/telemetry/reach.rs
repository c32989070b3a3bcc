//! How an exporter reaches its collector: in what time, whom it trusts there, and what it proves itself with.

use std::{fmt, time::Duration};

use anyhow::Context as _;
use reqwest::{Certificate, Identity};

use super::export::number;
use crate::settings::faults::Faults;

/// The specification's time for one export.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a variable of one of these kinds names, of one signal or of all.
const FILES: [&str; 3] = ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"];

/// What an exporter needs to know of the way to its collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// How long one export may take.
    pub(crate) timeout: Duration,
    tls: Tls,
}

impl Default for Reach {
    fn default() -> Self {
        Self { timeout: TIMEOUT, tls: Tls::default() }
    }
}

/// What TLS needs beside the system's certificates, as PEM.
#[derive(Clone, Default, PartialEq, Eq)]
struct Tls {
    /// Whose certificates are trusted, in place of the system's.
    authorities: Option<Vec<u8>>,
    /// The certificate that is shown, with its chain and its key.
    identity: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authorities, identity } = self;
        write!(f, "Tls {{ authorities: {}, identity: {} }}", authorities.is_some(), identity.is_some())
    }
}

impl Reach {
    /// Reads the variables of spans (`TRACES`) and metrics (`METRICS`), whose exporters speak to these addresses: none, no
    /// exporter. A file that decides nothing is a fault, for it is one by which somebody believes to be protected.
    pub(super) fn read<'a>(
        set: &impl Fn(&str) -> Option<&'a str>,
        [spans, metrics]: [Option<&str>; 2],
        faults: &mut Faults,
    ) -> [Self; 2] {
        let signals = [("TRACES", spans), ("METRICS", metrics)];
        let is_secure = |to: Option<&str>| to.is_some_and(|to| to.starts_with("https://"));
        for (signal, to) in [("", spans.or(metrics)), ("TRACES_", spans), ("METRICS_", metrics)] {
            let is_looked_at = is_secure(to) || (signal.is_empty() && is_secure(metrics));
            for file in FILES {
                let name = format!("OTEL_EXPORTER_OTLP_{signal}{file}");
                if set(&name).is_some() && to.is_some() && !is_looked_at {
                    faults.add(name, "no certificate is looked at unless the endpoint begins with https://");
                }
            }
        }
        signals.map(|(signal, to)| {
            let set = |what: &str| {
                [format!("OTEL_EXPORTER_OTLP_{signal}_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")]
                    .into_iter()
                    .find_map(|name| set(&name).map(|value| (name, value)))
            };
            if to.is_none() {
                return Self::default();
            }
            // One fault of a variable that is for both is one.
            let mut own = Faults::default();
            let timeout = set("TIMEOUT").and_then(|(name, value)| {
                number(&|_: &str| Some(value), &name, "milliseconds", &mut own).map(Duration::from_millis)
            });
            let tls = if is_secure(to) { tls(&set, &mut own) } else { Tls::default() };
            for fault in own.0 {
                if !faults.0.contains(&fault) {
                    faults.0.push(fault);
                }
            }
            Self { timeout: timeout.unwrap_or(TIMEOUT), tls }
        })
    }

    /// The client of an exporter; none where the exporter's own does.
    pub(super) fn client(&self) -> anyhow::Result<Option<reqwest::blocking::Client>> {
        if self.tls == Tls::default() {
            return Ok(None);
        }
        let mut builder = reqwest::blocking::Client::builder().timeout(self.timeout);
        if let Some(pem) = &self.tls.authorities {
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(pem)?);
        }
        if let Some(pem) = &self.tls.identity {
            builder = builder.identity(Identity::from_pem(pem)?);
        }
        builder.build().map(Some).context("TLS cannot be set up")
    }
}

/// The files of one signal; `set` gives a variable's name and value.
fn tls<'a>(set: &impl Fn(&str) -> Option<(String, &'a str)>, faults: &mut Faults) -> Tls {
    let mut read = |what: &str| -> Option<(String, Vec<u8>)> {
        let (name, path) = set(what)?;
        match std::fs::read(path) {
            Ok(pem) => Some((name, pem)),
            Err(error) => {
                faults.add(name, format!("{path} cannot be read: {error}"));
                None
            }
        }
    };
    let [authorities, certificate, key] = FILES.map(&mut read);
    let authorities = authorities.and_then(|(name, pem)| match trusts(&pem) {
        Ok(()) => Some(pem),
        Err(error) => {
            faults.add(name, format!("it has to hold certificates in PEM: {error:#}"));
            None
        }
    });
    let identity = match (certificate, key) {
        (Some((name, certificate)), Some((_, key))) => {
            let pem = [certificate.as_slice(), b"\n", &key].concat();
            match proves(&pem) {
                Ok(()) => Some(pem),
                Err(error) => {
                    let mend =
                        "it has to hold a certificate in PEM, and CLIENT_KEY its key, without a password";
                    faults.add(name, format!("{mend}: {error:#}"));
                    None
                }
            }
        }
        // Without the other; a file that cannot be read was told of.
        (Some((name, _)), None) if set("CLIENT_KEY").is_none() => {
            faults.add(name, "a certificate needs its key: set OTEL_EXPORTER_OTLP_CLIENT_KEY too");
            None
        }
        (None, Some((name, _))) if set("CLIENT_CERTIFICATE").is_none() => {
            faults.add(name, "a key needs its certificate: set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE too");
            None
        }
        _ => None,
    };
    Tls { authorities, identity }
}

/// Whether all of it can be trusted, and there is something.
fn trusts(pem: &[u8]) -> anyhow::Result<()> {
    let certificates = Certificate::from_pem_bundle(pem)?;
    anyhow::ensure!(!certificates.is_empty(), "it holds none");
    reqwest::Client::builder().tls_certs_only(certificates).build()?;
    Ok(())
}

/// Whether it is a certificate with its key.
fn proves(pem: &[u8]) -> anyhow::Result<()> {
    reqwest::Client::builder().identity(Identity::from_pem(pem)?).build()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tempfile::TempDir;
    use tidings_servers::authority::Authority;

    use super::*;

    const SECURE: Option<&str> = Some("https://collector.example.com:4318");
    const PLAIN: Option<&str> = Some("http://127.0.0.1:4318");

    fn read(variables: &[(&str, &str)], to: [Option<&str>; 2]) -> ([Reach; 2], Faults) {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        let mut faults = Faults::default();
        (Reach::read(&|name: &str| variables.get(name).copied(), to, &mut faults), faults)
    }

    fn fault(variables: &[(&str, &str)], to: [Option<&str>; 2]) -> String {
        let faults = read(variables, to).1;
        assert_eq!(faults.0.len(), 1, "{variables:?}: {faults}");
        faults.to_string()
    }

    /// The path of a file with this text.
    fn write(folder: &TempDir, name: &str, text: &[u8]) -> String {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_signals_own_variables_come_before_those_of_all() {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let (all, own) =
            (write(&folder, "all", &authority.pem()), write(&folder, "own", &Authority::new().pem()));
        let variables = [
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", all.as_str()),
            ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", own.as_str()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
        ];
        let ([spans, metrics], faults) = read(&variables, [SECURE, SECURE]);
        assert!(faults.0.is_empty(), "{faults}");
        assert_eq!(spans.tls.authorities, Some(authority.pem()));
        assert!(metrics.tls.authorities.is_some_and(|pem| pem != authority.pem()));
        assert_eq!(spans.timeout, Duration::from_millis(250));
        assert_eq!(metrics.timeout, Duration::from_millis(500));
        // What is for both is looked at where one of both is secure; of what is not exported nothing is read.
        assert!(read(&variables[..1], [PLAIN, SECURE]).1.0.is_empty());
        assert_eq!(
            read(&[("OTEL_EXPORTER_OTLP_CERTIFICATE", "nowhere")], [None, None]).0,
            [Reach::default(), Reach::default()]
        );
    }

    #[test]
    fn files_that_cannot_be_what_they_are_to_be_are_faults() {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let one = authority.certificate("tidings");
        let certificate = write(&folder, "c", one.certificate.as_bytes());
        let own = write(&folder, "k", one.key.as_bytes());
        let foreign = write(&folder, "f", authority.certificate("another").key.as_bytes());
        let text = write(&folder, "t", b"no certificate");
        let broken = write(&folder, "b", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let both = [SECURE, SECURE];
        let trust = |path| [("OTEL_EXPORTER_OTLP_CERTIFICATE", path)];
        assert!(fault(&trust("/nowhere.pem"), both).contains("/nowhere.pem cannot be read"));
        assert!(fault(&trust(&text), both).contains("holds none"));
        assert!(fault(&trust(&broken), both).contains("certificates in PEM"));
        assert!(fault(&trust(&certificate), [PLAIN, PLAIN]).contains("begins with https://"));
        assert!(fault(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "1s")], [PLAIN, PLAIN]).contains("milliseconds"));
        let certificate = ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", certificate.as_str());
        let key = |path| ("OTEL_EXPORTER_OTLP_CLIENT_KEY", path);
        assert!(fault(&[certificate, key(text.as_str())], both).contains("CLIENT_KEY its key"));
        assert!(fault(&[certificate, key(foreign.as_str())], both).contains("CLIENT_KEY its key"));
        assert!(fault(&[certificate], both).contains("needs its key"));
        assert!(fault(&[key(foreign.as_str())], both).contains("needs its certificate"));
        let (reach, faults) = read(&[certificate, key(own.as_str())], both);
        assert!(faults.0.is_empty(), "{faults}");
        assert!(reach[0].client().unwrap().is_some());
        assert!(!format!("{reach:?}").contains("KEY"), "{reach:?}");
    }
}
