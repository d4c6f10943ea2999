//! The extension's SQL functions: arguments in, rows out, no logic. Their SQL is in sql/.

pub mod audit;
