//! TLS towards endpoints and Consul: roots, client certificates, names.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tidegate_config::model::UpstreamTls;

use crate::connect::ClientTls;

/// Why a source, a probe or TLS cannot be set up as configured. All of these are the configuration's mistakes.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A PEM file that cannot be read, or that does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong, in words.
        problem: String,
    },
    /// The system has no trusted authorities (on Debian the package ca-certificates).
    #[error("this system has no trusted certificate authorities; install them or set `ca`{0}")]
    NoRoots(String),
    /// Certificate and key do not work together, or `certificate` stands without `key`.
    #[error("client certificate {}: {problem}", path.display())]
    ClientCertificate {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong, in words.
        problem: String,
    },
    /// `sni` is neither a host name nor an address.
    #[error("{0:?} is no server name")]
    ServerName(String),
    /// An ACL token that no HTTP header can carry.
    #[error("the token holds characters that an HTTP header cannot carry")]
    Token,
    /// The TLS library refused.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Name servers given for one source could not be used.
    #[error(transparent)]
    Resolver(#[from] crate::resolve::ResolveError),
}

/// Client side of TLS as an upstream configures it. `alpn` in order of preference; empty offers none. Files are read now: to
/// take up changed ones, build anew.
///
/// # Errors
/// Unreadable or unfit files, or no authorities to trust.
pub fn client_config(tls: &UpstreamTls, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = if tls.verify {
        let roots = match &tls.ca {
            Some(path) => Arc::new(authorities(path)?),
            None => system_roots()?,
        };
        builder.with_webpki_verifier(
            WebPkiServerVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| SetupError::NoRoots(format!(": {error}")))?,
        )
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    };
    let mut config = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| SetupError::ClientCertificate {
                path: certificate.clone(),
                problem: error.to_string(),
            })?,
        (Some(path), None) | (None, Some(path)) => {
            let problem = "`certificate` and `key` belong together".to_owned();
            return Err(SetupError::ClientCertificate {
                path: path.clone(),
                problem,
            });
        }
        (None, None) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// As [`client_config`], with the server name.
///
/// # Errors
/// As [`client_config`], and an `sni` that is no name.
pub fn client_tls(tls: &UpstreamTls, alpn: &[&[u8]]) -> Result<ClientTls, SetupError> {
    let server_name = match &tls.sni {
        Some(name) => Some(
            ServerName::try_from(name.clone()).map_err(|_| SetupError::ServerName(name.clone()))?,
        ),
        None => None,
    };
    Ok(ClientTls {
        config: client_config(tls, alpn)?,
        server_name,
    })
}

fn pem(path: &Path, problem: impl std::fmt::Display) -> SetupError {
    SetupError::Pem {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| pem(path, error))?
        .collect();
    let all = all.map_err(|error| pem(path, error))?;
    if all.is_empty() {
        Err(pem(path, "holds no certificate"))
    } else {
        Ok(all)
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, SetupError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| pem(path, error))
}

fn authorities(path: &Path) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| pem(path, error))?;
    }
    Ok(roots)
}

/// The system's authorities, read once: hundreds of files, the same for all upstreams.
fn system_roots() -> Result<Arc<RootCertStore>, SetupError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Old authorities that the library cannot read are common in system stores, and no reason to trust none.
    let _ = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(SetupError::NoRoots(
            found
                .errors
                .first()
                .map(|error| format!(": {error}"))
                .unwrap_or_default(),
        ));
    }
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}

/// `verify: false`: any certificate will do. The handshake's signatures are still checked.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
