//! INVITEs as real equipment writes them.

use bytes::Bytes;

use super::*;
use crate::sip::message::{Limits, Message, Parsed, parse_datagram};

const SUBSCRIBER: &str = "+4799990001";
const CALLER: &str = "+4721000000";

/// One INVITE and what it says.
struct Sample {
    /// Whose equipment writes so.
    by: &'static str,
    uri: &'static str,
    /// Every header line that matters; the others are added.
    headers: &'static [&'static str],
    /// The rule that names the subscriber.
    rule: Option<Rule>,
    reason: DivertReason,
    caller: Option<&'static str>,
    name: Option<&'static str>,
}

fn invite(uri: &str, headers: &[&str]) -> Request {
    let mut text =
        format!("INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKtest\r\n");
    text.push_str(
        "Max-Forwards: 70\r\nCall-ID: test\r\nCSeq: 1 INVITE\r\nContact: <sip:127.0.0.1>\r\n",
    );
    for (name, line) in [
        ("From:", "From: <sip:+4721000000@peer.example>;tag=1"),
        ("To:", "To: <sip:voicemail@aftertone.example>"),
    ] {
        if !headers.iter().any(|header| header.starts_with(name)) {
            text.push_str(line);
            text.push_str("\r\n");
        }
    }
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("Content-Length: 0\r\n\r\n");
    match parse_datagram(&Bytes::from(text), &Limits::default()) {
        Parsed::Message(Message::Request(request)) => request,
        _ => panic!("{uri} {headers:?} is no request"),
    }
}

