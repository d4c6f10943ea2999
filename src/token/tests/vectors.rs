//! The vectors of pg_test/vectors/token.json, which an independent program made.

use super::*;

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
