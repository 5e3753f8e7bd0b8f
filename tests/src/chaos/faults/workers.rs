//! Faults of real workers, their trainers, their disks and the store.

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

use super::{Chaos, PATIENCE, Proof, end_of, now, seen};
use crate::chaos::plant::{Trainer, worker_name};
use crate::chaos::schedule::Random;

/// The worker whose processes are broken; the others' disks and files are.
const FIRST: usize = 0;

pub(super) fn signal(pid: i32, signal: Signal) {
    // Gone meanwhile is as good.
    let _ = kill(Pid::from_raw(pid), signal);
}

fn is_gone(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state stands behind the name, which may hold anything.
    status.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

async fn gone(pid: i32, within: Duration) -> bool {
    seen(within, async || Ok(is_gone(pid).then_some(()))).await.is_some()
}

/// A trainer of a worker that has done at least one step.
async fn training(chaos: &Chaos, worker: usize, within: Duration) -> Option<Trainer> {
    seen(within, async || {
        let Some(trainer) = chaos.plant.trainers(worker).pop() else { return Ok(None) };
        let statement = "select last_step > resume_step from attempt
            where job_id = $1 and epoch = $2 and state = 'running'";
        let query = sqlx::query_scalar(statement).bind(trainer.job).bind(trainer.epoch);
        let trains: Option<bool> = query.fetch_optional(&chaos.plant.pool).await?;
        Ok((trains == Some(true)).then_some(trainer))
    })
    .await
}

/// F1.
pub(super) async fn daemon_killed(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let Some(trainer) = training(chaos, FIRST, PATIENCE).await else { return Ok(None) };
    let grant = (trainer.job, trainer.epoch);
    chaos.history.killed(grant);
    let killed = chaos.plant.kill_worker(FIRST).await?;
    let mut fakes = chaos.fleet.at_work();
    random.shuffle(&mut fakes);
    fakes.truncate(3);
    for (number, _) in &fakes {
        chaos.fleet.kill(*number);
    }
    let trainer_gone = gone(trainer.pid, Duration::from_secs(15)).await;
    // Half of them come back before their leases run out.
    let ttl = chaos.plant.sizes.lease_ttl;
    tokio::time::sleep(if random.once_in(2) { ttl / 4 } else { ttl * 2 }).await;
    chaos.plant.start_worker(FIRST).await?;
    for (number, _) in &fakes {
        chaos.fleet.start(*number)?;
    }
    let end = seen(PATIENCE, async || end_of(&chaos.plant.pool, grant).await).await;
    Ok(end.filter(|_| killed && trainer_gone).map(|end| {
        format!(
            "trainer gone with its daemon; attempt '{}', {} fakes killed too",
            end.end_reason,
            fakes.len()
        )
    }))
}

/// F2.
pub(super) async fn trainer_killed(chaos: &Chaos) -> Result<Proof> {
    let Some(trainer) = training(chaos, FIRST, PATIENCE).await else { return Ok(None) };
    let (grant, daemon) = ((trainer.job, trainer.epoch), chaos.plant.worker_pid(FIRST).await);
    chaos.history.killed(grant);
    signal(trainer.pid, Signal::SIGKILL);
    let end = seen(PATIENCE, async || end_of(&chaos.plant.pool, grant).await).await;
    let same = daemon.is_some() && chaos.plant.worker_pid(FIRST).await == daemon;
    let told = end.filter(|end| same && end.message.contains("signal 9"));
    Ok(told.map(|end| format!("told by its daemon: {}", first_line(&end.message))))
}

/// F3.
pub(super) async fn daemon_stopped(chaos: &Chaos) -> Result<Proof> {
    let Some(trainer) = training(chaos, FIRST, PATIENCE).await else { return Ok(None) };
    let Some(daemon) = chaos.plant.worker_pid(FIRST).await else { return Ok(None) };
    signal(daemon, Signal::SIGSTOP);
    let grant = (trainer.job, trainer.epoch);
    let end = seen(PATIENCE, async || end_of(&chaos.plant.pool, grant).await).await;
    signal(daemon, Signal::SIGCONT);
    let trainer_gone = gone(trainer.pid, PATIENCE).await;
    let expired = end.filter(|end| trainer_gone && end.end_reason == "lease expired");
    Ok(expired.map(|_| "lease expired; its trainer ended when the daemon went on".to_owned()))
}

/// F4.
pub(super) async fn trainer_hangs(chaos: &Chaos) -> Result<Proof> {
    let Some(trainer) = training(chaos, FIRST, PATIENCE).await else { return Ok(None) };
    signal(trainer.pid, Signal::SIGSTOP);
    let grant = (trainer.job, trainer.epoch);
    let end = seen(PATIENCE, async || end_of(&chaos.plant.pool, grant).await).await;
    signal(trainer.pid, Signal::SIGCONT);
    let noticed = end.filter(|end| end.message.contains("made no progress"));
    Ok(noticed.map(|end| format!("killed by its daemon: {}", first_line(&end.message))))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(120).collect()
}

/// F23.
pub(super) async fn disk_full(chaos: &Chaos) -> Result<Proof> {
    let Some(worker) = chaos.plant.workers.len().checked_sub(1) else { return Ok(None) };
    let since = now(&chaos.plant.pool).await?;
    let (filler, limit) = (chaos.plant.work_dir(worker).join("filler"), chaos.plant.size_limit_file());
    let on_disk = chaos.plant.has_small_disk();
    if on_disk {
        fill(&filler)?;
    } else {
        fs::write(&limit, "")?;
    }
    let statement = "select message from attempt
        where end_time > $1 and ($3 or worker_id = $2 or message like '%(worker ' || $2 || '): %')
            and failure_class = 'infrastructure'
            and message ~* 'space left|full|too large|SIGXFSZ' limit 1";
    let told: Option<String> = seen(PATIENCE, async || {
        let query = sqlx::query_scalar(statement).bind(since).bind(worker_name(worker)).bind(!on_disk);
        Ok(query.fetch_optional(&chaos.plant.pool).await?)
    })
    .await;
    let _ = fs::remove_file(if on_disk { filler } else { limit });
    let how = if on_disk { "no space on the worker's disk" } else { "file size limited" };
    Ok(told.map(|message| format!("{how}: {}", first_line(&message))))
}

/// Writes until the disk is full.
fn fill(path: &Path) -> Result<()> {
    let mut file = fs::File::create(path)?;
    for size in [1 << 20, 1 << 12, 1] {
        let block = vec![1_u8; size];
        while file.write_all(&block).is_ok() {}
    }
    Ok(())
}

/// A trainer of this worker that has most of its steps before it, and so something to save; it
/// is stopped, since small jobs take a second.
async fn held(chaos: &Chaos, worker: usize) -> Option<Trainer> {
    seen(PATIENCE, async || {
        let Some(trainer) = chaos.plant.trainers(worker).pop() else { return Ok(None) };
        signal(trainer.pid, Signal::SIGSTOP);
        let statement = "select attempt.last_step * 2 <= job.step_count
            from attempt join job on job.id = attempt.job_id
            where attempt.job_id = $1 and attempt.epoch = $2 and attempt.state = 'running'";
        let query = sqlx::query_scalar(statement).bind(trainer.job).bind(trainer.epoch);
        let is_early: Result<Option<bool>, _> = query.fetch_optional(&chaos.plant.pool).await;
        if !matches!(is_early, Ok(Some(true))) {
            signal(trainer.pid, Signal::SIGCONT);
            return Ok(None);
        }
        Ok(Some(trainer))
    })
    .await
}

/// F25. A file stands where the folder of a training job was.
pub(super) async fn store_away(chaos: &Chaos) -> Result<Proof> {
    let Some(worker) = chaos.plant.workers.len().checked_sub(1) else { return Ok(None) };
    let Some(trainer) = held(chaos, worker).await else { return Ok(None) };
    let store = chaos.plant.artifacts().join(trainer.job.to_string());
    let away = chaos.plant.folder().join(format!("artifacts-{}", trainer.job));
    // Jobs without a checkpoint have no folder yet.
    fs::create_dir_all(&store)?;
    fs::write(&away, "no folder")?;
    // At once, so that no worker makes the folder anew between one rename and another.
    let exchange = || renameat2(AT_FDCWD, &store, AT_FDCWD, &away, RenameFlags::RENAME_EXCHANGE);
    let exchanged = exchange();
    signal(trainer.pid, Signal::SIGCONT);
    match exchanged {
        // Its last checkpoint was removed, and the folder with it.
        Err(Errno::ENOENT) => return Ok(None),
        exchanged => exchanged?,
    }
    let statement = "select text from log_line
        where job_id = $1 and epoch >= $2 and text like '%checkpoint could not be stored%' limit 1";
    let told: Option<String> = seen(PATIENCE / 2, async || {
        let query = sqlx::query_scalar(statement).bind(trainer.job).bind(trainer.epoch);
        Ok(query.fetch_optional(&chaos.plant.pool).await?)
    })
    .await;
    exchange()?;
    fs::remove_file(&away)?;
    Ok(told.map(|text| first_line(&text)))
}

/// Time in which a daemon has stored what its trainer has saved.
const STORED_WITHIN: Duration = Duration::from_secs(2);

/// F26.
pub(super) async fn checkpoint_damaged(chaos: &Chaos, random: &mut Random) -> Result<Proof> {
    let found = seen(PATIENCE, async || {
        let Some((job, epoch, _)) = saved_job(chaos, None).await? else { return Ok(None) };
        let mut trainers = (0..chaos.plant.workers.len()).flat_map(|worker| chaos.plant.trainers(worker));
        Ok(trainers.find(|trainer| (trainer.job, trainer.epoch) == (job, epoch)))
    })
    .await;
    let Some(trainer) = found else { return Ok(None) };
    let Trainer { job, epoch, .. } = trainer;
    // So that no newer checkpoint follows the damaged one.
    signal(trainer.pid, Signal::SIGSTOP);
    tokio::time::sleep(STORED_WITHIN).await;
    let last = saved_job(chaos, Some(job)).await;
    let damage = match &last {
        Ok(Some((_, _, key))) => Damage::make(&chaos.plant.artifacts().join(key), random)?,
        _ => None,
    };
    signal(trainer.pid, Signal::SIGKILL);
    let Some(damage) = damage else { return Ok(None) };
    let statement = "select message from attempt
        where job_id = $1 and epoch > $2 and message ~ 'damaged' order by epoch limit 1";
    let refused: Option<String> = seen(PATIENCE, async || {
        let query = sqlx::query_scalar(statement).bind(job).bind(epoch);
        let told: Option<String> = query.fetch_optional(&chaos.plant.pool).await?;
        let query = sqlx::query_scalar(
            "select text from log_line where job_id = $1 and epoch > $2 and text ~ 'damaged' limit 1",
        );
        let logged = query.bind(job).bind(epoch).fetch_optional(&chaos.plant.pool).await?;
        Ok(told.or(logged))
    })
    .await;
    damage.mend()?;
    Ok(refused.map(|message| format!("refused: {}", first_line(&message))))
}

/// A job, or this one, that trains on a real worker behind a checkpoint of a real worker.
async fn saved_job(chaos: &Chaos, job: Option<Uuid>) -> Result<Option<(Uuid, i64, String)>> {
    let statement = "select job.id, attempt.epoch, checkpoint.key
        from job join attempt on attempt.job_id = job.id and attempt.epoch = job.epoch
        join checkpoint on checkpoint.job_id = job.id and checkpoint.epoch = job.checkpoint_epoch
            and checkpoint.step = job.checkpoint_step
        join attempt as saver on saver.job_id = job.id and saver.epoch = checkpoint.epoch
        where job.state = 'running' and job.checkpoint_step < job.step_count
            and attempt.worker_id = any($1) and saver.worker_id = any($1)
            and job.id = coalesce($2, job.id) limit 1";
    let workers: Vec<String> = (0..chaos.plant.workers.len()).map(worker_name).collect();
    Ok(sqlx::query_as(statement).bind(workers).bind(job).fetch_optional(&chaos.plant.pool).await?)
}

/// One bit of the largest file of a checkpoint, turned over.
struct Damage {
    path: PathBuf,
    at: u64,
}

impl Damage {
    fn make(folder: &Path, random: &mut Random) -> Result<Option<Self>> {
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        let sizes = files.filter_map(|file| Some((file.metadata().ok()?.len(), file.path())));
        let Some((size, path)) = sizes.max() else { return Ok(None) };
        let damage = Damage { path, at: random.below(size) };
        Ok(damage.flip()?.then_some(damage))
    }

    /// False where the file is gone: retention removes a checkpoint once a newer one is stored.
    fn flip(&self) -> Result<bool> {
        let mut file = match fs::File::options().read(true).write(true).open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        let mut byte = [0];
        file.seek(SeekFrom::Start(self.at))?;
        file.read_exact(&mut byte)?;
        file.seek(SeekFrom::Start(self.at))?;
        file.write_all(&[byte[0] ^ 1])?;
        Ok(true)
    }

    /// The same bit again, in a file that is still there.
    fn mend(&self) -> Result<()> {
        self.flip().map(drop)
    }
}
