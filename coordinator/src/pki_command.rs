//! `cakes-coordinator pki …`: the private authority.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::access_command::{note, say, table};
use crate::command::{IssueCommand, PkiCommand};
use crate::config::Config;
use crate::core::spiffe::Holder;
use crate::pki::{Found, Pki, PkiError, read};

/// Does what the command says.
///
/// # Errors
/// There is no authority, or what is asked for is refused.
pub fn run(config: &Config, command: PkiCommand) -> Result<(), PkiError> {
    let folder = |given: Option<PathBuf>| given.unwrap_or_else(|| config.pki_dir.clone());
    match command {
        PkiCommand::Init { dir, host, name, valid } => {
            let folder = folder(dir);
            let domain = config.trust_domain.clone();
            let pki = Pki::init(&folder, domain, name, &host, valid)?;
            let host = host.first().map_or_else(|| "HOST".to_owned(), ToString::to_string);
            note(&format!(
                "{} holds an authority. Serve with `cakes-coordinator --pki-dir {} --listen 0.0.0.0:7550`, reached as \
                 https://{host}:7550; `cakes-coordinator pki issue worker NAME --dir {}` lets a worker in.",
                folder.display(),
                shown(pki.folder()),
                shown(pki.folder()),
            ));
        }
        PkiCommand::Issue { dir, command } => issue(&Pki::open(&folder(dir))?, command)?,
        PkiCommand::Renew { dir, folders } => {
            let pki = Pki::open(&folder(dir))?;
            let folders = if folders.is_empty() { vec![pki.folder().to_owned()] } else { folders };
            for folder in folders {
                let Found { path, facts } = pki.renew(&folder)?;
                note(&format!("{} holds until {}.", path.display(), time(facts.not_after)));
            }
        }
        PkiCommand::List { dir } => {
            let found = Pki::open(&folder(dir))?.list()?;
            say(&table(&found.iter().map(line).collect::<Vec<_>>()));
        }
        PkiCommand::Show { file } => say(&show(&read(&file)?)),
    }
    Ok(())
}

fn issue(pki: &Pki, command: IssueCommand) -> Result<(), PkiError> {
    let (next, valid) = match command {
        IssueCommand::User { name, role, valid } => {
            let folder = pki.issue(&Holder::User { role, name: name.clone() }, &[], valid)?;
            let (shown, flags) = (folder.display(), client_flags(&folder));
            let next = format!(
                "Hand {shown} to {name}, who types `cakes context set NAME https://HOST:7550 {flags}`."
            );
            (next, valid)
        }
        IssueCommand::Worker { name, valid } => {
            let folder = pki.issue(&Holder::Worker { name: name.clone() }, &[], valid)?;
            let (shown, flags) = (folder.display(), client_flags(&folder));
            let next = format!(
                "Copy {shown} to the worker and start `cakes-worker --id {name} --server https://HOST:7550 {flags}`."
            );
            (next, valid)
        }
        IssueCommand::Coordinator { name, host, valid } => {
            let folder = pki.issue(&Holder::Coordinator { name }, &host, valid)?;
            let next = format!(
                "Copy {} to the coordinator and start `cakes-coordinator --pki-dir {}`.",
                folder.display(),
                shown(&folder),
            );
            (next, valid)
        }
    };
    note(&format!("{next} It holds until {}.", time(SystemTime::now() + valid)));
    Ok(())
}

fn client_flags(folder: &Path) -> String {
    let file = |name: &str| shown(&folder.join(name));
    format!("--ca-file {} --cert-file {} --key-file {}", file("ca.pem"), file("cert.pem"), file("key.pem"))
}

/// As a shell takes it.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// How the certificate stands to now.
fn standing(found: &Found, now: SystemTime) -> String {
    let whole = |duration: Duration| match duration.as_secs() {
        seconds if seconds >= 2 * 86_400 => format!("{} days", seconds / 86_400),
        seconds if seconds >= 2 * 3600 => format!("{} hours", seconds / 3600),
        seconds => format!("{} minutes", seconds / 60),
    };
    match (found.facts.not_before.duration_since(now), found.facts.not_after.duration_since(now)) {
        (Ok(wait), _) if !wait.is_zero() => format!("valid in {}", whole(wait)),
        (_, Ok(left)) => format!("{} left", whole(left)),
        (_, Err(over)) => format!("expired {} ago", whole(over.duration())),
    }
}

fn identity(found: &Found) -> String {
    match &found.facts.uris[..] {
        [uri] => uri.clone(),
        [] => format!("nobody ({})", found.facts.subject),
        uris => format!("nobody: {} URI names ({})", uris.len(), uris.join(", ")),
    }
}

fn line(found: &Found) -> Vec<String> {
    let facts = &found.facts;
    vec![
        identity(found),
        if facts.is_authority { "an authority".to_owned() } else { format!("by {}", facts.issuer) },
        format!("until {}", time(facts.not_after)),
        standing(found, SystemTime::now()),
        found.path.display().to_string(),
    ]
}

fn show(found: &Found) -> String {
    let facts = &found.facts;
    let mut rows = vec![
        ("identity", identity(found)),
        ("authority", if facts.is_authority { "it is one itself".to_owned() } else { facts.issuer.clone() }),
        (
            "valid",
            format!(
                "{} to {} ({})",
                time(facts.not_before),
                time(facts.not_after),
                standing(found, SystemTime::now())
            ),
        ),
    ];
    if !facts.hosts.is_empty() {
        rows.push(("hosts", facts.hosts.join(", ")));
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table(&rows)
}
