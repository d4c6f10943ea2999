//! Pages for people: a session, and what a role can reach. Each is one file of HTML that needs nothing else.
//!
//! The pages are ASCII, so they are the same in every encoding; every recorded text passes `html::Html::text`.

#![forbid(unsafe_code)]

pub mod html;
pub mod page;
pub mod reach;
pub mod session;
pub mod words;
