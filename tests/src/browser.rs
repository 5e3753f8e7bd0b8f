//! A real Chromium without a window, driven over WebDriver.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tonic::codegen::http::Method;
use url::{ParseError, Url};

use crate::leftovers::{self, MARK};
use crate::until;

/// Longest wait for anything that a page should show.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether Chromium and its driver are installed.
pub fn is_installed() -> bool {
    let answers = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    answers("chromedriver") && answers("chromium")
}

/// A browser; it ends with this value.
pub struct Browser {
    client: Client,
    // Ended behind the client's last word, before the folder is removed.
    _driver: Driver,
}

/// The driver, with all that it started.
struct Driver {
    process: Child,
    mark: String,
    profile: tempfile::TempDir,
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // A driver that is killed leaves its browser behind.
        leftovers::kill_all(&leftovers::processes(&self.mark, self.profile.path()));
    }
}

/// A command of the browser's own protocol.
#[derive(Debug)]
struct Own {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Own {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

impl Browser {
    /// Starts a driver and a browser.
    ///
    /// # Errors
    /// They are not installed, or do not start.
    pub async fn start() -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let log = File::create(profile.path().join("driver.log"))?;
        let mark = uuid::Uuid::new_v4().to_string();
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env(MARK, &mark);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let process =
            command.spawn().context("start chromedriver; `cargo xtask setup --tests` installs it")?;
        let mut driver = Driver { process, mark, profile };
        let said = driver.process.stdout.take().context("chromedriver says nothing")?;
        let port = tokio::task::spawn_blocking(move || port(BufReader::new(said))).await??;
        let arguments = [
            "--headless=new".to_owned(),
            // As root, and with the small /dev/shm of a container.
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--no-first-run".to_owned(),
            "--force-device-scale-factor=1".to_owned(),
            format!("--user-data-dir={}", driver.profile.path().join("profile").display()),
        ];
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { bail!("capabilities are an object") };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities);
        let address = format!("http://127.0.0.1:{port}");
        let client = builder.connect(&address).await.context("the browser does not start")?;
        Ok(Browser { client, _driver: driver })
    }

    /// Ends the browser well.
    ///
    /// # Errors
    /// It does not.
    pub async fn close(self) -> Result<()> {
        Ok(self.client.clone().close().await?)
    }

    async fn own(&self, path: &'static str, body: Value) -> Result<Value> {
        Ok(self.client.issue_cmd(Own { path, body }).await?)
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Result<Value> {
        self.own("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// Shows pages as on a screen of this width.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await.map(drop)
    }

    /// Shows pages as a system in the dark or in the light does.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn prefer(&self, scheme: &str) -> Result<()> {
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", media).await.map(drop)
    }

    /// # Errors
    /// The page does not load.
    pub async fn goto(&self, url: &str) -> Result<()> {
        Ok(self.client.goto(url).await?)
    }

    /// What a script returns.
    ///
    /// # Errors
    /// It throws.
    pub async fn script(&self, script: &str) -> Result<Value> {
        Ok(self.client.execute(script, Vec::new()).await?)
    }

    /// The text of the page, as people see it.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn text(&self) -> Result<String> {
        let text = self.script("return document.body.innerText").await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a script gives true.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn until(&self, what: &str, script: &str) -> Result<()> {
        let found = until(what, PATIENCE, async || {
            Ok((self.script(script).await? == Value::Bool(true)).then_some(()))
        });
        match found.await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(format!("the page shows:\n{}", self.text().await?))),
        }
    }

    /// Waits until the page shows all of these texts.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn until_text(&self, texts: &[&str]) -> Result<()> {
        let texts = serde_json::to_string(texts)?;
        let script = format!("return {texts}.every((text) => document.body.innerText.includes(text))");
        self.until(&format!("the page shows {texts}"), &script).await
    }

    /// Presses keys by their names: "Tab", "ArrowRight", "Enter".
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn press(&self, key: &str) -> Result<()> {
        let text = if key == "Enter" { "\r" } else { "" };
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "ArrowLeft" => 37,
            "ArrowRight" => 39,
            _ => 0,
        };
        for kind in ["keyDown", "keyUp"] {
            let event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.devtools("Input.dispatchKeyEvent", event).await?;
        }
        Ok(())
    }

    /// Errors and warnings that pages have written to the console since the last call.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let entries = self.own("se/log", json!({ "type": "browser" })).await?;
        let entries = entries.as_array().cloned().unwrap_or_default();
        let serious =
            entries.iter().filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        Ok(serious.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Addresses that pages have asked for since the last call.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn requests(&self) -> Result<Vec<String>> {
        let entries = self.own("se/log", json!({ "type": "performance" })).await?;
        let mut addresses = Vec::new();
        for entry in entries.as_array().into_iter().flatten() {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap_or_default())?;
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                addresses.extend(message["params"]["request"]["url"].as_str().map(str::to_owned));
            }
        }
        Ok(addresses)
    }

    /// The whole page as a PNG.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn picture(&self) -> Result<Vec<u8>> {
        Ok(self.client.screenshot().await?)
    }
}

/// The port that chromedriver says it listens on.
fn port(said: impl BufRead) -> Result<u16> {
    for line in said.lines() {
        let line = line?;
        if let Some((_, port)) = line.split_once("started successfully on port ") {
            return port.trim_end_matches('.').parse().context("chromedriver says no port");
        }
    }
    bail!("chromedriver ended without a port")
}
