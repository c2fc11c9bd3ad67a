//! Conditional and range requests (RFC 9110, sections 13 and 14): what to answer, decided from the
//! header fields alone.

use std::ops::Range;

use axum::http::{HeaderMap, HeaderName, Method, header};
use jiff::civil::DateTime;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;

use crate::domain::Timestamp;

/// What identifies the present state of a representation.
#[derive(Debug, Clone)]
pub struct Validators {
    /// A strong entity tag, with its quotes.
    pub etag: String,
    /// When the representation last changed, where that is known.
    pub modified: Option<Timestamp>,
}

/// What to answer to a GET or HEAD where a precondition says that the representation is not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted {
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// How much of a representation to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    /// 200 with everything.
    Whole,
    /// 206 with these bytes; never empty, never beyond the end.
    Part(Range<u64>),
    /// 416.
    Unsatisfiable,
}

/// The first steps of RFC 9110 section 13.2.2, for which the representation need not be at hand.
pub fn unwanted(headers: &HeaderMap, now: &Validators) -> Option<Unwanted> {
    if let Some(tags) = list(headers, header::IF_MATCH) {
        if !matches_strong(&tags, &now.etag) {
            return Some(Unwanted::PreconditionFailed);
        }
    } else if modified_after(headers, header::IF_UNMODIFIED_SINCE, now) == Some(true) {
        return Some(Unwanted::PreconditionFailed);
    }
    let has_it = match list(headers, header::IF_NONE_MATCH) {
        Some(tags) => matches_weak(&tags, &now.etag),
        None => modified_after(headers, header::IF_MODIFIED_SINCE, now) == Some(false),
    };
    has_it.then_some(Unwanted::NotModified)
}

/// The last steps of RFC 9110 section 13.2.2, for a representation of `size` bytes.
pub fn share(method: &Method, headers: &HeaderMap, now: &Validators, size: u64) -> Share {
    // 14.2: a Range is defined for GET alone, and is ignored with any other method.
    if *method != Method::GET || !if_range_holds(headers, now) {
        return Share::Whole;
    }
    match single(headers, header::RANGE).map(|text| range(text, size)) {
        Some(Requested::Part(part)) => Share::Part(part),
        Some(Requested::Unsatisfiable) => Share::Unsatisfiable,
        Some(Requested::Ignored) | None => Share::Whole,
    }
}

/// Whether an `If-Match` field, where there is one, names the entity tag `etag`.
pub fn if_match_holds(headers: &HeaderMap, etag: &str) -> bool {
    list(headers, header::IF_MATCH).is_none_or(|tags| matches_strong(&tags, etag))
}

/// Whether an `If-None-Match` field names the entity tag `etag`: the client has it already.
pub fn if_none_match_hits(headers: &HeaderMap, etag: &str) -> bool {
    list(headers, header::IF_NONE_MATCH).is_some_and(|tags| matches_weak(&tags, etag))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7).
pub fn http_date(at: Timestamp) -> Option<String> {
    let at = jiff::Timestamp::from_second(at.as_millis().div_euclid(1000)).ok()?;
    rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&at)
        .ok()
}

/// What a `Range` field asks of a representation.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requested {
    Part(Range<u64>),
    Unsatisfiable,
    /// Not a range of bytes, malformed, or several ranges: RFC 9110 section 14.2 lets a server
    /// ignore the field, and one whole answer serves a player better than many small parts.
    Ignored,
}

fn range(field: &str, size: u64) -> Requested {
    let Some((unit, set)) = field.split_once('=') else {
        return Requested::Ignored;
    };
    if !unit.eq_ignore_ascii_case("bytes") {
        return Requested::Ignored;
    }
    let mut specs = set.split(',').map(str::trim).filter(|s| !s.is_empty());
    let (Some(spec), None) = (specs.next(), specs.next()) else {
        return Requested::Ignored;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Requested::Ignored;
    };
    let part = match (first, last) {
        ("", suffix) => position(suffix).map(|length| size.saturating_sub(length)..size),
        (first, "") => position(first).map(|first| first..size),
        (first, last) => match (position(first), position(last)) {
            (Some(first), Some(last)) if first <= last => {
                Some(first..last.saturating_add(1).min(size))
            }
            _ => None,
        },
    };
    match part {
        None => Requested::Ignored,
        Some(part) if part.start >= part.end => Requested::Unsatisfiable,
        Some(part) => Requested::Part(part),
    }
}

