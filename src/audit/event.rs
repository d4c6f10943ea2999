//! What one audit event holds, borrowed from whoever makes it; and the bounds that keep it small.
//!
//! An event has no sequence number and no database: both belong to the trail that takes it.

#![forbid(unsafe_code)]

use sha2::{Digest, Sha256};

use crate::audit::record::Head;
use crate::refusal::Decider;
use crate::request::{Kind, ObjectClass, Verb};

/// The most bytes that an encoded event takes.
pub const MAX_EVENT: usize = 64 * 1024;
/// The most bytes of a statement's text that an event carries; the rest is told by length and SHA-256.
pub const MAX_STATEMENT: usize = 32 * 1024;

macro_rules! bytes_and_words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $byte:literal, $word:expr;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $byte),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The value of a stored byte; `None` for a byte that none has.
            pub fn of_byte(byte: u8) -> Option<$name> {
                match byte { $($byte => Some($name::$variant),)+ _ => None }
            }

            /// The word in the trail; `None` where the trail shows NULL.
            pub fn word(self) -> Option<&'static str> {
                match self { $($name::$variant => $word),+ }
            }
        }
    };
}

bytes_and_words! {
    /// What happened. The bytes are stored in journals: a new kind takes a new byte.
    EventKind {
        /// A statement ended: run, failed or denied.
        Statement = 1, Some("statement");
        /// A token was bound to the session.
        Bind = 2, Some("bind");
        /// The session lost its token.
        Unbind = 3, Some("unbind");
        /// A token was refused.
        HandshakeRefused = 4, Some("handshake_refused");
        /// The trail itself has something to tell: an event that could not be stored as it was.
        Fault = 5, Some("fault");
        /// Rows of a statement are about to leave before it has ended.
        Begun = 6, Some("begun");
        /// A statement was put to approval; the request itself is the one parameter.
        ApprovalRequest = 16, Some("approval_request");
        /// Somebody decided on a request, or an agent used an approval.
        Approval = 17, Some("approval");
        /// A hash chain begins, because nothing of an earlier one is at hand.
        ChainBegin = 32, Some("chain_begin");
        /// Rows of a statement as they left for the client, or how many there were.
        Results = 64, Some("results");
        /// A piece of a statement's text that is too long for the statement's own event.
        Text = 65, Some("text");
        /// Somebody administered agent_guard: a policy, a role, a window, a key.
        Admin = 48, Some("admin");
    }
}

bytes_and_words! {
    /// What was decided.
    AuditDecision {
        /// Nothing was to be decided.
        None = 0, None;
        /// It ran.
        Allow = 1, Some("allow");
        /// It was refused.
        Deny = 2, Some("deny");
        /// It ran, but would have been refused if the policy were enforced.
        Observe = 3, Some("observe");
        /// It was held for approval.
        Approve = 4, Some("approve");
    }
}

/// One access of the statement, as decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessRecord<'a> {
    /// What is done.
    pub verb: Verb,
    /// For DDL: to what kind of object.
    pub kind: Option<Kind>,
    /// The class of the object.
    pub class: ObjectClass,
    /// The object's OID; 0 where it has none yet.
    pub oid: u32,
    /// The object's qualified name; empty where there is no object.
    pub name: &'a str,
    /// The columns as they are to be shown; empty for none in particular.
    pub columns: &'a str,
    /// What was decided on this access.
    pub decision: AuditDecision,
    /// The rule that decided.
    pub rule: Option<i64>,
}

