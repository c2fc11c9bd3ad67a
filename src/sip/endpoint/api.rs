//! What goes into and comes out of the endpoint.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::sip::digest::Credentials;
use crate::sip::flow::Flow;
use crate::sip::flow::ResolveId;
use crate::sip::flow::Target;
use crate::sip::flow::Transport;
use crate::sip::message::HeaderName;
use crate::sip::message::HeaderValue;
use crate::sip::message::Method;
use crate::sip::message::Request;
use crate::sip::message::Response;
use crate::sip::message::StatusCode;
use crate::sip::message::Uri;

/// Names a call from its INVITE on, in commands and events. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallHandle(pub(super) u64);

/// Names a request outside of calls. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestHandle(pub(super) u64);

/// Names one offer of the peer, so that a late answer cannot meet a newer offer. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferId(pub(super) u64);

/// What the driver must do, in the order given.
#[derive(Debug)]
pub enum Output {
    /// Send one message on a flow: for UDP a datagram from the socket bound to `flow.local` to
    /// `flow.remote`, else on the connection. If the connection has closed meanwhile, drop it.
    Send {
        /// Where to.
        flow: Flow,
        /// One whole message.
        bytes: Bytes,
    },
    /// Find the addresses of a target (RFC 3263) and answer with `Endpoint::resolved`.
    Resolve {
        /// To be given back.
        id: ResolveId,
        /// What to look up.
        target: Target,
    },
    /// Open a connection and answer with `Endpoint::connected` or `Endpoint::connect_failed`.
    Connect {
        /// To be given back.
        id: ResolveId,
        /// Any but UDP.
        transport: Transport,
        /// Where to.
        remote: SocketAddr,
        /// The name a certificate must bear and a WebSocket is asked for, where the target was a name.
        server_name: Option<String>,
    },
    /// Close a connection: a stranger sends too much on it. `Endpoint::flow_closed` must follow.
    Close {
        /// The connection.
        flow: Flow,
    },
    /// Something the application, the log or the metrics want to know.
    Event(Event),
}

/// News from the endpoint.
///
/// A call begins with [`Event::Incoming`] or `Endpoint::call`, and exactly one [`Event::Ended`] ends it;
/// no event and no valid command bears its handle after that.
#[derive(Debug)]
pub enum Event {
    /// An INVITE from a trusted peer that passed all checks of RFC 3261 section 8.2. 100 has been sent.
    Incoming {
        /// The new call: to be answered or rejected.
        call: CallHandle,
        /// The INVITE.
        request: Box<Request>,
        /// Where it came from.
        flow: Flow,
        /// Its session description; none is a late offer: the answer command then bears our offer.
        offer: Option<Bytes>,
    },
    /// The final 200 to the INVITE has been sent (after the PRACK, where a reliable 183 went before).
    Accepted {
        /// The call.
        call: CallHandle,
    },
    /// The caller has our answer (ACK), or we have his (in ACK or PRACK). Once after each INVITE that was
    /// accepted at its start; for a later re-INVITE only when it brings an answer.
    Confirmed {
        /// The call.
        call: CallHandle,
        /// The peer's answer, where the offer was ours.
        answer: Option<Bytes>,
    },
    /// A re-INVITE, UPDATE or PRACK that wants a session description. Decide with `accept_offer` or
    /// `reject_offer`; what is not decided in time is refused with 500.
    Offer {
        /// The call.
        call: CallHandle,
        /// To be given back.
        id: OfferId,
        /// The description offered; none in a re-INVITE without body, which wants an offer from us.
        offer: Option<Bytes>,
    },
    /// The answer to an offer of ours, made by `Endpoint::offer`.
    OfferAnswered {
        /// The call.
        call: CallHandle,
        /// The peer's description, or the status of the refusal (491, 488, …; 408 for no answer).
        answer: Result<Option<Bytes>, StatusCode>,
    },
    /// An INFO arrived, with a key or without body, and was answered 200.
    Info {
        /// The call.
        call: CallHandle,
        /// As written; empty when there was none.
        content_type: String,
        /// The body.
        body: Bytes,
    },
    /// A provisional response to an outgoing call.
    Progress {
        /// The call.
        call: CallHandle,
        /// 100, 180, 183, …
        status: StatusCode,
        /// A session description (early media), or a part of the answer.
        description: Option<Bytes>,
    },
    /// An outgoing call was answered. The ACK is sent, except when [`Event::Answered::offer_made`] is
    /// false: then `description` is the peer's offer and `Endpoint::acknowledge` must bear our answer.
    Answered {
        /// The call.
        call: CallHandle,
        /// The peer's session description.
        description: Option<Bytes>,
        /// Whether our INVITE bore an offer.
        offer_made: bool,
        /// The response.
        response: Box<Response>,
    },
    /// What came of a request outside of calls; its handle is dead.
    Replied {
        /// The request.
        request: RequestHandle,
        /// Its outcome.
        reply: LoneReply,
    },
    /// The call is over; its handle is dead.
    Ended {
        /// The call.
        call: CallHandle,
        /// Why.
        end: DialogEnd,
    },
    /// A stranger sent a request. At most once per peer and minute, for the log.
    Untrusted {
        /// Who.
        peer: IpAddr,
        /// Requests of this peer that were refused or dropped since the last such event.
        refused: u32,
    },
    /// Something to count: why an input was dropped or refused, a timeout, a retransmission.
    Counted(&'static str),
}

/// Why a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialogEnd {
    /// The caller (the peer, or we) gave up before the answer: CANCEL, BYE, or the Expires of its INVITE.
    Cancelled,
    /// We rejected the INVITE.
    Rejected,
    /// The peer hung up.
    ByeReceived,
    /// We hung up.
    ByeSent,
    /// No ACK came for our 2xx within 64*T1. BYE was sent.
    AckTimeout,
    /// No PRACK came for our reliable provisional response within 64*T1. The INVITE was refused with 504.
    PrackTimeout,
    /// We offered, and the ACK or PRACK bore no answer. BYE was sent, or the INVITE refused.
    NoAnswer,
    /// The session timer ran out, or a refresh failed (RFC 4028). BYE was sent.
    SessionExpired,
    /// The application did not decide on the INVITE within the limit: 480 was sent; or it did not answer
    /// the offer in the 2xx to its own INVITE: ACK and BYE were sent.
    NotDecided,
    /// The peer has lost the call: it answered an offer of ours with 481 or 408, or not at all. BYE was sent.
    PeerGone,
    /// Our INVITE was refused, with this response.
    Refused(Box<Response>),
    /// Our INVITE was not answered in time, or not at all (timer B).
    Timeout,
    /// No way to the peer: no address, no connection.
    TransportFailed,
}

