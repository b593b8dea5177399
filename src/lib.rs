//! lxcfs-rs: `/proc` files that show each reader its own container.

#![deny(unsafe_code)]

pub mod cgroup;
pub mod error;
pub mod runtime;
pub mod sys;
pub mod units;
pub mod vfs;
