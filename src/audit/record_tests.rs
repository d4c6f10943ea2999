//! Tests of the event's bytes: round trip, bounds, and arbitrary bytes.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::audit::event::class_of_byte;
use crate::request::{Kind, ObjectClass, Verb};

/// Of the session and the window, the digest, the rule, the SQLSTATE.
type Ids = ([u8; 16], Option<[u8; 16]>, Option<[u8; 32]>, Option<i64>, Option<[u8; 5]>);

/// What an event is made of, owned.
#[derive(Clone, Debug)]
struct Made {
    kind: EventKind,
    decision: AuditDecision,
    decided_by: Option<Decider>,
    numbers: (i64, i32, u64, u16, i64, i64, i64, u64),
    ids: Ids,
    /// Role, client_addr, application_name, command.
    names: (String, String, String, String),
    message: String,
    statement: String,
    lineage: Vec<String>,
    parameters: Option<Vec<Option<String>>>,
    types: Vec<u32>,
    accesses: Vec<(AccessRecord<'static>, String, String)>,
}

impl Made {
    fn accesses(&self) -> Vec<AccessRecord<'_>> {
        self.accesses
            .iter()
            .map(|(access, name, columns)| AccessRecord { name, columns, ..*access })
            .collect()
    }

    fn event<'a>(&'a self, accesses: &'a [AccessRecord<'a>]) -> AuditEvent<'a> {
        AuditEvent {
            kind: self.kind,
            at: self.numbers.0,
            session_id: self.ids.0,
            window_id: self.ids.1,
            lineage: &self.lineage,
            role: &self.names.0,
            client_addr: &self.names.1,
            application_name: &self.names.2,
            pid: self.numbers.1,
            xid: self.numbers.2,
            level: self.numbers.3,
            command: &self.names.3,
            statement: &self.statement,
            statement_len: self.numbers.7,
            statement_sha256: self.ids.2,
            parameters: self.parameters.as_deref(),
            parameter_types: if self.parameters.is_some() { &self.types } else { &[] },
            accesses,
            decision: self.decision,
            rule_id: self.ids.3,
            rows: self.numbers.4,
            duration_us: self.numbers.5,
            sqlstate: self.ids.4,
            message: &self.message,
            policy_version: self.numbers.6,
            decided_by: self.decided_by,
            results: &[],
        }
    }
}

/// Whether an event read back is the one that was written; in words, which a failure shows.
fn told(back: &OwnedEvent) -> String {
    let list = |items: Vec<Option<&str>>| items.into_iter().map(|item| item.map(str::to_owned)).collect();
    let parameters: Option<Vec<Option<String>>> = back.parameters().map(|items| list(items.collect()));
    let lineage: Vec<String> = back.lineage().map(str::to_owned).collect();
    let accesses: Vec<AccessRecord> = back.accesses().collect();
    let event = AuditEvent {
        kind: back.kind,
        at: back.at,
        session_id: back.session_id,
        window_id: back.window_id,
        lineage: &lineage,
        role: back.role(),
        client_addr: back.client_addr(),
        application_name: back.application_name(),
        pid: back.pid,
        xid: back.xid,
        level: back.level,
        command: back.command(),
        statement: back.statement(),
        statement_len: back.statement_len,
        statement_sha256: back.statement_sha256,
        parameters: parameters.as_deref(),
        parameter_types: &back.parameter_types,
        accesses: &accesses,
        decision: back.decision,
        rule_id: back.rule_id,
        rows: back.rows,
        duration_us: back.duration_us,
        sqlstate: back.sqlstate,
        message: back.message(),
        policy_version: back.policy_version,
        decided_by: back.decided_by,
        results: &back.results,
    };
    format!("{event:?}")
}

prop_compose! {
    fn access()(
        verb in 0_u8..21, kind in option::of(0_u8..43), class in 0_u8..5, oid: u32,
        name in ".{0,40}", columns in ".{0,60}", decision in 0_u8..4, rule: Option<i64>,
    ) -> (AccessRecord<'static>, String, String) {
        let access = AccessRecord {
            verb: Verb::of_byte(verb).unwrap(),
            kind: kind.map(|byte| Kind::of_byte(byte).unwrap()),
            class: class_of_byte(class).unwrap(),
            oid,
            name: "",
            columns: "",
            decision: AuditDecision::of_byte(decision).unwrap(),
            rule,
        };
        (access, name, columns)
    }
}

