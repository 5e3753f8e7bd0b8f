//! The arguments of `cakes`: noun, then verb.

use std::path::PathBuf;

use cakes_tls::client::ClientFiles;
use clap::{Args, Parser, Subcommand};

use crate::commands::arch::ArchCommand;
use crate::commands::context::ContextCommand;
use crate::commands::dataset::DatasetCommand;
use crate::commands::job::JobCommand;
use crate::commands::project::ProjectCommand;
use crate::commands::search::SearchCommand;
use crate::commands::top::TopArguments;
use crate::commands::webhook::WebhookCommand;
use crate::commands::worker::WorkerCommand;
use crate::output::Format;

/// Search 3D networks whose channels each have the kernel that they need.
#[derive(Debug, Parser)]
#[command(name = "cakes", version, arg_required_else_help = true, subcommand_required = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 cancelled, 4 refused, 130 interrupted.\n\nExample:\n  cakes search submit search.json --wait"
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: GlobalArguments,
    #[command(subcommand)]
    pub noun: Noun,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct GlobalArguments {
    /// The coordinator [default: that of the context, else http://127.0.0.1:7550].
    #[arg(long, env = "CAKES_SERVER", global = true, value_name = "URL", help_heading = "Everywhere")]
    pub server: Option<String>,
    /// The coordinator of this name, see `cakes context`.
    #[arg(long, env = "CAKES_CONTEXT", global = true, value_name = "NAME", help_heading = "Everywhere")]
    pub context: Option<String>,
    /// A file with the token that says who calls; CAKES_TOKEN may hold the token itself.
    #[arg(long, env = "CAKES_TOKEN_FILE", global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub token_file: Option<PathBuf>,
    /// Authorities that sign coordinators' certificates, for https [default: those of the context, else this machine's].
    #[arg(long, env = "CAKES_CA_FILE", global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub ca_file: Option<PathBuf>,
    /// Your certificate, for https; read anew for each connection.
    #[arg(long, env = "CAKES_CERT_FILE", global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub cert_file: Option<PathBuf>,
    /// The key of your certificate.
    #[arg(long, env = "CAKES_KEY_FILE", global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub key_file: Option<PathBuf>,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value = "table", global = true, help_heading = "Everywhere")]
    pub output: Format,
    /// Show the grpcurl equivalent of every call on standard error.
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub verbose: bool,
    /// Print without colours; the variable NO_COLOR does the same.
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub no_color: bool,
}

impl GlobalArguments {
    /// Certificates that were named on the command line or in the environment.
    pub fn files(&self) -> ClientFiles {
        ClientFiles {
            ca: self.ca_file.clone(),
            certificate: self.cert_file.clone(),
            key: self.key_file.clone(),
        }
    }
}

/// What a command is about.
#[derive(Debug, Subcommand)]
pub enum Noun {
    /// Searches: from a description to a front of retrained networks.
    #[command(subcommand, arg_required_else_help = true)]
    Search(SearchCommand),
    /// Jobs: one training each.
    #[command(subcommand, arg_required_else_help = true)]
    Job(JobCommand),
    /// Architectures: which kernel computes how many channels of which layer.
    #[command(subcommand, arg_required_else_help = true)]
    Arch(ArchCommand),
    /// Workers: the machines that train.
    #[command(subcommand, arg_required_else_help = true)]
    Worker(WorkerCommand),
    /// Projects: who may use how much of the devices.
    #[command(subcommand, arg_required_else_help = true)]
    Project(ProjectCommand),
    /// Webhooks: addresses that are told when something has happened.
    #[command(subcommand, arg_required_else_help = true)]
    Webhook(WebhookCommand),
    /// Data sets on this machine.
    #[command(subcommand, arg_required_else_help = true)]
    Dataset(DatasetCommand),
    /// Coordinators by name, kept in ~/.config/cakes/settings.toml or CAKES_SETTINGS.
    #[command(subcommand, arg_required_else_help = true)]
    Context(ContextCommand),
    /// Show what runs, what waits and why, again and again; Ctrl-C ends it.
    #[command(after_help = "Examples:\n  cakes top\n  cakes top --once -o json")]
    Top(TopArguments),
    /// Write manual pages, one for each command.
    #[command(after_help = "Example:\n  cakes man --out man && man -l man/cakes-search-submit.1")]
    Man {
        /// Folder for the pages; made if it is missing.
        #[arg(long, value_name = "DIR", default_value = "man")]
        out: PathBuf,
    },
    /// Print a completion script.
    #[command(
        after_help = "Examples:\n  cakes completion bash > ~/.local/share/bash-completion/completions/cakes\n  cakes completion zsh"
    )]
    Completion {
        /// The shell that will read it.
        shell: clap_complete::Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        let verbs: Vec<&clap::Command> = command.get_subcommands().collect();
        if verbs.is_empty() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            found.push((path.to_owned(), help));
        }
        for verb in verbs {
            leaves(verb, &format!("{path} {}", verb.get_name()), found);
        }
    }

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_of_itself_that_parses() {
        let mut commands = Vec::new();
        leaves(&Arguments::command(), "cakes", &mut commands);
        assert!(commands.len() > 25, "{commands:?}");
        for (path, help) in commands {
            let examples: Vec<&str> =
                help.lines().map(str::trim).filter(|l| l.starts_with("cakes ")).collect();
            assert!(
                examples.iter().any(|example| example.starts_with(&path)),
                "{path}: no example in {help:?}"
            );
            for example in examples {
                let words = shlex::split(example).expect("quotes are closed");
                // What stands behind belongs to the shell and other programs.
                let own = words.iter().take_while(|word| ![">", "&&", "|"].contains(&word.as_str()));
                if let Err(error) = Arguments::try_parse_from(own) {
                    panic!("{path}: {example}: {error}");
                }
            }
        }
    }
}
