//! The page over TLS.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cakes_tests::Cluster;
use cakes_tests::cluster::certificates::HOST;
use cakes_tls::client::ClientFiles;
use cakes_tls::rustls::pki_types::ServerName;
use cakes_tls::tokio_rustls::TlsConnector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub async fn run(cluster: &Cluster) -> Result<()> {
    let named = get(cluster, HOST).await?;
    ensure!(named.starts_with("HTTP/1.1 200"), "{named}");
    ensure!(named.to_lowercase().contains("strict-transport-security: max-age="), "{named}");
    // It would hold for every program that serves on this machine.
    let local = get(cluster, "localhost").await?;
    ensure!(
        local.starts_with("HTTP/1.1 200") && !local.to_lowercase().contains("strict-transport"),
        "{local}"
    );
    let at = cluster.page_url()?;
    let mut plain = TcpStream::connect(at.trim_start_matches("https://")).await?;
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    ensure!(!answer.starts_with(b"HTTP"), "plain text is answered");
    Ok(())
}

/// What a browser gets that asks for who is signed in.
async fn get(cluster: &Cluster, host: &str) -> Result<String> {
    let files = ClientFiles { ca: cluster.user_files().ca, ..ClientFiles::default() };
    let mut config = files.config()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(cluster.page_url()?.trim_start_matches("https://")).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from(host.to_owned())?, stream).await?;
    let request = format!("GET /api/v1/session HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.context("the answer ends")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
