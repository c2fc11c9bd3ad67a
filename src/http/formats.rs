//! In which formats a recording comes, and which of them a client wants (RFC 9110, section 12).

use axum::http::{HeaderMap, header};

use crate::http::ApiError;

/// A format that recordings can be had in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// WAV, linear, 16 bit: what everything plays.
    Wav,
    /// Opus in Ogg (RFC 7845): a tenth of the size.
    Ogg,
}

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// This format.
    Format(Format),
    /// The file as it lies in the store.
    Original,
}

impl Format {
    /// All of them, the usual one first.
    pub(crate) const ALL: [Self; 2] = [Self::Wav, Self::Ogg];

    /// The value of `Content-Type`.
    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::Wav => "audio/wav",
            Self::Ogg => "audio/ogg; codecs=opus",
        }
    }

    /// How names of such files end, and what the query calls it.
    pub(crate) const fn extension(self) -> &'static str {
        match self {
            Self::Wav => "wav",
            Self::Ogg => "ogg",
        }
    }

    /// Whether it goes by the name of this media type, in lower case and without parameters.
    fn is_named(self, media_type: &str) -> bool {
        match self {
            Self::Wav => matches!(
                media_type,
                "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave"
            ),
            Self::Ogg => media_type == "audio/ogg",
        }
    }

    /// Whether it is of the codecs that a media range asks for (RFC 6381).
    fn is_of(self, codecs: &str) -> bool {
        codecs.trim_matches('"').split(',').any(|codec| {
            let codec = codec.trim();
            match self {
                Self::Wav => codec == "1",
                Self::Ogg => codec.eq_ignore_ascii_case("opus"),
            }
        })
    }
}

impl Wish {
    /// Reads the query's `format`, which comes before `Accept`. Of the `offered` formats the most wanted
    /// is chosen; where a client is indifferent, the first.
    pub(crate) fn read(
        query: Option<&str>,
        headers: &HeaderMap,
        offered: &[Format],
    ) -> Result<Self, ApiError> {
        if let Some(name) = query {
            if name.eq_ignore_ascii_case("original") {
                return Ok(Self::Original);
            }
            let mut offered = offered.iter();
            let format = offered.find(|format| name.eq_ignore_ascii_case(format.extension()));
            return format
                .map(|f| Self::Format(*f))
                .ok_or(ApiError::NotAcceptable);
        }
        let format = most_wanted(headers, offered).ok_or(ApiError::NotAcceptable)?;
        Ok(Self::Format(format))
    }
}

fn most_wanted(headers: &HeaderMap, offered: &[Format]) -> Option<Format> {
    if !headers.contains_key(header::ACCEPT) {
        return offered.first().copied();
    }
    let fields = headers.get_all(header::ACCEPT).iter();
    let ranges: Vec<MediaRange> = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(elements)
        .filter_map(MediaRange::read)
        .collect();
    let mut best = None;
    for format in offered {
        let weight = weight_of(*format, &ranges);
        if weight > 0 && best.is_none_or(|(_, weight_of_best)| weight > weight_of_best) {
            best = Some((*format, weight));
        }
    }
    best.map(|(format, _)| format)
}

/// The elements of a list; a comma within quotes divides nothing.
fn elements(field: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    field.split(move |c: char| {
        is_quoted ^= c == '"';
        c == ',' && !is_quoted
    })
}

/// The weight of the range that names `format` most exactly: `audio/wav;q=0, */*` refuses WAV.
fn weight_of(format: Format, ranges: &[MediaRange]) -> u16 {
    let matching = ranges
        .iter()
        .filter_map(|range| Some((range.exactness(format)?, range.weight)));
    matching
        .max_by_key(|(exactness, _)| *exactness)
        .map_or(0, |(_, weight)| weight)
}

/// An element of `Accept`.
struct MediaRange {
    /// In lower case.
    name: String,
    codecs: Option<String>,
    /// From 0 to 1000.
    weight: u16,
}

