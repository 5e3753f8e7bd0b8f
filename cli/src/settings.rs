//! The settings file: coordinators by name, so that nobody types addresses.
//!
//! ```toml
//! context = "lab"            # the one that is used
//!
//! [contexts.lab]
//! server = "https://gpu-01:7550"
//! token_file = "/home/anna/.config/cakes/lab.token"
//! ca_file = "/home/anna/cakes/ca.pem"       # for https
//! cert_file = "/home/anna/cakes/cert.pem"
//! key_file = "/home/anna/cakes/key.pem"
//! ```
//!
//! `--server` and `CAKES_SERVER` win over `--context` and `CAKES_CONTEXT`, those over
//! the context that the file names, and without any of them the coordinator is the one
//! of this machine.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use cakes_tls::client::ClientFiles;
use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};

use crate::error::CommandError;

/// Where a coordinator listens unless it is told otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:7550";

/// Its port there.
pub const DEFAULT_PORT: u16 = 7550;

/// Variable that names another file.
const FILE_VARIABLE: &str = "CAKES_SETTINGS";

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The context that is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contexts: BTreeMap<String, Context>,
}

/// One coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `http://HOST:PORT` or `https://HOST:PORT`
    pub server: String,
    /// Holds the token that says who calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

impl Context {
    /// A coordinator that is told nothing about its caller.
    pub fn of(server: impl Into<String>) -> Self {
        let server = server.into();
        Context { server, token_file: None, ca_file: None, cert_file: None, key_file: None }
    }

    /// The certificates for it; each that is `given` elsewhere wins.
    pub fn files(&self, given: ClientFiles) -> ClientFiles {
        ClientFiles {
            ca: given.ca.or_else(|| self.ca_file.clone()),
            certificate: given.certificate.or_else(|| self.cert_file.clone()),
            key: given.key.or_else(|| self.key_file.clone()),
        }
    }
}

/// What a command line and its environment say about the coordinator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    pub server: Option<&'a str>,
    pub context: Option<&'a str>,
}

impl Settings {
    /// Reads the file; one that is not there holds nothing.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn load(path: &Path) -> Result<Self, CommandError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Settings::default()),
            Err(error) => return Err(CommandError::file(path, error)),
        };
        toml::from_str(&text).map_err(|error| {
            let lines = error.to_string();
            CommandError::Invalid(lines.lines().map(|line| format!("{}: {line}", path.display())).collect())
        })
    }

    /// Writes the file as a whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CommandError> {
        let text = toml::to_string(self)
            .map_err(|error| CommandError::Failed(format!("cannot write TOML: {error}")))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(|error| CommandError::file(path, error))
    }

    /// The coordinator, and what it is told. One that is given by its address gets nothing of
    /// what a context holds: a token goes nowhere but where it belongs.
    ///
    /// # Errors
    /// The context that is wanted is not there.
    pub fn coordinator(&self, wanted: Wanted<'_>) -> Result<Context, CommandError> {
        if let Some(server) = wanted.server {
            return Ok(Context::of(server));
        }
        match wanted.context.or(self.context.as_deref()) {
            None => Ok(Context::of(DEFAULT_SERVER)),
            Some(name) => Ok(self.find(name)?.clone()),
        }
    }

    /// The context of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<&Context, CommandError> {
        self.contexts.get(name).ok_or_else(|| {
            let known = self.contexts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none yet".to_owned() } else { known };
            CommandError::invalid(format!(
                "there is no context '{name}' ({known}); add it with `cakes context set {name} http://HOST:PORT`"
            ))
        })
    }
}

/// The file of this user.
///
/// # Errors
/// The user has no home.
pub fn path() -> Result<PathBuf, CommandError> {
    if let Some(path) = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let folders = etcetera::choose_base_strategy()
        .map_err(|_| CommandError::Failed(format!("this user has no home; set {FILE_VARIABLE} to a file")))?;
    Ok(folders.config_dir().join("cakes").join("settings.toml"))
}

/// The coordinator of a command; the file is only read when it decides.
///
/// # Errors
/// As [`Settings::load`] and [`Settings::coordinator`].
pub fn coordinator(wanted: Wanted<'_>) -> Result<Context, CommandError> {
    let settings = match (wanted.server, path()) {
        (Some(_), _) => Settings::default(),
        (None, Ok(path)) => Settings::load(&path)?,
        // Who has no home has no file either, and needs none unless a context is wanted.
        (None, Err(error)) if wanted.context.is_some() => return Err(error),
        (None, Err(_)) => Settings::default(),
    };
    settings.coordinator(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        toml::from_str(
            "context = 'lab'\n[contexts.lab]\nserver = 'https://lab:1'\ntoken_file = '/lab.token'\n\
             ca_file = '/lab/ca'\ncert_file = '/lab/cert'\nkey_file = '/lab/key'\n\
             [contexts.home]\nserver = 'http://home:2'\n",
        )
        .unwrap()
    }

    #[test]
    fn the_command_line_wins_over_the_context_and_that_over_the_file() {
        let of = |server, context| settings().coordinator(Wanted { server, context }).unwrap().server;
        assert_eq!(of(Some("http://x:9"), Some("home")), "http://x:9");
        assert_eq!(of(None, Some("home")), "http://home:2");
        assert_eq!(of(None, None), "https://lab:1");
        assert_eq!(Settings::default().coordinator(Wanted::default()).unwrap(), Context::of(DEFAULT_SERVER));
    }

    #[test]
    fn a_token_goes_to_the_coordinator_of_its_context_alone() {
        let of = |server, context| settings().coordinator(Wanted { server, context }).unwrap().token_file;
        assert_eq!(of(None, None).as_deref(), Some(Path::new("/lab.token")));
        assert_eq!(of(None, Some("home")), None);
        assert_eq!(of(Some("https://lab:1"), None), None);
    }

    #[test]
    fn certificates_of_a_context_are_for_its_own_server() {
        let of = |server, ca: Option<&str>| {
            let given = ClientFiles { ca: ca.map(PathBuf::from), ..ClientFiles::default() };
            settings().coordinator(Wanted { server, context: None }).unwrap().files(given)
        };
        let lab = of(None, None);
        assert_eq!((lab.ca, lab.certificate), (Some("/lab/ca".into()), Some("/lab/cert".into())));
        assert_eq!(of(None, Some("/x")).ca, Some("/x".into()));
        assert_eq!(of(Some("https://x:9"), None), ClientFiles::default());
    }

    #[test]
    fn a_context_that_is_not_there_is_an_error_that_lists_those_that_are() {
        let error = settings().coordinator(Wanted { server: None, context: Some("lib") }).unwrap_err();
        assert!(error.to_string().contains("'lib' (home, lab)"), "{error}");
    }

    #[test]
    fn a_file_comes_back_as_it_was_written_and_nonsense_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/config.toml");
        assert_eq!(Settings::load(&path).unwrap(), Settings::default());
        settings().save(&path).unwrap();
        assert_eq!(Settings::load(&path).unwrap(), settings());
        std::fs::write(&path, "contxt = 'lab'\n").unwrap();
        let error = Settings::load(&path).unwrap_err().to_string();
        assert!(error.contains("config.toml") && error.contains("contxt"), "{error}");
    }
}
