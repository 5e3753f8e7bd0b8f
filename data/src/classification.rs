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
    // Summed in one order, so that the same scores in other places tie exactly.
    let mut parts: Vec<f64> = shifted.clone().map(f64::exp).collect();
    parts.sort_by(f64::total_cmp);
    let log_sum = parts.iter().sum::<f64>().ln();
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every pair of a sample of the class and one of another.
    fn naive_area(samples: &[(f64, bool)]) -> Option<f64> {
        let (mut wins, mut pairs) = (0.0, 0.0);
        for (positive, _) in samples.iter().filter(|(_, is_positive)| *is_positive) {
            for (negative, _) in samples.iter().filter(|(_, is_positive)| !*is_positive) {
                pairs += 1.0;
                wins += if positive > negative { 1.0 } else { 0.0 };
                wins += if positive == negative { 0.5 } else { 0.0 };
            }
        }
        (pairs > 0.0).then(|| wins / pairs)
    }

    fn naive_place(scores: &[f32], label: usize) -> usize {
        let mut classes: Vec<usize> = (0..scores.len()).collect();
        classes.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]).then(left.cmp(right)));
        classes.iter().position(|class| *class == label).unwrap()
    }

    #[test]
    fn figures_of_a_small_set() {
        let scores = [2.0, 1.0, 0.0, 0.0, 3.0, 1.0, 1.0, 1.0, 0.0, 5.0, 0.0, 0.0];
        let found = evaluate(&scores, &[0, 1, 1, 1], 3);
        assert_eq!((found.top1, found.top5, found.sample_count), (0.5, 1.0, 4));
        assert_eq!(found.recall_per_class, [Some(1.0), Some(1.0 / 3.0), None]);
        assert!((found.balanced_accuracy - 2.0 / 3.0).abs() < 1e-12);
        // Against class 0: ahead of two, behind one. Against class 1: the sample of
        // class 0 is behind two and ahead of one.
        assert!((found.auc.unwrap() - (2.0 / 3.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12, "{found:?}");
        let certain = evaluate(&[0.0, 0.0], &[1], 2);
        assert!((certain.loss - 2_f64.ln()).abs() < 1e-12);
        assert_eq!((certain.auc, certain.top1), (None, 0.0));
        assert!(evaluate(&[1000.0, -1000.0], &[1], 2).loss.is_finite());
    }

    proptest! {
        #[test]
        fn figures_agree_with_their_definitions(
            classes in 1_usize..8,
            rows in proptest::collection::vec((proptest::collection::vec(0_u8..4, 8), 0_usize..8), 1..40),
        ) {
            // Few different scores, so that ties are common.
            let scores: Vec<f32> =
                rows.iter().flat_map(|(row, _)| row[..classes].iter().map(|score| f32::from(*score))).collect();
            let labels: Vec<usize> = rows.iter().map(|(_, label)| label % classes).collect();
            let found = evaluate(&scores, &labels, classes);
            let count = labels.len() as f64;
            let places: Vec<usize> =
                scores.chunks(classes).zip(&labels).map(|(row, label)| naive_place(row, *label)).collect();
            let within = |most: usize| places.iter().filter(|place| **place < most).count() as f64 / count;
            prop_assert_eq!((found.top1, found.top5), (within(1), within(5)));
            let probability = |row: &[f32], class: usize| {
                let sum: f64 = row.iter().map(|score| f64::from(*score).exp()).sum();
                f64::from(row[class]).exp() / sum
            };
            let mut areas = Vec::new();
            for class in 0..classes {
                // Rounded, so that equal probabilities that were computed in two
                // ways are equal.
                let of_class: Vec<(f64, bool)> = scores.chunks(classes).zip(&labels)
                    .map(|(row, label)| ((probability(row, class) * 1e9).round(), *label == class)).collect();
                areas.extend(naive_area(&of_class));
                let all = labels.iter().filter(|label| **label == class).count();
                let right = labels.iter().zip(&places).filter(|(label, place)| **label == class && **place == 0).count();
                prop_assert_eq!(found.recall_per_class[class], (all > 0).then(|| right as f64 / all as f64));
            }
            let mean = (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64);
            match (found.auc, mean) {
                (Some(found), Some(mean)) => prop_assert!((found - mean).abs() < 1e-9, "{} {}", found, mean),
                (found, mean) => prop_assert_eq!(found, mean),
            }
            let loss = scores.chunks(classes).zip(&labels).map(|(row, label)| -probability(row, *label).ln()).sum::<f64>() / count;
            prop_assert!((found.loss - loss).abs() < 1e-9);
            let present: Vec<f64> = found.recall_per_class.iter().flatten().copied().collect();
            prop_assert!((found.balanced_accuracy - present.iter().sum::<f64>() / present.len() as f64).abs() < 1e-12);
        }
    }
}
