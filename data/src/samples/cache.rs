//! Decoded samples on local disk, mapped into memory instead of parsed.
//!
//! An entry is one file: a page with what is in it, then raw values. It is
//! written under a temporary name, flushed and renamed, so that another process
//! sees all of it or nothing. Nothing changes a file once it has its name; an
//! entry that is damaged all the same is noticed by its checksum and made again.
//!
//! The time of access of a file says when it was last used; it is set, not left
//! to the file system. When the folder
//! grows over its limit, what was not used longest goes first, but nothing that
//! this process has mapped. A file that another process has mapped may lose its
//! name; the map stays.

use std::collections::HashMap;
use std::fs::{self, File, FileTimes};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::DataError;

/// Where decoded samples are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// None for `$XDG_CACHE_HOME/cakes` or `~/.cache/cakes`.
    pub dir: Option<PathBuf>,
    /// Bytes of all entries together.
    pub limit_bytes: u64,
}

impl Default for CacheOptions {
    fn default() -> Self {
        CacheOptions { dir: None, limit_bytes: 50 << 30 }
    }
}

impl CacheOptions {
    /// The folder that is used.
    pub fn folder(&self) -> PathBuf {
        let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.dir.clone().unwrap_or_else(|| {
            from("XDG_CACHE_HOME")
                .filter(|path| path.is_absolute())
                .or_else(|| from("HOME").map(|home| home.join(".cache")))
                .unwrap_or_else(std::env::temp_dir)
                .join("cakes")
        })
    }
}

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    U8,
    F32,
}

impl ValueType {
    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            ValueType::U8 => 1,
            ValueType::F32 => 4,
        }
    }

    fn code(self) -> u32 {
        match self {
            ValueType::U8 => 1,
            ValueType::F32 => 2,
        }
    }
}

/// Identity of an entry: what it was made from, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// The key of what `how` makes of `sources`; it changes with the path, size and
    /// time of change of each file.
    ///
    /// # Errors
    /// A file is missing.
    pub fn of(sources: &[PathBuf], how: &str) -> Result<Self, DataError> {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(how.as_bytes());
        for source in sources {
            let io = |error| DataError::io(source, error);
            let path = source.canonicalize().map_err(io)?;
            let facts = fs::metadata(&path).map_err(io)?;
            let changed = facts.modified().map_err(io)?.duration_since(UNIX_EPOCH).unwrap_or_default();
            part(path.as_os_str().as_encoded_bytes());
            part(&facts.len().to_le_bytes());
            part(&changed.as_nanos().to_le_bytes());
        }
        Ok(CacheKey(hash.finalize().into()))
    }

    fn file_name(self) -> String {
        let digits: String = self.0[..20].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{digits}.{ENDING}")
    }
}

const ENDING: &str = "sample";
const MAGIC: [u8; 8] = *b"CAKESMP1";
/// Values start at a page, so that they are aligned for every type.
const HEADER_BYTES: usize = 4096;
const AXES_MAX: usize = 8;
/// A temporary file that is older was left behind by a process that ended.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// An array in a mapped file.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
    pub value_type: ValueType,
    pub shape: Vec<usize>,
}

impl Mapped {
    /// All values, in C order, as bytes of this machine.
    pub fn bytes(&self) -> &[u8] {
        &self.map[HEADER_BYTES..]
    }
}

/// Takes the values of an entry that is being made.
#[derive(Debug)]
pub struct EntryWriter {
    file: BufWriter<File>,
    checksum: crc32fast::Hasher,
    written: u64,
}

impl EntryWriter {
    /// Bytes of values so far.
    pub fn written(&self) -> u64 {
        self.written
    }
}

impl Write for EntryWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.checksum.update(&bytes[..count]);
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// A folder of entries.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    limit_bytes: u64,
    /// Bytes of all entries, as far as this process knows.
    used_bytes: AtomicU64,
    eviction: Mutex<()>,
}

/// What this process has mapped, and which files it has read through: the
/// checksum of an entry is computed once.
static MAPPED: Mutex<Option<HashMap<PathBuf, Seen>>> = Mutex::new(None);

#[derive(Debug)]
struct Seen {
    map: Weak<Mapped>,
    identity: FileIdentity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    length: u64,
    changed: Option<SystemTime>,
}

impl FileIdentity {
    fn of(facts: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        FileIdentity {
            device: facts.dev(),
            inode: facts.ino(),
            length: facts.len(),
            changed: facts.modified().ok(),
        }
    }
}

fn with_seen<T>(act: impl FnOnce(&mut HashMap<PathBuf, Seen>) -> T) -> T {
    let mut seen = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    act(seen.get_or_insert_default())
}

