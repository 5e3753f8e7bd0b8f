//! Which fields of an answer are wanted: `google.protobuf.FieldMask` (AIP-157), and what
//! it makes of a message.
//!
//! A mask is applied to the encoded message by its descriptor, so that a new field can be
//! asked for as soon as it is in a `.proto` file.

use std::fmt;
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most paths of a mask.
const PATHS_MAX: usize = 100;

/// Longest path, in bytes; no field lies deeper.
const PATH_BYTES_MAX: usize = 200;

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(crate::DESCRIPTORS).ok());

/// The message of that name; in JSON one text, its paths separated by commas.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FieldMask {
    /// Paths of fields as the `.proto` files spell them, `progress.step`.
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
}

impl Serialize for FieldMask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.paths.join(","))
    }
}

impl<'de> Deserialize<'de> for FieldMask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let paths = text.split(',').map(str::trim).filter(|path| !path.is_empty());
        Ok(FieldMask { paths: paths.map(snake_case).collect() })
    }
}

/// JSON spells paths in camel case; that of the `.proto` files is taken too.
fn snake_case(path: &str) -> String {
    let mut spelt = String::with_capacity(path.len() + 4);
    for letter in path.chars() {
        if letter.is_ascii_uppercase() {
            spelt.push('_');
        }
        spelt.push(letter.to_ascii_lowercase());
    }
    spelt
}

/// What is wrong with a mask.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MaskError {
    #[error("{0} paths are more than {PATHS_MAX}")]
    TooMany(usize),
    #[error("'{path}' is no field of {message}, which has {known}")]
    Unknown { path: String, message: String, known: String },
    #[error("'{path}' goes into {field}, which holds no fields that could be chosen; ask for {field} itself")]
    TooDeep { path: String, field: String },
    #[error("no mask can be applied to {0}")]
    NoDescriptor(String),
}

/// A mask whose paths all name fields of one kind of message; none leaves out nothing.
#[derive(Clone, Debug)]
pub struct CheckedMask(Option<Masked>);

#[derive(Clone)]
struct Masked {
    message: MessageDescriptor,
    tree: Tree,
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.message.full_name(), self.tree)
    }
}

/// Numbers of the fields that stay, with what stays of each; nothing below is all of it.
#[derive(Clone, Debug, Default)]
struct Tree(Vec<(u32, Tree)>);

impl FieldMask {
    /// Looks up every path in the message of this name, `cakes.v1.Job`. `*` and no path at
    /// all are all fields.
    ///
    /// # Errors
    /// A path names no field, or goes into a list of numbers, a map or the like.
    pub fn check(&self, message: &str) -> Result<CheckedMask, MaskError> {
        if self.paths.is_empty() || self.paths.iter().any(|path| path == "*") {
            return Ok(CheckedMask(None));
        }
        if self.paths.len() > PATHS_MAX {
            return Err(MaskError::TooMany(self.paths.len()));
        }
        let message = POOL
            .as_ref()
            .and_then(|pool| pool.get_message_by_name(message))
            .ok_or_else(|| MaskError::NoDescriptor(message.to_owned()))?;
        let mut tree = Tree::default();
        let mut whole = Vec::new();
        for path in &self.paths {
            tree.add(&message, path, &mut whole)?;
        }
        Ok(CheckedMask(Some(Masked { message, tree })))
    }
}

impl Tree {
    /// Adds a path. `whole`: paths of fields that stay as a whole, whatever is named below.
    fn add(
        &mut self,
        message: &MessageDescriptor,
        path: &str,
        whole: &mut Vec<String>,
    ) -> Result<(), MaskError> {
        let shown = || path.chars().take(PATH_BYTES_MAX).collect::<String>();
        let mut numbers = Vec::new();
        let mut at = Some(message.clone());
        let mut above = String::new();
        for name in path.split('.') {
            let Some(inner) = at else {
                return Err(MaskError::TooDeep { path: shown(), field: above });
            };
            let Some(field) = inner.get_field_by_name(name) else {
                let known: Vec<String> = inner.fields().map(|field| field.name().to_owned()).collect();
                return Err(MaskError::Unknown {
                    path: shown(),
                    message: inner.full_name().to_owned(),
                    known: known.join(", "),
                });
            };
            numbers.push(field.number());
            above = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
            at = match field.kind() {
                Kind::Message(inner) if !field.is_map() => Some(inner),
                _ => None,
            };
        }
        let is_within = whole.iter().any(|whole| path == whole || path.starts_with(&format!("{whole}.")));
        if is_within {
            return Ok(());
        }
        let mut here = self;
        for number in numbers {
            let place = here.0.iter().position(|(known, _)| *known == number);
            let place = place.unwrap_or_else(|| {
                here.0.push((number, Tree::default()));
                here.0.len() - 1
            });
            here = &mut here.0[place].1;
        }
        here.0.clear();
        whole.push(path.to_owned());
        Ok(())
    }

