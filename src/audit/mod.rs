//! The record: audit events, their bytes, the ring they wait in, and what must not be in them.

#![forbid(unsafe_code)]

pub mod binary_text;
pub mod chain;
pub mod decode;
pub mod event;
pub mod journal;
pub mod journal_text;
pub mod jsonb;
pub mod line;
pub mod record;
pub mod redact;
pub mod results;
pub mod ring;
mod sign;
pub mod sql_text;
pub mod stored;
