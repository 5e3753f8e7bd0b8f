//! How well scores tell classes: pure figures.

/// Figures over a set of samples. All but `loss` are 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification {
    /// Share of samples whose class scores highest.
    pub top1: f64,
    /// Share of samples whose class is among the five highest scores.
    pub top5: f64,
    /// Mean of the recall over the classes that occur.
    pub balanced_accuracy: f64,
    /// Area under the ROC curve of each class against the rest, mean over the
    /// classes that occur but not everywhere; none where there is no such class.
    pub auc: Option<f64>,
    /// Recall of each class; none for one that does not occur.
    pub recall_per_class: Vec<Option<f64>>,
    /// Mean cross-entropy of the softmax of the scores, in nats.
    pub loss: f64,
    pub sample_count: usize,
}

/// Compares `scores` (`[N, K]`, row by row, before softmax) with the class of each
/// of N samples.
///
/// Among equal scores the lower class counts as the higher score. The area of a
/// class ranks samples by its softmax probability; it is the Mann-Whitney
/// statistic, in which a tie counts half.
///
/// # Panics
/// There are no samples or classes, `scores` has another length than N·K, or a
/// label is no class: mistakes of the program, not of data.
pub fn evaluate(scores: &[f32], labels: &[usize], classes: usize) -> Classification {
    assert!(classes > 0 && !labels.is_empty() && scores.len() == labels.len() * classes);
    assert!(labels.iter().all(|label| *label < classes));
    let log_probabilities: Vec<Vec<f64>> = scores.chunks_exact(classes).map(log_softmax).collect();
    let count = labels.len() as f64;
    let ranks: Vec<usize> =
        scores.chunks_exact(classes).zip(labels).map(|(scores, label)| rank(scores, *label)).collect();
    let within = |places: usize| ranks.iter().filter(|rank| **rank < places).count() as f64 / count;
    let recall_per_class: Vec<Option<f64>> = (0..classes)
        .map(|class| {
            let ranks = || ranks.iter().zip(labels).filter(|(_, label)| **label == class);
            let all = ranks().count();
            (all > 0).then(|| ranks().filter(|(rank, _)| **rank == 0).count() as f64 / all as f64)
        })
        .collect();
    let areas: Vec<f64> = (0..classes)
        .filter_map(|class| {
            let of_class = log_probabilities.iter().map(|row| row[class]).zip(labels);
            area(of_class.map(|(score, label)| (score, *label == class)).collect())
        })
        .collect();
    let losses = log_probabilities.iter().zip(labels).map(|(row, label)| -row[*label]);
    Classification {
        top1: within(1),
        top5: within(5),
        balanced_accuracy: mean(recall_per_class.iter().flatten().copied()).unwrap_or(0.0),
        auc: mean(areas.into_iter()),
        loss: losses.sum::<f64>() / count,
        recall_per_class,
        sample_count: labels.len(),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0_u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / f64::from(count))
}

fn log_softmax(scores: &[f32]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = scores.iter().map(|score| f64::from(*score) - f64::from(most));
    let log_sum = shifted.clone().map(f64::exp).sum::<f64>().ln();
    shifted.map(|score| score - log_sum).collect()
}

/// Classes that score higher than `label`. A score that is no number is lowest.
fn rank(scores: &[f32], label: usize) -> usize {
    let key = |score: f32| if score.is_nan() { f32::NEG_INFINITY } else { score };
    let own = key(scores[label]);
    let ahead = |(class, score): (usize, &f32)| key(*score) > own || (key(*score) == own && class < label);
    scores.iter().enumerate().filter(|(class, score)| ahead((*class, score))).count()
}

/// Area under the ROC curve by the ranks of the positive samples; none where one
/// side is empty.
fn area(mut samples: Vec<(f64, bool)>) -> Option<f64> {
    samples.sort_by(|left, right| left.0.total_cmp(&right.0));
    let positives = samples.iter().filter(|(_, positive)| *positive).count();
    let negatives = samples.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let (mut rank_sum, mut before) = (0.0, 0);
    for tied in samples.chunk_by(|left, right| left.0 == right.0) {
        // Ranks before + 1 to before + n have the mean before + (n + 1) / 2.
        let rank = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        rank_sum += rank * tied.iter().filter(|(_, positive)| *positive).count() as f64;
        before += tied.len();
    }
    let least = positives as f64 * (positives as f64 + 1.0) / 2.0;
    Some((rank_sum - least) / (positives as f64 * negatives as f64))
}
