//! What an INVITE tells about a call: whose mailbox, who calls, and why he ends up here.
//!
//! Only trusted peers get as far as this, so their identity headers are believed. Nothing here
//! opens a mailbox by the caller's number.

#[cfg(test)]
mod tests;

use crate::domain::{Caller, DivertReason, Msisdn, Private};
use crate::sip::header::{NameAddr, Reason};
use crate::sip::message::{HeaderName, Headers, Request, Scheme, Uri};

/// How peers write numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Numbering {
    /// Digits that the core puts after the plus (`00` makes `+47…` to `+0047…`).
    pub strip_prefixes: Vec<String>,
    /// The country of numbers without country code: `47`.
    pub default_country_code: Option<String>,
}

/// Which part of the INVITE named the mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The user of the Request-URI.
    RequestUri,
    /// The `target` of the Request-URI (RFC 4458).
    Target,
    /// P-Called-Party-ID (RFC 7315 4.2).
    PCalledPartyId,
    /// The first entry of History-Info (RFC 7044): who was called to begin with.
    HistoryInfo,
    /// The bottom Diversion (RFC 5806): who diverted first.
    Diversion,
    /// To.
    To,
}

impl Rule {
    /// The name used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestUri => "request-uri",
            Self::Target => "target",
            Self::PCalledPartyId => "p-called-party-id",
            Self::HistoryInfo => "history-info",
            Self::Diversion => "diversion",
            Self::To => "to",
        }
    }
}

/// What an INVITE tells about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFacts {
    /// The numbers that may name the mailbox, each once, with the first rule that gave it. The
    /// first that is a subscriber's is called.
    pub called: Vec<(Rule, Msisdn)>,
    /// Who calls.
    pub caller: Caller,
    /// Why the call was diverted.
    pub reason: DivertReason,
}

impl CallFacts {
    /// Reads an INVITE. Headers that cannot be read count as missing.
    pub fn read(request: &Request, numbering: &Numbering) -> Self {
        Self {
            called: called(request, numbering),
            caller: caller(&request.headers, numbering),
            reason: reason(request),
        }
    }

    /// The numbers of [`CallFacts::called`], in their order.
    pub fn numbers(&self) -> Vec<Msisdn> {
        self.called
            .iter()
            .map(|(_, number)| number.clone())
            .collect()
    }

    /// The rule that gave `number`.
    pub fn rule_for(&self, number: &Msisdn) -> Option<Rule> {
        let found = self
            .called
            .iter()
            .find(|(_, candidate)| candidate == number);
        found.map(|(rule, _)| *rule)
    }
}

fn called(request: &Request, numbering: &Numbering) -> Vec<(Rule, Msisdn)> {
    let headers = &request.headers;
    let target = request
        .uri
        .target_param()
        .map(|target| match Uri::parse(&target) {
            Ok(uri) => numbering.readings_of_uri(&uri),
            Err(_) => numbering.readings(&target, None),
        });
    let of = |address: Option<NameAddr>| {
        address
            .map(|address| numbering.readings_of_uri(&address.uri))
            .unwrap_or_default()
    };
    let p_called = headers.addresses(&HeaderName::PCalledPartyId).next();
    let first_called = headers
        .history()
        .into_iter()
        .next()
        .map(|entry| entry.target);
    let first_diverted = headers.diversions().last().map(|diversion| diversion.by);

    let by_rule = [
        (Rule::RequestUri, numbering.readings_of_uri(&request.uri)),
        (Rule::Target, target.unwrap_or_default()),
        (Rule::PCalledPartyId, of(p_called)),
        (Rule::HistoryInfo, of(first_called)),
        (Rule::Diversion, of(first_diverted)),
        (Rule::To, of(headers.to())),
    ];
    let mut called: Vec<(Rule, Msisdn)> = Vec::new();
    for (rule, numbers) in by_rule {
        for number in numbers {
            if !called.iter().any(|(_, known)| *known == number) {
                called.push((rule, number));
            }
        }
    }
    called
}

impl Numbering {
    fn readings_of_uri(&self, uri: &Uri) -> Vec<Msisdn> {
        if matches!(uri.scheme, Scheme::Other(_)) {
            return Vec::new();
        }
        let in_user = uri.user_params();
        let context = in_user
            .value("phone-context")
            .or_else(|| uri.params.value("phone-context"));
        uri.dialled()
            .map(|dialled| self.readings(&dialled, context))
            .unwrap_or_default()
    }

    /// What numbers a text may be, the likeliest first: as it stands, then with a configured prefix
    /// taken off after the plus.
    fn readings(&self, text: &str, context: Option<&str>) -> Vec<Msisdn> {
        let digits = text.trim_start_matches('+');
        let has_plus = digits.len() < text.len();
        let prefixes = self
            .strip_prefixes
            .iter()
            .map(|prefix| prefix.trim_start_matches('+'));
        let stripped = prefixes
            .filter(|prefix| !prefix.is_empty())
            .filter_map(|prefix| digits.strip_prefix(prefix))
            .flat_map(|rest| self.readings_of_digits(rest, has_plus, context));
        let as_is = self.readings_of_digits(digits, has_plus, context);
        as_is.into_iter().chain(stripped).collect()
    }

