//! Printing: tables for people, JSON and YAML for programs.

use std::io::{IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use console::Term;
use serde::Serialize;

use crate::error::CommandError;

/// What a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// The messages as the service sends them, 64-bit numbers as text.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Prints `message` in the chosen format; `table` renders it for people.
///
/// # Errors
/// The standard output cannot be written.
pub fn print<T: Serialize>(
    format: Format,
    message: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), CommandError> {
    let text = match format {
        Format::Table => table(message),
        Format::Json => json(message)?,
        Format::Yaml => yaml(message)?,
    };
    line(text.trim_end())
}

/// Indented JSON.
///
/// # Errors
/// The value holds what JSON cannot express.
pub fn json<T: Serialize>(value: &T) -> Result<String, CommandError> {
    serde_json::to_string_pretty(value)
        .map_err(|error| CommandError::Failed(format!("cannot write JSON: {error}")))
}

/// JSON without line breaks.
///
/// # Errors
/// The value holds what JSON cannot express.
pub fn json_line<T: Serialize>(value: &T) -> Result<String, CommandError> {
    serde_json::to_string(value).map_err(|error| CommandError::Failed(format!("cannot write JSON: {error}")))
}

/// # Errors
/// The value holds what YAML cannot express.
pub fn yaml<T: Serialize>(value: &T) -> Result<String, CommandError> {
    serde_saphyr::to_string(value)
        .map_err(|error| CommandError::Failed(format!("cannot write YAML: {error}")))
}

/// Prints a line, or several, on the standard output.
///
/// # Errors
/// The standard output cannot be written.
pub fn line(text: &str) -> Result<(), CommandError> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// A remark on standard error, which `-o json` leaves alone.
pub fn note(text: &str) {
    eprintln!("{text}");
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Rows of text under headings.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    headings: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    pub fn new(headings: impl IntoIterator<Item = (impl Into<String>, Align)>) -> Self {
        let headings = headings.into_iter().map(|(name, align)| (name.into(), align)).collect();
        Rows { headings, rows: Vec::new() }
    }

    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    pub fn headings(&self) -> impl Iterator<Item = &str> {
        self.headings.iter().map(|(name, _)| name.as_str())
    }

    /// Aligned columns, folded to `width` characters if one is given.
    pub fn render(&self, width: Option<u16>) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).force_no_tty();
        match width {
            Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        table.set_header(self.headings.iter().map(|(name, _)| Cell::new(name)));
        for row in &self.rows {
            table.add_row(row);
        }
        for (index, (_, align)) in self.headings.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                if *align == Align::Right {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

/// Width of the terminal; none when the output goes elsewhere.
pub fn terminal_width() -> Option<u16> {
    let is_terminal = std::io::stdout().is_terminal();
    is_terminal.then(|| Term::stdout().size_checked()).flatten().map(|(_, columns)| columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_is_folded_without_a_terminal() {
        let mut rows = Rows::new([("NAME", Align::Left), ("MACS", Align::Right)]);
        rows.push(vec!["a-long-name".into(), "1.31 GMAC".into()]);
        rows.push(vec!["b".into(), "27 MAC".into()]);
        assert_eq!(
            rows.render(None),
            "NAME              MACS\na-long-name  1.31 GMAC\nb               27 MAC"
        );
    }

    #[test]
    fn a_narrow_terminal_folds_long_cells() {
        let mut rows = Rows::new([("ID", Align::Left), ("WHY", Align::Left)]);
        rows.push(vec!["1".into(), "a long reason with many words in it".into()]);
        assert!(rows.render(Some(24)).lines().all(|line| line.len() <= 24));
    }
}