/// An outgoing call.
#[derive(Debug, Clone)]
pub struct OutgoingRequest {
    /// Who is called: the Request-URI, and the To header if none is given.
    pub target: Uri,
    /// The From URI; without it our own from the configuration.
    pub from: Option<Uri>,
    /// A URI for the To header that differs from the target.
    pub to: Option<Uri>,
    /// An outbound proxy: a first Route.
    pub route: Option<Uri>,
    /// The Call-ID, for who must know it beforehand; it must be unique in the world.
    pub call_id: Option<String>,
    /// The session description; none asks the peer for an offer.
    pub offer: Option<Bytes>,
    /// Whether reliable provisional responses are asked for (`Supported: 100rel`). Needs an offer.
    pub reliable_provisional: bool,
    /// Whether they are demanded (`Require: 100rel`). Needs an offer.
    pub require_reliable: bool,
    /// More headers, e.g. Diversion.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// With which 401 and 407 are answered.
    pub credentials: Option<Credentials>,
}

impl OutgoingRequest {
    /// A plain call to `target` with `offer`.
    pub fn new(target: Uri, offer: Option<Bytes>) -> Self {
        Self {
            target,
            from: None,
            to: None,
            route: None,
            call_id: None,
            offer,
            reliable_provisional: false,
            require_reliable: false,
            headers: Vec::new(),
            credentials: None,
        }
    }
}

/// A request outside of any call: REGISTER, OPTIONS. A REGISTER bears our Contact for the flow that it is sent on.
#[derive(Debug, Clone)]
pub struct LoneRequest {
    /// What is asked for.
    pub method: Method,
    /// The Request-URI.
    pub target: Uri,
    /// A first Route, where the request does not go to the target itself.
    pub route: Option<Uri>,
    /// Who asks.
    pub from: Uri,
    /// About whom.
    pub to: Uri,
    /// The same for all requests of a registration.
    pub call_id: String,
    /// Rises with each of them.
    pub cseq: u32,
    /// More headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// With which 401 and 407 are answered. Each such answer raises the number in CSeq.
    pub credentials: Option<Credentials>,
}

/// What came of a request outside of calls.
#[derive(Debug, Clone)]
pub enum LoneReply {
    /// A final response.
    Response {
        /// The response.
        response: Box<Response>,
        /// The request as it was sent last.
        request: Arc<Request>,
    },
    /// None in time.
    Timeout,
    /// There was no way to send it.
    Unreachable,
}

/// Why a command was not carried out. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The call has ended (an [`Event::Ended`] tells why) or never was.
    #[error("the call has ended")]
    NoSuchCall,
    /// The call is not in a state for this: answered twice, an offer no longer pending, …
    #[error("the call is in no state for this")]
    WrongState,
    /// Another offer, of either side, is pending: try again later.
    #[error("another offer is pending")]
    OfferPending,
    /// The endpoint has as many calls or transactions as it may.
    #[error("too many calls or transactions")]
    Full,
}

/// What the endpoint holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Calls, including those whose BYE is under way.
    pub calls: usize,
    /// Server transactions.
    pub server_transactions: usize,
    /// Client transactions, and own requests that wait for an address or a connection.
    pub client_transactions: usize,
    /// Timers that are set.
    pub timers: usize,
}
