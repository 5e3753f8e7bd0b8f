//! Who may do what on the page: every action by every role, sessions, forged requests.

use std::fmt::Write as _;
use std::time::Duration;

use cakes_coordinator::core::access::{Action, Role, TokenRole, permits};
use cakes_coordinator::core::project::{ProjectName, Terms};
use cakes_coordinator::core::rights::{Needs, needs};
use cakes_coordinator::core::throttle::Limits;
use cakes_coordinator::store::access::{self, AuditRecord, issue, revoke};
use cakes_coordinator::store::{Error, MIGRATIONS, PgPool, projects};
use cakes_coordinator::web::Settings;
use cakes_proto::v1::{JobState, SubmitSearchRequest};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Service, Worker, job_id, small_search};
use crate::page::{Answer, send};

const OWN: &str =
    "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\nContent-Type: application/json\r\n";

/// Rows of the page; what a test asks of the API is in the record as well.
async fn audit(pool: &PgPool, behind: Option<i64>, limit: i64) -> Result<Vec<AuditRecord>, Error> {
    let mut rows = access::page(pool, behind, limit).await?;
    rows.retain(|row| row.via == "page");
    Ok(rows)
}

async fn post(service: &Service, path: &str, headers: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let request = format!(
        "POST /api/v1{path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    send(service, &request).await
}

/// As a program with a token.
pub async fn with_token(service: &Service, token: &str, path: &str, body: &Value) -> Answer {
    let headers = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    post(service, path, &headers, body).await
}

async fn get(service: &Service, path: &str, headers: &str) -> Answer {
    let request =
        format!("GET /api/v1{path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
    send(service, &request).await
}

/// The header of the cookie that a token was exchanged for.
async fn signed_in(service: &Service, token: &str) -> String {
    let answer = post(service, "/sign-in", OWN, &json!({ "token": token })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let cookie = answer.header("set-cookie").unwrap();
    for wanted in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(wanted), "{cookie}");
    }
    assert!(!cookie.contains("Secure") && !cookie.contains(token), "{cookie}");
    format!("Cookie: {}\r\n", cookie.split(';').next().unwrap())
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// Path and body of an action on what exists.
fn request(action: Action, job: &str, search: &str) -> Option<(String, Value)> {
    let of_job = |verb: &str| Some((format!("/jobs/{job}/{verb}"), json!({})));
    let wish = json!({ "budgets": [0.45] });
    match action {
        Action::Read => None,
        Action::PreviewDerivation => Some((format!("/searches/{search}/derivations"), wish)),
        Action::QueueRetrainings => {
            let request_id = Uuid::new_v4().to_string();
            let body = json!({ "derive": wish, "seeds": [7], "request_id": request_id });
            Some((format!("/searches/{search}/retrainings"), body))
        }
        Action::RetryJob => of_job("retry"),
        Action::ResumeJob => of_job("resume"),
        Action::PauseJob => of_job("pause"),
        Action::CancelJob => of_job("cancel"),
        Action::CancelSearch => Some((format!("/searches/{search}/cancel"), json!({ "reason": "enough" }))),
    }
}

/// What a job must be for an action to be possible.
async fn prepare(service: &Service, action: Action, job: &str) {
    use cakes_proto::v1::{CancelJobRequest, PauseJobRequest, ResumeJobRequest, RetryJobRequest};
    let (mut jobs, id) = (service.jobs(), job.to_owned());
    let state = service.job(job).await.state();
    match (action, state) {
        (Action::RetryJob, JobState::Queued) => {
            jobs.cancel_job(CancelJobRequest { id, reason: String::new(), ..CancelJobRequest::default() })
                .await
                .unwrap();
        }
        (Action::ResumeJob, JobState::Queued) => {
            jobs.pause_job(PauseJobRequest { id, ..PauseJobRequest::default() }).await.unwrap();
        }
        (Action::PauseJob | Action::CancelJob, JobState::Paused) => {
            jobs.resume_job(ResumeJobRequest { id, ..ResumeJobRequest::default() }).await.unwrap();
        }
        (Action::PauseJob | Action::ResumeJob | Action::CancelJob, JobState::Cancelled) => {
            jobs.retry_job(RetryJobRequest { id, ..RetryJobRequest::default() }).await.unwrap();
            if action == Action::ResumeJob {
                jobs.pause_job(PauseJobRequest { id: job.to_owned(), ..PauseJobRequest::default() })
                    .await
                    .unwrap();
            }
        }
        _ => {}
    }
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn every_action_is_done_for_the_roles_of_its_row_and_for_nobody_else(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let search = service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "a").await;
    let supernet = worker.acquire().await;
    worker.run(&supernet, 0.5).await;
    // One that no plan depends on, of a search that is cancelled last.
    let spare = service.submit(small_search()).await;
    let job = service.search(&spare.id).await.jobs[0].id.clone();
    let mut expected = String::new();
    for role in Role::ALL {
        let token = issue(&pool, role.as_str(), *role, None).await.unwrap();
        let cookie = signed_in(&service, &token).await;
        let _ = writeln!(expected, "{role} sign_in ok");
        let shown = get(&service, "/session", &cookie).await.json();
        for action in Action::ALL {
            let may = permits(*role, *action);
            let told = shown["may"].as_array().unwrap().contains(&action.as_str().into());
            assert_eq!(told, may, "{role} {action}: {shown}");
            prepare(&service, *action, &job).await;
            let Some((path, body)) = request(*action, &job, &search.id) else { continue };
            let nobody = post(&service, &path, OWN, &body).await;
            assert_eq!((nobody.status, code(&nobody).as_str()), (401, "UNAUTHORIZED"), "{action}");
            let before = service.job(&job).await.state();
            let answer = post(&service, &path, &format!("{OWN}{cookie}"), &body).await;
            // Nobody known has submitted the searches.
            let is_for_owners = action.methods().iter().any(|method| needs(*method) == Needs::Owner);
            let is_done = may && (*role == Role::Operator || !is_for_owners);
            if is_done {
                assert_eq!(answer.status, 200, "{role} {action}: {}", answer.body);
            } else {
                assert_eq!((answer.status, code(&answer).as_str()), (403, "FORBIDDEN"), "{role} {action}");
                let remedy = if may { "an operator may" } else { "token issue" };
                assert!(answer.body.contains(remedy), "no remedy: {}", answer.body);
                assert_eq!(service.job(&job).await.state(), before, "{role} {action}");
            }
            let _ = writeln!(expected, "{role} {action} {}", if is_done { "ok" } else { "FORBIDDEN" });
        }
    }
    assert_eq!(service.search(&search.id).await.state, i32::from(cakes_proto::v1::SearchState::Cancelled));
    let rows = audit(&pool, None, 1000).await.unwrap();
    let known = rows
        .iter()
        .rev()
        .filter_map(|row| Some(format!("{} {} {}\n", row.role.as_deref()?, row.action, row.answer)));
    assert_eq!(known.collect::<String>(), expected);
    let unknown = rows.iter().filter(|row| row.token_name.is_none());
    let unknown: Vec<_> = unknown.map(|row| (row.answer.as_str(), row.peer.as_str())).collect();
    assert!(unknown.len() >= Action::ALL.len() - 1);
    assert!(unknown.iter().all(|row| *row == ("UNAUTHORIZED", "127.0.0.1")), "{unknown:?}");
    let changed = sqlx::query("update audit set answer = 'ok'").execute(&pool).await.unwrap_err();
    assert!(changed.to_string().contains("never changed"), "{changed}");
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_session_ends_with_its_token_and_no_wrong_token_opens_one(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let token = issue(&pool, "anna", Role::Operator, Some(Duration::from_secs(3600))).await.unwrap();
    assert!(issue(&pool, "anna", Role::Viewer, None).await.unwrap_err().to_string().contains("revoke"));
    assert!(issue(&pool, "a b", Role::Viewer, None).await.is_err());
    let stored: String =
        sqlx::query_scalar("select access_token::text from access_token").fetch_one(&pool).await.unwrap();
    assert!(!stored.contains(&token[6..]), "the secret is stored");
    let cookie = signed_in(&service, &token).await;
    let shown = get(&service, "/session", &cookie).await.json();
    assert_eq!((shown["name"].as_str(), shown["role"].as_str()), (Some("anna"), Some("operator")));
    // A token's end is its sessions' end.
    let until: chrono::DateTime<chrono::Utc> = shown["expire_time"].as_str().unwrap().parse().unwrap();
    assert!(until < chrono::Utc::now() + Duration::from_secs(3700), "{until}");

    let out = post(&service, "/sign-out", &format!("{OWN}{cookie}"), &json!({})).await;
    assert!(out.status == 200 && out.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(
        get(&service, "/session", &cookie).await.json()["signed_in"],
        false,
        "the cookie is still good"
    );

    let cookie = signed_in(&service, &token).await;
    revoke(&pool, "anna").await.unwrap();
    assert!(revoke(&pool, "anna").await.is_err(), "it is revoked once");
    assert_eq!(get(&service, "/session", &cookie).await.json()["signed_in"], false);
    let job = Uuid::new_v4();
    let refused = post(&service, &format!("/jobs/{job}/pause"), &format!("{OWN}{cookie}"), &json!({})).await;
    assert_eq!(refused.status, 401);
    let bearer = with_token(&service, &token, &format!("/jobs/{job}/pause"), &json!({})).await;
    assert!(bearer.status == 401 && bearer.body.contains("revoked"), "{}", bearer.body);

    let late = issue(&pool, "late", Role::Operator, Some(Duration::from_secs(3600))).await.unwrap();
    let open = signed_in(&service, &late).await;
    let expire =
        "update access_token set expire_time = clock_timestamp() - interval '1 second' where name = 'late'";
    sqlx::query(expire).execute(&pool).await.unwrap();
    assert_eq!(get(&service, "/session", &open).await.json()["signed_in"], false);
    let refused = post(&service, "/sign-in", OWN, &json!({ "token": late })).await;
    assert!(refused.status == 401 && refused.body.contains("expired"), "{}", refused.body);

    // The page is for people.
    let of_worker = issue(&pool, "gpu-01", TokenRole::Worker, None).await.unwrap();
    assert!(issue(&pool, "Gpu-01", TokenRole::Worker, None).await.is_err(), "no worker is called so");
    let refused = post(&service, "/sign-in", OWN, &json!({ "token": of_worker })).await;
    assert!(refused.status == 403 && refused.body.contains("that of a worker"), "{}", refused.body);
    let refused = with_token(&service, &of_worker, &format!("/jobs/{job}/pause"), &json!({})).await;
    assert_eq!((refused.status, code(&refused).as_str()), (403, "FORBIDDEN"), "{}", refused.body);

    let guess = format!("cakes_{}", "0".repeat(64));
    let mut answers = Vec::new();
    for _ in 0..12 {
        answers.push(post(&service, "/sign-in", OWN, &json!({ "token": guess })).await.status);
    }
    assert!(answers.iter().all(|status| *status == 401), "{answers:?}");
    let rows = audit(&pool, None, 1000).await.unwrap();
    let wrong = rows.iter().filter(|row| row.action == "sign_in" && row.token_name.is_none()).count();
    assert_eq!(wrong, 10, "guesses fill the record");
    let asked = std::time::Instant::now();
    assert_eq!(post(&service, "/sign-in", OWN, &json!({ "token": guess })).await.status, 401);
    assert!(asked.elapsed() >= Duration::from_secs(1), "guesses are not slowed down");
    let right = issue(&pool, "otto", Role::Operator, None).await.unwrap();
    signed_in(&service, &right).await;
}

/// A trigger of the database stands for a coordinator that dies at that moment.
#[sqlx::test(migrator = "MIGRATIONS")]
async fn what_is_done_is_in_the_record_before(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let token = issue(&pool, "anna", Role::Operator, None).await.unwrap();
    let search = service.submit(small_search()).await;
    let job = service.search(&search.id).await.jobs[0].id.clone();
    let pause = format!("/jobs/{job}/pause");
    let run = async |statement: &'static str| sqlx::query(statement).execute(&pool).await.unwrap();
    run("create function nobody_writes() returns trigger language plpgsql as $$ begin raise 'full'; end $$")
        .await;
    run("create trigger full_disk before insert on audit for each row execute function nobody_writes()")
        .await;
    let refused = with_token(&service, &token, &pause, &json!({})).await;
    assert_eq!((refused.status, code(&refused).as_str()), (503, "NOT_RECORDED"), "{}", refused.body);
    assert_eq!(service.job(&job).await.state(), JobState::Queued, "done without a record");

    run("drop trigger full_disk on audit").await;
    run("create trigger full_disk before insert on audit for each row when (new.begun_id is not null)
         execute function nobody_writes()")
    .await;
    assert_eq!(with_token(&service, &token, &pause, &json!({})).await.status, 200);
    assert_eq!(service.job(&job).await.state(), JobState::Paused);
    let rows = audit(&pool, None, 10).await.unwrap();
    let row = rows.first().unwrap();
    assert_eq!((row.action.as_str(), row.answer.as_str(), &row.object), ("pause_job", "BEGUN", &job));

    run("drop trigger full_disk on audit").await;
    assert_eq!(with_token(&service, &token, &format!("/jobs/{job}/resume"), &json!({})).await.status, 200);
    let rows = audit(&pool, None, 10).await.unwrap();
    let answers: Vec<_> = rows.iter().map(|row| (row.action.as_str(), row.answer.as_str())).collect();
    assert_eq!(answers, [("resume_job", "ok"), ("pause_job", "BEGUN")]);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn requests_of_other_pages_are_refused_whoever_is_signed_in(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let token = issue(&pool, "anna", Role::Operator, None).await.unwrap();
    let cookie = signed_in(&service, &token).await;
    let job = service.submit(small_search()).await.jobs;
    let id = match job.first() {
        Some(job) => job.id.clone(),
        None => {
            let mut worker = Worker::register(&service, "a").await;
            job_id(&worker.acquire().await)
        }
    };
    let path = format!("/jobs/{id}/cancel");
    let before = service.job(&id).await.state();
    let json_body = "Content-Type: application/json\r\n";
    for (headers, code_of) in [
        (format!("Origin: http://evil.example\r\n{json_body}"), "FOREIGN_ORIGIN"),
        (format!("Origin: http://localhost:81\r\n{json_body}"), "FOREIGN_ORIGIN"),
        (format!("Origin: null\r\nSec-Fetch-Site: cross-site\r\n{json_body}"), "FOREIGN_ORIGIN"),
        (format!("Origin: http://localhost\r\nSec-Fetch-Site: same-site\r\n{json_body}"), "FOREIGN_ORIGIN"),
        (json_body.to_owned(), "FOREIGN_ORIGIN"),
        ("Origin: http://localhost\r\nContent-Type: text/plain\r\n".to_owned(), "NOT_JSON"),
        ("Origin: http://localhost\r\n".to_owned(), "NOT_JSON"),
    ] {
        let refused = post(&service, &path, &format!("{headers}{cookie}"), &json!({})).await;
        assert_eq!(code(&refused), code_of, "{headers}");
    }
    assert_eq!(service.job(&id).await.state(), before);
    let rows = audit(&pool, None, 100).await.unwrap();
    assert_eq!(rows.iter().filter(|row| row.action == "cross_site").count(), 7);
    assert_eq!(post(&service, &path, &format!("{OWN}{cookie}"), &json!({})).await.status, 200);
    // What came first is said.
    let again = with_token(&service, &token, &path, &json!({ "reasons": "x" })).await;
    assert_eq!((again.status, code(&again).as_str()), (400, "INVALID_ARGUMENT"));
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_cancellation_that_comes_too_late_says_so(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let token = issue(&pool, "anna", Role::Operator, None).await.unwrap();
    service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "a").await;
    let grant = worker.acquire().await;
    worker.run(&grant, 0.5).await;
    let late = with_token(&service, &token, &format!("/jobs/{}/cancel", job_id(&grant)), &json!({})).await;
    assert_eq!((late.status, code(&late).as_str()), (409, "WRONG_STATE"));
    assert!(late.body.contains("completed first") && late.body.contains("succeeded"), "{}", late.body);
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_preview_records_nothing_and_a_repetition_queues_nothing(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let token = issue(&pool, "ben", Role::Submitter, None).await.unwrap();
    let search = service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "a").await;
    let grant = worker.acquire().await;
    let path = format!("/searches/{}", search.id);
    let early =
        with_token(&service, &token, &format!("{path}/derivations"), &json!({ "budgets": [0.5] })).await;
    assert!(early.status == 409 && early.body.contains("no scores yet"), "{}", early.body);
    worker.run(&grant, 0.5).await;
    let count = async || -> i64 {
        sqlx::query_scalar("select count(*) from search_architecture where origin like 'budget 0.51%'")
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    let wish = json!({ "budgets": [0.51], "measure": "COST_MEASURE_PARAM", "count_multiple": 2 });
    let seen = with_token(&service, &token, &format!("{path}/derivations"), &wish).await;
    assert_eq!(seen.status, 200, "{}", seen.body);
    assert_eq!(count().await, 0, "a preview is recorded");
    let body = json!({ "derive": wish, "seeds": [1, 2], "request_id": "once" });
    let mut jobs = Vec::new();
    for _ in 0..2 {
        let queued = with_token(&service, &token, &format!("{path}/retrainings"), &body).await;
        assert_eq!(queued.status, 200, "{}", queued.body);
        let queued = queued.json();
        assert_eq!(queued["derived"]["derivations"], seen.json()["derivations"]);
        jobs.push(queued["jobs"].as_array().unwrap().iter().map(|job| job["id"].clone()).collect::<Vec<_>>());
    }
    assert_eq!((jobs[0].len(), &jobs[0]), (2, &jobs[1]));
    // They are ben's; the search was submitted by nobody known.
    let own = jobs[0][0].as_str().unwrap();
    let cancelled = with_token(&service, &token, &format!("/jobs/{own}/cancel"), &json!({})).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.body);
    assert_eq!(cancelled.json()["job"]["owner"], "ben");
    let refused = with_token(&service, &token, &format!("{path}/cancel"), &json!({})).await;
    assert_eq!((refused.status, code(&refused).as_str()), (403, "FORBIDDEN"));
    assert!(refused.body.contains("may not change it"), "{}", refused.body);
    assert_eq!(count().await, 1);
    for (wrong, field) in [
        (json!({ "derive": { "budgets": [7.0] }, "seeds": [1], "request_id": "b" }), "budgets"),
        (json!({ "derive": wish, "seeds": [], "request_id": "c" }), "seeds"),
        (json!({ "derive": wish, "seeds": (0..65).collect::<Vec<_>>(), "request_id": "d" }), "seeds"),
        (json!({ "derive": wish, "seeds": [1], "request_id": "a/b" }), "request_id"),
        (json!({ "derive": wish, "seeds": [1], "request_id": "e", "priority": 9 }), "body"),
    ] {
        let refused = with_token(&service, &token, &format!("{path}/retrainings"), &wrong).await;
        assert!(refused.status == 400 && refused.body.contains(field), "{field}: {}", refused.body);
    }
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn where_reading_needs_a_token_nobody_else_is_told_anything(pool: PgPool) {
    let allowed = vec!["cakes.example".to_owned()];
    let callers = Limits::default();
    let settings = Settings { allowed_hosts: allowed, requires_token: true, is_encrypted: false, callers };
    let service = Service::start_with(pool.clone(), settings).await;
    for path in ["/searches", "/jobs", "/queue", "/workers", "/events", "/changes"] {
        assert_eq!(get(&service, path, "").await.status, 401, "{path}");
    }
    assert_eq!(get(&service, "/session", "").await.json()["requires_token"], true);
    let token = issue(&pool, "vera", Role::Viewer, None).await.unwrap();
    let bearer = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(get(&service, "/searches", &bearer).await.status, 200);
    let cookie = signed_in(&service, &token).await;
    assert_eq!(get(&service, "/searches", &cookie).await.status, 200);

    // Under the name of a proxy with TLS the cookie is for encrypted connections only.
    let body = json!({ "token": token }).to_string();
    let sign_in = |origin: &str, host: &str| {
        format!(
            "POST /api/v1/sign-in HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let answer = send(&service, &sign_in("https://cakes.example", "cakes.example")).await;
    assert!(
        answer.status == 200 && answer.header("set-cookie").unwrap().contains("; Secure"),
        "{}",
        answer.body
    );
    let plain = send(&service, &sign_in("http://10.0.0.3:7551", "10.0.0.3:7551")).await;
    assert_eq!((plain.status, code(&plain).as_str()), (403, "NOT_ENCRYPTED"));
    assert_eq!(send(&service, &sign_in("https://other.example", "other.example")).await.status, 421);
}

/// On the page as over the API; what buttons go by is told.
#[sqlx::test(migrator = "MIGRATIONS")]
async fn members_act_on_what_is_of_their_project_and_others_do_not(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let lung: ProjectName = "lung".parse().unwrap();
    projects::set(&pool, &lung, &Terms::check(0, None, None, 0).unwrap()).await.unwrap();
    let wish = SubmitSearchRequest { project: "lung".to_owned(), ..small_search() };
    let job = service.submit(wish).await.jobs[0].id.clone();
    projects::grant(&pool, &lung, "omar", Role::Operator).await.unwrap();
    let [ada, omar] = ["ada", "omar"].map(|name| issue(&pool, name, Role::Submitter, None));
    let (ada, omar) = (ada.await.unwrap(), omar.await.unwrap());
    for (token, role) in [(&ada, Value::Null), (&omar, "operator".into())] {
        let cookie = signed_in(&service, token).await;
        let shown = get(&service, "/session", &cookie).await.json();
        assert_eq!(shown["projects"], json!({ "lung": role }), "{shown}");
        assert!(shown["may"].as_array().unwrap().contains(&"pause_job".into()));
    }
    let pause = format!("/jobs/{job}/pause");
    let refused = with_token(&service, &ada, &pause, &json!({})).await;
    assert_eq!((refused.status, code(&refused).as_str()), (403, "FORBIDDEN"));
    assert!(refused.body.contains("cakes project grant lung"), "{}", refused.body);
    let paused = with_token(&service, &omar, &pause, &json!({})).await;
    assert_eq!(paused.status, 200, "{}", paused.body);
    assert_eq!(paused.json()["job"]["project"], "lung");
}
