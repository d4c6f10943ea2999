//! Human approval: who has to agree, what exactly is put to them, and what a stored request means at some moment.
//!
//! It knows no catalogue and no clock of its own; `pg::approvals` finds requests and acts on what is said here.

#![forbid(unsafe_code)]

use sha2::{Digest, Sha256};

use crate::request::{Action, ObjectClass};

/// The longest lifetime of an approval, in seconds.
const MAX_TTL: i64 = 30 * 86_400;
/// The longest wait that a rule can name, in seconds: what `agent_guard.approval_wait` takes at most.
const MAX_WAIT: i64 = 3600;
/// The most people that a rule can ask for.
const MAX_APPROVALS: i32 = 16;
/// What a rule asks for that says nothing else.
pub const DEFAULT_APPROVALS: i32 = 1;
/// The lifetime of an approval where the rule says nothing, in seconds.
pub const DEFAULT_TTL: i64 = 600;

/// What an approve rule asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Approval {
    /// The roles whose members may agree, by name.
    pub approvers: Vec<String>,
    /// How many different people.
    pub approvals: i32,
    /// How long the approval lasts, in seconds from the last of them.
    pub ttl: i64,
    /// Whoever granted the window may be one of them.
    pub granter: bool,
    /// The longest that a session may wait for them, in seconds: 0 for not at all, `None` for as long as it likes.
    pub wait: Option<i64>,
}

/// What is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The part.
    pub path: &'static str,
    /// A lower-case fact.
    pub message: String,
    /// What to write instead.
    pub hint: &'static str,
}

impl Approval {
    /// Proves the form.
    ///
    /// # Errors
    /// The first part that is wrong.
    pub fn check(&self) -> Result<(), Fault> {
        let fault = |path, message: &str, hint| Err(Fault { path, message: message.to_owned(), hint });
        if self.approvers.is_empty() {
            return fault("approvers", "nobody may approve", "Name the roles whose members may approve.");
        }
        if self.approvers.iter().any(String::is_empty) {
            return fault("approvers", "an empty role name", "Name existing roles.");
        }
        if !(1..=MAX_APPROVALS).contains(&self.approvals) {
            return fault(
                "approvals",
                "not between 1 and 16",
                "Say how many different people have to agree.",
            );
        }
        if !(1..=MAX_TTL).contains(&self.ttl) {
            return fault(
                "approval_ttl",
                "not between one second and 30 days",
                "Say how long an approval lasts, such as '10 minutes'.",
            );
        }
        if self.wait.is_some_and(|wait| !(0..=MAX_WAIT).contains(&wait)) {
            return fault(
                "max_wait",
                "not between nothing and an hour",
                "Say how long a session may wait for the approval, such as '2 minutes'; 0 is not at all, without it agent_guard.approval_wait decides.",
            );
        }
        Ok(())
    }
}

const UNITS: [(i64, &[&str]); 4] = [
    (86_400, &["days", "day", "d"]),
    (3600, &["hours", "hour", "h"]),
    (60, &["minutes", "minute", "mins", "min"]),
    (1, &["seconds", "second", "secs", "sec", "s"]),
];

/// Seconds of a text such as `10 min` or `1 hour 30 minutes`, as policy documents write them; `None` for any other.
pub fn seconds(text: &str) -> Option<i64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() || !words.len().is_multiple_of(2) {
        return None;
    }
    words.chunks(2).try_fold(0_i64, |sum, pair| {
        let [number, word] = pair else { return None };
        let number: i64 = number.parse().ok().filter(|number| *number >= 0)?;
        let unit = UNITS.iter().find(|(_, names)| names.contains(word))?.0;
        sum.checked_add(number.checked_mul(unit)?)
    })
}

/// The shortest text that `seconds` reads back.
pub fn duration(seconds: i64) -> String {
    let unit = UNITS.iter().find(|(length, _)| seconds != 0 && seconds % length == 0);
    let (length, names) = unit.unwrap_or(&UNITS[3]);
    format!("{} {}", seconds / length, names.first().copied().unwrap_or(""))
}

