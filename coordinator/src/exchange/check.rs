//! Whether the lines of a file are those of one search, before a database sees them.
//!
//! What follows from something else is worked out again: digests from architectures,
//! parameters and multiply-accumulates from networks. What a line refers to must be in
//! the file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};

use cakes::cost::{Cost, cost};
use cakes::derive::ChannelCosts;
use cakes::job::{Task, TrainerJob};
use cakes::kernel::Kernel;
use cakes::spec::{CheckedSearch, SearchSpec, TaskKind};
use cakes_proto::convert::search_from_wire;
use cakes_proto::ids::WorkerId;
use cakes_proto::v1;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::rows::{
    ArchitectureRow, AttemptRow, EventRow, JobRow, MetricRow, NoteRow, ResultRow, ScoresRow, SearchRow,
};
use super::{Archive, ExchangeError, Member};
use crate::core::job::{JobKind, JobState};
use crate::core::note::{AUTHOR_CHARS_MAX, NOTES_MAX, TEXT_CHARS_MAX};
use crate::core::search::SearchState;

/// Longest key of a metric, in characters; the table checks the same.
const KEY_CHARS_MAX: usize = 128;
/// Longest name of a checkpoint's folder, in characters; the table checks the same.
const CHECKPOINT_KEY_CHARS_MAX: usize = 512;
/// Shares of a division are compared to this much.
const SHARE_TOLERANCE: f64 = 1e-9;

/// What was found in a file that is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    pub search: Uuid,
    pub is_snapshot: bool,
}

/// Checks all lines of all members.
///
/// # Errors
/// The first line that is wrong, by member and number.
pub fn check<R: Read + Seek>(archive: &mut Archive<R>) -> Result<Checked, ExchangeError> {
    let search = one::<R, SearchRow>(archive, Member::Search)?;
    check_search(archive, &search)?;
    let architectures = check_architectures(archive, search.spec.spec())?;
    let jobs = check_jobs(archive, &search.spec, &architectures)?;
    check_scores(archive, search.spec.spec(), &jobs)?;
    check_events(archive, &jobs)?;
    check_metrics(archive, &jobs)?;
    let runs = jobs.values().any(|job| !job.is_final);
    let is_snapshot = search.end_time.is_none();
    if runs && !is_snapshot {
        return Err(ExchangeError::member(Member::Jobs.name(), "a job runs although the search has ended"));
    }
    Ok(Checked { search: search.id, is_snapshot })
}

/// What later lines need of a job.
#[derive(Debug)]
struct KnownJob {
    /// Place in the file.
    number: u64,
    kind: JobKind,
    is_final: bool,
    has_result: bool,
    epochs: BTreeSet<i64>,
}

