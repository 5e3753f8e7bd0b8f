//! What the database could do at best: the same three writes per job by pgbench,
//! on tables of like shape beside the real ones.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::postgres::Database;

/// Tables with the columns and indexes that claims and metrics of the real ones
/// have. Jobs carry the trainer's job of a real one.
const SCHEMA: &str = "
drop schema if exists bench_limit cascade;
create schema bench_limit;
create table bench_limit.job (
    id uuid primary key,
    position bigint generated always as identity,
    priority integer not null default 0,
    trainer_job jsonb not null,
    state text not null default 'queued',
    epoch bigint not null default 0,
    create_time timestamptz not null default clock_timestamp(),
    start_time timestamptz,
    end_time timestamptz
);
create index job_queue on bench_limit.job (priority desc, position) where state = 'queued';
create table bench_limit.metric (
    job_id uuid not null,
    epoch bigint not null,
    seq bigint not null,
    key text not null,
    step bigint not null,
    value double precision not null,
    time timestamptz not null,
    primary key (job_id, epoch, seq, key)
);
";

/// One job: claim, metric row, complete.
const SCRIPT: &str = "\
begin;
update bench_limit.job set state = 'running', epoch = epoch + 1, start_time = clock_timestamp() \
where id = (select id from bench_limit.job where state = 'queued' order by priority desc, position limit 1 \
for no key update skip locked) returning id, epoch \\gset
commit;
begin;
insert into bench_limit.metric values (:id, :epoch, 1, 'train/loss', 1, 0.5, clock_timestamp());
commit;
begin;
update bench_limit.job set state = 'succeeded', end_time = clock_timestamp() \
where id = :id and epoch = :epoch and state = 'running';
commit;
";

/// What pgbench reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    pub jobs_per_s: f64,
    /// Mean time of one job.
    pub job_ms: f64,
}

/// Lets `clients` connections do `jobs` jobs together, each in three
/// transactions.
///
/// # Errors
/// pgbench fails, or did not do all jobs.
pub async fn measure(database: &Database, folder: &Path, clients: u32, jobs: u32) -> Result<Limit> {
    let each = jobs.div_ceil(clients);
    let all = each * clients;
    let fill = format!(
        "insert into bench_limit.job (id, trainer_job)
         select gen_random_uuid(), (select trainer_job from job limit 1) from generate_series(1, {all});"
    );
    database.run(SCHEMA).await?;
    database.run(&fill).await?;
    database.run("vacuum analyze bench_limit.job").await?;
    let script = folder.join("limit.sql");
    std::fs::write(&script, SCRIPT)?;
    let arguments = [
        "--no-vacuum".to_owned(),
        "--protocol=prepared".to_owned(),
        format!("--client={clients}"),
        "--jobs=1".to_owned(),
        format!("--transactions={each}"),
        format!("--file={}", script.display()),
    ];
    let output = database.pgbench(&arguments).await?;
    let limit = parse(&output).with_context(|| format!("pgbench wrote:\n{output}"))?;
    let done = database
        .number("select count(*) from bench_limit.job join bench_limit.metric on job_id = id where state = 'succeeded'")
        .await?;
    ensure!(done == u64::from(all), "pgbench did {done} of {all} jobs:\n{output}");
    Ok(limit)
}

/// Reads pgbench's summary.
fn parse(output: &str) -> Result<Limit> {
    let number = |prefix: &str| -> Result<f64> {
        let line = output.lines().find_map(|line| line.trim().strip_prefix(prefix));
        let word = line.and_then(|line| line.split_whitespace().next());
        let word = word.with_context(|| format!("no line '{prefix}'"))?;
        word.parse().with_context(|| format!("'{prefix}{word}' holds no number"))
    };
    let processed = output
        .lines()
        .find_map(|line| line.strip_prefix("number of transactions actually processed: "))
        .context("no count of transactions")?;
    if let Some((done, wanted)) = processed.trim().split_once('/') {
        ensure!(done == wanted, "only {done} of {wanted} transactions went through");
    }
    let limit = Limit { jobs_per_s: number("tps = ")?, job_ms: number("latency average = ")? };
    ensure!(limit.jobs_per_s.is_finite() && limit.jobs_per_s > 0.0, "no speed: {}", limit.jobs_per_s);
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
pgbench (15.14 (Debian 15.14-0+deb12u1))
transaction type: /tmp/limit.sql
scaling factor: 1
query mode: prepared
number of clients: 4
number of threads: 1
maximum number of tries: 1
number of transactions per client: 1500
number of transactions actually processed: 6000/6000
number of failed transactions: 0 (0.000%)
latency average = 2.024 ms
initial connection time = 5.712 ms
tps = 1976.420113 (without initial connection time)
";

    #[test]
    fn the_summary_gives_jobs_per_second() {
        assert_eq!(parse(OUTPUT).unwrap(), Limit { jobs_per_s: 1976.420113, job_ms: 2.024 });
    }

    #[test]
    fn a_run_that_broke_off_is_no_limit() {
        let broken = OUTPUT.replace("6000/6000", "5200/6000");
        assert!(parse(&broken).unwrap_err().to_string().contains("5200 of 6000"));
        assert!(parse(&OUTPUT.replace("tps = 1976.420113", "tps = nan")).is_err());
        assert!(parse("").is_err());
    }
}
