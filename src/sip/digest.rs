//! Digest authentication (RFC 3261 section 22, RFC 7616, RFC 8760): challenges, the answers to them, and the check
//! of an answer. Without `qop` it is that of RFC 2069, which old peers still ask for.

use std::fmt;

use md5::Digest;
use md5::Md5;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::sip::header::InvalidHeader;
use crate::sip::message::HeaderName;
use crate::sip::message::Headers;
use crate::sip::message::Method;
use crate::sip::message::Params;
use crate::sip::message::StatusCode;
use crate::sip::message::lex;

/// A hash function, the better one last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
pub enum Algorithm {
    /// What every peer has.
    #[serde(rename = "MD5")]
    Md5,
    /// RFC 8760.
    #[serde(rename = "SHA-256")]
    Sha256,
}

impl Algorithm {
    /// The value of the `algorithm` parameter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    fn from_name(name: Option<&str>) -> Option<Self> {
        let Some(name) = name else {
            return Some(Self::Md5);
        };
        [Self::Md5, Self::Sha256]
            .into_iter()
            .find(|algorithm| name.eq_ignore_ascii_case(algorithm.as_str()))
    }

    /// The hash of `parts` with colons between them, in hex.
    fn hash(self, parts: &[&str]) -> String {
        let text = parts.join(":");
        match self {
            Self::Md5 => hex(&Md5::digest(text)),
            Self::Sha256 => hex(&Sha256::digest(text)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of a WWW-Authenticate or Proxy-Authenticate header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Whose password is wanted.
    pub realm: String,
    /// What the answer is computed over.
    pub nonce: String,
    /// Which hash.
    pub algorithm: Algorithm,
    /// Whether `qop=auth` is offered.
    pub has_qop: bool,
    /// To be given back as it is.
    pub opaque: Option<String>,
    /// The password was right, the nonce too old.
    pub stale: bool,
}

impl Challenge {
    /// Reads a challenge.
    ///
    /// # Errors
    /// When it is not one of Digest, has neither realm nor nonce, or wants a hash or protection that we do not have.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, InvalidHeader> {
        let invalid = InvalidHeader("Authenticate");
        let params = digest_params(value.as_ref()).ok_or(invalid)?;
        let text = |name| params.value(name).map(str::to_owned);
        let qop = params.value("qop");
        let has_auth = |qop: &str| {
            qop.split(',')
                .any(|it| it.trim().eq_ignore_ascii_case("auth"))
        };
        if qop.is_some_and(|qop| !has_auth(qop)) {
            return Err(invalid);
        }
        Ok(Self {
            realm: text("realm").ok_or(invalid)?,
            nonce: text("nonce").ok_or(invalid)?,
            algorithm: Algorithm::from_name(params.value("algorithm")).ok_or(invalid)?,
            has_qop: qop.is_some(),
            opaque: text("opaque"),
            stale: params
                .value("stale")
                .is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        })
    }

    /// The best challenge of a 401 or 407 that we can answer, and the name of the header for the answer.
    pub fn best_of(status: StatusCode, headers: &Headers) -> Option<(Self, HeaderName)> {
        let (asks, answers) = match status {
            StatusCode::UNAUTHORIZED => (HeaderName::WwwAuthenticate, HeaderName::Authorization),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => (
                HeaderName::ProxyAuthenticate,
                HeaderName::ProxyAuthorization,
            ),
            _ => return None,
        };
        let challenges = headers
            .all(&asks)
            .filter_map(|value| Self::parse(value.as_bytes()).ok());
        // The server's first choice among equals (RFC 8760 section 2.4).
        let best = challenges.reduce(|best, next| {
            if next.algorithm > best.algorithm {
                next
            } else {
                best
            }
        })?;
        Some((best, answers))
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest realm={}", quoted(&self.realm))?;
        write!(f, ", nonce={}", quoted(&self.nonce))?;
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", quoted(opaque))?;
        }
        if self.stale {
            f.write_str(", stale=true")?;
        }
        write!(f, ", algorithm={}", self.algorithm.as_str())?;
        if self.has_qop {
            f.write_str(", qop=\"auth\"")?;
        }
        Ok(())
    }
}

