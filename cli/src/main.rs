//! The command `cakes`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cakes_cli::main()
}
