//! What the views say about known rows.

use cakes_coordinator::core::explain::explain;
use cakes_coordinator::core::schedule::Rules;
use cakes_coordinator::core::worker::Schedule;
use cakes_coordinator::store::read::{explain as read_explain, jobs, metrics};
use cakes_coordinator::store::{PgPool, workers};
use cakes_proto::ids::JobId;
use sqlx::types::Uuid;

use super::filled;
use crate::support::{count, search_of, submit, worker};

#[sqlx::test(migrations = "../migrations")]
async fn searches_and_jobs_count_what_is_there(pool: PgPool) {
    let filled = filled::fill(&pool).await;
    let (state, jobs, succeeded, architectures, progress, best): (String, i64, i64, i64, f64, f64) =
        sqlx::query_as(
            "select state, job_count, succeeded_job_count, architecture_count, progress_share, best_quality
             from dashboard.searches where search_id = $1",
        )
        .bind(filled.done.0)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!((state.as_str(), jobs, succeeded, progress), ("succeeded", 5, 5, 1.0));
    assert_eq!(architectures, 2);
    assert!((best - 0.75).abs() < 1e-9, "{best}");
    let running = "select count(*) from dashboard.jobs where state = 'running' and worker_id = 'first'
        and step = 700 and step_count = 1000 and phase = 'training' and duration_s >= 0";
    assert_eq!(count(&pool, running).await, 1);
    let busy =
        "select count(*) from dashboard.workers where (worker_id, busy_device_count, schedule, is_lost)
        in (('first', 1, 'ready', false), ('second', 0, 'cordoned', false))";
    assert_eq!(count(&pool, busy).await, 2);
    let lost = "select count(*) from dashboard.gpu_time
        where attempt_number = 1 and failure_class = 'infrastructure' and done_step_count = 8 and not is_gpu";
    assert_eq!(count(&pool, lost).await, 1);
    let why = "select count(*) from dashboard.events where kind = 'job_requeued' and reason = 'disk full'
        and from_state = 'running' and to_state = 'queued'";
    assert_eq!(count(&pool, why).await, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn channels_of_a_layer_sum_to_its_width(pool: PgPool) {
    filled::fill(&pool).await;
    let wrong = "select count(*) from (
            select sum(channel_count) as sum, max(layer_channel_count) as width, sum(channel_share) as share,
                bool_and(kernel_number is not null) as known
            from dashboard.layer_composition group by architecture_digest, layer_number
        ) layer where sum <> width or abs(share - 1) > 1e-9 or not known";
    assert_eq!(count(&pool, wrong).await, 0);
    let layers = "select count(distinct (architecture_digest, layer)) from dashboard.layer_composition";
    assert_eq!(
        count(&pool, layers).await,
        count(&pool, "select sum(jsonb_array_length(spec -> 'layers')) from architecture").await
    );
}

/// Sixty retrained architectures for the search that has ended, with qualities and
/// costs that are often equal, no number, or missing.
const DRAWN: [&str; 6] = [
    "insert into architecture (digest, spec)
     select md5(n::text) || md5(n::text), (select spec from architecture limit 1) from generate_series(1, 60) n",
    "insert into search_architecture
         (search_id, origin, digest, retrain, cost, param_count, mac_count, mac_fraction)
     select search_id, 'drawn ' || n, md5(n::text) || md5(n::text), true, '{}', 1 + n % 5, 1 + n % 7, 0.5
     from (select search_id from dashboard.searches where state = 'succeeded') one, generate_series(1, 60) n",
    "set session_replication_role = replica",
    "insert into job (id, search_id, kind, label, architecture_digest, seed, trainer_job, step_count, state,
         epoch, end_time, task)
     select md5('job' || n)::uuid, search_id, 'retrain', 'drawn', digest, n, '{}', 1, 'succeeded', 1, now(),
         'segmentation'
     from (select search_id, digest, row_number() over (order by position) as n from search_architecture
           where origin like 'drawn %') drawn",
    "insert into result (job_id, epoch, last_seq, content_hash, checkpoint_epoch, checkpoint_step, mean_dice,
         dice_per_class, quality, quality_metric, param_count, mac_count, latency_ms, peak_memory_mib,
         train_duration_s, device)
     select id, 1, 0, decode(repeat('ab', 32), 'hex'), 1, 1, 0.5, '{0.5}',
         case when seed % 17 = 0 then 'NaN' else (seed * 37 % 11 / 11)::float8 end, 'mean_dice',
         1, 1, case when seed % 5 > 0 then (seed * 13 % 6)::float8 end, 1, 1, 'cpu'
     from job where label = 'drawn'",
    "set session_replication_role = origin",
];

/// Quality, MACs, parameters, latency, and whether it is on the front of each cost.
type Entry = (f64, i64, i64, Option<f64>, bool, bool, bool);

