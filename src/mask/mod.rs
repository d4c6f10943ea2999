//! Masks: what a masking function makes of a value, which one fits which type, and the SQL that says so.
//!
//! Knows nothing of PostgreSQL but its types' names and the form of its values.

pub mod calendar;
pub mod expression;
pub mod json;
pub mod keyed;
pub mod quote;
pub mod rule;
pub mod text;
pub mod view;
