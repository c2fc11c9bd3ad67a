//! Where the outside finds the service, and what follows from it: the names and marks of cookies,
//! and which requests come from our own pages.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use url::Url;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The service as a browser sees it.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Scheme, host and port, where `public_url` tells them.
    origin: Option<String>,
    /// Whether browsers come over TLS.
    is_secure: bool,
}

/// Where a browser says that a request was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provenance {
    /// On a page of ours.
    Ours,
    /// On somebody else's page, or on none.
    Foreign,
    /// It does not say: it is old, or no browser.
    Unsaid,
}

impl Site {
    /// The site at `public_url`; empty: at whatever host the request names, without TLS.
    pub(crate) fn new(public_url: &str) -> Self {
        let url = Url::parse(public_url).ok();
        Self {
            is_secure: url.as_ref().is_some_and(|url| url.scheme() == "https"),
            origin: url.map(|url| url.origin().ascii_serialization()),
        }
    }

    /// What the browser says of the place at which the request was made: Fetch Metadata, which no
    /// script can set, or else `Origin` (RFC 6454). A page that sends no referrer sends the origin
    /// `null` with its forms, which tells nothing.
    pub(crate) fn provenance(&self, headers: &HeaderMap) -> Provenance {
        if let Some(site) = headers.get(SEC_FETCH_SITE) {
            return Provenance::ours_if(site == "same-origin");
        }
        match headers.get(header::ORIGIN).map(HeaderValue::to_str) {
            None | Some(Ok("null")) => Provenance::Unsaid,
            Some(Ok(origin)) => Provenance::ours_if(self.is_own(origin, headers)),
            Some(Err(_)) => Provenance::Foreign,
        }
    }

    fn is_own(&self, origin: &str, headers: &HeaderMap) -> bool {
        match &self.origin {
            Some(own) => origin.eq_ignore_ascii_case(own),
            None => {
                let host = headers.get(header::HOST);
                let host = host.and_then(|host| host.to_str().ok());
                origin
                    .strip_prefix("http://")
                    .is_some_and(|authority| host == Some(authority))
            }
        }
    }
}

impl Provenance {
    fn ours_if(is_ours: bool) -> Self {
        if is_ours { Self::Ours } else { Self::Foreign }
    }
}

/// A cookie of ours. Over TLS its name begins with `__Host-`, so that no neighbouring host can set
/// it (RFC 6265bis section 4.1.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// The session's secret.
    Session,
    /// What a sign-in under way is bound to.
    SignIn,
}

impl Cookie {
    fn name(self, site: &Site) -> &'static str {
        match (self, site.is_secure) {
            (Self::Session, true) => "__Host-aftertone",
            (Self::Session, false) => "aftertone",
            (Self::SignIn, true) => "__Host-aftertone-sign-in",
            (Self::SignIn, false) => "aftertone-sign-in",
        }
    }

    /// Its value in a request.
    pub(crate) fn read(self, headers: &HeaderMap, site: &Site) -> Option<String> {
        let name = self.name(site);
        let fields = headers.get_all(header::COOKIE).iter();
        fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(|field| field.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find_map(|(key, value)| (key == name && !value.is_empty()).then(|| value.to_owned()))
    }

    /// The `Set-Cookie` that gives it `value` for so many seconds. `None` where the value cannot
    /// stand in a cookie (RFC 6265 section 4.1.1).
    pub(crate) fn set(self, value: &str, seconds: u64, site: &Site) -> Option<HeaderValue> {
        let is_plain = |b: u8| b.is_ascii_graphic() && !b"\",;\\".contains(&b);
        if !value.bytes().all(is_plain) {
            return None;
        }
        let name = self.name(site);
        let secure = if site.is_secure { "; Secure" } else { "" };
        let text =
            format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::from_str(&text).ok()
    }

    /// The `Set-Cookie` that takes it away.
    pub(crate) fn clear(self, site: &Site) -> HeaderValue {
        self.set("", 0, site)
            .expect("an empty value can stand in a cookie")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        fields.collect()
    }

    #[test]
    fn only_a_page_of_ours_is_ours() {
        use Provenance::{Foreign, Ours, Unsaid};
        let public = "https://voicemail.example.com/";
        for (public_url, fields, expected) in [
            (public, &[][..], Unsaid),
            (public, &[("origin", "null")], Unsaid),
            (public, &[("origin", "https://voicemail.example.com")], Ours),
            (
                public,
                &[("origin", "http://voicemail.example.com")],
                Foreign,
            ),
            (
                public,
                &[("origin", "https://voicemail.example.com.evil.example")],
                Foreign,
            ),
            (
                public,
                &[("origin", "https://voicemail.example.com:8443")],
                Foreign,
            ),
            (
                public,
                &[("origin", "http://evil.example"), ("host", "evil.example")],
                Foreign,
            ),
            (public, &[("sec-fetch-site", "same-origin")], Ours),
            (
                public,
                &[("sec-fetch-site", "same-origin"), ("origin", "null")],
                Ours,
            ),
            (public, &[("sec-fetch-site", "same-site")], Foreign),
            (public, &[("sec-fetch-site", "none")], Foreign),
            (
                public,
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "https://voicemail.example.com"),
                ],
                Foreign,
            ),
            (
                "",
                &[
                    ("origin", "http://127.0.0.1:8080"),
                    ("host", "127.0.0.1:8080"),
                ],
                Ours,
            ),
            (
                "",
                &[
                    ("origin", "http://127.0.0.1:8081"),
                    ("host", "127.0.0.1:8080"),
                ],
                Foreign,
            ),
            ("", &[("origin", "http://127.0.0.1:8080")], Foreign),
        ] {
            let site = Site::new(public_url);
            assert_eq!(
                site.provenance(&headers(fields)),
                expected,
                "{public_url} {fields:?}"
            );
        }
    }

    #[test]
    fn a_cookie_is_read_by_its_whole_name() {
        let site = Site::new("");
        for (field, value) in [
            ("aftertone=abc", Some("abc")),
            ("x=1; aftertone=abc ; y=2", Some("abc")),
            ("xaftertone=abc", None),
            ("aftertone-sign-in=abc", None),
            ("__Host-aftertone=abc", None),
            ("aftertone=", None),
            ("aftertone", None),
        ] {
            let read = Cookie::Session.read(&headers(&[("cookie", field)]), &site);
            assert_eq!(read.as_deref(), value, "{field}");
        }
        let secure = Site::new("https://a.example");
        let both = headers(&[("cookie", "aftertone=tossed; __Host-aftertone=ours")]);
        let read = Cookie::Session.read(&both, &secure);
        assert_eq!(read.as_deref(), Some("ours"));
    }

    #[test]
    fn a_cookie_over_tls_is_bound_to_the_host() {
        let secure = Cookie::Session.set("ab", 60, &Site::new("https://a.example"));
        assert_eq!(
            secure.unwrap(),
            "__Host-aftertone=ab; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"
        );
        let plain = Cookie::SignIn.clear(&Site::new("http://127.0.0.1:8080"));
        assert_eq!(
            plain,
            "aftertone-sign-in=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
        );
        for bad in ["a;b", "a b", "a\"b", "a\r\nb", "ø"] {
            assert_eq!(Cookie::SignIn.set(bad, 1, &Site::new("")), None, "{bad:?}");
        }
    }
}
