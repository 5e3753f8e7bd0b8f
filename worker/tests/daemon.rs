//! The daemon as operators run it: what it does with good jobs, bad trainers,
//! lost answers and its own death.

mod support;

use std::time::Duration;

use cakes_proto::v1::{DesiredState, FailureClass};
use nix::sys::signal::Signal;
use serde_json::json;
use support::coordinator::all_equal;
use support::{Bench, Daemon};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_job_is_trained_reported_stored_and_completed() {
    let bench = Bench::new().await;
    let job = bench.grant(
        &json!([
            ["log", "hello"],
            ["ready"],
            ["train", 5],
            ["validate"],
            ["save"],
            ["train", 5],
            ["validate"],
            ["save"],
            ["complete"]
        ]),
        None,
    );
    let _daemon = bench.daemon(&["--threads", "2"]);
    let completion = bench.coordinator.until("completion", |seen| seen.completions.first().cloned()).await;
    bench.until_clear().await;

    let seen = bench.coordinator.seen();
    assert_eq!(seen.metric(&job, "train/loss").len(), 10);
    assert_eq!(seen.metric(&job, "validation/dice_2"), [0.8, 0.8]);
    assert!(seen.log(&job).contains(&"hello".to_owned()), "{:?}", seen.log(&job));
    assert_eq!(completion.last_seq, seen.entries[&job].len() as u64);
    let result = completion.result.unwrap();
    assert_eq!((result.mean_dice, result.latency_ms), (Some(0.75), Some(1.5)));
    assert_eq!((result.quality, result.quality_metric.as_str()), (0.75, "mean_dice"));
    let last = completion.checkpoint.unwrap();
    // Of the last one the completion says all, unless it was uploaded first.
    let committed = seen.commits.iter().any(|commit| commit.checkpoint.as_ref() == Some(&last));
    assert!(committed != completion.checkpoint_bytes.is_some(), "{:?}", seen.commits);
    let first = seen.commits.first().unwrap().checkpoint.as_ref().unwrap();
    assert_eq!(first.step, 5);
    assert_eq!(last.key, format!("{job}/2-abababab/step-000000010"));
    let stored = std::fs::read(bench.artifacts().join(&last.key).join("weights.safetensors")).unwrap();
    assert_eq!(stored, b"weights of step 10");
    let progress = seen.reports.last().unwrap().progress.clone().unwrap();
    let known = if committed { 10 } else { 5 };
    assert_eq!((progress.step, progress.step_count, progress.checkpoint_step), (10, 100, known));
}

#[tokio::test]
async fn a_job_goes_on_from_a_stored_checkpoint_and_not_from_a_damaged_one() {
    let bench = Bench::new().await;
    let _daemon = bench.daemon(&[]);
    bench.grant(&json!([["ready"], ["train", 5], ["save"], ["complete"]]), None);
    let first = bench.coordinator.until("completion", |seen| seen.completions.first().cloned()).await;
    let checkpoint = first.checkpoint.unwrap();

    let acts = json!([["ready"], ["train", 2], ["save"], ["complete"]]);
    let resumed = bench.grant(&acts, Some(checkpoint.clone()));
    let second = bench.coordinator.until("completion", |seen| seen.completions.get(1).cloned()).await;
    assert_eq!(second.checkpoint.unwrap().step, 7);
    let log = bench.coordinator.seen().log(&resumed);
    assert!(log.iter().any(|line| line.contains("resumed from step 5")), "{log:?}");

    std::fs::write(bench.artifacts().join(&checkpoint.key).join("weights.safetensors"), "x").unwrap();
    let damaged = bench.grant(&acts, Some(checkpoint));
    let failure = bench.coordinator.until_failed(&damaged).await;
    assert_eq!(failure.failure_class(), FailureClass::Infrastructure);
    assert!(failure.message.contains("weights.safetensors"), "{}", failure.message);
    assert!(bench.coordinator.seen().metric(&damaged, "train/loss").is_empty());
}

