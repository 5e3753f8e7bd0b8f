//! The way to the coordinators, and what they think of this worker.

use std::time::{Duration, SystemTime};

use cakes_proto::v1;
use cakes_tls::client::{ClientFiles, ConnectError, Connector};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use super::Check;
use crate::client::{Credentials, client};
use crate::config::Settings;

/// For a name, a connection, an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A certificate that has less than this part of its time left is worth a warning.
const CERTIFICATE_SCARCE: u32 = 5;

/// Clocks that differ by more: log lines and durations of two machines do not fit. Leases go by
/// the database's clock, and certificates break only far beyond that.
const SKEW_NOTICED: f64 = 5.0;
const SKEW_MAX: f64 = 60.0;

/// Checks of the certificate and of each coordinator.
pub(super) async fn look(settings: &Settings) -> Vec<Check> {
    let files = ClientFiles {
        ca: settings.ca_file.clone(),
        certificate: settings.cert_file.clone(),
        key: settings.key_file.clone(),
    };
    let mut checks = Vec::new();
    checks.extend(certificate(settings, &files));
    let urls = settings.server.split(',').map(str::trim).filter(|url| !url.is_empty());
    for url in urls {
        checks.extend(server(settings, &files, url).await);
    }
    checks
}

/// The worker's own certificate; none where there is none.
fn certificate(settings: &Settings, files: &ClientFiles) -> Option<Check> {
    const NAME: &str = "certificate";
    let renew =
        "have one issued with `cakes-coordinator pki issue worker NAME`, or renewed with `pki renew FOLDER`";
    let broken = |problem: String| Some(Check::failed(NAME, problem, renew));
    let facts = match files.facts() {
        Ok(Some(facts)) => facts,
        Ok(None) => return None,
        Err(error) => return broken(error.to_string()),
    };
    if let Err(error) = files.config() {
        return broken(error.to_string());
    }
    let until = humantime::format_rfc3339_seconds(facts.not_after);
    let uri = facts.uris.first().cloned().unwrap_or_default();
    let Some((_, name)) = uri.split_once("/worker/") else {
        return broken(format!("it is for '{uri}', which is no worker"));
    };
    if settings.id.as_deref().is_some_and(|id| id != name) {
        return broken(format!("it is for the worker '{name}', --id says otherwise"));
    }
    let now = SystemTime::now();
    if now < facts.not_before {
        let from = humantime::format_rfc3339_seconds(facts.not_before);
        return broken(format!("it holds from {from} on, or the clock here is wrong"));
    }
    let lasts = facts.not_after.duration_since(facts.not_before).unwrap_or_default();
    match facts.not_after.duration_since(now) {
        Err(_) => broken(format!("it has expired, at {until}")),
        Ok(left) if left < lasts / CERTIFICATE_SCARCE => {
            Some(Check::warning(NAME, format!("{uri}, only until {until}"), renew))
        }
        Ok(_) => Some(Check::ok(NAME, format!("{uri}, until {until}"))),
    }
}

/// Name, connection, identity and clock, as far as one comes.
async fn server(settings: &Settings, files: &ClientFiles, url: &str) -> Vec<Check> {
    let endpoint = Endpoint::from_shared(url.to_owned()).ok();
    let target = endpoint.as_ref().and_then(|endpoint| {
        let uri = endpoint.uri();
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some((host, uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 })))
    });
    let (Some(endpoint), Some((host, port))) = (endpoint, target) else {
        let remedy = "write http://HOST:7550 or https://HOST:7550 with --server";
        return vec![Check::failed("coordinator", format!("'{url}' is no URL"), remedy)];
    };
    let mut checks = Vec::new();
    let resolved = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host.as_str(), port))).await;
    match resolved
        .map_err(|_| "no answer in 5 s".to_owned())
        .and_then(|found| found.map_err(|e| e.to_string()))
    {
        Ok(addresses) => {
            let named: Vec<String> = addresses.map(|address| address.ip().to_string()).collect();
            checks.push(Check::ok("name", format!("{host} is {}", named.join(", "))));
        }
        Err(problem) => {
            let remedy = "correct --server, /etc/hosts or the resolver";
            checks.push(Check::failed("name", format!("{host} is not found: {problem}"), remedy));
            return checks;
        }
    }
    let connected =
        tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect((host.as_str(), port))).await;
    match connected
        .map_err(|_| "no answer in 5 s".to_owned())
        .and_then(|made| made.map_err(|e| e.to_string()))
    {
        Ok(_) => checks.push(Check::ok("connection", format!("{host}:{port} accepts connections"))),
        Err(problem) => {
            let found = format!("{host}:{port}: {problem}");
            let remedy = "start the coordinator, open the port in firewalls, or correct --server; a coordinator \
                          listens on other addresses than 127.0.0.1 only if --listen says so";
            checks.push(Check::failed("connection", found, remedy));
            return checks;
        }
    }
    checks.extend(identity(settings, files, &endpoint, url).await);
    checks
}

