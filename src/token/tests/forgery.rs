//! What holders and strangers make of a text: forged, mangled, presented elsewhere, printed.

use super::*;

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

/// The comparison takes as long for a tag that is wrong in its first byte as for one that is wrong in its last, and an unknown
/// window as long as a wrong tag. Interleaved, by the lower quartile, so that a busy machine changes all alike; three tries.
#[test]
fn how_long_a_refusal_takes_tells_nothing() {
    let text = root(|_| ());
    let (body, tag) = text.rsplit_once('.').unwrap();
    let right = wire::decode(tag).unwrap();
    let wrong = |at: usize| {
        let mut tag = right.clone();
        tag[at] ^= 1;
        format!("{body}.{}", wire::encode(&tag))
    };
    let (first, last) = (wrong(0), wrong(31));
    let time = |text: &str, work: &dyn Fn(PresentedToken)| {
        let token = PresentedToken::parse(text).unwrap();
        let began = std::time::Instant::now();
        work(token);
        u64::try_from(began.elapsed().as_nanos()).unwrap()
    };
    let quartile = |times: &mut Vec<u64>| {
        times.sort_unstable();
        times[times.len() / 4]
    };
    let differs = || {
        let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..4_000 {
            // As the server does: the window's key is derived from its row first.
            let refused = |token: PresentedToken| {
                let key = window_key(&[1; 32], 2, 3, token.window(), &[4; 16]);
                assert!(token.authenticate(&key, None).is_err());
            };
            a.push(time(&first, &refused));
            b.push(time(&last, &refused));
            c.push(time(&last, &|token| token.burn()));
        }
        let (a, b, c) = (quartile(&mut a), quartile(&mut b), quartile(&mut c));
        let apart = |x: u64, y: u64| x.abs_diff(y) * 100 / x.max(y);
        // A byte-wise comparison differs by less than the noise of one call; the mean of many is what an attacker has.
        (apart(a, b) > 3 || apart(b, c) > 25)
            .then(|| format!("first {a} ns, last {b} ns, unknown window {c} ns"))
    };
    let tries: Vec<_> = (0..3).map_while(|_| differs()).collect();
    assert!(tries.len() < 3, "{tries:?}");
}
