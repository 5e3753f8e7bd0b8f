//! What KEDA asks the views for the workers of the chart.

use std::path::Path;

use cakes_coordinator::store::PgPool;
use sqlx::AssertSqlSafe;

use crate::projects::{project, search};
use crate::support::{count, worker, worker_with};

/// Of the workers, in a release called `lab`.
const NAME: &str = "lab-cakes-worker";

/// What the values of a release say, as the template writes it.
struct Chart {
    labels: &'static str,
    /// Most devices of one job.
    width: u32,
}

const PLAIN: Chart = Chart { labels: "{}", width: 1 };
const LABELLED: Chart = Chart { labels: r#"{"gpu":"h200","site":"basel"}"#, ..PLAIN };

impl Chart {
    /// The query of the template.
    fn query(&self) -> String {
        let template = "../deploy/helm/cakes/templates/worker.yaml";
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(template)).unwrap();
        let (_, rest) = text.split_once("        query: >-\n").expect("the template has a query");
        let lines: Vec<&str> = rest.lines().take_while(|line| line.starts_with("          ")).collect();
        let query = lines
            .join("\n")
            .replace("{{ $name }}", NAME)
            .replace("{{ $width }}", &self.width.to_string())
            .replace("{{ .Values.worker.labels | toJson }}", self.labels);
        assert!(!query.contains("{{"), "the chart writes something else into it: {query}");
        query
    }

    /// Devices that KEDA is told of, as the role that it asks as.
    async fn devices(&self, pool: &PgPool) -> i64 {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("set local role cakes_dashboard").execute(&mut *transaction).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(self.query())).fetch_one(&mut *transaction).await.unwrap()
    }
}

async fn run(pool: &PgPool, statement: &'static str) {
    sqlx::query(statement).execute(pool).await.unwrap();
}

/// Two jobs of a search, with something of them changed.
async fn jobs(pool: &PgPool, project: &str, change: &str) {
    let search = search(pool, project, 0, 1).await;
    let change = format!("update job set {change} where search_id = $1");
    let changed = sqlx::query(AssertSqlSafe(change)).bind(search.0).execute(pool).await.unwrap();
    assert_eq!(changed.rows_affected(), 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn without_pods_smaller_workers_beside_them_hide_no_job(pool: PgPool) {
    jobs(&pool, "default", "memory_mib = 40000").await;
    assert_eq!(PLAIN.devices(&pool).await, 2, "there is nobody");
    worker(&pool, "gpu-01").await;
    run(&pool, "update worker set devices = jsonb_set(devices, '{0,memory_mib}', '8000')").await;
    let hidden = "select count(*) from dashboard.queue where reason = 'too_little_memory'";
    assert_eq!(count(&pool, hidden).await, 2);
    assert_eq!(
        PLAIN.devices(&pool).await,
        2,
        "a worker that is none of the chart's says nothing of its memory"
    );

    worker(&pool, "lab-cakes-worker-7d4f9").await;
    run(
        &pool,
        "update worker set devices = jsonb_set(devices, '{0,memory_mib}', '24000') where id like 'lab-%'",
    )
    .await;
    assert_eq!(PLAIN.devices(&pool).await, 0, "no pod takes them");
    let second = "update worker set devices = devices || jsonb_set(devices, '{0,name}', '\"cuda:1\"')
        where id like 'lab-%'";
    run(&pool, second).await;
    assert_eq!(PLAIN.devices(&pool).await, 0, "a job trains in the memory of one device");
    run(&pool, "update worker set last_seen_time = now() - interval '2 hours' where id like 'lab-%'").await;
    assert_eq!(PLAIN.devices(&pool).await, 2, "pods of today may have others");
    run(
        &pool,
        "update worker set devices = jsonb_set(devices, '{0,memory_mib}', '80000'), last_seen_time = now()
         where id like 'lab-%'",
    )
    .await;
    assert_eq!(PLAIN.devices(&pool).await, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_the_workers_of_the_chart_can_take_counts_and_nothing_else(pool: PgPool) {
    let mut waiting = 0;
    for (labels, are_theirs) in [
        ("{}", true),
        (r#"{"gpu": "h200"}"#, true),
        (r#"{"gpu": "h200", "site": "basel"}"#, true),
        (r#"{"gpu": "a100"}"#, false),
        (r#"{"gpu": "h200", "rack": "3"}"#, false),
    ] {
        jobs(&pool, "default", &format!("worker_labels = '{labels}'")).await;
        waiting += if are_theirs { 2 } else { 0 };
        assert_eq!(LABELLED.devices(&pool).await, waiting, "{labels}");
    }
    assert_eq!(PLAIN.devices(&pool).await, 2, "only those that ask for no labels");

    jobs(&pool, "default", "trainer_job = jsonb_set(trainer_job, '{training,devices}', '2')").await;
    assert_eq!(LABELLED.devices(&pool).await, waiting, "no slot of a pod has two devices");
    let wide = Chart { width: 8, ..LABELLED };
    assert_eq!(wide.devices(&pool).await, waiting + 4, "two devices each");

    // Whoever trains elsewhere needs no pod; who trains in one keeps it.
    worker(&pool, "gpu-01").await.begin(&pool).await;
    assert_eq!(LABELLED.devices(&pool).await, waiting - 1);
    worker_with(&pool, "lab-cakes-worker-0", "gpu=h200,site=basel").await.begin(&pool).await;
    worker(&pool, "lab-cakes-worker2-0").await.begin(&pool).await;
    assert_eq!(LABELLED.devices(&pool).await, waiting - 2, "another release's pods are not these");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_a_project_may_not_have_brings_no_pod(pool: PgPool) {
    jobs(&pool, "default", "priority = 0").await;
    for (device_quota, devices) in [(Some(0), 2), (Some(1), 3), (Some(5), 4), (None, 4)] {
        project(&pool, "lung", 1, device_quota).await;
        if device_quota == Some(0) {
            jobs(&pool, "lung", "priority = 5").await;
        }
        assert_eq!(PLAIN.devices(&pool).await, devices, "{device_quota:?}");
    }
    project(&pool, "lung", 1, Some(1)).await;
    worker(&pool, "lab-cakes-worker-0").await.begin(&pool).await;
    let running = "select count(*) from dashboard.projects where project = 'lung' and busy_device_count = 1";
    assert_eq!(count(&pool, running).await, 1);
    assert_eq!(PLAIN.devices(&pool).await, 3, "the device that lung may have is that of the pod");

    project(&pool, "lung", 1, None).await;
    run(&pool, "update project set device_s_quota = 7200, used_device_s = 7000 where name = 'lung'").await;
    assert_eq!(PLAIN.devices(&pool).await, 4);
    run(&pool, "update project set used_device_s = 7200 where name = 'lung'").await;
    assert_eq!(PLAIN.devices(&pool).await, 3, "no device-hours are left to lung");
}
