//! Finds the names that somebody may have meant: for the hints of refused rules.

#![forbid(unsafe_code)]

/// The most names that one hint offers.
const OFFERED: usize = 3;

/// Up to three of `candidates` that are spelt closely enough to `wanted` to be offered, the nearest first.
pub fn nearest(wanted: &str, candidates: &[String]) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let tolerated = match wanted.chars().count() {
        0..=3 => 1,
        length => (length / 3).max(2),
    };
    let mut scored: Vec<(usize, &String)> = candidates
        .iter()
        .filter(|candidate| candidate.len().abs_diff(wanted.len()) <= tolerated * 4)
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .collect();
    scored.sort();
    scored.dedup();
    scored.into_iter().take(OFFERED).map(|(_, name)| name.clone()).collect()
}

/// Edits between two words (Levenshtein), in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (to, above) in b.iter().zip(row.iter().skip(1)) {
            let swap = diagonal + usize::from(from != *to);
            left = swap.min(left + 1).min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("a", ""), 1);
        assert_eq!(distance("orders", "order"), 1);
    }

    #[test]
    fn close_names_are_offered_and_far_ones_are_not() {
        let all = names(&["orders", "Order", "customers", "payments"]);
        assert_eq!(nearest("order", &all), names(&["Order", "orders"]));
        assert_eq!(nearest("custmers", &all), names(&["customers"]));
        assert!(nearest("x", &all).is_empty());
        assert!(nearest("invoices", &all).is_empty());
    }
}
