//! Containment: for random chains, windows, sessions and accesses, what a child may do its parent may do too, and both
//! are what a model says that reads the specification block by block.
//!
//! Chains are judged here without the lint as well, so that the guarantee is seen not to rest on it.

use std::collections::BTreeMap;

use proptest::collection::{btree_set, vec};
use proptest::option::weighted;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::token::circumstance::check;
use crate::token::verify::Blocks;

/// What somebody wants to do: where, by which form, and how much has been used up before.
#[derive(Clone, Debug)]
struct Attempt {
    window: WindowFacts,
    now: i64,
    role: &'static str,
    database: &'static str,
    peer: Peer,
    system_user: Option<&'static str>,
    proof_only: bool,
    depth_ceiling: u8,
    /// The index of a block that has been revoked; one beyond the chain revokes none.
    revoked: usize,
    utf8: bool,
    proof: bool,
    verb: Verb,
    form: Through,
    relation: Option<(&'static str, &'static str)>,
    /// Rows, bytes, statements, activations and sessions that were counted before.
    used: [u64; 5],
}

const PEERS: [&str; 4] = ["10.1.2.3", "::ffff:10.1.2.3", "11.0.0.1", "2001:db8::1"];

fn any_peer() -> impl Strategy<Value = Peer> {
    prop_oneof![2 => Just(Peer::Local), 1 => select(&PEERS).prop_map(|text| Peer::Ip(text.parse().unwrap()))]
}

fn any_networks() -> impl Strategy<Value = Vec<Network>> {
    let texts = vec!["local", "10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "::/0", "2001:db8::/32"];
    let count = texts.len();
    subsequence(texts, count / 2..=count)
        .prop_map(|texts| texts.into_iter().map(|text| Network::parse(text).unwrap()).collect())
}

/// Mostly the first, so that long chains still leave something.
fn mostly(first: &'static str, other: &'static str) -> impl Strategy<Value = &'static str> {
    prop_oneof![15 => Just(first), 1 => Just(other)]
}

fn any_window() -> impl Strategy<Value = WindowFacts> {
    (
        mostly("reporting", "support"),
        mostly("agent_rw", "other"),
        2..=7_u8,
        NOW - 2..NOW + 60,
        prop::bool::weighted(0.2),
        weighted(0.2, any_networks()),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(policy, role, max_depth, expires_at, require_proof, client_addr, revoked)| {
            WindowFacts {
                agent: "fleet".into(),
                policy: policy.into(),
                role: role.into(),
                max_depth,
                expires_at,
                require_proof,
                client_addr,
                revoked,
            }
        })
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    let forms = vec![Through::Plain, Through::Plain, Through::Copy, Through::Merge, Through::Do];
    let relations = vec![None, Some(("a", "x")), Some(("ab", "xy")), Some(("b", "x")), Some(("a", "y"))];
    let verbs = vec![Verb::Select, Verb::Insert, Verb::Execute, Verb::System, Verb::Drop];
    let session = (
        any_window(),
        NOW - 9..NOW + 20,
        mostly("agent_rw", "other"),
        mostly("prod", "test"),
        any_peer(),
        weighted(0.9, mostly("oauth:alice", "oauth:bob")),
    );
    let server = (
        prop::bool::weighted(0.1),
        2..=7_u8,
        0..40_usize,
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.7),
    );
    let access = (select(verbs), select(forms), select(relations), vec(0..12_u64, 5));
    (session, server, access).prop_map(|(session, server, access)| {
        let (window, now, role, database, peer, system_user) = session;
        let (proof_only, depth_ceiling, revoked, utf8, proof) = server;
        let (verb, form, relation, used) = access;
        let used = used.try_into().unwrap();
        Attempt {
            window,
            now,
            role,
            database,
            peer,
            system_user,
            proof_only,
            depth_ceiling,
            revoked,
            utf8,
            proof,
            verb,
            form,
            relation,
            used,
        }
    })
}

