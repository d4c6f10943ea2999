//! The token as a whole: the vectors of pg_test/vectors/token.json, the attacks, and the properties of chains.

use std::net::IpAddr;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::Value;

use super::attenuate::{self, Scope};
use super::*;
use crate::refusal::{Refusal, SqlState};
use crate::request::{Form as Through, Verb};

const NOW: i64 = 1_790_000_000;
const WINDOW: WindowId = [7; 16];

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../pg_test/vectors/token.json")).unwrap()
}

fn bytes<const N: usize>(value: &Value) -> [u8; N] {
    let text = value.as_str().unwrap();
    std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
}

fn vector_key(key: &Value) -> WindowKey {
    window_key(
        &bytes(&key["master"]),
        key["sysid"].as_str().unwrap().parse().unwrap(),
        u32::try_from(key["dboid"].as_u64().unwrap()).unwrap(),
        &bytes(&key["window"]),
        &bytes(&key["salt"]),
    )
}

fn window() -> WindowFacts {
    WindowFacts {
        agent: "fleet".into(),
        policy: "reporting".into(),
        role: "agent_rw".into(),
        max_depth: 7,
        expires_at: NOW + 3600,
        require_proof: false,
        client_addr: None,
        revoked: false,
    }
}

fn here() -> Circumstance<'static> {
    Circumstance {
        now: NOW,
        role: "agent_rw",
        database: "prod",
        peer: Peer::Local,
        system_user: Some("oauth:alice"),
        proof_only: false,
        depth_ceiling: 7,
        is_revoked: &|_| false,
        utf8: true,
    }
}

fn key() -> WindowKey {
    WindowKey::from_bytes([9; 32])
}

fn claims(sub: &str) -> Claims {
    Claims::new(fresh_jti().unwrap(), sub, NOW + 600)
}

fn root(change: impl FnOnce(&mut Claims)) -> String {
    let mut root = claims("root");
    change(&mut root);
    mint(&key(), 1, &WINDOW, &root).unwrap()
}

fn child(parent: &str, change: impl FnOnce(&mut Claims)) -> Result<String, Refusal> {
    let mut child = claims("child");
    change(&mut child);
    derive(parent, &child)
}

fn authentic(text: &str) -> Result<AuthenticToken, Refusal> {
    PresentedToken::parse(text)?.authenticate(&key(), None)
}

fn activate(text: &str, window: &WindowFacts, here: &Circumstance<'_>) -> Result<ActiveToken, Refusal> {
    authentic(text)?.activate(window, here)
}

fn active(text: &str) -> ActiveToken {
    activate(text, &window(), &here()).unwrap()
}

/// The reason, and the detail that goes with it.
fn refused(outcome: Result<ActiveToken, Refusal>) -> (&'static str, String) {
    let refusal = outcome.map(|token| token.public_id()).unwrap_err();
    assert_eq!(refusal.sqlstate, SqlState::InvalidAuthorization);
    (refusal.reason, refusal.detail)
}

/// Signs whatever blocks are given, as a holder could who does not use our code.
fn signed(blocks: &[&str]) -> String {
    let head = wire::head(1, &WINDOW);
    let tag = blocks.iter().fold(mac::head_tag(&key(), &head), |tag, block| mac::block_tag(&tag, block));
    wire::join(Form::Bearer, &format!("{head}.{}", blocks.join(".")), &tag)
}

fn signed_json(json: &[u8]) -> String {
    signed(&[&URL_SAFE_NO_PAD.encode(json)])
}

#[test]
fn the_vectors_key_is_derived() {
    let vectors = vectors();
    let expected: [u8; 32] = bytes(&vectors["key"]["window_key"]);
    assert_eq!(vector_key(&vectors["key"]).bytes(), &expected);
}

#[test]
fn every_positive_vector_is_accepted() {
    let vectors = vectors();
    let key = vector_key(&vectors["key"]);
    for vector in vectors["accept"].as_array().unwrap() {
        let text = vector["text"].as_str().unwrap();
        let presented = PresentedToken::parse(text).unwrap();
        assert_eq!(presented.kid(), 1);
        assert_eq!(presented.window(), &bytes::<16>(&vectors["key"]["window"]));
        let ids: Vec<String> = presented.block_ids().iter().map(|id| hex(id)).collect();
        let expected: Vec<&str> =
            vector["block_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{}", vector["name"]);
        let token = presented.authenticate(&key, vector["challenge"].as_str()).unwrap();
        let public = token.public_text().to_owned();
        let token = token.activate(&window(), &here()).unwrap_or_else(|r| panic!("{} {r:?}", vector["name"]));
        assert_eq!(token.lineage().len(), ids.len() + 1);
        assert_eq!(token.public_id(), format!("agt1:00010203:{}", expected.last().unwrap()));
        assert!(text.contains(&public) && !public.contains(text.rsplit('.').next().unwrap()));
    }
}

