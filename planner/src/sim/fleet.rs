//! The nodes of a simulation: what each keeps of the data, and why it takes no jobs.

use super::scenario::{OutageKind, Scenario};
use super::trace::{Change, Naming, mib};
use crate::facts::{DataNo, Device, Job, Node, Part, Schedule};

pub(super) struct Fleet {
    nodes: Vec<Node>,
    states: Vec<State>,
    up_device_count: usize,
}

#[derive(Default)]
struct State {
    /// Overlapping ones count.
    failures: u32,
    drains: u32,
    cordons: u32,
    /// Most data sets that it keeps.
    data_sets: usize,
    /// When each of [`Node::data`] was used last.
    used_s: Vec<u64>,
}

impl Fleet {
    pub fn new(scenario: &Scenario, naming: &mut Naming<'_>) -> Self {
        let mut fleet = Fleet { nodes: Vec::new(), states: Vec::new(), up_device_count: 0 };
        for (group, name) in scenario.node_names() {
            let nodes = &scenario.nodes[group];
            let device = Device { memory_mib: mib(nodes.memory_gib), width: 1 };
            let devices = vec![device; nodes.devices as usize];
            fleet.up_device_count += devices.len();
            let labels = naming.labels(&nodes.labels);
            let schedule = Schedule::Ready;
            fleet.nodes.push(Node { name, devices, labels, schedule, data: Vec::new(), joins: false });
            fleet.states.push(State { data_sets: nodes.data_sets, ..State::default() });
        }
        fleet
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn up_device_count(&self) -> usize {
        self.up_device_count
    }

    /// Whether what runs there is lost.
    pub fn change(&mut self, change: &Change) -> bool {
        let (node, state) = (&mut self.nodes[change.node], &mut self.states[change.node]);
        let count = match change.kind {
            OutageKind::Fail => &mut state.failures,
            OutageKind::Drain => &mut state.drains,
            OutageKind::Cordon => &mut state.cordons,
        };
        *count = if change.begins { *count + 1 } else { count.saturating_sub(1) };
        let was_up = node.schedule != Schedule::Lost;
        node.schedule = match (state.failures, state.drains, state.cordons) {
            (0, 0, 0) => Schedule::Ready,
            (0, 0, _) => Schedule::Cordoned,
            (0, _, _) => Schedule::Draining,
            _ => Schedule::Lost,
        };
        let is_up = node.schedule != Schedule::Lost;
        match (was_up, is_up) {
            (true, false) => self.up_device_count -= node.devices.len(),
            (false, true) => self.up_device_count += node.devices.len(),
            _ => {}
        }
        was_up && !is_up
    }

    /// Brings the job's data to its nodes; how many data sets the node lacked that lacked most.
    pub fn load(&mut self, job: &Job, parts: &[Part], now_s: u64) -> usize {
        let on_node = |part: &Part| {
            let (node, state) = (&mut self.nodes[part.node.0], &mut self.states[part.node.0]);
            job.data.iter().filter(|data| !keep(node, state, **data, now_s)).count()
        };
        parts.iter().map(on_node).max().unwrap_or(0)
    }
}

/// Whether the node had it already.
fn keep(node: &mut Node, state: &mut State, data: DataNo, now_s: u64) -> bool {
    if let Some(place) = node.data.iter().position(|known| *known == data) {
        state.used_s[place] = now_s;
        return true;
    }
    if state.data_sets == 0 {
        return false;
    }
    if node.data.len() >= state.data_sets {
        let oldest = (0..node.data.len()).min_by_key(|place| state.used_s[*place]).unwrap_or(0);
        node.data.remove(oldest);
        state.used_s.remove(oldest);
    }
    node.data.push(data);
    state.used_s.push(now_s);
    false
}
