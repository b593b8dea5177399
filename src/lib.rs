//! lxcfs-rs: `/proc` files that show each reader its own container.

#![deny(unsafe_code)]

pub mod cgroup;
pub mod collect;
pub mod container;
pub mod cpulist;
pub mod error;
pub mod facts;
pub mod files;
pub mod fuse;
pub mod history;
pub mod kernel;
pub mod procfs;
pub mod render;
pub mod runtime;
pub mod sys;
pub mod units;
pub mod vfs;
