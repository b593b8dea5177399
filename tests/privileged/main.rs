//! Tests on the real kernel, as root: `cargo test --features privileged --test privileged`.

mod run;
mod session;
