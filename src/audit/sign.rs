//! Whether a text may hold a secret at all: one quick look at every text that is recorded, before the closer one (`redact`).

#![forbid(unsafe_code)]

/// What leads to secrets, in lower case, and where in it the two bytes stand that are looked for: rare ones. Escapes and concatenation
/// may hide any other sign.
const SIGNS: [(&[u8], usize); 28] = [
    (b"passw", 3),
    (b"passphrase", 3),
    (b"pwd", 1),
    (b"secret", 2),
    (b"credential", 0),
    (b"token", 2),
    (b"api_key", 5),
    (b"apikey", 4),
    (b"access_key", 8),
    (b"accesskey", 7),
    (b"private_key", 9),
    (b"agent_guard", 5),
    (b"agt1.", 3),
    (b"agp1.", 3),
    (b"eyj", 0),
    (b"://", 0),
    (b"authorization", 7),
    (b"bearer", 0),
    (b"curl", 0),
    (b"sshpass", 2),
    (b"private key", 6),
    // agt1. in hexadecimal, and in base64 by what stands before
    (b"616774312e", 6),
    (b"ywd0ms", 2),
    (b"hz3qxl", 3),
    (b"fnddeu", 0),
    (b"||", 0),
    (b"u&'", 0),
    (b"u&\"", 0),
];
/// Each sign has a bit; a backslash, before whatever, has one too.
const BACKSLASH: u32 = 1 << SIGNS.len();

/// By a byte: the signs whose first, and whose second, of the two bytes it is.
static FIRST: [u32; 256] = table(0);
static SECOND: [u32; 256] = table(1);

const fn table(which: usize) -> [u32; 256] {
    let mut table = [if which == 0 { 0 } else { BACKSLASH }; 256];
    if which == 0 {
        table[b'\\' as usize] = BACKSLASH;
    }
    let mut n = 0;
    while n < SIGNS.len() {
        let byte = SIGNS[n].0[SIGNS[n].1 + which];
        table[byte as usize] |= 1 << n;
        table[byte.to_ascii_uppercase() as usize] |= 1 << n;
        n += 1;
    }
    table
}

/// Whether there is any sign.
pub fn any(text: &str) -> bool {
    /// Pairs that are looked at before anything is decided.
    const AT_ONCE: usize = 16;
    let bytes = text.as_bytes();
    let mut start = 0;
    while let Some(some) = bytes.get(start..).and_then(|rest| rest.first_chunk::<{ AT_ONCE + 1 }>()) {
        if pairs(some) != 0 && confirmed(bytes, start, AT_ONCE) {
            return true;
        }
        start = start.saturating_add(AT_ONCE);
    }
    let rest = bytes.get(start..).unwrap_or(&[]);
    pairs(rest) != 0 && confirmed(bytes, start, rest.len())
}

/// The signs that may be among these bytes.
#[inline(always)]
fn pairs(bytes: &[u8]) -> u32 {
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    pairs.fold(0, |found, (first, second)| found | pair(*first, *second))
}

#[inline(always)]
fn pair(first: u8, second: u8) -> u32 {
    let look = |table: &[u32; 256], byte: u8| table.get(usize::from(byte)).copied().unwrap_or(0);
    look(&FIRST, first) & look(&SECOND, second)
}

/// Whether one of them is there, at one of so many places from `start` on.
#[inline(never)]
fn confirmed(bytes: &[u8], start: usize, count: usize) -> bool {
    (start..start.saturating_add(count)).any(|at| {
        let (first, second) = (bytes.get(at).copied(), bytes.get(at.saturating_add(1)).copied());
        let found = pair(first.unwrap_or(0), second.unwrap_or(0));
        let is = |(n, (sign, offset)): (usize, &(&[u8], usize))| {
            let from = at.checked_sub(*offset);
            let there = from.and_then(|from| bytes.get(from..from.saturating_add(sign.len())));
            found & 1 << n != 0 && there.is_some_and(|there| there.eq_ignore_ascii_case(sign))
        };
        found & BACKSLASH != 0 || (found != 0 && SIGNS.iter().enumerate().any(is))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sign_is_found_wherever_it_stands() {
        for (sign, _) in SIGNS {
            let sign = String::from_utf8(sign.to_vec()).unwrap();
            for text in [sign.clone(), sign.to_uppercase(), format!("é{sign}"), format!("pass {sign} x")] {
                assert!(any(&text), "{text}");
            }
            let most = sign.get(..sign.len() - 1).unwrap();
            assert!(sign.len() < 3 || sign == "://" || !any(most), "{most}");
        }
        assert!(any("a \\ b"));
        for text in
            ["", "p", "select key, like_this from answers where description = 'three'", "a:/b | c & u"]
        {
            assert!(!any(text), "{text}");
        }
    }
}
