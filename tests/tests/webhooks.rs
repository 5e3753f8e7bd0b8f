//! Webhooks, from the change to a receiver that is not always there.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cakes_proto::v1::{FailureClass, SearchState};
use cakes_tests::exhibit::worker;
use cakes_tests::fake::NoOp;
use cakes_tests::search::{SHORT, tiny};
use cakes_tests::{Cluster, Options, scenario, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(120);
/// As `openssl rand -base64 32` writes it.
const SECRET: &str = "c2VjcmV0cyBvZiB0ZXN0cyBhcmUgMzIgYnl0ZXMuLi4=\n";

/// What the receiver does with a request.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Answer(u16),
    /// Closes the connection without an answer.
    Drop,
    /// Never answers.
    Hang,
}

#[derive(Clone, Debug)]
struct Received {
    path: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Received {
    fn id(&self) -> &str {
        self.headers.get("webhook-id").map_or("", String::as_str)
    }

    fn json(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.body)?)
    }

    fn kind(&self) -> String {
        self.json().ok().and_then(|body| body["type"].as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// A server that keeps what it gets. Deeds of a path are for the requests of the first
/// delivery there, in order; everything else is answered well.
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    async fn start(deeds: BTreeMap<&'static str, Vec<Deed>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&kept), deeds.clone()));
            }
        });
        Ok(Receiver { url, got })
    }

    fn got(&self, path: &str) -> Vec<Received> {
        let all = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|received| received.path == path).cloned().collect()
    }

    async fn until_got(
        &self,
        what: &str,
        path: &str,
        wanted: impl Fn(&[Received]) -> bool,
    ) -> Result<Vec<Received>> {
        let found = until(what, PATIENCE, async || {
            let got = self.got(path);
            Ok(wanted(&got).then_some(got))
        });
        found.await.with_context(|| format!("got {:#?}", self.got(path)))
    }
}

