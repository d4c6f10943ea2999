//! The order in which a session's events began, which statement ran which, and whether it took effect.
//!
//! Events are recorded when they end, so a function's statements come before the one that called it, and a cursor's query
//! after everything that ran while it was open. The order is rebuilt from when they began.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::event::Event;

/// What became of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What it changed is committed.
    Committed,
    /// What it changed was rolled back.
    RolledBack,
    /// Its transaction has not ended.
    Open,
    /// Its transaction had no id when it ended, or it is itself the beginning or end of one: there is nothing to commit.
    Nothing,
    /// It was denied and did not run.
    Denied,
    /// It ended in an error.
    Failed,
    /// Its transaction is so old that the server no longer knows its end.
    Unknown,
}

impl Effect {
    /// The word in `replay`.
    pub fn word(self) -> &'static str {
        match self {
            Effect::Committed => "committed",
            Effect::RolledBack => "rolled back",
            Effect::Open => "open",
            Effect::Nothing => "nothing to commit",
            Effect::Denied => "denied",
            Effect::Failed => "failed",
            Effect::Unknown => "unknown",
        }
    }

    fn of(event: &Event) -> Option<Effect> {
        if !event.is_statement() {
            return None;
        }
        Some(if event.is_denied() {
            Effect::Denied
        } else if event.sqlstate.is_some() {
            Effect::Failed
        } else if event.fails_to_commit() {
            Effect::RolledBack
        } else if event.xid.is_none() || event.controls_transactions() {
            Effect::Nothing
        } else {
            match event.xact.as_deref() {
                Some("committed") => Effect::Committed,
                Some("aborted") => Effect::RolledBack,
                Some("in progress") => Effect::Open,
                _ => Effect::Unknown,
            }
        })
    }
}

/// One event in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The index into the events.
    pub event: usize,
    /// How deep below a statement of the client.
    pub depth: usize,
    /// The index into the steps of the statement that ran it.
    pub parent: Option<usize>,
    /// What became of it; `None` for news of the session.
    pub effect: Option<Effect>,
}

/// The steps of a session, in the order in which they began, each below the one that ran it.
pub fn steps(events: &[Event]) -> Vec<Step> {
    let mut by_seq: Vec<usize> = (0..events.len()).collect();
    by_seq.sort_by_key(|i| events.get(*i).map(|event| event.seq));
    let mut levels: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for i in &by_seq {
        if let Some(event) = events.get(*i).filter(|event| event.is_statement()) {
            levels.entry(event.level).or_default().push(*i);
        }
    }
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); events.len()];
    let mut roots = Vec::new();
    for i in &by_seq {
        let parent = events.get(*i).and_then(|event| {
            let above = levels.get(&event.level.checked_sub(1)?)?;
            runs(events, above, event)
        });
        match parent.and_then(|parent| below.get_mut(parent)) {
            Some(list) => list.push(*i),
            None => roots.push(*i),
        }
    }
    let began = |i: &usize| events.get(*i).map(|event| (event.at, event.seq));
    roots.sort_by_key(began);
    for list in &mut below {
        list.sort_by_key(began);
    }
    let mut steps: Vec<Step> = Vec::with_capacity(events.len());
    // The last is next: children are put in front of their parent's siblings.
    let mut open: Vec<(usize, usize, Option<usize>)> =
        roots.into_iter().rev().map(|i| (i, alone(events.get(i)), None)).collect();
    while let Some((i, depth, parent)) = open.pop() {
        let at = steps.len();
        let effect = events.get(i).and_then(Effect::of);
        steps.push(Step { event: i, depth, parent, effect });
        for child in below.get(i).into_iter().flatten().rev() {
            open.push((*child, depth.saturating_add(1), Some(at)));
        }
    }
    steps
}

/// The depth of an event that no statement ran: what the server runs when it commits is not the client's all the same.
fn alone(event: Option<&Event>) -> usize {
    event.filter(|event| event.is_statement()).map_or(0, |event| usize::from(event.level > 0))
}

/// The statement that ran this one: of the level above, begun no later than it and not ended before it began. It is
/// recorded after it; before it only where a cursor's query outlived the statement that declared it.
fn runs(events: &[Event], above: &[usize], event: &Event) -> Option<usize> {
    let around = |i: &&usize| {
        events.get(**i).is_some_and(|other| other.at <= event.at && event.at <= other.ended_at())
    };
    let place = above.partition_point(|i| events.get(*i).is_some_and(|other| other.seq <= event.seq));
    let (before, behind) = above.split_at_checked(place)?;
    let found = behind.iter().take(REACH).find(around);
    found.or_else(|| before.iter().rev().take(REACH).find(around)).copied()
}

