//! The queue's bench on a few jobs, so that it still runs when it is wanted.

use cakes_tests::bench::Place;
use cakes_tests::bench::queue::{QueueOptions, run};

#[test]
fn the_queue_bench_does_all_its_jobs_and_fills_every_figure() {
    let options =
        QueueOptions { jobs: 12, workers: vec![1, 3], finished: vec![0, 50], place: Place::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut told = 0;
    let rows = runtime.block_on(run(&options, |_| told += 1)).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!((rows.len(), told), (4, 4));
    // A search's two jobs count too, and those of the rounds before.
    let finished: Vec<u64> = rows.iter().map(|row| row.finished).collect();
    assert!(finished[0] < 50 && finished[2] >= 50 && finished.is_sorted(), "{finished:?}");
    for row in &rows {
        assert!(row.jobs_per_s > 0.0 && row.pg_limit_jobs_per_s > 0.0, "{row:?}");
        assert!((row.share_of_limit - row.jobs_per_s / row.pg_limit_jobs_per_s).abs() < 1e-9, "{row:?}");
        let latencies = [row.acquire_p99_ms, row.start_p99_ms, row.report_p99_ms, row.complete_p99_ms];
        assert!(latencies.iter().flatten().all(|value| *value > 0.0), "{row:?}");
        assert_eq!(latencies.iter().flatten().count(), 4, "{row:?}");
        // A worker alone waits for each of its four calls to be stored.
        assert!(row.workers > 1 || row.commits_per_job >= 4.0, "{row:?}");
        assert!(row.rss_mib > 1.0, "{row:?}");
    }
}