fn norwegian() -> Numbering {
    Numbering {
        strip_prefixes: vec!["00".into(), "+99".into()],
        default_country_code: Some("47".into()),
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        by: "mobile core, FALLBACK: the INVITE is replicated with the called number",
        uri: "sip:+4799990001@voicemail.example.com;user=phone",
        headers: &[
            "P-Asserted-Identity: <sip:+4721000000@ims.example>",
            "To: <sip:+4799990001@ims.example>",
        ],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "mobile core, with a registration prefix after the plus",
        uri: "sip:+004799990001@voicemail.example.com",
        headers: &[],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "mobile core, with the originating prefix of another registration",
        uri: "sip:+994799990001@voicemail.example.com",
        headers: &["From: <sip:+004721000000@ims.example>;tag=1"],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "Ericsson IMS: History-Info with the cause at the last entry",
        uri: "sip:+4791000000@vm.ims.example;user=phone",
        headers: &[
            "History-Info: <sip:+4799990001@ims.example;user=phone?Privacy=none>;index=1, \
             <sip:+4791000000@ims.example;user=phone;cause=408>;index=1.1;mp=1",
            "P-Asserted-Identity: <sip:+4721000000@ims.example;user=phone>, <tel:+4721000000>",
            "P-Called-Party-ID: <sip:+4791000000@ims.example>",
        ],
        rule: Some(Rule::HistoryInfo),
        reason: DivertReason::NoAnswer,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "Nokia IMS: three hops, lines apart and out of order, escaped Reason of the failed one",
        uri: "sip:vm@tas.example",
        headers: &[
            "History-Info: <sip:vm@tas.example>;index=1.1.1",
            "History-Info: <sip:+4799990001@ims.example;user=phone?Reason=SIP%3Bcause%3D486%3Btext%3D%22Busy%20Here%22>;index=1",
            "History-Info: <sip:+4798000000@ims.example>;index=1.1",
        ],
        rule: Some(Rule::HistoryInfo),
        reason: DivertReason::Busy,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "IMS: phone not logged in",
        uri: "sip:voicemail@tas.example",
        headers: &[
            "History-Info: <sip:+4799990001@ims.example>;index=1,<sip:vm@tas.example;cause=404>;index=1.1",
        ],
        rule: Some(Rule::HistoryInfo),
        reason: DivertReason::Unreachable,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "History-Info with the cause outside the brackets",
        uri: "sip:voicemail@tas.example",
        headers: &["History-Info: <sip:+4799990001@a>;index=1, <sip:vm@b>;index=1.1;cause=302"],
        rule: Some(Rule::HistoryInfo),
        reason: DivertReason::Unconditional,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "Cisco Unified CM: Diversion with a display name and privacy",
        uri: "sip:8000@10.1.1.1:5060",
        headers: &[
            "Diversion: \"Nordmann, Kari\" <sip:+4799990001@10.1.1.2>;reason=no-answer;privacy=off;screen=yes",
            "Remote-Party-ID: \"Ola\" <sip:+4721000000@10.1.1.2>;party=calling;screen=yes;privacy=off",
            "From: \"Ola Nordmann\" <sip:+4721000000@10.1.1.2>;tag=1",
        ],
        rule: Some(Rule::Diversion),
        reason: DivertReason::NoAnswer,
        caller: Some(CALLER),
        name: Some("Ola Nordmann"),
    },
    Sample {
        by: "Cisco CUBE: upper case, two hops, the top one is the latest",
        uri: "sip:8000@10.1.1.1",
        headers: &[
            "Diversion: <sip:+4798000000@10.0.0.1>;privacy=off;reason=USER-BUSY;counter=1;screen=no",
            "Diversion: <sip:+4799990001@10.0.0.1>;privacy=off;reason=unconditional;counter=1",
        ],
        rule: Some(Rule::Diversion),
        reason: DivertReason::Busy,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "Ribbon SBC: both diversions in one line, a national number",
        uri: "sip:8000@sbc.example",
        headers: &[
            "Diversion: <sip:98000000@sbc>;reason=unavailable;counter=1,\
             <sip:99990001@sbc;user=phone>;reason=unconditional",
        ],
        rule: Some(Rule::Diversion),
        reason: DivertReason::Unreachable,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "Oracle SBC: RFC 4458 target and cause",
        uri: "sip:voicemail@vm.example;target=sip:+4799990001%40ims.example;user=phone;cause=486",
        headers: &["P-Asserted-Identity: \"Kontoret\" <sip:+4721000000@ims.example;user=phone>"],
        rule: Some(Rule::Target),
        reason: DivertReason::Busy,
        caller: Some(CALLER),
        name: Some("Kontoret"),
    },
    Sample {
        by: "RFC 4458 with a tel target",
        uri: "sip:voicemail@vm.example;target=tel:%2B47-99-99-00-01;cause=503",
        headers: &[],
        rule: Some(Rule::Target),
        reason: DivertReason::Unreachable,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "RFC 4458 with a bare number",
        uri: "sip:voicemail@vm.example;target=4799990001;cause=487",
        headers: &[],
        rule: Some(Rule::Target),
        reason: DivertReason::Busy,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "TELCO with STIR: verstat in the user part",
        uri: "sip:+4799990001;npdi;rn=+4790000000@vm.example;user=phone",
        headers: &[
            "P-Asserted-Identity: <sip:+4721000000;verstat=TN-Validation-Passed@ims.example;user=phone>",
        ],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "tel Request-URI with visual separators",
        uri: "tel:+47-99-99.00-01",
        headers: &["P-Asserted-Identity: tel:+47-21-00-00-00"],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "tel Request-URI, local number with its context",
        uri: "tel:99990001;phone-context=+47",
        headers: &[],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "SIP user with a phone-context",
        uri: "sip:99990001;phone-context=+47@gw.example;user=phone",
        headers: &[],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "Asterisk: E.164 without the plus, Diversion without reason, Q.850 Reason",
        uri: "sip:4799990001@192.0.2.10:5060",
        headers: &[
            "From: \"21000000\" <sip:21000000@192.0.2.9>;tag=as1",
            "Diversion: <sip:4799990001@192.0.2.9>",
            "Reason: Q.850;cause=19;text=\"No answer from user\"",
        ],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::NoAnswer,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "Kamailio: international prefix, SIP Reason",
        uri: "sip:004799990001@192.0.2.10",
        headers: &[
            "From: <sip:004721000000@192.0.2.9>;tag=1",
            "Reason: SIP;cause=480, Q.850;cause=31",
        ],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unreachable,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "FreeSWITCH: the box in To alone",
        uri: "sip:mod_sofia@192.0.2.10",
        headers: &[
            "To: <sip:+4799990001@192.0.2.10>",
            "From: \"Extension 1000\" <sip:1000@192.0.2.9>;tag=1",
        ],
        rule: Some(Rule::To),
        reason: DivertReason::Unknown,
        caller: None,
        name: Some("Extension 1000"),
    },
    Sample {
        by: "Microsoft Teams direct routing: History-Info and TLS",
        uri: "sip:+4798000000@sbc.example:5061;user=phone;transport=tls",
        headers: &[
            "HISTORY-INFO: <sip:+4799990001@sip.pstnhub.microsoft.com:5061?Reason=SIP%3Bcause%3D408%3Btext%3D%22\
             Request%20Timeout%22&Privacy=none>;index=1",
            "From: Ola Nordmann<sip:+4721000000@sip.pstnhub.microsoft.com:5061;user=phone>;tag=1",
            "P-ASSERTED-IDENTITY: <tel:+4721000000>,<sip:ola@example.com>",
        ],
        rule: Some(Rule::HistoryInfo),
        reason: DivertReason::NoAnswer,
        caller: Some(CALLER),
        name: Some("Ola Nordmann"),
    },
    Sample {
        by: "IMS terminating leg: P-Called-Party-ID",
        uri: "sip:contact-1@192.0.2.77:5060;transport=tcp",
        headers: &["P-Called-Party-ID: \"Kari\" <sip:+4799990001@ims.example>;npi=1"],
        rule: Some(Rule::PCalledPartyId),
        reason: DivertReason::Unknown,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "anonymous caller in IMS: the network knows him, we do not",
        uri: "sip:+4799990001@vm.example",
        headers: &[
            "From: \"Anonymous\" <sip:anonymous@anonymous.invalid>;tag=1",
            "P-Asserted-Identity: \"Ola Nordmann\" <sip:+4721000000@ims.example>",
            "Privacy: id;critical",
        ],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: None,
        name: None,
    },
    Sample {
        by: "privacy asked by a header alone",
        uri: "sip:+4799990001@vm.example",
        headers: &["From: \"Ola\" <sip:+4721000000@a>;tag=1", "Privacy: user"],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: None,
        name: None,
    },
    Sample {
        by: "anonymous From without a Privacy header",
        uri: "sip:+4799990001@vm.example",
        headers: &[
            "From: <sip:Restricted@192.0.2.1>;tag=1",
            "P-Asserted-Identity: <sip:+4721000000@192.0.2.1>",
        ],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: None,
        name: None,
    },
    Sample {
        by: "Privacy: none lets the asserted identity be shown",
        uri: "sip:+4799990001@vm.example",
        headers: &[
            "From: <sip:anonymous@192.0.2.1>;tag=1",
            "P-Asserted-Identity: <sip:+4721000000@192.0.2.1>",
            "Privacy: none",
        ],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "a number that is not available",
        uri: "sip:+4799990001@vm.example",
        headers: &["From: \"Unavailable\" <sip:unavailable@unknown.invalid>;tag=1"],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: None,
        name: None,
    },
    Sample {
        by: "a softphone without a number",
        uri: "sips:+4799990001@vm.example",
        headers: &["From: <sips:alice@example.com>;tag=1"],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: None,
        name: Some("alice@example.com"),
    },
    Sample {
        by: "a PBX extension without a name",
        uri: "sip:+4799990001@vm.example",
        headers: &["From: <sip:1000@pbx.example>;tag=1"],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: None,
        name: Some("1000"),
    },
    Sample {
        by: "a number that nobody has",
        uri: "sip:+4712345678@vm.example",
        headers: &[
            "Diversion: <sip:+4712345679@a>;reason=follow-me",
            "To: <sip:112@a>",
        ],
        rule: None,
        reason: DivertReason::Unconditional,
        caller: Some(CALLER),
        name: None,
    },
    Sample {
        by: "headers that cannot be read count as missing",
        uri: "sip:+4799990001@vm.example",
        headers: &[
            "P-Asserted-Identity: \"unclosed <sip:+4700000000@a>",
            "Diversion: <<<>>>;reason=",
            "History-Info: ,,;index=,",
            "Reason: ;cause=x",
        ],
        rule: Some(Rule::RequestUri),
        reason: DivertReason::Unknown,
        caller: Some(CALLER),
        name: None,
    },
];

