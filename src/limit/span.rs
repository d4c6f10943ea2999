//! Lengths of time in policy documents: `30 s`, `5 min`, `250 ms`, `1 h`, in a spelling that the server's interval type
//! reads as the same.

/// The units, the longest first, with their length in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)];
/// The longest statement time, a little under 25 days: what the server's own statement_timeout takes.
pub const LONGEST: u64 = 2_147_483_647;

/// A text as milliseconds; `None` where it is none, nothing, or too long.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.trim_start();
    let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let milliseconds = number.parse::<u64>().ok()?.checked_mul(*length)?;
    (1..=LONGEST).contains(&milliseconds).then_some(milliseconds)
}

/// Milliseconds in the longest unit that leaves a whole number.
pub fn text(milliseconds: u64) -> String {
    let whole = UNITS.iter().find(|(_, length)| milliseconds.is_multiple_of(*length)).copied();
    let (unit, length) = whole.unwrap_or(("ms", 1));
    format!("{} {unit}", milliseconds / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for milliseconds in [1, 250, 1000, 1500, 60_000, 90_000, 3_600_000, LONGEST] {
            assert_eq!(parse(&text(milliseconds)), Some(milliseconds));
        }
        assert_eq!(text(90_000), "90 s");
        assert_eq!(parse(" 5min "), Some(300_000));
    }

    #[test]
    fn nothing_else_is_a_length_of_time() {
        for text in ["", "s", "0 s", "-1 s", "1", "1 day", "1.5 s", "1 S", "597 h", "99999999999999999999 s"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
