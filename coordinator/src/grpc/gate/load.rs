//! How much one caller may have under way, over all its connections: nobody takes the places
//! of all others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

use super::status;
use crate::core::rights::Caller;

/// Calls and streams of one caller. A worker has about two calls per device under way; a
/// person's programs together fewer than the streams that the daemon serves in all.
const OF_ONE_MAX: usize = 128;

/// What is under way, by caller. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Load(Arc<Mutex<HashMap<String, usize>>>);

/// One call that counts while this lives.
#[derive(Debug)]
pub(super) struct Place {
    load: Load,
    who: String,
}

impl Load {
    /// A place for a call. Whoever is trusted without a name is not counted: it may be many.
    ///
    /// # Errors
    /// The caller has too many already.
    pub(super) fn take(&self, caller: &Caller) -> Result<Option<Place>, Status> {
        let Caller::Known(identity) = caller else { return Ok(None) };
        // A worker and a person of one name are two.
        let who = format!("{} {}", identity.role(), identity.name());
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(who.clone()).or_default();
        if *count >= OF_ONE_MAX {
            return Err(status::too_many_calls(OF_ONE_MAX));
        }
        *count += 1;
        Ok(Some(Place { load: self.clone(), who }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.load.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.who);
            }
        }
    }
}
