//! What is known of a container beyond its processes. Nothing is written to disk: a
//! container's id is the name of its cgroups, and the flock(2) on their directories tells
//! whether the runtime that made them still lives.

use std::fmt::Write as _;

use crate::error::{Error, Result};

/// Draws a container's id: 64 hexadecimal digits, as Docker's.
///
/// # Errors
/// What getrandom(2) answers.
pub fn new_id() -> Result<String> {
    let mut random = [0_u8; 32];
    let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Error::io("read", "getrandom(2)", errno))?;
    if filled < random.len() {
        return Err(Error::Refused(format!("getrandom(2) gave {filled} bytes of 32")));
    }
    let mut id = String::with_capacity(64);
    for byte in random {
        // Writing to a String does not fail.
        let _ = write!(id, "{byte:02x}");
    }
    Ok(id)
}

/// The first digits of an id, by which people call a container; its host name.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_digits_and_differ() {
        let id = new_id().unwrap();
        assert_eq!(id.len(), 64);
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(id, new_id().unwrap());
        assert_eq!(short(&id), &id[..12]);
    }
}
