//! Why a job ended badly, and whose fault it was.

use cakes::frame::{FailureClass, tells_of_others};

/// How a message begins that only says that another process is gone.
pub const RANKS: &str = cakes::frame::RANKS_GONE;

/// A failure with its class, which decides whether the job is tried again.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    #[error("{0}")]
    User(String),
    #[error("data: {0}")]
    Data(#[from] cakes_data::DataError),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    #[error("{0}")]
    Numeric(String),
    #[error("{RANKS}: {0}")]
    Ranks(#[from] cakes_ranks::RanksError),
    /// Another of the processes that train together failed.
    #[error("rank {rank}: {message}")]
    OtherRank { rank: u32, class: FailureClass, message: String },
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    #[error("{0}")]
    Report(String),
}

impl TrainerError {
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        TrainerError::Io { what: what.into(), source }
    }

    /// Whose fault it was.
    pub fn class(&self) -> FailureClass {
        match self {
            TrainerError::User(_) => FailureClass::User,
            TrainerError::Data(cakes_data::DataError::Io { source, .. })
                if source.kind() != std::io::ErrorKind::NotFound =>
            {
                FailureClass::Infrastructure
            }
            // A machine without the program: another one may have it.
            TrainerError::Data(cakes_data::DataError::Program(_)) => FailureClass::Infrastructure,
            TrainerError::Data(_) => FailureClass::User,
            TrainerError::Io { .. } | TrainerError::Checkpoint(_) | TrainerError::Report(_) => {
                FailureClass::Infrastructure
            }
            TrainerError::Ranks(_) => FailureClass::Infrastructure,
            TrainerError::OtherRank { class, .. } => *class,
            TrainerError::Numeric(_) => FailureClass::Numeric,
            TrainerError::Torch(error) => class_of_torch_error(&error.to_string()),
        }
    }

    /// Whether it only says that another process is gone. Where gradients are summed within
    /// a backward pass, libtorch itself notices that first.
    pub fn is_of_ranks(&self) -> bool {
        match self {
            TrainerError::Ranks(error) => matches!(error, cakes_ranks::RanksError::Failed { .. }),
            TrainerError::Torch(error) => {
                let text = error.to_string();
                tells_of_others(&text)
                    || ["gloo", "NCCL", "ProcessGroup"].iter().any(|words| text.contains(words))
            }
            _ => false,
        }
    }

    /// The text for people: the first line of what libtorch says, without its stack.
    pub fn message(&self) -> String {
        match self {
            TrainerError::Torch(error) => {
                let text = error.to_string();
                let first = text.lines().next().unwrap_or_default();
                let origin = if self.is_of_ranks() { RANKS } else { "libtorch" };
                format!("{origin}: {first}")
            }
            other => other.to_string(),
        }
    }
}

/// libtorch has no error codes; memory exhaustion is known by its words.
fn class_of_torch_error(text: &str) -> FailureClass {
    let out_of_memory =
        ["out of memory", "can't allocate memory", "not enough memory", "DefaultCPUAllocator"];
    if out_of_memory.iter().any(|words| text.contains(words)) {
        FailureClass::Resource
    } else {
        FailureClass::Infrastructure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_a_machine_lacks_is_the_machines_fault() {
        let missing = cakes_data::samples::ffmpeg::Ffmpeg::at("/no/such/ffmpeg".into()).unwrap_err();
        let error = TrainerError::from(missing);
        assert_eq!(error.class(), FailureClass::Infrastructure);
        assert!(error.message().contains("FFmpeg") && error.message().contains("install"), "{error}");
    }

    #[test]
    fn what_libtorch_says_of_a_process_that_is_gone_is_told_like_what_we_notice_ourselves() {
        let of = |text: &str| TrainerError::Torch(tch::TchError::Torch(text.into()));
        let gone = of("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Read error\nstack");
        assert!(gone.is_of_ranks() && gone.message().starts_with(RANKS), "{}", gone.message());
        assert!(!gone.message().contains("stack"));
        let remote = of("ncclRemoteError: A call failed possibly due to a network error");
        assert!(remote.is_of_ranks() && remote.message().starts_with(RANKS), "{}", remote.message());
        let own = of("mat1 and mat2 shapes cannot be multiplied");
        assert!(!own.is_of_ranks() && own.message().starts_with("libtorch: "), "{}", own.message());
    }

    #[test]
    fn memory_exhaustion_is_told_from_other_errors_of_libtorch() {
        let of = |text: &str| TrainerError::Torch(tch::TchError::Torch(text.into())).class();
        assert_eq!(of("CUDA out of memory. Tried to allocate 2 GiB"), FailureClass::Resource);
        assert_eq!(of("[enforce fail] DefaultCPUAllocator: can't allocate memory"), FailureClass::Resource);
        assert_eq!(of("device-side assert triggered"), FailureClass::Infrastructure);
    }
}
