//! The queries that people are shown: those of `docs/sql.md` and of the Grafana
//! dashboards, as they stand in the files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

/// A query, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// File that it stands in.
    pub file: String,
    /// Heading, or title of the panel.
    pub name: String,
    pub text: String,
}

/// Blocks marked as `sql` on a page, each under the last heading before it.
///
/// # Errors
/// The page cannot be read, or a block has no end.
pub fn documented(page: &Path) -> Result<Vec<Query>> {
    let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let (mut heading, mut block, mut queries) = (String::new(), None::<String>, Vec::new());
    for line in text.lines() {
        match (&mut block, line.trim_end()) {
            (Some(text), "```") => {
                queries.push(Query {
                    file: file_name(page),
                    name: heading.clone(),
                    text: std::mem::take(text),
                });
                block = None;
            }
            (Some(text), line) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, "```sql") => block = Some(String::new()),
            (None, line) if line.starts_with('#') => {
                line.trim_start_matches('#').trim().clone_into(&mut heading);
            }
            (None, _) => {}
        }
    }
    ensure!(block.is_none(), "{}: the last block has no end", page.display());
    Ok(queries)
}

/// A dashboard, as far as it holds queries.
#[derive(Debug, Deserialize)]
struct Dashboard {
    title: String,
    uid: String,
    panels: Vec<Panel>,
    time: TimeRange,
    #[serde(default)]
    templating: Templating,
}

/// What is shown unless somebody chooses another time.
#[derive(Debug, Deserialize)]
struct TimeRange {
    /// "now-7d".
    from: String,
}

impl TimeRange {
    fn days(&self) -> Result<u32> {
        let days = self.from.strip_prefix("now-").and_then(|rest| rest.strip_suffix('d'));
        let days = days.and_then(|days| days.parse().ok());
        days.with_context(|| format!("time.from: is '{}', expected days as in 'now-7d'", self.from))
    }
}

#[derive(Debug, Default, Deserialize)]
struct Templating {
    list: Vec<Variable>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    query: String,
    #[serde(default)]
    multi: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Panel {
    title: String,
    #[serde(default)]
    targets: Vec<Target>,
    #[serde(default)]
    panels: Vec<Panel>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    raw_sql: String,
}

/// Most values that are chosen of a variable that takes several.
const CHOSEN_MAX: usize = 20;

/// Queries of all dashboards in a folder, of variables too. Variables get the first
/// values that their queries give.
///
/// # Errors
/// A file is no dashboard, or a variable has no value.
pub async fn panels(connection: &mut PgConnection, folder: &Path) -> Result<Vec<Query>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut files: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut queries = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let dashboard: Dashboard =
            serde_json::from_str(&text).with_context(|| format!("{} is no dashboard", file.display()))?;
        ensure!(!dashboard.uid.is_empty() && !dashboard.title.is_empty(), "{}: no title", file.display());
        queries.extend(of_dashboard(connection, &file_name(&file), &dashboard).await?);
    }
    Ok(queries)
}

async fn of_dashboard(
    connection: &mut PgConnection,
    file: &str,
    dashboard: &Dashboard,
) -> Result<Vec<Query>> {
    let mut values = BTreeMap::new();
    let mut queries = Vec::new();
    let days = dashboard.time.days().with_context(|| file.to_owned())?;
    for variable in &dashboard.templating.list {
        let text = substitute(&variable.query, &values, days)
            .with_context(|| format!("{file}: {}", variable.name))?;
        let found = first_column(connection, &text).await.with_context(|| format!("{file}: {text}"))?;
        let count = if variable.multi { CHOSEN_MAX } else { 1 };
        let chosen: Vec<String> = found.into_iter().take(count).collect();
        ensure!(!chosen.is_empty(), "{file}: variable {} has no value", variable.name);
        values.insert(variable.name.clone(), chosen);
        queries.push(Query { file: file.to_owned(), name: format!("${}", variable.name), text });
    }
    let mut panels: Vec<&Panel> = dashboard.panels.iter().collect();
    while let Some(panel) = panels.pop() {
        panels.extend(&panel.panels);
        for target in &panel.targets {
            let text = substitute(&target.raw_sql, &values, days)
                .with_context(|| format!("{file}: {}", panel.title))?;
            queries.push(Query { file: file.to_owned(), name: panel.title.clone(), text });
        }
    }
    Ok(queries)
}

/// The values that a variable would offer.
async fn first_column(connection: &mut PgConnection, text: &str) -> Result<Vec<String>> {
    let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(text.to_owned()))).await?;
    let column = |row: &sqlx::postgres::PgRow| match row.try_get::<String, _>("__value") {
        Ok(value) => Ok(value),
        Err(_) => row.try_get_unchecked::<String, _>(0),
    };
    Ok(rows.iter().map(column).collect::<Result<_, _>>()?)
}

/// Puts values in the place of `${name:sqlstring}`, and the last days in that of
/// Grafana's time macro.
fn substitute(text: &str, values: &BTreeMap<String, Vec<String>>, days: u32) -> Result<String> {
    let mut text = text.to_owned();
    for (name, values) in values {
        let quoted: Vec<String> =
            values.iter().map(|value| format!("'{}'", value.replace('\'', "''"))).collect();
        text = text.replace(&format!("${{{name}:sqlstring}}"), &quoted.join(","));
    }
    while let Some((before, rest)) = text.split_once("$__timeFilter(") {
        let (column, after) = rest.split_once(')').context("$__timeFilter( is not closed")?;
        text = format!("{before}{column} between now() - interval '{days} days' and now(){after}");
    }
    if let Some((_, rest)) = text.split_once('$') {
        bail!("nothing to put in the place of ${}", rest.chars().take(30).collect::<String>());
    }
    Ok(text)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macros_and_variables_are_replaced_and_unknown_ones_are_an_error() {
        let values = BTreeMap::from([("job".to_owned(), vec!["a".to_owned(), "o'b".to_owned()])]);
        let text = substitute("x in (${job:sqlstring}) and $__timeFilter(time) or 1", &values, 30).unwrap();
        assert_eq!(text, "x in ('a','o''b') and time between now() - interval '30 days' and now() or 1");
        assert!(substitute("select $search", &values, 1).is_err());
        assert!(substitute("$__timeGroup(time, 1)", &values, 1).is_err());
    }
}
