//! Header names, values and the list of them.

use bytes::Bytes;

use crate::sip::message::lex;

/// Declares the names that the code knows: variant, long form, compact form.
macro_rules! header_names {
    ($($variant:ident $long:literal $($compact:literal)?,)*) => {
        /// Header names that the code knows; compact forms read as the long one, any other is kept as
        /// written. Names compare without case (RFC 3261 7.3.1).
        #[derive(Debug, Clone)]
        #[allow(missing_docs, reason = "each is the header of that name")]
        pub enum HeaderName {
            $($variant,)*
            /// Any other name; make it with `HeaderName::from`, so that known names are found.
            Other(Box<str>),
        }

        impl HeaderName {
            /// The long form.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $long,)*
                    Self::Other(name) => name,
                }
            }
        }

        const KNOWN: &[(&str, HeaderName)] = &[
            $(($long, HeaderName::$variant), $(($compact, HeaderName::$variant),)?)*
        ];
    };
}

header_names! {
    Accept "Accept",
    AcceptEncoding "Accept-Encoding",
    AcceptLanguage "Accept-Language",
    AlertInfo "Alert-Info",
    Allow "Allow",
    AllowEvents "Allow-Events" "u",
    Authorization "Authorization",
    CallId "Call-ID" "i",
    Contact "Contact" "m",
    ContentDisposition "Content-Disposition",
    ContentEncoding "Content-Encoding" "e",
    ContentLanguage "Content-Language",
    ContentLength "Content-Length" "l",
    ContentType "Content-Type" "c",
    CSeq "CSeq",
    Date "Date",
    Diversion "Diversion",
    Event "Event" "o",
    Expires "Expires",
    From "From" "f",
    HistoryInfo "History-Info",
    Identity "Identity" "y",
    InfoPackage "Info-Package",
    MaxForwards "Max-Forwards",
    MimeVersion "MIME-Version",
    MinExpires "Min-Expires",
    MinSe "Min-SE",
    PAssertedIdentity "P-Asserted-Identity",
    PCalledPartyId "P-Called-Party-ID",
    PPreferredIdentity "P-Preferred-Identity",
    Privacy "Privacy",
    ProxyAuthenticate "Proxy-Authenticate",
    ProxyAuthorization "Proxy-Authorization",
    ProxyRequire "Proxy-Require",
    RAck "RAck",
    Reason "Reason",
    RecordRoute "Record-Route",
    RecvInfo "Recv-Info",
    ReferTo "Refer-To" "r",
    ReferredBy "Referred-By" "b",
    Replaces "Replaces",
    Require "Require",
    RetryAfter "Retry-After",
    Route "Route",
    RSeq "RSeq",
    Server "Server",
    SessionExpires "Session-Expires" "x",
    SessionId "Session-ID",
    Subject "Subject" "s",
    SubscriptionState "Subscription-State",
    Supported "Supported" "k",
    Timestamp "Timestamp",
    To "To" "t",
    Unsupported "Unsupported",
    UserAgent "User-Agent",
    Via "Via" "v",
    Warning "Warning",
    WwwAuthenticate "WWW-Authenticate",
}

/// A hash table over `KNOWN` with open addressing, made at compile time: places plus one, 0 where free.
const SLOTS: [u8; 256] = {
    let mut slots = [0; 256];
    let mut place = 0;
    while place < KNOWN.len() {
        let mut at = slot(KNOWN[place].0.as_bytes());
        while slots[at] != 0 {
            at = (at + 1) % slots.len();
        }
        slots[at] = place as u8 + 1;
        place += 1;
    }
    slots
};

/// Spreads names by length, first and last letter.
const fn slot(name: &[u8]) -> usize {
    match name {
        [first, .., last] => {
            ((*first | 0x20) as usize * 7 + (*last | 0x20) as usize * 31 + name.len() * 5) % 256
        }
        [only] => (*only | 0x20) as usize,
        [] => 0,
    }
}

impl HeaderName {
    /// The known name that is written so, in its long or compact form.
    fn known(name: &str) -> Option<&'static Self> {
        let mut at = slot(name.as_bytes());
        loop {
            let place = usize::from(*SLOTS.get(at)?).checked_sub(1)?;
            let (known, found) = KNOWN.get(place)?;
            if known.eq_ignore_ascii_case(name) {
                return Some(found);
            }
            at = (at + 1) % SLOTS.len();
        }
    }
}

impl From<&str> for HeaderName {
    fn from(name: &str) -> Self {
        Self::known(name)
            .cloned()
            .unwrap_or_else(|| Self::Other(name.into()))
    }
}

impl PartialEq for HeaderName {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Other(one), Self::Other(two)) => one.eq_ignore_ascii_case(two),
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl Eq for HeaderName {}

impl std::hash::Hash for HeaderName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        if let Self::Other(name) = self {
            name.to_ascii_lowercase().hash(state);
        }
    }
}

