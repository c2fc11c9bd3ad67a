//! What people may choose freely within bounds: a time zone, a language, a name. The API and the
//! command line read them here, so that a subscriber is the same wherever he comes from.

use jiff::tz::TimeZone;

const MAX_NAME_CHARS: usize = 100;

/// Of whoever has not chosen another.
pub const DEFAULT_TIME_ZONE: &str = "Etc/UTC";

/// Why a choice cannot be taken; the text goes on from the name of what was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChoice {
    /// There is no such time zone.
    #[error("must be an IANA time zone such as Europe/Oslo")]
    TimeZone,
    /// It does not have the shape of a language tag.
    #[error("must be a language tag such as en or nb-NO")]
    Language,
    /// It is too long, or of several lines.
    #[error("must be up to 100 characters, in one line")]
    Name,
}

/// A time zone by its IANA name, as the database of time zones writes it: `europe/oslo` is
/// `Europe/Oslo`.
pub fn time_zone(name: &str) -> Result<String, InvalidChoice> {
    TimeZone::get(name)
        .ok()
        .and_then(|zone| zone.iana_name().map(str::to_owned))
        .ok_or(InvalidChoice::TimeZone)
}

/// A language tag by the shape that RFC 5646 gives it: subtags of one to eight letters or digits,
/// the first of letters alone.
pub fn language(tag: &str) -> Result<String, InvalidChoice> {
    let mut subtags = tag.split('-');
    let first = subtags.next().unwrap_or_default();
    let is_well_formed = (2..=8).contains(&first.len())
        && first.bytes().all(|b| b.is_ascii_alphabetic())
        && subtags
            .all(|s| (1..=8).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric()))
        && tag.len() <= 35;
    is_well_formed
        .then(|| tag.to_owned())
        .ok_or(InvalidChoice::Language)
}

/// The name of a person or of a token: up to 100 characters that can be shown in one line.
pub fn name(text: &str) -> Result<String, InvalidChoice> {
    let is_short = text.chars().count() <= MAX_NAME_CHARS;
    (is_short && !text.chars().any(char::is_control))
        .then(|| text.to_owned())
        .ok_or(InvalidChoice::Name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_zone_is_kept_as_the_database_writes_it() {
        assert_eq!(time_zone("europe/oslo").as_deref(), Ok("Europe/Oslo"));
        assert_eq!(time_zone("Etc/UTC").as_deref(), Ok("Etc/UTC"));
        for name in ["", "Mars/Olympus", "../../etc/passwd", "CEST+2"] {
            assert_eq!(time_zone(name), Err(InvalidChoice::TimeZone), "{name}");
        }
    }

    #[test]
    fn a_language_has_the_shape_of_a_tag() {
        for tag in ["en", "nb-NO", "zh-Hant-TW", "de-1996"] {
            assert_eq!(language(tag).as_deref(), Ok(tag));
        }
        for tag in ["", "e", "en--US", "en_US", "1a", "x y", "en-", "../en"] {
            assert_eq!(language(tag), Err(InvalidChoice::Language), "{tag}");
        }
    }

    #[test]
    fn a_name_is_short_and_stands_in_one_line() {
        for text in ["", "Kari Nordmann", "山田 太郎", &"ø".repeat(100)] {
            assert_eq!(name(text).as_deref(), Ok(text));
        }
        for text in ["a\nb", "\u{1b}[31mred", "nul\0", &"ø".repeat(101)] {
            assert_eq!(name(text), Err(InvalidChoice::Name), "{text:?}");
        }
    }
}
