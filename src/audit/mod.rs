//! The record: audit events, their bytes, the ring they wait in, and what must not be in them.

#![forbid(unsafe_code)]

pub mod decode;
pub mod event;
pub mod jsonb;
pub mod line;
pub mod record;
pub mod redact;
pub mod ring;
pub mod stored;
