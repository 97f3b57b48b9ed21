//! libc's clock and entropy calls, as a simulated thread sees them.
//!
//! ```text
//!   std, tokio, h2, rand, ... -> clock_gettime, getrandom, getentropy (these) -> sim::fabric::time
//!                                       \-- any other thread, any other clock -> the kernel
//! ```
//! A definition in the executable comes before libc's, both for what is linked statically and for
//! what looks the symbol up at run time.
//!
//! Invariant: a thread that is not simulated gets what the kernel says.
//!
//! Not here: `gettimeofday`, which only RocksDB's own threads call.
#![allow(unsafe_code, reason = "symbols of libc can only be defined with its types: pointers")]

use std::time::Duration;

use libc::{c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};
use sim::fabric::time;

/// See `clock_gettime(2)`.
///
/// # Safety
/// `ts` points to a `timespec` that may be written, as the caller of the libc function promises.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, ts: *mut timespec) -> c_int {
    let simulated = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => time::wall(),
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_BOOTTIME => time::monotonic(),
        _ => None,
    };
    match simulated {
        Some(shown) => {
            // SAFETY: see above.
            unsafe { *ts = timespec_of(shown) };
            0
        }
        // SAFETY: the arguments are passed on as they came.
        None => unsafe { libc::syscall(libc::SYS_clock_gettime, clock, ts) as c_int },
    }
}

fn timespec_of(shown: Duration) -> timespec {
    timespec {
        tv_sec: i64::try_from(shown.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: c_long::from(i32::try_from(shown.subsec_nanos()).unwrap_or(0)),
    }
}

/// See `getrandom(2)`.
///
/// # Safety
/// `buffer` points to `length` bytes that may be written, as the caller of the libc function
/// promises.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    if time::elapsed().is_some() && length > 0 && !buffer.is_null() {
        // SAFETY: see above.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        time::fill(bytes);
        return ssize_t::try_from(length).unwrap_or(ssize_t::MAX);
    }
    // SAFETY: the arguments are passed on as they came.
    unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as ssize_t }
}

/// See `getentropy(3)`.
///
/// # Safety
/// As for [`getrandom`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(buffer: *mut c_void, length: size_t) -> c_int {
    // SAFETY: see above.
    let filled = unsafe { getrandom(buffer, length, 0) };
    if usize::try_from(filled).is_ok_and(|filled| filled == length) { 0 } else { -1 }
}