impl MediaRange {
    /// `None` for one whose weight cannot be read: it says nothing.
    fn read(element: &str) -> Option<Self> {
        let mut parts = element.split(';').map(str::trim);
        let mut range = Self {
            name: parts.next()?.to_ascii_lowercase(),
            codecs: None,
            weight: 1000,
        };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            if name.eq_ignore_ascii_case("q") {
                range.weight = weight(value)?;
            } else if name.eq_ignore_ascii_case("codecs") {
                range.codecs = Some(value.to_owned());
            }
        }
        Some(range)
    }

    /// How exactly it names `format`; `None` where it does not.
    fn exactness(&self, format: Format) -> Option<u8> {
        match (self.name.as_str(), &self.codecs) {
            (name, None) if format.is_named(name) => Some(2),
            (name, Some(codecs)) if format.is_named(name) && format.is_of(codecs) => Some(3),
            ("audio/*", _) => Some(1),
            ("*/*", _) => Some(0),
            _ => None,
        }
    }
}

/// `0.25` as thousandths.
fn weight(text: &str) -> Option<u16> {
    let weight: f32 = text.parse().ok()?;
    (0.0..=1.0)
        .contains(&weight)
        .then(|| (weight * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::Format::{Ogg, Wav};
    use super::*;

    fn wish(query: Option<&str>, accept: &[&str]) -> Option<Wish> {
        let mut headers = HeaderMap::new();
        for field in accept {
            headers.append(header::ACCEPT, field.parse().unwrap());
        }
        Wish::read(query, &headers, &Format::ALL).ok()
    }

    #[test]
    fn the_most_wanted_format_is_given_and_wav_to_the_indifferent() {
        for (accept, format) in [
            (&[][..], Some(Wav)),
            (&["*/*"], Some(Wav)),
            (&["audio/*;q=0.5"], Some(Wav)),
            (&["audio/ogg"], Some(Ogg)),
            (&["AUDIO/OGG; Codecs=\"Opus\""], Some(Ogg)),
            (&["audio/ogg; codecs=\"vorbis, opus\""], Some(Ogg)),
            (&["audio/ogg; codecs=vorbis"], None),
            (&["audio/ogg; codecs=vorbis, */*;q=0.1"], Some(Wav)),
            (&["audio/wav; codecs=1"], Some(Wav)),
            (&["audio/wav; codecs=7"], None),
            (&["audio/ogg, audio/x-wav; q=0.1"], Some(Ogg)),
            (&["audio/ogg;q=0.1, audio/wave; q=0.2"], Some(Wav)),
            (&["audio/ogg;q=0.5", "audio/wav;q=0.4"], Some(Ogg)),
            (&["audio/ogg, audio/wav"], Some(Wav)),
            (&["audio/wav;q=0, */*"], Some(Ogg)),
            (&["audio/wav;q=0, audio/ogg; q=0.000, */*"], None),
            (&["audio/*;q=0.2, audio/ogg;q=0.1"], Some(Wav)),
            (&["audio/mpeg"], None),
            (&["text/html, */*;q=0.8"], Some(Wav)),
            (&["audio/ogg;q=much"], None),
            (&["audio/ogg;q=2"], None),
            (&[""], None),
            // What Firefox asks for with an audio element.
            (
                &[
                    "audio/webm,audio/ogg,audio/wav,audio/*;q=0.9,application/ogg;q=0.7,video/*;q=0.6,*/*;q=0.5",
                ],
                Some(Wav),
            ),
        ] {
            assert_eq!(wish(None, accept), format.map(Wish::Format), "{accept:?}");
        }
    }

    #[test]
    fn the_query_comes_before_accept() {
        for (query, wished) in [
            ("wav", Some(Wish::Format(Wav))),
            ("WAV", Some(Wish::Format(Wav))),
            ("ogg", Some(Wish::Format(Ogg))),
            ("original", Some(Wish::Original)),
            ("mp3", None),
            ("", None),
        ] {
            assert_eq!(wish(Some(query), &["audio/mpeg"]), wished, "{query}");
        }
    }

    #[test]
    fn what_is_not_offered_is_not_given() {
        let accept = [(header::ACCEPT, "audio/ogg".parse().unwrap())];
        let headers = accept.into_iter().collect();
        assert!(Wish::read(None, &headers, &[Wav]).is_err());
        assert!(Wish::read(Some("ogg"), &HeaderMap::new(), &[Wav]).is_err());
    }
}