fn any_block() -> impl Strategy<Value = Claims> {
    let words: Vec<Act> =
        ["select", "insert", "copy_to", "copy_from", "merge", "call", "do", "ddl", "drop", "system", "set"]
            .map(|word| Act::of_word(word).unwrap())
            .to_vec();
    let count = words.len();
    let relation =
        "(a|ab|\\*|a\\*)\\.(x|xy|\\*|x\\*)".prop_map(|text| RelationPattern::parse(&text).unwrap());
    let limit = || weighted(0.2, 1..60_u64);
    let scope = (
        weighted(0.3, subsequence(words, count / 2..=count).prop_shuffle()),
        weighted(0.3, vec(relation, 1..4)),
        weighted(0.2, btree_set(mostly("reporting", "support"), 1..=2)),
        weighted(0.2, 0..=7_u8),
    );
    let limits = (limit(), limit(), limit(), limit(), limit());
    let place = (
        weighted(0.2, mostly("agent_rw", "other")),
        weighted(0.2, mostly("prod", "test")),
        weighted(0.2, any_networks()),
        weighted(0.1, mostly("oauth:alice", "oauth:bob")),
    );
    let rest = (
        NOW - 1..NOW + 90,
        weighted(0.2, NOW - 20..NOW + 10),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.02),
        weighted(0.1, select(vec!["plain", "caf\u{e9}"])),
    );
    (scope, limits, place, rest).prop_map(|(scope, limits, place, rest)| {
        let mut claims = Claims::new("AAAAAAAAAAAAAAAAAAAAAA", "a", rest.0);
        let own = |text: Option<&str>| text.map(str::to_owned);
        (claims.act, claims.rel, claims.depth) = (scope.0, scope.1, scope.3);
        claims.pol = scope.2.map(|pol| pol.into_iter().map(str::to_owned).collect());
        (claims.rows, claims.bytes, claims.stmts, claims.uses, claims.sess) = limits;
        (claims.role, claims.db, claims.cidr, claims.auth) =
            (own(place.0), own(place.1), place.2, own(place.3));
        (claims.nbf, claims.pop) = (rest.1, rest.2);
        claims.appr = rest.3.then(|| vec!["dba".to_owned()]);
        claims.why = own(rest.4);
        // A list of relations has no pattern twice.
        if let Some(rel) = &mut claims.rel {
            rel.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            rel.dedup();
        }
        claims
    })
}

/// The claims cut down to what the blocks before them claim, as a careful deriver would write them.
fn cut(before: &[Claims], mut claims: Claims) -> Claims {
    fn least<T: Ord + Copy>(
        before: &[Claims],
        own: Option<T>,
        of: impl Fn(&Claims) -> Option<T>,
    ) -> Option<T> {
        own.map(|own| before.iter().filter_map(of).fold(own, T::min))
    }
    fn within<T: PartialEq>(
        own: Option<Vec<T>>,
        before: &[Claims],
        of: impl Fn(&Claims) -> Option<&Vec<T>>,
    ) -> Option<Vec<T>> {
        let kept: Vec<T> = own?
            .into_iter()
            .filter(|item| before.iter().filter_map(&of).all(|list| list.contains(item)))
            .collect();
        (!kept.is_empty()).then_some(kept)
    }
    fn agreed(
        own: Option<String>,
        before: &[Claims],
        of: impl Fn(&Claims) -> Option<&String>,
    ) -> Option<String> {
        own.map(|own| before.iter().find_map(of).cloned().unwrap_or(own))
    }
    claims.exp = before.iter().map(|claims| claims.exp).fold(claims.exp, i64::min);
    claims.rows = least(before, claims.rows, |c| c.rows);
    claims.bytes = least(before, claims.bytes, |c| c.bytes);
    claims.stmts = least(before, claims.stmts, |c| c.stmts);
    claims.uses = least(before, claims.uses, |c| c.uses);
    claims.sess = least(before, claims.sess, |c| c.sess);
    claims.pol = within(claims.pol, before, |c| c.pol.as_ref());
    claims.act = within(claims.act, before, |c| c.act.as_ref());
    claims.role = agreed(claims.role, before, |c| c.role.as_ref());
    claims.db = agreed(claims.db, before, |c| c.db.as_ref());
    claims.auth = agreed(claims.auth, before, |c| c.auth.as_ref());
    let left = attenuate::remaining_depth(7, before).unwrap_or(0).saturating_sub(1);
    claims.depth = claims.depth.map(|depth| depth.min(left));
    claims
}

/// A chain as it would be read, whatever it claims: no lint, no signature.
fn unlinted(chain: &[Claims]) -> Blocks {
    let blocks: Vec<String> = chain.iter().map(|claims| URL_SAFE_NO_PAD.encode(claims.to_json())).collect();
    let text = format!("{}.{}", wire::head(1, &WINDOW), blocks.join("."));
    let chain_read = wire::Chain::parse(&text).unwrap();
    Blocks { ids: chain_read.block_ids(), chain: chain_read, claims: chain.to_vec() }
}

