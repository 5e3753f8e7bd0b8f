//! Labels: short facts that people attach to searches and jobs, to find them by.
//!
//! Keys and values are written like the short ones of Kubernetes: `owner=ada`,
//! `paper=miccai-2026`, `keep=`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::spec::Violation;

/// Labels of one thing, at the most.
pub const LABELS_MAX: usize = 32;
/// Characters of a key, and of a value, at the most.
pub const LABEL_CHARS_MAX: usize = 63;

/// Checked labels by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

/// What is to become of the labels of a thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelChange {
    /// Set, also where the key has another value.
    pub set: Labels,
    /// Keys to take away; one that is not there is no mistake.
    pub remove: BTreeSet<String>,
}

impl Labels {
    /// # Errors
    /// Too many, or the first key or value that is none, under the field `labels`.
    pub fn new(labels: BTreeMap<String, String>) -> Result<Self, Violation> {
        for (key, value) in &labels {
            check_key(key)?;
            if !value.is_empty() && !is_word(value) {
                return Err(violation(format!("the value '{}' of {key} {RULE}", shown(value))));
            }
        }
        if labels.len() > LABELS_MAX {
            return Err(violation(format!("{} are more than {LABELS_MAX}; remove some", labels.len())));
        }
        Ok(Labels(labels))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of `others` are among these, with the same values.
    pub fn include(&self, others: &Labels) -> bool {
        others.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }

    /// By key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl Display for Labels {
    /// `gpu=h200,site=basel`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (key, value)) in self.iter().enumerate() {
            let before = if place == 0 { "" } else { "," };
            write!(formatter, "{before}{key}={value}")?;
        }
        Ok(())
    }
}

impl FromStr for Labels {
    type Err = Violation;

    /// `gpu=h200,site=basel`; nothing for none.
    fn from_str(list: &str) -> Result<Self, Violation> {
        let mut labels = BTreeMap::new();
        for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                let shown = shown(pair);
                violation(format!("'{shown}' is no label; write KEY=VALUE, several with commas between"))
            })?;
            if labels.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(violation(format!("{} is given twice; leave one out", shown(key))));
            }
        }
        Labels::new(labels)
    }
}

impl LabelChange {
    /// # Errors
    /// A key is none, or is to be set and removed at once.
    pub fn new(set: Labels, remove: impl IntoIterator<Item = String>) -> Result<Self, Violation> {
        let remove: BTreeSet<String> = remove.into_iter().collect();
        for key in &remove {
            check_key(key)?;
            if set.0.contains_key(key) {
                return Err(violation(format!("{key} is both set and removed; do one of them")));
            }
        }
        Ok(LabelChange { set, remove })
    }

    /// The labels after the change.
    ///
    /// # Errors
    /// They would be too many.
    pub fn apply(&self, labels: &Labels) -> Result<Labels, Violation> {
        let mut changed = labels.0.clone();
        changed.retain(|key, _| !self.remove.contains(key));
        changed.extend(self.set.0.clone());
        Labels::new(changed)
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = Violation;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, Violation> {
        Labels::new(labels)
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(Labels(labels): Labels) -> Self {
        labels
    }
}

const RULE: &str =
    "must have 1 to 63 of A-Z, a-z, 0-9, '-', '_' and '.', the first and the last a letter or digit";

fn check_key(key: &str) -> Result<(), Violation> {
    if is_word(key) { Ok(()) } else { Err(violation(format!("the key '{}' {RULE}", shown(key)))) }
}

fn is_word(text: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_CHARS_MAX
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn violation(problem: String) -> Violation {
    Violation { field: "labels".to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Labels, Violation> {
        Labels::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn keys_and_values_are_short_words() {
        let longest = "a".repeat(63);
        for (key, value) in [("owner", "ada"), ("a", ""), ("v1.2_x-y", "0"), (&longest, &longest)] {
            assert!(of(&[(key, value)]).is_ok(), "{key}={value}");
        }
        let long = "a".repeat(64);
        let wrong =
            [("", "x"), ("-a", "x"), ("a.", "x"), ("a b", "x"), ("a/b", "x"), ("ä", "x"), (&long, "x")];
        for (key, value) in wrong.into_iter().chain([("a", "x y"), ("a", "-"), ("a", long.as_str())]) {
            let problem = of(&[(key, value)]).unwrap_err();
            assert_eq!(problem.field, "labels");
            assert!(problem.problem.contains("must have 1 to 63"), "{problem}");
        }
    }

    #[test]
    fn a_list_is_read_as_it_is_written() {
        let labels: Labels = " gpu=h200, site=basel,keep= ".parse().unwrap();
        assert_eq!(labels, of(&[("gpu", "h200"), ("keep", ""), ("site", "basel")]).unwrap());
        assert_eq!(labels.to_string().parse(), Ok(labels));
        assert_eq!("".parse(), Ok(Labels::default()));
        for (list, problem) in
            [("gpu", "write KEY=VALUE"), ("a=1,a=2", "a is given twice"), ("=x", "must have")]
        {
            assert!(list.parse::<Labels>().unwrap_err().problem.contains(problem), "{list}");
        }
    }

    #[test]
    fn labels_include_those_that_are_all_among_them() {
        let all = of(&[("gpu", "h200"), ("site", "basel")]).unwrap();
        assert!(all.include(&Labels::default()) && all.include(&all));
        assert!(all.include(&of(&[("gpu", "h200")]).unwrap()));
        assert!(!all.include(&of(&[("gpu", "a100")]).unwrap()), "another value");
        assert!(!all.include(&of(&[("gpu", "h200"), ("nvlink", "yes")]).unwrap()));
    }

    #[test]
    fn a_change_sets_replaces_and_removes() {
        let change = |set: &[(&str, &str)], remove: &[&str]| {
            LabelChange::new(of(set).unwrap(), remove.iter().map(|key| (*key).to_owned()))
        };
        let before = of(&[("a", "1"), ("b", "2")]).unwrap();
        let after = change(&[("b", "3"), ("c", "")], &["a", "z"]).unwrap().apply(&before).unwrap();
        assert_eq!(after, of(&[("b", "3"), ("c", "")]).unwrap());
        assert!(change(&[("a", "1")], &["a"]).is_err());
        assert!(change(&[], &["a b"]).is_err());

        let many: Vec<String> = (0..LABELS_MAX).map(|number| format!("k{number}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "")).collect();
        let full = of(&many).unwrap();
        let refused = change(&[("one", "more")], &[]).unwrap().apply(&full).unwrap_err();
        assert!(refused.problem.contains("33 are more than 32"), "{refused}");
        change(&[("one", "more")], &["k0"]).unwrap().apply(&full).unwrap();
    }

    proptest! {
        #[test]
        fn what_was_checked_comes_back_from_json(pairs in proptest::collection::btree_map(
            "[a-zA-Z0-9]([a-z_.-]{0,9}[a-z0-9])?", "([a-z0-9]{0,9})?", 0..LABELS_MAX)) {
            let labels = Labels::new(pairs).unwrap();
            let json = serde_json::to_string(&labels).unwrap();
            prop_assert_eq!(serde_json::from_str::<Labels>(&json).unwrap(), labels);
        }
    }
}
