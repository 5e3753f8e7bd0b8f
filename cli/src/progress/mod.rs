//! Progress of a search or a job: bars on a terminal, lines elsewhere.

mod live;
pub mod text;

use std::io::IsTerminal;

use cakes_proto::v1;
use chrono::{DateTime, Utc};
use indicatif::ProgressStyle;

use crate::{format, tables};

/// What is shown of a search, or of a job alone.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    pub name: &'a str,
    pub state: String,
    pub reason: &'a str,
    pub start_time: Option<DateTime<Utc>>,
    pub end_time: Option<DateTime<Utc>>,
    pub has_ended: bool,
    pub jobs: &'a [v1::Job],
}

impl<'a> Snapshot<'a> {
    pub fn of_search(search: &'a v1::Search) -> Self {
        use v1::SearchState::{Cancelled, Failed, Succeeded};
        Snapshot {
            name: search.spec.as_ref().map_or("", |spec| spec.name.as_str()),
            state: tables::search_state(search.state()),
            reason: &search.state_reason,
            start_time: format::time(search.create_time.as_ref()),
            end_time: format::time(search.end_time.as_ref()),
            has_ended: matches!(search.state(), Succeeded | Failed | Cancelled),
            jobs: &search.jobs,
        }
    }

    pub fn of_job(job: &'a v1::Job) -> Self {
        Snapshot {
            name: &job.label,
            state: tables::job_state(job.state()),
            reason: &job.state_reason,
            start_time: format::time(job.create_time.as_ref()),
            end_time: format::time(job.end_time.as_ref()),
            has_ended: text::has_ended(job),
            jobs: std::slice::from_ref(job),
        }
    }
}

/// Shows snapshots on standard error.
pub enum Viewer {
    Live(Box<live::Board>),
    Plain(text::Reporter),
}

impl Default for Viewer {
    fn default() -> Self {
        Self::new()
    }
}

impl Viewer {
    /// Bars if standard error is a terminal, lines otherwise.
    pub fn new() -> Self {
        if std::io::stderr().is_terminal() {
            Viewer::Live(Box::default())
        } else {
            Viewer::Plain(text::Reporter::default())
        }
    }

    pub fn show(&mut self, snapshot: &Snapshot<'_>, now: DateTime<Utc>) {
        match self {
            Viewer::Live(board) => board.show(snapshot, now),
            Viewer::Plain(reporter) => {
                for line in reporter.changes(snapshot, now) {
                    eprintln!("{line}");
                }
            }
        }
    }

    pub fn say(&mut self, text: &str) {
        match self {
            Viewer::Live(board) => board.say(text),
            Viewer::Plain(_) => eprintln!("{text}"),
        }
    }
}

/// A style for bars; a template that cannot be read gives the default one.
pub fn bar_style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}
