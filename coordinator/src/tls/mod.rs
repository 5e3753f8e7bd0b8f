//! TLS of all ports: which files it is made of, and that they are read again when they
//! change.
//!
//! ```text
//!  files ──► Material ──► handshake ──► Certified (who calls, until when)
//!    └─ every 2 s, or SIGHUP ─► a new Material for whoever connects from then on
//! ```

mod verify;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use cakes_tls::facts::{Facts, NoCertificate};
use cakes_tls::files::{self, FileError, Stamp, stamp};
use cakes_tls::rustls::server::{NoServerSessionStorage, VerifierBuilderError};
use cakes_tls::rustls::{self, CertificateError, OtherError, ServerConfig, ServerConnection};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::core::identity::Certified;
use crate::core::spiffe::{Authority, Holder, Name};
use verify::Verifier;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What TLS is made of. Without the file of an authority nobody of its kind comes in by
/// certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The coordinator's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub users_ca: Option<PathBuf>,
    pub workers_ca: Option<PathBuf>,
    pub coordinators_ca: Option<PathBuf>,
    pub domain: Name,
}

impl Files {
    fn authorities(&self) -> impl Iterator<Item = (Authority, &Path)> {
        let named = [
            (Authority::Users, &self.users_ca),
            (Authority::Workers, &self.workers_ca),
            (Authority::Coordinators, &self.coordinators_ca),
        ];
        named.into_iter().filter_map(|(authority, path)| Some((authority, path.as_deref()?)))
    }

    fn stamps(&self) -> Vec<Stamp> {
        let own = [self.certificate.as_path(), self.key.as_path()].into_iter();
        own.chain(self.authorities().map(|(_, path)| path)).map(stamp).collect()
    }
}

/// Why TLS cannot be served from the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("TLS: {0}; `cakes-coordinator pki init --host NAME` makes all that is needed")]
    File(#[from] FileError),
    #[error("TLS: {}: {source}", path.display())]
    Certificate { path: PathBuf, source: NoCertificate },
    #[error("TLS: the certificate in {} has expired; `cakes-coordinator pki renew` gives a new one", path.display())]
    Expired { path: PathBuf },
    #[error("TLS: the certificate in {} is an authority's; give that of the coordinator", path.display())]
    IsAuthority { path: PathBuf },
    #[error("TLS: {} and {} hold the same authority; who signed says whether a user, a worker or a coordinator calls", first.display(), second.display())]
    SharedAuthority { first: PathBuf, second: PathBuf },
    #[error("TLS: the authority in {} is of '{theirs}', not of '{domain}'; give --trust-domain {theirs}", path.display())]
    Domain { path: PathBuf, theirs: String, domain: Name },
    #[error("TLS: the authorities cannot be used")]
    Verifier(#[from] VerifierBuilderError),
    #[error("TLS: the certificate in {} cannot be served", path.display())]
    Unusable { path: PathBuf, source: rustls::Error },
}

/// TLS as it is now. Clones share it.
#[derive(Clone, Debug)]
pub struct Tls {
    files: Arc<Files>,
    current: Arc<RwLock<Arc<Material>>>,
    failures: Arc<AtomicU64>,
}

/// What the files held when they were read.
#[derive(Debug)]
struct Material {
    stamps: Vec<Stamp>,
    calls: Arc<ServerConfig>,
    page: Arc<ServerConfig>,
    metrics: Arc<ServerConfig>,
    facts: Facts,
}

/// What is served on a port.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// gRPC: HTTP/2, whose clients may show a certificate.
    Calls,
    /// The page: HTTP/1.1, whose readers are asked for none.
    Page,
    /// Metrics: HTTP/1.1, whose readers may show a certificate.
    Metrics,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be used.
    pub fn load(files: Files) -> Result<Self, TlsError> {
        let current = Arc::new(RwLock::new(Arc::new(Material::read(&files)?)));
        Ok(Tls { files: Arc::new(files), current, failures: Arc::default() })
    }

    /// What whoever connects now gets.
    pub fn config(&self, purpose: Purpose) -> Arc<ServerConfig> {
        let material = self.material();
        match purpose {
            Purpose::Calls => Arc::clone(&material.calls),
            Purpose::Page => Arc::clone(&material.page),
            Purpose::Metrics => Arc::clone(&material.metrics),
        }
    }

    /// Names and addresses for which the certificate is.
    pub fn hosts(&self) -> Vec<String> {
        self.material().facts.hosts.clone()
    }

    fn material(&self) -> Arc<Material> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whom the certificate of a connection is for, that the handshake has checked.
    pub fn certified(&self, connection: &ServerConnection) -> Option<Certified> {
        let own = connection.peer_certificates()?.first()?;
        let facts = Facts::of(own).ok()?;
        let holder = Holder::from_uri(facts.uris.first()?, &self.files.domain).ok()?;
        Some(Certified { identity: holder.into(), expires_at: facts.not_after })
    }

    /// Counts a handshake that came to nothing. That anybody can bring about, so it is for
    /// whoever looks.
    pub fn failed(&self, address: SocketAddr, error: &io::Error) {
        let problem = reason(error);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(%address, failures, problem, "a TLS handshake failed");
    }

    /// Reads the files again when they change, until asked to stop. What cannot be used
    /// changes nothing.
    ///
    /// # Errors
    /// The system refuses the signal's handler.
    pub fn watch(&self, stop: CancellationToken) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let (tls, mut hangup) = (self.clone(), signal(SignalKind::hangup())?);
        Ok(async move {
            let mut read = tls.material().stamps.clone();
            let mut seen = read.clone();
            loop {
                let is_asked = tokio::select! {
                    () = stop.cancelled() => return,
                    _ = hangup.recv() => true,
                    () = tokio::time::sleep(LOOK_INTERVAL) => false,
                };
                let files = Arc::clone(&tls.files);
                let Ok(now) = tokio::task::spawn_blocking(move || files.stamps()).await else { return };
                // Several files are replaced one by one: what still changes is left alone.
                let is_settled = now == seen && now != read;
                seen.clone_from(&now);
                if is_asked || is_settled {
                    read = now;
                    tls.read_again().await;
                }
            }
        })
    }

    async fn read_again(&self) {
        let files = Arc::clone(&self.files);
        match tokio::task::spawn_blocking(move || Material::read(&files)).await {
            Ok(Ok(material)) => {
                let until = humantime::format_rfc3339_seconds(material.facts.not_after);
                tracing::info!(%until, "the certificate and the authorities were read again");
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(material);
            }
            Ok(Err(error)) => {
                tracing::warn!("what was read before is kept: {}", cakes_telemetry::chain(&error));
            }
            Err(ended) => tracing::error!(%ended, "the certificate cannot be read again"),
        }
    }
}

