//! The text of the key file: which signing keys there are, and what each is good for. Pure; files are `pg::keys`'s.
//!
//! One key a line: `kid state created_unix hex(32 bytes)`; empty lines and lines that begin with `#` are skipped. The line
//! `0 mask created_unix hex` is no signing key but that of the pseudonyms (`mask::keyed`): rotation leaves it alone,
//! because pseudonyms are to stay the same.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

/// No window lives longer (`grant_window` refuses it), so a key that stopped minting this long ago verifies nothing.
pub const LONGEST_WINDOW: i64 = 30 * 24 * 60 * 60;

/// The first line of the file.
const HEADER: &str = "# agent_guard signing keys: keep secret. kid state created key\n";

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It signs new windows and verifies.
    Active,
    /// It verifies windows that were signed before the last rotation.
    Verify,
    /// It does neither; its bytes are gone.
    Retired,
}

impl KeyState {
    /// The word in the file.
    pub fn word(self) -> &'static str {
        match self {
            KeyState::Active => "active",
            KeyState::Verify => "verify",
            KeyState::Retired => "retired",
        }
    }

    fn of_word(word: &str) -> Option<KeyState> {
        [KeyState::Active, KeyState::Verify, KeyState::Retired].into_iter().find(|state| state.word() == word)
    }
}

/// One signing key. Not `Debug`: its bytes must not reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// The identifier, from 1.
    pub kid: u32,
    /// What it is good for.
    pub state: KeyState,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// The key itself; zeros once retired.
    pub secret: [u8; 32],
}

/// The keys of the file, by ascending kid, exactly one of them active; and the key of masks.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<SigningKey>,
    mask: Option<MaskSecret>,
}

/// The key of pseudonyms. Not `Debug`, like the others.
#[derive(Clone, PartialEq, Eq)]
struct MaskSecret {
    created: i64,
    secret: [u8; 32],
}

/// What the line of the mask key begins with.
const MASK_LINE: &str = "0 mask ";

/// Why the file cannot be read: a line's number and a fact, never its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFileError(pub String);

impl Keyring {
    /// A file with one key.
    pub fn first(secret: [u8; 32], now: i64) -> Keyring {
        let keys = vec![SigningKey { kid: 1, state: KeyState::Active, created: now, secret }];
        Keyring { keys, mask: None }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// Anything that is not as `text` writes it.
    pub fn parse(text: &str) -> Result<Keyring, KeyFileError> {
        let mut keys: Vec<SigningKey> = Vec::new();
        let mut mask = None;
        for (i, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |fact: &str| KeyFileError(format!("line {}: {fact}", i + 1));
            if let Some(rest) = line.strip_prefix(MASK_LINE) {
                if mask.is_some() {
                    return Err(wrong("a second key of masks"));
                }
                // Read like any other, under a number and a state that it does not have.
                let key = parse_line(&format!("1 active {rest}")).map_err(wrong)?;
                mask = Some(MaskSecret { created: key.created, secret: key.secret });
                continue;
            }
            let key = parse_line(line).map_err(wrong)?;
            if keys.last().is_some_and(|last| last.kid >= key.kid) {
                return Err(wrong("the key's number does not rise"));
            }
            keys.push(key);
        }
        match keys.iter().filter(|key| key.state == KeyState::Active).count() {
            1 => Ok(Keyring { keys, mask }),
            count => Err(KeyFileError(format!("{count} active keys, where there has to be one"))),
        }
    }

    /// Writes the file.
    pub fn text(&self) -> String {
        let mut text = HEADER.to_owned();
        let mut line = |beginning: String, secret: [u8; 32]| {
            text.push_str(&beginning);
            for byte in secret {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        };
        if let Some(mask) = &self.mask {
            line(format!("{MASK_LINE}{} ", mask.created), mask.secret);
        }
        for key in &self.keys {
            line(format!("{} {} {} ", key.kid, key.state.word(), key.created), key.secret);
        }
        text
    }

    /// The keys, by ascending kid.
    pub fn keys(&self) -> &[SigningKey] {
        &self.keys
    }

    /// The key that signs; `None` only for a ring that this module did not make.
    pub fn active(&self) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.state == KeyState::Active)
    }

