//! One file per subcommand: its arguments, and the few lines that call the library.

pub(crate) mod run;
