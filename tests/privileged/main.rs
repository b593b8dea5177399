//! Tests on the real kernel, as root: `cargo test --features privileged --test privileged`.

mod attach;
mod byhand;
mod daemon;
mod docker;
mod engine;
mod exec;
mod flags;
mod hostile_payloads;
mod keeper;
mod laws;
mod life;
mod load;
mod lxc;
mod lxcfs;
mod managers;
mod nested;
mod options;
mod pressure;
mod readers;
mod restart;
mod run;
mod run_security;
mod session;
mod systemd;
mod terminal;
mod who;