impl std::fmt::Display for HeaderName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Value of one header line: unfolded, outer white space off, otherwise byte for byte (it need not be
/// UTF-8). It never holds a CR or LF, so that no value can start another line: making one from text
/// turns them into spaces.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct HeaderValue(Bytes);

impl HeaderValue {
    /// A value that the parser has cut out of one logical line.
    pub(super) fn from_line(line: Bytes) -> Self {
        debug_assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n')));
        Self(line)
    }

    /// The same in memory of its own: the message that it came in is not kept for its sake.
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, when it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The text; what is not UTF-8 is replaced.
    pub fn to_str_lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for HeaderValue {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<Vec<u8>> for HeaderValue {
    fn from(mut bytes: Vec<u8>) -> Self {
        for byte in &mut bytes {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        let bytes = Bytes::from(bytes);
        let trimmed = bytes.slice_ref(lex::trim(&bytes));
        Self(trimmed)
    }
}

impl AsRef<[u8]> for HeaderValue {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.to_str_lossy(), f)
    }
}

/// Headers in order of arrival.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    pub(super) fn with_capacity(lines: usize) -> Self {
        Self(Vec::with_capacity(lines))
    }

    /// The value of the first line of this name.
    pub fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.0
            .iter()
            .find(|(has, _)| has == name)
            .map(|(_, value)| value)
    }

    /// The values of all lines of this name.
    pub fn all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a HeaderValue> {
        self.0
            .iter()
            .filter(move |(has, _)| has == name)
            .map(|(_, value)| value)
    }

    /// The comma-separated values over all lines of this name, split with regard to quotes and `<>`,
    /// trimmed. Empty ones are left out.
    pub fn list<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.all(name)
            .flat_map(|line| lex::split(line.as_bytes(), b','))
            .filter(|value| !value.is_empty())
    }

    /// As [`Headers::list`], each as a value of its own that shares the message's memory.
    pub fn list_values<'a>(
        &'a self,
        name: &'a HeaderName,
    ) -> impl Iterator<Item = HeaderValue> + 'a {
        self.all(name).flat_map(|line| {
            let values = lex::split(line.as_bytes(), b',').filter(|value| !value.is_empty());
            values.map(|value| HeaderValue(line.0.slice_ref(value)))
        })
    }

    /// Whether there is a line of this name.
    pub fn has(&self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Adds a line at the end.
    pub fn push(&mut self, name: HeaderName, value: impl Into<HeaderValue>) {
        self.0.push((name, value.into()));
    }

    /// Adds a line before all others.
    pub fn push_front(&mut self, name: HeaderName, value: impl Into<HeaderValue>) {
        self.0.insert(0, (name, value.into()));
    }

    /// Replaces all lines of this name by one, which stands where the first of them stood, else at the end.
    pub fn set(&mut self, name: HeaderName, value: impl Into<HeaderValue>) {
        let value = value.into();
        let Some(first) = self.0.iter().position(|(has, _)| *has == name) else {
            return self.0.push((name, value));
        };
        let mut at = 0;
        self.0.retain(|(has, _)| {
            at += 1;
            at <= first + 1 || *has != name
        });
        if let Some(line) = self.0.get_mut(first) {
            line.1 = value;
        }
    }

    /// Replaces the value of the first line of this name; without one, adds it before all others.
    pub fn set_first(&mut self, name: HeaderName, value: impl Into<HeaderValue>) {
        match self.0.iter_mut().find(|(has, _)| *has == name) {
            Some(line) => line.1 = value.into(),
            None => self.push_front(name, value),
        }
    }

    /// Removes all lines of this name.
    pub fn remove(&mut self, name: &HeaderName) {
        self.0.retain(|(has, _)| has != name);
    }

    /// Removes the first line of this name.
    pub fn remove_first(&mut self, name: &HeaderName) {
        if let Some(at) = self.0.iter().position(|(has, _)| has == name) {
            self.0.remove(at);
        }
    }

    /// All lines in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::HeaderName;
    use super::HeaderValue;
    use super::Headers;
    use super::KNOWN;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for (written, name) in KNOWN {
            assert_eq!(HeaderName::from(*written), *name);
            assert_eq!(HeaderName::from(written.to_uppercase().as_str()), *name);
            assert_eq!(HeaderName::from(written.to_lowercase().as_str()), *name);
            assert!(
                !matches!(HeaderName::from(*written), HeaderName::Other(_)),
                "{written}"
            );
        }
        assert_eq!(HeaderName::from("X-Own"), HeaderName::from("x-oWN"));
        assert_eq!(HeaderName::from("X-Own").as_str(), "X-Own");
        assert_ne!(HeaderName::from(""), HeaderName::Via);
    }

    #[test]
    fn no_value_can_start_another_line() {
        let value = HeaderValue::from(" a\r\nInjected: b\r\n");
        assert_eq!(value.as_str(), Some("a  Injected: b"));
    }

    #[test]
    fn lists_split_outside_quotes_and_brackets_over_all_lines() {
        let mut headers = Headers::default();
        headers.push(
            HeaderName::Diversion,
            r#""Doe, \", J" <sip:a,b@c>;x="1,2" , ,<sip:d@e>"#,
        );
        headers.push(HeaderName::Supported, "timer");
        headers.push(HeaderName::Diversion, "<sip:f@g>");
        let expected = [
            r#""Doe, \", J" <sip:a,b@c>;x="1,2""#,
            "<sip:d@e>",
            "<sip:f@g>",
        ];
        assert!(
            headers
                .list(&HeaderName::Diversion)
                .eq(expected.map(str::as_bytes))
        );
        assert!(
            headers
                .list_values(&HeaderName::Diversion)
                .eq(expected.map(HeaderValue::from))
        );
    }

    #[test]
    fn set_replaces_all_lines_in_the_place_of_the_first() {
        let mut headers = Headers::default();
        for (name, value) in [
            ("To", "1"),
            ("Via", "2"),
            ("To", "3"),
            ("From", "4"),
            ("To", "5"),
        ] {
            headers.push(name.into(), value);
        }
        headers.set(HeaderName::To, "x");
        headers.set(HeaderName::CSeq, "y");
        let lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        assert_eq!(
            lines,
            [r#"To="x""#, r#"Via="2""#, r#"From="4""#, r#"CSeq="y""#]
        );
    }
}
