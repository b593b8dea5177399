//! One binary: arguments, options, one call, exit code.

fn main() {}