#[test]
fn every_negative_vector_is_refused_with_its_reason() {
    let vectors = vectors();
    let key = vector_key(&vectors["key"]);
    let refuse = vectors["refuse"].as_array().unwrap();
    assert!(refuse.len() > 100);
    for vector in refuse {
        let text = vector["text"].as_str().unwrap();
        let outcome = PresentedToken::parse(text)
            .and_then(|token| token.authenticate(&key, vector["challenge"].as_str()))
            .and_then(|token| token.activate(&window(), &here()));
        let name = format!("{} {}", vector["attack"], vector["name"]);
        let refusal = outcome.map(|token| token.public_id()).expect_err(&name);
        assert_eq!(Some(refusal.reason), vector["reason"].as_str(), "{name}: {refusal:?}");
        assert_eq!(refusal.sqlstate, SqlState::InvalidAuthorization, "{name}");
        assert!(!refusal.hint.is_empty() && refusal.hint.ends_with('.'), "{name}");
        if refusal.reason == "token_refused" {
            assert_eq!(refusal, unknown_window(), "{name}");
        }
        if let Some(block) = vector["block"].as_u64() {
            assert!(refusal.detail.contains(&format!("block {block}")), "{name}: {refusal:?}");
        }
        if let Some(field) = vector["field"].as_str() {
            assert!(refusal.detail.contains(&format!("\"{field}\"")), "{name}: {refusal:?}");
        }
        // Nothing of the text's segments stands in what is shown.
        let shown = format!("{} {} {}", refusal.message, refusal.detail, refusal.hint);
        for segment in text.split('.').filter(|segment| segment.len() >= 12) {
            assert!(!shown.contains(segment.get(..12).unwrap_or(segment)), "{name}");
        }
    }
}

#[test]
fn our_tokens_are_byte_for_byte_those_of_the_vectors() {
    let vectors = vectors();
    let key = vector_key(&vectors["key"]);
    let text = |i: usize| vectors["accept"][i]["text"].as_str().unwrap();
    let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    let rel = |text: &str| Some(vec![RelationPattern::parse(text).unwrap()]);
    let mut root = Claims::new("AAAAAAAAAAAAAAAAAAAAAA", "planner", NOW + 3600);
    root.pol = names(&["reporting", "support"]);
    root.act = Some(vec![Act::Verb(Verb::Select), Act::Verb(Verb::Insert)]);
    root.rel = rel("app.*");
    root.rows = Some(100_000);
    root.role = Some("agent_rw".into());
    root.db = Some("prod".into());
    root.depth = Some(3);
    let minted = mint(&key, 1, &bytes(&vectors["key"]["window"]), &root).unwrap();
    assert_eq!(minted, text(0));
    let mut researcher = Claims::new("AQEBAQEBAQEBAQEBAQEBAQ", "researcher", NOW + 1800);
    researcher.pol = names(&["reporting"]);
    researcher.act = Some(vec![Act::Verb(Verb::Select)]);
    researcher.rows = Some(20_000);
    let derived = derive(&minted, &researcher).unwrap();
    assert_eq!(derived, text(1));
    let mut sql = Claims::new("AgICAgICAgICAgICAgICAg", "sql", NOW + 660);
    sql.rel = rel("app.orders");
    sql.uses = Some(1);
    let leaf = derive(&derived, &sql).unwrap();
    assert_eq!(leaf, text(2));
    let challenge = vectors["accept"][3]["challenge"].as_str().unwrap();
    assert_eq!(prove(&leaf, challenge).unwrap(), text(3));
}

#[test]
fn every_single_character_change_is_refused_alike() {
    let challenge = fresh_challenge().unwrap();
    let token = child(&root(|_| ()), |_| ()).unwrap();
    let proof = prove(&token, &challenge).unwrap();
    for text in [token, proof] {
        for at in 0..text.len() {
            for other in "AB9z_-.=+/ \n\0\u{e9}".chars() {
                let mut changed = text.clone();
                changed.replace_range(at..=at, &other.to_string());
                if changed == text {
                    continue;
                }
                let outcome = PresentedToken::parse(&changed)
                    .and_then(|token| token.authenticate(&key(), Some(&challenge)));
                assert_eq!(outcome.map(|_| ()).unwrap_err(), unknown_window(), "{at} {other:?}");
            }
        }
    }
}

#[test]
fn what_is_cut_off_or_put_in_is_refused() {
    let text = child(&root(|_| ()), |_| ()).unwrap();
    for at in 0..text.len() {
        assert!(authentic(&text[..at]).is_err());
        assert!(authentic(&text[at + 1..]).is_err());
        let mut longer = text.clone();
        longer.insert(at, 'A');
        assert!(authentic(&longer).is_err());
        longer.remove(at);
        longer.remove(at);
        assert!(authentic(&longer).is_err());
    }
}

