//! The artifact store, tried as this machine's worker would use it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cakes_artifacts::ArtifactError;
use cakes_artifacts::trial::{self, Act, Cause, Refusal, Trial};
use url::Url;

use super::{Check, Verdict, machine};

/// For each thing that is done with the store.
const PATIENCE: Duration = Duration::from_secs(10);

const FOLDER: &str = "artifact folder";
const BUCKET: &str = "artifact bucket";

/// Where artifacts are.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Folder(PathBuf),
    Bucket(Url),
}

/// A check of the store that a coordinator was told with `--artifacts`, or tells its workers.
pub(super) async fn look(place: &Path) -> Check {
    match parse(place) {
        Some(Place::Folder(folder)) => in_folder(&folder).await,
        Some(Place::Bucket(url)) => {
            let tried = trial::run(url.as_str(), &own_name(), PATIENCE).await;
            tried.map_or_else(
                |error| no_bucket(&url, &error),
                |trial| judge(BUCKET, url.as_str(), &trial, bucket_remedy),
            )
        }
        None => Check::failed(
            "artifact store",
            "--artifacts is neither a folder nor a bucket",
            "write a folder or s3://BUCKET/PREFIX, as the coordinator has it; keys are in AWS_… variables",
        ),
    }
}

/// A name that nobody else has.
fn own_name() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A folder, as a path or a URL, or a bucket; none if it is something else.
fn parse(place: &Path) -> Option<Place> {
    let Some(text) = place.to_str().filter(|text| text.contains("://")) else {
        return Some(Place::Folder(std::path::absolute(place).ok()?));
    };
    let url = Url::parse(text).ok()?;
    match url.scheme() {
        "file" => Some(Place::Folder(url.to_file_path().ok()?)),
        "s3" if url.has_host() && url.username().is_empty() => Some(Place::Bucket(url)),
        _ => None,
    }
}

async fn in_folder(folder: &Path) -> Check {
    let shown = folder.display().to_string();
    let mount = "mount the coordinator's folder under the same path";
    let Ok(url) = Url::from_directory_path(folder) else {
        return Check::failed(FOLDER, format!("{shown} is no folder's path"), mount);
    };
    if !folder.is_dir() {
        return Check::failed(FOLDER, format!("{shown} is no folder here"), mount);
    }
    let trial = match trial::run(url.as_str(), &own_name(), PATIENCE).await {
        Ok(trial) => trial,
        Err(error) => return Check::failed(FOLDER, error.to_string(), mount),
    };
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let system = file_system(&mounts, &folder.canonicalize().unwrap_or_else(|_| folder.to_owned()));
    let shown = system.map_or_else(|| shown.clone(), |system| format!("{shown}, on {system}"));
    let check = judge(FOLDER, &shown, &trial, |_, _, _| {
        "give the user of the worker the folder, make room, or take a file system that knows hard links"
            .to_owned()
    });
    match check.verdict {
        Verdict::Ok => machine::room(FOLDER, &check.found, folder, 0, "make room on that file system"),
        _ => check,
    }
}

/// Kind and source of the file system that holds `folder`, of those in a list like
/// `/proc/self/mounts`.
fn file_system(mounts: &str, folder: &Path) -> Option<String> {
    let of_line = |line: &str| {
        let mut words = line.split(' ').map(plain);
        let (source, target, kind) = (words.next()?, words.next()?, words.next()?);
        folder
            .starts_with(&target)
            .then(|| (Path::new(&target).components().count(), format!("{kind} from {source}")))
    };
    // Of several on one folder the last one is seen.
    let (_, found) = mounts.lines().filter_map(of_line).max_by_key(|(depth, _)| *depth)?;
    Some(found)
}

/// A word of that list, in which blanks are written as octal numbers.
fn plain(word: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(word.to_owned(), |word, (written, meant)| word.replace(written, meant))
}

