//! Where and when a token holds: time, revocation, role, client, form; and later, statement by statement.

use super::*;

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
fn a_one_time_token_takes_the_place_of_a_proof_at_connect_alone() {
    let connect = Circumstance { proof_only: true, at_connect: true, ..here() };
    let set = Circumstance { proof_only: true, ..here() };
    let token =
        |uses, life| child(&root(|_| ()), |claims| (claims.uses, claims.exp) = (uses, NOW + life)).unwrap();
    assert!(activate(&token(Some(1), 120), &window(), &connect).is_ok());
    assert_eq!(refused(activate(&token(Some(1), 120), &window(), &set)).0, "bearer_not_allowed");
    assert_eq!(refused(activate(&token(Some(1), 121), &window(), &connect)).0, "bearer_not_allowed");
    assert_eq!(refused(activate(&token(Some(2), 60), &window(), &connect)).0, "bearer_not_allowed");
    assert_eq!(refused(activate(&token(None, 60), &window(), &connect)).0, "bearer_not_allowed");
    // Whoever asks for a proof in particular gets no less.
    let strict = WindowFacts { require_proof: true, ..window() };
    assert_eq!(refused(activate(&token(Some(1), 60), &strict, &connect)).0, "bearer_not_allowed");
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
