//! Acting on the web page, in a real browser: who may, what happens, and that the
//! command `cakes` agrees. Long lists, by keyboard.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cakes_tests::bench::fill;
use cakes_tests::bench::postgres::Database;
use cakes_tests::browser::{self, Browser};
use cakes_tests::exhibit;
use cakes_tests::{Cluster, Options, scenario};
use serde_json::Value;

/// Rows of the long list beside those of the exhibit.
const COPIES: u64 = 10_000;

#[test]
fn holders_of_a_token_act_and_others_do_not() {
    let installed = browser::is_installed();
    assert!(installed || std::env::var_os("CI").is_none(), "`cargo xtask setup --tests` installs Chromium");
    if !installed {
        eprintln!(
            "left out: Chromium and chromedriver are not installed; `cargo xtask setup --tests` installs them"
        );
        return;
    }
    let lease_ttl = Duration::from_secs(600);
    let options = Options { workers: &[], web: true, lease_ttl, ..Options::default() };
    scenario(options, async |cluster| {
        let made = exhibit::fill(cluster).await?;
        let browser = Browser::start().await?;
        let page = Page { browser: &browser, cluster, base: cluster.page_url()? };
        page.shows_no_buttons_to_nobody(&made).await?;
        page.refuses_what_is_no_token().await?;
        page.shows_a_viewer_no_buttons(&made).await?;
        page.cancels_a_job_as_the_command_sees(&made).await?;
        page.refuses_another_page(&made).await?;
        page.derives_and_retrains(&made).await?;
        page.fits_a_phone(&made).await?;
        let complaints = browser.complaints().await?;
        // A browser notes every refusal that was provoked here, also its own.
        let defects: Vec<_> = complaints
            .iter()
            .filter(|text| !text.contains("Failed to load resource") && !text.contains("about:blank"))
            .collect();
        ensure!(defects.is_empty(), "the console holds {defects:#?}");
        page.ends_a_session_with_its_token().await?;
        page.walks_a_long_list(&made).await?;
        browser.close().await
    });
}

struct Page<'a> {
    browser: &'a Browser,
    cluster: &'a Cluster,
    base: String,
}

/// A page's buttons are drawn together with its heading.
const SETTLED: &str = "return document.querySelectorAll('[aria-busy]').length === 0 && Boolean(document.querySelector('main h1'))";

