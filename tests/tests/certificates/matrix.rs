//! The matrix of certificates, and of clients that speak otherwise.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cakes_proto::v1::ListWorkersRequest;
use cakes_tests::cluster::certificates::files_in;
use cakes_tests::{Cluster, until};
use cakes_tls::client::{ClientFiles, ConnectError, Connector};
use cakes_tls::rustls::pki_types::ServerName;
use cakes_tls::rustls::{ClientConfig, version};
use cakes_tls::tokio_rustls::TlsConnector;
use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::made::Made;

const USER: &str = "spiffe://cakes/user/operator/anna";
const WORKER: &str = "spiffe://cakes/worker/gpu-01";
const COORDINATOR: &str = "spiffe://cakes/coordinator/b";

const UNKNOWN: &str = "from no authority that the coordinator knows";
const NOBODY: &str = "names nobody whom its authority may vouch for";
const TIME: &str = "it has expired, or the clocks differ";

/// More than the number of cores, so that handshakes that wait would hold up others.
const SILENT: usize = 64;

pub async fn run(cluster: &Cluster) -> Result<()> {
    let mut count = 0;
    for (name, files, expected) in cases(cluster)? {
        let found = connect(&cluster.url(), &files).await?;
        match (&found, expected) {
            (Ok(()), None) => {}
            (Err(said), Some(expected)) if said.contains(expected) => {}
            _ => bail!("{name}: should be {expected:?}, is {found:?}"),
        }
        count += 1;
    }
    count += rights(cluster).await?;
    count += other_clients(cluster).await?;
    count += commands(cluster).await?;
    println!("certificates and clients tried, each with the outcome that it should have: {count}");
    let log = cluster.coordinator_log()?;
    ensure!(log.contains("a TLS handshake failed") && log.contains("failures=20"), "no count in the log");
    ensure!(log.contains("it has 2 URI names"), "no reason in the log");
    Ok(())
}

/// Names, files, and the reason of the refusal; none if they are taken.
fn cases(cluster: &Cluster) -> Result<Vec<(&'static str, ClientFiles, Option<&'static str>)>> {
    cluster.run_pki(&["issue", "user", "anna", "--role", "viewer"])?;
    cluster.run_pki(&["issue", "worker", "gpu-01"])?;
    cluster.run_pki(&["issue", "coordinator", "b", "--host", "b.test"])?;
    let elsewhere = cluster.folder().join("elsewhere");
    cluster.run_pki(&["init", "--host", "cakes.test", "--dir", &elsewhere.to_string_lossy()])?;
    cluster.run_pki(&[
        "issue",
        "user",
        "anna",
        "--role",
        "operator",
        "--dir",
        &elsewhere.to_string_lossy(),
    ])?;
    let ca = cluster.user_files().ca;
    let of = |folder: &str| ClientFiles { ca: ca.clone(), ..files_in(&cluster.pki().join(folder)) };
    let authority = ClientFiles {
        ca: ca.clone(),
        certificate: Some(cluster.pki().join("users-ca.pem")),
        key: Some(cluster.pki().join("authority/users.key")),
    };
    let mut cases = vec![
        ("a user", of("users/anna"), None),
        ("a worker", of("workers/gpu-01"), None),
        ("a coordinator", of("coordinators/b"), None),
        ("no certificate", ClientFiles { ca: ca.clone(), ..ClientFiles::default() }, None),
        (
            "of another service's authority",
            ClientFiles { ca: ca.clone(), ..files_in(&elsewhere.join("users/anna")) },
            Some(UNKNOWN),
        ),
        ("an authority's own", authority, Some(NOBODY)),
    ];
    let made = [
        ("as ours, made otherwise", Made { uris: &[USER], ..Made::default() }, None),
        ("signed by itself", Made { uris: &[USER], signer: None, ..Made::default() }, Some(UNKNOWN)),
        (
            "signed by a user",
            Made { uris: &[USER], signer: Some("users/anna"), ..Made::default() },
            Some("the coordinator"),
        ),
        ("a worker of the users' authority", Made { uris: &[WORKER], ..Made::default() }, Some(NOBODY)),
        (
            "a coordinator of the users' authority",
            Made { uris: &[COORDINATOR], ..Made::default() },
            Some(NOBODY),
        ),
        (
            "a user of the workers' authority",
            Made { uris: &[USER], signer: Some("workers"), ..Made::default() },
            Some(NOBODY),
        ),
        (
            "a coordinator of the workers' authority",
            Made { uris: &[COORDINATOR], signer: Some("workers"), ..Made::default() },
            Some(NOBODY),
        ),
        (
            "a user of the coordinators' authority",
            Made { uris: &[USER], signer: Some("coordinators"), ..Made::default() },
            Some(NOBODY),
        ),
        (
            "a worker of the coordinators' authority",
            Made { uris: &[WORKER], signer: Some("coordinators"), ..Made::default() },
            Some(NOBODY),
        ),
        ("expired", Made { uris: &[USER], from: -48, to: -1, ..Made::default() }, Some(TIME)),
        ("not yet valid", Made { uris: &[USER], from: 1, ..Made::default() }, Some(TIME)),
        ("two URI names", Made { uris: &[USER, USER], ..Made::default() }, Some(NOBODY)),
        (
            "a second URI name of another kind",
            Made { uris: &[USER, "https://example.org/"], ..Made::default() },
            Some(NOBODY),
        ),
        ("no URI name", Made::default(), Some(NOBODY)),
        (
            "of another trust domain",
            Made { uris: &["spiffe://cakes.evil/user/operator/anna"], ..Made::default() },
            Some(NOBODY),
        ),
        (
            "an unknown role",
            Made { uris: &["spiffe://cakes/user/root/anna"], ..Made::default() },
            Some(NOBODY),
        ),
        (
            "a name that climbs",
            Made { uris: &["spiffe://cakes/user/operator/../x"], ..Made::default() },
            Some(NOBODY),
        ),
        (
            "for servers alone",
            Made { uris: &[USER], purpose: ExtendedKeyUsagePurpose::ServerAuth, ..Made::default() },
            Some(NOBODY),
        ),
    ];
    for (name, made, expected) in made {
        cases.push((name, made.files(cluster, name)?, expected));
    }
    Ok(cases)
}

