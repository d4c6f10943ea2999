//! Collecting: from what the server is about to do to the accesses that it needs. Decides nothing.

pub mod brought;
pub mod ddl;
pub mod evaluated;
pub mod functions;
pub mod handed;
pub mod held;
pub mod locks;
pub mod masked_ddl;
pub mod masked_reads;
pub mod mentions;
pub mod names;
pub mod needs;
pub mod parts;
pub mod query;
pub mod relations;
pub mod renamed;
pub mod routines;
pub mod sequences;
pub mod swept;
pub mod tables;
pub mod utility;
