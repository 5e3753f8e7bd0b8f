//! The web page in a real browser, over a coordinator that fake workers have filled.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use cakes::job::TrainerJob;
use cakes_cli::format::{device_hours, device_hours_of, device_hours_used};
use cakes_tests::browser::{self, Browser};
use cakes_tests::exhibit::{self, Exhibit, MARKUP};
use cakes_tests::{Cluster, Options, scenario};

/// Without a browser the test is left out, except where tests must not be.
fn has_browser() -> bool {
    let installed = browser::is_installed();
    assert!(installed || std::env::var_os("CI").is_none(), "`cargo xtask setup --tests` installs Chromium");
    if !installed {
        eprintln!(
            "left out: Chromium and chromedriver are not installed; `cargo xtask setup --tests` installs them"
        );
    }
    installed
}

fn options() -> Options {
    // Long leases: the exhibit's workers do not report while a page is looked at.
    Options { workers: &[], web: true, lease_ttl: Duration::from_secs(600), ..Options::default() }
}

/// Pages with what each must show.
fn pages(made: &Exhibit) -> Vec<(String, Vec<&'static str>)> {
    let (search, job) = (&made.finished, &made.running_job.token.job_id);
    let of = |view: &str| format!("/searches/{search}?view={view}");
    vec![
        (
            "/".to_owned(),
            vec!["example-volumes", "example-running", "example-wrong-labels", "succeeded", "owner=ada"],
        ),
        (
            format!("/searches/{search}"),
            vec![
                "mean Dice against MACs",
                "budget 0.3",
                "baseline c3d",
                "Compare two",
                "paper=miccai-2026",
                "compare with the planes of last week",
            ],
        ),
        (of("composition"), vec!["Channels per layer", "budget 0.45", "3x3x3"]),
        (of("epochs"), vec!["Kernel with most channels", "epoch"]),
        (of("scores"), vec!["Channels kept by", "3x3x3", "kept"]),
        (of("jobs"), vec!["supernet", "budget 0.2 seed 1"]),
        (of("events"), vec!["job succeeded"]),
        (of("spec"), vec!["encoder_decoder", "steps_per_epoch"]),
        (format!("/searches/{}", made.running), vec!["No architecture is retrained yet"]),
        (format!("/searches/{}?view=epochs", made.running), vec!["Kernel with most channels"]),
        ("/jobs".to_owned(), vec!["running", "queued", "budget 0.7 seed 0"]),
        (
            format!("/jobs/{job}"),
            vec![
                "Runs on worker gpu-a",
                "train/loss",
                "epoch 14: mean Dice",
                "Checkpoints that are kept",
                "current",
            ],
        ),
        ("/queue".to_owned(), vec!["baseline c3d seed 0", "Position"]),
        ("/devices?hours=1".to_owned(), vec!["gpu-a cpu", "busy", "Attempts by device"]),
        ("/workers".to_owned(), vec!["gpu-a", "gpu-b", "ready"]),
        (format!("/curves?jobs={job}&key=validation/mean_dice"), vec!["validation/mean_dice", "Runs"]),
        ("/events".to_owned(), vec!["job failed", "search submitted"]),
        ("/nothing/here".to_owned(), vec!["No such page"]),
    ]
}

