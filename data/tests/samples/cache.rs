//! What is kept decoded: used again, rebuilt when damaged, evicted when too much.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use cakes_data::samples::cache::{Cache, CacheKey, CacheOptions, Mapped, ValueType};
use tempfile::TempDir;

struct Place {
    root: TempDir,
    made: AtomicUsize,
}

impl Place {
    fn new() -> Self {
        Place { root: TempDir::new().unwrap(), made: AtomicUsize::new(0) }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    fn cache(&self, limit_bytes: u64) -> Cache {
        Cache::open(&CacheOptions { dir: Some(self.dir()), limit_bytes }).unwrap()
    }

    fn source(&self, name: &str) -> PathBuf {
        let path = self.root.path().join(name);
        if !path.exists() {
            fs::write(&path, name).unwrap();
        }
        path
    }

    /// 10 000 bytes of `value`, made or found.
    fn entry(&self, cache: &Cache, name: &str, value: u8) -> Arc<Mapped> {
        let key = CacheKey::of(&[self.source(name)], "test").unwrap();
        let made = cache.get_or_make(key, |out| {
            self.made.fetch_add(1, Ordering::Relaxed);
            out.write_all(&[value; 10_000]).unwrap();
            Ok((ValueType::U8, vec![10, 1000]))
        });
        made.unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

/// Makes the file look as if it was last used some minutes ago.
fn used_minutes_ago(path: &Path, minutes: u64) {
    let then = SystemTime::now() - Duration::from_secs(60 * minutes);
    let file = fs::File::open(path).unwrap();
    file.set_times(fs::FileTimes::new().set_accessed(then)).unwrap();
}

#[test]
fn an_entry_is_made_once_and_again_when_its_source_changes() {
    let place = Place::new();
    let first = place.entry(&place.cache(1 << 20), "a", 1);
    assert_eq!((first.value_type, first.shape.as_slice()), (ValueType::U8, &[10, 1000][..]));
    assert_eq!(first.bytes(), [1; 10_000]);
    drop(first);
    assert_eq!(place.entry(&place.cache(1 << 20), "a", 2).bytes()[0], 1);
    assert_eq!(place.made(), 1);
    fs::write(place.source("a"), "longer than before").unwrap();
    assert_eq!(place.entry(&place.cache(1 << 20), "a", 3).bytes()[0], 3);
    let other = CacheKey::of(&[place.source("a")], "another way");
    assert_ne!(other.unwrap(), CacheKey::of(&[place.source("a")], "test").unwrap());
}

#[test]
fn a_damaged_entry_is_noticed_and_made_again() {
    let place = Place::new();
    let cache = place.cache(1 << 20);
    drop(place.entry(&cache, "a", 1));
    let path = place.files()[0].clone();
    let whole = fs::read(&path).unwrap();
    // A value, the shape, the magic, the checksum of the header.
    for (made_before, at) in [5000, 52, 0, 4095].into_iter().enumerate() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(place.entry(&cache, "a", 1).bytes(), [1; 10_000], "byte {at}");
        assert_eq!(place.made(), made_before + 2, "byte {at}");
    }
    for length in [0, 100, 4096, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let before = place.made();
        assert_eq!(place.entry(&cache, "a", 1).bytes(), [1; 10_000]);
        assert_eq!(place.made(), before + 1, "{length} bytes");
    }
    // The entry of another source under this one's name.
    drop(place.entry(&cache, "b", 2));
    let other = place.files().into_iter().find(|file| *file != path).unwrap();
    fs::copy(&other, &path).unwrap();
    assert_eq!(place.entry(&cache, "a", 1).bytes()[0], 1);
}

#[test]
fn what_was_not_used_longest_goes_first_and_nothing_that_is_mapped() {
    let place = Place::new();
    // Room for three entries of 14 096 bytes.
    let cache = place.cache(45_000);
    let kept = place.entry(&cache, "a", 1);
    let path_a = place.files()[0].clone();
    drop(place.entry(&cache, "b", 2));
    let path_b = place.files().into_iter().find(|file| *file != path_a).unwrap();
    drop(place.entry(&cache, "c", 3));
    let path_c = place.files().into_iter().find(|file| *file != path_a && *file != path_b).unwrap();
    for (path, minutes) in [(&path_a, 30), (&path_b, 10), (&path_c, 20)] {
        used_minutes_ago(path, minutes);
    }
    let new = place.entry(&cache, "d", 4);
    assert!(path_a.exists(), "it is mapped, though used longest ago");
    assert!(!path_c.exists(), "of those not mapped, it was not used longest");
    assert_eq!((kept.bytes()[0], new.bytes()[0]), (1, 4));
    drop((kept, new));
    assert!(place.files().len() < 4);
    // Using an entry counts.
    for file in place.files() {
        used_minutes_ago(&file, 60);
    }
    drop(place.entry(&cache, "a", 9));
    drop(place.cache(16_000));
    assert_eq!(place.files(), [path_a]);
}

#[test]
fn what_is_larger_than_the_limit_is_refused_with_the_remedy() {
    let place = Place::new();
    let cache = place.cache(1000);
    let error = cache.check_fits(1001, Path::new("long.mp4")).unwrap_err().to_string();
    assert!(error.contains("1000 bytes") && error.contains("long.mp4") && error.contains("raise"), "{error}");
    cache.check_fits(1000, Path::new("long.mp4")).unwrap();
}

#[test]
fn what_cannot_be_made_leaves_nothing_behind() {
    let place = Place::new();
    let cache = place.cache(1 << 20);
    let key = CacheKey::of(&[place.source("a")], "test").unwrap();
    let wrong = cache.get_or_make(key, |out| {
        out.write_all(&[1; 10]).unwrap();
        Ok((ValueType::F32, vec![10]))
    });
    assert!(wrong.unwrap_err().to_string().contains("10 bytes were made for an array of [10]"));
    assert_eq!(place.files(), Vec::<PathBuf>::new());
    let blocked = CacheOptions { dir: Some(place.source("a").join("cache")), limit_bytes: 1 };
    assert!(Cache::open(&blocked).unwrap_err().to_string().contains("cannot be created"));
}

/// Threads stand for processes here: each has a cache of its own and they share
/// the folder alone.
#[test]
fn several_users_of_one_folder_see_whole_entries() {
    let place = Place::new();
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for user in 0..8 {
            let (place, start) = (&place, &start);
            scope.spawn(move || {
                let cache = place.cache(40_000);
                start.wait();
                for round in 0..40 {
                    let value = (user + round) % 5;
                    let entry = place.entry(&cache, &format!("source {value}"), value as u8);
                    assert_eq!(entry.bytes(), [value as u8; 10_000]);
                }
            });
        }
    });
    assert!(place.files().iter().all(|file| file.extension().is_some_and(|ending| ending == "sample")));
}
