//! The words of a block's `act` and what they cover, as bit masks.
//!
//! A verb's own word covers the verb in every form of statement; the other words are narrower or wider handles on
//! the same verbs. Which accesses a statement needs is decided elsewhere.

use crate::request::{Form, Verb};

/// One word of `act`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// A verb, through every form of statement.
    Verb(Verb),
    /// INSERT, UPDATE and DELETE through MERGE.
    Merge,
    /// INSERT through COPY.
    CopyFrom,
    /// SELECT through COPY.
    CopyTo,
    /// Functions and procedures, as `execute`.
    Call,
    /// DO.
    Do,
    /// CREATE, ALTER, DROP and COMMENT of every kind.
    Ddl,
    /// Accepted; EXPLAIN needs what the explained statement needs.
    Explain,
    /// Accepted; SET of a harmless setting needs nothing.
    Set,
}

impl Act {
    const OTHERS: [Act; 8] =
        [Act::Merge, Act::CopyFrom, Act::CopyTo, Act::Call, Act::Do, Act::Ddl, Act::Explain, Act::Set];

    /// Every word.
    pub fn all() -> impl Iterator<Item = Act> {
        Verb::ALL.into_iter().map(Act::Verb).chain(Act::OTHERS)
    }

    /// The word in a block.
    pub fn word(self) -> &'static str {
        match self {
            Act::Verb(verb) => verb.word(),
            Act::Merge => "merge",
            Act::CopyFrom => "copy_from",
            Act::CopyTo => "copy_to",
            Act::Call => "call",
            Act::Do => "do",
            Act::Ddl => "ddl",
            Act::Explain => "explain",
            Act::Set => "set",
        }
    }

    /// The act of a word; case counts.
    pub fn of_word(word: &str) -> Option<Act> {
        Act::all().find(|act| act.word() == word)
    }

    /// The verbs that the word covers through a form of statement.
    fn covers(self, form: Form) -> u32 {
        match (self, form) {
            (Act::Verb(verb), _) => bit(verb),
            (Act::Merge, Form::Merge) => bit(Verb::Insert) | bit(Verb::Update) | bit(Verb::Delete),
            (Act::CopyFrom, Form::Copy) => bit(Verb::Insert),
            (Act::CopyTo, Form::Copy) => bit(Verb::Select),
            (Act::Call, _) => bit(Verb::Execute),
            (Act::Do, Form::Do) => bit(Verb::System),
            (Act::Ddl, _) => bit(Verb::Create) | bit(Verb::Alter) | bit(Verb::Drop) | bit(Verb::Comment),
            (Act::Merge | Act::CopyFrom | Act::CopyTo | Act::Do | Act::Explain | Act::Set, _) => 0,
        }
    }
}

/// The bit of a verb.
fn bit(verb: Verb) -> u32 {
    1 << (verb as u32)
}

/// Which verbs are left, for each form of statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mask {
    plain: u32,
    copy: u32,
    merge: u32,
    block: u32,
}

impl Mask {
    /// Nothing is left out.
    pub(super) const ALL: Mask = Mask { plain: u32::MAX, copy: u32::MAX, merge: u32::MAX, block: u32::MAX };

    /// What one block's `act` leaves; everything where it has none.
    pub(super) fn of(act: Option<&[Act]>) -> Mask {
        let Some(words) = act else {
            return Mask::ALL;
        };
        let through = |form| words.iter().fold(0, |mask, word| mask | word.covers(form));
        Mask {
            plain: through(Form::Plain),
            copy: through(Form::Copy),
            merge: through(Form::Merge),
            block: through(Form::Do),
        }
    }

    /// What both leave.
    pub(super) fn and(self, other: Mask) -> Mask {
        Mask {
            plain: self.plain & other.plain,
            copy: self.copy & other.copy,
            merge: self.merge & other.merge,
            block: self.block & other.block,
        }
    }

    /// Whether the verb through that form is left.
    #[inline]
    pub(super) fn covers(self, verb: Verb, form: Form) -> bool {
        let mask = match form {
            Form::Plain => self.plain,
            Form::Copy => self.copy,
            Form::Merge => self.merge,
            Form::Do => self.block,
        };
        mask & bit(verb) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [Form; 4] = [Form::Plain, Form::Copy, Form::Merge, Form::Do];

    fn covered(words: &[&str]) -> Vec<(Verb, Form)> {
        let acts: Vec<Act> = words.iter().map(|word| Act::of_word(word).unwrap()).collect();
        let mask = Mask::of(Some(&acts));
        let pairs = Verb::ALL.into_iter().flat_map(|verb| FORMS.map(|form| (verb, form)));
        pairs.filter(|(verb, form)| mask.covers(*verb, *form)).collect()
    }

    #[test]
    fn every_word_parses_back_and_stands_once() {
        let words: Vec<&str> = Act::all().map(Act::word).collect();
        for (i, word) in words.iter().enumerate() {
            assert_eq!(Act::of_word(word).map(Act::word), Some(*word));
            assert!(words.iter().skip(i + 1).all(|other| other != word), "{word}");
        }
        for word in ["SELECT", "select ", "", "*", "all"] {
            assert_eq!(Act::of_word(word), None);
        }
    }

    #[test]
    fn words_for_a_form_cover_that_form_only() {
        assert_eq!(covered(&["copy_to"]), [(Verb::Select, Form::Copy)]);
        assert_eq!(covered(&["copy_from"]), [(Verb::Insert, Form::Copy)]);
        assert_eq!(covered(&["do"]), [(Verb::System, Form::Do)]);
        assert_eq!(
            covered(&["merge"]),
            [(Verb::Insert, Form::Merge), (Verb::Update, Form::Merge), (Verb::Delete, Form::Merge)]
        );
    }

    #[test]
    fn explain_and_set_cover_nothing_and_call_is_execute() {
        assert_eq!(covered(&["explain", "set"]), []);
        assert_eq!(covered(&["call"]), covered(&["execute"]));
        assert_eq!(covered(&["ddl"]), covered(&["create", "alter", "drop", "comment"]));
        assert_eq!(covered(&["lock"]).len(), 4);
    }
}