async fn serve(
    mut stream: TcpStream,
    kept: Arc<Mutex<Vec<Received>>>,
    deeds: BTreeMap<&'static str, Vec<Deed>>,
) -> Option<()> {
    loop {
        let received = read(&mut stream).await?;
        let deed = {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            let earlier: Vec<&Received> = kept.iter().filter(|other| other.path == received.path).collect();
            let is_first = earlier.first().is_none_or(|first| first.id() == received.id());
            let tries = earlier.iter().filter(|other| other.id() == received.id()).count();
            let deed =
                deeds.get(received.path.as_str()).filter(|_| is_first).and_then(|deeds| deeds.get(tries));
            kept.push(received);
            deed.copied().unwrap_or(Deed::Answer(204))
        };
        match deed {
            Deed::Answer(status) => {
                let answer =
                    format!("HTTP/1.1 {status} Said\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.ok()?;
            }
            Deed::Drop => return None,
            Deed::Hang => tokio::time::sleep(Duration::from_secs(3600)).await,
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Received> {
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(text[..end].to_vec()).ok()?;
            let path = head.split(' ').nth(1)?.to_owned();
            let headers: BTreeMap<String, String> = head
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let length: usize = headers.get("content-length")?.parse().ok()?;
            if text.len() >= end + 4 + length {
                let body = String::from_utf8(text[end + 4..end + 4 + length].to_vec()).ok()?;
                return Some(Received { path, headers, body });
            }
        }
        match stream.read(&mut chunk).await.ok()? {
            0 => return None,
            count => text.extend(&chunk[..count]),
        }
    }
}

/// The function of the documents, by the real Python.
async fn verifies(received: &Received, body: &str) -> Result<bool> {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/webhooks.md");
    let text = std::fs::read_to_string(page)?;
    let code = text.split_once("```python\n").and_then(|(_, rest)| rest.split_once("```"));
    let (code, _) = code.context("docs/webhooks.md has no Python")?;
    let program = format!(
        "{code}\nimport json, sys\nprint(verify(*[json.loads(sys.argv[1])[k] for k in ('secret', 'headers')], json.loads(sys.argv[1])['body'].encode()))"
    );
    let given = json!({ "secret": SECRET, "headers": received.headers, "body": body }).to_string();
    let mut python = tokio::process::Command::new("python3");
    let output = python.args(["-c", &program, &given]).stdin(Stdio::null()).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim() == "True")
}

async fn cakes(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let arguments = [arguments, &["-o", "json"]].concat();
    let finished = cluster.cakes(&arguments).await?;
    ensure!(finished.code == Some(0), "{arguments:?}: {finished:?}");
    ensure!(!format!("{finished:?}").contains(SECRET.trim()), "{arguments:?} shows the secret");
    Ok(serde_json::from_str(&finished.stdout)?)
}

/// Adds a webhook; its id.
async fn add(cluster: &Cluster, url: &str, events: &str, label: &str) -> Result<String> {
    let file = cluster.folder().join("secret.txt");
    std::fs::write(&file, SECRET)?;
    let file = file.to_str().context("path")?;
    let words = ["-v", "webhook", "add", url, "--event", events, "--secret-file", file, "--label", label];
    let added = cakes(cluster, &words).await?;
    Ok(added["id"].as_str().context("no id")?.to_owned())
}

/// A search with a label, whose jobs are done by a fake worker; the first one fails where
/// that is wanted.
async fn run_search(cluster: &Cluster, name: &str, fails: bool) -> Result<String> {
    let api = cluster.api()?;
    let mut file = tiny(name, SHORT, SHORT);
    file["labels"] = json!({ "owner": "ada" });
    let search = api.submit(&file).await?.search.context("no search")?.id;
    let worker = worker(cluster, name).await?;
    let wanted = if fails { SearchState::Failed } else { SearchState::Succeeded };
    until("the search ends", PATIENCE, async || {
        while let Some(mut attempt) = worker.acquire().await? {
            let outcome = NoOp::of_json(&attempt.trainer_job_json)?;
            if fails {
                worker.start(&attempt).await?;
                worker.fail(&attempt, FailureClass::User, "no such file").await?;
            } else {
                worker.run(&mut attempt, &outcome).await?;
            }
        }
        let state = api.search(&search).await?.state();
        Ok((state == wanted).then_some(()))
    })
    .await?;
    Ok(search)
}

#[test]
fn what_happens_is_told_signed_and_until_it_is_taken() {
    let options = Options { workers: &[], ..Options::default() };
    scenario(options, async |cluster| {
        let deeds = vec![Deed::Answer(500), Deed::Drop, Deed::Answer(302)];
        let receiver = Receiver::start(BTreeMap::from([("/ada", deeds)])).await?;
        let all = "search-finished,search-failed,job-failed,front-point";
        let id = add(cluster, &format!("{}/ada", receiver.url), all, "owner=ada").await?;
        add(cluster, &format!("{}/eve", receiver.url), all, "owner=eve").await?;
        let listed = cakes(cluster, &["webhook", "list"]).await?;
        ensure!(listed["webhooks"].as_array().is_some_and(|all| all.len() == 2), "{listed}");

        let search = run_search(cluster, "told", false).await?;
        let ended = |got: &[Received]| {
            let first = got.first().map_or("", Received::id);
            got.iter().any(|one| one.kind() == "search.finished")
                && got.iter().filter(|one| one.id() == first).count() == 4
        };
        let got = receiver.until_got("all is told", "/ada", ended).await?;
        let mut kinds = BTreeMap::<String, String>::new();
        for received in &got {
            let body = received.json()?;
            ensure!(body["data"]["search"]["id"] == json!(search), "{body}");
            ensure!(verifies(received, &received.body).await?, "{received:?}");
            kinds.insert(received.id().to_owned(), received.kind());
        }
        let tampered = got[0].body.replace("told", "lies");
        ensure!(tampered != got[0].body && !verifies(&got[0], &tampered).await?, "tampered {tampered}");
        let front: Vec<&Received> = got.iter().filter(|one| one.kind() == "front.point").collect();
        for entry in cluster.api()?.front(&search).await?.entries.iter().filter(|entry| entry.on_front) {
            let architecture = entry.architecture.as_ref().context("no architecture")?;
            let is_told = |one: &&&Received| {
                one.json().is_ok_and(|body| {
                    body["data"]["point"]["architecture_digest"] == json!(architecture.digest)
                })
            };
            let told = front.iter().find(is_told).with_context(|| architecture.digest.clone())?.json()?;
            let macs = architecture.cost.as_ref().map(|cost| cost.mac_count);
            ensure!(told["data"]["point"]["mac_count"].as_u64() == macs, "{told}");
            ensure!(told["data"]["point"]["quality"].as_f64() == Some(entry.quality), "{told}");
        }
        let count = |kind: &str| kinds.values().filter(|one| *one == kind).count();
        ensure!(
            count("search.finished") == 1
                && count("front.point") > 0
                && kinds.len() == count("front.point") + 1,
            "{kinds:?}"
        );

        let failed = run_search(cluster, "failed", true).await?;
        let both = |got: &[Received]| {
            ["job.failed", "search.failed"].iter().all(|kind| got.iter().any(|one| one.kind() == *kind))
        };
        let got = receiver.until_got("failures are told", "/ada", both).await?;
        let job = got.iter().find(|one| one.kind() == "job.failed").context("no failed job")?.json()?;
        ensure!(job["data"]["job"]["reason"] == json!("no such file"), "{job}");
        ensure!(job["data"]["search"]["id"] == json!(failed), "{job}");

        let found = until("all is recorded", PATIENCE, async || {
            let found = cakes(cluster, &["webhook", "deliveries", &id, "--limit", "200"]).await?;
            let all = found["deliveries"].as_array().cloned().unwrap_or_default();
            let done = |one: &Value| one["state"] == json!("DELIVERY_STATE_DELIVERED");
            Ok(all.iter().all(done).then_some(all))
        });
        let found = found.await?;
        let tries: Vec<u64> = found.iter().filter_map(|one| one["attempt_count"].as_u64()).collect();
        ensure!(tries.iter().max() == Some(&4), "{found:#?}");
        ensure!(receiver.got("/eve").is_empty() && receiver.got("/elsewhere").is_empty(), "not for them");
        Ok(())
    });
}

#[test]
fn a_delivery_survives_the_coordinator_and_not_its_webhook() {
    let options = Options { workers: &[], coordinator: &["--webhook-timeout", "5s"], ..Options::default() };
    scenario(options, async |cluster| {
        let refusals = vec![Deed::Answer(503); 2];
        let deeds =
            [("/hang", vec![Deed::Hang]), ("/gone", vec![Deed::Answer(503); 12]), ("/stays", refusals)];
        let receiver = Receiver::start(BTreeMap::from(deeds)).await?;
        let address = |path: &str| format!("{}{path}", receiver.url);
        let hang = add(cluster, &address("/hang"), "search-finished", "a=b").await?;
        cakes(cluster, &["webhook", "test", &hang]).await?;
        receiver.until_got("a request", "/hang", |got| got.len() == 1).await?;
        cluster.kill_coordinator()?;
        cluster.start_coordinator()?;
        let got = receiver.until_got("the request again", "/hang", |got| got.len() > 1).await?;
        ensure!(got[0].id() == got[1].id() && got[0].body == got[1].body, "{got:#?}");
        ensure!(got[1].kind() == "ping" && verifies(&got[1], &got[1].body).await?, "{got:#?}");

        let gone = add(cluster, &address("/gone"), "search-finished", "a=b").await?;
        let stays = add(cluster, &address("/stays"), "search-finished", "a=b").await?;
        cakes(cluster, &["webhook", "test", &gone]).await?;
        receiver.until_got("a request", "/gone", |got| !got.is_empty()).await?;
        cakes(cluster, &["webhook", "remove", &gone]).await?;
        // A request may have been under way.
        let before = receiver.got("/gone").len() + 1;
        // Its third try comes later than the next one of the other would have come.
        cakes(cluster, &["webhook", "test", &stays]).await?;
        receiver.until_got("the third try", "/stays", |got| got.len() == 3).await?;
        ensure!(receiver.got("/gone").len() <= before, "{:#?}", receiver.got("/gone"));
        let again = cluster.cakes(&["webhook", "test", &gone]).await?;
        ensure!(again.code == Some(2), "{again:?}");

        let file = cluster.folder().join("secret.txt");
        let file = file.to_str().context("path")?;
        for wrong in ["http://hooks.example/x", "ftp://127.0.0.1/x", "https://user:word@hooks.example/"] {
            let words = ["webhook", "add", wrong, "--event", "job-failed", "--secret-file", file];
            let refused = cluster.cakes(&words).await?;
            if refused.code != Some(2) || !refused.stderr.contains("url:") {
                bail!("{wrong}: {refused:?}");
            }
        }
        Ok(())
    });
}
