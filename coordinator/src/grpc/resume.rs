//! Where a stream stood when it broke, so that another coordinator goes on from there.
//!
//! A token is a position and whose it is. Nothing of it is remembered, and it holds nothing
//! that its holder did not see.

use tonic::Status;
use uuid::Uuid;

use super::status::invalid_field;

const VERSION: u8 = 1;

/// A token for the thing with this id, of which everything up to `position` was sent.
pub(super) fn token<const N: usize>(of: Uuid, position: [i64; N]) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend(of.as_bytes());
    bytes.extend(position.iter().flat_map(|number| number.to_be_bytes()));
    hex::encode(bytes)
}

/// The position in the token that a request goes on from; none if it has no token.
///
/// # Errors
/// It is no token of this server, or one of something else.
pub(super) fn position<const N: usize>(of: Uuid, token: &str) -> Result<Option<[i64; N]>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let malformed = || {
        let problem = "is not one that this server gave; send that of the last message, or none";
        invalid_field("resume_token", problem)
    };
    let bytes = hex::decode(token).map_err(|_| malformed())?;
    let (head, rest) = bytes.split_first_chunk::<17>().ok_or_else(malformed)?;
    if head[0] != VERSION || rest.len() != N * size_of::<i64>() {
        return Err(malformed());
    }
    if head[1..] != *of.as_bytes() {
        return Err(invalid_field("resume_token", "is of another stream; send that of this one, or none"));
    }
    let mut numbers = [0; N];
    for (number, bytes) in numbers.iter_mut().zip(rest.as_chunks::<8>().0) {
        *number = i64::from_be_bytes(*bytes);
    }
    Ok(Some(numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_back_to_its_position() {
        let id = Uuid::from_u128(7);
        assert_eq!(position(id, &token(id, [3, -1])).unwrap(), Some([3, -1]));
        assert_eq!(position::<1>(id, "").unwrap(), None);
    }

    #[test]
    fn tokens_of_other_streams_and_garbage_are_refused() {
        let id = Uuid::from_u128(7);
        for wrong in [token(Uuid::from_u128(8), [3]), token(id, [3, 4]), "01".into(), "zz".into()] {
            let refused = position::<1>(id, &wrong).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{wrong}");
        }
    }
}