#[test]
fn real_invites_are_read_as_a_person_would() {
    let subscriber = Msisdn::parse(SUBSCRIBER).unwrap();
    for sample in SAMPLES {
        let facts = CallFacts::read(&invite(sample.uri, sample.headers), &norwegian());
        let by = sample.by;
        assert_eq!(
            facts.rule_for(&subscriber),
            sample.rule,
            "{by}: rule of {:?}",
            clear(&facts)
        );
        assert_eq!(facts.reason, sample.reason, "{by}: reason");
        let caller = facts.caller.number.as_ref().map(Msisdn::e164);
        assert_eq!(caller, sample.caller, "{by}: caller");
        let name = facts.caller.name.as_ref().map(|name| name.0.as_str());
        assert_eq!(name, sample.name, "{by}: name");
    }
}

fn clear(facts: &CallFacts) -> Vec<(Rule, &str)> {
    facts
        .called
        .iter()
        .map(|(rule, number)| (*rule, number.e164()))
        .collect()
}

#[test]
fn candidates_come_in_the_order_of_the_rules_and_each_once() {
    let request = invite(
        "sip:+4710000001@a;target=sip:+4710000002%40a",
        &[
            "To: <sip:+4710000006@a>",
            "Diversion: <sip:+4710000009@a>, <sip:+4710000005@a>",
            "History-Info: <sip:+4710000004@a>;index=1, <sip:+4710000001@a>;index=1.1",
            "P-Called-Party-ID: <sip:+4710000003@a>",
        ],
    );
    let facts = CallFacts::read(&request, &Numbering::default());
    assert_eq!(
        clear(&facts),
        [
            (Rule::RequestUri, "+4710000001"),
            (Rule::Target, "+4710000002"),
            (Rule::PCalledPartyId, "+4710000003"),
            (Rule::HistoryInfo, "+4710000004"),
            (Rule::Diversion, "+4710000005"),
            (Rule::To, "+4710000006"),
        ]
    );
}