/// A user and his password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name that the server knows the user by.
    pub username: String,
    /// His password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// Answers a challenge for a request of this method and Request-URI. `nc` counts the answers with this nonce,
    /// from 1; `cnonce` is ours, and must not be guessable.
    pub fn answer(
        &self,
        challenge: &Challenge,
        method: &Method,
        uri: &str,
        cnonce: &str,
        nc: u32,
    ) -> Answer {
        let mut answer = Answer {
            username: self.username.clone(),
            realm: challenge.realm.clone(),
            nonce: challenge.nonce.clone(),
            uri: uri.to_owned(),
            algorithm: challenge.algorithm,
            qop: challenge.has_qop.then(|| Qop {
                cnonce: cnonce.to_owned(),
                nc,
            }),
            opaque: challenge.opaque.clone(),
            response: String::new(),
        };
        answer.response = answer.expected(&self.password, method);
        answer
    }
}

/// What an answer with `qop=auth` bears in addition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qop {
    /// The client's nonce.
    pub cnonce: String,
    /// How many answers there were with the server's nonce, this one included.
    pub nc: u32,
}

/// The value of an Authorization or Proxy-Authorization header.
///
/// That the nonce is one of his own and fresh, that `nc` rises and that `uri` is that of the request is for the
/// server to see to.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who answers.
    pub username: String,
    /// As in the challenge.
    pub realm: String,
    /// As in the challenge.
    pub nonce: String,
    /// The Request-URI.
    pub uri: String,
    /// Which hash.
    pub algorithm: Algorithm,
    /// `qop=auth`, or nothing as in RFC 2069.
    pub qop: Option<Qop>,
    /// As in the challenge.
    pub opaque: Option<String>,
    response: String,
}

