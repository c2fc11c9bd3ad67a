//! Parameters of OAuth requests, as a query or as a form.

use std::collections::HashMap;

/// Parameters of a request. One that comes empty counts as missing (RFC 6749, 3.1).
#[derive(Debug, Default)]
pub(crate) struct Params(HashMap<String, String>);

/// A parameter came twice, which RFC 6749 (3.1, 3.2) forbids; or there are far too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// More parameters than any request has.
const MOST: usize = 64;

impl Params {
    /// Reads `a=b&c=d` in the encoding of forms.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        let mut params = HashMap::new();
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            let before = params.insert(name.into_owned(), value.into_owned());
            if before.is_some() || params.len() > MOST {
                return Err(Malformed);
            }
        }
        params.retain(|_, value| !value.is_empty());
        Ok(Self(params))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_decoded_and_an_empty_one_is_missing() {
        let params = Params::parse("a=b+c%2B&d=&e").unwrap();
        assert_eq!(params.get("a"), Some("b c+"));
        assert_eq!((params.get("d"), params.get("e")), (None, None));
    }

    #[test]
    fn a_parameter_that_comes_twice_is_refused_even_where_it_is_empty() {
        assert!(Params::parse("a=1&a=1").is_err());
        assert!(Params::parse("a=&a=1").is_err());
        let many: String = (0..100).map(|n| format!("p{n}=1&")).collect();
        assert!(Params::parse(&many).is_err());
    }
}
