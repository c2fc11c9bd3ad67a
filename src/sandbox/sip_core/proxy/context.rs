//! What the proxy holds of a request that it forwards (RFC 3261 section 16.7): its branches, what is to be tried
//! after them, and the best response so far.

use std::collections::VecDeque;

use crate::domain::Msisdn;
use crate::sandbox::sip_core::proxy::client::ClientId;
use crate::sandbox::sip_core::proxy::client::Outgoing;
use crate::sandbox::sip_core::proxy::retarget::DivertReason;
use crate::sandbox::sip_core::proxy::routing::Leg;
use crate::sandbox::sip_core::proxy::routing::Side;
use crate::sip::flow::Flow;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Request;
use crate::sip::message::Response;
use crate::sip::message::StatusCode;

/// A request that is forwarded.
#[derive(Debug)]
pub(super) struct Context {
    /// What each branch begins with.
    pub(super) request: Request,
    /// Of the request as it came.
    pub(super) loop_hash: String,
    /// Where it came from.
    pub(super) upstream: Flow,
    /// What is known of a call between numbers.
    pub(super) call: Option<Call>,
    /// What is to be tried, one after the other.
    pub(super) plan: VecDeque<Step>,
    /// Branches whose final response is awaited.
    pub(super) live: Vec<ClientId>,
    /// Branches that still take responses, of which a late 2xx is one.
    pub(super) clients: usize,
    pub(super) best: Option<Final>,
    /// What all 401 and 407 ask for (RFC 3261 section 16.7 step 7).
    pub(super) challenges: Vec<(HeaderName, HeaderValue)>,
    pub(super) state: State,
    /// Nobody answered within the ring timeout.
    pub(super) rang_too_long: bool,
    /// A phone could be tried at all.
    pub(super) had_phone: bool,
    /// Why the call goes on to endpoints.
    pub(super) diverted: Option<DivertReason>,
}

/// A call between numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) call_id: String,
    pub(super) caller: Option<Msisdn>,
    pub(super) called: Msisdn,
    /// The call is with an endpoint that may send it back.
    pub(super) looping: Option<Looping>,
}

/// A call that went to an endpoint first (leg 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Looping {
    pub(super) side: Side,
    pub(super) sip_uri: String,
}

/// What is to be tried.
#[derive(Debug)]
pub(super) enum Step {
    /// All of these at once.
    Together(Vec<Outgoing>),
    /// This endpoint, when the phone was busy, did not answer or could not be reached.
    Fallback(Leg),
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// No final response yet.
    Open,
    /// The caller gave up.
    Cancelled,
    /// A final response went back.
    Over,
}

/// A final response other than 2xx: of a branch, or of our own for one that gave none.
#[derive(Debug)]
pub(super) enum Final {
    Of(Box<Response>),
    Own(StatusCode),
}

impl Final {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Of(response) => response.status,
            Self::Own(status) => *status,
        }
    }
}

impl Context {
    pub(super) fn new(request: Request, loop_hash: String, upstream: Flow) -> Self {
        Self {
            request,
            loop_hash,
            upstream,
            call: None,
            plan: VecDeque::new(),
            live: Vec::new(),
            clients: 0,
            best: None,
            challenges: Vec::new(),
            state: State::Open,
            rang_too_long: false,
            had_phone: false,
            diverted: None,
        }
    }

    /// A branch came out so.
    pub(super) fn collect(&mut self, new: Final) {
        if let Final::Of(response) = &new {
            let asks = match response.status {
                StatusCode::UNAUTHORIZED => Some(HeaderName::WwwAuthenticate),
                StatusCode::PROXY_AUTHENTICATION_REQUIRED => Some(HeaderName::ProxyAuthenticate),
                _ => None,
            };
            if let Some(name) = asks {
                let values = response.headers.all(&name);
                let values = values.map(|value| (name.clone(), value.clone()));
                self.challenges.extend(values);
            }
        }
        let better = |old: &Final| rank(new.status()) < rank(old.status());
        if self.best.as_ref().is_none_or(better) {
            self.best = Some(new);
        }
    }

    /// Why the call may go to a fallback endpoint now, if it may.
    pub(super) fn reason_to_divert(&self) -> Option<DivertReason> {
        if self.diverted.is_some() {
            return self.diverted;
        }
        if !self.had_phone {
            return Some(DivertReason::NotLoggedIn);
        }
        if self.rang_too_long {
            return Some(DivertReason::NoAnswer);
        }
        DivertReason::of_status(self.best.as_ref()?.status())
    }
}

/// The order of choice (RFC 3261 section 16.7 step 6): 6xx, then the lowest class; within 4xx first what the caller
/// can do something about, last what says no more than that the branch ended.
fn rank(status: StatusCode) -> (u16, u16) {
    let code = status.code();
    let class = if code >= 600 { 0 } else { code / 100 };
    let within = match code {
        401 | 407 | 415 | 420 | 484 => 0,
        408 | 487 => 2,
        _ => 1,
    };
    (class, within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best_of(codes: &[u16]) -> u16 {
        let uri = "sip:a@b".parse().unwrap();
        let request = Request::new(crate::sip::message::Method::Invite, uri);
        let flow = Flow {
            transport: crate::sip::flow::Transport::Udp,
            local: "127.0.0.1:1".parse().unwrap(),
            remote: "127.0.0.1:2".parse().unwrap(),
            connection: 0,
        };
        let mut context = Context::new(request, String::new(), flow);
        for code in codes {
            context.collect(Final::Own(StatusCode::new(*code).unwrap()));
        }
        context.best.unwrap().status().code()
    }

    #[test]
    fn the_best_response_is_chosen_as_the_standard_says() {
        assert_eq!(best_of(&[503, 486, 408]), 486);
        assert_eq!(best_of(&[487, 480]), 480);
        assert_eq!(best_of(&[486, 407]), 407);
        assert_eq!(best_of(&[486, 302, 404]), 302);
        assert_eq!(best_of(&[200 + 102, 603]), 603);
        assert_eq!(best_of(&[600, 603]), 600);
        assert_eq!(best_of(&[486, 480]), 486);
    }
}
