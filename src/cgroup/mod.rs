//! Control groups: which hierarchy has a controller, what its files say.

pub mod apply;
pub mod layout;
pub mod path;
