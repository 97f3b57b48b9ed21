//! The `hongbao` program. Everything is in the library, so that tests and the simulator reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    deploy::cli::main()
}