/// How many statements of the level above are looked at: only where the trail has lost the one that ran it is it none of
/// the first.
const REACH: usize = 1000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(seq: i64, at: i64, duration: i64, level: i64) -> Event {
        Event { seq, at, duration: Some(duration), level, event: "statement".into(), ..Event::default() }
    }

    fn shape(events: &[Event]) -> Vec<(i64, usize)> {
        steps(events).iter().map(|step| (events[step.event].seq, step.depth)).collect()
    }

    #[test]
    fn statements_of_a_function_come_below_its_caller() {
        // 3 ran 1 and 2; 2 ran nothing; 4 followed.
        let events = [event(1, 110, 5, 1), event(2, 120, 5, 1), event(3, 100, 50, 0), event(4, 200, 5, 0)];
        assert_eq!(shape(&events), [(3, 0), (1, 1), (2, 1), (4, 0)]);
        assert_eq!(steps(&events)[1].parent, Some(0));
    }

    #[test]
    fn depth_follows_the_levels() {
        let events = [event(1, 130, 5, 2), event(2, 120, 20, 1), event(3, 100, 50, 0)];
        assert_eq!(shape(&events), [(3, 0), (2, 1), (1, 2)]);
    }

    #[test]
    fn a_clock_that_stands_still_is_no_trouble() {
        let events = [event(1, 100, 0, 1), event(2, 100, 0, 0), event(3, 100, 0, 1), event(4, 100, 0, 0)];
        assert_eq!(shape(&events), [(2, 0), (1, 1), (4, 0), (3, 1)]);
    }

    #[test]
    fn the_query_of_a_cursor_stands_where_it_was_declared() {
        // 1 declares, 2 fetches, then the cursor's query ends (3) with the transaction (4).
        let events =
            [event(1, 100, 10, 0), event(2, 200, 10, 0), event(3, 105, 200, 1), event(4, 300, 10, 0)];
        assert_eq!(shape(&events), [(1, 0), (3, 1), (2, 0), (4, 0)]);
    }

    #[test]
    fn what_no_statement_ran_is_not_the_clients_all_the_same() {
        assert_eq!(shape(&[event(7, 100, 5, 3), event(9, 300, 5, 0)]), [(7, 1), (9, 0)]);
        assert_eq!(shape(&[]), []);
    }

    #[test]
    fn effects_are_told_by_decision_error_and_transaction() {
        let with = |complete: fn(&mut Event)| {
            let mut one = event(1, 0, 0, 0);
            complete(&mut one);
            Effect::of(&one)
        };
        let ended = |status: &str| {
            let one = Event { xid: Some("9".into()), xact: Some(status.into()), ..event(1, 0, 0, 0) };
            Effect::of(&one)
        };
        assert_eq!(with(|_| ()), Some(Effect::Nothing));
        assert_eq!(with(|event| event.decision = Some("deny".into())), Some(Effect::Denied));
        assert_eq!(with(|event| event.sqlstate = Some("23505".into())), Some(Effect::Failed));
        assert_eq!(with(|event| event.xid = Some("9".into())), Some(Effect::Unknown));
        assert_eq!(with(|event| event.event = "bind".into()), None);
        assert_eq!(ended("committed"), Some(Effect::Committed));
        assert_eq!(ended("aborted"), Some(Effect::RolledBack));
        assert_eq!(ended("in progress"), Some(Effect::Open));
    }

    proptest! {
        #[test]
        fn every_event_has_one_place_and_parents_come_first(
            times in proptest::collection::vec((0_i64..50, 0_i64..20, 0_i64..4), 0..40)
        ) {
            let events: Vec<Event> = (1..)
                .zip(&times)
                .map(|(seq, (at, duration, level))| event(seq, *at, *duration, *level))
                .collect();
            let steps = steps(&events);
            let mut seen: Vec<usize> = steps.iter().map(|step| step.event).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..events.len()).collect::<Vec<_>>());
            for (i, step) in steps.iter().enumerate() {
                match step.parent {
                    None => prop_assert_eq!(step.depth, usize::from(times[step.event].2 > 0)),
                    Some(parent) => {
                        prop_assert!(parent < i);
                        prop_assert_eq!(step.depth, steps[parent].depth + 1);
                    }
                }
            }
        }
    }
}
