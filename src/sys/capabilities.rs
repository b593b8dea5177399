//! The capabilities of the calling thread; capabilities(7).

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What it may use.
///
/// # Errors
/// What capget(2) answers.
pub fn available() -> io::Result<CapabilitySet> {
    Ok(capabilities(None)?.permitted)
}

/// Has nothing that it executes get more than `granted`. That takes CAP_SETPCAP.
///
/// # Errors
/// What prctl(2) answers.
pub fn bound_to(granted: CapabilitySet) -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            // The kernel's last one is behind us.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
            Ok(is_bounding) if is_bounding && !granted.contains(capability) => {
                remove_capability_from_bounding_set(capability)?;
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Keeps `granted` and nothing else, of which only `effective` counts before it is raised. The
/// inheritable set becomes empty, and the ambient set with it.
///
/// # Errors
/// What capset(2) answers.
pub fn keep(granted: CapabilitySet, effective: CapabilitySet) -> io::Result<()> {
    let inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective, permitted: granted, inheritable })?)
}

/// Acts with the capabilities `with`, as far as the thread may use them, and without `without`.
///
/// # Errors
/// What capget(2) and capset(2) answer.
pub fn acting<T>(
    with: CapabilitySet,
    without: CapabilitySet,
    act: impl FnOnce() -> T,
) -> io::Result<T> {
    let before = capabilities(None)?;
    let effective = before.effective.union(with).intersection(before.permitted).difference(without);
    let _restored = Restored(before);
    set_capabilities(None, CapabilitySets { effective, ..before })?;
    Ok(act())
}

/// What the thread has again when this is dropped.
struct Restored(CapabilitySets);

impl Drop for Restored {
    fn drop(&mut self) {
        // All of it is permitted: nothing can keep it.
        let _ = set_capabilities(None, self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective() -> CapabilitySet {
        capabilities(None).unwrap().effective
    }

    /// On a thread of its own, which has what it keeps.
    #[test]
    fn what_is_lowered_is_raised_for_a_moment() {
        let all = effective();
        let some = all.intersection(CapabilitySet::KILL.union(CapabilitySet::CHOWN));
        let none = CapabilitySet::empty();
        std::thread::spawn(move || {
            keep(some, some.intersection(CapabilitySet::KILL)).unwrap();
            assert_eq!((available().unwrap(), effective()), (some, some & CapabilitySet::KILL));
            let raised = acting(CapabilitySet::all(), none, effective).unwrap();
            assert_eq!(raised, some);
            assert_eq!(acting(none, CapabilitySet::all(), effective).unwrap(), none);
            assert_eq!(effective(), some & CapabilitySet::KILL);
        })
        .join()
        .unwrap();
        assert_eq!(effective(), all);
    }
}
