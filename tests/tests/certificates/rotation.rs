//! Certificates and authorities that change under a running coordinator.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_proto::v1::{CancelSearchRequest, SearchState, WatchSearchRequest};
use cakes_tests::cluster::certificates::files_in;
use cakes_tests::search::{SHORT, tiny};
use cakes_tests::{Cluster, until};
use cakes_tls::client::ClientFiles;
use cakes_tls::rustls::pki_types::ServerName;
use cakes_tls::tokio_rustls::TlsConnector;
use nix::sys::signal::{Signal, kill};
use rcgen::ExtendedKeyUsagePurpose;
use tokio::net::TcpStream;

use super::made::Made;

const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(cluster: &Cluster) -> Result<()> {
    let api = cluster.api()?;
    let search = api.submit(&tiny("watched", SHORT, SHORT)).await?.search.context("no search")?;
    let request = WatchSearchRequest { id: search.id.clone(), ..WatchSearchRequest::default() };
    let mut stream = api.searches().watch_search(request).await?.into_inner();
    stream.message().await?.context("the stream ends at once")?;

    let first = served(cluster).await?;
    cluster.run_pki(&["renew"])?;
    until("the new certificate is served", PATIENCE, async || {
        Ok((served(cluster).await? != first).then_some(()))
    })
    .await?;

    // What cannot be used changes nothing, whatever it is.
    let (path, key) = (cluster.pki().join("cert.pem"), cluster.pki().join("key.pem"));
    let (good, good_key) = (std::fs::read(&path)?, std::fs::read(&key)?);
    let second = served(cluster).await?;
    let purpose = ExtendedKeyUsagePurpose::ServerAuth;
    let server = |to| Made {
        uris: &["spiffe://cakes/coordinator/coordinator"],
        hosts: &["elsewhere.test"],
        signer: Some("coordinators"),
        purpose: purpose.clone(),
        from: -48,
        to,
    };
    let (expired, expired_key) = server(-1).pem(&cluster.pki())?;
    let bad = [
        ("nothing", String::new(), String::from_utf8(good_key.clone())?),
        ("another key", String::from_utf8(good.clone())?, expired_key.clone()),
        ("expired", expired, expired_key),
    ];
    for (number, (name, certificate, own_key)) in bad.into_iter().enumerate() {
        std::fs::write(&path, certificate)?;
        std::fs::write(&key, own_key)?;
        until(&format!("{name} is noticed"), PATIENCE, async || {
            let kept = cluster.coordinator_log()?.matches("what was read before is kept").count();
            Ok((kept > number).then_some(()))
        })
        .await?;
        ensure!(served(cluster).await? == second, "{name} is served");
    }

    // A name that is not its own is what clients complain of, SIGHUP what does not wait.
    let (other, other_key) = server(24).pem(&cluster.pki())?;
    std::fs::write(&path, other)?;
    std::fs::write(&key, other_key)?;
    kill(nix::unistd::Pid::from_raw(cluster.coordinator_pid()?), Signal::SIGHUP)?;
    until("the command complains of the name", PATIENCE, async || {
        let ended = cluster.cakes(&["search", "list"]).await?;
        Ok(ended.stderr.contains("is not for 127.0.0.1 but for").then_some(()))
    })
    .await?;
    std::fs::write(&path, good)?;
    std::fs::write(&key, good_key)?;
    until("the first name is back", PATIENCE, async || {
        Ok((cluster.cakes(&["search", "list"]).await?.code == Some(0)).then_some(()))
    })
    .await?;

    other_authority(cluster).await?;

    // The stream of the beginning goes on over all of this.
    let request =
        CancelSearchRequest { id: search.id, reason: String::new(), ..CancelSearchRequest::default() };
    api.searches().cancel_search(request).await?;
    loop {
        let update = tokio::time::timeout(PATIENCE, stream.message()).await?;
        let update = update?.context("the stream ends before the search")?;
        if update.state() == SearchState::Cancelled {
            return Ok(());
        }
    }
}

/// Users of another authority instead of those of before.
async fn other_authority(cluster: &Cluster) -> Result<()> {
    let path = cluster.pki().join("users-ca.pem");
    let ours = std::fs::read(&path)?;
    let elsewhere = cluster.folder().join("elsewhere");
    let theirs = ClientFiles { ca: cluster.user_files().ca, ..files_in(&elsewhere.join("users/anna")) };
    std::fs::copy(elsewhere.join("users-ca.pem"), &path)?;
    until("theirs get in, ours do not", PATIENCE, async || {
        let ours = cluster.cakes(&["search", "list"]).await?;
        let theirs = cluster
            .api_with(&theirs)?
            .searches()
            .list_searches(cakes_proto::v1::ListSearchesRequest::default())
            .await;
        Ok((ours.code == Some(4) && theirs.is_ok()).then_some(()))
    })
    .await?;
    std::fs::write(&path, ours)?;
    until("ours get in again", PATIENCE, async || {
        Ok((cluster.cakes(&["search", "list"]).await?.code == Some(0)).then_some(()))
    })
    .await
}

/// The certificate that a new connection is shown.
async fn served(cluster: &Cluster) -> Result<Vec<u8>> {
    let config = cluster.user_files().config()?;
    let stream = TcpStream::connect(cluster.url().trim_start_matches("https://")).await?;
    let stream =
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1")?, stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    Ok(shown.context("no certificate")?.to_vec())
}
