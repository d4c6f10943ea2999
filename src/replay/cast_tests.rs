//! The recording is read back by the format's rules, and by a terminal that knows nothing but plain text and colours.

use proptest::prelude::*;
use serde_json::Value;

use super::super::event::Access;
use super::*;

const SHOP: Cast<'_> = Cast { title: "a session", database: "shop", max_pause: 2_000_000 };

fn statement(seq: i64, command: &str, text: &str) -> Event {
    Event {
        seq,
        at: seq * 1_000_000,
        duration: Some(1500),
        event: "statement".into(),
        command: Some(command.into()),
        statement: Some(text.into()),
        decision: Some("allow".into()),
        ..Event::default()
    }
}

/// Header and (time, output) lines, checked against the format.
fn parse(cast: &str) -> (Value, Vec<(f64, String)>) {
    let mut lines = cast.lines();
    let header: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(header["version"], 2);
    assert!(header["width"].as_u64().unwrap() > 0 && header["height"].as_u64().unwrap() > 0);
    let mut last = 0.0;
    let events = lines.map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let [time, kind, data] = line.as_array().unwrap().as_slice() else { panic!("{line}") };
        let time = time.as_f64().unwrap();
        assert!(time >= last, "time goes back");
        last = time;
        assert_eq!(kind, "o");
        (time, data.as_str().unwrap().to_owned())
    });
    (header, events.collect())
}

fn screen(cast: &str) -> String {
    let output: String = parse(cast).1.into_iter().map(|(_, data)| data).collect();
    let mut plain = String::new();
    let mut rest = output.as_str();
    while let Some(at) = rest.find('\x1b') {
        plain.push_str(&rest[..at]);
        let end = rest[at..].find('m').unwrap() + at;
        let sequence = &rest[at..=end];
        assert!([RED, YELLOW, GREEN, DIM, INVERSE, NOT_INVERSE, RESET].contains(&sequence), "{sequence:?}");
        rest = &rest[end + 1..];
    }
    plain + rest
}

#[test]
fn a_session_reads_as_typed_in_psql() {
    let denied = Event {
        decision: Some("deny".into()),
        sqlstate: Some("42501".into()),
        message: Some("no rule allows delete on shop.orders".into()),
        accesses: Some(vec![Access {
            action: "delete".into(),
            object: Some("shop.orders".into()),
            decision: Some("deny".into()),
            ..Access::default()
        }]),
        ..statement(3, "DELETE", "delete from shop.orders")
    };
    let events = [
        statement(1, "BEGIN", "begin;"),
        Event {
            rows: Some(2),
            parameters: Some(vec![Some("it's".into()), None]),
            xid: Some("7".into()),
            xact: Some("aborted".into()),
            ..statement(2, "UPDATE", "update shop.orders\n   set status = $1 where id = $2")
        },
        denied,
        statement(4, "ROLLBACK", "rollback"),
        Event { rows: Some(1), ..statement(5, "SELECT", "select 1") },
    ];
    let expected = "shop=> begin;\r
BEGIN\r
Time: 1.500 ms\r
shop=*> update shop.orders\r
shop-*>    set status = $1 where id = $2 \\bind 'it''s' NULL \\g\r
UPDATE 2\r
Time: 1.500 ms -- rolled back later\r
shop=*> delete from shop.orders;\r
ERROR:  42501: no rule allows delete on shop.orders\r
DETAIL:  delete shop.orders, no rule allows it\r
Time: 1.500 ms\r
shop=!> rollback;\r
ROLLBACK\r
Time: 1.500 ms\r
shop=> select 1;\r
(1 row)\r
Time: 1.500 ms\r
-- end of the recording\r
";
    assert_eq!(screen(&asciicast(&events, SHOP)), expected);
}

#[test]
fn statements_of_a_function_stand_below_it() {
    let inner = Event {
        level: 1,
        at: 2_000_500,
        duration: Some(10),
        ..statement(1, "INSERT", "insert into log\nvalues (1)")
    };
    let outer = Event { at: 2_000_000, rows: Some(1), ..statement(2, "SELECT", "select f()") };
    let screen = screen(&asciicast(&[Event { rows: Some(1), ..inner }, outer], SHOP));
    assert!(
        screen.starts_with(
            "shop=> select f();\r\n  -> insert into log\r\n     values (1)\r\n     INSERT 0 1\r\n(1 row)\r\n"
        ),
        "{screen}"
    );
}

#[test]
fn long_pauses_are_cut() {
    let mut events = [statement(1, "SELECT", "select 1"), statement(2, "SELECT", "select 2")];
    events[1].at += 3_600_000_000;
    let (_, lines) = parse(&asciicast(&events, SHOP));
    assert!(lines.last().unwrap().0 < 7.0, "{lines:?}");
}

#[test]
fn a_savepoint_keeps_the_block_open() {
    for text in
        ["rollback to a", "ROLLBACK WORK TO SAVEPOINT a", "rollback/* to */ transaction -- x\n to \"a\""]
    {
        assert!(rolls_back_to_a_savepoint(text), "{text}");
    }
    for text in
        ["rollback", "rollback work", "rollback /* to a */", "rollback -- to a", "", "abort and chain"]
    {
        assert!(!rolls_back_to_a_savepoint(text), "{text}");
    }
}

#[test]
fn an_empty_session_is_a_recording_too() {
    assert_eq!(screen(&asciicast(&[], SHOP)), "-- end of the recording\r\n");
}

fn hostile() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("\u{1b}[2J".to_owned()),
        Just("\u{1b}]0;title\u{7}".to_owned()),
        Just("\u{9b}31m".to_owned()),
        Just("\r\n\u{8}".to_owned()),
        Just("\u{202e}\u{2028}".to_owned()),
        Just("]\n[0,\"o\",\"x\"".to_owned()),
        "(?s).{0,6}",
    ];
    proptest::collection::vec(pieces, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_drives_the_terminal(
        texts in proptest::collection::vec(hostile(), 7),
        level in 0_i64..2,
    ) {
        let [text, command, message, object, parameter, title, database] = texts.try_into().unwrap();
        let events = [
            Event {
                sqlstate: Some("42501".into()),
                message: Some(message.clone()),
                decision: Some("deny".into()),
                parameters: Some(vec![Some(parameter)]),
                accesses: Some(vec![Access {
                    action: command.clone(),
                    object: Some(object),
                    decision: Some("deny".into()),
                    ..Access::default()
                }]),
                ..statement(1, &command, &text)
            },
            Event { level, ..statement(2, &command, &text) },
            Event { event: "bind".into(), message: Some(message), ..statement(3, &command, "") },
        ];
        let cast = asciicast(&events, Cast { title: &title, database: &database, ..SHOP });
        prop_assert!(cast.is_ascii());
        // `screen` takes only this module's own sequences; nothing else that steers is left.
        let left = screen(&cast).replace("\r\n", "");
        prop_assert!(!left.chars().any(visible::is_hidden), "{:?}", left);
        let (header, _) = parse(&cast);
        prop_assert_eq!(header["title"].as_str(), Some(title.as_str()));
    }
}
