//! The `hongbao` program. Everything is in the library, so that tests and the simulator reach it.

use std::process::ExitCode;

/// A put makes many small allocations in three members, RocksDB's among them; glibc's allocator took 15 % of their
/// processor time (`docs/performance.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    deploy::cli::main()
}