/// What a coordinator answers to this worker, and what time it is there.
async fn identity(settings: &Settings, files: &ClientFiles, endpoint: &Endpoint, url: &str) -> Vec<Check> {
    const NAME: &str = "identity";
    let credentials = Credentials::read(settings.token_file.clone(), files.clone())
        .and_then(|credentials| credentials.check_way(url).map(|()| credentials));
    let credentials = match credentials {
        Ok(credentials) => credentials,
        Err(error) => {
            let remedy = "--token-file holds what `cakes-coordinator token issue NAME --role worker` printed, and \
                          goes over https alone";
            return vec![Check::failed(NAME, error.to_string(), remedy)];
        }
    };
    let endpoint = endpoint.clone().connect_timeout(PATIENCE).timeout(PATIENCE);
    let mut client = client(&Connector::new(files.clone()), &endpoint, credentials.bearer());
    // A report of no attempt: it is refused for what it lacks, but only to a worker.
    let asked = SystemTime::now();
    let answer = client.report(v1::ReportRequest::default()).await;
    let status = match answer {
        Ok(_) => {
            return vec![Check::failed(
                NAME,
                "it takes a report of nothing",
                "is this a coordinator of cakes?",
            )];
        }
        Err(status) => status,
    };
    let mut checks = vec![verdict(NAME, &status)];
    checks.extend(clock(&status, asked));
    checks
}

fn verdict(name: &str, status: &Status) -> Check {
    if let Some(error) = ConnectError::within(status) {
        let remedy = "https needs a coordinator with certificates, and its authority in --ca-file; the certificate of \
                      --cert-file must be from the workers' authority";
        return Check::failed(name, error.to_string(), remedy);
    }
    let message = status.message();
    match status.code() {
        Code::InvalidArgument => Check::ok(name, "the coordinator takes this worker's calls"),
        Code::Unauthenticated | Code::PermissionDenied => Check::failed(
            name,
            message.to_owned(),
            "give a certificate (--cert-file, --key-file) or --token-file that are a worker's",
        ),
        Code::Unimplemented => Check::failed(
            name,
            format!("what answers there knows no workers: {message}"),
            "correct --server: it names the coordinator's port for gRPC, 7550 unless --listen says otherwise",
        ),
        code => Check::failed(
            name,
            format!("{code:?}: {message}"),
            "correct --server: it names the coordinator's port for gRPC; its log says more",
        ),
    }
}

/// How far the coordinator's clock is from this one, as its answer is dated to the second.
fn clock(status: &Status, asked: SystemTime) -> Option<Check> {
    let date = status.metadata().get("date")?.to_str().ok()?;
    let there = chrono::DateTime::parse_from_rfc2822(date).ok()?.timestamp() as f64;
    let since =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |age| age.as_secs_f64());
    let (begin, end) = (since(asked), since(SystemTime::now()));
    // The answer's second lies in [there, there + 1).
    let ahead = (there - end).max(begin - (there + 1.0)).max(0.0);
    let found = format!("this clock and the coordinator's differ by {ahead:.0} s at least");
    let remedy = "let chrony or systemd-timesyncd set both clocks";
    Some(match ahead {
        off if off > SKEW_MAX => Check::failed("clock", found, remedy),
        off if off > SKEW_NOTICED => Check::warning("clock", found, remedy),
        _ => Check::ok("clock", "as the coordinator's, to the second"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn clocks_may_differ_by_the_second_in_which_they_are_told() {
        let told = |off: i64| {
            let time = chrono::Utc::now() + chrono::Duration::seconds(off);
            let mut status = Status::invalid_argument("");
            status
                .metadata_mut()
                .insert("date", time.format("%a, %d %b %Y %H:%M:%S GMT").to_string().parse().unwrap());
            clock(&status, SystemTime::now()).unwrap().verdict
        };
        assert_eq!(told(0), Verdict::Ok);
        assert_eq!(told(-1), Verdict::Ok);
        assert_eq!(told(20), Verdict::Warning);
        assert_eq!(told(-20), Verdict::Warning);
        assert_eq!(told(600), Verdict::Failed);
        assert_eq!(told(-600), Verdict::Failed);
    }
}