impl Page<'_> {
    async fn goto(&self, path: &str) -> Result<()> {
        self.browser.goto(&format!("{}{path}", self.base)).await?;
        self.browser.until("the page is drawn", SETTLED).await
    }

    async fn expect_buttons(&self, expected: &[&str]) -> Result<()> {
        let script = format!(
            "return JSON.stringify([...document.querySelectorAll('.actions button')].map((button) => \
             button.textContent)) === {}",
            serde_json::to_string(&serde_json::to_string(expected)?)?
        );
        self.browser.until(&format!("the buttons are {expected:?}"), &script).await
    }

    async fn give(&self, token: &str) -> Result<()> {
        self.goto("/sign-in").await?;
        let token = serde_json::to_string(token)?;
        let script =
            format!("const input = document.getElementById('token'); input.value = {token}; input.focus()");
        self.browser.script(&script).await?;
        self.browser.press("Enter").await
    }

    async fn sign_in(&self, name: &str, role: &str) -> Result<()> {
        let token = self.cluster.token(name, role).await?;
        self.give(&token).await?;
        self.browser.until_text(&[&format!("Signed in as {name}"), "Sign out"]).await?;
        let stored = self.browser.script("return document.cookie + JSON.stringify(localStorage)").await?;
        ensure!(!stored.to_string().contains("cakes_"), "scripts can read {stored}");
        Ok(())
    }

    async fn sign_out(&self) -> Result<()> {
        self.press_button("Sign out").await?;
        self.browser.until_text(&["Sign in"]).await
    }

    async fn press_button(&self, text: &str) -> Result<()> {
        let script = format!(
            "const found = [...document.querySelectorAll('button')].filter((button) => button.textContent === '{text}' \
             && !button.disabled && button.checkVisibility()).pop(); found?.click(); return Boolean(found)"
        );
        self.browser.until(&format!("there is a button '{text}'"), &script).await
    }

    async fn shows_no_buttons_to_nobody(&self, made: &exhibit::Exhibit) -> Result<()> {
        for path in self.actionable(made) {
            self.goto(&path).await?;
            self.browser.until_text(&["Sign in"]).await?;
            self.expect_buttons(&[]).await?;
        }
        Ok(())
    }

    /// Pages of things in states in which something could be done with them.
    fn actionable(&self, made: &exhibit::Exhibit) -> [String; 3] {
        [
            format!("/jobs/{}", made.running_job.token.job_id),
            format!("/jobs/{}", made.failed_job),
            format!("/searches/{}", made.running),
        ]
    }

    async fn refuses_what_is_no_token(&self) -> Result<()> {
        self.give("cakes_nonsense").await?;
        self.browser.until_text(&["This is no token"]).await?;
        self.give(&format!("cakes_{}", "ab".repeat(32))).await?;
        self.browser.until_text(&["does not know this token"]).await?;
        let late = self.cluster.token("late", "operator").await?;
        self.cluster.sql(
            "update access_token set expire_time = clock_timestamp() - interval '1 day' where name = 'late'",
        )?;
        self.give(&late).await?;
        self.browser.until_text(&["The token 'late' has expired"]).await?;
        let invalid = "return document.activeElement.getAttribute('aria-invalid')";
        ensure!(self.browser.script(invalid).await? == "true", "the field has the focus again");
        let listed = self.cluster.administer(&["token", "list"]).await?;
        ensure!(listed.stdout.contains("late") && listed.stdout.contains("expired"), "{listed:?}");
        ensure!(!listed.stdout.contains("cakes_"), "{listed:?}");
        Ok(())
    }

    async fn shows_a_viewer_no_buttons(&self, made: &exhibit::Exhibit) -> Result<()> {
        self.sign_in("vera", "viewer").await?;
        for path in self.actionable(made) {
            self.goto(&path).await?;
            self.browser.until_text(&["vera"]).await?;
            self.expect_buttons(&[]).await?;
        }
        self.sign_out().await
    }

    async fn cancels_a_job_as_the_command_sees(&self, made: &exhibit::Exhibit) -> Result<()> {
        self.sign_in("olga", "operator").await?;
        let job = &made.running_job.token.job_id;
        self.goto(&format!("/jobs/{}", made.failed_job)).await?;
        self.expect_buttons(&["Retry"]).await?;
        self.goto(&format!("/searches/{}", made.running)).await?;
        self.expect_buttons(&["Cancel the search"]).await?;
        self.goto(&format!("/jobs/{job}")).await?;
        self.expect_buttons(&["Pause", "Cancel the job"]).await?;
        self.press_button("Pause").await?;
        self.browser.until_text(&["being paused"]).await?;
        self.press_button("Resume").await?;
        self.browser.until_text(&["The job goes on"]).await?;
        self.resumes_with_a_higher_limit(job).await?;
        // The question can be left, and leads back.
        self.press_button("Cancel the job").await?;
        self.browser
            .until("a dialog is open", "return Boolean(document.querySelector('dialog[open]'))")
            .await?;
        let inside = "return document.querySelector('dialog').contains(document.activeElement)";
        ensure!(self.browser.script(inside).await? == true, "the dialog has the focus");
        self.press_button("Go back").await?;
        self.browser.until("the dialog is gone", "return !document.querySelector('dialog')").await?;
        let focused = "return document.activeElement.textContent";
        ensure!(self.browser.script(focused).await? == "Cancel the job", "the focus leads back");
        let state = async || -> Result<String> {
            let shown = self.cluster.cakes(&["job", "get", job, "-o", "json"]).await?;
            let shown: Value = serde_json::from_str(&shown.stdout)?;
            Ok(shown
                .pointer("/state")
                .or(shown.pointer("/job/state"))
                .map(Value::to_string)
                .unwrap_or_default())
        };
        ensure!(state().await?.contains("RUNNING"), "{}", state().await?);
        self.press_button("Cancel the job").await?;
        self.browser
            .until("a dialog is open", "return Boolean(document.querySelector('dialog[open]'))")
            .await?;
        self.browser.script("document.querySelector('dialog input').value = 'wrong data'").await?;
        self.browser
            .until(
                "the answer is yes",
                "const sure = document.querySelector('dialog button.sure'); sure?.click(); return Boolean(sure)",
            )
            .await?;
        self.browser.until_text(&["The job is being cancelled"]).await?;
        let said = "return document.querySelector('[role=status] .result')?.textContent ?? ''";
        let said = self.browser.script(said).await?;
        ensure!(said.to_string().contains("being cancelled"), "a screen reader is told {said}");
        ensure!(state().await?.contains("CANCELLING"), "the command says {}", state().await?);
        self.expect_buttons(&[]).await?;
        let audit = self.cluster.administer(&["audit", "list", "--json"]).await?;
        let row =
            audit.stdout.lines().find(|line| line.contains("cancel_job")).context("no row of the record")?;
        ensure!(
            row.contains("olga") && row.contains(job.as_str()) && row.contains("\"answer\":\"ok\""),
            "{row}"
        );
        Ok(())
    }

    /// From its page, where it is running; as long as it has taken what it may, it does not go on.
    async fn resumes_with_a_higher_limit(&self, job: &str) -> Result<()> {
        self.press_button("Pause").await?;
        self.browser.until_text(&["being paused"]).await?;
        self.cluster.sql(&format!("update job set cost_limit_device_s = 1 where id = '{job}'"))?;
        self.goto(&format!("/jobs/{job}")).await?;
        self.browser.until_text(&["Taken of its limit", "of 1 device-seconds"]).await?;
        for (typed, said) in [
            ("", "resume it with a higher limit"),
            ("much", "the limit \"much\" is none"),
            ("0.0003", "resume it with a higher limit"),
            ("24", "The job goes on"),
        ] {
            self.press_button("Resume").await?;
            self.browser.until_text(&["It goes on with a higher limit only."]).await?;
            self.browser.script(&format!("document.querySelector('dialog input').value = '{typed}'")).await?;
            // That of the dialog.
            self.press_button("Resume").await?;
            self.browser.until_text(&[said]).await?;
        }
        self.browser.until_text(&["of 24 device-hours"]).await?;
        let limit = self.cluster.sql(&format!("select cost_limit_device_s from job where id = '{job}'"))?;
        ensure!(limit == "86400", "its limit is {limit} s");
        Ok(())
    }

    /// A page of nobody's, in the browser that is signed in. (Our own page under another
    /// name would not do: its policy lets it ask nobody else.)
    async fn refuses_another_page(&self, made: &exhibit::Exhibit) -> Result<()> {
        self.browser.goto("about:blank").await?;
        let target = format!("{}/api/v1/jobs/{}/retry", self.base, made.failed_job);
        for kind in ["application/json", "text/plain"] {
            let script = format!(
                "return fetch('{target}', {{ method: 'POST', mode: 'no-cors', credentials: 'include', body: '{{}}', \
                 headers: {{ 'content-type': '{kind}' }} }}).then(() => true, () => true)"
            );
            self.browser.script(&script).await?;
        }
        let state = self.cluster.sql(&format!("select state from job where id = '{}'", made.failed_job))?;
        ensure!(state == "failed", "a page of somebody else made it {state}");
        let done =
            self.cluster.sql("select count(*) from audit where action = 'retry_job' and answer = 'ok'")?;
        ensure!(done == "0", "{done} forged requests were obeyed");
        Ok(())
    }

    async fn derives_and_retrains(&self, made: &exhibit::Exhibit) -> Result<()> {
        self.goto(&format!("/searches/{}?view=derive", made.finished)).await?;
        self.browser.until_text(&["Derive more architectures"]).await?;
        let fill = |budgets: &str| {
            format!(
                "const input = document.querySelector('[name=budgets]'); input.value = '{budgets}'; input.focus()"
            )
        };
        self.browser.script(&fill("7")).await?;
        self.browser.press("Enter").await?;
        self.browser.until_text(&["Budgets: \"7\" is none"]).await?;
        self.browser.script(&fill("0.37")).await?;
        self.browser.press("Enter").await?;
        self.browser.until_text(&["What would be derived", "budget 0.37", "Queue 1 retraining"]).await?;
        let known = "select count(*) from search_architecture where origin = 'budget 0.37'";
        ensure!(self.cluster.sql(known)? == "0", "what is only looked at is recorded");
        self.press_button("Queue 1 retraining").await?;
        self.browser
            .until(
                "the answer is yes",
                "const sure = document.querySelector('dialog[open] button.primary'); sure?.click(); return Boolean(sure)",
            )
            .await?;
        self.browser.until_text(&["1 retraining is queued", "seed 0"]).await?;
        ensure!(self.cluster.sql(known)? == "1", "it is derived");
        Ok(())
    }

    async fn fits_a_phone(&self, made: &exhibit::Exhibit) -> Result<()> {
        self.browser.resize(390, 844).await?;
        let job = format!("/jobs/{}", made.failed_job);
        for path in
            [job, format!("/searches/{}?view=derive", made.finished), "/jobs".into(), "/events".into()]
        {
            self.goto(&path).await?;
            let wider = "return Math.max(0, document.documentElement.scrollWidth - innerWidth)";
            let wider = self.browser.script(wider).await?;
            ensure!(wider == 0, "{path} is {wider} px wider than a phone");
        }
        self.browser.resize(1280, 844).await
    }

    async fn ends_a_session_with_its_token(&self) -> Result<()> {
        self.goto("/jobs").await?;
        self.browser.until_text(&["olga"]).await?;
        let revoked = self.cluster.administer(&["token", "revoke", "olga"]).await?;
        ensure!(revoked.code == Some(0), "{revoked:?}");
        self.goto("/jobs").await?;
        self.browser.until_text(&["Sign in"]).await
    }

    async fn walks_a_long_list(&self, made: &exhibit::Exhibit) -> Result<()> {
        let database = Database::of(self.cluster)?;
        let template = self.cluster.sql(&format!(
            "select id from job where search_id = '{}' and kind = 'retrain' order by position limit 1",
            made.finished
        ))?;
        fill::copies(&database, &template, 1000, COPIES).await?;
        let count: u64 = self.cluster.sql("select count(*) from job")?.parse()?;
        ensure!(count >= COPIES, "only {count} jobs");
        let oldest = self.cluster.sql("select id from job order by position limit 1")?;
        self.goto("/jobs").await?;
        self.browser
            .until("the list is drawn", "return document.querySelectorAll('.vspace .vrow').length > 5")
            .await?;
        let rows = format!(
            "return Number(document.querySelector('[role=grid]').getAttribute('aria-rowcount')) === {}",
            count + 1
        );
        self.browser.until("the list says how long it is", &rows).await?;
        self.browser.script("document.querySelector('[role=grid]').focus()").await?;
        self.browser.press("ArrowDown").await?;
        let active = "const grid = document.querySelector('[role=grid]'); \
            return document.getElementById(grid.getAttribute('aria-activedescendant'))?.getAttribute('aria-rowindex')";
        ensure!(self.browser.script(active).await? == "3", "an arrow leads to the second row");
        self.browser.requests().await?;
        self.browser.press("End").await?;
        let last = format!(
            "const grid = document.querySelector('[role=grid]'); \
             const row = document.getElementById(grid.getAttribute('aria-activedescendant')); \
             return row?.getAttribute('aria-rowindex') === '{}' && row.querySelector('a')?.pathname === '/jobs/{oldest}'",
            count + 1
        );
        self.browser.until("the last row is active", &last).await?;
        let asked = self.browser.requests().await?;
        let pages = asked.iter().filter(|address| address.contains("/api/v1/jobs?")).count();
        // Those that are seen there, maybe once more for what happened meanwhile.
        ensure!((1..8).contains(&pages), "the end is {pages} pages away");
        let drawn = self.browser.script("return document.querySelectorAll('.vspace .vrow').length").await?;
        ensure!(drawn.as_u64().is_some_and(|drawn| drawn < 80), "{drawn} rows are drawn");
        self.browser.press("Enter").await?;
        self.browser.until("the job is open", &format!("return location.pathname === '/jobs/{oldest}'")).await
    }
}