#[test]
fn signed_json_that_is_not_strict_is_refused_by_block_and_key() {
    let base = "\"jti\":\"AAAAAAAAAAAAAAAAAAAAAA\",\"sub\":\"a\",\"exp\":1790000600";
    assert!(authentic(&signed_json(format!("{{{base}}}").as_bytes())).is_ok());
    for more in ["\"rows\":null", "\"rows\":1e3", "\"act\":[]", "\"sub\":\"b\"", "\"why\":\"\\u0000\""] {
        let refusal = authentic(&signed_json(format!("{{{base},{more}}}").as_bytes())).unwrap_err();
        let key: String = more.chars().skip(1).take_while(|c| *c != '"').collect();
        assert_eq!(refusal.reason, "caveat_malformed");
        assert!(refusal.detail.contains(&format!("block 0, field \"{key}\"")), "{refusal:?}");
    }
}

#[test]
fn a_strange_key_is_not_repeated_in_the_refusal() {
    let strange = "agt1.AAAAAQ SELECT; --";
    let json = format!("{{\"jti\":\"AAAAAAAAAAAAAAAAAAAAAA\",\"{strange}\":1}}");
    let refusal = authentic(&signed_json(json.as_bytes())).unwrap_err();
    assert_eq!(refusal.reason, "caveat_malformed");
    assert!(!refusal.full_detail().contains("SELECT"), "{refusal:?}");
}

#[test]
fn a_proof_needs_an_open_challenge() {
    let (challenge, other) = (fresh_challenge().unwrap(), fresh_challenge().unwrap());
    let proof = prove(&root(|_| ()), &challenge).unwrap();
    let against = |challenge: Option<&str>| {
        let outcome = PresentedToken::parse(&proof).unwrap().authenticate(&key(), challenge);
        outcome.map(|token| token.form()).map_err(|refusal| refusal.reason)
    };
    assert_eq!(against(Some(&challenge)), Ok(Form::Proof));
    assert_eq!(against(None), Err("proof_stale"));
    assert_eq!(against(Some("")), Err("proof_stale"));
    assert_eq!(against(Some("agc1.short")), Err("proof_stale"));
    assert_eq!(against(Some(&other)), Err("token_refused"));
}

#[test]
fn a_proof_can_neither_be_derived_from_nor_proved_again() {
    let challenge = fresh_challenge().unwrap();
    let proof = prove(&root(|_| ()), &challenge).unwrap();
    assert_eq!(derive(&proof, &claims("x")).unwrap_err().reason, "token_refused");
    assert_eq!(prove(&proof, &challenge).unwrap_err().reason, "token_refused");
    assert_eq!(prove(&root(|_| ()), "agc1.x").unwrap_err().reason, "proof_stale");
}

#[test]
fn an_unknown_window_reads_like_a_bad_signature() {
    let token = PresentedToken::parse(&root(|_| ())).unwrap();
    token.burn();
    let bad = token.authenticate(&WindowKey::from_bytes([8; 32]), None).unwrap_err();
    assert_eq!(bad, unknown_window());
    assert_eq!(PresentedToken::parse("nonsense").unwrap_err(), unknown_window());
}

#[test]
fn nothing_secret_is_printed() {
    let text = root(|_| ());
    let tag = text.rsplit('.').next().unwrap();
    let raw = format!("{:?}", &*URL_SAFE_NO_PAD.decode(tag).unwrap());
    let presented = PresentedToken::parse(&text).unwrap();
    let token = format!("{presented:?}");
    let authentic = presented.authenticate(&key(), None).unwrap();
    let printed =
        format!("{token} {authentic:?} {:?}", authentic.clone().activate(&window(), &here()).unwrap());
    assert!(!printed.contains(tag) && !printed.contains(raw.trim_matches(['[', ']'])));
}

#[test]
fn a_child_with_a_narrower_claim_is_accepted_and_a_wider_one_is_not() {
    type Change = fn(&mut Claims);
    let cases: [(&str, Change, Change, Change); 11] = [
        ("exp", |c| c.exp = NOW + 50, |c| c.exp = NOW + 50, |c| c.exp = NOW + 51),
        ("rows", |c| c.rows = Some(5), |c| c.rows = Some(5), |c| c.rows = Some(6)),
        ("bytes", |c| c.bytes = Some(5), |c| c.bytes = Some(4), |c| c.bytes = Some(6)),
        ("stmts", |c| c.stmts = Some(5), |c| c.stmts = Some(1), |c| c.stmts = Some(6)),
        ("uses", |c| c.uses = Some(5), |c| c.uses = Some(1), |c| c.uses = Some(6)),
        ("sess", |c| c.sess = Some(5), |c| c.sess = Some(1), |c| c.sess = Some(6)),
        ("role", |c| c.role = Some("a".into()), |c| c.role = Some("a".into()), |c| c.role = Some("A".into())),
        ("db", |c| c.db = Some("a".into()), |c| c.db = Some("a".into()), |c| c.db = Some("b".into())),
        (
            "auth",
            |c| c.auth = Some("a".into()),
            |c| c.auth = Some("a".into()),
            |c| c.auth = Some("a ".into()),
        ),
        ("depth", |c| c.depth = Some(2), |c| c.depth = Some(1), |c| c.depth = Some(2)),
        (
            "act",
            |c| c.act = Some(vec![Act::Merge, Act::Ddl]),
            |c| c.act = Some(vec![Act::Ddl]),
            |c| c.act = Some(vec![Act::Ddl, Act::Do]),
        ),
    ];
    for (field, parent, narrower, wider) in cases {
        let parent = root(parent);
        // A block between them that does not repeat the field changes nothing (but the depth).
        let short = |claims: &mut Claims| claims.exp = NOW + 50;
        let between = if field == "depth" { parent.clone() } else { child(&parent, short).unwrap() };
        let narrow = child(&between, |c| (c.exp = NOW + 50, narrower(c)).1).unwrap();
        assert!(authentic(&narrow).is_ok(), "{field}");
        let refusal = child(&between, |c| (c.exp = NOW + 50, wider(c)).1).unwrap_err();
        assert_eq!(refusal.reason, "wider_than_parent", "{field}");
        assert!(refusal.detail.contains(&format!("field \"{field}\"")), "{refusal:?}");
        assert!(refusal.hint.contains(field), "{refusal:?}");
    }
}

