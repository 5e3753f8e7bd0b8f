//! Kernels: which axes of a convolution keep three taps and which shrink to one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Extent;

/// A convolution kernel, named by its taps along D (or T), H and W.
///
/// The order of the variants is canonical: it is the order of the branches of
/// a layer, of columns in tables and of ties in a derivation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kernel {
    #[serde(rename = "3x3x3")]
    K333,
    #[serde(rename = "1x3x3")]
    K133,
    #[serde(rename = "3x1x3")]
    K313,
    #[serde(rename = "3x3x1")]
    K331,
    #[serde(rename = "3x1x1")]
    K311,
    #[serde(rename = "1x3x1")]
    K131,
    #[serde(rename = "1x1x3")]
    K113,
    #[serde(rename = "1x1x1")]
    K111,
}

impl Kernel {
    /// Every kernel, in canonical order.
    pub const ALL: [Kernel; 8] = [
        Kernel::K333,
        Kernel::K133,
        Kernel::K313,
        Kernel::K331,
        Kernel::K311,
        Kernel::K131,
        Kernel::K113,
        Kernel::K111,
    ];

    /// Taps along D, H and W: each 1 or 3.
    pub fn size(self) -> Extent {
        match self {
            Kernel::K333 => [3, 3, 3],
            Kernel::K133 => [1, 3, 3],
            Kernel::K313 => [3, 1, 3],
            Kernel::K331 => [3, 3, 1],
            Kernel::K311 => [3, 1, 1],
            Kernel::K131 => [1, 3, 1],
            Kernel::K113 => [1, 1, 3],
            Kernel::K111 => [1, 1, 1],
        }
    }

    /// Zero padding that keeps the extent at stride 1.
    pub fn padding(self) -> Extent {
        self.size().map(|taps| taps / 2)
    }

    /// Number of weights per pair of input and output channel: 27, 9, 3 or 1.
    pub fn taps(self) -> u32 {
        self.size().iter().product()
    }

    /// Position in [`Kernel::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [d, h, w] = self.size();
        f.pad(&format!("{d}x{h}x{w}"))
    }
}

/// A text that names no kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no kernel; known are 3x3x3, 1x3x3, 3x1x3, 3x3x1, 3x1x1, 1x3x1, 1x1x3 and 1x1x1 (order D, H, W)"
)]
pub struct UnknownKernel(pub String);

impl FromStr for Kernel {
    type Err = UnknownKernel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Kernel::ALL
            .into_iter()
            .find(|kernel| kernel.to_string() == text)
            .ok_or_else(|| UnknownKernel(text.to_owned()))
    }
}

/// A non-empty set of kernels in canonical order: the choices of a search space.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Kernel>", into = "Vec<Kernel>")]
pub struct KernelSet(Vec<Kernel>);

/// A text that names no search space.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no search space; known are {known}", known = KernelSet::NAMES.join(", "))]
pub struct UnknownSpace(pub String);

/// Why a list of kernels is no search space.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelSetError {
    #[error("a search space needs at least two kernels; got {0}")]
    TooSmall(usize),
    #[error("kernel {0} is listed twice")]
    Duplicate(Kernel),
}

impl KernelSet {
    /// Search spaces that have a name, as [`KernelSet::named`] takes them.
    pub const NAMES: [&str; 5] = ["1_2d", "2_3d", "1_2_3d", "volume", "volume_pointwise"];

    /// A search space by its name.
    ///
    /// | name | kernels | for |
    /// |---|---|---|
    /// | `1_2d` | `1x3x3`, `3x1x1` | video, {1,2}D of the paper |
    /// | `2_3d` | `3x3x3`, `1x3x3` | video, {2,3}D |
    /// | `1_2_3d` | `3x3x3`, `1x3x3`, `3x1x1` | video, {1,2,3}D |
    /// | `volume` | one 3D, three 2D, three 1D | volumes, whose axes are equal |
    /// | `volume_pointwise` | these seven and `1x1x1` | volumes, as the paper draws it |
    ///
    /// # Errors
    /// There is no such name; the error lists all.
    pub fn named(name: &str) -> Result<Self, UnknownSpace> {
        use Kernel::{K133, K311, K333};
        let kernels = match name {
            "1_2d" => vec![K133, K311],
            "2_3d" => vec![K333, K133],
            "1_2_3d" => vec![K333, K133, K311],
            "volume" => Kernel::ALL[..7].to_vec(),
            "volume_pointwise" => Kernel::ALL.to_vec(),
            _ => return Err(UnknownSpace(name.to_owned())),
        };
        Ok(KernelSet(kernels))
    }