/// Against the function that the API marks the front with.
#[sqlx::test(migrations = "../migrations")]
async fn the_front_is_what_nobody_beats(pool: PgPool) {
    filled::fill(&pool).await;
    let mut connection = pool.acquire().await.unwrap();
    for statement in DRAWN {
        sqlx::query(statement).execute(&mut *connection).await.unwrap();
    }
    let rows: Vec<Entry> = sqlx::query_as(
        "select quality, mac_count, param_count, latency_ms, is_on_mac_front, is_on_param_front, is_on_latency_front
         from dashboard.pareto_front
         where search_id = (select search_id from dashboard.searches where state = 'succeeded')",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), 62);
    let front = |cost: &dyn Fn(usize) -> f64| {
        let point = |row: usize| cakes::pareto::Point { quality: rows[row].0, costs: vec![cost(row)] };
        let points: Vec<_> = (0..rows.len()).map(point).collect();
        let front = cakes::pareto::front(&points);
        (0..rows.len()).map(|row| front.contains(&row)).collect::<Vec<_>>()
    };
    let marked = |mark: &dyn Fn(usize) -> bool| (0..rows.len()).map(mark).collect::<Vec<_>>();
    assert_eq!(marked(&|row| rows[row].4), front(&|row| rows[row].1 as f64), "MACs");
    assert_eq!(marked(&|row| rows[row].5), front(&|row| rows[row].2 as f64), "parameters");
    assert_eq!(marked(&|row| rows[row].6), front(&|row| rows[row].3.unwrap_or(f64::NAN)), "latency");
}

async fn reason(pool: &PgPool) -> String {
    sqlx::query_scalar("select reason from dashboard.queue where queue_position = 1")
        .fetch_one(pool)
        .await
        .unwrap()
}

/// The view's word and the sentence of `cakes job explain` name one obstacle.
#[sqlx::test(migrations = "../migrations")]
async fn the_queue_gives_the_reason_that_explain_gives(pool: PgPool) {
    submit(&pool, &search_of(&[0.5], &[1])).await;
    let first: Uuid = sqlx::query_scalar("select job_id from dashboard.queue where queue_position = 1")
        .fetch_one(&pool)
        .await
        .unwrap();
    let agrees = async |word: &str, sentence: &str| {
        assert_eq!(reason(&pool).await, word);
        let job = jobs::get(&pool, JobId(first)).await.unwrap();
        let facts = read_explain::facts(&pool, &job, &Rules::default()).await.unwrap();
        let text = explain(&facts);
        assert!(text.contains(sentence) && text.contains("position 1 "), "{word}: {text}");
    };
    let set = async |statement: &'static str| {
        sqlx::query(statement).execute(&pool).await.unwrap();
    };
    agrees("no_worker", "No worker has registered").await;
    let a = worker(&pool, "a").await;
    agrees("worker_free", "Worker a is free").await;
    set("update job set avoid_worker_id = 'a', avoid_until = now() + interval '1 hour'").await;
    agrees("keeps_away", "Only worker a is free").await;
    set("update job set avoid_worker_id = null, avoid_until = null, run_after = now() + interval '1 hour'")
        .await;
    agrees("held_back", "held back").await;
    set("update job set run_after = null").await;
    set("update job set worker_labels = '{\"gpu\": \"h200\"}'").await;
    agrees("no_labels", "No ready worker is labelled gpu=h200").await;
    set("update job set worker_labels = '{}'").await;
    set("update worker set devices = jsonb_set(devices, '{0,memory_mib}', '0')").await;
    agrees("too_little_memory", "MiB of memory").await;
    set("update worker set devices = jsonb_set(devices, '{0,memory_mib}', '100000')").await;
    workers::schedule(&pool, &a.id, Schedule::Draining).await.unwrap();
    agrees("no_ready_worker", "cordoned or draining").await;
    workers::schedule(&pool, &a.id, Schedule::Ready).await.unwrap();
    set("update worker set last_seen_time = now() - interval '2 minutes'").await;
    agrees("no_worker", "has not been heard of").await;
    set("update worker set last_seen_time = now()").await;
    set("update job set priority = -1 where id = (select job_id from dashboard.queue where queue_position = 1)").await;
    let taken = a.begin(&pool).await;
    assert_ne!(taken.token.job.0, first);
    agrees("devices_busy", "0 of 1 that fit are free").await;
}

/// After a resume, steps are in the curve once, with the value of the attempt that
/// went on.
#[sqlx::test(migrations = "../migrations")]
async fn a_curve_holds_each_step_once_after_a_resume(pool: PgPool) {
    let filled = filled::fill(&pool).await;
    let points: Vec<(i64, f64)> = sqlx::query_as(
        "select step, value from dashboard.learning_curves where job_id = $1 and metric = 'train/loss' order by step",
    )
    .bind(filled.resumed.0)
    .fetch_all(&pool)
    .await
    .unwrap();
    let keys = ["train/loss".to_owned()];
    let served = metrics::curves(&pool, filled.resumed, &keys, 1000).await.unwrap();
    let served: Vec<(i64, f64)> = served.into_iter().map(|point| (point.step, point.value)).collect();
    assert_eq!(points, served);
    assert_eq!(points.iter().map(|point| point.0).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    assert!(points[4].1 < 1.0 && points[5].1 > 1.0, "step 6 is the second attempt's: {points:?}");
}
