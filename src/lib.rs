//! agent_guard contains AI agents inside PostgreSQL: every statement of a guarded role is decided, access by
//! access, against a signed, expiring, revocable scope, and recorded.
//!
//! The modules at the top are the core and know nothing of PostgreSQL; `pg` (feature `pg`) is the server side.

pub mod approval;
pub mod ascii_json;
pub mod audit;
pub mod decision;
pub mod keyring;
pub mod leading;
pub mod limit;
pub mod lossless;
pub mod mask;
pub mod pattern;
pub mod policy;
pub mod recording;
pub mod refusal;
pub mod replay;
pub mod report;
pub mod request;
pub mod token;
pub mod visible;

// Private: what is reachable from outside the library is reached through its global offset table.
#[cfg(feature = "pg")]
mod pg;
