//! The only `unsafe` code: ioctls and system calls that nix, rustix and libc do not wrap
//! safely. Every function is safe to call; every block says why it is sound.
#![allow(unsafe_code)]

pub mod bpf;
pub mod capabilities;
pub mod descriptors;
pub mod file;
pub mod fuse;
pub mod identity;
pub mod mount;
pub mod net;
pub mod process;
pub mod seccomp;
pub mod shared;
