//! TLS of listeners: certificates from files, callers' certificates checked, HTTP/2 offered by ALPN.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tidegate_config::model::{ClientAuth, ListenerTls};

/// Why a listener's TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file can't be read, or holds nothing of what is wanted.
    #[error("cannot read {what} from {path}: {source}")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// File.
        path: PathBuf,
        /// What the parser says.
        source: rustls::pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("{0} holds no certificate")]
    Empty(PathBuf),
    /// Key and certificate do not fit each other, or an authority can't be used.
    #[error("certificate {path}: {source}")]
    Unusable {
        /// File.
        path: PathBuf,
        /// What the TLS library says.
        source: rustls::Error,
    },
    /// The authorities for callers' certificates can't be used.
    #[error("client_ca {path}: {reason}")]
    Authorities {
        /// File.
        path: PathBuf,
        /// What the TLS library says.
        reason: String,
    },
}

/// Builds the server side from the listener's files.
pub(crate) fn server_config(tls: &ListenerTls) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&tls.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| TlsError::Pem {
        what: "a private key",
        path: tls.key.clone(),
        source,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |source| TlsError::Unusable {
        path: tls.certificate.clone(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let authorities = |reason: String| TlsError::Authorities {
                path: path.clone(),
                reason,
            };
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots
                    .add(authority)
                    .map_err(|e| authorities(e.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match tls.client_auth {
                ClientAuth::Require => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(
                verifier.build().map_err(|e| authorities(e.to_string()))?,
            )
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem {
        what: "certificates",
        path: path.to_owned(),
        source,
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(pem)?
        .collect::<Result<_, _>>()
        .map_err(pem)?;
    if chain.is_empty() {
        Err(TlsError::Empty(path.to_owned()))
    } else {
        Ok(chain)
    }
}
