//! Control groups: which hierarchy has a controller, what its files say.

pub mod layout;
pub mod path;
