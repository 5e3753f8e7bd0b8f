//! Settings about who this worker is, and how it proves it.

use cakes_proto::ids::WorkerId;
use cakes_tls::client::ClientFiles;

use super::{ConfigError, wrong};

/// Whether the files fit each other and the coordinators.
pub(super) fn check(files: &ClientFiles, servers: &str) -> Result<(), ConfigError> {
    if *files == ClientFiles::default() {
        return Ok(());
    }
    files.check(servers.split(',').map(str::trim)).map_err(|problem| wrong("cert_file", problem))?;
    files.config().map(drop).map_err(|problem| wrong("cert_file", problem.to_string()))
}

/// The name that was given, or that of the certificate, or the host's. A coordinator takes
/// no other name than that of the certificate.
pub(super) fn worker_id(given: Option<&str>, files: &ClientFiles) -> Result<WorkerId, ConfigError> {
    let own = files.facts().map_err(|problem| wrong("cert_file", problem.to_string()))?;
    let certified = own.iter().flat_map(|own| &own.uris).find_map(|uri| Some(uri.split_once("/worker/")?.1));
    match (given, certified) {
        (Some(given), Some(certified)) if given != certified => {
            let problem =
                format!("is '{given}', but the certificate is for the worker '{certified}'; use its name");
            return Err(wrong("id", problem));
        }
        (None, None) if own.is_some() => {
            return Err(wrong(
                "cert_file",
                "is not for a worker; have one made with `cakes-coordinator pki issue worker`",
            ));
        }
        _ => {}
    }
    if let Some(id) = given.or(certified) {
        return id.parse().map_err(|error| wrong("id", format!("{error}")));
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().to_lowercase();
    let host = host.trim();
    host.parse()
        .map_err(|_| wrong("id", format!("the host's name '{host}' is no worker name; give one with --id")))
}