#[test]
fn the_eighth_derivation_is_refused() {
    let mut text = root(|_| ());
    for _ in 0..7 {
        text = child(&text, |_| ()).unwrap();
    }
    assert_eq!(active(&text).remaining_depth(), 0);
    assert_eq!(child(&text, |_| ()).unwrap_err().reason, "too_deep");
}

#[test]
fn depth_is_bounded_by_row_server_and_every_block() {
    let parent = root(|claims| claims.depth = Some(2));
    let text = child(&parent, |_| ()).unwrap();
    assert_eq!(active(&parent).remaining_depth(), 2);
    assert_eq!(active(&text).remaining_depth(), 1);
    let row = |max_depth| activate(&text, &WindowFacts { max_depth, ..window() }, &here());
    assert_eq!(row(1).unwrap().remaining_depth(), 0);
    assert_eq!(refused(row(0)).0, "too_deep");
    let server = |depth_ceiling| activate(&text, &window(), &Circumstance { depth_ceiling, ..here() });
    assert_eq!(server(255).unwrap().remaining_depth(), 1);
    assert_eq!(refused(server(0)).0, "too_deep");
    let stopped = child(&text, |claims| claims.depth = Some(0)).unwrap();
    let refusal = child(&stopped, |_| ()).unwrap_err();
    assert_eq!((refusal.reason, refusal.detail.contains("block 3")), ("too_deep", true));
}

#[test]
fn a_row_that_was_narrowed_after_issue_clips_silently() {
    let parent = root(|_| ());
    let text = child(&parent, |claims| claims.depth = Some(5)).unwrap();
    let token = activate(&text, &WindowFacts { max_depth: 2, ..window() }, &here()).unwrap();
    assert_eq!(token.remaining_depth(), 1);
}

#[test]
fn times_are_judged_to_the_second() {
    let text = child(&root(|c| c.nbf = Some(NOW)), |c| c.exp = NOW + 10).unwrap();
    let at = |now| activate(&text, &window(), &Circumstance { now, ..here() });
    assert!(at(NOW - 5).is_ok());
    assert!(at(NOW + 9).is_ok());
    assert_eq!(refused(at(NOW - 6)), ("not_yet_valid", "block 0, field \"nbf\": 6 s to go".into()));
    assert_eq!(refused(at(NOW + 10)), ("expired", "block 1, field \"exp\": 0 s ago".into()));
    assert_eq!(refused(at(i64::MAX)).0, "expired");
    assert_eq!(refused(at(i64::MIN)).0, "not_yet_valid");
    let row = activate(&text, &WindowFacts { expires_at: NOW, ..window() }, &here());
    assert_eq!(refused(row), ("expired", "the window, field \"expires_at\": 0 s ago".into()));
}

#[test]
fn revoking_any_block_or_the_window_ends_the_whole_subtree() {
    let parent = root(|_| ());
    let text = child(&child(&parent, |_| ()).unwrap(), |_| ()).unwrap();
    let ids = active(&text).block_ids().to_vec();
    for (index, id) in ids.iter().enumerate() {
        let is_revoked = |other: &BlockId| other == id;
        let outcome = activate(&text, &window(), &Circumstance { is_revoked: &is_revoked, ..here() });
        assert_eq!(refused(outcome), ("revoked", format!("block {index}, id {}", hex(id))));
        assert_eq!(active(&text).check_still(NOW, &is_revoked).unwrap_err().reason, "revoked");
        let parent = activate(&parent, &window(), &Circumstance { is_revoked: &is_revoked, ..here() });
        assert_eq!(parent.is_ok(), index > 0);
    }
    let outcome = activate(&text, &WindowFacts { revoked: true, ..window() }, &here());
    assert_eq!(refused(outcome), ("revoked", "the window".into()));
}

