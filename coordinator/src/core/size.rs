//! How long a request may be: as much as its method can have to say, and no more.

use cakes_proto::method::Method;

const KIB: usize = 1 << 10;

/// Longest message of a method that is not named below.
pub const MESSAGE_BYTES_MAX: usize = 256 * KIB;

/// Longest message of any method.
pub const ANY_MESSAGE_BYTES_MAX: usize = 4096 * KIB;

/// Longest message of a request, in bytes; of a stream of them each.
pub fn message_bytes_max(method: Method) -> usize {
    use Method as M;
    match method {
        // Up to 10,000 points and lines of logs.
        M::Report => 1024 * KIB,
        // A searched network: all its layers, with the published counts that it may begin with.
        M::SubmitSearch | M::EstimateCost => 1024 * KIB,
        // Pieces of a file.
        M::ImportSearch => 2048 * KIB,
        // A supernet's scores: a number for each kernel of each channel.
        M::Complete => ANY_MESSAGE_BYTES_MAX,
        _ => MESSAGE_BYTES_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_method_takes_more_than_the_server_and_most_take_little() {
        let sizes: Vec<usize> = Method::ALL.iter().map(|method| message_bytes_max(*method)).collect();
        assert!(sizes.iter().all(|size| (MESSAGE_BYTES_MAX..=ANY_MESSAGE_BYTES_MAX).contains(size)));
        assert_eq!(sizes.iter().filter(|size| **size > MESSAGE_BYTES_MAX).count(), 5);
    }
}
