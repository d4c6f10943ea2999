//! What a child may claim, what a chain leaves, and what is issued.

use super::*;

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
fn fresh_ids_read_as_random_uuids() {
    for _ in 0..64 {
        let [_, _, _, _, _, _, version, _, variant, ..] = fresh_id().unwrap();
        assert_eq!((version >> 4, variant >> 6), (4, 2));
    }
    assert_ne!(fresh_id().unwrap(), fresh_id().unwrap());
    assert_ne!(fresh_salt().unwrap(), fresh_salt().unwrap());
}