    /// The name of this space, if it has one.
    pub fn name(&self) -> Option<&'static str> {
        Self::NAMES.into_iter().find(|name| Self::named(name).as_ref() == Ok(self))
    }

    /// Sorts the kernels into canonical order.
    ///
    /// # Errors
    /// Fewer than two kernels, or one listed twice.
    pub fn new(kernels: impl IntoIterator<Item = Kernel>) -> Result<Self, KernelSetError> {
        let mut kernels: Vec<Kernel> = kernels.into_iter().collect();
        kernels.sort_unstable();
        if let Some(pair) = kernels.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(KernelSetError::Duplicate(pair[0]));
        }
        if kernels.len() < 2 {
            return Err(KernelSetError::TooSmall(kernels.len()));
        }
        Ok(KernelSet(kernels))
    }

    /// The space of volumes: one 3D, three 2D and three 1D kernels.
    pub fn volumetric() -> Self {
        KernelSet(Kernel::ALL[..7].to_vec())
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Kernel> + Clone + '_ {
        self.0.iter().copied()
    }

    /// Number of kernels, at least two.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn contains(&self, kernel: Kernel) -> bool {
        self.0.contains(&kernel)
    }

    /// Sum of the taps of all kernels: 63 for [`KernelSet::volumetric`].
    pub fn taps(&self) -> u32 {
        self.iter().map(Kernel::taps).sum()
    }

    /// The cheapest kernel; the last in canonical order among equals.
    pub fn lightest(&self) -> Kernel {
        self.iter().min_by_key(|kernel| (kernel.taps(), std::cmp::Reverse(*kernel))).unwrap_or(self.0[0])
    }
}

impl TryFrom<Vec<Kernel>> for KernelSet {
    type Error = KernelSetError;

    fn try_from(kernels: Vec<Kernel>) -> Result<Self, Self::Error> {
        KernelSet::new(kernels)
    }
}

impl From<KernelSet> for Vec<Kernel> {
    fn from(set: KernelSet) -> Self {
        set.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_taps_and_order_agree() {
        for (index, kernel) in Kernel::ALL.into_iter().enumerate() {
            assert_eq!(kernel.index(), index);
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
            assert_eq!(serde_json::to_string(&kernel).unwrap(), format!("\"{kernel}\""));
        }
        assert_eq!(Kernel::ALL.map(Kernel::taps), [27, 9, 9, 9, 3, 3, 3, 1]);
        assert!("3x3".parse::<Kernel>().is_err());
    }

    #[test]
    fn a_set_is_sorted_and_refuses_repeats() {
        let set = KernelSet::new([Kernel::K113, Kernel::K333]).unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [Kernel::K333, Kernel::K113]);
        assert_eq!(set.lightest(), Kernel::K113);
        assert_eq!(KernelSet::volumetric().taps(), 63);
        assert_eq!(
            KernelSet::new([Kernel::K333, Kernel::K333]),
            Err(KernelSetError::Duplicate(Kernel::K333))
        );
        assert!(serde_json::from_str::<KernelSet>("[\"3x3x3\"]").is_err());
    }

    #[test]
    fn spaces_have_names_and_a_wrong_one_lists_them() {
        let taps = KernelSet::NAMES.map(|name| KernelSet::named(name).unwrap().taps());
        assert_eq!(taps, [12, 36, 39, 63, 64]);
        for name in KernelSet::NAMES {
            let set = KernelSet::named(name).unwrap();
            assert_eq!(set.name(), Some(name));
            assert_eq!(KernelSet::new(set.iter()), Ok(set));
        }
        assert_eq!(KernelSet::named("volume"), Ok(KernelSet::volumetric()));
        assert_eq!(KernelSet::new([Kernel::K333, Kernel::K111]).unwrap().name(), None);
        let error = KernelSet::named("1_2_d").unwrap_err().to_string();
        assert!(error.contains("'1_2_d'") && error.contains("1_2_3d, volume"), "{error}");
    }
}
