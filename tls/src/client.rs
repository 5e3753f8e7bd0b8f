//! Connections of clients: plain to `http://`, TLS 1.3 to `https://`, with a certificate
//! where there is one.
//!
//! Files are read for each connection, so whoever renews them renews the certificate of
//! the next connection.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::facts::Facts;
use crate::files::{self, FileError, broken};
use crate::rustls::client::Resumption;
use crate::rustls::pki_types::ServerName;
use crate::rustls::{self, AlertDescription, CertificateError, ClientConfig, RootCertStore};

/// How long the server's opinion of a certificate is waited for.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_BYTES_MAX: usize = 1024;

/// Which files a client shows and trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Authorities of coordinators; without it, those that this machine trusts.
    pub ca: Option<PathBuf>,
    /// The client's own certificate, and those between it and its authority.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

impl ClientFiles {
    /// Whether the files are enough of one another and fit the addresses.
    ///
    /// # Errors
    /// One that is missing or has no use, with a remedy.
    pub fn check<'a>(&self, servers: impl IntoIterator<Item = &'a str>) -> Result<(), &'static str> {
        match (&self.certificate, &self.key) {
            (Some(_), None) => return Err("--cert-file needs its key: give --key-file too"),
            (None, Some(_)) => return Err("--key-file needs its certificate: give --cert-file too"),
            _ => {}
        }
        let is_used = servers.into_iter().any(|server| server.starts_with("https://"));
        if !is_used && *self != ClientFiles::default() {
            return Err(
                "certificates are shown to https:// alone; write https://HOST:PORT, or leave --ca-file, --cert-file and --key-file out",
            );
        }
        Ok(())
    }

    /// When the certificate that lies there now ends; none where there is none.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn expires_at(&self) -> Result<Option<SystemTime>, FileError> {
        Ok(self.facts()?.map(|facts| facts.not_after))
    }

    /// What the client's own certificate says.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn facts(&self) -> Result<Option<Facts>, FileError> {
        let Some(path) = &self.certificate else { return Ok(None) };
        let own = files::certificates(path)?;
        let facts = own.first().map(|own| Facts::of(own)).transpose();
        facts.map_err(|error| broken(path, &error))
    }

    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, or certificate and key are not of each other.
    pub fn config(&self) -> Result<ClientConfig, FileError> {
        let roots = match &self.ca {
            Some(path) => files::roots(path)?,
            None => system_roots(),
        };
        let builder = ClientConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(crate::VERSIONS)
            .map_err(|error| broken("TLS".as_ref(), &error))?
            .with_root_certificates(roots);
        let mut config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(files::certificates(certificate)?, files::key(key)?)
                .map_err(|error| broken(certificate, &error))?,
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// What this machine trusts; a machine that trusts nobody is told so by the handshake.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// Why there is no connection, in words for whoever typed the address.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{0}")]
    Files(FileError),
    #[error("{0}")]
    Tcp(io::Error),
    /// The server is not the one that is wanted.
    #[error("{0}")]
    Server(String),
    /// The server does not want this client.
    #[error("{0}")]
    Refused(String),
}