impl Answer {
    /// Reads an answer.
    ///
    /// # Errors
    /// When it is not one of Digest, lacks something, or uses a hash or protection that we do not have.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, InvalidHeader> {
        let invalid = InvalidHeader("Authorization");
        let params = digest_params(value.as_ref()).ok_or(invalid)?;
        let text = |name| params.value(name).map(str::to_owned).ok_or(invalid);
        let qop = match params.value("qop") {
            None => None,
            Some(qop) if qop.eq_ignore_ascii_case("auth") => {
                let nc = text("nc")?;
                Some(Qop {
                    cnonce: text("cnonce")?,
                    nc: u32::from_str_radix(&nc, 16).map_err(|_| invalid)?,
                })
            }
            Some(_) => return Err(invalid),
        };
        Ok(Self {
            username: text("username")?,
            realm: text("realm")?,
            nonce: text("nonce")?,
            uri: text("uri")?,
            algorithm: Algorithm::from_name(params.value("algorithm")).ok_or(invalid)?,
            qop,
            opaque: text("opaque").ok(),
            response: text("response")?,
        })
    }

    /// Whether whoever made this for a request of `method` knows the password.
    pub fn proves(&self, password: &str, method: &Method) -> bool {
        let expected = self.expected(password, method);
        let given = self.response.to_ascii_lowercase();
        bool::from(expected.as_bytes().ct_eq(given.as_bytes()))
    }

    /// RFC 7616 section 3.4.1.
    fn expected(&self, password: &str, method: &Method) -> String {
        let hash = |parts: &[&str]| self.algorithm.hash(parts);
        let user = hash(&[&self.username, &self.realm, password]);
        let request = hash(&[method.as_str(), &self.uri]);
        match &self.qop {
            Some(qop) => {
                let nc = format!("{:08x}", qop.nc);
                hash(&[&user, &self.nonce, &nc, &qop.cnonce, "auth", &request])
            }
            None => hash(&[&user, &self.nonce, &request]),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest username={}", quoted(&self.username))?;
        write!(f, ", realm={}", quoted(&self.realm))?;
        write!(f, ", nonce={}", quoted(&self.nonce))?;
        write!(f, ", uri={}", quoted(&self.uri))?;
        write!(f, ", response=\"{}\"", self.response)?;
        write!(f, ", algorithm={}", self.algorithm.as_str())?;
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", quoted(opaque))?;
        }
        if let Some(qop) = &self.qop {
            let cnonce = quoted(&qop.cnonce);
            write!(f, ", qop=auth, cnonce={cnonce}, nc={:08x}", qop.nc)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("realm", &self.realm)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// The parameters after the scheme, where that is Digest.
fn digest_params(value: &[u8]) -> Option<Params> {
    let (scheme, params) = lex::split_once(lex::trim(value), b' ')?;
    scheme
        .eq_ignore_ascii_case(b"Digest")
        .then(|| Params::from_list(params))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUFASA: &str = "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", uri=\"/dir/index.html\", \
        algorithm=ALG, nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", nc=00000001, \
        cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth, response=\"RESPONSE\", \
        opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";

    fn get() -> Method {
        Method::from("GET")
    }

    #[test]
    fn the_examples_of_rfc_7616_are_proved_by_their_password_and_no_other() {
        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            (
                "SHA-256",
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
        ] {
            let text = MUFASA
                .replace("ALG", algorithm)
                .replace("RESPONSE", response);
            let answer = Answer::parse(&text).unwrap();
            assert!(answer.proves("Circle of Life", &get()), "{algorithm}");
            assert!(!answer.proves("Circle of life", &get()));
            assert!(!answer.proves("Circle of Life", &Method::Register));
            assert_eq!(Answer::parse(answer.to_string()).unwrap(), answer);
        }
    }

    #[test]
    fn an_old_challenge_without_qop_is_answered_the_old_way() {
        // RFC 2069's example with the response of its erratum.
        let challenge = "Digest realm=\"testrealm@host.com\", \
            nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
        let mufasa = Credentials {
            username: "Mufasa".to_owned(),
            password: "CircleOfLife".to_owned(),
        };
        let challenge = Challenge::parse(challenge).unwrap();
        let answer = mufasa.answer(&challenge, &get(), "/dir/index.html", "unused", 1);
        assert_eq!(answer.response, "1949323746fe6a43ef61f9606e7febea");
        assert!(!answer.to_string().contains("cnonce"));
    }

    #[test]
    fn the_best_challenge_that_can_be_answered_is() {
        let mut headers = Headers::default();
        let best = |headers: &Headers| {
            let best = Challenge::best_of(StatusCode::UNAUTHORIZED, headers);
            best.map(|(challenge, name)| (challenge.nonce, name))
        };
        for (nonce, rest) in [
            ("a", "algorithm=SHA-512-256, qop=\"auth\""),
            ("b", "qop=\"auth-int\""),
        ] {
            let value = format!("Digest realm=\"r\", nonce=\"{nonce}\", {rest}");
            headers.push(HeaderName::WwwAuthenticate, value);
        }
        headers.push(HeaderName::WwwAuthenticate, "Basic realm=\"r\"");
        assert_eq!(best(&headers), None);
        for (nonce, rest) in [
            ("c", "algorithm=MD5"),
            ("d", "algorithm=sha-256, qop=\"auth-int, auth\""),
            ("e", "algorithm=SHA-256"),
        ] {
            let value = format!("digest realm=\"r\" , nonce = \"{nonce}\",{rest}");
            headers.push(HeaderName::WwwAuthenticate, value);
        }
        let expected = ("d".to_owned(), HeaderName::Authorization);
        assert_eq!(best(&headers), Some(expected));
        assert_eq!(Challenge::best_of(StatusCode::FORBIDDEN, &headers), None);
    }

    #[test]
    fn a_challenge_reads_as_it_was_written_quotes_included() {
        let challenge = Challenge {
            realm: "a \"quoted\" \\ realm, with a comma".to_owned(),
            nonce: "n".to_owned(),
            algorithm: Algorithm::Sha256,
            has_qop: true,
            opaque: Some("o".to_owned()),
            stale: true,
        };
        assert_eq!(Challenge::parse(challenge.to_string()).unwrap(), challenge);
    }

    #[test]
    fn what_lacks_something_is_no_answer() {
        let whole = MUFASA.replace("ALG", "MD5").replace("RESPONSE", "0");
        assert!(Answer::parse(&whole).is_ok());
        for part in [
            "username=",
            "realm=",
            "uri=",
            "nonce=",
            "nc=",
            "cnonce=",
            "response=",
        ] {
            let without = whole.replacen(part, "x-", 1);
            assert!(Answer::parse(&without).is_err(), "{part}");
        }
        for wrong in ["", "Digest", "Basic QWxhZGRpbg==", "Digest username"] {
            assert!(Answer::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Answer::parse(whole.replace("qop=auth", "qop=auth-int")).is_err());
        assert!(Answer::parse(whole.replace("00000001", "x")).is_err());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let credentials = Credentials {
            username: "4799990001".to_owned(),
            password: "sandbox".to_owned(),
        };
        let challenge = Challenge::parse("Digest realm=\"r\", nonce=\"n\"").unwrap();
        let answer = credentials.answer(&challenge, &Method::Register, "sip:r", "c", 1);
        let printed = format!("{credentials:?} {answer:?}");
        assert!(!printed.contains("9999") && !printed.contains("sandbox"));
    }
}
