//! Examples that stand in the help of programs.

use std::process::Stdio;

use anyhow::{Result, ensure};

use crate::Cluster;

/// Lines of the help of a program and of all its commands that begin with its name, sorted.
///
/// # Errors
/// There is no help.
pub async fn of(cluster: &Cluster, program: &str) -> Result<Vec<String>> {
    let (mut found, mut open) = (Vec::new(), vec![Vec::<String>::new()]);
    let start = format!("{program} ");
    while let Some(path) = open.pop() {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let mut command = tokio::process::Command::from(cluster.command(program, &arguments)?);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        ensure!(output.status.success(), "{program} {arguments:?}: {output:?}");
        let help = String::from_utf8(output.stdout)?;
        let mut lines = help.lines();
        if lines.by_ref().any(|line| line.trim() == "Commands:") {
            let verbs = lines.map_while(|line| line.strip_prefix("  ")?.split_whitespace().next());
            for verb in verbs.filter(|verb| *verb != "help") {
                open.push(path.iter().cloned().chain([verb.to_owned()]).collect());
            }
        }
        found.extend(help.lines().map(str::trim).filter(|line| line.starts_with(&start)).map(str::to_owned));
    }
    found.sort();
    found.dedup();
    Ok(found)
}
