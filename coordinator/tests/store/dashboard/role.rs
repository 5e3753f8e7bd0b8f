//! Who may read the views, and what else that allows.

use cakes_coordinator::store::read::dashboard::without_readers;
use cakes_coordinator::store::{MIGRATIONS, PgPool};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Connection, Postgres};

use super::{VIEWS, filled};
use crate::support::open_connections;

async fn run(connection: &mut PoolConnection<Postgres>, statement: String) -> Result<u64, String> {
    let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut **connection).await;
    done.map(|done| done.rows_affected()).map_err(|error| error.to_string())
}

#[track_caller]
fn denied(result: Result<u64, String>, what: &str) {
    let error = result.expect_err(what);
    // Postgres says first of some views that nobody can write them.
    let refusals = ["permission denied", "cannot delete from view"];
    assert!(refusals.iter().any(|refusal| error.contains(refusal)), "{what}: {error}");
}

#[sqlx::test(migrations = "../migrations")]
async fn the_role_reads_every_view_and_can_do_nothing_else(pool: PgPool) {
    filled::fill(&pool).await;
    let came_in = "insert into search_import
            (search_id, content_sha256, source, cakes_version, export_time, is_snapshot)
        select id, repeat('a', 64), 'elsewhere', '1', clock_timestamp(), false from search limit 1";
    sqlx::query(came_in).execute(&pool).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', nspname, relname) from pg_class join pg_namespace on pg_namespace.oid = relnamespace
         where relkind in ('r', 'p', 'v') and nspname <> 'dashboard' and nspname !~ '^pg_|^information_schema$'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(tables.iter().any(|table| table == "public.job"), "{tables:?}");
    let mut connection = pool.acquire().await.unwrap();
    run(&mut connection, "set role cakes_dashboard".into()).await.unwrap();
    for view in VIEWS {
        let rows = run(&mut connection, format!("select * from dashboard.{view}")).await.unwrap();
        assert!(rows > 0, "dashboard.{view} is empty");
        denied(run(&mut connection, format!("delete from dashboard.{view}")).await, view);
    }
    denied(run(&mut connection, "update dashboard.events set kind = 'x'".into()).await, "update a view");
    denied(run(&mut connection, "insert into dashboard.events (kind) values ('x')".into()).await, "insert");
    for table in tables {
        denied(run(&mut connection, format!("select * from {table}")).await, &table);
        denied(run(&mut connection, format!("delete from {table}")).await, &table);
    }
    denied(run(&mut connection, "create table dashboard.mine (id int)".into()).await, "create a table");
    denied(run(&mut connection, "select grant_dashboard()".into()).await, "grant");
    run(&mut connection, "reset role".into()).await.unwrap();
}

/// As when several coordinators start, or many databases of one server.
#[sqlx::test(migrations = "../migrations")]
async fn rights_may_be_given_again_and_by_several_at_once(pool: PgPool) {
    open_connections(&pool).await;
    let again = (0..8).map(|_| sqlx::query("select grant_dashboard()").execute(&pool));
    for outcome in futures::future::join_all(again).await {
        outcome.unwrap();
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_schema_that_nobody_else_reads_is_told_from_one_with_readers(pool: PgPool) {
    let mut connection = pool.acquire().await.unwrap();
    assert_eq!(without_readers(&mut connection).await.unwrap(), None);
    run(&mut connection, "revoke usage on schema dashboard from cakes_dashboard".into()).await.unwrap();
    let user: String = sqlx::query_scalar("select current_user::text").fetch_one(&pool).await.unwrap();
    assert_eq!(without_readers(&mut connection).await.unwrap(), Some(user));
}

/// Who may not create roles gets its tables all the same, and then the role from
/// somebody who may.
#[sqlx::test(migrations = false)]
async fn a_user_who_may_not_create_roles_migrates_and_is_given_the_role_later(pool: PgPool) {
    let plain = format!("cakes_plain_{}", uuid::Uuid::new_v4().simple());
    let reader = format!("cakes_reader_{}", uuid::Uuid::new_v4().simple());
    let mut connection = pool.acquire().await.unwrap();
    run(&mut connection, format!("create role {plain} nologin")).await.unwrap();
    let own = format!(
        "do $$ begin execute format('alter database %I owner to {plain}', current_database()); end $$"
    );
    run(&mut connection, own).await.unwrap();
    run(&mut connection, format!("grant all on schema public to {plain}; set role {plain}")).await.unwrap();
    MIGRATIONS.run(&mut *connection).await.unwrap();

    let give = format!("select grant_dashboard('{reader}')");
    run(&mut connection, give.clone()).await.expect("a warning, not an error");
    let mut administrator = pool.acquire().await.unwrap();
    let exists = format!("select from pg_roles where rolname = '{reader}'");
    assert_eq!(run(&mut administrator, exists).await, Ok(0));
    run(&mut administrator, format!("create role {reader} nologin")).await.unwrap();
    run(&mut connection, give).await.unwrap();
    run(&mut administrator, format!("set role {reader}")).await.unwrap();
    run(&mut administrator, "select * from dashboard.jobs".into()).await.unwrap();

    run(&mut administrator, "reset role".into()).await.unwrap();
    let leave = "reset role; do $$ begin
        execute format('alter database %I owner to %I', current_database(), current_user); end $$";
    run(&mut connection, leave.into()).await.unwrap();
    let clean = format!(
        "reassign owned by {plain} to current_user; drop owned by {plain}, {reader}; drop role {plain}, {reader}"
    );
    for statement in clean.split(';') {
        run(&mut administrator, statement.to_owned()).await.unwrap();
    }
    connection.ping().await.unwrap();
}
