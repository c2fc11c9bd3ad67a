//! G.711: one byte a sample, 8,000 samples a second, in two laws.

use audio_codec_algorithms::encode_alaw;
use audio_codec_algorithms::encode_ulaw;

/// How G.711 spreads its 256 codes over the amplitudes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Law {
    /// µ-law, of North America and Japan: PCMU.
    Mu,
    /// A-law, of the rest of the world: PCMA.
    A,
}

/// What each code means.
static SAMPLES: [[i16; 256]; 2] = {
    let mut tables = [[0; 256]; 2];
    let mut code = 0;
    while code < 256 {
        tables[Law::Mu as usize][code] = expand_mu(code as u8);
        tables[Law::A as usize][code] = expand_a(code as u8);
        code += 1;
    }
    tables
};

impl Law {
    /// The code of silence, to fill a frame with.
    pub const fn silence(self) -> u8 {
        match self {
            Self::Mu => 0xFF,
            Self::A => 0xD5,
        }
    }

    /// Encodes as many samples as both slices hold, and tells how many that were.
    pub fn encode(self, samples: &[i16], codes: &mut [u8]) -> usize {
        match self {
            Self::Mu => convert(samples, codes, encode_ulaw),
            Self::A => convert(samples, codes, encode_alaw),
        }
    }

    /// Decodes as many samples as both slices hold, and tells how many that were.
    pub fn decode(self, codes: &[u8], samples: &mut [i16]) -> usize {
        let table = self.table();
        convert(codes, samples, |code| table[usize::from(code)])
    }

    /// What `code` means.
    pub fn sample(self, code: u8) -> i16 {
        self.table()[usize::from(code)]
    }

    fn table(self) -> &'static [i16; 256] {
        &SAMPLES[self as usize]
    }
}

/// ITU-T G.711 table 2a/2b: sign, three bits of chord, four of step, all inverted.
const fn expand_mu(code: u8) -> i16 {
    let code = !code;
    let step = (code & 0x0F) as i16;
    let magnitude = (((step << 3) + 0x84) << ((code >> 4) & 7)) - 0x84;
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// ITU-T G.711 table 1a/1b: the same fields, every other bit inverted.
const fn expand_a(code: u8) -> i16 {
    let code = code ^ 0x55;
    let step = (((code & 0x0F) as i16) << 4) + 8;
    let magnitude = match (code >> 4) & 7 {
        0 => step,
        chord => (step + 0x100) << (chord - 1),
    };
    if code & 0x80 == 0 {
        -magnitude
    } else {
        magnitude
    }
}

fn convert<A: Copy, B>(from: &[A], to: &mut [B], one: impl Fn(A) -> B) -> usize {
    for (from, to) in from.iter().zip(to.iter_mut()) {
        *to = one(*from);
    }
    from.len().min(to.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    use audio_codec_algorithms::decode_alaw;
    use audio_codec_algorithms::decode_ulaw;

    #[test]
    fn every_code_means_what_others_take_it_for() {
        for code in 0..=u8::MAX {
            assert_eq!(Law::Mu.sample(code), decode_ulaw(code), "{code:#04x}");
            assert_eq!(Law::A.sample(code), decode_alaw(code), "{code:#04x}");
        }
    }

    #[test]
    fn every_code_survives_decoding_and_encoding() {
        for law in [Law::Mu, Law::A] {
            for code in 0..=u8::MAX {
                let (mut sample, mut back) = ([0], [0]);
                law.decode(&[code], &mut sample);
                law.encode(&sample, &mut back);
                // µ-law has two codes for zero.
                let same = back[0] == code || (law == Law::Mu && code == 0x7F);
                assert!(
                    same,
                    "{law:?} {code:#04x} -> {} -> {:#04x}",
                    sample[0], back[0]
                );
            }
        }
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        let samples = [0, i16::MAX, i16::MIN];
        let mut codes = [0; 3];
        Law::Mu.encode(&samples, &mut codes);
        assert_eq!(codes, [0xFF, 0x80, 0x00]);
        Law::A.encode(&samples, &mut codes);
        assert_eq!(codes, [0xD5, 0xAA, 0x2A]);
    }

    #[test]
    fn silence_decodes_to_next_to_nothing() {
        for law in [Law::Mu, Law::A] {
            let mut samples = [999; 4];
            assert_eq!(law.decode(&[law.silence(); 4], &mut samples), 4);
            assert!(samples.iter().all(|s| s.abs() <= 8), "{samples:?}");
        }
    }

    #[test]
    fn the_shorter_slice_decides() {
        assert_eq!(Law::A.encode(&[0; 200], &mut [0; 160]), 160);
        assert_eq!(Law::Mu.decode(&[0; 80], &mut [0; 160]), 80);
        assert_eq!(Law::Mu.decode(&[], &mut [0; 160]), 0);
    }
}