#[test]
fn a_planted_jti_does_not_take_over_another_blocks_id() {
    let parent = root(|_| ());
    let mut twin = claims("twin");
    let one = derive(&parent, &twin).unwrap();
    assert_eq!(active(&one).block_ids(), active(&derive(&parent, &twin).unwrap()).block_ids());
    twin.rows = Some(1);
    let other = derive(&parent, &twin).unwrap();
    assert_ne!(active(&one).block_ids().last(), active(&other).block_ids().last());
}

#[test]
fn a_token_holds_only_for_its_role_database_address_and_principal() {
    let text = root(|claims| {
        claims.role = Some("agent_rw".into());
        claims.db = Some("prod".into());
        claims.cidr = Some(vec![Network::Local, Network::parse("10.0.0.0/8").unwrap()]);
        claims.auth = Some("oauth:alice".into());
    });
    let outcome = |here: Circumstance<'_>| activate(&text, &window(), &here);
    assert!(outcome(here()).is_ok());
    assert_eq!(refused(outcome(Circumstance { role: "agent_RW", ..here() })).0, "wrong_role");
    assert_eq!(refused(outcome(Circumstance { database: "prod2", ..here() })).0, "wrong_database");
    assert_eq!(refused(outcome(Circumstance { system_user: None, ..here() })).0, "wrong_principal");
    assert_eq!(refused(outcome(Circumstance { system_user: Some(""), ..here() })).0, "wrong_principal");
    let peer = |text: &str| Peer::Ip(text.parse::<IpAddr>().unwrap());
    assert!(outcome(Circumstance { peer: peer("::ffff:10.1.1.1"), ..here() }).is_ok());
    let (reason, detail) = refused(outcome(Circumstance { peer: peer("11.0.0.1"), ..here() }));
    assert_eq!((reason, detail.as_str()), ("wrong_address", "block 0, field \"cidr\""));
}

#[test]
fn the_windows_row_binds_role_and_address_too() {
    let text = root(|_| ());
    let outcome = |window: WindowFacts| activate(&text, &window, &here());
    assert_eq!(refused(outcome(WindowFacts { role: "other".into(), ..window() })).0, "wrong_role");
    let from = |networks: Vec<Network>| WindowFacts { client_addr: Some(networks), ..window() };
    assert!(outcome(from(vec![Network::Local])).is_ok());
    assert_eq!(refused(outcome(from(vec![]))).0, "wrong_address");
    let (reason, detail) = refused(outcome(from(vec![Network::parse("::/0").unwrap()])));
    assert_eq!((reason, detail.as_str()), ("wrong_address", "the window, field \"client_addr\""));
}

#[test]
fn a_bearer_is_refused_where_server_row_or_any_block_asks_for_a_proof() {
    let open = root(|_| ());
    let pop = child(&root(|claims| claims.pop = true), |_| ()).unwrap();
    let strict = WindowFacts { require_proof: true, ..window() };
    assert_eq!(refused(activate(&pop, &window(), &here())).0, "bearer_not_allowed");
    assert_eq!(refused(activate(&open, &strict, &here())).0, "bearer_not_allowed");
    let proof_only = Circumstance { proof_only: true, ..here() };
    assert_eq!(refused(activate(&open, &window(), &proof_only)).0, "bearer_not_allowed");
    let challenge = fresh_challenge().unwrap();
    let proof = PresentedToken::parse(&prove(&pop, &challenge).unwrap()).unwrap();
    let proof = proof.authenticate(&key(), Some(&challenge)).unwrap();
    assert!(proof.activate(&strict, &proof_only).is_ok());
}

#[test]
fn a_block_that_asks_for_an_approval_is_refused() {
    let text = child(&root(|_| ()), |claims| claims.appr = Some(vec!["dba".into()])).unwrap();
    let (reason, detail) = refused(activate(&text, &window(), &here()));
    assert_eq!(reason, "approval_missing");
    assert!(detail.starts_with("block 1, field \"appr\", id "), "{detail}");
}

#[test]
fn names_beyond_ascii_need_a_utf8_database() {
    let text = child(&root(|_| ()), |claims| claims.why = Some("caf\u{e9}".into())).unwrap();
    assert!(activate(&text, &window(), &here()).is_ok());
    let (reason, detail) = refused(activate(&text, &window(), &Circumstance { utf8: false, ..here() }));
    assert_eq!(reason, "caveat_malformed");
    assert!(detail.starts_with("block 1, field \"why\""), "{detail}");
}

#[test]
fn a_policy_must_be_left_by_the_row_and_every_block() {
    let text = root(|claims| claims.pol = Some(vec!["reporting".into(), "support".into()]));
    let token = active(&text);
    assert!(token.allows_policy("reporting"));
    assert!(!token.allows_policy("support"));
    assert!(!token.allows_policy("Reporting"));
    let narrowed = child(&text, |claims| claims.pol = Some(vec!["support".into()])).unwrap();
    let (reason, detail) = refused(activate(&narrowed, &window(), &here()));
    assert_eq!(reason, "out_of_scope");
    assert!(detail.starts_with("block 1, field \"pol\""), "{detail}");
}

