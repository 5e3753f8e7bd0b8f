//! Whole simulations: outcomes that are known by hand, equal seeds, bad input.

use cakes_planner::sim::{Report, Rule, Scenario, simulate};

fn scenario(text: &str) -> Scenario {
    toml::from_str(text).unwrap()
}

#[track_caller]
fn run(scenario: &Scenario, rule: Rule) -> Report {
    simulate(scenario, rule, &mut |facts| rule.plan(facts), &mut |_| {}).unwrap()
}

/// Two devices. The gang of job 2 waits for both; job 3 fits beside job 1.
const BY_HAND: &str = r#"
seed = 1
days = 1
round_s = 60
nodes = [{ name = "n", devices = 2, memory_gib = 80 }]
projects = [{ name = "a", share = 1 }, { name = "b", share = 1 }]
jobs = [
    { project = "a", submit_hours = 0, devices = 1, hours = 2, estimate_hours = 2 },
    { project = "b", submit_hours = 0.1, devices = 2, hours = 1, estimate_hours = 1 },
    { project = "a", submit_hours = 0.2, devices = 1, hours = 1, estimate_hours = 1 },
]
"#;

#[test]
fn a_small_cluster_comes_out_as_by_hand() {
    let fair = run(&scenario(BY_HAND), Rule::Fair);
    // Job 2 runs from 2 h to 3 h; job 3 goes before it, from 0.2 h to 1.2 h.
    assert_eq!((fair.done, fair.jobs), (3, 3));
    assert_eq!((fair.wait_hours.p50, fair.wait_hours.max), (0.0, 1.9));
    let device_hours: Vec<f64> = fair.projects.iter().map(|project| project.device_hours).collect();
    assert_eq!(device_hours, [3.0, 2.0]);
    assert_eq!(fair.utilisation, 0.1042);
    assert_eq!(fair.projects[1].slowdown_mean, 2.9);

    // Strictly in order job 3 waits for job 2, until 3 h.
    let fifo = run(&scenario(BY_HAND), Rule::Fifo);
    assert_eq!((fifo.wait_hours.p50, fifo.wait_hours.max), (1.9, 2.8));
}

#[test]
fn a_failed_node_and_a_preemption_cost_what_they_cost_by_hand() {
    let mut scenario = scenario(BY_HAND);
    scenario.jobs.truncate(1);
    scenario.outages =
        vec![toml::from_str("node = 'n-1'\nkind = 'fail'\nfrom_hours = 1.25\nhours = 0.75").unwrap()];
    // Half an hour's checkpoints: 0.25 h are lost. From 2 h on 2 minutes, then 1 h.
    let report = run(&scenario, Rule::Fair);
    assert_eq!((report.done, report.failures, report.lost_device_hours.failure), (1, 1, 0.25));
    assert_eq!(report.up_device_hours, 46.5);
    assert_eq!(report.projects[0].device_hours, 2.2833);

    scenario.outages.clear();
    scenario.jobs.push(scenario.jobs[0].clone());
    scenario.jobs[1].submit_hours = 1.0;
    scenario.jobs[1].devices = 2;
    scenario.jobs[1].wants.priority = 5;
    // Two minutes to save, and later two to go on.
    let report = run(&scenario, Rule::Fair);
    assert_eq!((report.done, report.preemptions, report.lost_device_hours.preemption), (2, 1, 0.0333));
    assert_eq!(report.wait_hours.max, 0.0333);
    assert_eq!(run(&scenario, Rule::Queue).preemptions, 0);
}

/// A week of two projects, one of which floods the cluster, with gangs and failures.
const FLOOD: &str = r#"
seed = 3
days = 5
starving_hours = 48
nodes = [
    { name = "n", count = 4, devices = 8, memory_gib = 80, days_between_failures = 20 },
]
projects = [{ name = "flood", share = 1 }, { name = "few", share = 1, device_quota = 24 }]
streams = [
    { project = "flood", jobs_per_day = 400, burst = 40, sizes = [{ devices = 1 }], pattern = "nights",
      hours = { median = 2, spread = 0.5, max = 12 }, data = ["x", "y", "z"] },
    { project = "few", jobs_per_day = 45, pattern = "office", sizes = [{ devices = 1 }],
      hours = { median = 3, spread = 0.5, max = 12 } },
]
"#;

#[test]
fn the_same_seed_gives_the_same_report_and_another_one_another() {
    let mut scenario = scenario(FLOOD);
    let first = run(&scenario, Rule::Fair);
    assert_eq!(first, run(&scenario, Rule::Fair));
    scenario.seed += 1;
    assert_ne!(first, run(&scenario, Rule::Fair));
}

#[test]
fn whom_a_flood_would_drown_gets_its_share_in_time() {
    let fair = run(&scenario(FLOOD), Rule::Fair);
    let fifo = run(&scenario(FLOOD), Rule::Fifo);
    let few = |report: &Report| report.projects[1].clone();
    assert!(fair.jobs > 1000, "{fair:#?}");
    assert!(few(&fair).wait_hours.p95 * 2.0 < few(&fifo).wait_hours.p95, "{fair:#?}\n{fifo:#?}");
    assert!((few(&fair).received - few(&fair).owed).abs() < 0.05, "{fair:#?}");
    assert!(fair.failures > 0 && fair.data_cached > 0.5, "{fair:#?}");
}

#[test]
fn a_scenario_that_makes_no_sense_names_the_field_and_the_remedy() {
    let cases: [(&str, &str, &str, &str); 9] = [
        ("days = 1", "days = 0", "days", "give 1 to"),
        ("round_s = 60", "round_s = 0", "round_s", "give 1 to"),
        ("devices = 2, memory_gib", "devices = 100, memory_gib", "nodes[0].devices", "give 1 to 64"),
        ("name = \"b\"", "name = \"a\"", "projects[1].name", "its own name"),
        ("project = \"b\"", "project = \"c\"", "jobs[1].project", "name one of a, b"),
        ("devices = 2, hours = 1", "devices = 0, hours = 1", "jobs[1].devices", "give 1 to"),
        ("hours = 2, ", "hours = -1, ", "jobs[0].hours", "give 0.001 to"),
        ("submit_hours = 0.2", "submit_hours = 25", "jobs[2].submit_hours", "give 0 to 24"),
        ("seed = 1", "seed = 1\nouta = 1", "outa", "unknown field"),
    ];
    for (old, new, field, remedy) in cases {
        let text = BY_HAND.replace(old, new);
        assert_ne!(text, BY_HAND, "{old}");
        let message = match toml::from_str::<Scenario>(&text) {
            Ok(scenario) => scenario.check().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(field) && message.contains(remedy), "{new}: {message}");
    }
    let nothing = Scenario { jobs: Vec::new(), ..scenario(BY_HAND) };
    assert!(nothing.check().unwrap_err().to_string().contains("[[jobs]]"));
}