    fn apply(&self, message: &mut DynamicMessage) {
        let set: Vec<u32> = message.fields().map(|(field, _)| field.number()).collect();
        for number in set {
            match self.0.iter().find(|(kept, _)| *kept == number) {
                None => message.clear_field_by_number(number),
                Some((_, Tree(below))) if below.is_empty() => {}
                Some((_, below)) => {
                    let Some(value) = message.get_field_by_number_mut(number) else { continue };
                    if let Some(inner) = value.as_message_mut() {
                        below.apply(inner);
                    } else if let Some(list) = value.as_list_mut() {
                        for inner in list.iter_mut().filter_map(|value| value.as_message_mut()) {
                            below.apply(inner);
                        }
                    }
                }
            }
        }
    }
}

impl CheckedMask {
    /// The message with the fields that are wanted; of lists, of each entry.
    pub fn apply<M: Message + Default>(&self, message: M) -> M {
        let Some(Masked { message: descriptor, tree }) = &self.0 else { return message };
        let mut dynamic = DynamicMessage::new(descriptor.clone());
        if dynamic.transcode_from(&message).is_err() {
            return message;
        }
        tree.apply(&mut dynamic);
        dynamic.transcode_to().unwrap_or(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn mask(text: &str) -> FieldMask {
        serde_json::from_value(text.into()).unwrap()
    }

    fn search() -> v1::Search {
        let job = |step| v1::Job {
            id: format!("job {step}"),
            progress: Some(v1::JobProgress { step, step_count: 9, ..Default::default() }),
            labels: [("owner".to_owned(), "ada".to_owned())].into(),
            ..Default::default()
        };
        v1::Search { id: "s".into(), revision: 7, jobs: vec![job(1), job(2)], ..Default::default() }
    }

    #[test]
    fn only_what_is_named_stays_in_each_entry_too() {
        let checked = mask("id,jobs.progress.stepCount, jobs.labels").check("cakes.v1.Search").unwrap();
        let kept = checked.apply(search());
        assert_eq!((kept.id.as_str(), kept.revision, kept.jobs.len()), ("s", 0, 2));
        for job in kept.jobs {
            assert_eq!(job.id, "");
            assert_eq!(job.labels["owner"], "ada");
            let progress = job.progress.unwrap();
            assert_eq!((progress.step, progress.step_count), (0, 9));
        }
    }

    #[test]
    fn a_whole_field_wins_over_its_parts_in_either_order() {
        for text in ["jobs,jobs.id", "jobs.id,jobs"] {
            assert_eq!(
                mask(text).check("cakes.v1.Search").unwrap().apply(search()).jobs,
                search().jobs,
                "{text}"
            );
        }
    }

    #[test]
    fn no_path_and_the_star_leave_everything() {
        for text in ["", "*", "id,*"] {
            assert_eq!(mask(text).check("cakes.v1.Search").unwrap().apply(search()), search(), "{text}");
        }
    }

    #[test]
    fn a_path_that_names_nothing_is_refused_with_what_there_is() {
        let refused = |text: &str| mask(text).check("cakes.v1.Search").unwrap_err().to_string();
        assert!(
            refused("id,jobs.nonsense")
                .starts_with("'jobs.nonsense' is no field of cakes.v1.Job, which has id, ")
        );
        assert!(refused("labels.owner").contains("ask for labels itself"));
        assert!(refused("id.more").contains("ask for id itself"));
        assert!(refused("jobs.").contains("'jobs.' is no field"));
        assert_eq!(mask(&"id,".repeat(101)).check("cakes.v1.Search").unwrap_err(), MaskError::TooMany(101));
    }

    #[test]
    fn a_mask_is_one_text_in_json() {
        let request = v1::GetJobRequest { id: "a".into(), read_mask: Some(mask("id,progress.stepCount")) };
        let json = serde_json::to_value(&request).unwrap();
        assert_eq!(json["read_mask"], "id,progress.step_count");
        assert_eq!(serde_json::from_value::<v1::GetJobRequest>(json).unwrap(), request);
    }
}