/// What of an error is for people: of our own checks, what they say.
fn reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(ours)))) => {
            ours.to_string()
        }
        _ => error.to_string(),
    }
}

impl Material {
    fn read(files: &Files) -> Result<Self, TlsError> {
        let stamps = files.stamps();
        let path = &files.certificate;
        let chain = files::certificates(path)?;
        let own = chain.first().map(|own| Facts::of(own)).transpose();
        let own = own.map_err(|source| TlsError::Certificate { path: path.clone(), source })?;
        let facts = own.filter(|facts| !facts.is_authority);
        let facts = facts.ok_or_else(|| TlsError::IsAuthority { path: path.clone() })?;
        if facts.not_after < SystemTime::now() {
            return Err(TlsError::Expired { path: path.clone() });
        }
        let key = files::key(&files.key)?;
        let verifier = Verifier::new(files.domain.clone(), files.authorities())?;
        let unusable = |source| TlsError::Unusable { path: path.clone(), source };
        let builder = || {
            ServerConfig::builder_with_provider(cakes_tls::provider())
                .with_protocol_versions(cakes_tls::VERSIONS)
        };
        let calls = builder().map_err(unusable)?.with_client_cert_verifier(Arc::new(verifier));
        let calls = calls.with_single_cert(chain.clone(), key.clone_key()).map_err(unusable)?;
        let page = builder().map_err(unusable)?.with_no_client_auth();
        let page = page.with_single_cert(chain, key).map_err(unusable)?;
        Ok(Material {
            stamps,
            metrics: serving(calls.clone(), b"http/1.1"),
            calls: serving(calls, b"h2"),
            page: serving(page, b"http/1.1"),
            facts,
        })
    }
}

fn serving(mut config: ServerConfig, protocol: &[u8]) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![protocol.to_vec()];
    // A connection that is resumed shows no certificate: its time and its authority would
    // not be looked at again.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}
