//! `docs/sql.md` says what the database says of itself.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cakes_coordinator::store::PgPool;

use super::VIEWS;

const BEGIN: &str = "<!-- The reference is made from the database's comments. -->\n";
const END: &str = "<!-- End of the reference. -->";
const RENEW: &str = "RENEW_REFERENCE=1 cargo test -p cakes-coordinator --test store the_reference";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sql.md")
}

/// What dashboards rely on: names, order, types and meanings.
#[sqlx::test(migrations = "../migrations")]
async fn the_reference_of_the_views_is_that_of_the_database(pool: PgPool) {
    let made = reference(&pool).await;
    let text = std::fs::read_to_string(page()).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("docs/sql.md marks where the reference begins");
    let (written, after) = rest.split_once(END).expect("docs/sql.md marks where the reference ends");
    if std::env::var_os("RENEW_REFERENCE").is_some() {
        std::fs::write(page(), format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
        return;
    }
    for (line, (made, written)) in made.lines().zip(written.lines()).enumerate() {
        assert_eq!(
            made, written,
            "line {line} of the reference: a view of the schema dashboard has changed, which breaks what people \
             built on it; if that is meant, renew docs/sql.md with `{RENEW}`"
        );
    }
    assert_eq!(made.len(), written.len(), "a view has come or gone; renew docs/sql.md with `{RENEW}`");
}

#[sqlx::test(migrations = "../migrations")]
async fn the_schema_holds_the_views_and_nothing_else(pool: PgPool) {
    let mut relations: Vec<(String, String)> = sqlx::query_as(
        "select relname::text, relkind::text from pg_class where relnamespace = 'dashboard'::regnamespace",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    relations.sort();
    let mut expected = VIEWS.map(|view| (view.to_owned(), "v".to_owned()));
    expected.sort();
    assert_eq!(relations, expected);
    let odd: Vec<String> = sqlx::query_scalar(
        "select format('%s.%s %s', attrelid::regclass, attname, atttypid::regtype) from pg_attribute
         join pg_class on pg_class.oid = attrelid
         where relnamespace = 'dashboard'::regnamespace and (
             (attname ~ '(^|_)time$') <> (atttypid = 'timestamptz'::regtype)
             or attname ~ 'nonce|hash|secret|token|request_id'
         )",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(odd, Vec::<String>::new(), "times are timestamptz and end in _time; nothing secret is shown");
}

async fn reference(pool: &PgPool) -> String {
    let mut text = String::new();
    for view in VIEWS {
        let about: Option<String> =
            sqlx::query_scalar("select obj_description(('dashboard.' || $1)::regclass, 'pg_class')")
                .bind(view)
                .fetch_one(pool)
                .await
                .unwrap();
        let about = about.unwrap_or_else(|| panic!("dashboard.{view} has no comment"));
        writeln!(text, "\n### dashboard.{view}\n\n{about}\n\n| column | type | meaning |\n|---|---|---|")
            .unwrap();
        for (column, kind, meaning) in columns(pool, view).await {
            let meaning = meaning.unwrap_or_else(|| panic!("dashboard.{view}.{column} has no comment"));
            writeln!(text, "| `{column}` | {kind} | {} |", meaning.replace('|', "\\|")).unwrap();
        }
    }
    text.push('\n');
    text
}

async fn columns(pool: &PgPool, view: &str) -> Vec<(String, String, Option<String>)> {
    sqlx::query_as(
        "select attname::text, format_type(atttypid, atttypmod), col_description(attrelid, attnum::int)
         from pg_attribute where attrelid = ('dashboard.' || $1)::regclass and attnum > 0 and not attisdropped
         order by attnum",
    )
    .bind(view)
    .fetch_all(pool)
    .await
    .unwrap()
}
