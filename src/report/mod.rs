//! Pages for people: a session, and what a role can reach. Each is one file of HTML that needs nothing else.

#![forbid(unsafe_code)]
