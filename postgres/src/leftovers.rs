//! What an earlier server on the same cluster left behind.
//!
//! A server whose owner was killed is being stopped by its guardian: it is
//! waited for. A `postmaster.pid` without a server is removed, because Postgres
//! refuses to start if the number in it now belongs to any other process of
//! the same user.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Error;

const PATIENCE: Duration = Duration::from_secs(30);

/// Returns once no process of an earlier server runs on `cluster`.
pub(crate) fn clear(cluster: &Path) -> Result<(), Error> {
    let start = Instant::now();
    while let Some(process) = server_process(cluster) {
        if start.elapsed() > PATIENCE {
            return Err(Error::ServerRuns { cluster: cluster.to_owned(), process });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let file = cluster.join("postmaster.pid");
    match fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove the stale", &file, error))
        }
        _ => Ok(()),
    }
}

/// A Postgres process that stands in the folder `cluster`, as the server and
/// all its backends do. One backend that outlived its server is enough to
/// make a second server dangerous.
fn server_process(cluster: &Path) -> Option<i32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).find(|process| {
        let about = Path::new("/proc").join(process.to_string());
        fs::read_link(about.join("cwd")).is_ok_and(|folder| folder == cluster)
            && fs::read_to_string(about.join("comm")).is_ok_and(|name| name.trim_end() == "postgres")
    })
}
