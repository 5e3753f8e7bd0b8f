//! `cakes context`: coordinators by name.

use std::path::{Path, PathBuf};

use cakes_proto::bearer::Bearer;
use clap::Subcommand;
use serde_json::json;

use crate::args::GlobalArguments;
use crate::client;
use crate::error::{CommandError, Outcome};
use crate::output::Align::Left;
use crate::output::{self, Rows};
use crate::settings::{self, Context, DEFAULT_SERVER, Settings};

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List the coordinators that have a name; * marks the one that is used.
    #[command(after_help = "Example:\n  cakes context list")]
    List,
    /// Name a coordinator, or give a name another one; the first is used from now on.
    ///
    /// With --token-file, its calls bring the token of that file; with --ca-file, --cert-file
    /// and --key-file it is called with these certificates.
    #[command(
        after_help = "Examples:\n  cakes context set here http://127.0.0.1:7550\n  cakes context set lab https://gpu-01:7550 --ca-file ca.pem --cert-file cert.pem --key-file key.pem"
    )]
    Set {
        /// Letters, digits, - and _.
        name: String,
        /// The coordinator. A host alone, without scheme and port, is called at port 7550.
        #[arg(value_name = "URL")]
        address: String,
    },
    /// Use a coordinator from now on.
    ///
    /// A single command goes elsewhere with --context or --server.
    #[command(after_help = "Example:\n  cakes context use lab")]
    Use {
        /// Name of the context.
        name: String,
    },
    /// Forget a coordinator's name.
    #[command(after_help = "Example:\n  cakes context remove lab")]
    Remove {
        /// Name of the context.
        name: String,
    },
}

/// # Errors
/// The settings file cannot be read or written, or has no such context.
pub fn run(global: &GlobalArguments, command: ContextCommand) -> Result<Outcome, CommandError> {
    let path = settings::path()?;
    let mut settings = Settings::load(&path)?;
    match command {
        ContextCommand::List => {
            let list: Vec<_> = settings
                .contexts
                .iter()
                .map(|(name, context)| {
                    json!({
                        "name": name, "server": context.server, "used": is_used(&settings, name),
                        "token_file": context.token_file, "ca_file": context.ca_file,
                        "cert_file": context.cert_file, "key_file": context.key_file,
                    })
                })
                .collect();
            output::print(global.output, &json!({ "contexts": list }), |_| table(&settings))?;
            return Ok(Outcome::Done);
        }
        ContextCommand::Set { name, address } => {
            check_name(&name)?;
            let files = global.files();
            let server = client::with_scheme(&address, &files)?;
            files.check([server.as_str()]).map_err(CommandError::invalid)?;
            let token_file =
                global.token_file.as_deref().map(|file| token_file(file, &server)).transpose()?;
            output::note(&format!("{name} is {server}"));
            let context = Context {
                server,
                token_file,
                ca_file: absolute(files.ca)?,
                cert_file: absolute(files.certificate)?,
                key_file: absolute(files.key)?,
            };
            settings.contexts.insert(name.clone(), context);
            if settings.context.is_none() {
                settings.context = Some(name);
            }
        }
        ContextCommand::Use { name } => {
            let server = &settings.find(&name)?.server;
            output::note(&format!("commands go to {name}, {server}"));
            settings.context = Some(name);
        }
        ContextCommand::Remove { name } => {
            settings.find(&name)?;
            settings.contexts.remove(&name);
            if is_used(&settings, &name) {
                settings.context = None;
                output::note(&format!("{name} was the one that is used; commands go to {DEFAULT_SERVER}"));
            }
        }
    }
    settings.save(&path)?;
    Ok(Outcome::Done)
}

/// Commands are typed in other folders than this one.
fn absolute(file: Option<PathBuf>) -> Result<Option<PathBuf>, CommandError> {
    let absolute =
        |file: PathBuf| std::path::absolute(&file).map_err(|error| CommandError::file(&file, error));
    file.map(absolute).transpose()
}

fn is_used(settings: &Settings, name: &str) -> bool {
    settings.context.as_deref() == Some(name)
}

type FileOf = fn(&Context) -> Option<&Path>;

/// Files that a context may name, by their headings.
const FILES: [(&str, FileOf); 4] = [
    ("TOKEN FILE", |context| context.token_file.as_deref()),
    ("CA FILE", |context| context.ca_file.as_deref()),
    ("CERT FILE", |context| context.cert_file.as_deref()),
    ("KEY FILE", |context| context.key_file.as_deref()),
];

fn table(settings: &Settings) -> String {
    if settings.contexts.is_empty() {
        return format!(
            "no contexts, so commands go to {DEFAULT_SERVER}; add one with `cakes context set NAME URL`"
        );
    }
    // Most contexts name none.
    let mut files = FILES.to_vec();
    files.retain(|(_, file)| settings.contexts.values().any(|context| file(context).is_some()));
    let mut headings = vec![("USED", Left), ("NAME", Left), ("SERVER", Left)];
    headings.extend(files.iter().map(|(heading, _)| (*heading, Left)));
    let mut rows = Rows::new(headings);
    for (name, context) in &settings.contexts {
        let mark = if is_used(settings, name) { "*" } else { "" };
        let mut row = vec![mark.to_owned(), name.clone(), context.server.clone()];
        row.extend(files.iter().map(|(_, file)| {
            file(context).map_or_else(|| "-".to_owned(), |file| file.display().to_string())
        }));
        rows.push(row);
    }
    rows.render(output::terminal_width())
}

/// The file by a name that holds everywhere, once it is sure that it can be used.
fn token_file(file: &Path, server: &str) -> Result<PathBuf, CommandError> {
    Bearer::from_file(file)?.check_way(server)?;
    std::path::absolute(file).map_err(|error| CommandError::file(file, error))
}

fn check_name(name: &str) -> Result<(), CommandError> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > 63 || !name.chars().all(is_good) {
        return Err(CommandError::invalid(format!(
            "'{name}': a context's name has 1 to 63 letters, digits, - and _"
        )));
    }
    Ok(())
}