/// A position; one beyond 64 bits is as good as the largest.
fn position(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// RFC 9110 section 13.1.5. A date of ours is a strong validator, because a recording is written
/// once and never again.
fn if_range_holds(headers: &HeaderMap, now: &Validators) -> bool {
    if !headers.contains_key(header::IF_RANGE) {
        return true;
    }
    single(headers, header::IF_RANGE).is_some_and(|text| {
        if text.contains('"') {
            text == now.etag
        } else {
            http_seconds(text).is_some_and(|at| seconds(now) == Some(at))
        }
    })
}

/// Whether the representation changed after the date in the field `name`; `None` where either is
/// not known.
fn modified_after(headers: &HeaderMap, name: HeaderName, now: &Validators) -> Option<bool> {
    let at = http_seconds(single(headers, name)?)?;
    Some(seconds(now)? > at)
}

fn seconds(validators: &Validators) -> Option<i64> {
    Some(validators.modified?.as_millis().div_euclid(1000))
}

fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        _ => None,
    }
}

/// The elements of a list of entity tags; `None` where the field is missing.
fn list(headers: &HeaderMap, name: HeaderName) -> Option<Vec<&str>> {
    headers.contains_key(&name).then(|| {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        // Tags of ours hold no comma, so a foreign tag that is cut at one matches nothing.
        values.flat_map(|v| v.split(',')).map(str::trim).collect()
    })
}

fn matches_strong(tags: &[&str], etag: &str) -> bool {
    tags.iter().any(|tag| *tag == "*" || *tag == etag)
}

