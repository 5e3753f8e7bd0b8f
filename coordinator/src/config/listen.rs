//! Settings about who can connect, and how.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::{ConfigError, Settings, WebListen, invalid};
use crate::core::spiffe::Name;
use crate::tls::Files;

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7550);
pub(super) const WEB_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7551);
const TRUST_DOMAIN: &str = "cakes";

pub(super) fn calls(settings: &Settings) -> Result<SocketAddr, ConfigError> {
    safe_address("--listen", settings, settings.listen.unwrap_or(LISTEN))
}

pub(super) fn page(settings: &Settings) -> Result<WebListen, ConfigError> {
    match settings.web_listen.as_deref() {
        None => Ok(WebListen::Near(WEB_LISTEN)),
        Some("off") => Ok(WebListen::Off),
        Some(text) => {
            let address = text.parse().map_err(|_| {
                let problem = format!("'{text}' is no address; write 127.0.0.1:7551, or off");
                invalid("--web-listen", problem)
            })?;
            safe_address("--web-listen", settings, address).map(WebListen::At)
        }
    }
}

pub(super) fn metrics(settings: &Settings) -> Result<Option<SocketAddr>, ConfigError> {
    match settings.metrics_listen.as_deref() {
        None | Some("off") => Ok(None),
        Some(text) => {
            let address = text.parse().map_err(|_| {
                let problem = format!("'{text}' is no address; write 127.0.0.1:7552, or off");
                invalid("--metrics-listen", problem)
            })?;
            safe_address("--metrics-listen", settings, address).map(Some)
        }
    }
}

/// A name without scheme and port.
pub(super) fn host(name: &String) -> Result<String, ConfigError> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_known) {
        return Ok(name.clone());
    }
    let problem = format!("'{name}' is no name of a host; write cakes.example.org, without scheme and port");
    Err(invalid("--web-allow-host", problem))
}

pub(super) fn trust_domain(settings: &Settings) -> Result<Name, ConfigError> {
    let text = settings.trust_domain.as_deref().unwrap_or(TRUST_DOMAIN);
    text.parse().map_err(|error| invalid("--trust-domain", format!("{error}")))
}

/// What TLS is made of: a folder, single files, or some of a folder's files elsewhere.
pub(super) fn tls(settings: &Settings) -> Result<Option<Files>, ConfigError> {
    let file = |given: &Option<PathBuf>, name: &str| {
        given.clone().or_else(|| settings.pki_dir.as_ref().map(|folder| folder.join(name)))
    };
    let authorities = [&settings.tls_users_ca, &settings.tls_workers_ca, &settings.tls_coordinators_ca];
    let (certificate, key) = match (file(&settings.tls_cert, "cert.pem"), file(&settings.tls_key, "key.pem"))
    {
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => return Err(invalid("--tls-cert", "needs its key: give --tls-key too")),
        (None, Some(_)) => return Err(invalid("--tls-key", "needs its certificate: give --tls-cert too")),
        (None, None) if authorities.iter().any(|given| given.is_some()) => {
            let problem = "is needed with an authority of clients: give it and --tls-key, or --pki-dir";
            return Err(invalid("--tls-cert", problem));
        }
        (None, None) => return Ok(None),
    };
    if settings.insecure_listen == Some(true) {
        let problem = "says to serve in plain text, but there are certificates; leave one of them out";
        return Err(invalid("--insecure-listen", problem));
    }
    Ok(Some(Files {
        certificate,
        key,
        users_ca: file(&settings.tls_users_ca, "users-ca.pem"),
        workers_ca: file(&settings.tls_workers_ca, "workers-ca.pem"),
        coordinators_ca: file(&settings.tls_coordinators_ca, "coordinators-ca.pem"),
        domain: trust_domain(settings)?,
    }))
}

/// An address that only this machine reaches, unless connections are encrypted or the
/// operator says that something else does that.
fn safe_address(
    setting: &'static str,
    settings: &Settings,
    address: SocketAddr,
) -> Result<SocketAddr, ConfigError> {
    if address.ip().is_loopback() || !is_plain(settings) || settings.insecure_listen == Some(true) {
        return Ok(address);
    }
    let problem = format!(
        "{address} can be reached from other machines, and without certificates the connection would not be \
         encrypted; `cakes-coordinator pki init --host NAME` makes some, --pki-dir names their folder; or listen \
         on 127.0.0.1"
    );
    Err(invalid(setting, problem))
}

/// Whether callers must say who they are: with TLS always, in plain text when that is said.
pub(super) fn requires_identity(settings: &Settings) -> bool {
    !is_plain(settings) || settings.require_identity == Some(true)
}

fn is_plain(settings: &Settings) -> bool {
    settings.pki_dir.is_none() && settings.tls_cert.is_none()
}