impl Cache {
    /// Opens the folder, creating it where needed.
    ///
    /// # Errors
    /// The folder cannot be created or listed.
    pub fn open(options: &CacheOptions) -> Result<Self, DataError> {
        let dir = options.folder();
        fs::create_dir_all(&dir).map_err(|error| {
            DataError::file(&dir, format!("is to keep decoded samples, but cannot be created: {error}"))
        })?;
        let dir = dir.canonicalize().map_err(|error| DataError::io(&dir, error))?;
        let cache = Cache {
            dir,
            limit_bytes: options.limit_bytes,
            used_bytes: AtomicU64::new(0),
            eviction: Mutex::new(()),
        };
        cache.evict()?;
        Ok(cache)
    }

    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// The entry of `key`; where it is missing or damaged, `make` writes its
    /// values in C order and says their type and shape.
    ///
    /// # Errors
    /// `make` fails, or the folder cannot be written.
    pub fn get_or_make(
        &self,
        key: CacheKey,
        make: impl FnOnce(&mut EntryWriter) -> Result<(ValueType, Vec<usize>), DataError>,
    ) -> Result<Arc<Mapped>, DataError> {
        let path = self.dir.join(key.file_name());
        if let Some(found) = open_entry(&path, key)? {
            return Ok(found);
        }
        let entry = self.write_entry(&path, key, make)?;
        if self.used_bytes.load(Ordering::Relaxed) > self.limit_bytes {
            self.evict()?;
        }
        Ok(entry)
    }

    /// Refuses an entry of `source` that the folder's limit has no room for.
    ///
    /// # Errors
    /// It is larger than the limit.
    pub fn check_fits(&self, bytes: u64, source: &Path) -> Result<(), DataError> {
        if bytes <= self.limit_bytes {
            return Ok(());
        }
        let problem = format!(
            "may hold {} bytes of decoded samples, '{}' needs more for itself; raise the limit of the cache",
            self.limit_bytes,
            source.display()
        );
        Err(DataError::file(&self.dir, problem))
    }

    /// An error of writing to the folder.
    pub fn not_written(&self, error: &std::io::Error) -> DataError {
        DataError::file(&self.dir, format!("keeps decoded samples, but cannot be written: {error}"))
    }

    /// Writes an entry and maps it before it has its name, so that no other user of
    /// the folder can evict it in between.
    fn write_entry(
        &self,
        path: &Path,
        key: CacheKey,
        make: impl FnOnce(&mut EntryWriter) -> Result<(ValueType, Vec<usize>), DataError>,
    ) -> Result<Arc<Mapped>, DataError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Containers that share the folder may share numbers of processes too.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let unique = format!("{}-{number}-{now}.tmp", std::process::id());
        let temporary = Temporary(path.with_extension(unique));
        let io = |error| self.not_written(&error);
        let file = File::create_new(&temporary.0).map_err(io)?;
        let mut writer =
            EntryWriter { file: BufWriter::new(file), checksum: crc32fast::Hasher::new(), written: 0 };
        writer.file.write_all(&[0; HEADER_BYTES]).map_err(io)?;
        let (value_type, shape) = make(&mut writer)?;
        let EntryWriter { mut file, checksum, written } = writer;
        let values: usize = shape.iter().product();
        if shape.len() > AXES_MAX || written != (values * value_type.size()) as u64 {
            let problem = format!("{written} bytes were made for an array of {shape:?}");
            return Err(DataError::file(&temporary.0, problem));
        }
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        file.write_all(&header(key, value_type, &shape, checksum.finalize())).map_err(io)?;
        let file = file.into_inner().map_err(|error| io(error.into_error()))?;
        file.sync_all().map_err(io)?;
        let entry = map_entry(&File::open(&temporary.0).map_err(io)?, path, key)?.ok_or_else(|| {
            DataError::file(path, "was written and cannot be read back; check the disk it lies on")
        })?;
        fs::rename(&temporary.0, path).map_err(io)?;
        self.used_bytes.fetch_add(written + HEADER_BYTES as u64, Ordering::Relaxed);
        Ok(entry)
    }

    /// Deletes what was not used longest until a tenth of the limit is free, and
    /// what ended processes left behind.
    fn evict(&self) -> Result<(), DataError> {
        let _one_at_a_time = self.eviction.lock().unwrap_or_else(PoisonError::into_inner);
        let io = |error| DataError::io(&self.dir, error);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            // Another process may have deleted it since.
            let Ok(facts) = fs::metadata(&path) else { continue };
            let used = facts.accessed().unwrap_or(UNIX_EPOCH);
            match path.extension().and_then(|ending| ending.to_str()) {
                Some(ENDING) => entries.push((used, path, facts.len())),
                Some("tmp") if used.elapsed().is_ok_and(|age| age > STALE) => {
                    let _ = fs::remove_file(&path);
                }
                _ => {}
            }
        }
        let mut total: u64 = entries.iter().map(|(_, _, length)| length).sum();
        if total > self.limit_bytes {
            entries.sort();
            for (_, path, length) in entries {
                if total <= self.limit_bytes / 10 * 9 {
                    break;
                }
                if !is_mapped(&path) && fs::remove_file(&path).is_ok() {
                    total -= length;
                }
            }
        }
        self.used_bytes.store(total, Ordering::Relaxed);
        Ok(())
    }
}

