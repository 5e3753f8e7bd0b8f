//! What trainer and daemon say to each other: JSON in length-limited frames.
//!
//! A frame is a length (four bytes, little endian) and that many bytes of JSON.
//! The trainer writes [`TrainerEvent`]s; the daemon writes [`TrainerCommand`]s.
//! End of input tells either side that the other is gone.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::architecture::LayerAllocation;
use crate::derive::LatencyTable;
use crate::scores::ChannelScores;

/// Number of this protocol; trainer and daemon refuse each other otherwise.
pub const TRAINER_PROTOCOL: u32 = 4;

/// Variable by which the daemon asks a trainer for spans. One that does not know it sends none.
pub const SPANS_VARIABLE: &str = "CAKES_TRAINER_SPANS";

/// How the message of a failure begins that only says that another process is gone which trains
/// with this one: whoever was the cause says more.
pub const RANKS_GONE: &str = "training together";

/// What libtorch says where NCCL notices it first: in an error, or in the log of a process that its
/// watchdog ends.
const NCCL_OF_OTHERS: [&str; 3] = [
    "ncclRemoteError",
    "remote process exited or there was a network error",
    "Watchdog caught collective operation timeout",
];

/// Whether the message of a failure only says that other processes are gone.
pub fn tells_of_others(message: &str) -> bool {
    message.starts_with(RANKS_GONE) || NCCL_OF_OTHERS.iter().any(|words| message.contains(words))
}

/// Longest accepted frame, in bytes. Scores of a large supernet take about one
/// megabyte.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// What a trainer reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainerEvent {
    /// Data and network are ready: who is there and what it will do.
    Ready {
        protocol: u32,
        /// `cpu`, or the GPU's name.
        device: String,
        libtorch: String,
        /// Parameters counted from the built modules.
        param_count: u64,
        steps_total: u64,
        epochs_total: u64,
        /// Step of the checkpoint that it goes on from, 0 for a fresh start.
        resumed_step: u64,
    },
    /// Rank 0 listens on this port for ranks of other machines; sent before `Ready`, and only
    /// where there are any.
    Meets { port: u16 },
    /// What the job trains on; may come any time behind `Ready`.
    Data(DataContent),
    /// A section begins; each has a time limit of its own at the daemon.
    Phase(Phase),
    /// One optimizer step is done.
    Step {
        /// Steps done, from 1.
        step: u64,
        loss: f64,
        learning_rate: f64,
        /// Training samples per second, over the last second or so.
        samples_per_s: f64,
        /// Share of that time in which steps waited for data, 0 to 1.
        data_wait_share: f64,
    },
    /// Whole-volume validation after an epoch.
    Validation {
        step: u64,
        epoch: u64,
        quality: Quality,
        /// What the paper's rule would derive from a supernet now, layer by layer; empty
        /// for a retraining.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        layers: Vec<LayerAllocation>,
    },
    /// A checkpoint stands complete in `directory`.
    /// Later steps may have been reported before.
    Checkpoint {
        step: u64,
        directory: String,
        manifest_sha256: String,
        bytes: u64,
        /// Time for which it held the training.
        stall_s: f64,
        /// Time from the first copied tensor until it stood on disk.
        save_s: f64,
    },
    /// The scores at the end of a search.
    Scores(Box<ChannelScores>),
    /// What a channel of each kernel takes on this device, at the end of a search.
    Latency(Box<LatencyTable>),
    /// The job is done; the last checkpoint was reported before.
    Completed(Summary),
    /// The job cannot go on.
    Failed { class: FailureClass, message: String },
    /// Something begins that a trace shows; sent only to a daemon that asked for spans.
    SpanBegan {
        /// Of this process, from 1.
        id: u32,
        /// The span that it is part of, which has not ended; none directly below the process.
        parent: Option<u32>,
        name: String,
        /// Nanoseconds since 1970, which may be past.
        time_ns: u64,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        attributes: BTreeMap<String, i64>,
    },
    /// It has ended. What has no end when the process goes has failed with it.
    SpanEnded { id: u32, time_ns: u64 },
}

/// What a data set holds: equal digests are equal files, wherever they lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataContent {
    /// SHA-256, in hexadecimal, over a line `SHA256 SIZE PATH` of every file that the data
    /// set names, sorted by path; of generated data, over what they are generated from.
    pub sha256: String,
    /// Files; 0 of generated data.
    pub file_count: u64,
    /// Size of all files.
    pub bytes: u64,
}