#[test]
fn permits_names_the_block_that_leaves_an_access_out() {
    let parent = root(|claims| claims.act = Some(vec![Act::Verb(Verb::Select), Act::CopyFrom, Act::Call]));
    let text = child(&parent, |claims| {
        claims.act = Some(vec![Act::Verb(Verb::Select), Act::CopyFrom]);
        claims.rel = Some(vec![RelationPattern::parse("app.ord*").unwrap()]);
    });
    let leaf = child(&text.unwrap(), |c| c.rel = Some(vec![RelationPattern::parse("*.*").unwrap()])).unwrap();
    let token = active(&leaf);
    let orders = Some(("app", "orders"));
    assert_eq!(token.permits(Verb::Select, Through::Plain, orders), Ok(()));
    assert_eq!(token.permits(Verb::Select, Through::Plain, None), Ok(()));
    assert_eq!(token.permits(Verb::Select, Through::Plain, Some(("app", "Orders"))), Err(1));
    assert_eq!(token.permits(Verb::Insert, Through::Copy, orders), Ok(()));
    assert_eq!(token.permits(Verb::Insert, Through::Plain, orders), Err(0));
    assert_eq!(token.permits(Verb::Execute, Through::Plain, None), Err(1));
    assert_eq!(active(&root(|_| ())).permits(Verb::System, Through::Do, None), Ok(()));
}

#[test]
fn limits_are_the_tightest_of_the_chain_with_their_block() {
    let parent = root(|claims| (claims.rows, claims.sess) = (Some(10), Some(2)));
    let text = child(&parent, |claims| (claims.rows, claims.uses) = (Some(10), Some(1))).unwrap();
    let text = child(&text, |claims| claims.rows = Some(3)).unwrap();
    let limits = *active(&text).limits();
    assert_eq!(limits.rows, Some(Bound { value: 3, block: 2 }));
    assert_eq!(limits.sess, Some(Bound { value: 2, block: 0 }));
    assert_eq!(limits.uses, Some(Bound { value: 1, block: 1 }));
    assert_eq!((limits.bytes, limits.stmts), (None, None));
    assert_eq!(active(&parent).limits().rows, Some(Bound { value: 10, block: 0 }));
}

#[test]
fn an_active_token_says_who_it_is_and_until_when() {
    let text =
        child(&root(|c| c.nbf = Some(NOW - 9)), |c| (c.exp, c.nbf) = (NOW + 60, Some(NOW - 99))).unwrap();
    let token = active(&text);
    assert_eq!(token.lineage(), ["fleet", "root", "child"]);
    assert_eq!(token.window(), &WINDOW);
    assert_eq!((token.kid(), token.block_ids().len()), (1, 2));
    assert_eq!(token.expires_at(), NOW + 60);
    assert_eq!(token.not_before(), Some(NOW - 9));
    let row = WindowFacts { expires_at: NOW + 5, ..window() };
    assert_eq!(activate(&text, &row, &here()).unwrap().expires_at(), NOW + 5);
    assert_eq!(token.public_id(), format!("agt1:07070707:{}", hex(&token.block_ids()[1])));
}

#[test]
fn a_token_in_force_is_checked_again_at_every_statement() {
    let text = child(&root(|_| ()), |c| (c.exp, c.nbf) = (NOW + 60, Some(NOW))).unwrap();
    let token = active(&text);
    assert_eq!(token.check_still(NOW + 59, &|_| false), Ok(()));
    assert_eq!(token.check_still(NOW + 60, &|_| false).unwrap_err().reason, "expired");
    assert_eq!(token.check_still(NOW - 6, &|_| false).unwrap_err().reason, "not_yet_valid");
    let token = activate(&text, &WindowFacts { expires_at: NOW + 1, ..window() }, &here()).unwrap();
    assert!(token.check_still(NOW + 1, &|_| false).unwrap_err().detail.starts_with("the window"));
}

#[test]
fn a_parallel_worker_rebuilds_what_its_leader_activated() {
    let pop = child(&root(|claims| claims.pop = true), |claims| claims.rows = Some(5)).unwrap();
    let challenge = fresh_challenge().unwrap();
    let proof = PresentedToken::parse(&prove(&pop, &challenge).unwrap()).unwrap();
    let leader = proof.authenticate(&key(), Some(&challenge)).unwrap().activate(&window(), &here()).unwrap();
    let worker = ActiveToken::from_public_text(leader.public_text(), &window(), &here()).unwrap();
    assert_eq!(worker.block_ids(), leader.block_ids());
    assert_eq!(worker.limits(), leader.limits());
    assert_eq!(worker.public_id(), leader.public_id());
    let late = Circumstance { now: NOW + 600, ..here() };
    assert_eq!(refused(ActiveToken::from_public_text(leader.public_text(), &window(), &late)).0, "expired");
    for text in ["", "x", &pop, &leader.public_id()] {
        assert_eq!(refused(ActiveToken::from_public_text(text, &window(), &here())).0, "token_refused");
    }
    // The public text is no token: nobody can present it, or derive from it.
    assert!(PresentedToken::parse(&format!("agt1.{}", leader.public_text())).is_err());
}

