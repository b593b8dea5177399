//! lxcfs-rs: `/proc` files that show each reader its own container.
//!
//! # The pipeline
//! A read goes one way: **request → caller → container → facts → bytes → reply**.
//!
//! | step | function | from → to |
//! |---|---|---|
//! | request | [`fuse::Adapter`] → [`vfs::Vfs::read`] | a FUSE READ → inode, handle, thread id |
//! | caller → container | [`container::Resolver::resolve`] | thread id → [`container::Who`] |
//! | container → facts | [`collect::Collector::collect`] | who, file, now → [`facts::Facts`] |
//! | facts → bytes | [`render::render`] | facts → the file's text |
//!
//! Nothing downstream sees anything upstream but the value that it is handed.
//!
//! # The layers
//! A module uses only modules *below* it; `tests/architecture.rs` holds that.
//!
//! ```text
//!  8  main  commands     arguments -> options -> one call -> exit code
//!  7  fuse     runtime   effects: a FUSE session | namespaces, mounts, cgroup writes. Siblings
//!  6  vfs                inodes and handles; runs the pipeline
//!  5  collect  render    gather (no formatting) | format (pure, cannot fail). Siblings
//!  4  files    facts     THE table of files | plain data handed from collect to render
//!  3  container history  who is asking | what is remembered between reads
//!  2  kernel             one host below one root directory: the machine's, or a captured one
//!     cgroup             which hierarchy has a controller; what its files say; v1 | v2 inside
//!     procfs             the host's /proc and /sys: one reader each, and pure parsers
//!  1  units cpulist error sys      quantities | CPU sets | the one error | the only unsafe code
//! ```
//!
//! # Rules that the code is built on
//! * **Direct I/O on every open**: one inode serves every container, so a page cache would hand
//!   one container's bytes to another.
//! * **The seq_file rule** ([`vfs`]): rendered when read from offset 0 or from where the last
//!   read did not end; else the rest of the same snapshot. Nothing is ever truncated.
//! * **Identity belongs to the read**, not to the open: descriptors are passed on.
//! * **No stale identity** ([`container`]): pids, namespace numbers and cgroup paths are reused
//!   by the kernel, so whatever is remembered holds what pins it.
//! * **Held open, and read anew** ([`container`], [`cgroup::dir`]): what a read asks it asks every
//!   time, by one call each. Only texts of the whole machine are shared, for 10 ms
//!   ([`procfs::ProcRoot::shared`]).
//! * **Edit the host's lines**: a line that a future kernel adds keeps its place.
//! * **Limits fold over the ancestors, counters never do.** Arithmetic saturates ([`units`]).
//! * **What was shown is kept before it is told** ([`history::store`]): no counter goes back over
//!   a restart.
//! * **Directories of /sys as a whole** ([`vfs`], [`collect::tree`]): the host's own, of which a
//!   reader finds what its machine has; no link is followed, and nothing is opened that not
//!   everybody may read.
//! * **The connection outlives who serves it** ([`fuse`]): inode numbers are constants, what is open
//!   lies in a memory that workers share ([`vfs::kept`]), and a request that is sent again is
//!   answered as the first time.
//! * **Fixtures are root directories**: every reader starts at a root path, so a captured host
//!   drives collect and render as the machine does.
//!
//! # Glossary
//! * *keeper*: the process that holds the FUSE connection; *worker*: its child that serves it.
//! * *reader*: the process whose thread reads a file. *Subject*: what it is shown.
//! * *container*: a set of cgroups, one per hierarchy, that bound processes. Its *birth* is when
//!   the init of its outermost pid namespace started.
//! * *level*: a container's cgroup or one of its ancestors, nearest first, without the root.
//! * *memory domain*: the nearest level that accounts memory.
//! * *present*: the CPUs that a container is shown, by their physical numbers or from 0 on.
//! * *room*: what may still be charged at a limited level.

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
