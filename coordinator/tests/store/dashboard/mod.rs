//! The views that dashboards read: what they are called, what they say, who may
//! read them.

mod curves;
mod filled;
mod keda;
mod meaning;
mod reference;
mod role;

/// The views, in the order of their reference.
const VIEWS: [&str; 12] = [
    "searches",
    "jobs",
    "queue",
    "projects",
    "workers",
    "architectures",
    "layer_composition",
    "learning_curves",
    "pareto_front",
    "gpu_time",
    "imports",
    "events",
];
