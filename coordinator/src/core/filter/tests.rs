use super::{FILTER_BYTES_MAX, Filter, JOB_FIELDS, SEARCH_FIELDS};

fn path(filter: &str) -> String {
    Filter::parse(filter, JOB_FIELDS).unwrap().unwrap().as_json_path().to_owned()
}

fn problem(filter: &str) -> String {
    Filter::parse(filter, JOB_FIELDS).unwrap_err().to_string()
}

#[test]
fn conditions_become_paths() {
    for (filter, wanted) in [
        ("state = FAILED", r#"$."state" == "failed""#),
        ("state=JOB_STATE_FAILED", r#"$."state" == "failed""#),
        ("kind != SUPERNET", r#"!($."kind" == "supernet")"#),
        ("priority >= -5", r#"$."priority" >= -5"#),
        ("result.quality > 0.85", r#"$."result.quality" > 0.85"#),
        ("result.param_count < 9007199254740993", r#"$."result.param_count" < 9007199254740993"#),
        ("labels.team = vision", r#"$."labels"."team" == "vision""#),
        ("labels.a/b.c = x", r#"$."labels"."a/b.c" == "x""#),
        (r#"labels."a b" = x"#, r#"$."labels"."a b" == "x""#),
        ("labels:keep", r#"exists($."labels"."keep")"#),
        ("labels.keep:*", r#"exists($."labels"."keep")"#),
        ("end_time:*", r#"exists($."end_time")"#),
        ("label = budget*", r#"$."label" starts with "budget""#),
        (r#"label = "budget 0.5*""#, r#"$."label" starts with "budget 0.5""#),
        (r#"label = "a \* b\*""#, r#"$."label" == "a * b*""#),
        (r#"label = 'it"s \\ "'"#, r#"$."label" == "it\"s \\ \"""#),
        ("label != budget*", r#"!($."label" starts with "budget")"#),
        ("create_time > 2026-11-30", r#"$."create_time" > 1795996800.000000"#),
        (r#"create_time > "2026-11-30T01:00:00.25+01:00""#, r#"$."create_time" > 1795996800.250000"#),
        ("create_time > 2026-11-30T00:00:00Z", r#"$."create_time" > 1795996800.000000"#),
        ("create_time > 1969-12-31T23:59:59.5Z", r#"$."create_time" > -0.500000"#),
        ("NOT owner = ada", r#"!($."owner" == "ada")"#),
        ("-owner = ada", r#"!($."owner" == "ada")"#),
        ("owner = OR", r#"$."owner" == "OR""#),
    ] {
        assert_eq!(path(filter), wanted, "{filter}");
    }
}

#[test]
fn or_binds_more_tightly_than_and() {
    let (a, b, c) = (r#"$."owner" == "a""#, r#"$."owner" == "b""#, r#"$."owner" == "c""#);
    assert_eq!(path("owner=a AND owner=b OR owner=c"), format!("({a}) && (({b}) || ({c}))"));
    assert_eq!(path("(owner=a AND owner=b) OR owner=c"), format!("(({a}) && ({b})) || ({c})"));
    assert_eq!(path("NOT (owner=a OR owner=b)"), format!("!(({a}) || ({b}))"));
    assert_eq!(path("((owner=a))"), a);
}

#[test]
fn an_empty_filter_is_none() {
    assert_eq!(Filter::parse("", JOB_FIELDS), Ok(None));
    assert_eq!(Filter::parse("  \n", SEARCH_FIELDS), Ok(None));
}

#[test]
fn errors_say_where_and_what_to_write() {
    for (filter, at, says) in [
        ("stat = FAILED", 1, "stat is no field; there are architecture_digest, attempt_count"),
        ("state = DONE", 9, "'DONE' is no state; there are QUEUED, LEASED"),
        ("state > FAILED", 7, "has no order"),
        ("state = FAIL*", 9, "without *"),
        ("state", 1, "behind state one of"),
        ("state =", 8, "a value for state is missing"),
        ("state = )", 9, "a value for state is missing here"),
        ("state = FAILED owner = ada", 16, "write AND or OR"),
        ("state = FAILED and owner = ada", 16, "write AND, in capitals"),
        ("(state = FAILED", 1, "this ( is not closed"),
        ("state = FAILED)", 15, "this ) closes nothing"),
        ("owner = \"ada", 9, "the \" is not closed"),
        ("owner = ü & b", 11, "'&' cannot stand here"),
        ("owner = a&b", 10, "'&' cannot stand here without quotes"),
        ("\"ada\"", 1, "a field is missing"),
        ("priority = high", 12, "priority is a number, and 'high' is none"),
        ("result.quality > NaN", 18, "is a number"),
        ("create_time > yesterday", 15, "write 2026-11-30"),
        ("labels = x", 1, "labels is a map: write labels.KEY = VALUE"),
        ("labels:k*", 8, "with the whole key"),
        ("labels. = x", 1, "a key is missing"),
        ("owner:ada", 7, "for a value write ="),
        ("AND", 1, "a condition is missing here"),
        ("state = FAILED AND", 19, "a condition is missing"),
    ] {
        let text = problem(filter);
        assert!(text.starts_with(&format!("at character {at}: ")), "{filter}: {text}");
        assert!(text.contains(says), "{filter}: {text}");
    }
}

#[test]
fn depth_and_length_have_limits() {
    let deep = |depth: usize| format!("{}owner=a{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(path(&deep(32)), r#"$."owner" == "a""#);
    assert!(problem(&deep(33)).contains("within each other"));
    assert!(problem(&format!("{}owner=a", "NOT ".repeat(33))).contains("within each other"));
    assert!(problem(&" ".repeat(FILTER_BYTES_MAX + 1)).contains("4096"));
}

#[test]
fn searches_have_other_fields() {
    let of_search = |filter| Filter::parse(filter, SEARCH_FIELDS);
    assert!(of_search("spec.name = hippo* AND state = RETRAINING").is_ok());
    assert!(of_search("state = QUEUED").unwrap_err().to_string().contains("SEARCHING"));
    assert!(of_search("worker_id = a").is_err());
}