#[tokio::test]
async fn a_job_starts_from_the_checkpoint_of_its_supernet_and_not_without_it() {
    let bench = Bench::new().await;
    let _daemon = bench.daemon(&[]);
    bench.grant(&json!([["ready"], ["train", 5], ["save"], ["complete"]]), None);
    let first = bench.coordinator.until("completion", |seen| seen.completions.first().cloned()).await;
    let supernet = first.checkpoint.unwrap();

    let acts = json!([["ready"], ["train", 2], ["save"], ["complete"]]);
    let heir = bench.grant_with(&acts, None, Some(supernet.clone()));
    let second = bench.coordinator.until("completion", |seen| seen.completions.get(1).cloned()).await;
    assert_eq!(second.checkpoint.unwrap().step, 2, "its steps are its own");
    let log = bench.coordinator.seen().log(&heir);
    assert!(log.contains(&"weights of step 5".to_owned()), "{log:?}");

    std::fs::remove_dir_all(bench.artifacts().join(&supernet.key)).unwrap();
    let orphan = bench.grant_with(&acts, None, Some(supernet.clone()));
    let failure = bench.coordinator.until_failed(&orphan).await;
    assert_eq!(failure.failure_class(), FailureClass::Infrastructure);
    for part in ["the supernet's checkpoint of step 5", "search again", &supernet.key] {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_lost_lease_ends_the_trainer_and_its_children() {
    let bench = Bench::new().await;
    let job = bench.grant(&json!([["child"], ["ready"], ["train", 10_000, 0.02]]), None);
    let _daemon = bench.daemon(&[]);
    bench.coordinator.until("steps", |seen| (seen.metric(&job, "train/loss").len() > 3).then_some(())).await;
    assert!(bench.trainers() >= 2);
    bench.coordinator.seen().lease_is_lost = true;
    bench.until("the trainer is gone", SOON, |bench| bench.trainers() == 0).await;
    bench.until_clear().await;
}

/// Cancels a training job; whether it committed a checkpoint on that.
async fn cancel(grace: &str, acts: &serde_json::Value) -> bool {
    let bench = Bench::new().await;
    let _daemon = bench.daemon(&["--cancel-grace", grace]);
    let job = bench.grant(acts, None);
    bench.coordinator.until("steps", |seen| (seen.metric(&job, "train/loss").len() > 3).then_some(())).await;
    let commits = bench.coordinator.seen().commits.len();
    bench.coordinator.seen().desired = DesiredState::Cancel;
    let failure = bench.coordinator.until_failed(&job).await;
    assert_eq!(failure.failure_class(), FailureClass::Cancelled);
    bench.until_clear().await;
    let committed = bench.coordinator.seen().commits.len();
    committed > commits
}

#[tokio::test]
async fn a_cancelled_job_is_saved() {
    assert!(cancel("60s", &json!([["ready"], ["train", 10_000, 0.02]])).await);
}

#[tokio::test]
async fn a_cancelled_job_whose_trainer_is_deaf_is_killed() {
    assert!(!cancel("500ms", &json!([["deaf"], ["ready"], ["train", 10_000, 0.02]])).await);
}

/// Lets trainers end so, one after the other, on one slot.
async fn bad_ends(arguments: &[&str], ends: &[(serde_json::Value, FailureClass, &str)]) {
    let bench = Bench::new().await;
    let _daemon = bench.daemon(arguments);
    for (act, class, text) in ends {
        let job =
            bench.grant(&json!([["child"], ["ready"], ["train", 1], ["log", "the last words"], act]), None);
        let failure = bench.coordinator.until_failed(&job).await;
        assert_eq!(failure.failure_class(), *class, "{act}: {}", failure.message);
        assert!(failure.message.contains(text), "{act}: {}", failure.message);
        bench.until_clear().await;
    }
}

#[tokio::test]
async fn every_bad_end_of_a_trainer_has_its_class_and_leaves_the_slot_free() {
    let ends = [
        (json!(["leak"]), FailureClass::Resource, "--memory-limit-mib"),
        (json!(["leak_elsewhere"]), FailureClass::Resource, "--memory-limit-mib"),
        (json!(["garbage"]), FailureClass::Infrastructure, "protocol"),
        (json!(["oversized"]), FailureClass::Infrastructure, "longer than the limit"),
        (json!(["signal", 6]), FailureClass::Infrastructure, "SIGABRT"),
        (json!(["signal", 9]), FailureClass::Infrastructure, "SIGKILL"),
        (json!(["exit", 0]), FailureClass::Infrastructure, "without a result"),
        (json!(["exit", 9]), FailureClass::Infrastructure, "exit code 9"),
        (json!(["exit", 2]), FailureClass::Infrastructure, "of one version; its last lines:\nthe last words"),
        (json!(["complete"]), FailureClass::Infrastructure, "checkpoint"),
        (json!(["fail", "numeric", "the loss is NaN"]), FailureClass::Numeric, "the loss is NaN"),
    ];
    bad_ends(&["--memory-limit-mib", "300"], &ends).await;
}

#[tokio::test]
async fn a_trainer_that_hangs_is_killed_and_leaves_the_slot_free() {
    let hang = (json!(["hang"]), FailureClass::Infrastructure, "--step-limit");
    // Short: whatever else is slow here ends in the same way.
    bad_ends(&["--step-limit", "700ms"], &[hang.clone(), hang]).await;
}

#[tokio::test]
async fn a_daemon_says_which_data_its_trainers_have_read() {
    let bench = Bench::new().await;
    let done = json!([["ready"], ["train", 1], ["save"], ["complete"]]);
    bench.grant(&done, None);
    bench.grant_on("brains", &done);
    bench.grant_on("hearts", &done);
    let unread = bench.grant_on("lungs", &json!([["fail", "user", "no such folder"]]));
    let _daemon = bench.daemon(&[]);
    bench.coordinator.until_failed(&unread).await;
    let asked = bench.coordinator.seen().acquires.len();
    let question = bench.coordinator.until("a question", |seen| seen.acquires.get(asked).cloned()).await;
    assert_eq!(question.data_at_hand, ["hearts", "brains"]);
    assert_eq!(bench.coordinator.seen().acquires[0].data_at_hand, Vec::<String>::new());
}

#[tokio::test]
async fn calls_whose_answers_are_lost_are_repeated_as_they_were() {
    let bench = Bench::new().await;
    for call in ["Register", "Acquire", "Start", "Report", "CommitCheckpoint", "Complete", "Reconcile"] {
        bench.coordinator.seen().lost_answers.insert(call, 2);
    }
    let job = bench.grant(&json!([["ready"], ["train", 20, 0.02], ["save"], ["complete"]]), None);
    let _daemon = bench.daemon(&[]);
    bench
        .until("both answers were lost", Duration::from_secs(15), |bench| {
            bench.coordinator.seen().completions.len() == 3
        })
        .await;
    bench.until_clear().await;

    let seen = bench.coordinator.seen();
    let [registered, acquired] = [seen.registrations.len(), 3];
    assert_eq!(registered, 3);
    assert!(all_equal(&seen.registrations) && all_equal(&seen.acquires[..acquired]));
    assert!(all_equal(&seen.starts) && seen.starts.len() == 3);
    assert!(all_equal(&seen.reports[..3]));
    assert!(all_equal(&seen.commits) && all_equal(&seen.completions));
    assert_eq!(seen.metric(&job, "train/loss").len(), 20, "stored once each");
}

#[tokio::test]
async fn a_daemon_that_is_told_to_end_saves_and_hands_back() {
    let bench = Bench::new().await;
    let job = bench.grant(&json!([["child"], ["ready"], ["train", 10_000, 0.02]]), None);
    let mut daemon = bench.daemon(&[]);
    bench.coordinator.until("steps", |seen| (seen.metric(&job, "train/loss").len() > 3).then_some(())).await;
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.ended(SOON).await.success());
    assert_eq!(bench.trainers(), 0);
    bench.until_clear().await;
    let seen = bench.coordinator.seen();
    assert_eq!(seen.failures[0].failure_class(), FailureClass::Lost);
    let saved = seen.commits.last().unwrap().checkpoint.as_ref().unwrap().step;
    assert_eq!(saved, seen.metric(&job, "train/loss").len() as u64, "nothing that was reported is lost");
}

#[tokio::test]
async fn a_trainer_that_does_not_stop_ends_with_its_daemon() {
    let bench = Bench::new().await;
    for (limit, second_signal) in [("1s", false), ("1h", true)] {
        let job = bench.grant(&json!([["deaf"], ["child"], ["ready"], ["train", 10_000, 0.02]]), None);
        let mut daemon = bench.daemon(&["--shutdown-limit", limit]);
        bench
            .coordinator
            .until("steps", |seen| (seen.metric(&job, "train/loss").len() > 3).then_some(()))
            .await;
        daemon.signal(Signal::SIGINT);
        if second_signal {
            tokio::time::sleep(Duration::from_millis(200)).await;
            daemon.signal(Signal::SIGINT);
        }
        daemon.ended(SOON).await;
        assert_eq!(bench.trainers(), 0);
    }
}

#[tokio::test]
async fn the_trainer_ends_with_a_killed_daemon_and_the_next_one_hands_the_job_back() {
    let bench = Bench::new().await;
    let job = bench.grant(&json!([["ready"], ["train", 10_000, 0.02]]), None);
    let mut daemon = bench.daemon(&[]);
    bench.coordinator.until("steps", |seen| (seen.metric(&job, "train/loss").len() > 3).then_some(())).await;
    daemon.signal(Signal::SIGKILL);
    daemon.ended(SOON).await;
    bench.until("the trainer is gone", SOON, |bench| bench.trainers() == 0).await;

    let _next = bench.daemon(&[]);
    let failure = bench.coordinator.until_failed(&job).await;
    assert_eq!(failure.failure_class(), FailureClass::Lost);
    let reconciled = bench.coordinator.seen().reconciled.last().unwrap().clone();
    assert_eq!(reconciled.tokens[0].job_id, job);
    assert_eq!(reconciled.incarnation, 2);
    bench.until_clear().await;
}

#[tokio::test]
async fn the_next_daemon_kills_a_trainer_that_outlived_the_last_one() {
    let bench = Bench::new().await;
    let job = bench.grant(&json!([["deaf"], ["child"], ["ready"], ["train", 10_000, 0.02]]), None);
    let mut daemon = bench.daemon(&[]);
    bench.coordinator.until("steps", |seen| (seen.metric(&job, "train/loss").len() > 3).then_some(())).await;
    daemon.signal(Signal::SIGKILL);
    daemon.ended(SOON).await;
    assert!(bench.trainers() >= 1, "a trainer that ignores the end of its input");
    let _next = bench.daemon(&[]);
    bench.until_clear().await;
}

/// A daemon that was killed while nobody answered its completion, and how often it
/// had sent it.
async fn killed_behind_a_decided_completion() -> (Bench, usize) {
    let bench = Bench::new().await;
    bench.coordinator.seen().lost_answers.insert("Complete", u32::MAX);
    bench.grant(&json!([["ready"], ["train", 3], ["save"], ["complete"]]), None);
    let mut daemon = bench.daemon(&[]);
    bench.coordinator.until("completion", |seen| seen.completions.first().map(|_| ())).await;
    daemon.signal(Signal::SIGKILL);
    daemon.ended(SOON).await;

    let before = bench.coordinator.seen().completions.len();
    bench.coordinator.seen().lost_answers.clear();
    (bench, before)
}

#[tokio::test]
async fn a_completion_that_was_decided_reaches_the_coordinator_through_the_next_daemon() {
    let (bench, before) = killed_behind_a_decided_completion().await;
    let _next = bench.daemon(&[]);
    bench.coordinator.until("completion", |seen| (seen.completions.len() > before).then_some(())).await;
    bench.until_clear().await;
    assert!(all_equal(&bench.coordinator.seen().completions));
    assert!(bench.coordinator.seen().failures.is_empty());
}

#[tokio::test]
async fn a_completion_that_was_decided_outlasts_rights_that_the_next_daemon_lacks() {
    let (bench, before) = killed_behind_a_decided_completion().await;
    for call in ["Reconcile", "Complete"] {
        bench.coordinator.seen().unauthenticated.insert(call, 1);
    }
    let _next = bench.daemon(&[]);
    bench.coordinator.until("completion", |seen| (seen.completions.len() > before).then_some(())).await;
    bench.until_clear().await;
    let seen = bench.coordinator.seen();
    assert!(seen.unauthenticated.values().all(|left| *left == 0), "both were refused");
    assert!(all_equal(&seen.completions) && seen.failures.is_empty());
}

/// A registration of the killed daemon that arrives behind the one of its
/// successor makes the successor look like the older of the two.
#[tokio::test]
async fn a_late_registration_does_not_make_the_next_daemon_forget_a_completion() {
    let (bench, before) = killed_behind_a_decided_completion().await;
    bench.coordinator.seen().late_registration = true;
    let _next = bench.daemon(&[]);
    bench.coordinator.until("completion", |seen| (seen.completions.len() > before).then_some(())).await;
    bench.until_clear().await;
    assert_eq!(bench.coordinator.seen().reconciled.last().unwrap().incarnation, 4);
}

#[tokio::test]
async fn training_goes_on_while_the_store_fails_and_the_checkpoint_follows() {
    let bench = Bench::new().await;
    let job = bench.grant(
        &json!([["ready"], ["train", 2], ["save"], ["train", 100, 0.02], ["save"], ["complete"]]),
        None,
    );
    // A file where the attempt's folder should be.
    let obstacle = bench.artifacts().join(&job);
    std::fs::write(&obstacle, "").unwrap();
    let _daemon = bench.daemon(&[]);
    bench
        .coordinator
        .until("trouble and progress", |seen| {
            let troubled = seen.log(&job).iter().any(|line| line.contains("could not be stored"));
            (troubled && seen.metric(&job, "train/loss").len() > 20).then_some(())
        })
        .await;
    std::fs::remove_file(&obstacle).unwrap();
    let completion = bench.coordinator.until("completion", |seen| seen.completions.first().cloned()).await;
    assert_eq!(completion.checkpoint.unwrap().step, 102);
}

#[tokio::test]
async fn without_contact_training_stops_by_itself_and_is_handed_back_later() {
    let bench = Bench::with_lease(Duration::from_secs(2)).await;
    let job = bench.grant(&json!([["ready"], ["train", 10_000, 0.02]]), None);
    let _daemon = bench.daemon(&[]);
    bench.coordinator.until("steps", |seen| (seen.metric(&job, "train/loss").len() > 3).then_some(())).await;
    bench.coordinator.seen().lost_answers.insert("Report", u32::MAX);
    bench.until("the trainer has stopped", SOON, |bench| bench.trainers() == 0).await;
    bench.coordinator.seen().lost_answers.clear();
    let failure = bench.coordinator.until_failed(&job).await;
    assert_eq!(failure.failure_class(), FailureClass::Lost);
    assert!(!bench.coordinator.seen().commits.is_empty(), "its state is stored first");
}

#[tokio::test]
async fn a_worker_whose_disk_is_nearly_full_begins_no_job_and_says_why() {
    let bench = Bench::new().await;
    bench.grant(&json!([["ready"], ["train", 1], ["save"], ["complete"]]), None);
    let mut command = bench.command(&["--disk-free-min-mib", "1000000000000"]);
    let log = bench.attempts().with_file_name("log");
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    command.stderr(std::fs::File::create(&log).unwrap());
    let daemon = Daemon::start(&mut command);
    let told = |_: &Bench| std::fs::read_to_string(&log).unwrap().contains("--disk-free-min-mib asks for");
    bench.until("the daemon says why", Duration::from_secs(15), told).await;
    assert!(bench.coordinator.seen().acquires.is_empty());
    drop(daemon);

    let _daemon = bench.daemon(&[]);
    bench.coordinator.until("completion", |seen| seen.completions.first().map(|_| ())).await;
}

#[tokio::test]
async fn a_forgotten_daemon_registers_again_and_goes_on() {
    let bench = Bench::new().await;
    let _daemon = bench.daemon(&[]);
    bench.coordinator.until("a question", |seen| seen.acquires.first().map(|_| ())).await;
    bench.coordinator.seen().forgets_daemon = true;
    bench.coordinator.until("registered again", |seen| (seen.incarnation == 2).then_some(())).await;
    bench.grant(&json!([["ready"], ["train", 1], ["save"], ["complete"]]), None);
    bench.coordinator.until("completion", |seen| seen.completions.first().map(|_| ())).await;
}

#[tokio::test]
async fn a_daemon_that_is_forgotten_again_at_once_ends_since_another_has_its_name() {
    let bench = Bench::new().await;
    let said = bench.artifacts().with_file_name("said");
    let mut command = bench.command(&[]);
    command.stderr(std::fs::File::create(&said).unwrap());
    let mut daemon = Daemon::start(&mut command);
    bench.coordinator.until("a question", |seen| seen.acquires.first().map(|_| ())).await;
    for registered in 1..=2 {
        bench
            .coordinator
            .until("registered", |seen| (seen.registrations.len() == registered).then_some(()))
            .await;
        bench.coordinator.seen().forgets_daemon = true;
    }
    let status = daemon.ended(SOON).await;
    let said = std::fs::read_to_string(&said).unwrap();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("the name tester") && said.contains("--id"), "{said}");
    assert_eq!(bench.coordinator.seen().registrations.len(), 2);
}

