//! How an endpoint is told why a call comes to it: History-Info (RFC 7044, TS 24.604), Diversion (RFC 5806), or the
//! cause in its Request-URI (RFC 4458).

use crate::domain::Msisdn;
use crate::sandbox::config::Retargeting;
use crate::sip::header::HistoryEntry;
use crate::sip::message::HeaderName;
use crate::sip::message::Host;
use crate::sip::message::Params;
use crate::sip::message::Request;
use crate::sip::message::StatusCode;

/// Why a call goes on to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DivertReason {
    /// The phone is in another call, or its owner declined.
    Busy,
    NoAnswer,
    /// No phone is registered.
    NotLoggedIn,
    /// The phone is registered and cannot be reached.
    NotReachable,
}

impl DivertReason {
    /// What a final response of a phone means. The others say nothing about where its owner is.
    pub(super) fn of_status(status: StatusCode) -> Option<Self> {
        Some(match status.code() {
            486 | 600 | 603 => Self::Busy,
            408 | 430 | 480 | 500 | 502 | 503 | 504 => Self::NotReachable,
            404 | 410 => Self::NotLoggedIn,
            _ => return None,
        })
    }

    /// The cause in the notation of IMS (TS 24.604 section 4.2).
    const fn cause(self) -> u16 {
        match self {
            Self::Busy => 486,
            Self::NoAnswer => 408,
            Self::NotLoggedIn => 404,
            Self::NotReachable => 503,
        }
    }

    /// The reason of a Diversion, in the upper case that gateways write.
    const fn diversion(self) -> &'static str {
        match self {
            Self::Busy => "USER-BUSY",
            Self::NoAnswer => "NO-ANSWER",
            Self::NotLoggedIn | Self::NotReachable => "UNAVAILABLE",
        }
    }

    /// For people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::NoAnswer => "no answer",
            Self::NotLoggedIn => "no phone is registered",
            Self::NotReachable => "the phone cannot be reached",
        }
    }
}

impl Retargeting {
    /// Tells `reason` in a request whose Request-URI is that of the endpoint already.
    pub(super) fn tell(
        self,
        request: &mut Request,
        called: &Msisdn,
        domain: &Host,
        reason: DivertReason,
    ) {
        if matches!(self, Self::HistoryInfo | Self::Both) {
            history(request, called, domain, reason);
        }
        if matches!(self, Self::Diversion | Self::Both) {
            let line = format!(
                "<sip:{}@{domain};user=phone>;reason={};counter=1;privacy=off",
                called.e164(),
                reason.diversion(),
            );
            // The latest diversion stands on top.
            request.headers.push_front(HeaderName::Diversion, line);
        }
        if self == Self::RequestUri {
            let target = format!("sip:{}%40{domain}", called.e164());
            let params: &mut Params = &mut request.uri.params;
            params.set("target", Some(&target));
            params.set("cause", Some(&reason.cause().to_string()));
        }
    }
}

/// The called number as the first entry, unless there is a history already, and the new target below it.
fn history(request: &mut Request, called: &Msisdn, domain: &Host, reason: DivertReason) {
    let last = request.headers.history();
    let last = last
        .iter()
        .map(HistoryEntry::index)
        .rfind(|index| !index.is_empty());
    let index = match last {
        Some(index) => {
            let numbers: Vec<_> = index.iter().map(u32::to_string).collect();
            numbers.join(".")
        }
        None => {
            let line = format!(
                "<sip:{}@{domain};user=phone?Privacy=none>;index=1",
                called.e164()
            );
            request.headers.push(HeaderName::HistoryInfo, line);
            "1".to_owned()
        }
    };
    let mut target = request.uri.clone();
    target
        .params
        .set("cause", Some(&reason.cause().to_string()));
    let line = format!("<{target}>;index={index}.1;mp={index}");
    request.headers.push(HeaderName::HistoryInfo, line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::Method;

    fn told(how: Retargeting, before: &[(HeaderName, &str)]) -> Request {
        let uri = "sip:+0047112334455@vm.example.com;user=phone";
        let mut request = Request::new(Method::Invite, uri.parse().unwrap());
        for (name, value) in before {
            request.headers.push(name.clone(), *value);
        }
        let called = Msisdn::parse("+47112334455").unwrap();
        let domain = Host::parse("core.example.com").unwrap();
        how.tell(&mut request, &called, &domain, DivertReason::NoAnswer);
        request
    }

    #[test]
    fn history_names_the_called_number_first_and_the_cause_last() {
        let request = told(Retargeting::HistoryInfo, &[]);
        let history = request.headers.history();
        let indexes: Vec<_> = history.iter().map(HistoryEntry::index).collect();
        assert_eq!(indexes, [vec![1], vec![1, 1]]);
        assert_eq!(history[0].uri().dialled().unwrap(), "+47112334455");
        assert_eq!(history[1].cause(), Some(408));
        assert!(!history[0].is_private());
        assert!(!request.headers.has(&HeaderName::Diversion));
    }

    #[test]
    fn a_history_that_is_there_goes_on() {
        let before = "<sip:+1@a>;index=1, <sip:+2@a>;index=1.1";
        let request = told(
            Retargeting::HistoryInfo,
            &[(HeaderName::HistoryInfo, before)],
        );
        let history = request.headers.history();
        assert_eq!(history.len(), 3);
        assert_eq!(history[2].index(), [1, 1, 1]);
    }

    #[test]
    fn the_latest_diversion_stands_on_top() {
        let before = [(HeaderName::Diversion, "<sip:+1@a>;reason=unconditional")];
        let request = told(Retargeting::Both, &before);
        let reasons: Vec<_> = request
            .headers
            .diversions()
            .map(|diversion| diversion.reason())
            .collect();
        let expected = ["no-answer", "unconditional"].map(|it| Some(it.to_owned()));
        assert_eq!(reasons, expected);
        assert!(request.headers.has(&HeaderName::HistoryInfo));
    }

    #[test]
    fn a_request_uri_tells_target_and_cause() {
        let request = told(Retargeting::RequestUri, &[]);
        assert_eq!(request.uri.cause_param(), Some(408));
        let target = request.uri.target_param().unwrap();
        assert_eq!(target, "sip:+47112334455@core.example.com");
    }
}
