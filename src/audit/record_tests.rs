//! Tests of the event's bytes: round trip, bounds, and arbitrary bytes.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::audit::event::class_of_byte;
use crate::request::{Kind, ObjectClass, Verb};

fn parts(event: &OwnedEvent) -> (Vec<AccessRecord<'_>>, Option<&[Option<String>]>) {
    let accesses = event
        .accesses
        .iter()
        .map(|access| AccessRecord {
            verb: access.verb,
            kind: access.kind,
            class: access.class,
            oid: access.oid,
            name: &access.name,
            columns: &access.columns,
            decision: access.decision,
            rule: access.rule,
        })
        .collect();
    (accesses, event.parameters.as_deref())
}

fn borrowed<'a>(
    event: &'a OwnedEvent,
    accesses: &'a [AccessRecord<'a>],
    parameters: Option<&'a [Option<String>]>,
) -> AuditEvent<'a> {
    AuditEvent {
        kind: event.kind,
        at: event.at,
        session_id: event.session_id,
        window_id: event.window_id,
        lineage: &event.lineage,
        role: &event.role,
        client_addr: &event.client_addr,
        application_name: &event.application_name,
        pid: event.pid,
        xid: event.xid,
        level: event.level,
        command: &event.command,
        statement: &event.statement,
        statement_len: event.statement_len,
        statement_sha256: event.statement_sha256,
        parameters,
        accesses,
        decision: event.decision,
        rule_id: event.rule_id,
        rows: event.rows,
        duration_us: event.duration_us,
        sqlstate: event.sqlstate,
        message: &event.message,
        policy_version: event.policy_version,
        decided_by: event.decided_by,
        results: &event.results,
    }
}

prop_compose! {
    fn access()(
        verb in 0_u8..21, kind in option::of(0_u8..43), class in 0_u8..5, oid: u32,
        name in ".{0,40}", columns in ".{0,60}", decision in 0_u8..4, rule: Option<i64>,
    ) -> OwnedAccess {
        OwnedAccess {
            verb: Verb::of_byte(verb).unwrap(),
            kind: kind.map(|byte| Kind::of_byte(byte).unwrap()),
            class: class_of_byte(class).unwrap(),
            oid, name, columns,
            decision: AuditDecision::of_byte(decision).unwrap(),
            rule,
        }
    }
}

prop_compose! {
    fn event(text: usize, many: usize)(
        (kind, decision) in (1_u8..6, 0_u8..4),
        decider in option::of(0_usize..9),
        numbers: (i64, i32, u64, u16, i64, i64, i64, u64),
        ids: ([u8; 16], Option<[u8; 16]>, Option<[u8; 32]>, Option<i64>, Option<[u8; 5]>),
        (role, client_addr, application_name, command) in (".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}"),
        message in vec(any::<char>(), 0..=text / 16),
        statement in vec(any::<char>(), 0..=text),
        lineage in vec(".{0,20}", 0..8),
        parameters in option::of(vec(option::of(".{0,40}"), 0..many)),
        accesses in vec(access(), 0..many),
    ) -> OwnedEvent {
        OwnedEvent {
            kind: EventKind::of_byte(kind).unwrap(),
            decision: AuditDecision::of_byte(decision).unwrap(),
            // The last one stands for the window.
            decided_by: decider.map(|index| if index == 8 { Decider::Window } else { Decider::Block(index) }),
            at: numbers.0, pid: numbers.1, xid: numbers.2, level: numbers.3, rows: numbers.4,
            duration_us: numbers.5, policy_version: numbers.6, statement_len: numbers.7,
            session_id: ids.0, window_id: ids.1, statement_sha256: ids.2, rule_id: ids.3, sqlstate: ids.4,
            role, client_addr, application_name, command, lineage, parameters, accesses,
            message: message.into_iter().collect(),
            statement: statement.into_iter().collect(),
            results: Vec::new(),
            cut: Cut::default(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_fits_comes_back_whole(event in event(200, 12)) {
        let (accesses, parameters) = parts(&event);
        let mut bytes = Vec::new();
        encode(&borrowed(&event, &accesses, parameters), &mut bytes);
        prop_assert_eq!(decode(&bytes), Ok(event));
    }

    #[test]
    fn a_known_tail_makes_the_same_bytes(event in event(5_000, 12)) {
        let (accesses, parameters) = parts(&event);
        let event = borrowed(&event, &accesses, parameters);
        let (mut whole, mut again) = (Vec::new(), Vec::new());
        encode(&event, &mut whole);
        encode_again(&event.head(), &Tail::of(&event), &mut again);
        prop_assert_eq!(whole, again);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_says_so(event in event(6_000, 300), limit in 0_usize..70_000) {
        let (accesses, parameters) = parts(&event);
        let mut bytes = Vec::new();
        encode_within(&borrowed(&event, &accesses, parameters), limit, &mut bytes);
        prop_assert!(bytes.len() <= limit.clamp(MIN_EVENT, MAX_EVENT));
        let back = decode(&bytes).unwrap();
        prop_assert!(event.statement.starts_with(&back.statement));
        prop_assert!(back.statement.len() == event.statement.len() || back.statement_sha256.is_some());
        prop_assert_eq!(back.cut.accesses, back.accesses.len() < event.accesses.len());
        prop_assert_eq!(back.cut.parameters, back.parameters != event.parameters);
        prop_assert_eq!(back.session_id, event.session_id);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn damaged_bytes_never_panic(event in event(100, 6), at in any::<prop::sample::Index>(), byte: u8) {
        let (accesses, parameters) = parts(&event);
        let mut bytes = Vec::new();
        encode(&borrowed(&event, &accesses, parameters), &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(&bytes);
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
    let parameters = vec![Some(long.clone()); 70_000];
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