fn matches_weak(tags: &[&str], etag: &str) -> bool {
    tags.iter()
        .any(|tag| *tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Seconds since 1970 of an HTTP date in any of the three forms that RFC 9110 section 5.6.7 obliges
/// a recipient to read.
fn http_seconds(text: &str) -> Option<i64> {
    if let Ok(at) = rfc2822::DateTimeParser::new().parse_timestamp(text) {
        return Some(at.as_second());
    }
    ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
        .into_iter()
        .find_map(|form| DateTime::strptime(form, text).ok())
        .and_then(|at| at.to_zoned(TimeZone::UTC).ok())
        .map(|at| at.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT and a bit.
    const MODIFIED: i64 = 784_111_777_250;

    /// What of a representation is given, or why nothing of it.
    type Answer = Result<Share, Unwanted>;

    fn ask(method: &Method, size: u64, fields: &[(HeaderName, &str)]) -> Answer {
        let headers = fields
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect();
        let now = Validators {
            etag: "\"abc\"".into(),
            modified: Some(Timestamp::from_millis(MODIFIED)),
        };
        unwanted(&headers, &now).map_or_else(|| Ok(share(method, &headers, &now, size)), Err)
    }

    fn get(range: &str) -> Answer {
        ask(&Method::GET, 1000, &[(header::RANGE, range)])
    }

    #[test]
    fn single_ranges_give_exactly_the_bytes_asked() {
        for (field, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-499", 0..500),
            ("bytes=500-", 500..1000),
            ("bytes=-1", 999..1000),
            ("bytes=-5000", 0..1000),
            ("bytes=999-999", 999..1000),
            ("bytes=990-2000", 990..1000),
            ("bytes=0-99999999999999999999999999", 0..1000),
            ("BYTES= 1-2 ,", 1..3),
        ] {
            assert_eq!(get(field), Ok(Share::Part(part)), "{field}");
        }
    }

    #[test]
    fn a_range_beyond_the_end_is_unsatisfiable() {
        for field in [
            "bytes=1000-",
            "bytes=1000-1001",
            "bytes=-0",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(get(field), Ok(Share::Unsatisfiable), "{field}");
        }
        assert_eq!(
            ask(&Method::GET, 0, &[(header::RANGE, "bytes=0-")]),
            Ok(Share::Unsatisfiable)
        );
    }

    #[test]
    fn what_is_no_single_byte_range_is_ignored() {
        for field in [
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=2-1",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=0x1-2",
            "lines=1-2",
            "bytes=0-1,5-6",
            "bytes=١-٢",
            "",
        ] {
            let answer = ask(&Method::GET, 1000, &[(header::RANGE, field)]);
            assert_eq!(answer, Ok(Share::Whole), "{field}");
        }
        let twice = [(header::RANGE, "bytes=0-1"), (header::RANGE, "bytes=5-6")];
        assert_eq!(ask(&Method::GET, 1000, &twice[..1]), Ok(Share::Part(0..2)));
        assert_eq!(ask(&Method::HEAD, 1000, &twice[..1]), Ok(Share::Whole));
    }

    #[test]
    fn if_range_gives_the_part_only_of_the_same_recording() {
        for (validator, same) in [
            ("\"abc\"", true),
            ("\"abd\"", false),
            ("W/\"abc\"", false),
            ("Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("Sunday, 06-Nov-94 08:49:37 GMT", true),
            ("Sun Nov  6 08:49:37 1994", true),
            ("Sun, 06 Nov 1994 08:49:38 GMT", false),
            ("Sun, 06 Nov 1994 08:49:36 GMT", false),
            ("nonsense", false),
        ] {
            let fields = [(header::RANGE, "bytes=0-1"), (header::IF_RANGE, validator)];
            let expected = if same {
                Share::Part(0..2)
            } else {
                Share::Whole
            };
            assert_eq!(
                ask(&Method::GET, 1000, &fields),
                Ok(expected),
                "{validator}"
            );
        }
    }

    #[test]
    fn a_client_that_has_it_gets_304_and_tags_outrank_dates() {
        use Share::Whole;
        use Unwanted::NotModified;
        let since = header::IF_MODIFIED_SINCE;
        let none = header::IF_NONE_MATCH;
        for (fields, expected) in [
            (vec![(none.clone(), "\"abc\"")], Err(NotModified)),
            (vec![(none.clone(), "\"x\", W/\"abc\"")], Err(NotModified)),
            (vec![(none.clone(), "*")], Err(NotModified)),
            (vec![(none.clone(), "\"x\"")], Ok(Whole)),
            (
                vec![(since.clone(), "Sun, 06 Nov 1994 08:49:37 GMT")],
                Err(NotModified),
            ),
            (
                vec![(since.clone(), "Sun, 06 Nov 1994 08:49:36 GMT")],
                Ok(Whole),
            ),
            (vec![(since.clone(), "nonsense")], Ok(Whole)),
            (
                vec![(none, "\"x\""), (since, "Sun, 06 Nov 1994 08:49:37 GMT")],
                Ok(Whole),
            ),
        ] {
            assert_eq!(ask(&Method::GET, 10, &fields), expected, "{fields:?}");
            assert_eq!(ask(&Method::HEAD, 10, &fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn preconditions_that_fail_give_412() {
        for (name, value) in [
            (header::IF_MATCH, "\"x\""),
            (header::IF_MATCH, "W/\"abc\""),
            (header::IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT"),
        ] {
            assert_eq!(
                ask(&Method::GET, 10, &[(name, value)]),
                Err(Unwanted::PreconditionFailed)
            );
        }
        for (name, value) in [
            (header::IF_MATCH, "\"x\", \"abc\""),
            (header::IF_MATCH, "*"),
            (header::IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT"),
        ] {
            assert_eq!(ask(&Method::GET, 10, &[(name, value)]), Ok(Share::Whole));
        }
    }

    #[test]
    fn dates_are_written_as_http_wants_them() {
        let date = http_date(Timestamp::from_millis(MODIFIED));
        assert_eq!(date.as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    }

    proptest! {
        #[test]
        fn a_part_is_what_slicing_the_bytes_would_give(size in 0_u64..50, first in 0_u64..60, last in 0_u64..60) {
            let whole: Vec<u64> = (0..size).collect();
            let wanted: Vec<u64> = whole.iter().copied().filter(|i| (first..=last).contains(i)).collect();
            match range(&format!("bytes={first}-{last}"), size) {
                Requested::Part(part) => prop_assert_eq!(part.collect::<Vec<_>>(), wanted),
                Requested::Unsatisfiable => prop_assert!(first >= size && first <= last),
                Requested::Ignored => prop_assert!(first > last),
            }
            match range(&format!("bytes=-{last}"), size) {
                Requested::Part(part) => prop_assert_eq!(part.end - part.start, last.min(size)),
                other => prop_assert!(other == Requested::Unsatisfiable && last.min(size) == 0),
            }
        }

        #[test]
        fn no_field_whatever_leads_outside(field in "\\PC{0,40}", size in 0_u64..100) {
            if let Requested::Part(part) = range(&field, size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
