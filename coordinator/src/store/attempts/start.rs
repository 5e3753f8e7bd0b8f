//! Turns an offer into a full lease.

use std::time::Duration;

use cakes_proto::ids::LeaseToken;
use sqlx::PgPool;

use super::turn::{Decision, Deed, Effects, Turn, turn};
use super::turn_rows::Turning;
use crate::core::job::{JobEvent, transition};
use crate::core::lease::Policy;
use crate::store::error::Error;
use crate::store::fence::Life;

/// Records that the trainer runs. A repetition changes nothing.
///
/// # Errors
/// The offer has expired.
pub async fn start(pool: &PgPool, policy: &Policy, token: LeaseToken) -> Result<(), Error> {
    let deed = Deed::Start { lease_ttl: policy.lease_ttl };
    turn(pool, &Turn { token, deed }).await.map(drop)
}

pub(super) fn decide(row: &Turning, lease_ttl: Duration) -> Decision {
    match row.life {
        Life::Ended(_) => Decision::Lost,
        Life::Running => Decision::Nothing,
        Life::Offered => match transition(row.state, &JobEvent::Start) {
            Ok(moved) => Decision::Write(Effects {
                moved: Some(("job_started", moved)),
                lease: Some(lease_ttl),
                ..Effects::default()
            }),
            Err(error) => Decision::Refuse(error.into()),
        },
    }
}