/// One event, borrowed. Texts longer than their caps are cut by the encoding, never refused.
#[derive(Clone, Copy, Debug)]
pub struct AuditEvent<'a> {
    /// What happened.
    pub kind: EventKind,
    /// When it began: microseconds since the Unix epoch.
    pub at: i64,
    /// The session.
    pub session_id: [u8; 16],
    /// The window, where a token was bound.
    pub window_id: Option<[u8; 16]>,
    /// The agent names along the token's chain.
    pub lineage: &'a [String],
    /// The session's login role.
    pub role: &'a str,
    /// The client's address, or `[local]`.
    pub client_addr: &'a str,
    /// The client's application_name.
    pub application_name: &'a str,
    /// The backend's process id.
    pub pid: i32,
    /// The innermost transaction's full id; 0 where it has none.
    pub xid: u64,
    /// The nesting level: 0 for what the client sent.
    pub level: u16,
    /// The command tag.
    pub command: &'a str,
    /// The statement's text, possibly cut by `bounded_text`.
    pub statement: &'a str,
    /// The length of the whole text in bytes.
    pub statement_len: u64,
    /// SHA-256 of the whole text; only where `statement` is cut.
    pub statement_sha256: Option<[u8; 32]>,
    /// The values of the statement's parameters; `None` inside for NULL.
    pub parameters: Option<&'a [Option<String>]>,
    /// The types of these parameters, by their OIDs.
    pub parameter_types: &'a [u32],
    /// What the statement needed.
    pub accesses: &'a [AccessRecord<'a>],
    /// What was decided.
    pub decision: AuditDecision,
    /// The rule that decided.
    pub rule_id: Option<i64>,
    /// Rows returned or changed; negative where there is no such number.
    pub rows: i64,
    /// How long it took, in microseconds; negative where that is not known.
    pub duration_us: i64,
    /// The SQLSTATE of a failure.
    pub sqlstate: Option<[u8; 5]>,
    /// The message of a failure.
    pub message: &'a str,
    /// The version of the policy that decided; 0 for none.
    pub policy_version: i64,
    /// Which part of the token decided, where it was the token that did.
    pub decided_by: Option<Decider>,
    /// A part of a result, as `results` lays it out; only of the kind `Results`.
    pub results: &'a [u8],
}

impl<'a> AuditEvent<'a> {
    /// An event with only a kind, a time and a session; the rest is empty, for struct update syntax.
    pub fn bare(kind: EventKind, at: i64, session_id: [u8; 16]) -> AuditEvent<'a> {
        AuditEvent {
            kind,
            at,
            session_id,
            window_id: None,
            lineage: &[],
            role: "",
            client_addr: "",
            application_name: "",
            pid: 0,
            xid: 0,
            level: 0,
            command: "",
            statement: "",
            statement_len: 0,
            statement_sha256: None,
            parameters: None,
            parameter_types: &[],
            accesses: &[],
            decision: AuditDecision::None,
            rule_id: None,
            rows: -1,
            duration_us: -1,
            sqlstate: None,
            message: "",
            policy_version: 0,
            decided_by: None,
            results: &[],
        }
    }

    /// What differs from one run of the statement to the next.
    pub fn head(&self) -> Head<'a> {
        Head {
            kind: self.kind,
            decision: self.decision,
            decided_by: self.decided_by,
            at: self.at,
            pid: self.pid,
            xid: self.xid,
            level: self.level,
            rows: self.rows,
            duration_us: self.duration_us,
            policy_version: self.policy_version,
            statement_len: self.statement_len,
            rule_id: self.rule_id,
            sqlstate: self.sqlstate,
            statement_sha256: self.statement_sha256,
            parameters: self.parameters,
            parameter_types: self.parameter_types,
        }
    }
}

/// A text within its bound, and what is needed to recognise the whole of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundedText<'a> {
    /// The beginning, at most `MAX_STATEMENT` bytes.
    pub text: &'a str,
    /// The length of the whole in bytes.
    pub full_len: u64,
    /// SHA-256 of the whole, where `text` is not the whole.
    pub sha256: Option<[u8; 32]>,
}

/// Bounds a statement's text. Only a text that is cut is hashed: an ordinary statement costs nothing.
pub fn bounded_text(text: &str) -> BoundedText<'_> {
    let kept = prefix(text, MAX_STATEMENT);
    BoundedText {
        text: kept,
        full_len: length(text),
        sha256: (kept.len() < text.len()).then(|| Sha256::digest(text.as_bytes()).into()),
    }
}

/// A text in pieces that an event carries each, cut between characters.
pub fn text_pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let piece = prefix(rest, MAX_STATEMENT);
        rest = rest.get(piece.len()..).unwrap_or("");
        (!piece.is_empty()).then_some(piece)
    })
}

