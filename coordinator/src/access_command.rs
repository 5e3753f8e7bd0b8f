//! `cakes-coordinator token …` and `cakes-coordinator audit …`: beside a coordinator that
//! runs, or one that has run and is stopped.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use crate::app::AppError;
use crate::command::{AuditCommand, Command, TokenCommand};
use crate::config::Config;
use crate::database::OpenDatabase;
use crate::store::access::{AuditRecord, TokenRecord, issue, list, page, revoke};
use crate::store::{self, Error, PgPool, PoolSizes};

/// Rows of the record that are read at a time.
const ROWS_MAX: i64 = 1000;

/// Does what the command says.
///
/// # Errors
/// There is no database, it cannot be reached, or the command is refused.
pub async fn run(config: Config, command: Command) -> Result<(), AppError> {
    let database = config.database.clone();
    let database = tokio::task::spawn_blocking(move || OpenDatabase::open_or_join(&database)).await??;
    let done = async {
        let pools = store::connect(&database.url, PoolSizes { control: 2, renewals: 1 }).await?;
        let done = obey(&pools.control, command).await;
        pools.close().await;
        done
    };
    let done = done.await;
    tokio::task::spawn_blocking(move || database.close()).await?;
    Ok(done?)
}

async fn obey(pool: &PgPool, command: Command) -> Result<(), Error> {
    match command {
        Command::Token(TokenCommand::Issue { name, role, expires }) => {
            let token = issue(pool, &name, role, expires).await?;
            say(&token);
            note(&format!("This is the token of '{name}', whose role is {role}. It is not shown again."));
        }
        Command::Token(TokenCommand::List) => {
            let tokens = list(pool).await?;
            if tokens.is_empty() {
                note("There are no tokens. `cakes-coordinator token issue NAME --role operator` makes one.");
            } else {
                say(&table(&tokens.iter().map(token_line).collect::<Vec<_>>()));
            }
        }
        Command::Token(TokenCommand::Revoke { name }) => {
            revoke(pool, &name).await?;
            note(&format!("The token of '{name}' holds no more, and its browsers are signed out."));
        }
        Command::Audit(AuditCommand::List { limit, json }) => audit(pool, limit, json).await?,
        // Needs no database: `pki_command`.
        Command::Pki(_) => {}
        // Needs no database.
        Command::Simulate(_) => {}
    }
    Ok(())
}

async fn audit(pool: &PgPool, limit: i64, as_json: bool) -> Result<(), Error> {
    let (mut left, mut behind) = (limit, None);
    while left > 0 {
        let rows = page(pool, behind, left.min(ROWS_MAX)).await?;
        if behind.is_none() && rows.is_empty() && !as_json {
            note("Nothing has been done yet.");
        }
        let Some(last) = rows.last() else { break };
        behind = Some(last.id);
        left -= i64::try_from(rows.len()).unwrap_or(left);
        match as_json {
            true => rows.iter().for_each(|row| say(&audit_json(row))),
            false => say(&table(&rows.iter().map(audit_line).collect::<Vec<_>>())),
        }
    }
    Ok(())
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn token_line(token: &TokenRecord) -> Vec<String> {
    let state = match (token.revoke_time, token.expire_time) {
        (Some(revoked), _) => format!("revoked {}", time(revoked)),
        (None, Some(expires)) if token.is_expired => format!("expired {}", time(expires)),
        (None, Some(expires)) => format!("until {}", time(expires)),
        (None, None) => "until revoked".to_owned(),
    };
    let used = token.use_time.map_or_else(|| "never used".to_owned(), |used| format!("used {}", time(used)));
    vec![token.name.clone(), token.role.clone(), format!("issued {}", time(token.create_time)), state, used]
}

fn audit_line(row: &AuditRecord) -> Vec<String> {
    let who = match (&row.token_name, &row.role) {
        (Some(name), Some(role)) => format!("{name} ({role})"),
        (None, Some(role)) => role.clone(),
        _ => "nobody known".to_owned(),
    };
    let answer =
        if row.detail.is_empty() { row.answer.clone() } else { format!("{}: {}", row.answer, row.detail) };
    vec![
        time(row.time),
        who,
        row.via.clone(),
        row.peer.clone(),
        row.action.clone(),
        row.object.clone(),
        answer,
    ]
}

fn audit_json(row: &AuditRecord) -> String {
    let AuditRecord { id, time, token_name, role, via, peer, action, object, answer, detail } = row;
    json!({
        "id": id, "time": time, "token_name": token_name, "role": role, "via": via, "peer": peer,
        "action": action, "object": object, "answer": answer, "detail": detail,
    })
    .to_string()
}

/// Columns as wide as their widest cell.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Nobody may read it; that is no reason to fail.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// What is no output of the command.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "bb", "c"], ["aaa", "b", ""]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec()).to_vec();
        assert_eq!(table(&rows), "a    bb  c\naaa  b");
    }
}
