//! Keeps jobs from workers whose machine seems to be at fault.

use cakes_proto::ids::WorkerId;
use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgPool;
use tracing::instrument;

use crate::core::suspect::{End, Facts, Judgement, Verdict, judge};
use crate::store::error::{Error, corrupt, failed};
use crate::store::event::{self, Event};
use crate::store::text::storable;

/// Ends of a worker that are looked at.
const ENDS_MAX: i64 = 10;
/// Longest stored reason, in bytes.
const REASON_BYTES_MAX: usize = 1000;

/// A worker whose last attempt ended badly, or that was suspect before.
struct Candidate {
    id: WorkerId,
    judged_time: DateTime<Utc>,
    times: u32,
}

/// How an attempt ended.
struct Ended {
    end: End,
    end_time: DateTime<Utc>,
    message: String,
}

/// Judges the workers that were heard of lately; how many are suspect from now on.
/// Several coordinators may do so at once.
///
/// # Errors
/// The database fails; who was judged before stays so.
#[instrument(skip_all, err(level = "debug"))]
pub async fn judge_all(pool: &PgPool) -> Result<usize, Error> {
    let mut suspects = 0;
    for candidate in candidates(pool).await? {
        let ended = ends(pool, &candidate).await?;
        let earliest = ended.iter().take_while(|ended| ended.end.verdict != Verdict::Good).last();
        let others_get_on = match earliest {
            Some(earliest) => others_get_on(pool, &candidate.id, earliest.end_time).await?,
            None => false,
        };
        let facts = Facts {
            ends: ended.iter().map(|ended| ended.end).collect(),
            others_get_on,
            times: candidate.times,
        };
        match judge(&facts) {
            Judgement::Same => {}
            Judgement::Trusted => trust(pool, &candidate.id).await?,
            Judgement::Suspect { rest } => {
                let reason = reason(&ended);
                suspects += usize::from(suspect(pool, &candidate, &reason, rest.as_secs_f64()).await?);
            }
        }
    }
    Ok(suspects)
}

fn reason(ended: &[Ended]) -> String {
    let streak = ended.iter().take_while(|ended| ended.end.verdict != Verdict::Good);
    let bad: Vec<&Ended> = streak.filter(|ended| ended.end.verdict == Verdict::Bad).collect();
    let last = bad.first().map_or("", |ended| ended.message.as_str());
    let text = match bad.len() {
        1 => format!("its first attempt after a rest ended by a fault of the machine: {last}"),
        count => format!("its last {count} attempts ended by faults of the machine, the newest with: {last}"),
    };
    storable(&text, REASON_BYTES_MAX)
}

async fn candidates(pool: &PgPool) -> Result<Vec<Candidate>, Error> {
    let rows = sqlx::query!(
        "select worker.id, worker.suspect_count, worker.judged_time
         from worker cross join lateral (
             select failure_class from (
                 (select failure_class, end_time from attempt
                  where attempt.worker_id = worker.id and attempt.end_time > worker.judged_time
                      and not attempt.imported
                  order by attempt.end_time desc limit 1)
                 union all
                 (select attempt.failure_class, member.end_time
                  from attempt_member member
                  join attempt on attempt.job_id = member.job_id and attempt.epoch = member.epoch
                  where member.worker_id = worker.id and member.member > 0
                      and member.end_time > worker.judged_time
                  order by member.end_time desc limit 1)
             ) as ended
             order by end_time desc limit 1
         ) as newest
         where worker.last_seen_time > clock_timestamp() - interval '10 minutes'
             and (worker.suspect_until is null or worker.suspect_until <= clock_timestamp())
             and (worker.suspect_count > 0 or newest.failure_class in ('lost', 'infrastructure'))
         order by worker.id"
    )
    .fetch_all(pool)
    .await
    .map_err(failed("look for workers to judge"))?;
    rows.into_iter()
        .map(|row| {
            let what = || format!("the name of worker {}", row.id);
            Ok(Candidate {
                id: row.id.parse().map_err(|error| corrupt(what(), &error))?,
                judged_time: row.judged_time,
                times: row.suspect_count.unsigned_abs(),
            })
        })
        .collect()
}