/// The longest beginning of `text` that is at most `limit` bytes and ends between two characters.
pub fn prefix(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    // A character has at most four bytes, so one of these four is a boundary.
    let end = (limit.saturating_sub(3)..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or("")
}

/// The length of a text as it is stored.
pub fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

/// The length and SHA-256 of a whole list of parameters, for where it is cut: of the JSON array that PostgreSQL's
/// `array_to_json(text[])` writes, so that whoever knows the values can compute both. Nothing of it is copied: values may be large.
pub fn whole_list(parameters: &[Option<String>]) -> (u64, [u8; 32]) {
    let (mut length, mut digest) = (0_u64, Sha256::new());
    let mut put = |bytes: &[u8]| {
        length = length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        digest.update(bytes);
    };
    put(b"[");
    for (n, value) in parameters.iter().enumerate() {
        put(if n == 0 { b"" } else { b"," });
        match value {
            None => put(b"null"),
            Some(value) => json_text(value, &mut put),
        }
    }
    put(b"]");
    (length, digest.finalize().into())
}

/// As escape_json of the server's (src/backend/utils/adt/json.c).
fn json_text(text: &str, put: &mut impl FnMut(&[u8])) {
    put(b"\"");
    let special = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
    for run in text.as_bytes().split_inclusive(special) {
        let Some((last, plain)) = run.split_last().filter(|(last, _)| special(last)) else {
            put(run);
            continue;
        };
        put(plain);
        match last {
            8 => put(b"\\b"),
            12 => put(b"\\f"),
            b'\n' => put(b"\\n"),
            b'\r' => put(b"\\r"),
            b'\t' => put(b"\\t"),
            b'"' | b'\\' => put(&[b'\\', *last]),
            control => put(format!("\\u{control:04x}").as_bytes()),
        }
    }
    put(b"\"");
}

/// The object class of a stored byte.
pub fn class_of_byte(byte: u8) -> Option<ObjectClass> {
    [ObjectClass::Relation, ObjectClass::Function, ObjectClass::Schema, ObjectClass::Role, ObjectClass::Other]
        .into_iter()
        .find(|class| *class as u8 == byte)
}

/// The word of an object class in the trail.
pub fn class_word(class: ObjectClass) -> &'static str {
    match class {
        ObjectClass::Relation => "relation",
        ObjectClass::Function => "function",
        ObjectClass::Schema => "schema",
        ObjectClass::Role => "role",
        ObjectClass::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::of_byte(*kind as u8), Some(*kind));
        }
        for decision in AuditDecision::ALL {
            assert_eq!(AuditDecision::of_byte(*decision as u8), Some(*decision));
        }
        assert_eq!(EventKind::of_byte(0), None);
        assert_eq!(AuditDecision::of_byte(9), None);
        for byte in 0..5 {
            assert_eq!(class_of_byte(byte).map(|class| class as u8), Some(byte));
        }
        assert_eq!(class_of_byte(5), None);
    }

    #[test]
    fn a_short_text_is_neither_cut_nor_hashed() {
        let bounded = bounded_text("select 1");
        assert_eq!(bounded, BoundedText { text: "select 1", full_len: 8, sha256: None });
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_hashed_whole() {
        let whole = "\u{20ac}".repeat(20_000);
        let bounded = bounded_text(&whole);
        assert_eq!(bounded.full_len, 60_000);
        assert_eq!(bounded.text.len(), MAX_STATEMENT - MAX_STATEMENT % 3);
        assert_eq!(bounded.sha256, Some(Sha256::digest(whole.as_bytes()).into()));
    }

    #[test]
    fn pieces_are_the_whole_text() {
        for text in
            ["", "a", &"\u{20ac}".repeat(40_000), &"x".repeat(MAX_STATEMENT), &"x".repeat(MAX_STATEMENT + 1)]
        {
            let pieces: Vec<_> = text_pieces(text).collect();
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= MAX_STATEMENT));
        }
    }

    #[test]
    fn a_whole_list_is_written_as_the_server_writes_it() {
        let text = |text: &str| Some(text.to_owned());
        let list = [
            text("a\"b\\c"),
            None,
            text("\u{8}\u{c}\n\r\t\u{1}\u{1f}\u{7f}"),
            text("\u{e9}\u{20ac}"),
            text(""),
        ];
        // select array_to_json(array['a"b\c', null, E'\b\f\n\r\t\x01\x1f\x7f', 'é€', ''])
        let json = "[\"a\\\"b\\\\c\",null,\"\\b\\f\\n\\r\\t\\u0001\\u001f\u{7f}\",\"\u{e9}\u{20ac}\",\"\"]";
        assert_eq!(whole_list(&list), (length(json), Sha256::digest(json).into()));
        assert_eq!(whole_list(&[]), (2, Sha256::digest("[]").into()));
    }

    #[test]
    fn a_prefix_is_never_longer_than_its_limit() {
        for limit in 0..12 {
            let cut = prefix("a\u{e9}\u{20ac}\u{1f600}z", limit);
            assert!(cut.len() <= limit);
            assert!("a\u{e9}\u{20ac}\u{1f600}z".starts_with(cut));
        }
        assert_eq!(prefix("\u{1f600}", 3), "");
    }
}
