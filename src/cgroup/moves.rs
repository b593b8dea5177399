//! Whether a task has come into another cgroup, or a cgroup to another path: what was found out
//! about either stands as long as none has.
//!
//! The kernel counts such events, where it lets itself be asked to; else everything counts as
//! moved at all times. It counts one when it is done, before whoever caused it goes on.

use std::ffi::CStr;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::sys::bpf::Passes;

/// Tracepoints of the kernel, include/trace/events/cgroup.h, since Linux 4.13: all but a task's
/// birth and death that change its /proc/PID/cgroup, and what is at a path that stands there.
const EVENTS: [&CStr; 7] = [
    c"cgroup_attach_task",
    c"cgroup_transfer_tasks",
    c"cgroup_rename",
    c"cgroup_rmdir",
    c"cgroup_setup_root",
    c"cgroup_destroy_root",
    c"cgroup_remount",
];

/// The moves of the whole machine.
#[derive(Debug, Default)]
pub struct Moves {
    passes: OnceLock<Passes>,
}

impl Moves {
    /// Has the kernel count them from now on.
    ///
    /// # Errors
    /// As [`Passes::of`].
    pub fn count(&self) -> io::Result<()> {
        let passes = Passes::of(&EVENTS)?;
        self.passes.get_or_init(|| passes);
        Ok(())
    }

    /// How many there have been, and one; none where nobody counts.
    fn so_far(&self) -> Option<u64> {
        self.passes.get().map(|passes| passes.count() + 1)
    }
}

/// When something was last found to be as it was before.
#[derive(Debug, Default)]
pub struct Standing {
    /// [`Moves::so_far`]; 0 for never.
    confirmed: AtomicU64,
}

impl Standing {
    /// Whether it still is: by `check`, unless nothing has moved since that was last content.
    ///
    /// # Errors
    /// That of `check`.
    pub fn confirm(&self, moves: &Moves, check: impl FnOnce() -> Result<()>) -> Result<()> {
        // Before what is checked: a move meanwhile is another number.
        let now = moves.so_far();
        if now.is_some_and(|now| self.confirmed.load(Ordering::Acquire) == now) {
            return Ok(());
        }
        check()?;
        self.confirmed.store(now.unwrap_or(0), Ordering::Release);
        Ok(())
    }
}
