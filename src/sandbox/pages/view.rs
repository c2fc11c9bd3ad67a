//! What the templates show: texts, made of the world.

use crate::domain::{Msisdn, Timestamp};
use crate::media::sdp::OfferKeying;
use crate::sandbox::config::Behaviour;
use crate::sandbox::identity::Identity;
use crate::sandbox::pages::Pages;
use crate::sandbox::phones::Say;
use crate::sandbox::sip_core::SipCore;
use crate::sandbox::world::{Call, Mode, Number, Registration, Sms, World};
use crate::sip::Transport;

/// The modes that mean something for one number alone.
const MODES_OF_NUMBERS: [Mode; 11] = [
    Mode::LateAck,
    Mode::LostAck,
    Mode::DuplicateInvite,
    Mode::CancelCrossing,
    Mode::Reinvite,
    Mode::MediaLoss,
    Mode::MediaJitter,
    Mode::RegistrationRefused,
    Mode::CoreUnavailable,
    Mode::CoreSlow,
    Mode::ExpiredToken,
];

/// A number and all that stands beside it.
pub(crate) struct NumberView {
    pub(crate) number: String,
    pub(crate) name: String,
    pub(crate) behaviours: Vec<Choice>,
    pub(crate) registrations: Vec<RegistrationView>,
    /// Who may act for it.
    pub(crate) clients: Vec<String>,
    pub(crate) modes: Vec<ModeView>,
}

/// A choice of a list.
pub(crate) struct Choice {
    pub(crate) value: String,
    pub(crate) text: &'static str,
    pub(crate) is_on: bool,
}

pub(crate) struct RegistrationView {
    pub(crate) route_type: String,
    pub(crate) sip_uri: String,
    pub(crate) left: String,
}

pub(crate) struct ModeView {
    pub(crate) name: &'static str,
    pub(crate) explained: &'static str,
    pub(crate) is_on: bool,
}

pub(crate) struct CallView {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) began_at: String,
    pub(crate) is_running: bool,
    pub(crate) steps: Vec<StepView>,
    /// Where what the caller heard is.
    pub(crate) heard: Option<String>,
}

pub(crate) struct StepView {
    pub(crate) after: String,
    pub(crate) what: String,
}

pub(crate) struct SmsView {
    pub(crate) from: String,
    pub(crate) text: String,
    pub(crate) at: String,
}

impl NumberView {
    pub(crate) fn of(number: &Number, identity: &Identity, now: Timestamp) -> Self {
        let world = &identity.world;
        let whose = &number.number;
        let registrations = world.registrations.of(whose, now).into_iter();
        let clients = world.consents.clients_of(whose).into_iter();
        let client_name = |id: String| identity.client(&id).map_or(id, |one| one.name.clone());
        Self {
            behaviours: behaviours(number.behaviour),
            registrations: registrations
                .map(|one| RegistrationView::of(one, now))
                .collect(),
            clients: clients.map(client_name).collect(),
            modes: modes(world, Some(whose), &MODES_OF_NUMBERS, now),
            name: name_of(number).to_owned(),
            number: whose.e164().to_owned(),
        }
    }

    pub(crate) fn modes_on(&self) -> impl Iterator<Item = &ModeView> {
        self.modes.iter().filter(|mode| mode.is_on)
    }
}

impl RegistrationView {
    fn of(registration: Registration, now: Timestamp) -> Self {
        let left_ms = registration.expires_at.as_millis() - now.as_millis();
        Self {
            route_type: registration.route_type.to_string(),
            sip_uri: registration.sip_uri,
            left: span(left_ms),
        }
    }
}

impl CallView {
    pub(crate) fn of(pages: &Pages, call: Call) -> Self {
        let began_at = call.began_at;
        let steps = call.steps.into_iter().map(|(at, what)| StepView {
            after: after(at.as_millis() - began_at.as_millis()),
            what,
        });
        Self {
            from: number_or(call.from.as_ref(), "anonymous"),
            to: number_or(call.to.as_ref(), "somebody"),
            began_at: time_of_day(began_at),
            is_running: call.ended_at.is_none(),
            steps: steps.collect(),
            heard: heard_path(pages, call.id),
        }
    }
}

