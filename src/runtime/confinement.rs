//! What confines a container beyond its namespaces and cgroups: covered paths, a system call
//! filter, few capabilities. The defaults are Docker's.

use super::capabilities::Wishes;
use super::devices::{self, Device};
use super::kernelfs::{Access, KernelFilesystems};
use super::masks;
use super::seccomp;
use super::user::User;
use crate::error::{Error, InStep as _, Result};
use crate::sys::capabilities;
use crate::sys::seccomp::Filter;
use rustix::thread::{CapabilitySet, set_no_new_privs};
use serde::{Deserialize, Serialize};

/// What was asked for on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Which capabilities.
    pub capabilities: Wishes,
    /// Each `--security-opt`.
    pub options: Vec<SecurityOption>,
}

/// What one `--security-opt` says. The last of a kind counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityOption {
    /// Whether exec(2) may give what the process did not have: set-user-ID, file capabilities.
    NoNewPrivileges(bool),
    /// Whether system calls are filtered.
    Seccomp(bool),
}

/// Parses the value of `--security-opt`.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_option(text: &str) -> Result<SecurityOption, String> {
    // Docker took a colon before it took an equals sign, and still does.
    let (key, value) = match text.find(['=', ':']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    match (key, value) {
        ("no-new-privileges", None | Some("true")) => Ok(SecurityOption::NoNewPrivileges(true)),
        ("no-new-privileges", Some("false")) => Ok(SecurityOption::NoNewPrivileges(false)),
        ("seccomp", Some("unconfined")) => Ok(SecurityOption::Seccomp(false)),
        ("seccomp", Some("builtin")) => Ok(SecurityOption::Seccomp(true)),
        _ => Err("expected no-new-privileges or seccomp=unconfined".to_owned()),
    }
}

impl Asked {
    /// Whether the container may do to the host what root there may.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.capabilities.privileged
    }

    fn no_new_privileges(&self) -> bool {
        let said = self.options.iter().rev().find_map(|option| match option {
            SecurityOption::NoNewPrivileges(wanted) => Some(*wanted),
            SecurityOption::Seccomp(_) => None,
        });
        said.unwrap_or(false)
    }

    fn is_filtered(&self) -> bool {
        let said = self.options.iter().rev().find_map(|option| match option {
            SecurityOption::Seccomp(wanted) => Some(*wanted),
            SecurityOption::NoNewPrivileges(_) => None,
        });
        said.unwrap_or(!self.is_privileged())
    }
}

/// How a container is confined, as plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Whether it may do to the host what root there may.
    pub privileged: bool,
    /// What its processes may have, as /proc/PID/status spells it.
    #[serde(with = "mask")]
    pub capabilities: CapabilitySet,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// Whether exec(2) gives nothing that the process did not have.
    pub no_new_privileges: bool,
}

/// Capabilities as a hexadecimal mask.
mod mask {
    use rustix::thread::CapabilitySet;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    pub(super) fn serialize<S: Serializer>(
        set: &CapabilitySet,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", set.bits()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<CapabilitySet, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bits = u64::from_str_radix(&text, 16).map_err(D::Error::custom)?;
        Ok(CapabilitySet::from_bits_retain(bits))
    }
}

impl Decided {
    /// What is to become of what was asked for.
    ///
    /// # Errors
    /// [`Error::Refused`] where something cannot be had.
    pub fn of(asked: &Asked) -> Result<Decided> {
        let capabilities = asked.capabilities.grant(available()?).map_err(Error::Refused)?;
        Ok(Decided {
            privileged: asked.is_privileged(),
            capabilities,
            seccomp: asked.is_filtered(),
            no_new_privileges: asked.no_new_privileges(),
        })
    }
}

/// How a container is confined: ready to be done.
#[derive(Debug)]
pub struct Confinement {
    decided: Decided,
    filter: Option<Filter>,
}

/// The devices that a container finds in /dev beyond those that each has.
#[derive(Debug)]
pub struct Devices(Vec<Device>);

impl Confinement {
    /// Prepares what was decided.
    ///
    /// # Errors
    /// [`Error::Refused`] where no filter can be made.
    pub fn new(decided: Decided) -> Result<Confinement> {
        let filter =
            if decided.seccomp { Some(seccomp::filter(decided.capabilities)?) } else { None };
        Ok(Confinement { decided, filter })
    }

