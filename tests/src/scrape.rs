//! Metrics as Prometheus reads them, and stricter.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use cakes_tls::client::ClientFiles;
use cakes_tls::rustls::pki_types::ServerName;
use cakes_tls::tokio_rustls::TlsConnector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::certificates::HOST;

/// A label and its value.
type Labels = BTreeMap<String, String>;

/// What a scrape gave.
#[derive(Debug, Default)]
pub struct Scrape {
    /// Kind by metric.
    pub kinds: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

impl Scrape {
    /// Reads `/metrics` of an address on this machine in plain text.
    ///
    /// # Errors
    /// The answer is no exposition.
    pub async fn read(address: &str) -> Result<Self> {
        let (status, body) = get(address, "GET /metrics").await?;
        ensure!(status == 200, "{status}: {body}");
        Self::parse(&body).with_context(|| format!("of\n{body}"))
    }

    /// The sum of all series of a metric that have these labels; none where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found = self.samples.iter().filter(|((sample, has), _)| {
            sample == name
                && labels.iter().all(|(label, value)| has.get(*label).is_some_and(|has| has == value))
        });
        let values: Vec<f64> = found.map(|(_, value)| *value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// # Errors
    /// The text is not what the format 0.0.4 asks for.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the last line does not end");
        let mut scrape = Scrape::default();
        let (mut helped, mut current) = (BTreeSet::new(), None::<(String, String)>);
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').with_context(|| format!("no help: {line}"))?;
                ensure!(!help.is_empty() && helped.insert(name.to_owned()), "help twice or empty: {line}");
                current = None;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').with_context(|| format!("no type: {line}"))?;
                ensure!(helped.contains(name), "a type without a help before it: {line}");
                ensure!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                ensure!((kind == "counter") == name.ends_with("_total"), "counters end with _total: {line}");
                ensure!(
                    scrape.kinds.insert(name.to_owned(), kind.to_owned()).is_none(),
                    "type twice: {line}"
                );
                current = Some((name.to_owned(), kind.to_owned()));
            } else {
                let (name, labels, value) = sample(line).with_context(|| line.to_owned())?;
                let (base, kind) = current.as_ref().with_context(|| format!("no type before {line}"))?;
                let is_of_it = match kind.as_str() {
                    "histogram" => {
                        let suffix = name.strip_prefix(base.as_str()).unwrap_or_default();
                        ["_bucket", "_sum", "_count"].contains(&suffix)
                            && (suffix == "_bucket") == labels.contains_key("le")
                    }
                    _ => name == *base,
                };
                ensure!(is_of_it, "{line} stands below {base}");
                ensure!(scrape.samples.insert((name, labels), value).is_none(), "twice: {line}");
            }
        }
        scrape.check_histograms()?;
        Ok(scrape)
    }

    fn check_histograms(&self) -> Result<()> {
        let mut series: BTreeMap<(String, Labels), Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), value) in &self.samples {
            let Some(base) = name.strip_suffix("_bucket") else { continue };
            let mut labels = labels.clone();
            let bound = labels.remove("le").context("a bucket without a bound")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
            series.entry((base.to_owned(), labels)).or_default().push((bound, *value));
        }
        for ((base, labels), mut buckets) in series {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            ensure!(buckets.is_sorted_by(|one, other| one.1 <= other.1), "{base} shrinks: {buckets:?}");
            let last = buckets.last().context("no bucket")?;
            let count = self.samples.get(&(format!("{base}_count"), labels.clone()));
            ensure!(last.0.is_infinite() && Some(&last.1) == count, "{base}: {last:?} is not {count:?}");
            ensure!(self.samples.contains_key(&(format!("{base}_sum"), labels)), "{base} has no sum");
        }
        Ok(())
    }
}

fn sample(line: &str) -> Result<(String, Labels, f64)> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    let is_name = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
            && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    ensure!(is_name(name), "'{name}' is no name");
    let mut labels = Labels::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        while !inner.starts_with('}') {
            let (label, after) = inner.split_once("=\"").context("no label")?;
            ensure!(is_name(label), "'{label}' is no label");
            let (value, after) = quoted(after)?;
            ensure!(labels.insert(label.to_owned(), value).is_none(), "label twice");
            inner = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &inner[1..];
    }
    let value = rest.strip_prefix(' ').context("no space before the value")?;
    Ok((name.to_owned(), labels, value.parse().with_context(|| format!("'{value}' is no number"))?))
}

fn quoted(text: &str) -> Result<(String, &str)> {
    let (mut value, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match letters.next().map(|(_, letter)| letter) {
                Some('n') => value.push('\n'),
                Some(letter @ ('\\' | '"')) => value.push(letter),
                other => bail!("'\\{other:?}' is no escape"),
            },
            letter => value.push(letter),
        }
    }
    bail!("a value does not end")
}

/// The status and body of a request over a connection of its own.
///
/// # Errors
/// Nobody answers, or not in HTTP.
pub async fn get(address: &str, request: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    exchange(&mut stream, address, request, "").await
}

/// The metrics of an address on this machine, asked for over TLS by the holder of files.
///
/// # Errors
/// Nobody answers, or one of the two does not want the other.
pub async fn get_over_tls(address: &str, files: &ClientFiles, headers: &str) -> Result<(u16, String)> {
    let mut config = files.config()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    let name = ServerName::try_from(HOST)?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    exchange(&mut stream, HOST, "GET /metrics", headers).await
}

/// The status and body of a request over a connection that is there; `headers` end with line breaks.
///
/// # Errors
/// The answer is no HTTP.
pub async fn exchange<S>(stream: &mut S, host: &str, request: &str, headers: &str) -> Result<(u16, String)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n").as_bytes()).await?;
    let mut answer = String::new();
    // The peer closes; that it does not say farewell in TLS is no matter.
    let read = stream.read_to_string(&mut answer).await;
    ensure!(read.is_ok() || !answer.is_empty(), "{read:?}");
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    ensure!(status != 200 || head.contains("text/plain; version=0.0.4"), "{head}");
    Ok((status, body.to_owned()))
}

/// Names in the reference page of a daemon's metrics.
///
/// # Errors
/// The page cannot be read.
pub fn documented(page: &str) -> Result<BTreeSet<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(page);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    Ok(names.map(|(name, _)| name.to_owned()).collect())
}

/// The address that a daemon said behind the last `mark` of its log.
///
/// # Errors
/// It did not say.
pub fn said_address(log: &str, mark: &str) -> Result<String> {
    let (_, said) = log.rsplit_once(mark).with_context(|| format!("nothing is said behind '{mark}'"))?;
    let end = said.find(|letter: char| !(letter.is_ascii_digit() || ".:".contains(letter)));
    Ok(said[..end.unwrap_or(said.len())].to_owned())
}