/// The reason for which the code refuses the attempt under a token that is activated so, if it does.
fn judge(
    attempt: &Attempt,
    ids: &[BlockId],
    activate: impl FnOnce(&WindowFacts, &Circumstance<'_>) -> Result<ActiveToken, Refusal>,
) -> Result<(), &'static str> {
    let revoked = ids.get(attempt.revoked);
    let here = Circumstance {
        now: attempt.now,
        role: attempt.role,
        database: attempt.database,
        peer: attempt.peer,
        system_user: attempt.system_user,
        proof_only: attempt.proof_only,
        at_connect: false,
        depth_ceiling: attempt.depth_ceiling,
        is_revoked: &|id| Some(id) == revoked,
        utf8: attempt.utf8,
    };
    let token = activate(&attempt.window, &here).map_err(|refusal| refusal.reason)?;
    // What is looked at again later was looked at now.
    assert_eq!(token.check_still(attempt.now, here.is_revoked), Ok(()));
    assert!(token.allows_policy(&attempt.window.policy));
    token.permits(attempt.verb, attempt.form, attempt.relation).map_err(|_| "access")?;
    let limits = token.limits();
    let bounds = [limits.rows, limits.bytes, limits.stmts, limits.uses, limits.sess];
    let within = |(bound, used): (&Option<Bound>, u64)| bound.is_none_or(|bound| used < bound.value);
    if bounds.iter().zip(attempt.used).all(within) { Ok(()) } else { Err("limit") }
}

/// The same for a chain that no lint has seen.
fn decide(blocks: Blocks, attempt: &Attempt) -> Result<(), &'static str> {
    let form = if attempt.proof { Form::Proof } else { Form::Bearer };
    let ids = blocks.ids.clone();
    judge(attempt, &ids, |window, here| {
        let left = check(form, &blocks, window, here)?;
        Ok(ActiveToken::new(blocks, window, left))
    })
}

/// Whether docs/token.md allows the attempt, read block by block with none of the code's shortcuts.
fn allowed_by_the_model(chain: &[Claims], attempt: &Attempt) -> bool {
    let window = &attempt.window;
    let at = |networks: &Option<Vec<Network>>| {
        networks.as_ref().is_none_or(|networks| networks.iter().any(|network| network.contains(attempt.peer)))
    };
    let mut left = i32::from(window.max_depth.min(attempt.depth_ceiling));
    let mut words: Vec<&str> = Act::all().map(Act::word).collect();
    let by_row = !window.revoked
        && attempt.now < window.expires_at
        && window.role == attempt.role
        && at(&window.client_addr)
        && (attempt.proof || !(attempt.proof_only || window.require_proof));
    let each = chain.iter().enumerate().all(|(index, block)| {
        left -= i32::from(index > 0);
        let enough = left >= 0;
        left = left.min(block.depth.map_or(7, i32::from));
        if let Some(act) = &block.act {
            words.retain(|word| act.iter().any(|act| act.word() == *word));
        }
        let said = [block.rows, block.bytes, block.stmts, block.uses, block.sess];
        let list = |item: &str, list: &Option<Vec<String>>| {
            list.as_ref().is_none_or(|list| list.iter().any(|one| one == item))
        };
        enough
            && !words.is_empty()
            && index != attempt.revoked
            && attempt.now < block.exp
            && block.nbf.is_none_or(|nbf| attempt.now >= nbf - 5)
            && block.role.as_deref().is_none_or(|role| role == attempt.role)
            && block.db.as_deref().is_none_or(|db| db == attempt.database)
            && block.auth.as_deref().is_none_or(|auth| Some(auth) == attempt.system_user)
            && at(&block.cidr)
            && (attempt.proof || !block.pop)
            && block.appr.is_none()
            && (attempt.utf8 || block.why.as_deref().is_none_or(str::is_ascii))
            && list(&window.policy, &block.pol)
            && block
                .act
                .as_ref()
                .is_none_or(|act| act.iter().any(|act| covers(act.word(), attempt.verb, attempt.form)))
            && match (&block.rel, attempt.relation) {
                (Some(rel), Some((schema, name))) => {
                    rel.iter().any(|pattern| matches(pattern.as_str(), schema, name))
                }
                _ => true,
            }
            && said.iter().zip(attempt.used).all(|(limit, used)| limit.is_none_or(|limit| used < limit))
    });
    by_row && each
}

/// The table of words in docs/token.md.
fn covers(word: &str, verb: Verb, form: Through) -> bool {
    match (word, verb.word()) {
        (word, verb) if word == verb => true,
        ("merge", "insert" | "update" | "delete") => form == Through::Merge,
        ("copy_from", "insert") | ("copy_to", "select") => form == Through::Copy,
        ("call", "execute") | ("ddl", "create" | "alter" | "drop" | "comment") => true,
        ("do", "system") => form == Through::Do,
        _ => false,
    }
}

