//! Attempts that train on several slots: who sits where, and the life of a member.
//!
//! The planner keeps slots for a job whose devices may be spread. Each of them that asks for a job
//! leaves a wish; the transaction that sees the last one makes the attempt with all its members,
//! so nobody ever has half a gang.
//!
//! ```text
//!  kept slot ── wishes ──┐
//!  kept slot ── wishes ──┼─ all fresh, exactly the job's devices ──► attempt, members 0, 1, …
//!  kept slot ── wishes ──┘
//!
//!  offered ──start──► running           a member
//!     │                  │
//!     └───────end────────┴────► ended   all of them with the attempt
//! ```

use std::time::Duration;

use super::text::named;

/// A wish that is older is none: its daemon, which asks again all the time, may be gone.
pub const WISH_FRESH: Duration = Duration::from_secs(5);
/// How long slots are kept for a gang of which not all ask. Then the silent ones are left out.
pub const KEPT_MAX: Duration = Duration::from_secs(30);

/// Where a member of an attempt is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// It was granted its part and has not started.
    Offered,
    Running,
    /// With its attempt.
    Ended,
}

named!(MemberState, "state of a member", {
    Offered => "offered",
    Running => "running",
    Ended => "ended",
});

/// What happens to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberEvent {
    /// Its daemon has begun.
    Start,
    /// Its daemon was heard of.
    Renew,
    /// The attempt ended, by whomever.
    End,
}

/// Why a member's call is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not live any more.
    Lost,
    /// It is started before it reports.
    NotStarted,
}

/// The table. Repeating what already happened is a move from a state to itself.
///
/// # Errors
/// The member's state does not allow the event.
pub fn transition(state: MemberState, event: MemberEvent) -> Result<MemberState, Refusal> {
    use MemberEvent as E;
    use MemberState as S;
    match (state, event) {
        (S::Offered | S::Running, E::Start) | (S::Running, E::Renew) => Ok(S::Running),
        (S::Offered, E::Renew) => Err(Refusal::NotStarted),
        (_, E::End) => Ok(S::Ended),
        (S::Ended, E::Start | E::Renew) => Err(Refusal::Lost),
    }
}

/// A kept slot whose wish is fresh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wishing<T> {
    pub device_count: i32,
    /// Who it is; decides among slots of equally many devices.
    pub slot: T,
}

/// A slot's part of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub member: i16,
    pub member_count: i16,
    /// Ranks of those that stand before it.
    pub first_rank: i32,
    pub device_count: i32,
    /// Ranks of all of them.
    pub world_size: i32,
}

/// The members of a gang, the leader first; `None` unless the slots have exactly the devices that
/// the job trains on. The widest slot leads, as its ranks reach rank 0 without the network.
pub fn seats<T: Ord>(mut slots: Vec<Wishing<T>>, world_size: i32) -> Option<Vec<(Seat, T)>> {
    let sum: i64 = slots.iter().map(|slot| i64::from(slot.device_count)).sum();
    let is_whole = slots.iter().all(|slot| slot.device_count > 0);
    let member_count = i16::try_from(slots.len()).ok()?;
    if !is_whole || sum != i64::from(world_size) || member_count < 2 {
        return None;
    }
    slots.sort_by(|left, right| {
        right.device_count.cmp(&left.device_count).then_with(|| left.slot.cmp(&right.slot))
    });
    let mut first_rank = 0;
    let seat = |(member, Wishing { device_count, slot }): (i16, Wishing<T>)| {
        let seat = Seat { member, member_count, first_rank, device_count, world_size };
        first_rank += device_count;
        (seat, slot)
    };
    Some((0..).zip(slots).map(seat).collect())
}

/// How the end of an attempt is told that a member brought about.
pub fn blamed(member: i16, worker: &str, message: &str) -> String {
    format!("member {member} (worker {worker}): {message}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_ended_stays_so_and_nobody_reports_before_it_starts() {
        use MemberState as S;
        for state in S::ALL.iter().copied() {
            assert_eq!(transition(state, MemberEvent::End), Ok(S::Ended));
        }
        assert_eq!(transition(S::Ended, MemberEvent::Start), Err(Refusal::Lost));
        assert_eq!(transition(S::Ended, MemberEvent::Renew), Err(Refusal::Lost));
        assert_eq!(transition(S::Offered, MemberEvent::Renew), Err(Refusal::NotStarted));
        assert_eq!(transition(S::Offered, MemberEvent::Start), Ok(S::Running));
        assert_eq!(transition(S::Running, MemberEvent::Start), Ok(S::Running), "again");
        assert_eq!(transition(S::Running, MemberEvent::Renew), Ok(S::Running));
    }

    proptest! {
        /// All or nothing, and every rank once.
        #[test]
        fn a_gang_has_exactly_the_devices_of_its_job(
            widths in proptest::collection::vec(0_i32..5, 0..8),
            world_size in 1_i32..12,
        ) {
            let slots: Vec<Wishing<usize>> = widths
                .iter()
                .enumerate()
                .map(|(slot, device_count)| Wishing { device_count: *device_count, slot })
                .collect();
            let fits = widths.len() > 1 && !widths.contains(&0) && widths.iter().sum::<i32>() == world_size;
            let Some(seats) = seats(slots.clone(), world_size) else {
                prop_assert!(!fits);
                return Ok(());
            };
            prop_assert!(fits);
            let ranks: Vec<i32> = seats
                .iter()
                .flat_map(|(seat, _)| seat.first_rank..seat.first_rank + seat.device_count)
                .collect();
            prop_assert_eq!(ranks, (0..world_size).collect::<Vec<_>>());
            let members: Vec<i16> = seats.iter().map(|(seat, _)| seat.member).collect();
            prop_assert_eq!(members, (0..).take(widths.len()).collect::<Vec<i16>>());
            let most = widths.iter().max().copied();
            prop_assert_eq!(Some(seats[0].0.device_count), most, "the widest slot leads");
            // Whoever sees the last wish makes the same gang.
            let mut turned = slots;
            turned.reverse();
            prop_assert_eq!(super::seats(turned, world_size), Some(seats));
        }
    }
}