/// A bucket that could not even be tried.
fn no_bucket(url: &Url, error: &ArtifactError) -> Check {
    let (found, cause) = match error {
        ArtifactError::Store(error) => (trial::told(error), Cause::of(error)),
        other => (other.to_string(), Cause::Other),
    };
    Check::failed(BUCKET, format!("{url}: {found}"), bucket_remedy(Act::Create, cause, ""))
}

/// What a trial says. A worker neither lists nor deletes.
fn judge(name: &str, place: &str, trial: &Trial, remedy: impl Fn(Act, Cause, &str) -> String) -> Check {
    let mut found = Vec::new();
    let mut refusals: Vec<(Act, &Refusal)> = Vec::new();
    for step in &trial.steps {
        match &step.outcome {
            Ok(()) => found.push(format!("{} in {:.1} ms", done(step.act), step.took.as_secs_f64() * 1e3)),
            Err(refusal) => {
                found.push(format!("not {}: {refusal}", done(step.act)));
                refusals.push((step.act, refusal));
            }
        }
    }
    let found = format!("{place}: {}", found.join(", "));
    let remedies: Vec<String> =
        refusals.iter().map(|(act, refusal)| remedy(*act, refusal.cause(), &trial.key)).collect();
    let remedies = remedies.join("; ");
    match refusals.iter().any(|(act, _)| !matches!(act, Act::List | Act::Delete)) {
        true => Check::failed(name, found, remedies),
        false if refusals.is_empty() => Check::ok(name, found),
        false => Check::warning(name, found, remedies),
    }
}

fn done(act: Act) -> &'static str {
    match act {
        Act::Create => "created",
        Act::CreateAgain => "kept from being replaced",
        Act::Read => "read",
        Act::List => "listed",
        Act::Delete => "deleted",
    }
}

