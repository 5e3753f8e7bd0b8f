//! Tests that failed, told once more at the end: what comes behind them in the output is long, and
//! a log is often cut to its end.

use std::fmt;

/// Tests that are told whole; of the others their names.
const TESTS_MAX: usize = 8;
/// Lines of each: the panic is among the last ones, since logs come before it.
const LINES_MAX: usize = 40;

/// What a test harness wrote of its failures.
#[derive(Default)]
pub struct Failures {
    tests: Vec<Failure>,
    /// Whether the lines that come now are of the last one, and of its stack.
    is_inside: bool,
    is_stack: bool,
}

struct Failure {
    name: String,
    lines: Vec<String>,
}

impl Failures {
    /// Takes the next line of the output of `cargo test`.
    pub fn read(&mut self, line: &str) {
        let begins = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----"));
        if let Some(name) = begins.and_then(|rest| rest.strip_suffix(" stdout")) {
            self.tests.push(Failure { name: name.to_owned(), lines: Vec::new() });
            (self.is_inside, self.is_stack) = (true, false);
        } else if line == "failures:" {
            self.is_inside = false;
        } else if self.is_inside
            && let Some(failure) = self.tests.last_mut()
        {
            // Which says where a harness calls tests; the panic says where it was.
            self.is_stack = line == "stack backtrace:" || (self.is_stack && !line.starts_with("note: "));
            if !self.is_stack {
                failure.lines.push(line.to_owned());
            }
        }
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, failure) in self.tests.iter().enumerate() {
            writeln!(formatter, "\ntest {} FAILED", failure.name)?;
            if place >= TESTS_MAX {
                continue;
            }
            let text = failure.lines.join("\n");
            let lines: Vec<&str> = text.trim().lines().collect();
            let left_out = lines.len().saturating_sub(LINES_MAX);
            if left_out > 0 {
                writeln!(formatter, "    ({left_out} lines before)")?;
            }
            for line in &lines[left_out..] {
                writeln!(formatter, "    {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> String {
        let mut failures = Failures::default();
        output.lines().for_each(|line| failures.read(line));
        failures.to_string()
    }

    #[test]
    fn a_failed_test_is_told_with_its_panic() {
        let output = "....F.\n\nfailures:\n\n---- core::tests::one stdout ----\n\nthread panicked at a.rs:1:\nleft is not right\nstack backtrace:\n   0: a::b\nnote: more\n\nfailures:\n    core::tests::one\n\ntest result: FAILED.\n\n---- other stdout ----\nlast words";
        assert_eq!(
            read(output),
            "\ntest core::tests::one FAILED\n    thread panicked at a.rs:1:\n    left is not right\n    note: more\n\ntest other FAILED\n    last words\n"
        );
        assert_eq!(read("....\ntest result: ok."), "");
    }

    #[test]
    fn of_a_long_output_the_end_is_told_and_of_many_tests_the_names() {
        let long: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let told = read(&format!("failures:\n---- one stdout ----\n{long}"));
        assert!(
            told.contains("(60 lines before)") && told.contains("line 99") && !told.contains("line 59\n")
        );
        let many: String = (0..20).map(|test| format!("---- t{test} stdout ----\nwhy {test}\n")).collect();
        let told = read(&many);
        assert!(told.contains("why 7") && !told.contains("why 8") && told.contains("test t19 FAILED"));
    }
}
