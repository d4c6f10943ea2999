//! What is used up of a limit: a number that never passes the limit and never passes its durable mark.
//!
//! `used` moves by compare-and-swap from one value within the limit to the next, so the overshoot is zero by
//! construction, whoever races. `mark` is at most what a table has stored: a crash loses `used`, which then starts from
//! the stored mark. INVARIANT: stored mark >= `mark` >= `used`, but for a charge that finds the mark lowered under
//! it and takes itself back before anything has run.
//!
//! Everything is sequentially consistent. Lowering the mark and charging follow the order *write first, look then*: of two
//! that race at least one sees the other and gives way.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter. All-zero bytes are a fresh one.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Counter {
    used: AtomicU64,
    mark: AtomicU64,
}

/// What came of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// It is paid.
    Charged,
    /// It is within the limit, but the mark has to be raised to this first.
    NeedsMark(u64),
    /// It would pass the limit; so much was used then.
    Exhausted {
        /// What was used up.
        used: u64,
    },
}

impl Counter {
    /// Sets both to what is stored: at the first use, before anybody else sees the counter.
    pub fn load(&self, stored: u64) {
        self.used.store(stored, Ordering::SeqCst);
        self.mark.store(stored, Ordering::SeqCst);
    }

    /// What is used up.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// Up to where it may be charged without asking.
    pub fn mark(&self) -> u64 {
        self.mark.load(Ordering::SeqCst)
    }

    /// Charges `n`, all of it or nothing.
    pub fn charge(&self, n: u64, limit: u64) -> Charge {
        let mut used = self.used();
        loop {
            let next = match used.checked_add(n) {
                Some(next) if next <= limit => next,
                _ => return Charge::Exhausted { used },
            };
            if next > self.mark() {
                return Charge::NeedsMark(next);
            }
            match self.used.compare_exchange(used, next, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    if next > self.mark() {
                        self.take_back(n);
                        return Charge::NeedsMark(next);
                    }
                    return Charge::Charged;
                }
                Err(other) => used = other,
            }
        }
    }

    /// Takes back a charge for what then did not happen. Only whoever made the charge may, at once.
    pub fn take_back(&self, n: u64) {
        self.used.fetch_sub(n, Ordering::SeqCst);
    }

    /// The mark that was stored. Called once the table holds it, durably.
    pub fn raise(&self, stored: u64) {
        self.mark.fetch_max(stored, Ordering::SeqCst);
    }

    /// Lowers the mark to what is used, so that this may be stored as the exact number; `None` where there is nothing to
    /// lower, or somebody is charging. Only the writer, which alone raises marks, may call it.
    pub fn lower(&self) -> Option<u64> {
        let (mark, used) = (self.mark(), self.used());
        if used >= mark {
            return None;
        }
        self.mark.store(used, Ordering::SeqCst);
        if self.used() == used {
            return Some(used);
        }
        self.mark.store(mark, Ordering::SeqCst);
        None
    }
}

/// A counter with the limit that holds for it, and what to charge.
#[derive(Clone, Copy, Debug)]
pub struct Due<'a> {
    /// The counter.
    pub counter: &'a Counter,
    /// Its limit.
    pub limit: u64,
    /// How much.
    pub n: u64,
}

/// Why a charge to several counters was not made; nothing is charged then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpaid {
    /// The mark of the counter with this index has to be raised.
    NeedsMark {
        /// Which of the counters.
        at: usize,
        /// To what.
        mark: u64,
    },
    /// The limit of the counter with this index.
    Exhausted {
        /// Which of the counters.
        at: usize,
        /// What was used up.
        used: u64,
    },
}