    fn readings_of_digits(
        &self,
        digits: &str,
        has_plus: bool,
        context: Option<&str>,
    ) -> Vec<Msisdn> {
        let mut written: Vec<String> = Vec::new();
        let context = context.and_then(|context| context.strip_prefix('+'));
        if has_plus {
            written.push(digits.to_owned());
            // No country code begins with zero: a prefix, configured or not.
            written.extend(digits.strip_prefix("00").map(str::to_owned));
        } else if let Some(international) = digits.strip_prefix("00") {
            written.push(international.to_owned());
        } else if let Some(code) = context.or(self.default_country_code.as_deref()) {
            written.extend(national(digits, code.trim_start_matches('+')));
        } else if digits.len() >= SHORTEST_INTERNATIONAL {
            written.push(digits.to_owned());
        }
        written
            .iter()
            .filter_map(|digits| Msisdn::parse(&format!("+{digits}")).ok())
            .collect()
    }
}

/// Without a plus, fewer digits are no number with its country code.
const SHORTEST_INTERNATIONAL: usize = 8;
/// Fewer digits are an extension or a short code, which has no international form.
const SHORTEST_NATIONAL: usize = 6;
/// What looks like the country code is the beginning of a national number where fewer follow it.
const SHORTEST_AFTER_CODE: usize = 7;
/// In Italy the leading zero is part of the number.
const KEEPS_LEADING_ZERO: [&str; 3] = ["39", "378", "379"];

/// Readings of digits in a country: peers leave the plus off, or the country code, and write the
/// trunk zero or do not.
fn national(digits: &str, code: &str) -> Vec<String> {
    if digits.len() < SHORTEST_NATIONAL {
        return Vec::new();
    }
    let has_code = digits
        .strip_prefix(code)
        .is_some_and(|rest| rest.len() >= SHORTEST_AFTER_CODE && !rest.starts_with('0'));
    let in_country = format!("{code}{digits}");
    match digits.strip_prefix('0') {
        Some(rest) if KEEPS_LEADING_ZERO.contains(&code) => {
            vec![in_country, format!("{code}{rest}")]
        }
        Some(rest) => vec![format!("{code}{rest}"), in_country],
        None if has_code => vec![digits.to_owned(), in_country],
        None => vec![in_country, digits.to_owned()],
    }
}

fn reason(request: &Request) -> DivertReason {
    let headers = &request.headers;
    let of_target = || request.uri.cause_param().and_then(of_divert_cause);
    let of_history = || {
        // The newest entry that says why; an escaped Reason stands at the one that was left.
        headers.history().iter().rev().find_map(|entry| {
            let cause = entry
                .cause()
                .or_else(|| entry.target.params.value("cause")?.parse().ok());
            cause
                .and_then(of_divert_cause)
                .or_else(|| entry.reasons().iter().find_map(of_reason))
        })
    };
    let of_diversion = || {
        headers
            .diversions()
            .next()?
            .reason()
            .as_deref()
            .and_then(of_diversion)
    };
    of_target()
        .or_else(of_history)
        .or_else(of_diversion)
        .or_else(|| headers.reasons().find_map(|reason| of_reason(&reason)))
        .unwrap_or(DivertReason::Unknown)
}

/// The `cause` of a diverted call (RFC 4458 section 4; 3GPP TS 24.604 4.5.2.6.2).
fn of_divert_cause(cause: u16) -> Option<DivertReason> {
    match cause {
        302 => Some(DivertReason::Unconditional),
        // 480 and 487 are deflection, at once and while it rang: the subscriber declined.
        480 | 486 | 487 | 600 | 603 => Some(DivertReason::Busy),
        408 => Some(DivertReason::NoAnswer),
        404 | 410 | 503 => Some(DivertReason::Unreachable),
        _ => None,
    }
}

/// A Reason (RFC 3326): how an attempt to reach the subscriber ended.
fn of_reason(reason: &Reason) -> Option<DivertReason> {
    let cause = reason.cause?;
    if reason.protocol.eq_ignore_ascii_case("SIP") {
        return match cause {
            // Here a status code: the phone cannot be had, and an attempt was cancelled.
            480 => Some(DivertReason::Unreachable),
            487 => Some(DivertReason::NoAnswer),
            _ => of_divert_cause(cause),
        };
    }
    if !reason.protocol.eq_ignore_ascii_case("Q.850") {
        return None;
    }
    match cause {
        // Q.850: user busy; call rejected.
        17 | 21 => Some(DivertReason::Busy),
        // No answer from the user, who was alerted.
        19 => Some(DivertReason::NoAnswer),
        // No user responding; subscriber absent; destination out of order.
        18 | 20 | 27 => Some(DivertReason::Unreachable),
        _ => None,
    }
}