#[test]
fn every_page_shows_what_is_there_and_asks_nobody_else() {
    if !has_browser() {
        return;
    }
    scenario(options(), async |cluster| {
        let made = exhibit::fill(cluster).await?;
        let browser = Browser::start().await?;
        let base = cluster.page_url()?;
        for (path, texts) in pages(&made) {
            for width in [1280, 390] {
                browser.resize(width, 844).await?;
                browser.goto(&format!("{base}{path}")).await?;
                browser
                    .until_text(&texts.iter().copied().filter(|_| width > 400).collect::<Vec<_>>())
                    .await?;
                browser.until("the page is drawn", SETTLED).await?;
                // Room for a scroll bar may make the page narrower than the screen.
                let overflow = "return Math.max(0, document.documentElement.scrollWidth - innerWidth)";
                let wider = browser.script(overflow).await?;
                ensure!(wider == 0, "{path} is {wider} px wider than a screen of {width} px");
            }
            let unnamed = browser.script(UNNAMED).await?;
            ensure!(unnamed == serde_json::json!([]), "{path} has parts without a name: {unnamed}");
        }
        let complaints = browser.complaints().await?;
        ensure!(complaints.is_empty(), "the console holds {complaints:#?}");
        let foreign: Vec<String> = browser
            .requests()
            .await?
            .into_iter()
            .filter(|address| !address.starts_with(&base) && !address.starts_with("chrome"))
            .filter(|address| !address.starts_with("data:") && !address.starts_with("about:"))
            .collect();
        ensure!(foreign.is_empty(), "pages ask others: {foreign:?}");

        markup_stays_text(&browser, &base, &made).await?;
        keys_lead_from_the_top_to_an_architecture(&browser, &base, &made).await?;
        labels_and_notes_are_shown_and_lead_to_more(&browser, &base, cluster, &made).await?;
        checkpoints_and_suspects_say_why(&browser, &base, cluster, &made).await?;
        labels_of_workers_are_shown(&browser, &base, cluster).await?;
        placement_is_shown(&browser, &base, cluster, &made).await?;
        times_on_devices_read_as_those_of_the_command(&browser).await?;
        themes_follow_the_system_and_the_button(&browser, &base).await?;
        news_appear_without_reloading(&browser, cluster, &made).await?;
        a_coordinator_that_comes_back_is_found_again(&browser, cluster).await?;
        browser.close().await
    });
}

/// Whether every part of a page has its first answer.
const SETTLED: &str = "return document.querySelectorAll('[aria-busy]').length === 0";

/// Things that can be reached or are pictures, and that have no name for who does not see.
const UNNAMED: &str = "
    const named = (node) => node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.length
        || node.getAttribute('alt') !== null && node.tagName === 'IMG';
    return [...document.querySelectorAll('a, button, input, select, [role=img], [role=link], [role=region], main img')]
        .filter((node) => !named(node)).map((node) => node.outerHTML.slice(0, 200))";

async fn markup_stays_text(browser: &Browser, base: &str, made: &Exhibit) -> Result<()> {
    browser.goto(&format!("{base}/jobs/{}", made.failed_job)).await?;
    browser.until_text(&["case 7 has labels up to 9", MARKUP]).await?;
    browser.until("the page is drawn", SETTLED).await?;
    let (images, title) = (
        browser.script("return document.querySelectorAll('main img').length").await?,
        browser.script("return document.title").await?,
    );
    ensure!(
        images == 0 && title.as_str().is_some_and(|title| title.starts_with("supernet")),
        "{images} {title}"
    );
    Ok(())
}

async fn focused(browser: &Browser) -> Result<String> {
    let script =
        "const node = document.activeElement; return node.getAttribute('aria-label') || node.textContent";
    Ok(browser.script(script).await?.as_str().unwrap_or_default().to_owned())
}

async fn keys_lead_from_the_top_to_an_architecture(
    browser: &Browser,
    base: &str,
    made: &Exhibit,
) -> Result<()> {
    browser.resize(1280, 844).await?;
    browser.goto(&format!("{base}/searches/{}", made.finished)).await?;
    browser.until_text(&["mean Dice against MACs"]).await?;
    browser.until("the chart is drawn", "return document.querySelectorAll('.mark').length > 5").await?;
    browser.press("Tab").await?;
    ensure!(focused(browser).await? == "Skip to content", "the first stop is '{}'", focused(browser).await?);
    browser.press("Enter").await?;
    ensure!(
        browser.script("return document.activeElement.id").await? == "main",
        "the skip link leads to the content"
    );
    let mut stops = 0;
    while browser.script("return document.activeElement.classList.contains('mark')").await? != true {
        stops += 1;
        ensure!(
            stops < 40,
            "no point of the chart is reached; the last stop is '{}'",
            focused(browser).await?
        );
        browser.press("Tab").await?;
    }
    let first = focused(browser).await?;
    browser.press("ArrowRight").await?;
    let second = focused(browser).await?;
    ensure!(first != second && second.contains("mean Dice"), "an arrow leads from '{first}' to '{second}'");
    browser.press("Enter").await?;
    browser.until_text(&["Multiply-accumulates", "Layer by layer"]).await?;
    let address = browser.script("return location.pathname").await?;
    ensure!(address.as_str().is_some_and(|path| path.starts_with("/architectures/")), "{address}");
    Ok(())
}

