//! Policies: rules as they are written, and the scope compiled from them.

pub mod document;
pub mod near;
pub mod rule;