/// What helps when a bucket does not let this machine do `act` with the object `key`.
fn bucket_remedy(act: Act, cause: Cause, key: &str) -> String {
    let remedy = match cause {
        Cause::Unreachable => {
            "correct AWS_ENDPOINT, or AWS_REGION where there is no endpoint, or open the way to it in \
             firewalls"
        }
        Cause::PlainHttp => "set AWS_ALLOW_HTTP=true, or AWS_ENDPOINT to one of https",
        Cause::Certificate => {
            "let this machine trust who signed the endpoint's certificate, or correct AWS_ENDPOINT"
        }
        Cause::NoKeys => "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, here and for the worker",
        Cause::KeyId => "correct AWS_ACCESS_KEY_ID, or AWS_ENDPOINT if these keys are of another store",
        Cause::SecretKey => "correct AWS_SECRET_ACCESS_KEY: it is not that of AWS_ACCESS_KEY_ID",
        Cause::SessionToken => "renew AWS_SESSION_TOKEN and its keys, or unset it with keys that need none",
        Cause::Clock => "let chrony or systemd-timesyncd set this clock: signatures hold for minutes",
        Cause::Region => "set AWS_REGION to the region of the bucket",
        Cause::Bucket => "correct the bucket's name, or AWS_ENDPOINT if it is in another store",
        Cause::Replaces => {
            "unset AWS_CONDITIONAL_PUT, or take a store that knows If-None-Match: what is there must never \
             be replaced"
        }
        Cause::Inconsistent => "see what lies between here and the store, and whether it is one store",
        Cause::Silence => "see whether the store is well, and what lies between here and it",
        Cause::Right => match act {
            Act::Create | Act::CreateAgain => "allow these keys s3:PutObject below the prefix",
            Act::Read => "allow these keys s3:GetObject below the prefix",
            Act::List => "the coordinator's keys need s3:ListBucket; a worker's do not",
            Act::Delete => "the coordinator's keys need s3:DeleteObject; a worker's do not",
        },
        Cause::Other => "the log of the store may say more",
    };
    match act {
        Act::Delete => format!("{remedy}; delete {key} by hand"),
        _ => remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use cakes_artifacts::trial::Step;

    use super::*;

    #[test]
    fn a_place_is_a_folder_or_a_bucket() {
        let folder = |path: &str| Some(Place::Folder(PathBuf::from(path)));
        assert_eq!(parse(Path::new("/srv/cakes")), folder("/srv/cakes"));
        assert_eq!(parse(Path::new("file:///srv/my%20cakes/")), folder("/srv/my cakes/"));
        let Some(Place::Folder(below)) = parse(Path::new("artifacts")) else { panic!("a folder") };
        assert!(below.is_absolute() && below.ends_with("artifacts"), "{}", below.display());
        let bucket = Url::parse("s3://bucket/prefix").unwrap();
        assert_eq!(parse(Path::new("s3://bucket/prefix")), Some(Place::Bucket(bucket)));
        for wrong in ["gs://bucket", "s3://", "s3://key:secret@bucket", "file://host/x", "://", ""] {
            assert_eq!(parse(Path::new(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn the_file_system_is_the_innermost_and_the_last() {
        let mounts = "/dev/sda1 / ext4 rw 0 0\n\
                      filer:/old /srv nfs rw 0 0\n\
                      filer:/new /srv nfs4 rw 0 0\n\
                      //nas/my\\040share /srv/my\\040cakes cifs rw 0 0\n\
                      tmpfs /srv2 tmpfs rw 0 0\n";
        let of = |folder: &str| file_system(mounts, Path::new(folder)).unwrap();
        assert_eq!(of("/home/cakes"), "ext4 from /dev/sda1");
        assert_eq!(of("/srv/artifacts"), "nfs4 from filer:/new");
        assert_eq!(of("/srv/my cakes/artifacts"), "cifs from //nas/my share");
        assert_eq!(of("/srv3"), "ext4 from /dev/sda1");
        assert_eq!(file_system("", Path::new("/srv")), None);
    }

    /// A trial in which these acts end so.
    fn tried(outcomes: Vec<(Act, Result<(), Refusal>)>) -> Check {
        let took = Duration::from_millis(3);
        let steps = outcomes.into_iter().map(|(act, outcome)| Step { act, took, outcome }).collect();
        judge(BUCKET, "s3://cakes", &Trial { key: "cakes-doctor/x".to_owned(), steps }, bucket_remedy)
    }

    #[test]
    fn a_worker_must_write_and_read_and_need_not_list_and_delete() {
        let silence = || Err(Refusal::Silence(PATIENCE));
        let sound = tried(vec![(Act::Create, Ok(())), (Act::Read, Ok(())), (Act::Delete, Ok(()))]);
        assert_eq!(sound.verdict, Verdict::Ok);
        assert_eq!(sound.found, "s3://cakes: created in 3.0 ms, read in 3.0 ms, deleted in 3.0 ms");
        assert_eq!(sound.remedy, "");
        let left = tried(vec![(Act::Create, Ok(())), (Act::Delete, silence())]);
        assert_eq!(left.verdict, Verdict::Warning);
        assert!(left.remedy.contains("cakes-doctor/x"), "{left:?}");
        for (act, outcome) in [
            (Act::Create, silence()),
            (Act::CreateAgain, Err(Refusal::Replaced)),
            (Act::Read, Err(Refusal::Changed)),
        ] {
            let check = tried(vec![(act, outcome), (Act::Delete, Ok(()))]);
            assert!(check.verdict == Verdict::Failed && !check.remedy.is_empty(), "{check:?}");
        }
    }

    #[test]
    fn a_right_that_lacks_is_that_of_the_act() {
        let of = |act| bucket_remedy(act, Cause::Right, "key");
        assert!(of(Act::Create).contains("s3:PutObject") && of(Act::Read).contains("s3:GetObject"));
        assert!(of(Act::List).contains("s3:ListBucket") && of(Act::Delete).contains("s3:DeleteObject"));
    }
}
