//! Projects, and rounds of the planner over real rows.

use cakes_coordinator::core::access::Role;
use cakes_coordinator::core::lease::{Desired, Policy};
use cakes_coordinator::core::member::{Belongs, Standing};
use cakes_coordinator::core::project::{ProjectName, Terms as ProjectTerms};
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::schedule::{Decisions, Rules};
use cakes_coordinator::store::attempts::{acquire, fail};
use cakes_coordinator::store::read::{Order, jobs, owners};
use cakes_coordinator::store::searches::{Terms, submit};
use cakes_coordinator::store::{Error, PgPool, projects, schedule};
use cakes_proto::ids::SearchId;
use uuid::Uuid;

use crate::support::{
    Worker, acquire_together, count, open_connections, report_of, save, search_of, small_search, state, tell,
    worker,
};

fn name(text: &str) -> ProjectName {
    text.parse().unwrap()
}

pub async fn project(pool: &PgPool, text: &str, share: u32, device_quota: Option<u32>) {
    let terms = ProjectTerms::check(share, device_quota, None, 0).unwrap();
    projects::set(pool, &name(text), &terms).await.unwrap();
}

/// A search of a supernet and `seeds` retrainings.
pub async fn search(pool: &PgPool, project: &str, priority: i32, seeds: u64) -> SearchId {
    let seeds: Vec<u64> = (1..=seeds).collect();
    let terms = Terms { project: name(project), priority, ..Terms::default() };
    submit(pool, &search_of(&[0.5], &seeds), &terms, None).await.unwrap()
}

pub async fn round(pool: &PgPool) -> Decisions {
    schedule::plan(pool, &Rules::default()).await.unwrap().expect("nobody else plans")
}

async fn reasons(pool: &PgPool) -> Vec<Option<String>> {
    sqlx::query_scalar("select distinct plan_reason from job where waits order by 1")
        .fetch_all(pool)
        .await
        .unwrap()
}

/// Projects of the jobs that wait, in the order in which they are served.
pub async fn line(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("select project from job where waits order by is_held, rank")
        .fetch_all(pool)
        .await
        .unwrap()
}

pub async fn fleet(pool: &PgPool, size: usize) -> Vec<Worker> {
    let mut fleet = Vec::new();
    for number in 0..size {
        fleet.push(worker(pool, &format!("w{number}")).await);
    }
    fleet
}