    /// The key of this number, unless it is retired.
    pub fn verifying(&self, kid: u32) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.kid == kid && key.state != KeyState::Retired)
    }

    /// The ring with a new active key. The one before verifies from now on; a key that no window can need any more
    /// loses its bytes. `None` when there are no numbers left.
    pub fn rotated(&self, secret: [u8; 32], now: i64) -> Option<Keyring> {
        let kid = self.keys.last().map_or(0, |key| key.kid).checked_add(1)?;
        i32::try_from(kid).ok()?;
        let mut keys = self.keys.clone();
        let successors: Vec<i64> =
            keys.iter().skip(1).map(|key| key.created).chain(std::iter::once(now)).collect();
        for (key, stopped_minting) in keys.iter_mut().zip(successors) {
            if key.state == KeyState::Active {
                key.state = KeyState::Verify;
            } else if stopped_minting.saturating_add(LONGEST_WINDOW) < now {
                key.state = KeyState::Retired;
                key.secret = [0; 32];
            }
        }
        keys.push(SigningKey { kid, state: KeyState::Active, created: now, secret });
        Some(Keyring { keys, mask: self.mask.clone() })
    }

    /// The key of pseudonyms, once there is one.
    pub fn mask(&self) -> Option<[u8; 32]> {
        self.mask.as_ref().map(|mask| mask.secret)
    }

    /// The ring with a key of pseudonyms; the one that it has stays.
    pub fn with_mask(&self, secret: [u8; 32], now: i64) -> Keyring {
        let mask = self.mask.clone().unwrap_or(MaskSecret { created: now, secret });
        Keyring { keys: self.keys.clone(), mask: Some(mask) }
    }
}

fn parse_line(line: &str) -> Result<SigningKey, &'static str> {
    let mut words = line.split_ascii_whitespace();
    let mut next = || words.next().ok_or("too few fields");
    let (kid, state, created, hex) = (next()?, next()?, next()?, next()?);
    if words.next().is_some() {
        return Err("too many fields");
    }
    let kid = kid.parse::<u32>().ok().filter(|kid| *kid > 0 && i32::try_from(*kid).is_ok());
    let state = KeyState::of_word(state).ok_or("unknown state")?;
    let secret = secret(hex).ok_or("the key is not 64 hexadecimal digits")?;
    if state != KeyState::Retired && secret == [0; 32] {
        return Err("an empty key that is not retired");
    }
    Ok(SigningKey {
        kid: kid.ok_or("bad key number")?,
        state,
        created: created.parse::<i64>().map_err(|_| "bad time")?,
        secret,
    })
}

fn secret(hex: &str) -> Option<[u8; 32]> {
    if !hex.is_ascii() {
        return None;
    }
    let mut secret = [0; 32];
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != secret.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in secret.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(secret)
}

