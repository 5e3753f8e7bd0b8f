//! When a search has made up its mind.

use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, ArchitectureDigest};

/// Counts how often in a row a search has derived the same architecture.
///
/// It is told the architecture of the paper's rule ([`super::derive_per_layer`])
/// after each validation, and says when it has been the same so many times in a
/// row that the search may end. A resumed search goes on where it was if this is
/// kept in its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stability {
    /// Equal architectures in a row that are enough, at least 2.
    needed: u32,
    last: Option<ArchitectureDigest>,
    /// How often in a row `last` was seen.
    seen: u32,
}

impl Stability {
    /// Asks for `validations` equal architectures in a row; fewer than 2 mean 2,
    /// because one alone says nothing.
    pub fn new(validations: u32) -> Self {
        Stability { needed: validations.max(2), last: None, seen: 0 }
    }

    /// Takes what was derived after a validation, and says whether it has been
    /// the same often enough.
    pub fn observe(&mut self, architecture: &Architecture) -> bool {
        let digest = architecture.digest();
        self.seen = if self.last == Some(digest) { self.seen.saturating_add(1) } else { 1 };
        self.last = Some(digest);
        self.is_reached()
    }

    /// Whether the last observations were the same often enough.
    pub fn is_reached(&self) -> bool {
        self.seen >= self.needed
    }

    /// How often in a row the last architecture was derived; 0 before the first.
    pub fn unchanged(&self) -> u32 {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backbone::{Backbone, EncoderDecoder};
    use crate::kernel::Kernel;

    fn architectures() -> Vec<Architecture> {
        let config = EncoderDecoder {
            input_channels: 1,
            classes: 2,
            base_width: 2,
            levels: 2,
            ..EncoderDecoder::default()
        };
        let of = |kernel| Architecture::even(Backbone::EncoderDecoder(config.clone()), &[kernel]).unwrap();
        [Kernel::K333, Kernel::K133, Kernel::K311].map(of).to_vec()
    }

    proptest! {
        /// It holds exactly when the last N observations are equal, also when the
        /// state went through a checkpoint between two of them.
        #[test]
        fn the_last_n_must_be_equal(needed in 2_u32..5, picks in proptest::collection::vec(0_usize..3, 1..40)) {
            let all = architectures();
            let mut stability = Stability::new(needed);
            for (index, pick) in picks.iter().enumerate() {
                let reached = stability.observe(&all[*pick]);
                let from = (index + 1).checked_sub(needed as usize);
                let equal = from.is_some_and(|from| picks[from..=index].iter().all(|other| other == pick));
                prop_assert_eq!(reached, equal);
                let json = serde_json::to_string(&stability).unwrap();
                stability = serde_json::from_str(&json).unwrap();
                prop_assert_eq!(stability.is_reached(), equal);
            }
        }
    }

    #[test]
    fn one_observation_is_never_enough() {
        let mut stability = Stability::new(0);
        assert!(!stability.observe(&architectures()[0]));
        assert!(stability.observe(&architectures()[0]));
        assert_eq!(stability.unchanged(), 2);
    }
}
