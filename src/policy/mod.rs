//! Policies: rules as they are written, and the scope compiled from them.

pub mod builtin;
pub mod document;
pub mod explain;
pub mod json;
pub mod lint;
pub mod near;
pub mod rule;
pub mod scope;
pub mod written;
