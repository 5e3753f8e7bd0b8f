//! Labels between their column and the domain.

use cakes::labels::{LabelChange, Labels};
use serde_json::Value;

use super::error::{Error, corrupt};

pub(super) fn to_column(labels: &Labels) -> Result<Value, Error> {
    serde_json::to_value(labels).map_err(|error| corrupt("labels", &error))
}

pub(super) fn from_column(stored: Value) -> Result<Labels, Error> {
    serde_json::from_value(stored).map_err(|error| corrupt("labels", &error))
}

/// What to store after a change; none if it changes nothing.
///
/// # Errors
/// They would be too many.
pub(super) fn changed(stored: Value, change: &LabelChange) -> Result<Option<Value>, Error> {
    let before = from_column(stored)?;
    let after = change
        .apply(&before)
        .map_err(|violation| Error::InvalidArgument { field: "set", problem: violation.problem })?;
    if after == before { Ok(None) } else { to_column(&after).map(Some) }
}