/// The newest ends of a worker, the newest first: of attempts that it had, or had a part in. A member
/// that went behind the last step has trained all that its attempt leaves behind, so that speaks for its
/// machine, as a checkpoint does for a worker that is lost afterwards; of an attempt that then fails and
/// has left nothing, it says neither.
async fn ends(pool: &PgPool, worker: &Candidate) -> Result<Vec<Ended>, Error> {
    let rows = sqlx::query!(
        r#"with ended as (
               (select job_id, epoch, 0::smallint as member, end_time from attempt
                where worker_id = $1 and end_time > $2 and grant_time > $2 and not imported
                order by end_time desc limit $3)
               union all
               (select member.job_id, member.epoch, member.member, member.end_time
                from attempt_member member
                join attempt on attempt.job_id = member.job_id and attempt.epoch = member.epoch
                where member.worker_id = $1 and member.member > 0 and member.end_time > $2
                    and attempt.grant_time > $2
                order by member.end_time desc limit $3)
           )
           select attempt.job_id, attempt.message, ended.end_time as "end_time!",
               coalesce(attempt.end_reason = 'succeeded', false) or exists (
                   select from checkpoint
                   where checkpoint.job_id = attempt.job_id and checkpoint.epoch = attempt.epoch
               ) as "delivered!",
               coalesce(attempt.failure_class in ('lost', 'infrastructure')
                   and attempt.end_reason not in ('handed back', 'cancelled')
                   -- What one member brought about says nothing of the machines of the others, and
                   -- that it only lost them nothing of its own.
                   and coalesce(attempt.ended_by, 0) = ended.member
                   and not (attempt.member_count > 1 and attempt.failure_class = 'lost'
                       and attempt.end_reason = 'failed'), false) as "at_fault!"
           from ended join attempt on attempt.job_id = ended.job_id and attempt.epoch = ended.epoch
           order by ended.end_time desc limit $3"#,
        worker.id.as_str(),
        worker.judged_time,
        ENDS_MAX
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read how attempts of a worker ended"))?;
    let ended = rows.into_iter().map(|row| {
        let verdict = match (row.delivered, row.at_fault) {
            (true, _) => Verdict::Good,
            (false, true) => Verdict::Bad,
            (false, false) => Verdict::Neither,
        };
        Ended { end: End { job: row.job_id, verdict }, end_time: row.end_time, message: row.message }
    });
    Ok(ended.collect())
}

/// Whether another worker trains now, or has left something behind since then.
async fn others_get_on(pool: &PgPool, worker: &WorkerId, since: DateTime<Utc>) -> Result<bool, Error> {
    sqlx::query_scalar!(
        r#"select exists (
               select from attempt
               where end_time is null and worker_id <> $1 and last_step > resume_step
           ) or exists (
               select from worker other join attempt on attempt.worker_id = other.id
               where other.id <> $1 and attempt.end_time >= $2 and not attempt.imported and (
                   attempt.end_reason = 'succeeded' or exists (
                       select from checkpoint
                       where checkpoint.job_id = attempt.job_id and checkpoint.epoch = attempt.epoch))
           ) as "any!""#,
        worker.as_str(),
        since
    )
    .fetch_one(pool)
    .await
    .map_err(failed("look whether other workers get on"))
}

async fn trust(pool: &PgPool, worker: &WorkerId) -> Result<(), Error> {
    sqlx::query!(
        "update worker set suspect_count = 0, suspect_until = null, suspect_reason = null where id = $1",
        worker.as_str()
    )
    .execute(pool)
    .await
    .map(drop)
    .map_err(failed("trust a worker again"))
}

/// Whether it is this call that made the worker suspect.
async fn suspect(pool: &PgPool, worker: &Candidate, reason: &str, rest_s: f64) -> Result<bool, Error> {
    let mut transaction = pool.begin().await.map_err(failed("begin to suspect a worker"))?;
    // Whoever judged it meanwhile, or a person who trusts it, has changed the time.
    let changed = sqlx::query!(
        "update worker set suspect_until = clock_timestamp() + make_interval(secs => $3),
             suspect_reason = $4, suspect_count = suspect_count + 1, judged_time = clock_timestamp()
         where id = $1 and judged_time = $2",
        worker.id.as_str(),
        worker.judged_time,
        rest_s,
        reason
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed("suspect a worker"))?;
    if changed.rows_affected() == 0 {
        return Ok(false);
    }
    let body = json!({ "reason": reason, "rest_s": rest_s });
    let event =
        Event { kind: "worker_suspected", worker: Some(&worker.id), body: Some(body), ..Event::default() };
    event::record(&mut transaction, event).await?;
    transaction.commit().await.map_err(failed("commit a suspect worker"))?;
    tracing::warn!(worker = %worker.id, rest_s, reason, "a worker gets no jobs for a while");
    Ok(true)
}