impl ConnectError {
    /// The one that an error comes from.
    pub fn within<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a ConnectError> {
        let mut next = Some(error);
        while let Some(error) = next {
            let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let inside = inside.and_then(|inside| inside.downcast_ref::<ConnectError>());
            if let Some(found) = error.downcast_ref::<ConnectError>().or(inside) {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

/// Makes the connections of a channel.
#[derive(Clone, Debug)]
pub struct Connector(Arc<ClientFiles>);

impl Connector {
    pub fn new(files: ClientFiles) -> Self {
        Connector(Arc::new(files))
    }

    /// Connects at the first call, and again whenever the connection is lost.
    pub fn connect_lazy(&self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(self.clone())
    }

    /// Connects now.
    ///
    /// # Errors
    /// Nobody answers there, or one of the two does not want the other.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        endpoint.connect_with_connector(self.clone()).await
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let files = Arc::clone(&self.0);
        Box::pin(async move { connect(files, uri).await.map(TokioIo::new) })
    }
}

async fn connect(files: Arc<ClientFiles>, uri: Uri) -> Result<Connection, ConnectError> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(ConnectError::Tcp)?;
    stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
    if !is_tls {
        return Ok(Connection::Plain(stream));
    }
    let (shows_certificate, has_authority) = (files.certificate.is_some(), files.ca.is_some());
    let config = tokio::task::spawn_blocking(move || files.config()).await;
    let config =
        config.map_err(|ended| ConnectError::Tcp(io::Error::other(ended)))?.map_err(ConnectError::Files)?;
    let name = ServerName::try_from(host.clone())
        .map_err(|_| ConnectError::Server(format!("'{host}' is no name that a certificate could have")))?;
    let unwanted =
        |error: io::Error| understand(&error, &host, has_authority).unwrap_or(ConnectError::Tcp(error));
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(unwanted)?;
    let first = if shows_certificate { verdict(&mut stream).await.map_err(unwanted)? } else { Vec::new() };
    Ok(Connection::Tls { stream: Box::new(stream), first, given: 0 })
}

/// In TLS 1.3 a client is done before the server has seen its certificate. What the server
/// thinks of it comes instead of the first bytes of HTTP/2, which it sends unasked.
async fn verdict(stream: &mut TlsStream<TcpStream>) -> io::Result<Vec<u8>> {
    let mut first = vec![0; FIRST_BYTES_MAX];
    let length = match tokio::time::timeout(VERDICT_TIMEOUT, stream.read(&mut first)).await {
        Ok(length) => length?,
        // One that waits to be spoken to has nothing against the certificate.
        Err(_) => 0,
    };
    first.truncate(length);
    Ok(first)
}

/// A connection to a coordinator.
#[derive(Debug)]
pub enum Connection {
    Plain(TcpStream),
    Tls {
        stream: Box<TlsStream<TcpStream>>,
        /// What was read while waiting for the verdict, and how much of it was handed on.
        first: Vec<u8>,
        given: usize,
    },
}

/// What TLS has against the other side; none if the failure is none of TLS.
fn understand(error: &io::Error, host: &str, has_authority: bool) -> Option<ConnectError> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::AlertReceived(alert) => ConnectError::Refused(refusal(*alert)),
        rustls::Error::InvalidCertificate(problem) => {
            ConnectError::Server(distrust(problem, host, has_authority))
        }
        rustls::Error::InvalidMessage(_) => ConnectError::Server(
            "it does not speak TLS; write http://HOST:PORT where a coordinator serves in plain text"
                .to_owned(),
        ),
        other => ConnectError::Server(other.to_string()),
    })
}

/// Why the server's certificate is not taken. `has_authority`: a file of authorities was given.
fn distrust(problem: &CertificateError, host: &str, has_authority: bool) -> String {
    match problem {
        CertificateError::UnknownIssuer if !has_authority => {
            "its certificate is from an authority that this machine does not know; give the ca.pem that came with \
             your certificate with --ca-file"
                .to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is from another authority than those of --ca-file; give the ca.pem that came with your \
             certificate"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired, or the clock here is wrong; renew it with `cakes-coordinator pki renew`"
                .to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or the clock here is wrong".to_owned()
        }
        CertificateError::NotValidForName => {
            format!("its certificate is not for {host}; have one issued with --host {host}")
        }
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "its certificate is not for {host} but for {}; use one of those, or have one issued with --host {host}",
            presented.iter().filter_map(|name| plain(name)).collect::<Vec<_>>().join(", ")
        ),
        other => format!("its certificate is not taken: {other}"),
    }
}

/// `DnsName("a.example")` as a name, `IpAddress(10.0.0.5)` as an address; none for what is no host.
fn plain(presented: &str) -> Option<&str> {
    let (kind, name) = presented.split_once('(')?;
    let is_host = matches!(kind, "DnsName" | "IpAddress");
    is_host.then(|| name.trim_end_matches(')').trim_matches('"'))
}

/// What the server has against this client.
fn refusal(alert: AlertDescription) -> String {
    let reason = match alert {
        AlertDescription::CertificateExpired => "it has expired, or the clocks differ",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it is from no authority that the coordinator knows"
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => {
            "it names nobody whom its authority may vouch for; `cakes-coordinator pki show FILE` says what it names"
        }
        AlertDescription::ProtocolVersion => return "the coordinator takes TLS 1.3 alone".to_owned(),
        other => return format!("the coordinator breaks the connection off ({other:?})"),
    };
    format!("the coordinator refuses the certificate of --cert-file: {reason}")
}

impl Connection {
    fn stream(&mut self) -> Pin<&mut dyn Stream> {
        match self {
            Connection::Plain(stream) => Pin::new(stream),
            Connection::Tls { stream, .. } => Pin::new(&mut **stream),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Connection::Tls { first, given, .. } = this
            && *given < first.len()
        {
            let length = buffer.remaining().min(first.len() - *given);
            buffer.put_slice(&first[*given..*given + length]);
            *given += length;
            return Poll::Ready(Ok(()));
        }
        this.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().stream().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Connection::Plain(stream) => stream.is_write_vectored(),
            Connection::Tls { stream, .. } => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_named_no_authority_is_told_to() {
        let said = |has_authority| distrust(&CertificateError::UnknownIssuer, "gpu-head", has_authority);
        assert!(said(false).ends_with("with --ca-file"), "{}", said(false));
        assert!(said(true).contains("another authority than those of --ca-file"), "{}", said(true));
    }
}
