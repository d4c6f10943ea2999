//! Playing back what a session did: its events in the order in which they began, what became of them, and the session
//! as a recording of a terminal.
//!
//! It works on events as the view `audit` shows them and reads nothing itself.

#![forbid(unsafe_code)]

pub mod cast;
pub mod event;
pub mod order;
pub mod table;
