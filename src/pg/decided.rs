//! An access together with the decision on it, as statements keep it until their event.

use std::rc::Rc;
use std::sync::Arc;

use crate::audit::event::{AccessRecord, AuditDecision};
use crate::decision::RuleId;
use crate::request::{Action, Object, ObjectClass};

/// One access as it was decided.
#[derive(Clone)]
pub struct Decided {
    /// What is done.
    pub action: Action,
    /// To what.
    pub object: Option<Arc<Object>>,
    /// The object's qualified name; empty for none.
    pub name: Rc<str>,
    /// The columns by name, separated by commas; `None` for none in particular.
    pub columns: Option<Rc<str>>,
    /// The outcome.
    pub decision: AuditDecision,
    /// The rule that decided.
    pub rule: Option<RuleId>,
}

impl Decided {
    /// The access in the words of requests.
    pub fn item(&self) -> String {
        let (class, oid) =
            self.object.as_deref().map_or((ObjectClass::Other, 0), |object| (object.class, object.oid.0));
        crate::approval::item(class, oid, self.action, &self.name, self.columns.as_deref().unwrap_or(""))
    }

    /// The access as the event tells it.
    pub fn record(&self) -> AccessRecord<'_> {
        let object = self.object.as_deref();
        AccessRecord {
            verb: self.action.verb,
            kind: self.action.kind,
            class: object.map_or(ObjectClass::Other, |object| object.class),
            oid: object.map_or(0, |object| object.oid.0),
            name: &self.name,
            columns: self.columns.as_deref().unwrap_or(""),
            decision: self.decision,
            rule: self.rule,
        }
    }
}