/// Every label leads to the list of all that have it, and the field beside the list says so.
async fn labels_and_notes_are_shown_and_lead_to_more(
    browser: &Browser,
    base: &str,
    cluster: &Cluster,
    made: &Exhibit,
) -> Result<()> {
    let rows = |count: usize| {
        format!("return document.querySelectorAll('tbody tr, .vspace .vrow').length === {count}")
    };
    browser.goto(&format!("{base}/searches/{}", made.finished)).await?;
    browser.until_text(&["ada, ", "before anything is published"]).await?;
    let follow = |label: &str| {
        format!(
            "const found = [...document.querySelectorAll('a.label')].find((known) => known.textContent === '{label}'); \
             found?.click(); return Boolean(found)"
        )
    };
    browser.until("there is a label", &follow("owner=ada")).await?;
    browser.until("one search has it", &rows(1)).await?;
    browser.until_text(&["example-volumes"]).await?;
    let type_labels = |text: &str| {
        format!(
            "const input = document.querySelector('input[data-key^=\"text Labels\"]'); input.value = '{text}'; \
             input.dispatchEvent(new Event('input'))"
        )
    };
    let address = "return new URLSearchParams(location.search).get('label')";
    ensure!(browser.script(address).await? == "owner=ada");
    browser.script(&type_labels("owner=ada paper=other")).await?;
    browser.until_text(&["No search matches."]).await?;
    browser.script(&type_labels("owner")).await?;
    let refused = "return document.querySelector('input[aria-invalid=\"true\"]') !== null";
    browser.until("what is no label is marked", refused).await?;
    browser.script(&type_labels("")).await?;
    browser.until("all searches are there again", &rows(3)).await?;

    let select = format!("from job where search_id = '{}' and labels <> '{{}}'", made.finished);
    let (job, digest) = (
        cluster.sql(&format!("select id {select}"))?,
        cluster.sql(&format!("select architecture_digest {select}"))?,
    );
    browser.goto(&format!("{base}/architectures/{digest}")).await?;
    browser.until_text(&["fastest on the scanner's own machine"]).await?;
    browser.goto(&format!("{base}/jobs/{job}")).await?;
    browser.until_text(&["to be exported for the clinic", "keep="]).await?;
    browser.until("there is a label", &follow("keep=")).await?;
    browser.until("one job has it", &rows(1)).await?;
    let only = format!("return document.querySelector('.vrow a')?.pathname === '/jobs/{job}'");
    browser.until("it is that job", &only).await
}

/// As `cakes job checkpoints` and `cakes worker list` say it.
async fn checkpoints_and_suspects_say_why(
    browser: &Browser,
    base: &str,
    cluster: &Cluster,
    made: &Exhibit,
) -> Result<()> {
    let job = &made.running_job.token.job_id;
    let pinned = cluster.cakes(&["job", "pin", job, "--step", "500"]).await?;
    ensure!(pinned.code == Some(0), "{pinned:?}");
    cluster.sql(&format!(
        "insert into checkpoint (job_id, epoch, step, key, manifest_sha256, bytes, settled, condemn_time, condemn_reason)
         select job_id, epoch, 50, key || '-old', manifest_sha256, bytes, true, clock_timestamp(), 'not among the newest 3'
         from checkpoint where job_id = '{job}' and step = 500"
    ))?;
    browser.goto(&format!("{base}/jobs/{job}")).await?;
    browser.until_text(&["current, pinned", "1 was given up; cakes job checkpoints"]).await?;
    let rows = "return document.querySelectorAll('section[aria-label=Checkpoints] tbody tr').length";
    ensure!(browser.script(rows).await? == 1, "one that was given up is shown as kept");

    cluster.sql(
        "update worker set suspect_until = clock_timestamp() + interval '1 hour', suspect_count = 1,
             suspect_reason = 'its last 3 attempts ended by a full disk'
         where id = 'gpu-b'",
    )?;
    for width in [1280, 390] {
        browser.resize(width, 844).await?;
        browser.goto(&format!("{base}/workers")).await?;
        let told = ["suspect", "its last 3 attempts ended by a full disk", "cakes worker uncordon gpu-b"];
        browser.until_text(&told).await?;
        let overflow = "return Math.max(0, document.documentElement.scrollWidth - innerWidth)";
        ensure!(browser.script(overflow).await? == 0, "the workers do not fit {width} px");
    }
    browser.resize(1280, 844).await?;
    let freed = cluster.cakes(&["worker", "uncordon", "gpu-b"]).await?;
    ensure!(freed.code == Some(0), "{freed:?}");
    browser.goto(&format!("{base}/workers")).await?;
    browser.until_text(&["gpu-b"]).await?;
    ensure!(!browser.text().await?.contains("suspect"), "it is trusted again");
    Ok(())
}

