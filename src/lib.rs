//! lxcfs-rs: `/proc` files that show each reader its own container.

#![deny(unsafe_code)]

pub mod cgroup;
pub mod container;
pub mod cpulist;
pub mod error;
pub mod fuse;
pub mod kernel;
pub mod procfs;
pub mod runtime;
pub mod sys;
pub mod units;
pub mod vfs;
