//! Which cases train and which validate.

use std::collections::BTreeSet;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::DataError;

/// How cases are divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// These cases validate.
    Named(Vec<String>),
    /// `splits.json` decides.
    File,
    /// One of several folds.
    Fold { fold: u32, folds: u32, seed: u64 },
    /// The last cases validate.
    Last(usize),
}

/// Content of `splits.json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SplitsFile {
    pub train: Vec<String>,
    pub val: Vec<String>,
}

/// Names of the cases on each side, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub training: Vec<String>,
    pub validation: Vec<String>,
}

/// Divides `ids` (sorted). `file` is what `splits.json` says, for [`Split::File`].
///
/// Folds are made of blocks of neighbouring names, dealt out at random:
/// neighbours are often two scans of one person, and a split between them would
/// let the validation see what was trained on.
///
/// # Errors
/// Unknown names, or a side that is left empty.
pub fn partition(ids: &[String], split: &Split, file: Option<&SplitsFile>) -> Result<Partition, DataError> {
    let known: BTreeSet<&String> = ids.iter().collect();
    let (training, validation): (Vec<String>, Vec<String>) = match (split, file) {
        (Split::File, None) => return Err(DataError::Split("this data set has no splits.json".into())),
        (Split::File, Some(file)) => {
            all_known(&known, &file.train)?;
            all_known(&known, &file.val)?;
            let validating: BTreeSet<&String> = file.val.iter().collect();
            if let Some(both) = file.train.iter().find(|id| validating.contains(id)) {
                return Err(DataError::Split(format!("splits.json: case '{both}' is in both lists")));
            }
            (file.train.clone(), file.val.clone())
        }
        (Split::Named(names), _) => {
            all_known(&known, names)?;
            let validating: BTreeSet<&String> = names.iter().collect();
            ids.iter().cloned().partition(|id| !validating.contains(id))
        }
        (Split::Last(count), _) => {
            let cut = ids.len().saturating_sub(*count);
            (ids[..cut].to_vec(), ids[cut..].to_vec())
        }
        (Split::Fold { fold, folds, seed }, _) => fold_sides(ids, *fold, *folds, *seed),
    };
    if training.is_empty() || validation.is_empty() {
        return Err(DataError::Split(format!(
            "the split leaves {} cases for training and {} for validation; both need at least one",
            training.len(),
            validation.len()
        )));
    }
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids.dedup();
        ids
    };
    Ok(Partition { training: sorted(training), validation: sorted(validation) })
}

fn all_known(known: &BTreeSet<&String>, names: &[String]) -> Result<(), DataError> {
    let unknown: Vec<&str> = names.iter().filter(|name| !known.contains(name)).map(String::as_str).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(DataError::Split(format!("the data set has no case named {}", unknown.join(", "))))
}

fn fold_sides(ids: &[String], fold: u32, folds: u32, seed: u64) -> (Vec<String>, Vec<String>) {
    // Four blocks per fold where there are cases enough for it.
    let blocks_wanted = (folds as usize * 4).min(ids.len()).max(1);
    let mut blocks: Vec<&[String]> = (0..blocks_wanted)
        .map(|block| &ids[ids.len() * block / blocks_wanted..ids.len() * (block + 1) / blocks_wanted])
        .collect();
    blocks.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let (mut training, mut validation) = (Vec::new(), Vec::new());
    for (position, block) in blocks.into_iter().enumerate() {
        let side = if position % folds as usize == fold as usize { &mut validation } else { &mut training };
        side.extend_from_slice(block);
    }
    (training, validation)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("case_{index:03}")).collect()
    }

    #[test]
    fn unknown_names_are_listed() {
        let error =
            partition(&ids(3), &Split::Named(vec!["case_001".into(), "nobody".into()]), None).unwrap_err();
        assert!(error.to_string().contains("nobody"), "{error}");
        let everybody = Split::Named(ids(3));
        assert!(partition(&ids(3), &everybody, None).is_err());
    }

    #[test]
    fn a_case_on_both_sides_is_refused() {
        let file = SplitsFile { train: ids(3), val: vec!["case_002".into()] };
        assert!(partition(&ids(3), &Split::File, Some(&file)).is_err());
    }

    proptest! {
        #[test]
        fn folds_are_disjoint_and_together_complete(count in 5_usize..80, folds in 2_u32..6, seed in any::<u64>()) {
            prop_assume!(count >= folds as usize);
            let ids = ids(count);
            let mut validated = Vec::new();
            for fold in 0..folds {
                let sides = partition(&ids, &Split::Fold { fold, folds, seed }, None).unwrap();
                prop_assert_eq!(sides.training.len() + sides.validation.len(), count);
                prop_assert!(sides.validation.iter().all(|id| !sides.training.contains(id)));
                validated.extend(sides.validation);
            }
            validated.sort();
            prop_assert_eq!(validated, ids);
        }
    }
}