/// Lets everything that runs have run for so long.
pub async fn has_run_for_an_hour(pool: &PgPool) {
    let statement = "update attempt set grant_time = grant_time - interval '1 hour' where end_time is null";
    sqlx::query(statement).execute(pool).await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_project_is_made_and_changed_and_listed_with_what_it_uses(pool: PgPool) {
    project(&pool, "lung", 3, Some(2)).await;
    search(&pool, "lung", 7, 2).await;
    worker(&pool, "a").await.begin(&pool).await;
    let listed = projects::list(&pool, None).await.unwrap();
    let names: Vec<&str> = listed.iter().map(|project| project.name.as_str()).collect();
    assert_eq!(names, ["default", "lung"]);
    let lung = &listed[1];
    assert_eq!((lung.share, lung.device_quota, lung.period_days), (3, Some(2), 30));
    assert_eq!((lung.busy_device_count, lung.waiting_job_count), (1, 2));
    project(&pool, "lung", 1, None).await;
    let changed = projects::list(&pool, Some("lung")).await.unwrap();
    assert_eq!((changed.len(), changed[0].share, changed[0].device_quota), (1, 1, None));
    let of_job = "select count(*) from job where project = 'lung' and priority = 7";
    assert_eq!(count(&pool, of_job).await, 3);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_search_of_an_unknown_project_or_a_wild_priority_is_refused(pool: PgPool) {
    let terms = Terms { project: name("nobody"), ..Terms::default() };
    let refused = submit(&pool, &small_search(), &terms, None).await.unwrap_err();
    assert!(matches!(&refused, Error::InvalidArgument { field: "project", .. }), "{refused}");
    assert!(refused.to_string().contains("cakes project set nobody"), "{refused}");
    let terms = Terms { priority: 1001, ..Terms::default() };
    let refused = submit(&pool, &small_search(), &terms, None).await.unwrap_err();
    assert!(matches!(&refused, Error::InvalidArgument { field: "priority", .. }), "{refused}");
    assert_eq!(count(&pool, "select count(*) from search").await, 0);
    let twice = async |priority| {
        let terms = Terms { priority, ..Terms::default() };
        submit(&pool, &small_search(), &terms, Some("once")).await
    };
    twice(1).await.unwrap();
    assert!(
        matches!(twice(2).await.unwrap_err(), Error::Conflict { .. }),
        "another priority is another search"
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn members_come_and_go_and_a_project_says_of_everybody_what_they_are(pool: PgPool) {
    project(&pool, "lung", 1, None).await;
    let standing = async |name| projects::standing(&pool, "lung", name).await.unwrap();
    assert_eq!(standing(Some("vera")).await, Standing::Open);
    projects::grant(&pool, &name("lung"), "vera", Role::Viewer).await.unwrap();
    projects::grant(&pool, &name("lung"), "ben", Role::Operator).await.unwrap();
    projects::grant(&pool, &name("lung"), "vera", Role::Submitter).await.unwrap();
    projects::grant(&pool, &name("default"), "ada", Role::Viewer).await.unwrap();
    assert_eq!(standing(Some("vera")).await, Standing::Member(Role::Submitter), "the last word");
    assert_eq!(standing(Some("ben")).await, Standing::Member(Role::Operator));
    assert_eq!(standing(Some("ada")).await, Standing::Outsider, "a member of another project");
    assert_eq!(standing(None).await, Standing::Outsider);
    let listed = async |project| -> Vec<(String, String, Role)> {
        let found = projects::members(&pool, project).await.unwrap();
        found.into_iter().map(|member| (member.project, member.name, member.role)).collect()
    };
    let lung = |name: &str, role| ("lung".to_owned(), name.to_owned(), role);
    let of_lung = [lung("ben", Role::Operator), lung("vera", Role::Submitter)];
    assert_eq!(listed(Some("lung")).await, of_lung);
    assert_eq!(listed(None).await.len(), 3);
    let roles = projects::roles(&pool, "vera").await.unwrap();
    let roles: Vec<_> = roles.iter().map(|(project, role)| (project.as_str(), *role)).collect();
    assert_eq!(roles, [("default", None), ("lung", Some(Role::Submitter))]);

    for gone in ["vera", "ben"] {
        projects::revoke(&pool, &name("lung"), gone).await.unwrap();
    }
    assert_eq!(standing(Some("ada")).await, Standing::Open, "the last one is gone");
    let refused = projects::revoke(&pool, &name("lung"), "ben").await.unwrap_err();
    assert_eq!(refused.to_string(), "there is no member 'ben of project lung'");
    let refused = projects::grant(&pool, &name("brain"), "ben", Role::Viewer).await.unwrap_err();
    assert!(matches!(&refused, Error::InvalidArgument { field: "project", .. }), "{refused}");
    let refused = projects::grant(&pool, &name("lung"), "b n", Role::Viewer).await.unwrap_err();
    assert!(matches!(&refused, Error::InvalidArgument { field: "member", .. }), "{refused}");
}

#[sqlx::test(migrations = "../migrations")]
async fn whose_a_search_and_its_jobs_are_says_also_what_the_project_says(pool: PgPool) {
    project(&pool, "lung", 1, None).await;
    let terms = Terms { project: name("lung"), owner: Some("ada".to_owned()), ..Terms::default() };
    let search = submit(&pool, &small_search(), &terms, None).await.unwrap();
    let job = jobs::of_search(&pool, search).await.unwrap()[0].id;
    let whose = async |asks| {
        let of_search = owners::of_search(&pool, search, asks).await.unwrap();
        assert_eq!(
            owners::of_job(&pool, job, asks).await.unwrap(),
            of_search,
            "a search's jobs are as it is"
        );
        of_search
    };
    let of_ada = |standing| Belongs { owner: Some("ada".to_owned()), project: "lung".to_owned(), standing };
    assert_eq!(whose(Some("ben")).await, of_ada(Standing::Open));
    projects::grant(&pool, &name("lung"), "ben", Role::Operator).await.unwrap();
    assert_eq!(whose(Some("ben")).await, of_ada(Standing::Member(Role::Operator)));
    assert_eq!(whose(Some("ada")).await, of_ada(Standing::Outsider), "to submit makes no member");
    assert_eq!(whose(None).await, of_ada(Standing::Outsider));
    let unknown = owners::of_search(&pool, SearchId::generate(), None).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { kind: "search", .. }), "{unknown}");
}

/// Whoever asks at the same time: the quota is looked at behind a lock.
#[sqlx::test(migrations = "../migrations")]
async fn a_quota_of_devices_is_never_breached_by_workers_that_ask_at_once(pool: PgPool) {
    project(&pool, "lung", 1, Some(3)).await;
    project(&pool, "brain", 1, Some(2)).await;
    search(&pool, "lung", 0, 9).await;
    search(&pool, "brain", 0, 9).await;
    let fleet = fleet(&pool, 12).await;
    open_connections(&pool).await;
    let alone = fleet[..6].iter().map(|worker| worker.acquire(&pool));
    let wishes: Vec<_> = fleet[6..].iter().map(Worker::wish).collect();
    let together = acquire_together(&pool, &wishes);
    let (alone, together) = tokio::join!(futures::future::join_all(alone), together);
    let granted = alone.iter().flatten().count()
        + together.into_iter().filter(|answer| matches!(answer, Some(Ok(Some(_))))).count();
    let of = async |statement| count(&pool, statement).await;
    let lung = of("select count(*) from job where state = 'leased' and project = 'lung'").await;
    let brain = of("select count(*) from job where state = 'leased' and project = 'brain'").await;
    assert_eq!((granted, lung, brain), (5, 3, 2));
    for worker in &fleet {
        assert_eq!(worker.acquire(&pool).await, None);
    }
}

/// A job on two devices takes two of its project's; a smaller one of another project passes.
#[sqlx::test(migrations = "../migrations")]
async fn a_quota_counts_the_devices_that_a_job_trains_on(pool: PgPool) {
    project(&pool, "lung", 1, Some(1)).await;
    search(&pool, "lung", 5, 1).await;
    let two = "update job set trainer_job = jsonb_set(trainer_job, '{training,devices}', '2')";
    sqlx::query(two).execute(&pool).await.unwrap();
    search(&pool, "default", 0, 1).await;
    let a = worker(&pool, "a").await;
    let mut wish = a.wish();
    wish.device.count = 2;
    let grant = acquire(&pool, &Policy::default(), &wish).await.unwrap().expect("the other project's");
    let project: String = sqlx::query_scalar("select project from job where id = $1")
        .bind(grant.token.job.0)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(project, "default");
}

#[sqlx::test(migrations = "../migrations")]
async fn device_hours_that_are_used_up_keep_jobs_back(pool: PgPool) {
    let terms = ProjectTerms::check(1, None, Some(2.0), 0).unwrap();
    projects::set(&pool, &name("lung"), &terms).await.unwrap();
    search(&pool, "lung", 0, 2).await;
    let fleet = fleet(&pool, 2).await;
    fleet[0].begin(&pool).await;
    has_run_for_an_hour(&pool).await;
    sqlx::query(
        "update project set usage_time = usage_time - interval '3 hours', used_device_s = 3700,
        period_time = period_time - interval '1 day'",
    )
    .execute(&pool)
    .await
    .unwrap();
    // Between rounds the hours of before count, and there are some left.
    round(&pool).await;
    assert_eq!(reasons(&pool).await, [Some("device_time_quota".to_owned())]);
    assert_eq!(fleet[1].acquire(&pool).await, None);
    let used: f64 = sqlx::query_scalar("select used_device_s from project where name = 'lung'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!((used - 7300.0).abs() < 5.0, "an hour on one device more: {used}");
    // A job that was submitted since is kept back too.
    search(&pool, "lung", 3, 1).await;
    assert_eq!(fleet[1].acquire(&pool).await, None);
    sqlx::query("update project set period_time = period_time - interval '30 days'")
        .execute(&pool)
        .await
        .unwrap();
    round(&pool).await;
    assert_eq!(reasons(&pool).await, [None], "a new period");
    assert!(fleet[1].acquire(&pool).await.is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_round_says_who_waits_for_a_quota_and_takes_it_back(pool: PgPool) {
    project(&pool, "lung", 1, Some(1)).await;
    search(&pool, "lung", 0, 3).await;
    let fleet = fleet(&pool, 2).await;
    let running = fleet[0].begin(&pool).await;
    round(&pool).await;
    let words = "select count(*) from dashboard.queue where reason = 'device_quota' and project = 'lung'";
    assert_eq!(count(&pool, words).await, 3);
    let shown = jobs::page(&pool, &jobs::Filter::default(), Order::OldestFirst, None, 100).await.unwrap();
    let held = shown.iter().filter(|job| job.is_held).map(|job| job.id).collect::<Vec<_>>();
    assert!(held.len() == 3 && !held.contains(&running.token.job), "the one that runs is held by nothing");
    assert!(round(&pool).await.is_empty(), "what is written is not written again");
    let outlooks = schedule::outlooks(&pool, &Rules::default()).await.unwrap();
    let mut sentences = outlooks.values().filter_map(|outlook| outlook.reason.as_ref());
    assert!(sentences.any(|text| text.contains("1 of the 1 devices")), "{outlooks:?}");

    // Another project is not held up, and nothing waits for ever.
    search(&pool, "default", -5, 1).await;
    let other = fleet[1].acquire(&pool).await.unwrap();
    assert_eq!(line(&pool).await, ["default", "lung", "lung", "lung"], "held ones come last");
    fail(&pool, &Policy::default(), running.token, FailureClass::User, "no").await.unwrap();
    fail(&pool, &Policy::default(), other.token, FailureClass::User, "no").await.unwrap();
    round(&pool).await;
    let next = fleet[0].acquire(&pool).await.unwrap();
    assert_eq!(state(&pool, next.token.job).await, "leased");
    assert_eq!(line(&pool).await.iter().filter(|project| *project == "lung").count(), 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn projects_take_turns_by_their_shares_and_use(pool: PgPool) {
    project(&pool, "lung", 1, None).await;
    project(&pool, "brain", 2, None).await;
    search(&pool, "lung", 0, 9).await;
    search(&pool, "brain", 0, 9).await;
    worker(&pool, "a").await;
    round(&pool).await;
    let first: Vec<String> = line(&pool).await.into_iter().take(9).collect();
    assert_eq!(first.iter().filter(|project| *project == "brain").count(), 6, "{first:?}");

    // Whoever has used much waits, as long as the others have jobs.
    let used = "update project set usage_device_s = 1e6 where name = 'brain'";
    sqlx::query(used).execute(&pool).await.unwrap();
    round(&pool).await;
    assert!(line(&pool).await[..10].iter().all(|project| project == "lung"));
    let grant = worker(&pool, "b").await.acquire(&pool).await.unwrap();
    let of: String = sqlx::query_scalar("select project from job where id = $1")
        .bind(grant.token.job.0)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(of, "lung");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_higher_priority_goes_first_at_once_and_old_jobs_in_the_end(pool: PgPool) {
    let old = search(&pool, "default", 0, 3).await;
    let urgent = search(&pool, "default", 2, 3).await;
    let first = async || -> Option<Uuid> {
        sqlx::query_scalar("select search_id from job where waits order by is_held, rank limit 1")
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    assert_eq!(first().await, Some(urgent.0), "without a round");
    round(&pool).await;
    assert_eq!(first().await, Some(urgent.0));
    let waited = "update job set create_time = create_time - interval '2 days' where search_id = $1";
    sqlx::query(waited).bind(old.0).execute(&pool).await.unwrap();
    round(&pool).await;
    assert_eq!(first().await, Some(old.0));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_makes_way_once_saves_and_goes_on_behind_the_other(pool: PgPool) {
    search(&pool, "default", 0, 1).await;
    let a = worker(&pool, "a").await;
    let patient = a.begin(&pool).await;
    tell(&pool, &report_of(patient.token, 1, 1, 4)).await.unwrap();
    let urgent = search(&pool, "default", 10, 1).await;
    round(&pool).await;
    let receipt = tell(&pool, &report_of(patient.token, 2, 1, 5)).await.unwrap();
    assert_eq!(receipt.desired, Desired::Run, "it has not run for half an hour");

    has_run_for_an_hour(&pool).await;
    let decided = round(&pool).await;
    assert_eq!(decided.stops.len(), 1);
    assert!(round(&pool).await.stops.is_empty(), "once");
    assert_eq!(count(&pool, "select count(*) from dashboard.queue where reason = 'being_cleared'").await, 1);
    let receipt = tell(&pool, &report_of(patient.token, 3, 1, 6)).await.unwrap();
    assert_eq!(receipt.desired, Desired::Yield);
    save(&pool, &patient, 6).await;
    fail(&pool, &Policy::default(), patient.token, FailureClass::Cancelled, "stopped").await.unwrap();
    let counted = "select count(*) from job join attempt on attempt.job_id = job.id
        where job.preemption_count = 1 and job.lost_count = 0 and job.no_progress_count = 0
            and attempt.end_reason = 'handed back' and job.run_after is null";
    assert_eq!(count(&pool, counted).await, 1);
    assert_eq!(count(&pool, "select count(*) from event where kind = 'job_preempted'").await, 1);

    let next = a.begin(&pool).await;
    let of: Option<Uuid> = sqlx::query_scalar("select search_id from job where id = $1")
        .bind(next.token.job.0)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(of, Some(urgent.0));
    worker(&pool, "b").await.begin(&pool).await;
    let again = worker(&pool, "c").await.begin(&pool).await;
    assert_eq!((again.token.job, again.token.epoch), (patient.token.job, 2));
    assert_eq!(again.resume_from.as_ref().map(|saved| saved.step), Some(6));
    let receipt = tell(&pool, &report_of(again.token, 1, 1, 7)).await.unwrap();
    assert_eq!(receipt.desired, Desired::Run, "what the attempt before was told means nothing now");
}

/// The planner may have moved the others before the place that it had.
#[sqlx::test(migrations = "../migrations")]
async fn a_job_that_lost_its_worker_goes_on_before_others_of_its_priority(pool: PgPool) {
    search(&pool, "default", 0, 1).await;
    let a = worker(&pool, "a").await;
    let lost = a.begin(&pool).await;
    for _ in 0..3 {
        search(&pool, "default", 0, 1).await;
    }
    sqlx::query("update job set planned_rank = -(1::bigint << 44) - position where waits")
        .execute(&pool)
        .await
        .unwrap();
    let urgent = search(&pool, "default", 5, 1).await;
    fail(&pool, &Policy::default(), lost.token, FailureClass::Lost, "gone").await.unwrap();
    for name in ["b", "c"] {
        let first = worker(&pool, name).await.begin(&pool).await;
        let of: Option<Uuid> = sqlx::query_scalar("select search_id from job where id = $1")
            .bind(first.token.job.0)
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(of, Some(urgent.0), "a higher priority is not passed");
    }
    let again = worker(&pool, "d").await.begin(&pool).await;
    assert_eq!((again.token.job, again.token.epoch), (lost.token.job, 2));
}

/// A wide slot that is kept for a wide job is not given to a narrow one; without the wide
/// job it is like any other.
#[sqlx::test(migrations = "../migrations")]
async fn a_slot_is_kept_for_the_job_that_needs_it(pool: PgPool) {
    search(&pool, "default", 0, 1).await;
    let wide = "update job set trainer_job = jsonb_set(trainer_job, '{training,devices}', '2')
        where kind = 'retrain'";
    sqlx::query(wide).execute(&pool).await.unwrap();
    let (a, b) = (worker(&pool, "a").await, worker(&pool, "b").await);
    let slots = "update worker set devices = jsonb_set(devices, '{0,count}', '2') where id = 'a'";
    sqlx::query(slots).execute(&pool).await.unwrap();
    round(&pool).await;
    let mut wish = a.wish();
    wish.device.count = 2;
    let grant = acquire(&pool, &Policy::default(), &wish).await.unwrap().unwrap();
    let devices: i32 = sqlx::query_scalar("select device_count from job where id = $1")
        .bind(grant.token.job.0)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(devices, 2, "though another stands before it");
    let narrow = b.begin(&pool).await;
    assert_ne!(narrow.token.job, grant.token.job);
    fail(&pool, &Policy::default(), grant.token, FailureClass::User, "no").await.unwrap();
    search(&pool, "default", 0, 1).await;
    wish.request_id = Uuid::new_v4();
    assert!(acquire(&pool, &Policy::default(), &wish).await.unwrap().is_some(), "its job is gone");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_no_slot_is_wide_enough_for_says_so(pool: PgPool) {
    search(&pool, "default", 0, 1).await;
    let wide = "update job set trainer_job = jsonb_set(trainer_job, '{training,devices}', '4')";
    sqlx::query(wide).execute(&pool).await.unwrap();
    worker(&pool, "a").await;
    assert_eq!(count(&pool, "select count(*) from dashboard.queue where reason = 'too_narrow'").await, 2);
    round(&pool).await;
    assert_eq!(count(&pool, "select count(*) from dashboard.queue where reason = 'too_narrow'").await, 2);
}

/// Rounds at once end well, and what they write is that of one.
#[sqlx::test(migrations = "../migrations")]
async fn coordinators_that_plan_at_once_do_not_fight(pool: PgPool) {
    search(&pool, "default", 0, 1).await;
    let a = worker(&pool, "a").await;
    a.begin(&pool).await;
    has_run_for_an_hour(&pool).await;
    search(&pool, "default", 10, 1).await;
    open_connections(&pool).await;
    let rules = Rules::default();
    let rounds = (0..6).map(|_| schedule::plan(&pool, &rules));
    let planned: Vec<_> = futures::future::join_all(rounds).await.into_iter().map(Result::unwrap).collect();
    assert!(planned.iter().flatten().count() >= 1);
    assert_eq!(count(&pool, "select count(*) from event where kind = 'job_preempted'").await, 1);
    assert_eq!(count(&pool, "select sum(preemption_count) from job").await, 1);
}
