//! Small readers of bytes, shared by every grammar of this module.

/// White space inside a logical line.
pub(in crate::sip) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~'
            );
        byte += 1;
    }
    table
};

/// A byte of a `token` (RFC 3261 25.1).
pub(in crate::sip) const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// A non-empty `token`.
pub(in crate::sip) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

/// A token, as text.
pub(in crate::sip) fn token(bytes: &[u8]) -> Option<&str> {
    if is_token(bytes) {
        std::str::from_utf8(bytes).ok()
    } else {
        None
    }
}

/// Cuts white space off both ends.
pub(in crate::sip) fn trim(bytes: &[u8]) -> &[u8] {
    trim_start(trim_end(bytes))
}

/// Cuts white space off the front.
pub(in crate::sip) fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_space(*first)
    {
        bytes = rest;
    }
    bytes
}

/// Cuts white space off the end.
pub(in crate::sip) fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., last] = bytes
        && is_space(*last)
    {
        bytes = rest;
    }
    bytes
}

/// Where `wanted` first stands. Looks at eight bytes at a time: most of a message is read through this.
pub(in crate::sip) fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let zero_where_wanted = u64::from_le_bytes(*word) ^ (ONES * u64::from(wanted));
        let found = zero_where_wanted.wrapping_sub(ONES) & !zero_where_wanted & TOPS;
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|&byte| byte == wanted)?;
    Some(words.len() * 8 + at)
}

/// Splits at the first `wanted`, which belongs to neither part.
pub(in crate::sip) fn split_once(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (before, after) = bytes.split_at_checked(find(bytes, wanted)?)?;
    Some((before, after.get(1..)?))
}

/// Splits text at the first `wanted`, an ASCII byte, which belongs to neither part.
pub(in crate::sip) fn cut(text: &str, wanted: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|byte| byte == wanted)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// A decimal number of digits alone. Leading zeros are fine, signs are not; `None` when out of range.
pub(in crate::sip) fn number(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u32, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Reads a quoted string at the start: what stands between the quotes, and what follows the last one.
pub(in crate::sip) fn quoted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = bytes.strip_prefix(b"\"")?;
    let mut escaped = false;
    let end = inner.iter().position(|&byte| match byte {
        _ if escaped => {
            escaped = false;
            false
        }
        b'\\' => {
            escaped = true;
            false
        }
        byte => byte == b'"',
    })?;
    let (text, rest) = inner.split_at_checked(end)?;
    Some((text, rest.get(1..)?))
}

/// The text of a quoted string without its backslashes. What is not UTF-8 is replaced.
pub(in crate::sip) fn unescaped(quoted: &[u8]) -> Box<str> {
    if !quoted.contains(&b'\\') {
        return String::from_utf8_lossy(quoted).into();
    }
    let mut plain = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(&byte) = bytes.next() {
        let byte = if byte == b'\\' {
            bytes.next().copied().unwrap_or(byte)
        } else {
            byte
        };
        plain.push(byte);
    }
    String::from_utf8_lossy(&plain).into()
}

/// Splits at `separator` outside quotes and angle brackets; parts are trimmed and may be empty.
/// A quote or bracket that is never closed runs to the end.
pub(in crate::sip) fn split(bytes: &[u8], separator: u8) -> Split<'_> {
    Split {
        rest: Some(bytes),
        separator,
    }
}

/// See [`split`].
pub(in crate::sip) struct Split<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> Iterator for Split<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.take()?;
        if find(rest, self.separator).is_none() {
            return Some(trim(rest));
        }
        let (mut quoted, mut escaped, mut bracketed) = (false, false, false);
        let end = rest.iter().position(|&byte| {
            if escaped {
                escaped = false;
                return false;
            }
            match byte {
                b'\\' if quoted => escaped = true,
                b'"' if !bracketed => quoted = !quoted,
                b'<' if !quoted => bracketed = true,
                b'>' if !quoted => bracketed = false,
                _ => return byte == self.separator && !quoted && !bracketed,
            }
            false
        });
        let Some((part, after)) = end.and_then(|end| rest.split_at_checked(end)) else {
            return Some(trim(rest));
        };
        self.rest = after.get(1..);
        Some(trim(part))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn find_agrees_with_a_plain_search_at_every_place() {
        for length in 0..40 {
            for place in 0..length {
                let mut bytes = vec![b'a' - 1; length];
                bytes[place] = b'a';
                assert_eq!(super::find(&bytes, b'a'), Some(place));
                assert_eq!(super::find(&bytes[..place], b'a'), None);
                bytes[length - 1] = b'a';
                assert_eq!(super::find(&bytes, b'a'), Some(place));
            }
        }
        assert_eq!(
            super::find(&[0xe1, 0x61 ^ 0x01, 0x80, 0x00, 0x61, 0, 0, 0], 0x61),
            Some(4)
        );
    }

    #[test]
    fn numbers_are_digits_alone_and_in_range() {
        assert_eq!(super::number(b"0068"), Some(68));
        assert_eq!(super::number(b"4294967295"), Some(u32::MAX));
        for wrong in [
            &b""[..],
            b"4294967296",
            b"-1",
            b"+1",
            b" 1",
            b"1 ",
            b"0x1",
            b"1.0",
        ] {
            assert_eq!(super::number(wrong), None);
        }
    }
}