#[test]
fn the_server_delegates_what_the_holder_would_derive() {
    let parent = root(|_| ());
    let child = claims("child");
    let token = active(&parent);
    assert_eq!(token.delegate(&key(), &child), derive(&parent, &child));
    let stopped = activate(&parent, &WindowFacts { max_depth: 0, ..window() }, &here()).unwrap();
    assert_eq!(stopped.delegate(&key(), &child).unwrap_err().reason, "too_deep");
}

#[test]
fn what_cannot_be_read_back_is_not_issued() {
    let attempt = |change: fn(&mut Claims)| {
        let mut root = claims("root");
        change(&mut root);
        mint(&key(), 1, &WINDOW, &root).unwrap_err().reason
    };
    assert_eq!(attempt(|c| c.sub = "a b".into()), "caveat_malformed");
    assert_eq!(attempt(|c| c.jti = String::new()), "caveat_malformed");
    assert_eq!(attempt(|c| c.exp = -1), "caveat_malformed");
    assert_eq!(attempt(|c| c.rows = Some(0)), "caveat_malformed");
    assert_eq!(attempt(|c| c.rows = Some(1 << 53)), "caveat_malformed");
    assert_eq!(attempt(|c| c.act = Some(vec![])), "caveat_malformed");
    assert_eq!(attempt(|c| c.role = Some("a\0".into())), "caveat_malformed");
    assert_eq!(attempt(|c| c.pol = Some(vec!["a".into(), "a".into()])), "caveat_malformed");
    assert_eq!(attempt(|c| c.pol = Some((0..64).map(|i| format!("{i:0>40}")).collect())), "resource_limit");
    let long = |c: &mut Claims| c.pol = Some((0..16).map(|i| format!("{i:0>50}")).collect());
    let mut text = root(long);
    text = child(&text, long).unwrap();
    text = child(&text, long).unwrap();
    assert_eq!(child(&text, long).unwrap_err().reason, "resource_limit");
}

#[test]
fn jtis_and_challenges_are_never_the_same_twice() {
    assert_ne!(fresh_jti().unwrap(), fresh_jti().unwrap());
    assert_ne!(fresh_challenge().unwrap(), fresh_challenge().unwrap());
}

#[test]
fn verification_takes_microseconds() {
    let text = child(&child(&root(|_| ()), |_| ()).unwrap(), |_| ()).unwrap();
    let token = active(&text);
    let start = Instant::now();
    for _ in 0..200 {
        active(&text);
    }
    let handshake = start.elapsed() / 200;
    let start = Instant::now();
    let kept = (0..100_000_i64)
        .filter(|i| token.check_still(NOW + i % 7, &|_| false).is_ok())
        .filter(|_| std::hint::black_box(&token).permits(Verb::Select, Through::Plain, None).is_ok())
        .count();
    let statement = start.elapsed() / 100_000;
    assert_eq!(kept, 100_000);
    println!("handshake {handshake:?}, check_still and permits {statement:?}");
    // Far above what is measured even unoptimised: this catches a wrong order of growth, not a slow machine.
    assert!(handshake.as_millis() < 20 && statement.as_micros() < 100);
}

#[test]
fn no_mangled_token_panics_or_passes() {
    let seeds: Vec<String> = {
        let parent = root(|claims| claims.act = Some(Act::all().collect()));
        let text = child(&parent, |_| ()).unwrap();
        let proof = prove(&text, &fresh_challenge().unwrap()).unwrap();
        vec![parent, text, proof, "agt1.".into(), "agp1....".into()]
    };
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below.max(1)).unwrap()).unwrap()
    };
    let start = Instant::now();
    for _ in 0..30_000 {
        let mut text: Vec<char> = seeds[next(seeds.len())].chars().collect();
        for _ in 0..=next(4) {
            let (at, other) = (next(text.len()), next(text.len()));
            match next(5) {
                0 => text[at] = char::from(u8::try_from(next(256)).unwrap()),
                1 => text.insert(at, '.'),
                2 => drop(text.remove(at)),
                3 => text.swap(at, other),
                _ => text.extend_from_within(at.min(other)..at.max(other)),
            }
        }
        let text: String = text.into_iter().collect();
        if !seeds.contains(&text) {
            assert!(authentic(&text).is_err(), "{text}");
            assert!(derive(&text, &claims("x")).is_err() || text.starts_with("agt1."));
            let _ = ActiveToken::from_public_text(&text, &window(), &here());
        }
        if start.elapsed().as_secs() >= 2 {
            break;
        }
    }
}

fn any_relation() -> impl Strategy<Value = String> {
    "(a|ab|\\*|a\\*)\\.(x|xy|\\*|x\\*)"
}

