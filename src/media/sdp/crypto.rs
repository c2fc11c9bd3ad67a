//! The `a=crypto` lines of SDES (RFC 4568).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::GeneralPurposeConfig;

use crate::media::sdp::SrtpKey;
use crate::media::sdp::SrtpSuite;

/// Keys that may serve fewer packets than this are not taken: a call of two hours has as many.
const SHORTEST_LIFETIME: u64 = 1 << 19;

/// Some leave the padding out.
const KEYS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One line: a way of protection that the peer offers, or has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Crypto {
    pub(super) tag: u32,
    /// What its sender protects with.
    pub(super) key: SrtpKey,
}

impl Crypto {
    /// Reads `1 AES_CM_128_HMAC_SHA1_80 inline:…|2^31`. `None` for what we cannot do as it says:
    /// other suites, keys with an identifier (MKI), and parameters that change the packets.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        let tag = words.next()?;
        let suite = SrtpSuite::from_name(words.next()?)?;
        let key = words.next()?;
        // Window size hints tell what the other side does; with a dash one may be ignored.
        if !words.all(|parameter| parameter.starts_with("WSH=") || parameter.starts_with('-')) {
            return None;
        }
        // Several keys, parted by semicolons, would need identifiers.
        let (method, key) = key.split_once(':')?;
        if !method.eq_ignore_ascii_case("inline") || key.contains(';') {
            return None;
        }
        let mut parts = key.split('|');
        let key_and_salt = KEYS.decode(parts.next()?).ok()?;
        if let Some(lifetime) = parts.next()
            && !is_long_enough(lifetime)
        {
            return None;
        }
        if parts.next().is_some() || tag.len() > 9 {
            return None;
        }
        Some(Self {
            tag: tag.parse().ok()?,
            key: SrtpKey::new(suite, &key_and_salt)?,
        })
    }

    /// The value of the line.
    pub(super) fn to_line(&self) -> String {
        let (tag, suite) = (self.tag, self.key.suite().name());
        format!("{tag} {suite} inline:{}", KEYS.encode(self.key.bytes()))
    }
}

/// Reads `2^31` or `1048576`. An identifier in its place (`1:4`) is no lifetime.
fn is_long_enough(lifetime: &str) -> bool {
    let packets = match lifetime.strip_prefix("2^") {
        Some(exponent) => exponent
            .parse()
            .ok()
            .and_then(|exponent| 1_u64.checked_shl(exponent)),
        None => lifetime.parse().ok(),
    };
    packets.is_some_and(|packets| packets >= SHORTEST_LIFETIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";

    fn read(rest: &str) -> Option<Crypto> {
        Crypto::parse(&format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}{rest}"))
    }

    #[test]
    fn a_line_is_read_as_the_standard_has_it() {
        let crypto = read("").unwrap();
        assert_eq!(crypto.tag, 1);
        assert_eq!(crypto.key.suite(), SrtpSuite::AesCm128HmacSha1_80);
        assert_eq!(crypto.key.bytes(), b"YS___semctl () {\t220;}\n}\nunles");
        assert_eq!(Crypto::parse(&crypto.to_line()), Some(crypto));
        let padded = "3 AEAD_AES_128_GCM inline:0SRRR5EhUCib//F5PpPF8vf8UKWyuGsNWxOxtQ==";
        assert_eq!(
            Crypto::parse(padded),
            Crypto::parse(padded.trim_end_matches('='))
        );
        assert_eq!(Crypto::parse(padded).unwrap().to_line(), padded);
    }

    #[test]
    fn what_would_change_the_packets_is_not_taken() {
        for rest in ["|2^31", "|2^48", "|1048576", "|2^20 WSH=64", " -X", ""] {
            assert!(read(rest).is_some(), "{rest}");
        }
        for rest in [
            "|1:4",
            "|2^31|1:4",
            "|2^10",
            "|100",
            "|2^64",
            "|2^",
            "=",
            "x",
            " KDR=1",
            " UNENCRYPTED_SRTP",
            " UNENCRYPTED_SRTCP",
            " UNAUTHENTICATED_SRTP",
            " FEC_ORDER=FEC_SRTP",
        ] {
            assert!(read(rest).is_none(), "{rest}");
        }
        for line in [
            String::new(),
            "1".to_owned(),
            "1 AES_CM_128_HMAC_SHA1_80".to_owned(),
            format!("1 AES_CM_128_HMAC_SHA1_80 {KEY}"),
            format!("1 AES_CM_128_HMAC_SHA1_80 http:{KEY}"),
            format!("1 AES_192_CM_HMAC_SHA1_80 inline:{KEY}"),
            format!("1 F8_128_HMAC_SHA1_80 inline:{KEY}"),
            format!("1 AEAD_AES_128_GCM inline:{KEY}"),
            format!("x AES_CM_128_HMAC_SHA1_80 inline:{KEY}"),
            format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY};inline:{KEY}"),
        ] {
            assert_eq!(Crypto::parse(&line), None, "{line}");
        }
    }

    #[test]
    fn a_key_does_not_print() {
        let crypto = read("").unwrap();
        let printed = format!("{crypto:?}");
        assert!(printed.contains("AES_CM_128_HMAC_SHA1_80"), "{printed}");
        assert!(
            !printed.contains("89") && !printed.contains("YS"),
            "{printed}"
        );
    }
}
