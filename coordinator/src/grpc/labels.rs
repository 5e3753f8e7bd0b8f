//! Labels in requests.

use std::collections::BTreeMap;

use cakes::labels::{LABELS_MAX, LabelChange, Labels};
use tonic::Status;

use super::status::invalid_field;

/// Labels that stand in a request under `field`.
pub(super) fn checked(field: &str, labels: BTreeMap<String, String>) -> Result<Labels, Status> {
    Labels::new(labels).map_err(|violation| invalid_field(field, violation.problem))
}

/// Labels to set and keys to remove.
pub(super) fn change(set: BTreeMap<String, String>, remove: Vec<String>) -> Result<LabelChange, Status> {
    if set.is_empty() && remove.is_empty() {
        return Err(invalid_field("set", "give labels to set, or keys to remove"));
    }
    if remove.len() > LABELS_MAX {
        return Err(invalid_field("remove", format!("{} keys are more than {LABELS_MAX}", remove.len())));
    }
    let set = checked("set", set)?;
    LabelChange::new(set, remove).map_err(|violation| invalid_field("remove", violation.problem))
}
