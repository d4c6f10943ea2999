//! Defaults that a utility statement evaluates outside of any plan: which calls of sequence functions are theirs.
//!
//! The server announces a function before it evaluates it, without its arguments. So what the defaults use is read from the
//! catalogue (`gather::sequences`), and the announcements are counted: the server prepares all defaults before the first row,
//! each call once. What is announced beyond that count belongs to something else that the statement evaluates (a trigger's
//! condition, a check, a domain, USING), and is none of these.
//!
//! COPY FROM prepares them when it begins, its target's for every column that it does not fill. ALTER TABLE prepares those
//! of the columns that it adds when it rewrites a relation, right behind the creation of the new heap.
//! INVARIANT: nothing else is prepared between these points and the defaults themselves but constraints and USING of the
//! same rewrite, and nothing is evaluated; so one call too many is refused before any of them has run.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::gather::sequences::{self, Uses};
use super::{calls, catalog};
use crate::request::Columns;

/// What a running utility statement evaluates of defaults.
pub struct Fills {
    by: By,
    columns: Vec<(pg_sys::Oid, i16)>,
    expected: Expected,
    /// How many functions were running when it began: what they announce is theirs.
    depth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Nothing,
    /// COPY FROM; of every column where the rows may ask for a default.
    Copy {
        every_column: bool,
    },
    /// ALTER TABLE.
    Alter,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// No default is prepared yet, or none of them is decided.
    Nothing,
    /// They are about to be.
    Soon,
    /// So many calls are still to come.
    Calls(usize),
}

/// Whether a call that is announced is a default's.
#[derive(Debug, PartialEq, Eq)]
pub enum Belongs {
    /// No.
    No,
    /// Yes, and what it uses was decided.
    Decided,
    /// If these columns' defaults have one; to be decided first.
    Perhaps(Vec<(pg_sys::Oid, i16)>),
}

impl Fills {
    /// Of a statement that begins.
    ///
    /// # Safety
    /// `node` is a valid utility statement.
    pub unsafe fn of(node: *mut pg_sys::Node) -> Fills {
        // SAFETY: the tag decides the cast; options of COPY are DefElem nodes.
        let by = unsafe {
            match (*node).type_ {
                T::T_CopyStmt if (*node.cast::<pg_sys::CopyStmt>()).is_from => {
                    let options = super::gather::names::members((*node.cast::<pg_sys::CopyStmt>()).options);
                    // From 16 on: a text that stands for the default.
                    let every_column = options.into_iter().any(|option| {
                        catalog::text((*option.cast::<pg_sys::DefElem>()).defname).as_deref()
                            == Some("default")
                    });
                    By::Copy { every_column }
                }
                T::T_AlterTableStmt => By::Alter,
                _ => By::Nothing,
            }
        };
        Fills { by, columns: Vec::new(), expected: Expected::Nothing, depth: calls::depth() }
    }

    /// COPY is about to fill these columns of this relation; those that it fills with their defaults.
    pub fn copies_into(&mut self, relation: pg_sys::Oid, filled: &Columns) -> Vec<i16> {
        let By::Copy { every_column } = self.by else { return Vec::new() };
        let named = match filled {
            Columns::Of(numbers) if !every_column => numbers.as_slice(),
            _ => &[],
        };
        let rest = sequences::filled_by_default(relation, named);
        self.columns = rest.iter().map(|number| (relation, *number)).collect();
        self.expected = Expected::Soon;
        rest
    }

    /// A column was added. Only what has rows of its own is rewritten.
    pub fn added(&mut self, relation: pg_sys::Oid, column: i16) {
        let rows = || catalog::relation_facts(relation).is_some_and(|facts| facts.kind == b'r');
        if self.by == By::Alter && rows() {
            self.columns.push((relation, column));
        }
    }

    /// The server made a relation for itself: a heap to rewrite another into, or its TOAST table.
    pub fn made_internally(&mut self) {
        if self.by == By::Alter && !self.columns.is_empty() {
            self.expected = Expected::Soon;
        }
    }

    /// A sequence function is announced.
    pub fn announced(&mut self) -> Belongs {
        match self.expected {
            _ if calls::depth() != self.depth => Belongs::No,
            Expected::Nothing | Expected::Calls(0) => Belongs::No,
            Expected::Soon => {
                // Looking at them announces nothing that is theirs.
                self.expected = Expected::Nothing;
                Belongs::Perhaps(self.columns.clone())
            }
            Expected::Calls(left) => {
                self.expected = Expected::Calls(left - 1);
                Belongs::Decided
            }
        }
    }

    /// What the defaults use was decided: the call that was announced is the first of `calls`.
    pub fn decided(&mut self, calls: usize) {
        self.expected = calls.checked_sub(1).map_or(Expected::Nothing, Expected::Calls);
    }
}

/// What the defaults of these columns use, and how many calls are prepared at a time: those of one relation, where they
/// differ of that which has the fewest.
pub fn uses(columns: &[(pg_sys::Oid, i16)]) -> (Uses, usize) {
    let mut all = Uses::new();
    let mut each: Vec<(pg_sys::Oid, usize)> = Vec::new();
    for (relation, column) in columns {
        let found = sequences::of_default(*relation, *column);
        match each.iter_mut().find(|one| one.0 == *relation) {
            Some(one) => one.1 += found.len(),
            None => each.push((*relation, found.len())),
        }
        all.extend(found);
    }
    (all, each.iter().map(|one| one.1).min().unwrap_or(0))
}
