//! What a data set holds, in one digest: two trainings with equal digests read the same
//! bytes, wherever the files lie.
//!
//! The digest is the SHA-256 of one line per file, `SHA256 SIZE PATH` and a line feed,
//! sorted by path; paths are relative to the data set's folder and use `/`. Only files that
//! the data set names count, so a note beside them changes nothing.
//!
//! Hashing reads every byte once. What was found is remembered on local disk by path, size
//! and time of change, so that the next job on the same files only looks at their names.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::DataError;

/// The files that a data set names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentFiles {
    /// The folder that paths are relative to.
    pub root: PathBuf,
    /// Relative paths.
    pub files: BTreeSet<PathBuf>,
}

/// The digest of a data set and what it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// In hexadecimal.
    pub sha256: String,
    pub file_count: u64,
    pub bytes: u64,
}

/// How much has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    pub bytes: u64,
    pub total_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// With `/` between its parts.
    name: String,
    path: PathBuf,
    size: u64,
    /// Since 1970, in nanoseconds.
    changed_ns: u128,
}

/// Read at once, in bytes; also how often progress is told.
const CHUNK: usize = 1 << 20;
/// A file that changed so recently may change again within one tick of its file system's
/// clock, and is not remembered.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Hashes the files with `threads` threads. What is known in the folder `memory` is not
/// read again; `progress` is told from several threads how far it is.
///
/// # Errors
/// A file is missing, cannot be read, or has a name that is no text.
pub fn hash(
    content: &ContentFiles,
    memory: &Path,
    threads: usize,
    progress: &(dyn Fn(Hashed) + Sync),
) -> Result<Content, DataError> {
    let entries = look(content)?;
    let memory = Memory::open(memory, &content.root);
    let known: Vec<Option<String>> = entries.iter().map(|entry| memory.digest(entry)).collect();
    let unknown: Vec<usize> = (0..entries.len()).filter(|index| known[*index].is_none()).collect();
    let total_bytes = unknown.iter().map(|index| entries[*index].size).sum();
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let read = |bytes: u64| {
        let bytes = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        progress(Hashed { bytes, total_bytes });
    };
    let found: Mutex<Vec<(usize, Result<String, DataError>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, unknown.len().max(1)) {
            scope.spawn(|| {
                while let Some(index) = unknown.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let digest = hash_file(&entries[*index].path, &read);
                    let failed = digest.is_err();
                    if let Ok(mut found) = found.lock() {
                        found.push((*index, digest));
                    }
                    if failed {
                        next.store(unknown.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut digests = known;
    for (index, digest) in found.into_inner().unwrap_or_default() {
        digests[index] = Some(digest?);
    }
    let digests: Vec<String> = digests.into_iter().flatten().collect();
    memory.keep(&entries, &digests);
    Ok(digest_of(&entries, &digests))
}

/// The digest of what follows from `text` alone, as generated volumes do.
pub fn of_text(text: &str) -> Content {
    let name = "generated".to_owned();
    let entry = Entry { name, path: PathBuf::new(), size: text.len() as u64, changed_ns: 0 };
    let content = digest_of(&[entry], &[hex(&Sha256::digest(text))]);
    Content { file_count: 0, bytes: 0, ..content }
}

fn digest_of(entries: &[Entry], digests: &[String]) -> Content {
    let mut hash = Sha256::new();
    for (entry, digest) in entries.iter().zip(digests) {
        hash.update(format!("{digest} {} {}\n", entry.size, entry.name));
    }
    Content {
        sha256: hex(&hash.finalize()),
        file_count: entries.len() as u64,
        bytes: entries.iter().map(|entry| entry.size).sum(),
    }
}

fn look(content: &ContentFiles) -> Result<Vec<Entry>, DataError> {
    let entry = |file: &PathBuf| {
        let path = content.root.join(file);
        let facts = fs::metadata(&path).map_err(|error| DataError::io(&path, error))?;
        let parts: Option<Vec<&str>> = file.iter().map(|part| part.to_str()).collect();
        let name = parts.ok_or_else(|| DataError::file(&path, "has a name that is no UTF-8 text"))?.join("/");
        if name.contains('\n') {
            return Err(DataError::file(&path, "has a line feed in its name"));
        }
        let changed = facts.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let changed_ns = changed.unwrap_or_default().as_nanos();
        Ok(Entry { name, path, size: facts.len(), changed_ns })
    };
    let mut entries = content.files.iter().map(entry).collect::<Result<Vec<_>, DataError>>()?;
    // As bytes, which is not the order of paths part by part.
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(entries)
}

fn hash_file(path: &Path, read: &dyn Fn(u64)) -> Result<String, DataError> {
    let io = |error| DataError::io(path, error);
    let mut file = File::open(path).map_err(io)?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk).map_err(io)? {
            0 => return Ok(hex(&hash.finalize())),
            count => {
                hash.update(&chunk[..count]);
                read(count as u64);
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Digests of one data set's files, in one file: `SHA256 SIZE NANOSECONDS PATH` in a line.
struct Memory {
    file: PathBuf,
    known: HashMap<String, (u64, u128, String)>,
}

impl Memory {
    /// Whatever cannot be read is not known.
    fn open(folder: &Path, root: &Path) -> Self {
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let name = hex(&Sha256::digest(root.as_os_str().as_encoded_bytes())[..20]);
        let file = folder.join(format!("{name}.sha256"));
        let text = fs::read_to_string(&file).unwrap_or_default();
        let known = text.lines().filter_map(|line| {
            let mut parts = line.splitn(4, ' ');
            let digest = parts.next().filter(|digest| digest.len() == 64)?.to_owned();
            let (size, changed_ns) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            Some((parts.next()?.to_owned(), (size, changed_ns, digest)))
        });
        Memory { known: known.collect(), file }
    }

    fn digest(&self, entry: &Entry) -> Option<String> {
        let (size, changed_ns, digest) = self.known.get(&entry.name)?;
        (*size == entry.size && *changed_ns == entry.changed_ns).then(|| digest.clone())
    }

    /// A disk that does not take it costs the next job time, not this one its result.
    fn keep(&self, entries: &[Entry], digests: &[String]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let settled_ns = now.saturating_sub(SETTLED_AFTER).as_nanos();
        let mut text = String::new();
        for (entry, digest) in entries.iter().zip(digests) {
            if entry.changed_ns < settled_ns {
                let _ = writeln!(text, "{digest} {} {} {}", entry.size, entry.changed_ns, entry.name);
            }
        }
        let Some(folder) = self.file.parent() else { return };
        let whole = folder.join(format!("{}.{}", std::process::id(), now.as_nanos()));
        let _ = fs::create_dir_all(folder)
            .and_then(|()| fs::write(&whole, text))
            .and_then(|()| fs::rename(&whole, &self.file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(root: &Path, names: &[&str]) -> ContentFiles {
        ContentFiles { root: root.to_owned(), files: names.iter().map(PathBuf::from).collect() }
    }

    fn write(root: &Path, name: &str, text: &str, age: Duration) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    const OLD: Duration = Duration::from_secs(3600);

    #[test]
    fn the_digest_is_what_sha256sum_says_of_the_lines() {
        let folder = tempfile::tempdir().unwrap();
        let (root, memory) = (folder.path().join("data"), folder.path().join("memory"));
        write(&root, "b", "abc", OLD);
        write(&root, "a/x", "", OLD);
        let found = hash(&files(&root, &["b", "a/x"]), &memory, 2, &|_| {}).unwrap();
        let lines = concat!(
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 a/x\n",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad 3 b\n",
        );
        let sha256 = hex(&Sha256::digest(lines));
        assert_eq!(found, Content { sha256, file_count: 2, bytes: 3 });
    }

    #[test]
    fn only_what_changed_is_read_again_and_names_count() {
        let folder = tempfile::tempdir().unwrap();
        let (root, memory) = (folder.path().join("data"), folder.path().join("memory"));
        write(&root, "a", "first", OLD);
        write(&root, "b", "other", OLD);
        let read = |names: &[&str]| {
            let bytes = AtomicU64::new(0);
            let count = |hashed: Hashed| {
                bytes.fetch_max(hashed.bytes, Ordering::Relaxed);
            };
            let found = hash(&files(&root, names), &memory, 4, &count).unwrap();
            (found.sha256, bytes.into_inner())
        };
        let (first, all) = read(&["a", "b"]);
        assert_eq!(all, 10);
        assert_eq!(read(&["a", "b"]), (first.clone(), 0));
        write(&root, "a", "frost", Duration::from_secs(1800));
        let (changed, again) = read(&["a", "b"]);
        assert_eq!(again, 5);
        assert_ne!(changed, first);
        assert_ne!(read(&["a"]).0, changed);
    }

    #[test]
    fn a_file_that_may_still_change_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (root, memory) = (folder.path().join("data"), folder.path().join("memory"));
        write(&root, "a", "one", Duration::ZERO);
        let changed = fs::metadata(root.join("a")).unwrap().modified().unwrap();
        let first = hash(&files(&root, &["a"]), &memory, 1, &|_| {}).unwrap();
        fs::write(root.join("a"), "two").unwrap();
        File::options().write(true).open(root.join("a")).unwrap().set_modified(changed).unwrap();
        assert_ne!(hash(&files(&root, &["a"]), &memory, 1, &|_| {}).unwrap(), first);
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = hash(&files(folder.path(), &["gone"]), folder.path(), 1, &|_| {}).unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
    }
}
