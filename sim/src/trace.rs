//! The trace of a run: every log line of our crates, every outcome of a client, every step of the
//! nemesis, with the simulated time and the host, hashed as it is written.
//!
//! Invariant: a line holds nothing of the machine it was written on: no real time, no process, no
//! address. So the same seed gives the same hash everywhere.
//!
//! Not here: choosing what is logged (the filter is the caller's).

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::fabric::time;
use crate::tap::Tap;

/// What is traced when nothing else is asked for.
pub const FILTER: &str =
    "info,openraft=warn,deploy::demo::crowd=debug,hyper=warn,h2=warn,tonic=warn,tower=warn";

#[derive(Default)]
struct Sink {
    hasher: blake3::Hasher,
    lines: u64,
    file: Option<BufWriter<File>>,
}

thread_local! {
    static SINK: RefCell<Sink> = RefCell::new(Sink::default());
}

/// Begins to trace this process. Called once.
///
/// # Errors
/// When the file cannot be made or the filter means nothing.
pub fn begin(file: Option<&Path>, filter: &str) -> io::Result<()> {
    let file = file.map(File::create).transpose()?.map(BufWriter::new);
    SINK.with_borrow_mut(|sink| *sink = Sink { hasher: blake3::Hasher::new(), lines: 0, file });
    let filter: Targets =
        filter.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{error}")))?;
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_timer(SimTime).with_writer(ToSink);
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(Tap.with_filter(Tap::filter()))
        .try_init()
        .map_err(|error| io::Error::other(error.to_string()))
}

/// What was traced so far: a hash of all lines, and how many.
///
/// # Errors
/// When the file could not be written.
pub fn end() -> io::Result<(String, u64)> {
    SINK.with_borrow_mut(|sink| {
        if let Some(file) = &mut sink.file {
            file.flush()?;
        }
        Ok((sink.hasher.finalize().to_hex().to_string(), sink.lines))
    })
}

struct SimTime;

impl FormatTime for SimTime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let elapsed = turmoil::sim_elapsed().or_else(time::elapsed).unwrap_or_default();
        write!(w, "{:>7}.{:03}", elapsed.as_secs(), elapsed.subsec_millis())
    }
}

struct ToSink;

impl<'w> MakeWriter<'w> for ToSink {
    type Writer = ToSink;

    fn make_writer(&'w self) -> ToSink {
        ToSink
    }
}

impl Write for ToSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Threads of others (a planner's pool) are not part of the simulation.
        if time::elapsed().is_none() {
            return Ok(bytes.len());
        }
        SINK.with_borrow_mut(|sink| {
            sink.hasher.update(bytes);
            sink.lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            match &mut sink.file {
                Some(file) => file.write_all(bytes).map(|()| bytes.len()),
                None => Ok(bytes.len()),
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
