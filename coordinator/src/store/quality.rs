//! How good a network is, between columns and the domain.

use cakes::frame::{Quality, SegmentationQuality};
use serde_json::Value;

use super::error::{Error, corrupt};

/// The columns of a result that tell of quality; what belongs to the other task
/// is null.
#[derive(Clone, Debug, Default)]
pub(super) struct QualityColumns {
    pub mean_dice: Option<f64>,
    pub dice_per_class: Option<Vec<f64>>,
    pub case_count: Option<i64>,
    pub classification: Option<Value>,
}

impl QualityColumns {
    /// # Errors
    /// The figures cannot be written as JSON.
    pub(super) fn of(quality: &Quality) -> Result<Self, Error> {
        match quality {
            Quality::Segmentation(quality) => Ok(QualityColumns {
                mean_dice: Some(quality.mean_dice),
                dice_per_class: Some(quality.dice_per_class.clone()),
                case_count: i64::try_from(quality.case_count).ok(),
                classification: None,
            }),
            Quality::Classification(quality) => {
                let figures = serde_json::to_value(quality).map_err(|error| corrupt("a quality", &error))?;
                Ok(QualityColumns { classification: Some(figures), ..QualityColumns::default() })
            }
        }
    }

    /// # Errors
    /// The row tells of neither task.
    pub(super) fn quality(self) -> Result<Quality, Error> {
        if let Some(figures) = self.classification {
            let quality = serde_json::from_value(figures);
            return quality.map(Quality::Classification).map_err(|error| corrupt("a quality", &error));
        }
        match (self.mean_dice, self.dice_per_class) {
            (Some(mean_dice), Some(dice_per_class)) => Ok(Quality::Segmentation(SegmentationQuality {
                mean_dice,
                dice_per_class,
                // Results of before it was reported have none.
                case_count: self.case_count.and_then(|count| count.try_into().ok()).unwrap_or(0),
            })),
            _ => Err(corrupt("a quality", &"it is of neither task")),
        }
    }
}