prop_compose! {
    fn event(text: usize, many: usize)(
        (kind, decision) in (1_u8..6, 0_u8..4),
        decider in option::of(0_usize..9),
        numbers: (i64, i32, u64, u16, i64, i64, i64, u64),
        ids: Ids,
        names in (".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}"),
        message in vec(any::<char>(), 0..=text / 16),
        statement in vec(any::<char>(), 0..=text),
        lineage in vec(".{0,20}", 0..8),
        parameters in option::of(vec(option::of(".{0,40}"), 0..many)),
        types in vec(any::<u32>(), 0..many),
        accesses in vec(access(), 0..many),
    ) -> Made {
        Made {
            kind: EventKind::of_byte(kind).unwrap(),
            decision: AuditDecision::of_byte(decision).unwrap(),
            // The last one stands for the window.
            decided_by: decider.map(|index| if index == 8 { Decider::Window } else { Decider::Block(index) }),
            numbers, ids, names, lineage, parameters, types, accesses,
            message: message.into_iter().collect(),
            statement: statement.into_iter().collect(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_fits_comes_back_whole(made in event(200, 12)) {
        let accesses = made.accesses();
        let event = made.event(&accesses);
        let mut bytes = Vec::new();
        encode(&event, &mut bytes);
        let back = decode(&bytes).unwrap();
        prop_assert_eq!(told(&back), format!("{event:?}"));
        prop_assert!(!back.cut.parameters && !back.cut.accesses && !back.cut.other);
    }

    #[test]
    fn what_comes_again_reads_back_the_same(
        made in event(5_000, 12),
        (at, xid, rows, duration_us) in any::<(i64, u64, i64, i64)>(),
        numbers in vec(any::<(u32, Option<i64>)>(), 0..=Again::NUMBERS_MAX),
    ) {
        let accesses = made.accesses();
        let first = AuditEvent { sqlstate: None, statement_sha256: None, ..made.event(&accesses) };
        let types: Vec<_> = numbers.iter().map(|(type_oid, _)| *type_oid).collect();
        let texts: Vec<_> = numbers.iter().map(|(_, value)| value.map(|value| value.to_string())).collect();
        let parameters = (!texts.is_empty()).then_some(texts.as_slice());
        let event =
            AuditEvent { at, xid, rows, duration_us, parameters, parameter_types: &types, ..first };
        let numbers: Vec<_> =
            numbers.into_iter().map(|(type_oid, value)| Number { type_oid, value }).collect();
        let (known, mut bytes) = (Again::of(&first), Vec::new());
        let tail = known.put(&Turn { at, xid, rows, duration_us, parameters: &numbers }, &mut bytes);
        bytes.extend_from_slice(tail);
        let back = decode(&bytes).unwrap();
        prop_assert_eq!(told(&back), format!("{event:?}"));
        prop_assert!(!back.cut.parameters && !back.cut.accesses && !back.cut.other);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_says_so(made in event(6_000, 300), limit in 0_usize..70_000) {
        let accesses = made.accesses();
        let mut bytes = Vec::new();
        encode_within(&made.event(&accesses), limit, &mut bytes);
        prop_assert!(bytes.len() <= limit.clamp(MIN_EVENT, MAX_EVENT));
        let back = decode(&bytes).unwrap();
        prop_assert!(made.statement.starts_with(back.statement()));
        prop_assert!(back.statement().len() == made.statement.len() || back.statement_sha256.is_some());
        prop_assert_eq!(back.cut.accesses, back.accesses().len() < accesses.len());
        let whole = match (back.parameters(), &made.parameters) {
            (None, None) => true,
            (Some(items), Some(values)) => {
                items.eq(values.iter().map(Option::as_deref)) && back.parameter_types == made.types
            }
            _ => false,
        };
        prop_assert_eq!(back.cut.parameters, !whole);
        let told = made.parameters.as_deref().filter(|_| !whole).map(whole_list);
        prop_assert_eq!(back.cut.whole_parameters, told);
        prop_assert_eq!(back.session_id, made.ids.0);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn damaged_bytes_never_panic(made in event(100, 6), at in any::<prop::sample::Index>(), byte: u8) {
        let accesses = made.accesses();
        let mut bytes = Vec::new();
        encode(&made.event(&accesses), &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(back) = decode(&bytes) {
            let _ = told(&back);
        }
        prop_assert!(decode(&bytes[..at]).is_err());
    }
}

#[test]
fn a_part_of_a_result_is_whole_or_not_there() {
    let lineage = vec!["x".repeat(1000); 40];
    let part = vec![7; MAX_PART];
    let event = AuditEvent {
        lineage: &lineage,
        message: "{}",
        results: &part,
        ..AuditEvent::bare(EventKind::Results, 0, [0; 16])
    };
    let mut bytes = Vec::new();
    encode(&event, &mut bytes);
    assert!(bytes.len() <= MAX_EVENT, "{}", bytes.len());
    assert_eq!(decode(&bytes).unwrap().results, part);
    bytes.clear();
    encode_within(&event, MAX_EVENT, &mut bytes);
    assert_eq!(decode(&bytes).unwrap().results, part);
    bytes.clear();
    encode_within(&event, 2048, &mut bytes);
    let back = decode(&bytes).unwrap();
    assert!(bytes.len() <= 2048 && back.results.is_empty() && back.cut.other);
}

#[test]
fn the_largest_event_stays_within_its_bound() {
    let long = "x".repeat(100_000);
    let lineage = vec![long.clone(); 40];
    // More than can be counted, and longer than there is room for.
    let mut parameters = vec![Some("x".to_owned()); 70_000];
    parameters.push(Some(long.clone()));
    parameters.rotate_right(1);
    let types = vec![25; 70_000];
    let access = AccessRecord {
        verb: Verb::Select,
        kind: None,
        class: ObjectClass::Relation,
        oid: 1,
        name: &long,
        columns: &long,
        decision: AuditDecision::Allow,
        rule: Some(1),
    };
    let accesses = vec![access; 1000];
    let event = AuditEvent {
        lineage: &lineage,
        role: &long,
        client_addr: &long,
        application_name: &long,
        command: &long,
        statement: &long,
        message: &long,
        parameters: Some(&parameters),
        parameter_types: &types,
        accesses: &accesses,
        window_id: Some([1; 16]),
        rule_id: Some(1),
        sqlstate: Some(*b"42501"),
        ..AuditEvent::bare(EventKind::Statement, 0, [0; 16])
    };
    let mut bytes = Vec::new();
    encode(&event, &mut bytes);
    assert!(bytes.len() <= MAX_EVENT, "{}", bytes.len());
    let back = decode(&bytes).unwrap();
    assert!(back.cut.parameters && back.cut.accesses && back.cut.other);
    bytes.clear();
    encode_within(&event, 0, &mut bytes);
    assert!(bytes.len() <= MIN_EVENT, "{}", bytes.len());
    assert!(decode(&bytes).is_ok());
}
