//! Dates and timestamps cut down to their year or month, as PostgreSQL stores them: days or microseconds since
//! 2000-01-01, the ends of the range standing for the infinities.
//!
//! Never leaves PostgreSQL's range: what would begin before its first day is that day.

#![forbid(unsafe_code)]

/// What a date is cut down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The first of January.
    Year,
    /// The first of the month.
    Month,
}

const DAY: i64 = 86_400_000_000;
/// 4714-11-24 BC, the first day that PostgreSQL has (DATETIME_MIN_JULIAN).
const FIRST_DAY: i64 = -2_451_545;
/// Days from 0000-03-01 to 2000-01-01.
const FROM_MARCH_ZERO: i64 = 730_425;
/// Days of four centuries.
const ERA: i64 = 146_097;

/// A date.
pub fn date(days: i32, unit: Unit) -> i32 {
    if days == i32::MIN || days == i32::MAX {
        return days;
    }
    i32::try_from(begin(i64::from(days), unit)).unwrap_or(days)
}

/// A timestamp; one with time zone is cut in UTC, so that no setting of the session changes what is shown.
pub fn timestamp(micros: i64, unit: Unit) -> i64 {
    if micros == i64::MIN || micros == i64::MAX {
        return micros;
    }
    begin(micros.div_euclid(DAY), unit).saturating_mul(DAY)
}

fn begin(day: i64, unit: Unit) -> i64 {
    let (year, month) = civil(day);
    let month = match unit {
        Unit::Year => 1,
        Unit::Month => month,
    };
    first_of(year, month).max(FIRST_DAY)
}

fn civil(day: i64) -> (i64, i64) {
    let (year, month, _) = year_month_day(day);
    (year, month)
}

/// Year, month and day of the month of a day since 2000-01-01 in the Gregorian calendar, counted backwards without end (years
/// from March on, after Howard Hinnant's days_from_civil).
pub fn year_month_day(day: i64) -> (i64, i64, i64) {
    let day = day + FROM_MARCH_ZERO;
    let era = day.div_euclid(ERA);
    let of_era = day.rem_euclid(ERA);
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let of_month = of_year - (153 * from_march + 2) / 5 + 1;
    (year + era * 400 + i64::from(month <= 2), month, of_month)
}

fn first_of(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5;
    era * ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year - FROM_MARCH_ZERO
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_days() {
        assert_eq!(date(0, Unit::Year), 0, "2000-01-01");
        assert_eq!(date(60, Unit::Month), 60, "2000-03-01");
        assert_eq!(date(59, Unit::Month), 31, "2000-02-29");
        assert_eq!(date(-1, Unit::Year), -365, "1999-12-31");
        assert_eq!(date(8_765, Unit::Year), 8_766 - 365, "2023-12-31");
        assert_eq!(date(8_766, Unit::Year), 8_766, "2024-01-01");
        assert_eq!(timestamp(-1, Unit::Month), -31 * DAY);
    }

    #[test]
    fn the_ends_of_the_range_stay_in_it() {
        assert_eq!(date(i32::MAX, Unit::Year), i32::MAX);
        assert_eq!(timestamp(i64::MIN, Unit::Month), i64::MIN);
        assert_eq!(date(-2_451_545, Unit::Year), -2_451_545);
        assert_eq!(timestamp(-2_451_544 * DAY, Unit::Month), FIRST_DAY * DAY);
    }

    proptest! {
        #[test]
        fn a_month_begins_at_most_30_days_before(days in -2_451_545i32..2_145_000_000) {
            let month = date(days, Unit::Month);
            let year = date(days, Unit::Year);
            prop_assert!(month <= days && days - month <= 30);
            prop_assert!(year <= month && days - year <= 365);
            prop_assert_eq!(date(month, Unit::Month), month);
            prop_assert_eq!(date(year, Unit::Year), year);
        }

        #[test]
        fn no_timestamp_panics(micros in any::<i64>()) {
            let year = timestamp(micros, Unit::Year);
            prop_assert_eq!(timestamp(year, Unit::Year), year);
        }
    }
}