/// What searches may ask for, as `cakes worker list` says it.
async fn labels_of_workers_are_shown(browser: &Browser, base: &str, cluster: &Cluster) -> Result<()> {
    let set = |labels: &str| format!("update worker set labels = '{labels}' where id = 'gpu-a'");
    cluster.sql(&set(r#"{"gpu": "h200", "site": "basel"}"#))?;
    for width in [1280, 390] {
        browser.resize(width, 844).await?;
        browser.goto(&format!("{base}/workers")).await?;
        browser.until_text(&["gpu-a", "gpu=h200, site=basel", "gpu-b"]).await?;
        let overflow = "return Math.max(0, document.documentElement.scrollWidth - innerWidth)";
        ensure!(browser.script(overflow).await? == 0, "labels of workers do not fit {width} px");
    }
    browser.resize(1280, 844).await?;
    cluster.sql(&set("{}")).map(drop)
}

/// Limits and what was taken of them, in whole seconds, as the coordinator knows them.
async fn times_on_devices_read_as_those_of_the_command(browser: &Browser) -> Result<()> {
    let limits_s = [1, 11, 359, 360, 361, 1800, 3600, 9036, 86_400, 1_234_567, 3_600_000_000_i64];
    let used_s = [0, 1, 13, 17, 18, 359, 360, 400, 1800, 9036, 86_399, 5_000_000];
    let pairs: Vec<(i64, i64)> =
        limits_s.iter().flat_map(|limit| used_s.map(|used| (used, *limit))).collect();
    let script = format!(
        "return import('/assets/lib/format.js').then(({{ deviceTime, deviceTimeOf, deviceTimeUsed }}) => \
         {}.map(([used, limit]) => [deviceTime(limit), deviceTimeUsed(used), deviceTimeOf(used, limit)]))",
        serde_json::to_string(&pairs)?
    );
    // The browser waits for what the script promises.
    let shown: Vec<[String; 3]> = serde_json::from_value(browser.script(&script).await?)?;
    ensure!(shown.len() == pairs.len(), "{shown:?}");
    for ((used_s, limit_s), shown) in pairs.into_iter().zip(shown) {
        let (used, limit) = (used_s as f64 / 3600.0, limit_s as f64 / 3600.0);
        let told = [device_hours(limit), device_hours_used(used), device_hours_of(used, limit)];
        ensure!(shown == told, "{used_s} s of {limit_s} s: the page says {shown:?}, the command {told:?}");
    }
    Ok(())
}

/// Where jobs may run, until when they are wanted and for how much, on a phone, too.
async fn placement_is_shown(browser: &Browser, base: &str, cluster: &Cluster, made: &Exhibit) -> Result<()> {
    let (search, job) = (&made.running, &made.running_job.token.job_id);
    browser.goto(&format!("{base}/searches/{search}")).await?;
    browser.until_text(&["No architecture is retrained yet"]).await?;
    browser.until("the page is drawn", SETTLED).await?;
    let plate = "return Boolean(document.querySelector('section[aria-label=Placement]'))";
    ensure!(browser.script(plate).await? == false, "a search that asks for nothing has facts of it");
    for (table, column) in [("search", "id"), ("job", "search_id")] {
        cluster.sql(&format!(
            r#"update {table} set worker_labels = '{{"gpu": "h200"}}', deadline = '2027-01-31T12:00:00Z',
                   cost_limit_device_s = 86400
               where {column} = '{search}'"#
        ))?;
    }
    let wishes = ["Workers labelled", "gpu=h200", "Wanted by", "2027-01-31"];
    for width in [1280, 390] {
        browser.resize(width, 844).await?;
        for (path, more) in [
            (format!("/searches/{search}"), ["Limit of each job", "24 device-hours", "Taken by all jobs"]),
            (format!("/jobs/{job}"), ["Taken of its limit", "of 24 device-hours", "Memory it needs"]),
        ] {
            browser.goto(&format!("{base}{path}")).await?;
            browser.until_text(&[&wishes[..], &more[..]].concat()).await?;
            let overflow = "return Math.max(0, document.documentElement.scrollWidth - innerWidth)";
            ensure!(browser.script(overflow).await? == 0, "{path} does not fit {width} px");
        }
    }
    browser.resize(1280, 844).await
}

async fn themes_follow_the_system_and_the_button(browser: &Browser, base: &str) -> Result<()> {
    let paper = "return getComputedStyle(document.body).backgroundColor";
    let mut seen = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await?;
        browser.goto(base).await?;
        seen.push(browser.script(paper).await?);
    }
    ensure!(seen[0] != seen[1], "the dark page is as light as the other: {seen:?}");
    browser.script("document.getElementById('theme').click()").await?;
    ensure!(browser.script(paper).await? == seen[0], "the button turns the dark page light");
    browser.goto(base).await?;
    ensure!(browser.script(paper).await? == seen[0], "the choice is kept");
    browser.script("localStorage.clear()").await?;
    browser.prefer("light").await
}

async fn news_appear_without_reloading(browser: &Browser, cluster: &Cluster, made: &Exhibit) -> Result<()> {
    let mut attempt = made.running_job.clone();
    let job: TrainerJob = serde_json::from_str(&attempt.trainer_job_json)?;
    browser.goto(&format!("{}/jobs/{}", cluster.page_url()?, attempt.token.job_id)).await?;
    browser.until_text(&["epoch 14: mean Dice"]).await?;
    browser.script("window.untouched = true").await?;
    // The lease is the attempt's, whoever reports for it.
    exhibit::report_epoch(&made.worker, &mut attempt, &job, 15).await?;
    browser.until_text(&["epoch 15: mean Dice", "750"]).await?;
    ensure!(browser.script("return window.untouched").await? == true, "the page was loaded anew");
    Ok(())
}

async fn a_coordinator_that_comes_back_is_found_again(
    browser: &Browser,
    cluster: &mut Cluster,
) -> Result<()> {
    browser.goto(&format!("{}/workers", cluster.page_url()?)).await?;
    browser.until_text(&["gpu-a"]).await?;
    browser.script("window.untouched = true").await?;
    cluster.kill_coordinator()?;
    let banner = "return !document.getElementById('banner').hidden";
    browser.until("the page says that the coordinator is away", banner).await?;
    ensure!(browser.text().await?.contains("gpu-a"), "what is known stays");
    cluster.start_coordinator()?;
    exhibit::worker(cluster, "gpu-c").await?;
    browser.until_text(&["gpu-c"]).await?;
    browser.until("the banner is gone", "return document.getElementById('banner').hidden").await?;
    ensure!(browser.script("return window.untouched").await? == true, "the page was loaded anew");
    Ok(())
}

#[test]
fn kernels_have_the_colours_of_the_plots() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let plots = fs::read_to_string(root.join("cli/src/plot/palette.rs")).unwrap();
    let page = fs::read_to_string(root.join("coordinator/src/web/assets/lib/architecture.js")).unwrap();
    let mut compared = 0;
    for line in plots.lines().filter(|line| line.contains("Kernel::K") && line.contains("RGBColor(")) {
        let size = line.split("Kernel::K").nth(1).unwrap();
        let kernel: Vec<String> = size.chars().take(3).map(|taps| taps.to_string()).collect();
        let colour = line.split("RGBColor(").nth(1).unwrap().split(')').next().unwrap();
        let colour: String = colour.split(", ").map(|part| part.trim_start_matches("0x")).collect();
        let entry = format!("[\"{}\", \"#{colour}\"]", kernel.join("x"));
        assert!(page.contains(&entry), "the page lacks {entry}");
        compared += 1;
    }
    assert_eq!(compared, 8);
}