/// Where what the caller of a call heard is, if anything.
pub(crate) fn heard_path(pages: &Pages, call: u64) -> Option<String> {
    let heard = pages.phones.heard(call);
    heard.map(|_| format!("/sandbox/calls/{call}/heard.wav"))
}

/// What a simulated caller may say.
pub(crate) fn sayings() -> Vec<Choice> {
    let choice = |say: Say| Choice {
        value: say.to_string(),
        text: say.explained(),
        is_on: say == Say::default(),
    };
    Say::ALL.into_iter().map(choice).collect()
}

/// What a simulated caller may offer.
pub(crate) fn media() -> Vec<Choice> {
    let choice = |media: OfferKeying| Choice {
        value: media.as_str().to_owned(),
        text: match media {
            OfferKeying::Plain => "RTP in clear",
            OfferKeying::Sdes => "SRTP, keys in the SDP (SDES)",
            OfferKeying::Dtls => "WebRTC: ICE and DTLS-SRTP",
        },
        is_on: false,
    };
    let usual = Choice {
        value: String::new(),
        text: "as usual",
        is_on: true,
    };
    let all = OfferKeying::ALL.into_iter().map(choice);
    [usual].into_iter().chain(all).collect()
}

impl SmsView {
    pub(crate) fn of(sms: Sms) -> Self {
        Self {
            from: sms.from,
            text: sms.text,
            at: time_of_day(sms.at),
        }
    }
}

/// Where phones register: `udp://127.0.0.1:5070` and so on.
pub(crate) fn servers(core: &SipCore) -> Vec<String> {
    let transports = [
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Ws,
        Transport::Wss,
    ];
    let listens = transports.into_iter().filter_map(|transport| {
        let addr = core.addr(transport)?;
        Some(format!("{}://{addr}", transport.name()))
    });
    listens.collect()
}

/// What to call a number.
pub(crate) fn name_of(number: &Number) -> &str {
    match number.name.as_str() {
        "" => "Somebody",
        name => name,
    }
}

/// These modes, and which of them are on for `number` alone (`None`: for everybody).
pub(crate) fn modes(
    world: &World,
    number: Option<&Msisdn>,
    which: &[Mode],
    now: Timestamp,
) -> Vec<ModeView> {
    let on = world.modes.of(number, now);
    let view = |mode: &Mode| ModeView {
        name: mode.as_str(),
        explained: mode.explained(),
        is_on: on.contains(mode),
    };
    which.iter().map(view).collect()
}

fn behaviours(current: Behaviour) -> Vec<Choice> {
    let choice = |behaviour: Behaviour| {
        let is_on = behaviour.as_str() == current.as_str();
        // One's own time of answer-late stays.
        let value = if is_on { current } else { behaviour };
        Choice {
            value: value.to_string(),
            text: behaviour.explained(),
            is_on,
        }
    };
    Behaviour::ALL.into_iter().map(choice).collect()
}

fn number_or(number: Option<&Msisdn>, otherwise: &str) -> String {
    number.map_or(otherwise, Msisdn::e164).to_owned()
}

/// `09:05:07 UTC`
fn time_of_day(at: Timestamp) -> String {
    let text = at.to_string();
    let time = text.split_once('T').map_or(text.as_str(), |(_, time)| time);
    let time = time.split('.').next().unwrap_or_default();
    format!("{time} UTC")
}

/// `59 min 3 s`
fn span(ms: i64) -> String {
    let secs = ms.max(0) / 1000;
    match (secs / 60, secs % 60) {
        (0, secs) => format!("{secs} s"),
        (minutes, secs) => format!("{minutes} min {secs} s"),
    }
}

/// `1.250 s`
fn after(ms: i64) -> String {
    let ms = ms.max(0);
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_write_them() {
        let at = Timestamp::from_millis(1_795_403_093_120);
        assert_eq!(time_of_day(at), "03:04:53 UTC");
        assert_eq!(span(3_599_999), "59 min 59 s");
        assert_eq!(span(-5), "0 s");
        assert_eq!(after(12_034), "12.034 s");
    }

    #[test]
    fn an_own_time_of_answering_late_stays_the_choice() {
        let choices = behaviours(Behaviour::AnswerLate { after_ms: 123 });
        let on: Vec<_> = choices.iter().filter(|choice| choice.is_on).collect();
        assert_eq!(on.len(), 1);
        assert_eq!(on[0].value, "answer-late:123");
    }
}