fn parse<T: DeserializeOwned>(member: Member, number: u64, text: &str) -> Result<T, ExchangeError> {
    // JSON may hold it, the database not.
    if text.contains("\\u0000") {
        return Err(ExchangeError::line(member, number, "holds the character NUL, which no text may"));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let row = T::deserialize(&mut reader).map_err(|error| ExchangeError::line(member, number, error))?;
    reader.end().map_err(|error| ExchangeError::line(member, number, error))?;
    Ok(row)
}

fn one<R: Read + Seek, T: DeserializeOwned>(
    archive: &mut Archive<R>,
    member: Member,
) -> Result<T, ExchangeError> {
    let mut found = None;
    archive.lines(member, |number, text| {
        found = Some(parse(member, number, text)?);
        Ok::<(), ExchangeError>(())
    })?;
    found.ok_or_else(|| ExchangeError::member(member.name(), "is empty"))
}

fn check_search<R: Read + Seek>(archive: &mut Archive<R>, search: &SearchRow) -> Result<(), ExchangeError> {
    let wrong = |problem: String| Err(ExchangeError::line(Member::Search, 1, problem));
    if search.id != archive.manifest.search_id {
        return wrong(format!("id is not {}, as the manifest says", archive.manifest.search_id));
    }
    if search.name != search.spec.spec().name {
        return wrong(format!("name is '{}', in spec it is '{}'", search.name, search.spec.spec().name));
    }
    let state: SearchState = match search.state.parse() {
        Ok(state) => state,
        Err(_) => return wrong(format!("state '{}' is none of a search", search.state)),
    };
    let is_snapshot = search.end_time.is_none();
    if is_snapshot != archive.manifest.is_snapshot {
        return wrong("end_time and the manifest's is_snapshot contradict each other".to_owned());
    }
    if !is_snapshot && !state.is_final() {
        return wrong(format!("has an end_time, but is {state}"));
    }
    if search.revision < 1 {
        return wrong("revision must be at least 1".to_owned());
    }
    if let Err(problem) = check_notes(&search.notes) {
        return wrong(problem);
    }
    let request: v1::SubmitSearchRequest = one(archive, Member::Request)?;
    match search_from_wire(request.search) {
        Ok(_) => Ok(()),
        Err(error) => Err(ExchangeError::line(Member::Request, 1, error)),
    }
}

fn check_notes(notes: &[NoteRow]) -> Result<(), String> {
    if i64::try_from(notes.len()).is_ok_and(|count| count > NOTES_MAX) {
        return Err(format!("has {} notes, more than {NOTES_MAX}", notes.len()));
    }
    let is_of = |text: &str, max| (1..=max).contains(&text.chars().count());
    match notes
        .iter()
        .position(|note| !is_of(&note.author, AUTHOR_CHARS_MAX) || !is_of(&note.text, TEXT_CHARS_MAX))
    {
        Some(place) => Err(format!(
            "notes[{place}] needs an author of 1 to {AUTHOR_CHARS_MAX} and a text of 1 to {TEXT_CHARS_MAX} characters"
        )),
        None => Ok(()),
    }
}

/// Digests of the search's architectures with their cost for one patch.
fn check_architectures<R: Read + Seek>(
    archive: &mut Archive<R>,
    spec: &SearchSpec,
) -> Result<BTreeMap<String, Cost>, ExchangeError> {
    let member = Member::Architectures;
    let reference = cakes::architecture::Architecture::even(spec.backbone.clone(), &[Kernel::K333])
        .map_err(|error| ExchangeError::member(member.name(), error.to_string()))?;
    let reference = cost(&reference.network(), spec.patch)
        .map_err(|error| ExchangeError::member(member.name(), error.to_string()))?;
    let (mut known, mut origins) = (BTreeMap::new(), BTreeSet::new());
    archive.lines(member, |number, text| {
        let row: ArchitectureRow = parse(member, number, text)?;
        let wrong = |problem: String| Err(ExchangeError::line(member, number, problem));
        let digest = row.architecture.digest().to_string();
        if digest != row.digest {
            return wrong(format!("digest is not {digest}, that of its architecture"));
        }
        let counted = cost(&row.architecture.network(), spec.patch)
            .map_err(|error| ExchangeError::line(member, number, error))?;
        if (row.param_count, row.mac_count) != (counted.param_count, counted.mac_count) || row.cost != counted
        {
            return wrong(format!(
                "costs {} parameters and {} multiply-accumulates, the file says {} and {}, or other layers",
                counted.param_count, counted.mac_count, row.param_count, row.mac_count
            ));
        }
        let fraction = counted.mac_count as f64 / reference.mac_count as f64;
        if (row.mac_fraction.0 - fraction).abs() > SHARE_TOLERANCE || !row.mac_fraction.0.is_finite() {
            return wrong(format!("mac_fraction is not {fraction}"));
        }
        if row.origin.is_empty() || row.origin.chars().count() > 64 || !origins.insert(row.origin.clone()) {
            return wrong(format!(
                "origin '{}' is given twice, empty, or longer than 64 characters",
                row.origin
            ));
        }
        check_notes(&row.notes).or_else(wrong)?;
        if !row.notes.is_empty() && known.contains_key(&digest) {
            return wrong("notes of its architecture belong to the first line that has it".to_owned());
        }
        known.insert(digest, counted);
        Ok(())
    })?;
    Ok(known)
}

fn check_jobs<R: Read + Seek>(
    archive: &mut Archive<R>,
    search: &CheckedSearch,
    architectures: &BTreeMap<String, Cost>,
) -> Result<BTreeMap<Uuid, KnownJob>, ExchangeError> {
    let mut known: BTreeMap<Uuid, KnownJob> = BTreeMap::new();
    let (mut works, mut keys) = (BTreeSet::new(), BTreeSet::new());
    archive.lines(Member::Jobs, |number, text| {
        let job: JobRow = parse(Member::Jobs, number, text)?;
        let wrong = |problem: String| ExchangeError::line(Member::Jobs, number, problem);
        let found = check_job(&job, number, search, architectures).map_err(wrong)?;
        if let Some(supernet) = &job.supernet_job_id {
            let is_supernet = known.get(supernet).is_some_and(|job| job.kind == JobKind::Supernet);
            if !is_supernet {
                return Err(wrong(format!("supernet_job_id {supernet} is no supernet before it")));
            }
        }
        if !works.insert((job.architecture_digest.clone(), job.seed)) {
            return Err(wrong("another job trains the same with the same seed".to_owned()));
        }
        if let Some(twice) = job.checkpoints.iter().find(|checkpoint| !keys.insert(checkpoint.key.clone())) {
            return Err(wrong(format!("checkpoint key '{}' is given twice", twice.key)));
        }
        match known.insert(job.id, found) {
            Some(_) => Err(wrong(format!("job {} is given twice", job.id))),
            None => Ok(()),
        }
    })?;
    Ok(known)
}

fn check_job(
    job: &JobRow,
    number: u64,
    search: &CheckedSearch,
    architectures: &BTreeMap<String, Cost>,
) -> Result<KnownJob, String> {
    let kind: JobKind = job.kind.parse().map_err(|_| format!("kind '{}' is none of a job", job.kind))?;
    let state: JobState = job.state.parse().map_err(|_| format!("state '{}' is none of a job", job.state))?;
    if state.is_final() != job.end_time.is_some() {
        return Err(format!("is {state}, which end_time contradicts"));
    }
    check_trainer_job(job, kind, search)?;
    check_notes(&job.notes)?;
    if let Some(digest) =
        job.architecture_digest.as_ref().filter(|digest| !architectures.contains_key(*digest))
    {
        return Err(format!("architecture {digest} is not in {}", Member::Architectures.name()));
    }
    let counts = [
        job.lost_count,
        job.infrastructure_count,
        job.resource_count,
        job.numeric_count,
        job.no_progress_count,
    ];
    if counts.iter().any(|count| *count < 0) || job.furthest_step < 0 || job.epoch < 0 || job.revision < 1 {
        return Err("a count is negative, or the revision is not at least 1".to_owned());
    }
    let epochs: BTreeSet<i64> = job.attempts.iter().map(|attempt| attempt.epoch).collect();
    if epochs.len() != job.attempts.len() || epochs.iter().any(|epoch| !(1..=job.epoch).contains(epoch)) {
        return Err(format!("its attempts are not numbered from 1 to {}, once each", job.epoch));
    }
    job.attempts.iter().try_for_each(check_attempt)?;
    let mut places = BTreeSet::new();
    for checkpoint in &job.checkpoints {
        let length = checkpoint.key.chars().count();
        if !epochs.contains(&checkpoint.epoch) || !(1..=CHECKPOINT_KEY_CHARS_MAX).contains(&length) {
            return Err(format!("checkpoint '{}' is of no attempt, or its key of no length", checkpoint.key));
        }
        if checkpoint.step < 1 || !places.insert((checkpoint.epoch, checkpoint.step)) {
            return Err(format!("checkpoint '{}' has a step that is below 1 or given twice", checkpoint.key));
        }
    }
    let last = job.checkpoint_epoch.zip(job.checkpoint_step);
    if job.checkpoint_epoch.is_some() != job.checkpoint_step.is_some()
        || last.is_some_and(|last| !places.contains(&last))
    {
        return Err("its last checkpoint is not among its checkpoints".to_owned());
    }
    if job.result.is_some() != (state == JobState::Succeeded) {
        return Err(format!("is {state}, which its result, or that it has none, contradicts"));
    }
    if let Some(result) = &job.result {
        check_result(result, &job.trainer_job, &epochs, &places)?;
    }
    Ok(KnownJob { number, kind, is_final: state.is_final(), has_result: job.result.is_some(), epochs })
}

fn check_trainer_job(job: &JobRow, kind: JobKind, search: &CheckedSearch) -> Result<(), String> {
    let told = &job.trainer_job;
    told.check().map_err(|error| format!("trainer_job.{error}"))?;
    let digest = match &told.task {
        Task::Supernet { .. } => None,
        Task::Retrain { architecture } => Some(architecture.digest().to_string()),
    };
    if digest != job.architecture_digest || digest.is_some() != (kind == JobKind::Retrain) {
        return Err("trainer_job trains something else than kind and architecture_digest say".to_owned());
    }
    // A baseline may be another form of the backbone.
    let is_own = kind == JobKind::Retrain || told.task.backbone() == &search.spec().backbone;
    if !is_own || told.patch != search.spec().patch {
        return Err("trainer_job has another backbone or patch than the search".to_owned());
    }
    if told.seed != job.seed || told.training.steps_total() != job.step_count {
        return Err("seed or step_count is not that of trainer_job".to_owned());
    }
    let task = match told.task.backbone().task() {
        TaskKind::Segmentation => "segmentation",
        TaskKind::Classification => "classification",
    };
    if job.task != task {
        return Err(format!("task is '{}', the network's is '{task}'", job.task));
    }
    Ok(())
}

fn check_attempt(attempt: &AttemptRow) -> Result<(), String> {
    attempt
        .worker_id
        .parse::<WorkerId>()
        .map_err(|error| format!("attempt {}: worker_id: {error}", attempt.epoch))?;
    if attempt.incarnation < 1 {
        return Err(format!("attempt {}: incarnation must be at least 1", attempt.epoch));
    }
    let mut entries = attempt.environment.iter().flat_map(|environment| &environment.entry_seqs);
    if entries.any(|seq| !(1..=attempt.last_seq).contains(seq)) {
        return Err(format!("attempt {}: entry_seqs are not 1 to {}", attempt.epoch, attempt.last_seq));
    }
    Ok(())
}

fn check_result(
    result: &ResultRow,
    job: &TrainerJob,
    epochs: &BTreeSet<i64>,
    checkpoints: &BTreeSet<(i64, i64)>,
) -> Result<(), String> {
    if !epochs.contains(&result.epoch) {
        return Err(format!("its result is of attempt {}, which is not there", result.epoch));
    }
    if !checkpoints.contains(&(result.checkpoint_epoch, result.checkpoint_step)) {
        return Err("the checkpoint of its result is not among its checkpoints".to_owned());
    }
    if !(0.0..=1.0).contains(&result.quality.0) {
        return Err(format!("quality {} is not 0 to 1", result.quality.0));
    }
    let counted = cost(&job.task.network(), job.patch).map_err(|error| error.to_string())?;
    if (result.param_count, result.mac_count) != (counted.param_count, counted.mac_count) {
        return Err(format!(
            "its network has {} parameters and {} multiply-accumulates, the result says {} and {}",
            counted.param_count, counted.mac_count, result.param_count, result.mac_count
        ));
    }
    Ok(())
}

fn check_scores<R: Read + Seek>(
    archive: &mut Archive<R>,
    spec: &SearchSpec,
    jobs: &BTreeMap<Uuid, KnownJob>,
) -> Result<(), ExchangeError> {
    let member = Member::Scores;
    let mut seen = BTreeSet::new();
    archive.lines(member, |number, text| {
        let row: ScoresRow = parse(member, number, text)?;
        let wrong = |problem: String| Err(ExchangeError::line(member, number, problem));
        let is_known =
            jobs.get(&row.job_id).is_some_and(|job| job.kind == JobKind::Supernet && job.has_result);
        if !is_known || !seen.insert(row.job_id) {
            return wrong(format!("job {} is no supernet with a result, or has scores twice", row.job_id));
        }
        if row.scores.backbone() != &spec.backbone || row.scores.kernels() != &spec.supernet.kernels {
            return wrong("scores are of another supernet than the search's".to_owned());
        }
        if let Some(latency) = &row.latency {
            ChannelCosts::measured(&spec.backbone, &spec.supernet.kernels, latency)
                .map_err(|error| ExchangeError::line(member, number, error))?;
        }
        Ok(())
    })
}

fn check_events<R: Read + Seek>(
    archive: &mut Archive<R>,
    jobs: &BTreeMap<Uuid, KnownJob>,
) -> Result<(), ExchangeError> {
    let member = Member::Events;
    archive.lines(member, |number, text| {
        let row: EventRow = parse(member, number, text)?;
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
        if !row.kind.split('_').all(is_word) {
            return Err(ExchangeError::line(member, number, format!("kind '{}' is no kind", row.kind)));
        }
        if !row.body.is_object() {
            return Err(ExchangeError::line(member, number, "body is no object"));
        }
        match row.job_id.filter(|job| !jobs.contains_key(job)) {
            Some(job) => {
                let problem = format!("job {job} is not in {}", Member::Jobs.name());
                Err(ExchangeError::line(member, number, problem))
            }
            None => Ok(()),
        }
    })
}

/// Points come by job, key, attempt and number, so that none can come twice.
fn check_metrics<R: Read + Seek>(
    archive: &mut Archive<R>,
    jobs: &BTreeMap<Uuid, KnownJob>,
) -> Result<(), ExchangeError> {
    let member = Member::Metrics;
    let mut last = None;
    archive.lines(member, |number, text| {
        let row: MetricRow = parse(member, number, text)?;
        let wrong = |problem: String| Err(ExchangeError::line(member, number, problem));
        let Some(job) = jobs.get(&row.job_id).filter(|job| job.epochs.contains(&row.epoch)) else {
            return wrong(format!("job {} has no attempt {} in this file", row.job_id, row.epoch));
        };
        if row.seq < 1 || !(1..=KEY_CHARS_MAX).contains(&row.key.chars().count()) {
            return wrong(format!("seq is below 1, or key is not 1 to {KEY_CHARS_MAX} characters"));
        }
        let place = Some((job.number, row.key, row.epoch, row.seq));
        if place <= last {
            return wrong("stands twice, or not behind the line before it (job, key, epoch, seq)".to_owned());
        }
        last = place;
        Ok(())
    })
}