/// The `reason` of a Diversion (RFC 5806 section 4), in lower case, and what vendors make of it.
fn of_diversion(reason: &str) -> Option<DivertReason> {
    let letters: String = reason.chars().filter(char::is_ascii_alphanumeric).collect();
    match letters.as_str() {
        "userbusy"
        | "busy"
        | "cfb"
        | "deflection"
        | "deflectionduringalerting"
        | "deflectionimmediateresponse" => Some(DivertReason::Busy),
        "noanswer" | "noreply" | "cfna" | "cfnr" | "cfnry" => Some(DivertReason::NoAnswer),
        "unavailable"
        | "unreachable"
        | "notreachable"
        | "outofservice"
        | "notloggedin"
        | "mobilesubscribernotreachable"
        | "cfnrc" => Some(DivertReason::Unreachable),
        "unconditional" | "cfu" | "cfa" | "followme" | "timeofday" | "donotdisturb" | "away" => {
            Some(DivertReason::Unconditional)
        }
        _ => None,
    }
}

/// Longest caller name that is kept, in characters.
const LONGEST_NAME: usize = 64;

fn caller(headers: &Headers, numbering: &Numbering) -> Caller {
    let from = headers.from();
    if is_withheld(headers, from.as_ref()) {
        return Caller::default();
    }
    let asserted: Vec<NameAddr> = headers.addresses(&HeaderName::PAssertedIdentity).collect();
    if asserted.is_empty() {
        return from
            .map(|from| identity(&[from], numbering))
            .unwrap_or_default();
    }
    let mut caller = identity(&asserted, numbering);
    if caller.name.is_none()
        && let Some(from) = from.map(|from| identity(&[from], numbering))
        && from.number.is_some()
        && from.number == caller.number
    {
        // The caller's own word for his name, taken where the network vouches for the number.
        caller.name = from.name;
    }
    caller
}

/// The caller as one or more addresses name him, a number before other addresses.
fn identity(addresses: &[NameAddr], numbering: &Numbering) -> Caller {
    let number = addresses.iter().find_map(|address| {
        let readings = numbering.readings_of_uri(&address.uri);
        // No country code begins with zero: that is a prefix of the core.
        let sound = readings
            .iter()
            .find(|number| !number.e164().starts_with("+0"));
        sound.cloned()
    });
    let displayed = addresses
        .iter()
        .find_map(|address| name_of(address.display.as_deref()?));
    let name = match (&displayed, &number) {
        (None, None) => addresses
            .iter()
            .find_map(|address| name_of(&address_of(&address.uri)?)),
        _ => displayed.filter(|name| !is_same_number(name, number.as_ref())),
    };
    Caller {
        number,
        name: name.map(Private),
    }
}

/// `alice@example.com`, or the extension `1000`, of a SIP address whose user is no number.
fn address_of(uri: &Uri) -> Option<String> {
    let user = uri.user_decoded()?;
    match uri.scheme {
        Scheme::Sip | Scheme::Sips if user.contains(char::is_alphabetic) => {
            Some(format!("{user}@{}", uri.host))
        }
        Scheme::Sip | Scheme::Sips => Some(user.into_owned()),
        Scheme::Tel | Scheme::Other(_) => None,
    }
}

/// A name worth showing: one line, not too long, and not a word for "nobody".
fn name_of(text: &str) -> Option<String> {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let name: String = printable.take(LONGEST_NAME).collect();
    let name = name.trim();
    let is_name = !name.is_empty() && !is_word_for_nobody(name.split('@').next().unwrap_or(name));
    is_name.then(|| name.to_owned())
}

fn is_same_number(name: &str, number: Option<&Msisdn>) -> bool {
    let digits = |text: &str| {
        text.chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    };
    let has_letters = name.chars().any(char::is_alphabetic);
    number.is_some_and(|number| !has_letters && number.e164().ends_with(&digits(name)))
}

fn is_word_for_nobody(word: &str) -> bool {
    [
        "anonymous",
        "restricted",
        "private",
        "unavailable",
        "unknown",
        "withheld",
    ]
    .iter()
    .any(|nobody| word.eq_ignore_ascii_case(nobody))
}

/// Whether the caller wants to stay unknown: by Privacy (RFC 3323, RFC 3325), or by a From that
/// hides him (RFC 3261 8.1.1.3) where no Privacy says `none`.
fn is_withheld(headers: &Headers, from: Option<&NameAddr>) -> bool {
    if headers.hides_caller() {
        return true;
    }
    let shows = headers.all(&HeaderName::Privacy).any(|line| {
        line.to_str_lossy()
            .split([';', ','])
            .any(|value| value.trim().eq_ignore_ascii_case("none"))
    });
    !shows
        && from.is_some_and(|from| {
            let host = from.uri.host.to_string();
            let user = from.uri.user_without_params().unwrap_or_default();
            host.eq_ignore_ascii_case("anonymous.invalid")
                || ["anonymous", "restricted"]
                    .iter()
                    .any(|word| user.eq_ignore_ascii_case(word))
        })
}
