//! Devices during a round: what is in use, until when, and what is kept for whom.

use std::ops::Range;

use crate::facts::{Device, Facts, Job, NodeNo, Part, Running};
use crate::plan::Reservation;
use crate::policy::Policy;

/// A running job that has outlived its estimate is expected to go on at least so long.
const OVERDUE_S: u64 = 60;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Free,
    /// By a job that this round starts.
    Placed {
        until_s: u64,
    },
    /// By this place in the running jobs.
    Runs(usize),
}

pub(crate) struct Slot {
    pub node: usize,
    pub device: usize,
    pub size: Device,
    pub state: Use,
    /// Place in [`Board::claims`].
    pub claim: Option<usize>,
}

impl Slot {
    pub fn fits(&self, job: &Job) -> bool {
        self.size.fits(job.memory_mib, job.width)
    }
}

pub(crate) struct Board<'a> {
    pub facts: &'a Facts<'a>,
    /// All devices, node by node.
    pub slots: Vec<Slot>,
    first_slot: Vec<usize>,
    pub free_on: Vec<usize>,
    /// Those without parts were taken back.
    pub claims: Vec<Reservation>,
    /// Of each running job.
    pub is_stopping: Vec<bool>,
    end_s: Vec<u64>,
}

impl<'a> Board<'a> {
    /// `is_stopping` holds for jobs that were told to stop, in this round too.
    pub fn new(facts: &'a Facts<'a>, is_stopping: Vec<bool>) -> Self {
        let mut slots = Vec::new();
        let mut first_slot = Vec::with_capacity(facts.nodes.len() + 1);
        for (number, node) in facts.nodes.iter().enumerate() {
            first_slot.push(slots.len());
            slots.extend(node.devices.iter().enumerate().map(|(place, device)| Slot {
                node: number,
                device: place,
                size: *device,
                state: Use::Free,
                claim: None,
            }));
        }
        first_slot.push(slots.len());
        let mut free_on: Vec<usize> = facts.nodes.iter().map(|node| node.devices.len()).collect();
        for (number, running) in facts.running.iter().enumerate() {
            for part in &running.parts {
                for device in &part.devices {
                    slots[first_slot[part.node.0] + device].state = Use::Runs(number);
                    free_on[part.node.0] -= 1;
                }
            }
        }
        let end_s = facts.running.iter().zip(&is_stopping);
        let end_s = end_s
            .map(|(running, stops)| expected_end_s(running, *stops, facts.now_s, facts.policy))
            .collect();
        Board { facts, slots, first_slot, free_on, claims: Vec::new(), is_stopping, end_s }
    }

    pub fn slots_of(&self, node: usize) -> Range<usize> {
        self.first_slot[node]..self.first_slot[node + 1]
    }

    /// When the device is expected to be free.
    pub fn free_s(&self, slot: usize) -> u64 {
        match self.slots[slot].state {
            Use::Free => self.facts.now_s,
            Use::Placed { until_s } => until_s,
            Use::Runs(running) => self.end_s[running],
        }
    }

    /// Whether a job that ends by `end_s` (`None`: nobody knows) may start on it now.
    pub fn is_usable(&self, slot: usize, job: &Job, end_s: Option<u64>) -> bool {
        self.slots[slot].fits(job) && self.is_open(slot, end_s)
    }

    /// Whether it may stand for a part of the job's width.
    pub fn is_part(&self, slot: usize, job: &Job) -> bool {
        self.slots[slot].size.is_part(job.memory_mib, job.width)
    }

    /// As [`Board::is_usable`], for a part.
    pub fn is_usable_part(&self, slot: usize, job: &Job, end_s: Option<u64>) -> bool {
        self.is_part(slot, job) && self.is_open(slot, end_s)
    }

    fn is_open(&self, slot: usize, end_s: Option<u64>) -> bool {
        let slot = &self.slots[slot];
        let may_borrow = |claim: usize| end_s.is_some_and(|end_s| end_s <= self.claims[claim].promised_s);
        slot.state == Use::Free && slot.claim.is_none_or(may_borrow)
    }

    pub fn place(&mut self, slots: &[usize], until_s: u64) {
        for &slot in slots {
            self.slots[slot].state = Use::Placed { until_s };
            self.free_on[self.slots[slot].node] -= 1;
        }
    }

    pub fn claim(&mut self, slots: &[usize], reservation: Reservation) {
        for &slot in slots {
            self.slots[slot].claim = Some(self.claims.len());
        }
        self.claims.push(reservation);
    }

    /// The reservation of a job, taken back.
    pub fn unclaim(&mut self, claim: usize) {
        self.claims[claim].parts.clear();
        self.slots.iter_mut().filter(|slot| slot.claim == Some(claim)).for_each(|slot| slot.claim = None);
    }

    pub fn stop(&mut self, running: usize) {
        self.is_stopping[running] = true;
        self.end_s[running] = self.facts.now_s.saturating_add(self.facts.policy.checkpoint_s);
    }

    /// The slots as devices of nodes, in order.
    pub fn parts(&self, slots: &[usize]) -> Vec<Part> {
        let mut sorted = slots.to_vec();
        sorted.sort_unstable();
        let mut parts: Vec<Part> = Vec::new();
        for slot in sorted {
            let Slot { node, device, .. } = self.slots[slot];
            match parts.last_mut() {
                Some(part) if part.node.0 == node => part.devices.push(device),
                _ => parts.push(Part { node: NodeNo(node), devices: vec![device] }),
            }
        }
        parts
    }

    /// The slots of devices; `None` if there is no such device.
    pub fn slots_at(&self, parts: &[Part]) -> Option<Vec<usize>> {
        let mut slots = Vec::new();
        for part in parts {
            let node = self.facts.nodes.get(part.node.0)?;
            for device in &part.devices {
                slots.push((*device < node.devices.len()).then(|| self.first_slot[part.node.0] + device)?);
            }
        }
        Some(slots)
    }
}

fn expected_end_s(running: &Running, is_stopping: bool, now_s: u64, policy: &Policy) -> u64 {
    if is_stopping {
        return now_s.saturating_add(policy.checkpoint_s);
    }
    let estimate_s = running.job.estimate_s.unwrap_or(policy.assumed_runtime_s);
    let end_s = running.start_s.saturating_add(estimate_s);
    if end_s > now_s {
        return end_s;
    }
    // What has lasted so long is likely to last as long again.
    now_s.saturating_add(now_s.saturating_sub(running.start_s).max(OVERDUE_S))
}