fn is_mapped(path: &Path) -> bool {
    with_seen(|seen| match seen.get(path) {
        Some(entry) if entry.map.strong_count() > 0 => true,
        Some(_) => {
            seen.remove(path);
            false
        }
        None => false,
    })
}

/// Deletes its file when an entry could not be made; nothing is left to delete
/// when it was.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Magic, key, type, number of axes, checksum of values, their shape, and the
/// checksum of all that. Numbers are in the order of this machine's bytes: a
/// cache is not carried to another.
fn header(key: CacheKey, value_type: ValueType, shape: &[usize], checksum: u32) -> [u8; HEADER_BYTES] {
    let mut text = Vec::with_capacity(HEADER_BYTES);
    text.extend(MAGIC);
    text.extend(key.0);
    for number in [value_type.code(), shape.len() as u32, checksum] {
        text.extend(number.to_ne_bytes());
    }
    for size in shape {
        text.extend((*size as u64).to_ne_bytes());
    }
    let mut page = [0; HEADER_BYTES];
    page[..text.len()].copy_from_slice(&text);
    let own = crc32fast::hash(&page[..HEADER_BYTES - 4]);
    page[HEADER_BYTES - 4..].copy_from_slice(&own.to_ne_bytes());
    page
}

/// Type, shape and checksum of the values; none where it is not a sound header.
fn parse_header(page: &[u8], key: CacheKey) -> Option<(ValueType, Vec<usize>, u32)> {
    let number = |at: usize| Some(u32::from_ne_bytes(page.get(at..at + 4)?.try_into().ok()?));
    let sound = page.get(..8)? == MAGIC
        && page.get(8..40)? == key.0
        && number(HEADER_BYTES - 4)? == crc32fast::hash(page.get(..HEADER_BYTES - 4)?);
    if !sound {
        return None;
    }
    let value_type =
        [ValueType::U8, ValueType::F32].into_iter().find(|kind| Some(kind.code()) == number(40))?;
    let axes = number(44)? as usize;
    let size = |axis: usize| {
        let at = 52 + axis * 8;
        usize::try_from(u64::from_ne_bytes(page.get(at..at + 8)?.try_into().ok()?)).ok()
    };
    let shape = (0..axes.min(AXES_MAX)).map(size).collect::<Option<Vec<_>>>()?;
    Some((value_type, shape, number(48)?))
}

/// Maps an entry. None where there is none, or a damaged one.
fn open_entry(path: &Path, key: CacheKey) -> Result<Option<Arc<Mapped>>, DataError> {
    let io = |error| DataError::io(path, error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    // Says that the entry was used. Where the folder may only be read, that
    // is all that is lost.
    let _ = file.set_times(FileTimes::new().set_accessed(SystemTime::now()));
    map_entry(&file, path, key)
}

/// Maps the open file of the entry that has, or will have, the name `path`.
fn map_entry(file: &File, path: &Path, key: CacheKey) -> Result<Option<Arc<Mapped>>, DataError> {
    let io = |error| DataError::io(path, error);
    let identity = FileIdentity::of(&file.metadata().map_err(io)?);
    let known = with_seen(|seen| {
        let entry = seen.get(path).filter(|entry| entry.identity == identity)?;
        Some(entry.map.upgrade())
    });
    if let Some(Some(map)) = known {
        return Ok(Some(map));
    }
    if identity.length < HEADER_BYTES as u64 {
        return Ok(None);
    }
    #[allow(unsafe_code)]
    // SAFETY: files of the cache are never written after they were flushed and
    // mapped, neither by this process nor by another, so that the map cannot
    // change or shrink; deleting or renaming a file leaves its map whole.
    let map = unsafe { Mmap::map(file) }.map_err(io)?;
    let Some((value_type, shape, checksum)) = parse_header(&map[..HEADER_BYTES], key) else {
        return Ok(None);
    };
    let values = shape.iter().try_fold(value_type.size(), |total, size| total.checked_mul(*size));
    if values != Some(map.len() - HEADER_BYTES) {
        return Ok(None);
    }
    // Read through once per process and file.
    if known.is_none() && crc32fast::hash(&map[HEADER_BYTES..]) != checksum {
        return Ok(None);
    }
    let mapped = Arc::new(Mapped { map, value_type, shape });
    with_seen(|seen| {
        seen.insert(path.to_owned(), Seen { map: Arc::downgrade(&mapped), identity });
    });
    Ok(Some(mapped))
}
