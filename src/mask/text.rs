//! Masks of texts. What does not look as expected is masked as a whole: a mask never shows more for being surprised.

#![forbid(unsafe_code)]

/// What stands for a value of which nothing is shown. Its length says nothing of the value's.
pub const REDACTED: &str = "***";

/// The first `prefix` and the last `suffix` characters with `pad` between them; only `pad` where the value has no more
/// characters than would be shown.
pub fn partial(value: &str, prefix: usize, pad: &str, suffix: usize) -> String {
    let shown = prefix.saturating_add(suffix);
    // The number of characters is at most that of bytes: most values need no count of all.
    let length = value.chars().take(shown.saturating_add(1)).count();
    if length <= shown {
        return pad.to_owned();
    }
    let mut masked = String::with_capacity(pad.len() + 16);
    masked.extend(value.chars().take(prefix));
    masked.push_str(pad);
    if suffix > 0 {
        let start = value.char_indices().rev().nth(suffix - 1).map_or(value.len(), |(at, _)| at);
        masked.push_str(value.get(start..).unwrap_or_default());
    }
    masked
}

/// An e-mail address by its first letter and its top-level domain.
pub fn email(value: &str) -> String {
    let parts = value.rsplit_once('@').and_then(|(local, domain)| {
        let first = local.chars().next().filter(|c| c.is_alphanumeric())?;
        let (_, top) = domain.rsplit_once('.')?;
        let plain = (2..=24).contains(&top.len()) && top.bytes().all(|b| b.is_ascii_alphabetic());
        (plain && local.chars().nth(1).is_some()).then_some((first, top))
    });
    match parts {
        Some((first, top)) => format!("{first}***@***.{top}"),
        None => REDACTED.to_owned(),
    }
}

/// The fewest digits of a number of which the last four are shown.
const CARD_DIGITS: usize = 12;

/// A card number by its last four digits; separators stay where they are.
pub fn card(value: &str) -> String {
    keep_last_digits(value, 4, CARD_DIGITS, |c| matches!(c, ' ' | '-'))
}

/// The fewest digits of a telephone number of which the last two are shown.
const PHONE_DIGITS: usize = 7;

/// A telephone number by its last two digits; punctuation stays where it is.
pub fn phone(value: &str) -> String {
    keep_last_digits(value, 2, PHONE_DIGITS, |c| matches!(c, ' ' | '-' | '+' | '(' | ')' | '.' | '/'))
}

fn keep_last_digits(value: &str, kept: usize, least: usize, stays: impl Fn(char) -> bool) -> String {
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    if digits < least {
        return REDACTED.to_owned();
    }
    let mut left = digits;
    let mask = |c: char| {
        if c.is_ascii_digit() {
            left -= 1;
            if left < kept { c } else { '*' }
        } else if stays(c) {
            c
        } else {
            '*'
        }
    };
    value.chars().map(mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn partial_keeps_both_ends() {
        assert_eq!(partial("abcdefgh", 2, "***", 3), "ab***fgh");
        assert_eq!(partial("abcdefgh", 0, "#", 0), "#");
        assert_eq!(partial("h\u{e9}llo w\u{f6}rld", 2, "-", 2), "h\u{e9}-ld");
    }

    #[test]
    fn partial_of_a_short_value_shows_nothing() {
        assert_eq!(partial("abcde", 2, "***", 3), "***");
        assert_eq!(partial("", 0, "***", 0), "***");
        assert_eq!(partial("ab", usize::MAX, "***", usize::MAX), "***");
    }

    #[test]
    fn email_shows_a_letter_and_the_top_level() {
        assert_eq!(email("jane.doe@example.com"), "j***@***.com");
        for odd in ["", "@", "a@b.com", "jane@localhost", "jane", "jane@x.c\u{f6}m", "jane@x.", " jane@x.com"]
        {
            assert_eq!(email(odd), REDACTED, "{odd:?}");
        }
    }

    #[test]
    fn card_shows_four_digits() {
        assert_eq!(card("4111 1111 1111 1234"), "**** **** **** 1234");
        assert_eq!(card("4111111111111234"), "************1234");
        assert_eq!(card("12345678901"), REDACTED);
        assert_eq!(card("4111x1111x1111x1234"), "***************1234");
    }

    #[test]
    fn phone_shows_two_digits() {
        assert_eq!(phone("+1 (403) 262-3443"), "+* (***) ***-**43");
        assert_eq!(phone("112"), REDACTED);
        assert_eq!(phone("4032623443 ask for Ann"), "********43 *** *** ***");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_little_is_shown(value in "\\PC*", prefix in 0usize..5, suffix in 0usize..5) {
            let masked = partial(&value, prefix, "", suffix);
            prop_assert!(masked.chars().count() <= prefix + suffix);
            prop_assert!(email(&value).chars().count() <= 33);
            prop_assert!(card(&value).chars().filter(char::is_ascii_digit).count() <= 4);
            prop_assert!(phone(&value).chars().filter(char::is_ascii_digit).count() <= 2);
        }

        #[test]
        fn addresses_of_every_kind_show_one_letter(
            local in "[a-z0-9.]{2,20}", domain in "[a-z0-9-]{1,20}", top in "[a-z]{2,6}"
        ) {
            let masked = email(&format!("{local}@{domain}.{top}"));
            let first = local.chars().next().unwrap_or_default();
            let shown = format!("{first}***@***.{top}");
            prop_assert!(masked == shown || masked == REDACTED);
        }

        #[test]
        fn partial_is_both_ends_of_the_value(value in "\\PC{10,40}", prefix in 0usize..5, suffix in 0usize..5) {
            let masked = partial(&value, prefix, "", suffix);
            let chars: Vec<char> = value.chars().collect();
            let wanted: String = chars.iter().take(prefix).chain(chars.iter().skip(chars.len() - suffix)).collect();
            prop_assert_eq!(masked, wanted);
        }
    }
}