/// One thing that a statement does, as it is put to people and as it is compared: `relation:16400 drop table app.t`.
/// What is before the first space stands for the object alone.
pub fn item(class: ObjectClass, oid: u32, action: Action, name: &str, columns: &str) -> String {
    let class = match class {
        ObjectClass::Relation => "relation",
        ObjectClass::Function => "function",
        ObjectClass::Schema => "schema",
        ObjectClass::Role => "role",
        ObjectClass::Other => "other",
    };
    let columns = if columns.is_empty() { String::new() } else { format!("({columns})") };
    format!("{class}:{oid} {action} {name}{columns}").trim_end().to_owned()
}

/// The part of an item that stands for its object; the whole of it for what has no OID.
pub fn object_of(item: &str) -> &str {
    match item.split_once(' ') {
        Some((object, _)) if !object.ends_with(":0") => object,
        _ => item,
    }
}

/// Whether one of the approved items is about the same object. What has a class of its own is known by its OID.
pub fn covers(approved: &[String], item: &str) -> bool {
    let object = object_of(item);
    approved.iter().any(|one| object_of(one) == object)
}

/// Sorts items and drops those that stand twice, so that the order in which they were found makes no difference.
pub fn canonical(mut items: Vec<String>) -> Vec<String> {
    items.sort_unstable();
    items.dedup();
    items
}

/// Hashes what an approval is good for. Every part goes in with its length, so that no two lists of parts are alike.
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Of nothing yet.
    pub fn begin() -> Fingerprint {
        Fingerprint(Sha256::new()).with(b"agent_guard approval 1")
    }

    /// With one more part.
    pub fn with(mut self, part: &[u8]) -> Fingerprint {
        self.0.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.update(part);
        self
    }

    /// With a list of parts.
    pub fn with_list<T: AsRef<[u8]>>(self, parts: &[T]) -> Fingerprint {
        let count = u64::try_from(parts.len()).unwrap_or(u64::MAX).to_le_bytes();
        parts.iter().fold(self.with(&count), |sum, part| sum.with(part.as_ref()))
    }

    /// With a value that may be missing.
    pub fn with_optional(self, part: Option<&[u8]>) -> Fingerprint {
        match part {
            None => self.with(&[0]),
            Some(part) => self.with(&[1]).with(part),
        }
    }

    /// The hash.
    pub fn end(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// What was asked for in an earlier request, as far as it matters for a statement that comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The stored word.
    pub state: String,
    /// The end of the approval or of the rejection, in microseconds; `None` where nothing was decided.
    pub expires_at: Option<i64>,
    /// What was put to people.
    pub objects: Vec<String>,
    /// What of it only an earlier run had found.
    pub found: Vec<String>,
}

/// What a request means to the statement that it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing: it has to be asked for anew.
    Nothing,
    /// It is being decided.
    Pending,
    /// The statement may run once.
    Approved,
    /// Somebody said no.
    Rejected,
}

