//! TLS towards endpoints and Consul: roots, client certificates, names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ring::digest;
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

/// What the files that an upstream's TLS names hold. Equal material under equal settings is the same TLS: connections made with the one
/// serve the other.
pub struct Material {
    ca: Option<Pem>,
    certificate: Option<Pem>,
    key: Option<Pem>,
}

/// A file that was read.
struct Pem {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Material {
    /// Reads the files, each once.
    ///
    /// # Errors
    /// [`SetupError::Pem`] for one that cannot be read.
    pub fn read(tls: &UpstreamTls) -> Result<Self, SetupError> {
        let read = |path: &Option<PathBuf>| -> Result<Option<Pem>, SetupError> {
            let Some(path) = path else { return Ok(None) };
            let bytes = std::fs::read(path).map_err(|error| pem(path, error))?;
            Ok(Some(Pem {
                path: path.clone(),
                bytes,
            }))
        };
        Ok(Self {
            // Without `verify` nobody asks whom to trust.
            ca: if tls.verify { read(&tls.ca)? } else { None },
            certificate: read(&tls.certificate)?,
            key: read(&tls.key)?,
        })
    }

    /// SHA-256 over what the files hold; two that differ in any byte differ here.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = digest::Context::new(&digest::SHA256);
        for file in [&self.ca, &self.certificate, &self.key] {
            // The length first, so that nothing moves from one file to the next unnoticed.
            let bytes = file.as_ref().map_or(&[][..], |file| &file.bytes);
            hash.update(&[u8::from(file.is_some())]);
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
        let mut out = [0; 32];
        out.copy_from_slice(hash.finish().as_ref());
        out
    }

    /// Client side of TLS as `tls`, which this was read for, configures it. `alpn` in order of preference; empty offers none.
    ///
    /// # Errors
    /// Unfit files, or no authorities to trust.
    pub fn client_config(
        &self,
        tls: &UpstreamTls,
        alpn: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, SetupError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = if tls.verify {
            let roots = match &self.ca {
                Some(file) => Arc::new(authorities(file)?),
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
        let mut config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| SetupError::ClientCertificate {
                    path: certificate.path.clone(),
                    problem: error.to_string(),
                })?,
            (Some(file), None) | (None, Some(file)) => {
                let problem = "`certificate` and `key` belong together".to_owned();
                return Err(SetupError::ClientCertificate {
                    path: file.path.clone(),
                    problem,
                });
            }
            (None, None) => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It holds a private key.
        out.debug_struct("Material").finish_non_exhaustive()
    }
}

/// Client side of TLS as an upstream configures it. `alpn` in order of preference; empty offers none. Files are read now: to
/// take up changed ones, build anew.
///
/// # Errors
/// Unreadable or unfit files, or no authorities to trust.
pub fn client_config(tls: &UpstreamTls, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, SetupError> {
    Material::read(tls)?.client_config(tls, alpn)
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

/// Client side of TLS towards a place that the configuration does not name itself: the system's authorities are trusted, and those
/// of a file besides.
///
/// # Errors
/// An unreadable or unfit file, or no authorities to trust.
pub fn trusting(ca: Option<&Path>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, SetupError> {
    let roots = match ca {
        None => system_roots()?,
        Some(path) => {
            let bytes = std::fs::read(path).map_err(|error| pem(path, error))?;
            let path = path.to_owned();
            let mut roots = authorities(&Pem { path, bytes })?;
            // A system without any has this one.
            if let Ok(system) = system_roots() {
                roots.extend(system.roots.iter().cloned());
            }
            Arc::new(roots)
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| SetupError::NoRoots(format!(": {error}")))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

fn pem(path: &Path, problem: impl std::fmt::Display) -> SetupError {
    SetupError::Pem {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

fn certificates(file: &Pem) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.bytes).collect();
    let all = all.map_err(|error| pem(&file.path, error))?;
    if all.is_empty() {
        Err(pem(&file.path, "holds no certificate"))
    } else {
        Ok(all)
    }
}

fn private_key(file: &Pem) -> Result<PrivateKeyDer<'static>, SetupError> {
    PrivateKeyDer::from_pem_slice(&file.bytes).map_err(|error| pem(&file.path, error))
}

fn authorities(file: &Pem) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| pem(&file.path, error))?;
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
