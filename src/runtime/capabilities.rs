//! The capabilities of a container; capabilities(7).

use rustix::thread::CapabilitySet;

/// What a container has unless something else is asked for: the choice of Docker.
pub const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What one `--cap-add` or `--cap-drop` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// `ALL`.
    All,
    /// One capability.
    One(CapabilitySet),
}

/// Parses a capability's name: with or without `CAP_`, in either case, or `ALL`.
///
/// # Errors
/// What is wrong, for a person.
pub fn parse(text: &str) -> Result<Named, String> {
    let name = text.to_ascii_uppercase();
    if name == "ALL" {
        return Ok(Named::All);
    }
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    CapabilitySet::from_name(name)
        .map(Named::One)
        .ok_or_else(|| "unknown capability: expected a name such as NET_ADMIN, or ALL".to_owned())
}

/// What was asked for on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Everything that there is, and the other wishes do not count.
    pub privileged: bool,
    /// Each `--cap-add`.
    pub add: Vec<Named>,
    /// Each `--cap-drop`.
    pub drop: Vec<Named>,
}

impl Wishes {
    /// The capabilities that a container gets from a runtime that has `available`.
    ///
    /// As Docker evaluates them: an added `ALL` is everything but what is dropped by its own
    /// name; else a dropped `ALL` leaves only what is added; else what is added wins over what
    /// is dropped. `ALL` and the default end where the runtime's own capabilities do; one that
    /// is asked for by name does not.
    ///
    /// # Errors
    /// The capability that was asked for by name and is not available, for a person.
    pub fn grant(&self, available: CapabilitySet) -> Result<CapabilitySet, String> {
        if self.privileged {
            return Ok(available);
        }
        let (add, drop) = (by_name(&self.add), by_name(&self.drop));
        if let Some((missing, _)) = add.difference(available).iter_names().next() {
            return Err(format!("--cap-add {missing}: the runtime does not have it itself"));
        }
        Ok(if self.add.contains(&Named::All) {
            available.difference(drop)
        } else if self.drop.contains(&Named::All) {
            add
        } else {
            DEFAULT.intersection(available).difference(drop).union(add)
        })
    }
}

fn by_name(named: &[Named]) -> CapabilitySet {
    let each = named.iter().filter_map(|named| match named {
        Named::All => None,
        Named::One(capability) => Some(*capability),
    });
    each.fold(CapabilitySet::empty(), CapabilitySet::union)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: CapabilitySet = CapabilitySet::from_bits_retain(0x1ff_ffff_ffff);

    #[test]
    fn names_in_every_spelling() {
        for text in ["net_admin", "NET_ADMIN", "CAP_NET_ADMIN", "cap_net_admin", "Cap_Net_Admin"] {
            assert_eq!(parse(text), Ok(Named::One(CapabilitySet::NET_ADMIN)), "{text}");
        }
        assert_eq!(parse("all"), Ok(Named::All));
        for text in ["", "CAP_", "CAP_ALL", "NET-ADMIN", "FOO", "CAP_CAP_CHOWN", " CHOWN", "0"] {
            assert!(parse(text).unwrap_err().contains("unknown capability"), "{text}");
        }
    }

    /// Every name of the kernel's is known: linux/capability.h has 41 at this writing.
    #[test]
    fn all_names_are_known() {
        assert_eq!(CapabilitySet::all().iter_names().count(), 41);
        assert_eq!(by_name(&[parse("CHECKPOINT_RESTORE").unwrap()]).bits(), 1 << 40);
    }

    #[test]
    fn the_default_is_dockers() {
        assert_eq!(DEFAULT.bits(), 0xa804_25fb);
    }

    fn granted(add: &[&str], drop: &[&str], available: CapabilitySet) -> Result<u64, String> {
        let named = |names: &[&str]| names.iter().map(|name| parse(name).unwrap()).collect();
        let wishes = Wishes { privileged: false, add: named(add), drop: named(drop) };
        wishes.grant(available).map(|granted| granted.bits())
    }

    #[test]
    fn wishes_are_evaluated_as_docker_does() {
        let chown = CapabilitySet::CHOWN.bits();
        let sys_admin = CapabilitySet::SYS_ADMIN.bits();
        for (add, drop, expected) in [
            ([].as_slice(), [].as_slice(), DEFAULT.bits()),
            (&["SYS_ADMIN"], &[], DEFAULT.bits() | sys_admin),
            (&[], &["CHOWN"], DEFAULT.bits() & !chown),
            (&["CHOWN"], &["CHOWN"], DEFAULT.bits()),
            (&["SYS_ADMIN"], &["SYS_ADMIN"], DEFAULT.bits() | sys_admin),
            (&[], &["ALL"], 0),
            (&["chown"], &["ALL"], chown),
            (&["chown"], &["ALL", "CHOWN"], chown),
            (&["ALL"], &[], ALL.bits()),
            (&["ALL"], &["ALL"], ALL.bits()),
            (&["ALL"], &["chown"], ALL.bits() & !chown),
            (&["ALL", "CHOWN"], &["chown"], ALL.bits() & !chown),
        ] {
            assert_eq!(granted(add, drop, ALL), Ok(expected), "add {add:?} drop {drop:?}");
        }
    }

    #[test]
    fn what_the_runtime_lacks_cannot_be_had() {
        let some = CapabilitySet::CHOWN.union(CapabilitySet::SYS_ADMIN);
        assert_eq!(granted(&[], &[], some), Ok(CapabilitySet::CHOWN.bits()));
        assert_eq!(granted(&["ALL"], &[], some), Ok(some.bits()));
        assert_eq!(granted(&["SYS_ADMIN"], &["ALL"], some), Ok(CapabilitySet::SYS_ADMIN.bits()));
        for add in [["SYS_TIME"].as_slice(), &["ALL", "SYS_TIME"]] {
            assert!(granted(add, &[], some).unwrap_err().starts_with("--cap-add SYS_TIME: "));
        }
        let privileged = Wishes {
            privileged: true,
            add: vec![Named::One(CapabilitySet::SYS_TIME)],
            drop: vec![Named::All],
        };
        assert_eq!(privileged.grant(some), Ok(some));
    }
}