impl Known {
    /// What it means at the moment `now` for a statement that would touch `objects` (canonical).
    pub fn meaning(&self, now: i64, objects: &[String]) -> Meaning {
        // What an earlier run found may by now be known beforehand, and must not make a difference.
        let beforehand = |list: &[String]| -> Vec<String> {
            list.iter().filter(|item| !self.found.contains(item)).cloned().collect()
        };
        if beforehand(&self.objects) != beforehand(objects) {
            return Meaning::Nothing;
        }
        let lasts = self.expires_at.is_some_and(|end| now < end);
        match self.state.as_str() {
            "pending" => Meaning::Pending,
            "approved" if lasts => Meaning::Approved,
            "rejected" if lasts => Meaning::Rejected,
            _ => Meaning::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Kind, Verb};

    fn approval() -> Approval {
        Approval { approvers: vec!["dba".into()], approvals: 1, ttl: 600, granter: false, wait: None }
    }

    #[test]
    fn bad_approvals_name_the_part() {
        let path = |approval: Approval| approval.check().unwrap_err().path;
        assert_eq!(path(Approval { approvers: vec![], ..approval() }), "approvers");
        assert_eq!(path(Approval { approvals: 0, ..approval() }), "approvals");
        assert_eq!(path(Approval { approvals: 17, ..approval() }), "approvals");
        assert_eq!(path(Approval { ttl: 0, ..approval() }), "approval_ttl");
        assert_eq!(path(Approval { ttl: MAX_TTL + 1, ..approval() }), "approval_ttl");
        assert_eq!(path(Approval { wait: Some(-1), ..approval() }), "max_wait");
        assert_eq!(path(Approval { wait: Some(MAX_WAIT + 1), ..approval() }), "max_wait");
        for wait in [None, Some(0), Some(MAX_WAIT)] {
            assert_eq!(Approval { wait, ..approval() }.check(), Ok(()));
        }
    }

    #[test]
    fn durations_round_trip() {
        assert_eq!(seconds("10 min"), Some(600));
        assert_eq!(seconds("1 hour 30 minutes"), Some(5400));
        for text in ["", "10", "min 10", "-1 s", "1 fortnight", "9223372036854775807 days"] {
            assert_eq!(seconds(text), None, "{text}");
        }
        for number in [0, 1, 59, 60, 90, 3600, 86_400, 5400] {
            assert_eq!(seconds(&duration(number)), Some(number));
        }
        assert_eq!(duration(600), "10 minutes");
    }

    #[test]
    fn parts_cannot_be_moved_from_one_to_the_next() {
        let of = |parts: &[&str]| Fingerprint::begin().with_list(parts).end();
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["a"]), of(&["a", ""]));
        let optional = |part: Option<&[u8]>| Fingerprint::begin().with_optional(part).end();
        assert_ne!(optional(None), optional(Some(b"")));
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
    }

    #[test]
    fn an_object_is_known_by_its_oid_and_without_one_by_its_name() {
        let drop_table = Action::on(Verb::Drop, Kind::Table);
        let table = item(ObjectClass::Relation, 7, drop_table, "app.t", "");
        assert_eq!(table, "relation:7 drop table app.t");
        let altered = item(ObjectClass::Relation, 7, Action::on(Verb::Alter, Kind::Table), "app.t", "");
        assert!(covers(std::slice::from_ref(&table), &altered));
        assert!(!covers(&[table], &item(ObjectClass::Relation, 8, drop_table, "app.t", "")));
        let role = |name| item(ObjectClass::Other, 0, Action::plain(Verb::Role), name, "");
        assert!(covers(&[role("a")], &role("a")));
        assert!(!covers(&[role("a")], &role("b")));
    }

    #[test]
    fn a_request_means_something_only_for_its_objects_and_its_time() {
        let list = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        let known = |state: &str, expires_at| Known {
            state: state.to_owned(),
            expires_at,
            objects: list(&["a", "b"]),
            found: vec![],
        };
        let same = list(&["a", "b"]);
        assert_eq!(known("pending", None).meaning(5, &same), Meaning::Pending);
        assert_eq!(known("approved", Some(10)).meaning(5, &same), Meaning::Approved);
        assert_eq!(known("approved", Some(10)).meaning(10, &same), Meaning::Nothing);
        assert_eq!(known("approved", None).meaning(5, &same), Meaning::Nothing);
        assert_eq!(known("rejected", Some(10)).meaning(5, &same), Meaning::Rejected);
        assert_eq!(known("used", Some(10)).meaning(5, &same), Meaning::Nothing);
        assert_eq!(known("???", Some(10)).meaning(5, &same), Meaning::Nothing);
        for other in [list(&["a"]), list(&["a", "b", "c"]), list(&[])] {
            assert_eq!(known("approved", Some(10)).meaning(5, &other), Meaning::Nothing);
        }
        let later = Known { found: list(&["b"]), ..known("approved", Some(10)) };
        assert_eq!(later.meaning(5, &list(&["a"])), Meaning::Approved);
        assert_eq!(later.meaning(5, &same), Meaning::Approved);
        assert_eq!(later.meaning(5, &list(&["a", "c"])), Meaning::Nothing);
    }
}
