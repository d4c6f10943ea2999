//! A decision that counts again: the same statement asks for the same relations under the same circumstances.
//!
//! Kept only where every access was allowed without an obligation. INVARIANT: the circumstances compared here are all
//! that such a decision depends on: the binding (hence the token's blocks and the policy), the policy's version, the
//! catalogue, the text, the form, the relations and columns, that no function, foreign key or view asks, and what is
//! compiled of masks. `second_line` is no part of it: it looks at every plan. Where rows with masked columns are changed,
//! or what the server prints of a row is withheld, everything is looked at again.

use std::rc::Rc;

use super::decided::Decided;
use super::gather::relations::{Asked, Entry};
use super::policies::Policy;
use super::session::Session;
use super::withhold::Texts;
use super::{calls, epoch, guc, masks, policies, statement};
use crate::decision::RuleId;
use crate::request::Form;

/// What was decided, and under which circumstances.
pub struct Repeated {
    asked: Box<[Asked]>,
    serial: u64,
    epoch: u64,
    generation: u64,
    /// Of what is compiled of masks; `None` where nothing was masked.
    masks: Option<u64>,
    form: Form,
    observes: bool,
    /// The accesses, all of them allowed.
    pub accesses: Vec<Decided>,
    /// The version of the policy that decided.
    pub policy_version: i64,
    /// The rule that the statement's event names.
    pub rule: Option<RuleId>,
}

impl Repeated {
    /// Whether denials under the policy are only recorded.
    pub fn observed(&self) -> bool {
        self.observes || guc::observing()
    }

    fn holds(
        &self,
        serial: u64,
        form: Form,
        entries: impl Iterator<Item = Entry>,
        masks: Option<u64>,
    ) -> bool {
        self.serial == serial
            && serial == guc::active_serial()
            && self.epoch == epoch::policies()
            && self.generation == policies::generation()
            && self.masks == masks
            && self.form == form
            && calls::nobody_else_asks()
            && self.asks(entries)
    }

    /// Whether these entries are those that it was decided on.
    #[inline]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
    fn asks(&self, mut entries: impl Iterator<Item = Entry>) -> bool {
        let mut asked = self.asked.iter();
        entries.all(|entry| asked.next().is_some_and(|asked| asked.is(&entry))) && asked.next().is_none()
    }
}

/// What is compiled of masks; `None` within where nothing is masked, outside while masks are being changed here.
fn masks_now() -> Option<Option<u64>> {
    if masks::any() { masks::generation().map(Some) } else { Some(None) }
}

/// Notes with a statement that was reopened what was decided when it ended last, if it asks for the same; whether it does. What
/// else decides was compared when it was reopened, but for the catalogue, of which the server has heard since.
#[inline]
pub fn comes_again(entries: impl Iterator<Item = Entry>) -> bool {
    let noted = statement::with_current(|open| {
        let before = open.take_before()?;
        let same = before.generation == policies::generation() && before.asks(entries);
        let noted = same && open.note_repeated(before);
        open.is_reopened(noted);
        Some(noted)
    });
    noted.flatten().unwrap_or(false)
}

/// Notes with the current statement what was decided on these entries before, if that counts; whether it does.
pub fn note(entries: impl Iterator<Item = Entry>) -> bool {
    let Some(masks) = masks_now() else { return false };
    let noted = statement::with_current(|open| {
        let (serial, form) = (open.serial(), open.form);
        let decided = open.known()?.decided.try_borrow().ok()?;
        let repeated = Rc::clone(decided.as_ref().filter(|it| it.holds(serial, form, entries, masks))?);
        drop(decided);
        Some(open.note_repeated(repeated))
    });
    noted.flatten().unwrap_or(false)
}

/// Keeps the outcome that was just noted with the current statement, if it is one to be kept. `generation` is that of
/// the catalogue before it was decided.
pub fn remember(entries: &[Entry], session: &Session, policy: &Policy, generation: u64) {
    let Some(masks) = masks_now() else { return };
    statement::with_current(|open| {
        let known = open.known().filter(|known| known.came_again()).map(Rc::clone)?;
        let same = session.serial == open.serial()
            && (open.texts == Texts::PLAIN || open.texts == Texts::VALUES)
            && policy.epoch() == epoch::policies()
            && policies::generation() == generation
            && calls::nobody_else_asks();
        let asked = entries.iter().map(Asked::of).collect::<Option<Box<[Asked]>>>().filter(|_| same)?;
        let form = open.form;
        let (accesses, rule) = open.take_plain_accesses()?;
        let repeated = Rc::new(Repeated {
            asked,
            serial: session.serial,
            epoch: policy.epoch(),
            generation,
            masks,
            form,
            observes: policy.observe,
            accesses,
            policy_version: policy.version,
            rule,
        });
        open.note_repeated(Rc::clone(&repeated));
        *known.decided.try_borrow_mut().ok()? = Some(repeated);
        Some(())
    });
}