/// Connects and asks for the service's health, which everybody may know; what TLS has
/// against it.
async fn connect(url: &str, files: &ClientFiles) -> Result<Result<(), String>> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.timeout(Duration::from_secs(60));
    match Connector::new(files.clone()).connect(&endpoint).await {
        Ok(channel) => {
            HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
            Ok(Ok(()))
        }
        Err(error) => match ConnectError::within(&error) {
            Some(said @ (ConnectError::Refused(_) | ConnectError::Server(_))) => Ok(Err(said.to_string())),
            _ => Err(error.into()),
        },
    }
}

/// What a certificate is good for: the same call, by each kind of caller.
async fn rights(cluster: &Cluster) -> Result<usize> {
    let nobody = ClientFiles { ca: cluster.user_files().ca, ..ClientFiles::default() };
    let of = |folder: &str| files_in(&cluster.pki().join(folder));
    let coordinator = ClientFiles { ca: nobody.ca.clone(), ..of("coordinators/b") };
    let cases = [
        (of("users/anna"), Code::Ok),
        (of("workers/gpu-01"), Code::PermissionDenied),
        (coordinator, Code::PermissionDenied),
        (nobody, Code::Unauthenticated),
    ];
    let count = cases.len();
    for (files, expected) in cases {
        let called = cluster.api_with(&files)?.fleet().list_workers(ListWorkersRequest::default()).await;
        let code = called.map_or_else(|status| status.code(), |_| Code::Ok);
        ensure!(code == expected, "{files:?}: {code:?}");
    }
    Ok(count)
}

fn address(cluster: &Cluster) -> Result<SocketAddr> {
    Ok(cluster.url().trim_start_matches("https://").parse()?)
}

/// Clients that speak otherwise.
async fn other_clients(cluster: &Cluster) -> Result<usize> {
    let anna = files_in(&cluster.pki().join("users/anna"));
    let old = refusal(cluster, &anna, |_| {}, true).await?;
    ensure!(old.contains("ProtocolVersion"), "TLS 1.2: {old}");
    let http1 = |config: &mut ClientConfig| config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let http1 = refusal(cluster, &anna, http1, false).await?;
    ensure!(http1.contains("NoApplicationProtocol"), "HTTP/1.1: {http1}");

    let mut plain = TcpStream::connect(address(cluster)?).await?;
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = tokio::time::timeout(Duration::from_secs(60), plain.read_to_end(&mut answer)).await?;
    // An alert, and no frame of HTTP/2.
    ensure!(answer.is_empty() || answer[0] == 21, "plain text is answered: {answer:?}");

    // Who says nothing, or stops in the middle, keeps nobody waiting, and not for ever.
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let mut stream = TcpStream::connect(address(cluster)?).await?;
        if number % 2 == 1 {
            stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).await?;
        }
        silent.push(stream);
    }
    connect(&cluster.url(), &anna).await?.map_err(anyhow::Error::msg).context("behind silent ones")?;
    for mut stream in silent {
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
        ended.context("a silent connection is kept")?.ok();
    }
    until("slow handshakes are in the log", Duration::from_secs(60), async || {
        let log = cluster.coordinator_log()?;
        let tells = log.contains("it took too long") && log.contains("silent");
        Ok(tells.then_some(()))
    })
    .await?;
    Ok(4)
}

/// What a client with other settings is told.
async fn refusal(
    cluster: &Cluster,
    files: &ClientFiles,
    change: impl FnOnce(&mut ClientConfig),
    is_old: bool,
) -> Result<String> {
    let mut config = match is_old {
        false => files.config()?,
        true => {
            let roots = cakes_tls::files::roots(files.ca.as_deref().context("no authority")?)?;
            ClientConfig::builder_with_provider(cakes_tls::provider())
                .with_protocol_versions(&[&version::TLS12])?
                .with_root_certificates(roots)
                .with_no_client_auth()
        }
    };
    change(&mut config);
    let stream = TcpStream::connect(address(cluster)?).await?;
    let name = ServerName::try_from("127.0.0.1")?;
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(_) => bail!("it is taken"),
        Err(error) => Ok(error.to_string()),
    }
}

/// What `cakes` says, and its exit code.
async fn commands(cluster: &Cluster) -> Result<usize> {
    let path = |path: &Option<std::path::PathBuf>| path.clone().unwrap_or_default().display().to_string();
    let expired = Made { uris: &[USER], from: -48, to: -1, ..Made::default() }.files(cluster, "late")?;
    let (late, late_key) = (path(&expired.certificate), path(&expired.key));
    let foreign = path(&files_in(&cluster.folder().join("elsewhere/users/anna")).ca);
    let plain = cluster.url().replace("https", "http");
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--cert-file", &late, "--key-file", &late_key], 4, TIME),
        (&["--ca-file", &foreign], 1, "from another authority than those of --ca-file"),
        (&["--key-file", &late_key], 1, "cert.pem"),
        (&["--server", &plain], 2, "write https://HOST:PORT"),
    ];
    let count = cases.len();
    for (flags, code, said) in cases {
        let ended = cluster.cakes(&[&["worker", "list"], flags].concat()).await?;
        ensure!(ended.code == Some(code) && ended.stderr.contains(said), "{flags:?}: {ended:?}");
    }
    Ok(count)
}