#[test]
fn the_caller_is_never_a_candidate_for_the_mailbox() {
    let request = invite(
        "sip:voicemail@a",
        &[
            "From: <sip:+4799990001@a>;tag=1",
            "P-Asserted-Identity: <sip:+4799990001@a>",
        ],
    );
    let facts = CallFacts::read(&request, &norwegian());
    assert_eq!(facts.called, []);
}

#[test]
fn a_number_is_tried_as_it_is_before_a_prefix_is_taken_off() {
    let numbering = Numbering {
        strip_prefixes: vec!["47".into()],
        default_country_code: None,
    };
    let facts = CallFacts::read(&invite("sip:+4746123456@a", &[]), &numbering);
    assert_eq!(
        clear(&facts),
        [
            (Rule::RequestUri, "+4746123456"),
            (Rule::RequestUri, "+46123456")
        ]
    );
}

#[test]
fn national_numbers_are_read_with_and_without_trunk_zero_and_country_code() {
    let readings = |digits: &str, code: &str| {
        let numbering = Numbering {
            strip_prefixes: vec![],
            default_country_code: Some(code.into()),
        };
        let numbers = numbering.readings(digits, None);
        numbers
            .iter()
            .map(|number| number.e164().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(readings("0701234567", "46")[0], "+46701234567");
    assert_eq!(readings("46701234567", "+46")[0], "+46701234567");
    // A Norwegian mobile number may begin with 47 itself.
    assert_eq!(readings("47123456", "47")[0], "+4747123456");
    assert_eq!(readings("0612345678", "39")[0], "+390612345678");
    assert_eq!(readings("15550109999", "1")[0], "+15550109999");
    assert_eq!(readings("5550109999", "1")[0], "+15550109999");
}

#[test]
fn without_a_country_only_long_numbers_are_international() {
    let numbering = Numbering::default();
    assert_eq!(numbering.readings("4799990001", None).len(), 1);
    assert_eq!(numbering.readings("1000", None), []);
    assert_eq!(numbering.readings("*86", None), []);
    assert_eq!(numbering.readings("", None), []);
    assert_eq!(numbering.readings("+", None), []);
}

#[test]
fn a_phone_context_that_is_a_domain_says_nothing_of_the_country() {
    let request = invite("tel:4799990001;phone-context=example.com", &[]);
    let facts = CallFacts::read(&request, &Numbering::default());
    assert_eq!(clear(&facts), [(Rule::RequestUri, "+4799990001")]);
}

#[test]
fn every_cause_of_the_standards_has_its_reason() {
    for (cause, reason) in [
        (302, DivertReason::Unconditional),
        (486, DivertReason::Busy),
        (408, DivertReason::NoAnswer),
        (404, DivertReason::Unreachable),
        (503, DivertReason::Unreachable),
        (480, DivertReason::Busy),
        (487, DivertReason::Busy),
        (200, DivertReason::Unknown),
    ] {
        let uri = format!("sip:vm@a;cause={cause}");
        assert_eq!(
            CallFacts::read(&invite(&uri, &[]), &norwegian()).reason,
            reason,
            "{cause}"
        );
    }
    for (value, reason) in [
        ("Q.850;cause=17", DivertReason::Busy),
        ("q.850;cause=18", DivertReason::Unreachable),
        ("Q.850;cause=20", DivertReason::Unreachable),
        ("Q.850;cause=16", DivertReason::Unknown),
        ("SIP;cause=487", DivertReason::NoAnswer),
        ("SIP;cause=600", DivertReason::Busy),
        ("preemption;cause=17", DivertReason::Unknown),
        ("SIP;cause=99999999", DivertReason::Unknown),
    ] {
        let request = invite("sip:vm@a", &[&format!("Reason: {value}")]);
        assert_eq!(
            CallFacts::read(&request, &norwegian()).reason,
            reason,
            "{value}"
        );
    }
}

#[test]
fn a_reason_is_taken_from_the_first_header_that_gives_one() {
    let history = "History-Info: <sip:+4799990001@a>;index=1, <sip:vm@a;cause=408>;index=1.1";
    let diversion = "Diversion: <sip:+4799990001@a>;reason=user-busy";
    let reason = "Reason: SIP;cause=302";
    let read =
        |uri: &str, headers: &[&str]| CallFacts::read(&invite(uri, headers), &norwegian()).reason;
    let all = [reason, diversion, history];
    assert_eq!(read("sip:vm@a;cause=503", &all), DivertReason::Unreachable);
    assert_eq!(read("sip:vm@a;cause=700", &all), DivertReason::NoAnswer);
    assert_eq!(read("sip:vm@a", &[reason, diversion]), DivertReason::Busy);
    assert_eq!(
        read("sip:vm@a", &[reason, "Diversion: <sip:1@a>;reason=unknown"]),
        DivertReason::Unconditional
    );
}

#[test]
fn the_name_of_a_caller_is_one_short_line() {
    let long = format!("From: \"{}\" <sip:+4721000000@a>;tag=1", "é".repeat(300));
    let facts = CallFacts::read(&invite("sip:+4799990001@a", &[&long]), &norwegian());
    assert_eq!(facts.caller.name.unwrap().0.chars().count(), LONGEST_NAME);
    let control = "From: \"a\tb\u{1b}[31m\" <sip:+4721000000@a>;tag=1";
    let facts = CallFacts::read(&invite("sip:+4799990001@a", &[control]), &norwegian());
    assert_eq!(facts.caller.name.unwrap().0, "a b [31m");
}

#[test]
fn a_name_from_the_caller_himself_is_taken_only_beside_his_own_number() {
    let pai = "P-Asserted-Identity: <sip:+4721000000@a>";
    let read = |from: &str| {
        CallFacts::read(&invite("sip:+4799990001@a", &[pai, from]), &norwegian()).caller
    };
    let own = read("From: \"Ola\" <sip:+4721000000@b>;tag=1");
    assert_eq!(own.name, Some(Private("Ola".into())));
    let other = read("From: \"Your Bank\" <sip:+4722222222@b>;tag=1");
    assert_eq!(other.name, None);
    assert_eq!(other.number.unwrap().e164(), CALLER);
}
