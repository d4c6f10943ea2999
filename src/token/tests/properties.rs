//! Properties of random chains, and that nothing panics.

use super::*;

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
