//! Makes the pictures of the web page for the documents from a filled database, and
//! measures what its questions cost.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cakes_tests::bench::fill;
use cakes_tests::bench::postgres::Database;
use cakes_tests::browser::Browser;
use cakes_tests::exhibit::{self, Exhibit};
use cakes_tests::{Cluster, Options, scenario};
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Starts a coordinator, fills it and photographs its pages.
#[derive(Parser)]
struct Arguments {
    /// Folder for the pictures.
    #[arg(default_value = "docs/pictures")]
    out: PathBuf,
    /// Every page, wide and narrow, light and dark, instead of those of the documents.
    #[arg(long)]
    all: bool,
    /// Serves the filled coordinator until Enter is pressed, and takes no picture.
    #[arg(long)]
    serve: bool,
    /// Copies a finished job so many times, then says what each question of the page costs.
    #[arg(long, value_name = "JOBS")]
    measure: Option<u64>,
}

/// Calls of each question that are timed.
const CALLS: usize = 30;

/// Asks each question of the page several times: bytes, and the time of the middle call.
async fn measure(cluster: &Cluster, made: &Exhibit, count: u64) -> Result<()> {
    let database = Database::of(cluster)?;
    let template = cluster.sql(&format!(
        "select id from job where search_id = '{}' and kind = 'retrain' order by position limit 1",
        made.finished
    ))?;
    fill::copies(&database, &template, 1000, count).await?;
    let (search, job) = (&made.finished, &made.running_job.token.job_id);
    let paths = [
        "/searches".to_owned(),
        format!("/searches/{search}"),
        format!("/searches/{search}/front"),
        format!("/searches/{search}/architectures"),
        format!("/searches/{search}/composition"),
        format!("/searches/{search}/scores"),
        "/jobs".to_owned(),
        "/jobs?state=queued&text=budget".to_owned(),
        format!("/jobs/{job}"),
        format!("/jobs/{job}/metrics"),
        format!("/jobs/{job}/logs"),
        "/queue".to_owned(),
        "/timeline?hours=1".to_owned(),
        "/workers".to_owned(),
        "/events".to_owned(),
    ];
    println!(
        "{} jobs\n| question | bytes | median ms | slowest ms |\n|---|---|---|---|",
        cluster.sql("select count(*) from job")?
    );
    for path in paths {
        let (mut times, mut bytes) = (Vec::new(), 0);
        for _ in 0..CALLS {
            let start = Instant::now();
            bytes = ask(&cluster.page_url()?, &path).await?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let shown = path.replace(search.as_str(), "ID").replace(job.as_str(), "ID");
        println!("| `{shown}` | {bytes} | {:.1} | {:.1} |", times[CALLS / 2], times[CALLS - 1]);
    }
    Ok(())
}

/// Bytes of the answer's body.
async fn ask(page: &str, path: &str) -> Result<usize> {
    let host = page.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET /api/v1{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&answer));
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no end of the head")?;
    Ok(answer.len() - head - 4)
}

fn main() {
    let Arguments { out, all, serve, measure: jobs } = Arguments::parse();
    let options =
        Options { workers: &[], web: true, lease_ttl: Duration::from_secs(3600), ..Options::default() };
    scenario(options, async |cluster| {
        let made = exhibit::fill(cluster).await?;
        let base = cluster.page_url()?;
        if let Some(jobs) = jobs {
            return measure(cluster, &made, jobs).await;
        }
        if serve {
            println!("{base}/searches/{}", made.finished);
            println!("database: {}", cluster.database_url()?);
            std::io::stdin().read_line(&mut String::new())?;
            return Ok(());
        }
        std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
        let (search, job) = (&made.finished, &made.running_job.token.job_id);
        let digests = cluster.sql(&format!(
            "select string_agg(distinct architecture_digest, ' ') from job where search_id = '{search}' and kind = 'retrain'"
        ))?;
        let digests: Vec<&str> = digests.split_whitespace().collect();
        let [first, .., last] = digests.as_slice() else {
            bail!("two architectures are retrained: {digests:?}")
        };
        let pages = [
            ("searches", "/".to_owned(), false),
            ("front", format!("/searches/{search}"), true),
            ("composition", format!("/searches/{search}?view=composition"), false),
            ("epochs", format!("/searches/{search}?view=epochs"), true),
            ("scores", format!("/searches/{search}?view=scores&layer=encoder.1.conv1"), true),
            ("jobs", "/jobs".to_owned(), false),
            ("job", format!("/jobs/{job}"), true),
            ("queue", "/queue".to_owned(), false),
            ("devices", "/devices?hours=0.25".to_owned(), false),
            ("workers", "/workers".to_owned(), false),
            ("events", "/events".to_owned(), false),
            ("search-jobs", format!("/searches/{search}?view=jobs"), false),
            ("search-events", format!("/searches/{search}?view=events"), false),
            ("description", format!("/searches/{search}?view=spec"), false),
            ("curves", format!("/curves?jobs={job}&key=validation/mean_dice"), false),
            ("architecture", format!("/architectures/{first}?search={search}"), false),
            ("diff", format!("/diff?a={first}&b={last}&search={search}"), false),
        ];
        let browser = Browser::start().await?;
        for (scheme, width) in [("light", 1120), ("dark", 1120), ("light", 390), ("dark", 390)] {
            browser.prefer(scheme).await?;
            for (name, path, is_documented) in &pages {
                // The documents show each page once, and one of them in the dark on a phone.
                let wanted = match (scheme, width) {
                    ("light", 1120) => *is_documented,
                    ("dark", 390) => *name == "front",
                    _ => false,
                };
                if !all && !wanted {
                    continue;
                }
                browser.resize(width, 760).await?;
                browser.goto(&format!("{base}{path}")).await?;
                let settled = "return document.querySelectorAll('[aria-busy]').length === 0";
                browser.until("the page is drawn", settled).await?;
                let height = browser.script("return document.documentElement.scrollHeight").await?;
                let height = u32::try_from(height.as_u64().unwrap_or(0))?
                    .clamp(500, if width < 400 { 900 } else { 1000 });
                browser.resize(width, height).await?;
                // Charts are drawn anew for another width, in the next frame.
                let drawn = "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))";
                browser.script(drawn).await?;
                let suffix = if width < 400 { "-narrow" } else { "" };
                let path = out.join(format!("{name}-{scheme}{suffix}.png"));
                std::fs::write(&path, browser.picture().await?)?;
                println!("{}", path.display());
            }
        }
        browser.close().await
    });
}
