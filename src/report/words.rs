//! Times, spans and amounts as a reader wants them.

#![forbid(unsafe_code)]

/// A moment in UTC, to the second: `2026-11-25 16:31:47`.
pub fn moment(micros: i64) -> String {
    let seconds = micros.div_euclid(1_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The proleptic Gregorian calendar counted from 0000-03-01, in eras of 400 years.
    let shifted = days.saturating_add(719_468);
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era.saturating_mul(400) + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// A span: `0.42 ms`, `1.50 s`, `3 min 20 s`, `2 h 5 min`.
pub fn span(micros: i64) -> String {
    let micros = micros.max(0);
    match micros {
        0..=999_999 => format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10),
        1_000_000..=59_999_999 => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
        60_000_000..=3_599_999_999 => {
            format!("{} min {} s", micros / 60_000_000, micros / 1_000_000 % 60)
        }
        _ => format!("{} h {} min", micros / 3_600_000_000, micros / 60_000_000 % 60),
    }
}

/// A number with its thousands set apart: `1,234,567`.
pub fn amount(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::with_capacity(digits.len().saturating_mul(2));
    if number < 0 {
        out.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_are_dates_of_the_calendar() {
        assert_eq!(moment(0), "1970-01-01 00:00:00");
        assert_eq!(moment(951_782_399_999_999), "2000-02-28 23:59:59");
        assert_eq!(moment(951_782_400_000_000), "2000-02-29 00:00:00");
        assert_eq!(moment(1_795_624_307_000_000), "2026-11-25 16:31:47");
        assert_eq!(moment(-1), "1969-12-31 23:59:59");
    }

    #[test]
    fn spans_and_amounts_are_short() {
        assert_eq!(span(421), "0.42 ms");
        assert_eq!(span(1_500_000), "1.50 s");
        assert_eq!(span(200_000_000), "3 min 20 s");
        assert_eq!(span(7_500_000_000), "2 h 5 min");
        assert_eq!(span(-5), "0.00 ms");
        assert_eq!(amount(0), "0");
        assert_eq!(amount(999), "999");
        assert_eq!(amount(-1_234_567), "-1,234,567");
    }

    proptest! {
        #[test]
        fn any_number_has_words(number: i64) {
            prop_assert!(!moment(number).is_empty() && !span(number).is_empty());
            prop_assert_eq!(amount(number).replace(',', ""), number.to_string());
        }
    }
}
