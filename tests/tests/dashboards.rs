//! Every query that people are shown, on a small filled database, with the rights of
//! the role that dashboards have.

use cakes_tests::bench::Place;
use cakes_tests::bench::sql::{Filled, Size};
use sqlx::{AssertSqlSafe, Executor};

#[test]
fn every_documented_query_and_every_panel_gives_something() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run_all());
}

async fn run_all() {
    let size = Size { architectures: 2000, points: 200_000 };
    let filled = Filled::start(&Place::default(), &size).await.unwrap();
    let queries = filled.queries().await.unwrap();
    let documented = queries.iter().filter(|query| query.file == "sql.md").count();
    assert!(documented >= 10 && queries.len() - documented >= 20, "{documented} of {}", queries.len());
    let mut reader = filled.reader().await.unwrap();
    let mut wrong = Vec::new();
    for query in &queries {
        match reader.fetch_all(sqlx::raw_sql(AssertSqlSafe(query.text.clone()))).await {
            Ok(rows) if !rows.is_empty() => {}
            Ok(_) => wrong.push(format!("{}, {}: gives nothing:\n{}", query.file, query.name, query.text)),
            Err(error) => wrong.push(format!("{}, {}: {error}:\n{}", query.file, query.name, query.text)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
