//! What a decision is: allowed with obligations, held for approval, or denied with the rule and the reason.
//!
//! It only holds the outcome; `policy::scope` makes it.

#![forbid(unsafe_code)]

/// The identifier of a rule, as `agent_guard.allow()` returned it.
pub type RuleId = i64;

/// What rides on an allow. The obligations of every matching allow hold together, the tightest winning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Obligations {
    /// The statement needs a condition that can restrict this relation; the rule that says so.
    pub require_where: Option<RuleId>,
    /// At most so many rows returned or changed by the statement; with the rule that says so.
    pub max_rows: Option<(i64, RuleId)>,
    /// People have to agree where the statement changes or returns more rows; with the rule that says so.
    pub approve_above: Option<(i64, RuleId)>,
}

/// The lower of two limits on rows.
pub fn tighter(a: Option<(i64, RuleId)>, b: Option<(i64, RuleId)>) -> Option<(i64, RuleId)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
        (a, b) => a.or(b),
    }
}

impl Obligations {
    /// Both sets of obligations together, the tighter limit winning.
    pub fn and(self, other: Obligations) -> Obligations {
        Obligations {
            require_where: self.require_where.or(other.require_where),
            max_rows: tighter(self.max_rows, other.max_rows),
            approve_above: tighter(self.approve_above, other.approve_above),
        }
    }

    /// Whether nothing rides on the allow.
    pub fn is_empty(&self) -> bool {
        self.require_where.is_none() && self.max_rows.is_none() && self.approve_above.is_none()
    }
}

/// Why an access is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// A deny rule matches.
    Rule(RuleId),
    /// A deny rule matches this column.
    Column(RuleId, i16),
    /// No allow rule matches the action on the object at all.
    NoAllow,
    /// Allow rules match the object, but none covers this column.
    ColumnNotAllowed(i16),
    /// An allow rule matches but for its statement_pattern.
    PatternMismatch(RuleId),
    /// A block of the token leaves this out; the block's index.
    OutOfScope(usize),
    /// Never allowed to an agent, whatever the policy says.
    Never,
    /// An approve rule matches, and people have not agreed.
    Unapproved(RuleId),
}

/// The outcome for one access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed; by which rule, where a rule was needed.
    Allow(Option<RuleId>, Obligations),
    /// Denied.
    Deny(Denial),
    /// Held until people agree; by which rule.
    Approve(RuleId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_obligation_wins() {
        let a = Obligations { max_rows: Some((100, 1)), ..Obligations::default() };
        let b = Obligations { require_where: Some(2), max_rows: Some((10, 2)), approve_above: Some((5, 3)) };
        let both = b;
        assert_eq!(a.and(b), both);
        assert_eq!(b.and(a), both);
        assert!(Obligations::default().is_empty());
    }
}
