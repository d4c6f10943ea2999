//! CRC-32C (Castagnoli), eight bytes at a time: what tells a torn record of the journal from a whole one.

#![forbid(unsafe_code)]

const POLYNOMIAL: u32 = 0x82f6_3b78;

static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][n] = crc;
        n += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut n = 0;
        while n < 256 {
            let before = tables[k - 1][n];
            tables[k][n] = before >> 8 ^ tables[0][(before & 255) as usize];
            n += 1;
        }
        k += 1;
    }
    tables
}

fn look(table: usize, byte: u8) -> u32 {
    TABLES.get(table).and_then(|table| table.get(usize::from(byte))).copied().unwrap_or(0)
}

/// Goes on with a checksum; 0 begins one.
pub fn crc32c(begun: u32, bytes: &[u8]) -> u32 {
    let mut crc = !begun;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let Some((front, back)) = word.split_first_chunk::<4>() else { break };
        let [a, b, c, d] = (u32::from_le_bytes(*front) ^ crc).to_le_bytes();
        let [e, f, g, h] = back.first_chunk::<4>().copied().unwrap_or([0; 4]);
        crc = look(7, a) ^ look(6, b) ^ look(5, c) ^ look(4, d);
        crc ^= look(3, e) ^ look(2, f) ^ look(1, g) ^ look(0, h);
    }
    for byte in words.remainder() {
        let [low, ..] = crc.to_le_bytes();
        crc = crc >> 8 ^ look(0, low ^ byte);
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_standard() {
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(0, &[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_checksum_goes_on() {
        let text = b"a text that is longer than eight bytes, and then some";
        for at in 0..text.len() {
            let (front, back) = text.split_at(at);
            assert_eq!(crc32c(crc32c(0, front), back), crc32c(0, text));
        }
    }
}