/// Charges all counters in their order, or none: what was charged before one that refuses is taken back at once.
///
/// # Errors
/// The first counter that refuses.
pub fn charge_all<'a>(dues: impl Iterator<Item = Due<'a>> + Clone) -> Result<(), Unpaid> {
    for (at, due) in dues.clone().enumerate() {
        let unpaid = match due.counter.charge(due.n, due.limit) {
            Charge::Charged => continue,
            Charge::NeedsMark(mark) => Unpaid::NeedsMark { at, mark },
            Charge::Exhausted { used } => Unpaid::Exhausted { at, used },
        };
        dues.take(at).for_each(|paid| paid.counter.take_back(paid.n));
        return Err(unpaid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn marked(mark: u64) -> Counter {
        let counter = Counter::default();
        counter.raise(mark);
        counter
    }

    #[test]
    fn a_charge_stops_at_the_mark_and_at_the_limit() {
        let counter = marked(5);
        assert_eq!(counter.charge(5, 10), Charge::Charged);
        assert_eq!(counter.charge(3, 10), Charge::NeedsMark(8));
        assert_eq!(counter.charge(6, 10), Charge::Exhausted { used: 5 });
        counter.raise(10);
        assert_eq!(counter.charge(5, 10), Charge::Charged);
        assert_eq!(counter.charge(1, 10), Charge::Exhausted { used: 10 });
        assert_eq!(counter.charge(u64::MAX, u64::MAX), Charge::Exhausted { used: 10 });
        // A limit that was lowered below what is used.
        assert_eq!(counter.charge(0, 9), Charge::Exhausted { used: 10 });
    }

    #[test]
    fn what_is_loaded_is_used_up() {
        let counter = Counter::default();
        counter.load(7);
        assert_eq!((counter.used(), counter.mark()), (7, 7));
        assert_eq!(counter.charge(1, 8), Charge::NeedsMark(8));
        assert_eq!(counter.charge(2, 8), Charge::Exhausted { used: 7 });
    }

    #[test]
    fn an_exhausted_ancestor_takes_the_childs_charge_back() {
        let (leaf, parent, window) = (marked(100), marked(100), marked(100));
        let dues = |n| {
            [
                Due { counter: &leaf, limit: 50, n },
                Due { counter: &parent, limit: 100, n },
                Due { counter: &window, limit: 10, n },
            ]
        };
        assert_eq!(charge_all(dues(8).into_iter()), Ok(()));
        assert_eq!(charge_all(dues(3).into_iter()), Err(Unpaid::Exhausted { at: 2, used: 8 }));
        assert_eq!([leaf.used(), parent.used(), window.used()], [8, 8, 8]);
        assert_eq!(charge_all(dues(43).into_iter()), Err(Unpaid::Exhausted { at: 0, used: 8 }));
    }

    #[test]
    fn an_unraised_mark_takes_the_childs_charge_back() {
        let (leaf, parent) = (marked(100), Counter::default());
        let dues = [Due { counter: &leaf, limit: 9, n: 1 }, Due { counter: &parent, limit: 9, n: 1 }];
        assert_eq!(charge_all(dues.into_iter()), Err(Unpaid::NeedsMark { at: 1, mark: 1 }));
        assert_eq!([leaf.used(), parent.used()], [0, 0]);
    }

    #[test]
    fn the_mark_is_lowered_to_what_is_used() {
        let counter = marked(10);
        assert_eq!(counter.charge(4, 10), Charge::Charged);
        assert_eq!(counter.lower(), Some(4));
        assert_eq!(counter.lower(), None);
        assert_eq!(counter.charge(1, 10), Charge::NeedsMark(5));
    }

    /// Ten children race for one parent's budget of a thousand: exactly a thousand pass.
    #[test]
    fn racing_children_never_exceed_their_parent() {
        let parent = marked(1000);
        let passed = AtomicU64::new(0);
        thread::scope(|scope| {
            for child in 0..10_u64 {
                let (parent, passed) = (&parent, &passed);
                scope.spawn(move || {
                    let own = marked(u64::MAX);
                    for _ in 0..2000 {
                        let n = 1 + child % 3;
                        let dues =
                            [Due { counter: &own, limit: 1000, n }, Due { counter: parent, limit: 1000, n }];
                        if charge_all(dues.into_iter()).is_ok() {
                            passed.fetch_add(n, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(passed.load(Ordering::SeqCst), 1000);
        assert_eq!(parent.used(), 1000);
    }

    /// A writer raises and lowers marks while others charge: what it last stored is never below what was charged.
    #[test]
    fn the_stored_mark_is_never_below_what_was_charged() {
        let counter = Counter::default();
        let stored = AtomicU64::new(0);
        let done = AtomicBool::new(false);
        let charged = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut exact = 0_u64;
                while !done.load(Ordering::SeqCst) {
                    if let Some(used) = counter.lower() {
                        stored.store(used, Ordering::SeqCst);
                        exact += 1;
                        // Whoever has charged by now has seen the lowered mark.
                        assert!(counter.mark() == used, "somebody else moved the mark");
                    }
                    let next = counter.used() + 3;
                    stored.fetch_max(next, Ordering::SeqCst);
                    counter.raise(next);
                }
                assert!(exact > 0);
            });
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..20_000 {
                            if counter.charge(1, u64::MAX) == Charge::Charged {
                                let total = charged.fetch_add(1, Ordering::SeqCst) + 1;
                                assert!(stored.load(Ordering::SeqCst) >= total);
                            }
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.join().unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        assert_eq!(counter.used(), charged.load(Ordering::SeqCst));
        assert!(stored.load(Ordering::SeqCst) >= counter.used());
    }

    proptest! {
        /// Any sequence of charges, raises, lowerings and crashes stays within limit and mark, and a crash refills nothing.
        #[test]
        fn no_sequence_passes_limit_or_mark(
            limit in 1_u64..200,
            steps in proptest::collection::vec((0_u8..4, 0_u64..40), 0..60),
        ) {
            let mut counter = Counter::default();
            let (mut stored, mut charged) = (0_u64, 0_u64);
            for (kind, n) in steps {
                match kind {
                    0 => {
                        if counter.charge(n, limit) == Charge::Charged {
                            charged += n;
                        }
                    }
                    1 => {
                        stored = stored.max((counter.used() + n).min(limit));
                        counter.raise(stored);
                    }
                    2 => {
                        if let Some(used) = counter.lower() {
                            stored = used;
                        }
                    }
                    _ => {
                        counter = Counter::default();
                        counter.load(stored);
                    }
                }
                prop_assert!(charged <= counter.used());
                prop_assert!(counter.used() <= counter.mark());
                prop_assert!(charged <= limit && stored >= charged);
            }
        }
    }
}