/// The sixteen bytes that a block identifier writes as 32 hexadecimal digits.
pub fn block_id(text: &str) -> Option<[u8; 16]> {
    let text = text.trim();
    if text.len() != 32 {
        return None;
    }
    let bytes = secret(&format!("{text}{}", "0".repeat(32)))?;
    bytes.first_chunk::<16>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<Keyring> {
        Keyring::parse(text).ok()
    }

    fn key(byte: u8) -> [u8; 32] {
        [byte; 32]
    }

    #[test]
    fn a_new_ring_reads_back() {
        let ring = Keyring::first(key(7), 1000);
        assert!(read(&ring.text()) == Some(ring.clone()));
        assert_eq!(ring.active().map(|key| key.kid), Some(1));
        assert_eq!(ring.text().lines().nth(1).unwrap(), format!("1 active 1000 {}", "07".repeat(32)));
    }

    #[test]
    fn rotation_keeps_the_old_key_for_verifying() {
        let ring = Keyring::first(key(7), 1000).rotated(key(8), 2000).unwrap();
        assert_eq!(ring.active().map(|key| key.kid), Some(2));
        assert!(ring.verifying(1).is_some_and(|old| old.secret == key(7)));
        assert!(ring.verifying(3).is_none());
        assert!(read(&ring.text()) == Some(ring));
    }

    #[test]
    fn a_key_is_retired_only_when_no_window_can_need_it() {
        let ring = Keyring::first(key(7), 0).rotated(key(8), 100).unwrap();
        let early = ring.rotated(key(9), 100 + LONGEST_WINDOW).unwrap();
        assert!(early.verifying(1).is_some());
        let late = ring.rotated(key(9), 101 + LONGEST_WINDOW).unwrap();
        assert!(late.verifying(1).is_none());
        assert!(late.keys()[0].secret == [0; 32]);
        assert!(late.verifying(2).is_some(), "it minted until this moment");
        assert!(read(&late.text()) == Some(late));
    }

    #[test]
    fn the_key_of_masks_is_made_once_and_survives_rotation() {
        let ring = Keyring::first(key(7), 1000).with_mask(key(9), 1500);
        assert!(ring.mask() == Some(key(9)));
        assert!(read(&ring.text()) == Some(ring.clone()));
        assert_eq!(ring.keys().len(), 1);
        assert!(ring.with_mask(key(8), 2000).mask() == Some(key(9)));
        assert!(ring.rotated(key(8), 2000).is_some_and(|ring| ring.mask() == Some(key(9))));
        let hex = "ab".repeat(32);
        for text in [
            format!("0 mask 5 {hex}"),
            format!("0 mask 5 {hex}\n0 mask 5 {hex}\n1 active 5 {hex}"),
            format!("0 mask 5 {}\n1 active 5 {hex}", "00".repeat(32)),
            format!("1 mask 5 {hex}\n2 active 5 {hex}"),
        ] {
            assert!(read(&text).is_none(), "{text}");
        }
    }

    #[test]
    fn bad_files_are_refused_without_their_text() {
        let hex = "ab".repeat(32);
        let zeros = "00".repeat(32);
        for text in [
            String::new(),
            format!("1 verify 5 {hex}"),
            format!("1 active 5 {hex}\n2 active 5 {hex}"),
            format!("2 active 5 {hex}\n1 verify 5 {hex}"),
            format!("0 active 5 {hex}"),
            format!("4294967295 active 5 {hex}"),
            format!("1 aktiv 5 {hex}"),
            format!("1 active x {hex}"),
            format!("1 active 5 {hex}0"),
            format!("1 active 5 {}", "zz".repeat(32)),
            format!("1 active 5 {}", "\u{e4}".repeat(32)),
            format!("1 active 5 {zeros}"),
            format!("1 active 5 {hex} more"),
            "1 active 5".to_owned(),
        ] {
            match Keyring::parse(&text) {
                Ok(_) => panic!("{text:?} was accepted"),
                Err(error) => assert!(!error.0.contains("abab"), "{error:?}"),
            }
        }
        assert!(read(&format!("# x\n\n1 retired 5 {zeros}\n2 active 5 {hex}\n")).is_some());
    }

    #[test]
    fn block_ids_are_32_hexadecimal_digits() {
        assert_eq!(block_id("000102030405060708090a0b0c0d0e0f").map(|id| id[15]), Some(15));
        assert_eq!(block_id(" 000102030405060708090A0B0C0D0E0F ").map(|id| id[10]), Some(10));
        for text in ["", "00", &"0".repeat(31), &"g".repeat(32), &"0".repeat(64), "\u{e4}\u{e4}"] {
            assert!(block_id(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,200}") {
            let _ = Keyring::parse(&text);
            let _ = block_id(&text);
        }
    }
}