fn matches(pattern: &str, schema: &str, name: &str) -> bool {
    let side = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    };
    pattern.split_once('.').is_some_and(|(left, right)| side(left, schema) && side(right, name))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The guarantee, without the lint: policies, actions, relations, times, limits, role, database, address, principal,
    /// depth, form, revocation.
    #[test]
    fn what_a_child_may_do_its_parent_may_do(
        chain in vec(any_block(), 1..6),
        attempts in vec(any_attempt(), 1..12),
    ) {
        for attempt in &attempts {
            let mut parents = true;
            for length in 1..=chain.len() {
                let blocks = chain.get(..length).unwrap();
                let allowed = decide(unlinted(blocks), attempt);
                prop_assert_eq!(allowed.is_ok(), allowed_by_the_model(blocks, attempt), "{:?}", allowed);
                prop_assert!(parents || allowed.is_err(), "the parent may not, the child of {} blocks may", length);
                parents = allowed.is_ok();
            }
        }
    }

    /// The same with tokens: derived, linted, signed, answered, verified.
    #[test]
    fn what_a_derived_token_may_do_its_parent_may_do(
        mut chain in vec(any_block(), 1..6),
        attempts in vec(any_attempt(), 1..8),
    ) {
        for at in 1..chain.len() {
            let block = cut(chain.get(..at).unwrap(), chain[at].clone());
            chain[at] = block;
        }
        let challenge = fresh_challenge().unwrap();
        let mut allowed = vec![true; attempts.len()];
        let mut token = String::new();
        for (at, block) in chain.iter().enumerate() {
            let made = if at == 0 { mint(&key(), 1, &WINDOW, block) } else { derive(&token, block) };
            token = match made {
                Ok(token) => token,
                // What is cut down to the parent's claims is never wider: only the depth can end.
                Err(refusal) => {
                    prop_assert_eq!(refusal.reason, "too_deep");
                    break;
                }
            };
            for (attempt, parents) in attempts.iter().zip(&mut allowed) {
                let text = if attempt.proof { prove(&token, &challenge).unwrap() } else { token.clone() };
                let read = PresentedToken::parse(&text).unwrap().authenticate(&key(), Some(&challenge)).unwrap();
                prop_assert_eq!(read.claims(), chain.get(..=at).unwrap());
                let ids = read.block_ids().to_vec();
                let childs = judge(attempt, &ids, |window, here| read.activate(window, here)).is_ok();
                prop_assert!(*parents || !childs);
                *parents = childs;
            }
        }
    }

    /// A session that goes on: as long as the child's token holds, its parent's does, and the policy is one for both.
    #[test]
    fn what_still_holds_for_a_child_still_holds_for_its_parent(
        chain in vec(any_block(), 2..6),
        later in 0..120_i64,
        revoked in 0..9_usize,
    ) {
        let now = NOW - 20 + later;
        let still = |length: usize| {
            let blocks = unlinted(chain.get(..length).unwrap());
            let gone = blocks.ids.get(revoked).copied();
            let token = ActiveToken::new(blocks, &window(), 0);
            (token.check_still(now, &|id| Some(*id) == gone).is_ok(), token.allows_policy("reporting"))
        };
        let wanted = |length: usize| {
            let holds = |(at, block): (usize, &Claims)| {
                at != revoked && now < block.exp && block.nbf.is_none_or(|nbf| now >= nbf - 5)
            };
            let names = |block: &Claims| block.pol.as_ref().is_none_or(|pol| pol.contains(&"reporting".to_owned()));
            let blocks = chain.get(..length).unwrap();
            (blocks.iter().enumerate().all(holds), blocks.iter().all(names))
        };
        for length in 2..=chain.len() {
            let (child, parent) = (still(length), still(length - 1));
            prop_assert_eq!(child, wanted(length));
            prop_assert!(parent.0 || !child.0);
            prop_assert!(parent.1 || !child.1);
        }
    }
}

/// The properties above say something only where children are allowed, and refused for each of the reasons.
#[test]
fn the_random_attempts_meet_every_reason_and_often_none() {
    let mut runner = TestRunner::deterministic();
    let mut met: BTreeMap<&str, usize> = BTreeMap::new();
    let mut total = 0;
    for _ in 0..6000 {
        let chain = vec(any_block(), 2..5).new_tree(&mut runner).unwrap().current();
        let attempt = any_attempt().new_tree(&mut runner).unwrap().current();
        if decide(unlinted(&chain[..chain.len() - 1]), &attempt).is_ok() {
            total += 1;
            *met.entry(decide(unlinted(&chain), &attempt).err().unwrap_or("none")).or_default() += 1;
        }
    }
    for reason in [
        "none",
        "access",
        "limit",
        "expired",
        "not_yet_valid",
        "revoked",
        "wrong_role",
        "wrong_database",
        "wrong_address",
        "wrong_principal",
        "too_deep",
        "bearer_not_allowed",
        "approval_missing",
        "out_of_scope",
        "caveat_malformed",
    ] {
        assert!(met.get(reason).is_some_and(|count| *count >= 3), "{reason}: {met:?}, of {total}");
    }
    assert!(met["none"] >= 100, "{met:?}, of {total}");
}
