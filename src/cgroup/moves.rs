//! Whether a task has come into another cgroup, or a cgroup to another path: what was found out
//! about either stands as long as none has.
//!
//! The kernel counts such events, where it lets itself be asked to; else everything counts as
//! moved at all times. It counts one when it is done, before whoever caused it goes on.

use std::ffi::CStr;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::bpf::{Instruction, Passes};

/// Tracepoints of include/trace/events/cgroup.h, Linux 4.13, each of which is such an event. There
/// is none for the birth and death of a task, nor where hierarchies come and go: those that are
/// asked about are held open.
const EVENTS: [&CStr; 5] = [
    c"cgroup_attach_task",
    c"cgroup_transfer_tasks",
    c"cgroup_rename",
    c"cgroup_rmdir",
    c"cgroup_remount",
];

/// A thread that is not the first of its process, and may be in another cgroup, takes over that
/// one's number, and with it its files in /proc, when it executes a program: include/trace/events/sched.h,
/// Linux 3.4.
const EXEC: &CStr = c"sched_process_exec";

/// Whether it is such a thread that executes: its number was another one before.
fn has_another_number() -> [Instruction; 3] {
    // `old_pid`, the second argument.
    let load = Instruction::load_u64(6, 1, 8);
    let now = Instruction::get_current_pid_tgid();
    [load, now, Instruction::skip_if_same_u32(0, 6, Passes::NOT_COUNTED)]
}

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
        let passes = Passes::of(&[(&EVENTS, &[]), (&[EXEC], &has_another_number())])?;
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
    pub fn confirm<E>(
        &self,
        moves: &Moves,
        check: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
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