    /// The same with all capabilities that the runtime has. The filter remains as it is.
    ///
    /// # Errors
    /// What capget(2) answers.
    pub fn with_all_capabilities(mut self) -> Result<Confinement> {
        self.decided.capabilities = available()?;
        Ok(self)
    }

    /// What was decided.
    #[must_use]
    pub fn decided(&self) -> Decided {
        self.decided
    }

    /// What it may do in /sys and to its own cgroups.
    #[must_use]
    pub fn access(&self) -> Access {
        if self.decided.privileged { Access::Writable } else { Access::ReadOnly }
    }

    /// Finds the host's devices, before the root changes.
    ///
    /// # Errors
    /// The directory that could not be read.
    pub fn devices(&self) -> Result<Devices> {
        Ok(Devices(if self.decided.privileged { devices::of_host()? } else { Vec::new() }))
    }

    /// Makes and covers what /dev, /proc and /sys are to show, once they are mounted.
    ///
    /// # Errors
    /// The device or the mount that failed.
    pub fn arrange(&self, kernel: &KernelFilesystems, devices: &Devices) -> Result<()> {
        devices::make(&devices.0).in_step("devices")?;
        if self.decided.privileged { Ok(()) } else { masks::cover(kernel).in_step("masked paths") }
    }

    /// Becomes the user and gives up what the container is not to have: the last that happens
    /// before exec(2). The capabilities of one who is not root bound what a set-user-ID program
    /// may do.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn enter(&self, user: &User) -> Result<()> {
        if self.decided.no_new_privileges {
            set_no_new_privs(true)
                .map_err(|errno| Error::io("set no_new_privs of", SELF, errno))?;
        }
        // Before the capabilities: a filter without no_new_privs takes CAP_SYS_ADMIN, and it
        // allows what follows.
        if let Some(filter) = &self.filter {
            filter
                .install()
                .map_err(|error| Error::io("install a seccomp filter for", SELF, error))
                .in_step("seccomp")?;
        }
        let failed = |error| Error::io("drop capabilities of", SELF, error);
        capabilities::bound_to(self.decided.capabilities)
            .map_err(failed)
            .in_step("capabilities")?;
        user.assume().in_step("--user")?;
        let kept = if user.is_root() { self.decided.capabilities } else { CapabilitySet::empty() };
        capabilities::keep(kept, kept).map_err(failed).in_step("capabilities")
    }
}

const SELF: &str = "/proc/self";

/// What this process may use.
fn available() -> Result<CapabilitySet> {
    capabilities::available().map_err(|error| Error::io("read the capabilities of", SELF, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_in_both_spellings() {
        for (text, expected) in [
            ("no-new-privileges", SecurityOption::NoNewPrivileges(true)),
            ("no-new-privileges:true", SecurityOption::NoNewPrivileges(true)),
            ("no-new-privileges=false", SecurityOption::NoNewPrivileges(false)),
            ("seccomp=unconfined", SecurityOption::Seccomp(false)),
            ("seccomp:unconfined", SecurityOption::Seccomp(false)),
            ("seccomp=builtin", SecurityOption::Seccomp(true)),
        ] {
            assert_eq!(parse_option(text), Ok(expected), "{text}");
        }
        for text in ["", "no-new-privileges=", "seccomp", "seccomp=/x.json", "label=disable"] {
            assert!(parse_option(text).unwrap_err().starts_with("expected"), "{text}");
        }
    }

    #[test]
    fn the_last_of_a_kind_counts() {
        let asked = |privileged, options: &[SecurityOption]| Asked {
            capabilities: Wishes { privileged, ..Wishes::default() },
            options: options.to_vec(),
        };
        assert!(asked(false, &[]).is_filtered() && !asked(false, &[]).no_new_privileges());
        assert!(!asked(true, &[]).is_filtered());
        assert!(asked(true, &[SecurityOption::Seccomp(true)]).is_filtered());
        let options = [
            SecurityOption::Seccomp(false),
            SecurityOption::NoNewPrivileges(true),
            SecurityOption::Seccomp(true),
            SecurityOption::NoNewPrivileges(false),
        ];
        assert!(asked(false, &options).is_filtered());
        assert!(!asked(false, &options).no_new_privileges());
        assert!(asked(false, &options[..2]).no_new_privileges());
    }
}