fn any_claims() -> impl Strategy<Value = Claims> {
    let words: Vec<Act> = Act::all().collect();
    (
        prop::option::of(prop::sample::subsequence(words, 1..=12)),
        prop::option::of(prop::collection::btree_set(any_relation(), 1..4)),
        prop::option::of(1..20_u64),
        prop::option::of(0..=7_u8),
        prop::option::of(prop::sample::subsequence(vec!["reporting", "support", "x"], 1..=3)),
        NOW..NOW + 100,
        prop::option::of(NOW - 50..NOW + 50),
    )
        .prop_map(|(act, rel, rows, depth, pol, exp, nbf)| {
            let mut claims = Claims::new("AAAAAAAAAAAAAAAAAAAAAA", "a", exp);
            claims.act = act;
            claims.rel = rel.map(|rel| rel.iter().filter_map(|text| RelationPattern::parse(text)).collect());
            claims.rows = rows;
            claims.depth = depth;
            claims.pol = pol.map(|pol| pol.into_iter().map(str::to_owned).collect());
            claims.nbf = nbf;
            claims
        })
}

fn any_access() -> impl Strategy<Value = (Verb, Through, Option<(&'static str, &'static str)>)> {
    let forms = vec![Through::Plain, Through::Copy, Through::Merge, Through::Do];
    let relations = vec![None, Some(("a", "x")), Some(("ab", "xy")), Some(("b", "x")), Some(("a", "y"))];
    (prop::sample::select(Verb::ALL.to_vec()), prop::sample::select(forms), prop::sample::select(relations))
}

proptest! {
    /// Layer 1, without the lint: whatever a chain says, a longer one leaves no more.
    #[test]
    fn no_block_adds_anything(
        chain in prop::collection::vec(any_claims(), 2..8),
        accesses in prop::collection::vec(any_access(), 1..40),
    ) {
        for length in 1..chain.len() {
            let (parent, child) = (&chain[..length], &chain[..=length]);
            let (wide, narrow) = (Scope::of(parent), Scope::of(child));
            for (verb, form, relation) in &accesses {
                let allowed = narrow.permits(child, *verb, *form, *relation);
                if let Err(block) = wide.permits(parent, *verb, *form, *relation) {
                    prop_assert_eq!(allowed, Err(block));
                }
                // The scope is the conjunction of its blocks, each by itself.
                let each = child.iter().all(|claims| {
                    let alone = std::slice::from_ref(claims);
                    Scope::of(alone).permits(alone, *verb, *form, *relation).is_ok()
                });
                prop_assert_eq!(allowed.is_ok(), each);
            }
            prop_assert!(narrow.expires.0 <= wide.expires.0);
            prop_assert!(narrow.begins.map(|begin| begin.0) >= wide.begins.map(|begin| begin.0));
            if let Some(rows) = wide.limits.rows {
                prop_assert!(narrow.limits.rows.unwrap().value <= rows.value);
            }
            match (attenuate::remaining_depth(7, parent), attenuate::remaining_depth(7, child)) {
                (Ok(wide), Ok(narrow)) => prop_assert!(narrow < wide),
                (Err(_), narrow) => prop_assert!(narrow.is_err()),
                (Ok(_), Err(_)) => (),
            }
        }
    }

    /// The same through the whole path: what is derived and accepted leaves no more than its parent.
    #[test]
    fn a_derived_token_allows_no_more_than_its_parent(
        chain in prop::collection::vec(any_claims(), 1..6),
        accesses in prop::collection::vec(any_access(), 1..20),
    ) {
        let at = Circumstance { now: NOW - 1, ..here() };
        let mut text = mint(&key(), 1, &WINDOW, &chain[0]).unwrap();
        for claims in &chain[1..] {
            let Ok(derived) = derive(&text, claims) else {
                continue;
            };
            if let Ok(child) = activate(&derived, &window(), &at) {
                let parent = activate(&text, &window(), &at).unwrap();
                for (verb, form, relation) in &accesses {
                    prop_assert!(
                        child.permits(*verb, *form, *relation).is_err()
                            || parent.permits(*verb, *form, *relation).is_ok()
                    );
                }
                prop_assert!(child.expires_at() <= parent.expires_at());
                prop_assert!(child.remaining_depth() < parent.remaining_depth());
                prop_assert!(child.block_ids().starts_with(parent.block_ids()));
            }
            text = derived;
        }
    }

    #[test]
    fn claims_read_back_as_written(claims in any_claims()) {
        prop_assert_eq!(Claims::parse(claims.to_json().as_bytes()), Ok(claims));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = authentic(&text);
        let _ = ActiveToken::from_public_text(&text, &window(), &here());
        let _ = prove(&text, &text);
    }

    #[test]
    fn no_signed_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 1..300)) {
        prop_assert_eq!(authentic(&signed_json(&bytes)).unwrap_err().reason, "caveat_malformed");
    }

    #[test]
    fn no_signed_text_panics(block in "[A-Za-z0-9_=.-]{0,60}") {
        let _ = authentic(&signed(&[&block]));
    }
}
