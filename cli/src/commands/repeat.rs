//! Printing again and again what changes: `--watch`, `cakes top`.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use console::Term;

use super::follow::Patience;
use crate::error::{CommandError, Outcome};
use crate::output::{self, Format};

/// Whether a list is printed again.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Repeat {
    /// Print again whenever something has changed, looking every so many seconds; Ctrl-C
    /// ends it. JSON is one document a line, YAML one between lines of ---.
    #[arg(
        short,
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = seconds
    )]
    pub watch: Option<Duration>,
}

/// `0.2` to `3600` seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.2..=3600.0).contains(&seconds) {
        return Err("must be 0.2 to 3600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Fetches and prints once, or until Ctrl-C.
///
/// # Errors
/// Whatever keeps it from fetching, but a coordinator that went away meanwhile.
pub async fn print<T: serde::Serialize>(
    format: Format,
    repeat: Repeat,
    mut fetch: impl AsyncFnMut() -> Result<T, CommandError>,
    table: impl Fn(&T) -> String,
) -> Result<Outcome, CommandError> {
    let Some(interval) = repeat.watch else {
        output::print(format, &fetch().await?, table)?;
        return Ok(Outcome::Done);
    };
    let mut screen = (format == Format::Table && std::io::stdout().is_terminal()).then(Screen::open);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let (mut last, mut patience) = (String::new(), Patience::default());
    loop {
        let fetched = tokio::select! {
            _ = &mut interrupted => return Ok(Outcome::Done),
            fetched = fetch() => fetched,
        };
        match fetched {
            Ok(value) => {
                patience.refill();
                let text = match format {
                    Format::Table => table(&value),
                    Format::Json => output::json_line(&value)?,
                    Format::Yaml => format!("---\n{}", output::yaml(&value)?.trim_end()),
                };
                match &mut screen {
                    Some(screen) => screen.show(&text)?,
                    None if text != last => output::line(&text)?,
                    None => {}
                }
                last = text;
            }
            Err(CommandError::Server(status)) => {
                tokio::select! {
                    _ = &mut interrupted => return Ok(Outcome::Done),
                    waited = patience.wait(*status, output::note) => waited?,
                }
                continue;
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            _ = &mut interrupted => return Ok(Outcome::Done),
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// The terminal's second screen, left again at the end.
struct Screen(Term);

impl Screen {
    fn open() -> Self {
        let screen = Screen(Term::stdout());
        // A terminal without a second screen shows the text all the same.
        let _ = screen.write("\x1b[?1049h\x1b[?25l");
        screen
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        let mut out = &self.0;
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Lines that do not fit are left out; nothing flickers, since each line is overwritten.
    fn show(&self, text: &str) -> std::io::Result<()> {
        self.write(&frame(text, self.0.size()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.write("\x1b[?25h\x1b[?1049l");
    }
}

/// What overwrites a terminal of so many rows and columns with `text`.
fn frame(text: &str, (rows, columns): (u16, u16)) -> String {
    let (rows, columns) = (usize::from(rows).max(2), usize::from(columns).max(8));
    let all: Vec<&str> = text.lines().collect();
    let mut lines: Vec<String> =
        all.iter().take(rows).map(|line| console::truncate_str(line, columns, "…").into_owned()).collect();
    if all.len() > rows {
        lines[rows - 1] = format!("… {} more lines", all.len() - rows + 1);
    }
    format!(
        "\x1b[H{}\x1b[J",
        lines.iter().map(|line| format!("{line}\x1b[K")).collect::<Vec<_>>().join("\r\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_terminal_and_says_what_it_leaves_out() {
        let shown = frame("one\ntwo is a long line\nthree\nfour", (3, 10));
        assert_eq!(shown, "\x1b[Hone\x1b[K\r\ntwo is a …\x1b[K\r\n… 2 more lines\x1b[K\x1b[J");
        assert_eq!(frame("one", (3, 10)), "\x1b[Hone\x1b[K\x1b[J");
    }

    #[test]
    fn an_interval_is_a_number_of_seconds_in_its_range() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").is_err() && seconds("NaN").is_err() && seconds("soon").is_err());
    }
}