/// Sections of a trainer's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    LoadingData,
    Building,
    Training,
    Validating,
    SavingCheckpoint,
    MeasuringLatency,
}

/// How good a network is on the validation data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Quality {
    Segmentation(SegmentationQuality),
    Classification(ClassificationQuality),
}

/// How well a network segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentationQuality {
    /// Mean over the classes of `dice_per_class`.
    pub mean_dice: f64,
    /// Dice of each class but the background, mean over cases, from class 1.
    pub dice_per_class: Vec<f64>,
    /// Cases that were segmented.
    pub case_count: u64,
}

/// How well a network classifies. All but `loss` are 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassificationQuality {
    /// Share of samples whose class scores highest.
    pub top1: f64,
    /// Share of samples whose class is among the five that score highest; 1 with
    /// five classes or fewer.
    pub top5: f64,
    /// Mean of the recall over the classes that occur.
    pub balanced_accuracy: f64,
    /// Area under the ROC curve, one class against the rest, mean over the
    /// classes; none where only one class occurs.
    pub auc: Option<f64>,
    /// Recall of each class, from class 0; none for one that does not occur.
    pub recall_per_class: Vec<Option<f64>>,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Samples that were classified.
    pub sample_count: u64,
}

impl Quality {
    /// The figure that networks are compared by, 0 to 1, higher is better.
    pub fn value(&self) -> f64 {
        match self {
            Quality::Segmentation(quality) => quality.mean_dice,
            Quality::Classification(quality) => quality.top1,
        }
    }

    /// Name of [`Quality::value`] in tables and as the last part of a metric's key.
    pub fn metric(&self) -> &'static str {
        match self {
            Quality::Segmentation(_) => "mean_dice",
            Quality::Classification(_) => "top1",
        }
    }
}

/// What a finished job leaves behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub step: u64,
    /// Quality of the final weights.
    pub quality: Quality,
    pub param_count: u64,
    /// MACs of one patch, from the cost model.
    pub mac_count: u64,
    /// Median time of one forward pass over one patch, batch 1; none for a supernet.
    pub latency_ms: Option<f64>,
    pub peak_memory_mib: f64,
    pub train_duration_s: f64,
}

/// Why a job ended badly; decides whether it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The daemon or the machine went away: again, from the last checkpoint.
    Lost,
    /// The machine is at fault (disk full, store unreachable): again, elsewhere.
    Infrastructure,
    /// Out of memory: once more.
    Resource,
    /// The loss or a parameter is not finite: once more, from the last checkpoint.
    Numeric,
    /// The job itself is wrong (no such data set, labels out of range): never again.
    User,
}

/// What a daemon asks of its trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainerCommand {
    /// Write a checkpoint after the current step, report it, and exit.
    Stop,
}

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is longer than the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("a frame does not hold what is expected: {0}")]
    Content(#[from] serde_json::Error),
}

/// The frame of a message.
///
/// # Errors
/// The message is longer than [`FRAME_BYTES_MAX`] or holds a value that JSON
/// cannot express.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Takes the first whole frame off the front of `buffer`; `None` while it is
/// incomplete.
///
/// # Errors
/// The announced length passes the limit, which is refused before it is
/// buffered, or the content is not a `T`. The stream is then of no further use.
pub fn decode<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<T>, FrameError> {
    let Some(header) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let Some(body) = buffer.get(4..4 + length) else { return Ok(None) };
    let message = serde_json::from_slice(body)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_announced_length_beyond_the_limit_is_refused_before_the_body_arrives() {
        let mut buffer = u32::MAX.to_le_bytes().to_vec();
        assert!(matches!(decode::<TrainerCommand>(&mut buffer), Err(FrameError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn frames_survive_any_fragmentation(steps in proptest::collection::vec(0_u64..99, 1..6), cut in 1_usize..40) {
            let sent: Vec<TrainerEvent> = steps
                .into_iter()
                .map(|step| TrainerEvent::Step { step, loss: 0.5, learning_rate: 0.1, samples_per_s: 2.0, data_wait_share: 0.0 })
                .collect();
            let bytes: Vec<u8> = sent.iter().flat_map(|event| encode(event).unwrap()).collect();
            let (mut buffer, mut received) = (Vec::new(), Vec::new());
            for chunk in bytes.chunks(cut) {
                buffer.extend_from_slice(chunk);
                while let Some(event) = decode::<TrainerEvent>(&mut buffer).unwrap() {
                    received.push(event);
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = bytes;
            while let Ok(Some(_)) = decode::<TrainerEvent>(&mut buffer) {}
        }
    }
}
