//! The few SIP messages of a caller, written and read by hand: the load must cost less than what it measures.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::server::mailbox;

/// Where a caller is reached.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub sip: u16,
    pub rtp: u16,
    pub rtcp: u16,
}

/// The address of a call, its own among all calls of a run.
pub fn address(call: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x7F01_0000 + call)
}

/// The call of an address.
pub fn call_at(address: Ipv4Addr) -> Option<u32> {
    u32::from(address).checked_sub(0x7F01_0000)
}

/// The session description of plain RTP.
pub fn plain_offer(call: u32, ports: Ports) -> String {
    let Ports { rtp, rtcp, .. } = ports;
    let ip = address(call);
    format!(
        "v=0\r\no=- {call} 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio {rtp} RTP/AVP 0 8 101\r\na=rtcp:{rtcp}\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
         a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=maxptime:40\r\na=sendrecv\r\n"
    )
}

/// An INVITE as a mobile core sends it for a diverted call: some 1.2 KB.
pub fn invite(call: u32, ports: Ports, target: &str, sdp: &str) -> String {
    let (sip, callee) = (ports.sip, mailbox(call));
    format!(
        "INVITE sip:voicemail@{target} SIP/2.0\r\n\
         Via: SIP/2.0/UDP 127.0.0.1:{sip};rport;branch=z9hG4bKload{call}i\r\n\
         Max-Forwards: 66\r\n\
         From: \"Caller\" <sip:+4781{call:06}@ims.mnc001.mcc242.3gppnetwork.org;user=phone>;tag=f{call}\r\n\
         To: <sip:{callee}@ims.mnc001.mcc242.3gppnetwork.org;user=phone>\r\n\
         Call-ID: load-{call}@127.0.0.1\r\n\
         CSeq: 1 INVITE\r\n\
         Contact: <sip:load@127.0.0.1:{sip}>\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO\r\n\
         Supported: 100rel, timer, histinfo\r\n\
         Session-Expires: 1800\r\n\
         P-Asserted-Identity: <sip:+4781{call:06}@ims.mnc001.mcc242.3gppnetwork.org>\r\n\
         P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=2420112345678901\r\n\
         P-Charging-Vector: icid-value=load{call};orig-ioi=ims.example.net\r\n\
         Diversion: <sip:{callee}@ims.example.net>;reason=no-answer;counter=1\r\n\
         Privacy: none\r\n\
         User-Agent: load\r\n\
         Content-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{sdp}",
        sdp.len()
    )
}

/// ACK or BYE within the dialog, which are all we send there.
pub fn in_dialog(method: &str, cseq: u32, call: u32, ports: Ports, dialog: &Dialog) -> String {
    let (contact, to) = (&dialog.contact, &dialog.to);
    format!(
        "{method} {contact} SIP/2.0\r\n\
         Via: SIP/2.0/UDP 127.0.0.1:{};rport;branch=z9hG4bKload{call}{method}\r\n\
         Max-Forwards: 66\r\n\
         From: \"Caller\" <sip:+4781{call:06}@ims.mnc001.mcc242.3gppnetwork.org;user=phone>;tag=f{call}\r\n\
         To: {to}\r\n\
         Call-ID: load-{call}@127.0.0.1\r\n\
         CSeq: {cseq} {method}\r\n\
         Content-Length: 0\r\n\r\n",
        ports.sip
    )
}

/// ACK to a refusal, which belongs to the INVITE's transaction.
pub fn ack_refusal(call: u32, ports: Ports, target: &str, to: &str) -> String {
    format!(
        "ACK sip:voicemail@{target} SIP/2.0\r\n\
         Via: SIP/2.0/UDP 127.0.0.1:{};rport;branch=z9hG4bKload{call}i\r\n\
         Max-Forwards: 66\r\n\
         From: \"Caller\" <sip:+4781{call:06}@ims.mnc001.mcc242.3gppnetwork.org;user=phone>;tag=f{call}\r\n\
         To: {to}\r\n\
         Call-ID: load-{call}@127.0.0.1\r\n\
         CSeq: 1 ACK\r\n\
         Content-Length: 0\r\n\r\n",
        ports.sip
    )
}

/// 200 to whatever the server asks.
pub fn ok(request: &Message<'_>) -> String {
    let mut response = "SIP/2.0 200 OK\r\n".to_owned();
    for line in request.head.split("\r\n").skip(1) {
        let name = line.split(':').next().unwrap_or_default();
        if ["Via", "From", "To", "Call-ID", "CSeq"]
            .iter()
            .any(|copied| name.eq_ignore_ascii_case(copied))
        {
            writeln!(response, "{line}\r").expect("a string takes everything");
        }
    }
    response + "Content-Length: 0\r\n\r\n"
}

/// What an answered call needs for its own requests.
#[derive(Debug, Clone, Default)]
pub struct Dialog {
    pub contact: String,
    pub to: String,
}

/// A message of the server.
pub struct Message<'a> {
    head: &'a str,
    body: &'a str,
    pub call: u32,
}

impl<'a> Message<'a> {
    /// None if it is not about one of our calls.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let message = Self {
            head,
            body,
            call: 0,
        };
        let call = message
            .header("Call-ID")?
            .strip_prefix("load-")?
            .split('@')
            .next()?
            .parse()
            .ok()?;
        Some(Self { call, ..message })
    }

    /// The status of a response; none of a request.
    pub fn status(&self) -> Option<u16> {
        self.head.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The method that it is, or that it answers.
    pub fn method(&self) -> &'a str {
        self.header("CSeq")
            .and_then(|cseq| cseq.split_whitespace().nth(1))
            .unwrap_or_default()
    }

    pub fn dialog(&self) -> Option<Dialog> {
        let contact = self.header("Contact")?;
        let uri = contact
            .split_once('<')
            .and_then(|(_, rest)| rest.split_once('>'))
            .map_or(contact, |(uri, _)| uri);
        Some(Dialog {
            contact: uri.to_owned(),
            to: self.to().to_owned(),
        })
    }

    pub fn to(&self) -> &'a str {
        self.header("To").unwrap_or_default()
    }

    /// The port that the session description names.
    pub fn media_port(&self) -> Option<u16> {
        let media = self
            .body
            .split("\r\n")
            .find_map(|line| line.strip_prefix("m=audio "))?;
        media.split(' ').next()?.parse().ok()
    }

    pub fn body(&self) -> &'a str {
        self.body
    }

    fn header(&self, name: &str) -> Option<&'a str> {
        self.head.split("\r\n").skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}
