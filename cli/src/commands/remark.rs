//! Labels and notes, as people type them.

use std::collections::BTreeMap;

use cakes::labels::{LabelChange, Labels};
use cakes_proto::v1;
use clap::Args;
use uuid::Uuid;

use crate::error::CommandError;

/// `key=value` to set and `key-` to remove.
#[derive(Debug, Args)]
pub struct LabelArguments {
    /// Id, or a prefix that only one has.
    pub id: String,
    /// KEY=VALUE sets a label, KEY- removes it.
    #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
    changes: Vec<String>,
}

impl LabelArguments {
    /// What to set and what to remove, checked.
    ///
    /// # Errors
    /// A change is neither of both, or its key or value is wrong.
    pub fn change(&self) -> Result<(BTreeMap<String, String>, Vec<String>), CommandError> {
        let (mut set, mut remove) = (BTreeMap::new(), Vec::new());
        for change in &self.changes {
            match (change.split_once('='), change.strip_suffix('-')) {
                (Some((key, value)), _) => drop(set.insert(key.to_owned(), value.to_owned())),
                (None, Some(key)) => remove.push(key.to_owned()),
                (None, None) => {
                    let line = format!("{change}: write KEY=VALUE to set a label, KEY- to remove it");
                    return Err(CommandError::invalid(line));
                }
            }
        }
        let checked = Labels::new(set.clone()).and_then(|labels| LabelChange::new(labels, remove.clone()));
        checked.map_err(|violation| CommandError::invalid(violation.to_string()))?;
        Ok((set, remove))
    }
}

/// Labels that what is listed must have.
#[derive(Clone, Debug, Default, Args)]
pub struct LabelFilter {
    /// Only what has this label; several times for several labels.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
}

/// What must hold for what is listed.
#[derive(Clone, Debug, Default, Args)]
pub struct ListFilter {
    #[command(flatten)]
    pub labels: LabelFilter,
    /// Only those for which this holds: conditions FIELD OPERATOR VALUE with AND, OR, NOT and
    /// parentheses between them. Fields have the names of the API; a wrong one is answered with
    /// all of them.
    #[arg(long = "filter", value_name = "EXPRESSION", default_value = "", hide_default_value = true)]
    pub expression: String,
}

impl ListFilter {
    /// Whether anything is left out.
    pub fn is_any(&self) -> bool {
        !self.expression.is_empty() || !self.labels.labels().is_empty()
    }
}

impl LabelFilter {
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.label.iter().cloned().collect()
    }
}

/// Labels that something has from its beginning.
#[derive(Clone, Debug, Default, Args)]
pub struct GivenLabels {
    /// A label to find it by; several times for several labels.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
}

impl GivenLabels {
    /// # Errors
    /// A key is given twice.
    pub fn labels(self) -> Result<BTreeMap<String, String>, CommandError> {
        each_once("--label", self.label)
    }
}

/// Pairs by key.
///
/// # Errors
/// A key is given twice to `flag`.
pub fn each_once(flag: &str, pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, CommandError> {
    let mut labels = BTreeMap::new();
    for (key, value) in pairs {
        if labels.insert(key.clone(), value).is_some() {
            return Err(CommandError::invalid(format!("{flag}: {key} is given twice; give it once")));
        }
    }
    Ok(labels)
}

/// `KEY=VALUE` of a flag.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    let (key, value) = (key.to_owned(), value.to_owned());
    Labels::new(BTreeMap::from([(key.clone(), value.clone())])).map_err(|violation| violation.problem)?;
    Ok((key, value))
}

/// The name under which somebody uses this machine.
fn user() -> String {
    let known = nix::unistd::User::from_uid(nix::unistd::getuid());
    known.ok().flatten().map_or_else(|| nix::unistd::getuid().to_string(), |user| user.name)
}

/// A note to add.
#[derive(Debug, Args)]
pub struct NoteArguments {
    /// Id, or a prefix that only one has.
    pub id: String,
    /// The remark; several words are joined.
    #[arg(required = true, value_name = "TEXT")]
    text: Vec<String>,
    /// Who writes it [default: the name of who is logged in].
    #[arg(long, default_value_t = user(), hide_default_value = true)]
    author: String,
    /// The same id adds no second note.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
}

impl NoteArguments {
    /// Id, text, author and request id.
    pub fn parts(self) -> (String, String, String, String) {
        let request_id =
            if self.request_id.is_empty() { Uuid::new_v4().to_string() } else { self.request_id };
        (self.id, self.text.join(" "), self.author, request_id)
    }
}

impl From<NoteArguments> for v1::AddSearchNoteRequest {
    fn from(arguments: NoteArguments) -> Self {
        let (id, text, author, request_id) = arguments.parts();
        v1::AddSearchNoteRequest { id, text, author, request_id }
    }
}

impl From<NoteArguments> for v1::AddJobNoteRequest {
    fn from(arguments: NoteArguments) -> Self {
        let (id, text, author, request_id) = arguments.parts();
        v1::AddJobNoteRequest { id, text, author, request_id }
    }
}

impl From<NoteArguments> for v1::AddArchitectureNoteRequest {
    fn from(arguments: NoteArguments) -> Self {
        let (digest, text, author, request_id) = arguments.parts();
        v1::AddArchitectureNoteRequest { digest, text, author, request_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(changes: &[&str]) -> Result<(BTreeMap<String, String>, Vec<String>), CommandError> {
        let changes = changes.iter().map(|change| (*change).to_owned()).collect();
        LabelArguments { id: "a".into(), changes }.change()
    }

    #[test]
    fn changes_are_read_as_they_are_typed() {
        let (set, remove) = change(&["owner=ada", "keep=", "paper-"]).unwrap();
        assert_eq!(set, BTreeMap::from([("keep".into(), String::new()), ("owner".into(), "ada".into())]));
        assert_eq!(remove, ["paper"]);
        for (wrong, problem) in
            [("owner", "KEY=VALUE"), ("ow ner=ada", "the key"), ("owner=-", "the value"), ("-", "the key")]
        {
            let error = change(&[wrong]).unwrap_err().to_string();
            assert!(error.contains(problem), "{wrong}: {error}");
        }
        assert!(change(&["a=1", "a-"]).is_err());
        let given = |labels: &[(&str, &str)]| {
            let label = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            GivenLabels { label }.labels()
        };
        assert_eq!(given(&[("keep", ""), ("owner", "ada")]).unwrap(), set);
        assert!(given(&[("a", "1"), ("a", "1")]).unwrap_err().to_string().contains("a is given twice"));
        assert!(pair("a=b").is_ok() && pair("a").is_err() && pair("a=-").is_err());
    }
}