#[tokio::test]
async fn a_coordinator_of_another_version_and_wrong_settings_end_the_daemon_with_a_clear_word() {
    let bench = Bench::new().await;
    bench.coordinator.seen().protocol = 99;
    let start = |arguments: &'static [&'static str]| {
        let mut command = bench.command(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let output = start(&[]).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("protocol 99"), "{text}");

    let output = start(&["--hold", "soon"]).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("--hold"), "{text}");
}

#[tokio::test]
async fn what_a_trainer_writes_reaches_the_log_whole() {
    let bench = Bench::new().await;
    let text: String = (0..20_000).map(|index| format!("line {index} é\n")).collect();
    let job = bench.grant(
        &json!([["log", text], ["log", "a\u{0}b"], ["ready"], ["train", 1], ["save"], ["complete"]]),
        None,
    );
    let _daemon = bench.daemon(&[]);
    bench.coordinator.until("completion", |seen| seen.completions.first().map(|_| ())).await;
    let log = bench.coordinator.seen().log(&job);
    let lines: Vec<&String> = log.iter().filter(|line| line.starts_with("line ")).collect();
    assert_eq!(lines.len(), 20_000);
    assert_eq!(lines[19_999], "line 19999 é");
    assert!(log.contains(&"a\u{fffd}b".to_owned()));
    let largest = bench.coordinator.seen().reports.iter().map(prost::Message::encoded_len).max();
    assert!(largest.is_some_and(|bytes| bytes < 1 << 20), "{largest:?}");
}
