//! Many jobs without the time to run them: copies of a real one, row for row.

use anyhow::{Context, Result, ensure};

use super::postgres::Database;

/// Columns that must differ between two jobs, with their value for copy `n`.
type Changes = [(&'static str, &'static str)];

/// Tables that a job has rows in, each with its column of the job's id.
const TABLES: [(&str, &str, &Changes); 9] = [
    ("job", "id", &[("seed", "n"), ("request_id", "null"), ("request_hash", "null")]),
    ("attempt", "job_id", &[("acquire_request_id", "md5('acquire ' || n)::uuid")]),
    ("checkpoint", "job_id", &[("key", "key || '-' || n")]),
    ("result", "job_id", &[]),
    ("job_progress", "job_id", &[]),
    ("metric", "job_id", &[]),
    ("log_line", "job_id", &[]),
    ("attempt_lease", "job_id", &[]),
    ("event", "job_id", &[("xid", "pg_current_xact_id()")]),
];

/// Copies per transaction.
const BATCH: u64 = 50_000;

/// Copies the job `template` with all its rows `count` times. Copies are told
/// apart by numbers from `first`, which no other copies may have.
///
/// # Errors
/// There is no such job, or the database fails.
pub async fn copies(database: &Database, template: &str, first: u64, count: u64) -> Result<()> {
    let known = database.number(&format!("select count(*) from job where id = '{template}'")).await?;
    ensure!(known == 1, "there is no job {template} to copy");
    let mut inserts = Vec::new();
    for (table, key, changes) in TABLES {
        let columns = columns(database, table).await?;
        inserts.push(insert(table, key, changes, &columns, template));
    }
    let mut next = first;
    while next < first + count {
        let last = (next + BATCH).min(first + count) - 1;
        // As a replica the server checks no foreign keys: the original's hold.
        let mut batch = "set session_replication_role = replica; begin;\n".to_owned();
        for insert in &inserts {
            batch.push_str(&insert.replace("$first", &next.to_string()).replace("$last", &last.to_string()));
        }
        batch.push_str("commit;");
        database.run(&batch).await?;
        next = last + 1;
    }
    // As the server would by itself, sooner or later.
    let tables = TABLES.map(|(table, ..)| table);
    database.run(&format!("vacuum analyze {}", tables.join(", "))).await.map(drop)
}

/// Columns that are written; the server fills the others.
async fn columns(database: &Database, table: &str) -> Result<Vec<String>> {
    let query = format!(
        "select column_name from information_schema.columns
         where table_schema = 'public' and table_name = '{table}' and is_identity = 'NO'
             and is_generated = 'NEVER' order by ordinal_position"
    );
    let text = database.run(&query).await.with_context(|| format!("list the columns of {table}"))?;
    let columns: Vec<String> = text.lines().map(str::to_owned).collect();
    ensure!(!columns.is_empty(), "there is no table {table}");
    Ok(columns)
}

fn insert(table: &str, key: &str, changes: &Changes, columns: &[String], template: &str) -> String {
    let values: Vec<String> = columns
        .iter()
        .map(|column| {
            if column == key {
                return format!("md5('{template} ' || n)::uuid");
            }
            let changed = changes.iter().find(|(name, _)| name == column);
            changed.map_or_else(|| format!("original.{column}"), |(_, value)| (*value).to_owned())
        })
        .collect();
    format!(
        "insert into {table} ({})\n select {} from {table} original, generate_series($first, $last) n
 where original.{key} = '{template}';\n",
        columns.join(", "),
        values.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_its_own_identity_and_all_else_of_the_original() {
        let columns = ["job_id", "epoch", "key", "bytes"].map(str::to_owned);
        let statement = insert("checkpoint", "job_id", &[("key", "key || n")], &columns, "abc");
        assert!(statement.contains("(job_id, epoch, key, bytes)"), "{statement}");
        let values = "md5('abc ' || n)::uuid, original.epoch, key || n, original.bytes from checkpoint";
        assert!(statement.contains(values), "{statement}");
        assert!(statement.contains("where original.job_id = 'abc'"), "{statement}");
    }
}
