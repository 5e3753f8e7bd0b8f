//! Jobs that want the same of a cluster. What was found out about one of them in a
//! round is not looked for again.

use std::collections::BTreeMap;

use crate::facts::{Facts, Job, LabelNo, Node, NodeNo, Schedule};
use crate::reason::Reason;
use crate::spread::{make_up, widths_of};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    device_count: usize,
    memory_mib: u64,
    width: usize,
    labels: &'a [LabelNo],
    may_span: bool,
    spreads: bool,
}

/// What holds for all jobs of a shape.
pub(crate) struct Shape {
    /// Nodes that take jobs and have what such a job needs (at least one such device, if
    /// it may use several nodes).
    pub nodes: Vec<usize>,
    /// Devices of these that fit.
    pub fitting: usize,
    /// Why no such job can start whatever becomes free.
    pub impossible: Option<Reason>,
    /// A job that takes so long, or longer, found no place; `u64::MAX` stands for a job
    /// without an estimate. Devices only become fewer in a round.
    pub failed_estimate_s: Option<u64>,
    /// A job of this priority found nobody to make way.
    pub failed_priority: Option<i32>,
}

#[derive(Default)]
pub(crate) struct Shapes<'a> {
    numbers: BTreeMap<Key<'a>, usize>,
    shapes: Vec<Shape>,
}

impl<'a> Shapes<'a> {
    pub fn number(&mut self, facts: &Facts<'_>, job: &'a Job) -> usize {
        let Job { device_count, memory_mib, width, may_span, spreads, .. } = *job;
        let key = Key { device_count, memory_mib, width, labels: &job.labels, may_span, spreads };
        let next = self.shapes.len();
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.shapes.push(shape(facts, &key));
        }
        number
    }

    pub fn get(&mut self, number: usize) -> &mut Shape {
        &mut self.shapes[number]
    }

    /// After others were told to make way, or devices were given back.
    pub fn forget_failures(&mut self) {
        for shape in &mut self.shapes {
            shape.failed_priority = None;
            shape.failed_estimate_s = None;
        }
    }
}

impl Shape {
    /// Nodes that the job may use.
    pub fn nodes_for(&self, job: &Job) -> impl Iterator<Item = usize> {
        let avoided = job.avoids.map(|node| node.0);
        self.nodes.iter().copied().filter(move |node| Some(*node) != avoided)
    }

    /// The node that the job keeps away from, if it can run nowhere else.
    pub fn only_avoided(&self, facts: &Facts<'_>, job: &Job) -> Option<NodeNo> {
        let avoided = job.avoids.filter(|node| self.nodes.contains(&node.0))?;
        let left: usize =
            self.nodes_for(job).map(|node| fitting(&facts.nodes[node], job.memory_mib, job.width)).sum();
        let parts = |node: usize| widths_of(&facts.nodes[node], job.memory_mib, job.width);
        if job.spreads && make_up(&self.nodes_for(job).flat_map(parts).collect::<Vec<_>>(), job.width) {
            return None;
        }
        (left < job.device_count).then_some(avoided)
    }
}

fn fitting(node: &Node, memory_mib: u64, width: usize) -> usize {
    node.devices.iter().filter(|device| device.fits(memory_mib, width)).count()
}

fn shape(facts: &Facts<'_>, key: &Key<'_>) -> Shape {
    let mut shape = Shape {
        nodes: Vec::new(),
        fitting: 0,
        impossible: None,
        failed_estimate_s: None,
        failed_priority: None,
    };
    let has_labels = |node: &Node| key.labels.iter().all(|label| node.labels.contains(label));
    let least = if key.may_span { 1 } else { key.device_count };
    let (mut labelled, mut widest, mut most_mib, mut most, mut sum, mut closed) = (0, 0, 0, 0, 0, 0);
    // Of devices that may stand for parts: of all nodes, and of those that take jobs.
    let (mut widths, mut ready_widths): (Vec<usize>, Vec<usize>) = Default::default();
    for (number, node) in facts.nodes.iter().enumerate().filter(|(_, node)| has_labels(node)) {
        labelled += 1;
        let fitting = fitting(node, key.memory_mib, key.width);
        widest = node.devices.iter().map(|device| device.width).max().unwrap_or(0).max(widest);
        let parts: Vec<usize> = match key.spreads {
            true => widths_of(node, key.memory_mib, key.width).collect(),
            false => Vec::new(),
        };
        widths.extend(&parts);
        let wide = node.devices.iter().filter(|device| device.width >= key.width || key.spreads);
        most_mib = wide.map(|device| device.memory_mib).max().unwrap_or(0).max(most_mib);
        most = most.max(fitting);
        sum += fitting;
        if fitting < least && parts.is_empty() {
            continue;
        }
        match node.schedule {
            Schedule::Ready => {
                shape.nodes.push(number);
                shape.fitting += fitting;
                ready_widths.extend(&parts);
            }
            _ => closed += 1,
        }
    }
    let most = if key.may_span { sum } else { most };
    let is_made_up = key.spreads && make_up(&widths, key.width);
    let is_open = key.spreads && make_up(&ready_widths, key.width);
    shape.impossible = if facts.nodes.is_empty() {
        Some(Reason::NoNodes)
    } else if labelled == 0 {
        Some(Reason::NoLabels { labels: key.labels.to_vec() })
    } else if key.spreads && most == 0 && most_mib >= key.memory_mib && !is_made_up {
        let together: usize = widths.iter().sum();
        Some(match together < key.width {
            true => Reason::TooFewDevices { wanted: key.width, most: together, may_span: true },
            false => Reason::NotMadeUp { wanted: key.width, fitting: together },
        })
    } else if widest < key.width && !key.spreads {
        Some(Reason::TooNarrow { wanted: key.width, widest })
    } else if most_mib < key.memory_mib {
        Some(Reason::TooLittleMemory { wanted_mib: key.memory_mib, most_mib })
    } else if most < key.device_count && !is_made_up {
        Some(Reason::TooFewDevices { wanted: key.device_count, most, may_span: key.may_span })
    } else if shape.fitting < key.device_count && !is_open {
        Some(Reason::Closed { node_count: closed })
    } else {
        None
    };
    shape
}
