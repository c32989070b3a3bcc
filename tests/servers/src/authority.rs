//! A certificate authority of a test's own.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};

/// Made anew in every test: nobody else trusts it.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a server proves its name with, each part as the text of a PEM file.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The certificate of the authority that signed it.
    pub authority: String,
}

impl Authority {
    /// A fresh one.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are no bad names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("it can sign itself") }
    }

    /// Its certificate, for those who are to trust it.
    pub fn pem(&self) -> Vec<u8> {
        self.issuer.pem().into_bytes()
    }

    /// A certificate for the server named `host`, a name or an address, good for years.
    pub fn certificate(&self, host: &str) -> Certificate {
        let (certificate, key) = self.sign(host, |_| {});
        Certificate { certificate: certificate.pem(), key: key.serialize_pem(), authority: self.issuer.pem() }
    }

    /// One that ran out long ago.
    pub fn expired(&self, host: &str) -> Certificate {
        let (certificate, key) = self.sign(host, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        });
        Certificate { certificate: certificate.pem(), key: key.serialize_pem(), authority: self.issuer.pem() }
    }

    fn sign(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params =
            CertificateParams::new(vec![host.to_owned()]).expect("the host is a name or an address");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        (certificate, key)
    }

    /// What a server named `host` speaks TLS with.
    pub fn acceptor(&self, host: &str) -> TlsAcceptor {
        self.accepts(host, WebPkiClientVerifier::no_client_auth())
    }

    /// The same, which takes only clients with a certificate of this authority.
    pub fn acceptor_of_own(&self, host: &str) -> TlsAcceptor {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("it can be trusted");
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(aws_lc_rs::default_provider()),
        );
        self.accepts(host, verifier.build().expect("one authority is enough"))
    }

    fn accepts(&self, host: &str, clients: Arc<dyn ClientCertVerifier>) -> TlsAcceptor {
        let (certificate, key) = self.sign(host, |_| {});
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the certificate is the key's");
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
