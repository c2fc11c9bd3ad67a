//! `wgtwo.sipbreakout`, v1 and v0.

use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::domain::Msisdn;
use crate::mobile_core::pb::wgtwo::sipbreakout::v0;
use crate::mobile_core::pb::wgtwo::sipbreakout::v0::registration_request::RouteType as RouteTypeV0;
use crate::mobile_core::pb::wgtwo::sipbreakout::v0::sip_breakout_service_server::SipBreakoutService as ServiceV0;
use crate::mobile_core::pb::wgtwo::sipbreakout::v0::status::Code;
use crate::mobile_core::pb::wgtwo::sipbreakout::v1;
use crate::mobile_core::pb::wgtwo::sipbreakout::v1::sip_breakout_service_server::SipBreakoutService as ServiceV1;
use crate::sandbox::api::caller;
use crate::sandbox::config::Config;
use crate::sandbox::world::{Mode, Registration, RouteType, Upserted, World};
use crate::sip::message::{Scheme, Uri};

const SCOPES_V1: &[&str] = &["call.routing:write"];
/// Spelled in two ways by those who describe it.
const SCOPES_V0: &[&str] = &[
    "call.control.answer_and_initiate",
    "call.control:answer_and_initiate",
];
const LONGEST_PREFIX: usize = 8;

/// Serves both dialects.
#[derive(Clone)]
pub(super) struct RegistrationApi {
    world: Arc<World>,
    life: Duration,
    plain_sip: bool,
}

/// What is asked for, in whichever dialect.
struct Wish {
    client: String,
    number: Msisdn,
    sip_uri: String,
    mobile_originating_prefix: String,
    mobile_terminating_prefix: String,
    route_type: Option<RouteType>,
}

/// NOT_ACCEPTABLE, and why.
struct NotAcceptable(&'static str);

impl RegistrationApi {
    pub(super) fn new(config: &Config, world: &Arc<World>) -> Self {
        Self {
            world: Arc::clone(world),
            life: Duration::from_secs(config.registration_secs),
            plain_sip: config.plain_sip,
        }
    }

    /// A wish in v1: of a subscriber for his number, or of a client for any.
    async fn wish_v1(
        &self,
        metadata: &MetadataMap,
        registration: Option<v1::Registration>,
    ) -> Result<Result<Wish, NotAcceptable>, Status> {
        let caller = caller::identify(&self.world, metadata).await?;
        caller::require(&caller, SCOPES_V1)?;
        let wish = registration.unwrap_or_default();
        let named = wish.phone_number.map(|number| Msisdn::parse(&number.e164));
        let number = match (caller.number, named) {
            (Some(own), Some(Ok(named))) if own != named => {
                return Err(Status::permission_denied("the token is of another number"));
            }
            (_, Some(Err(_))) => return Ok(Err(NotAcceptable("the phone number is not E.164"))),
            (Some(own), _) => own,
            (None, Some(Ok(named))) => named,
            (None, None) => {
                return Ok(Err(NotAcceptable(
                    "phone_number is missing, which a token of the client needs",
                )));
            }
        };
        caller::misbehave(&self.world, Some(&number)).await?;
        let route_type = match v1::RouteType::try_from(wish.route_type) {
            Ok(v1::RouteType::Loop) => Some(RouteType::Loop),
            Ok(v1::RouteType::Fork) => Some(RouteType::Fork),
            Ok(v1::RouteType::Fallback) => Some(RouteType::Fallback),
            Ok(v1::RouteType::LoopMo) => Some(RouteType::LoopMo),
            Ok(v1::RouteType::LoopMt) => Some(RouteType::LoopMt),
            Ok(v1::RouteType::Ingress) => Some(RouteType::Ingress),
            Ok(v1::RouteType::Unspecified) | Err(_) => None,
        };
        Ok(Ok(Wish {
            client: caller.client,
            number,
            sip_uri: wish.sip_uri,
            mobile_originating_prefix: wish.mobile_originating_prefix,
            mobile_terminating_prefix: wish.mobile_terminating_prefix,
            route_type,
        }))
    }

    /// A wish in v0: of a subscriber for his number.
    async fn wish_v0(&self, request: Request<v0::RegistrationRequest>) -> Result<Wish, Status> {
        let caller = caller::identify(&self.world, request.metadata()).await?;
        caller::require(&caller, SCOPES_V0)?;
        let Some(number) = caller.number else {
            return Err(Status::permission_denied("v0 needs a subscriber's token"));
        };
        caller::misbehave(&self.world, Some(&number)).await?;
        let wish = request.into_inner();
        let route_type = match RouteTypeV0::try_from(wish.route_type) {
            Ok(RouteTypeV0::Loop) => Some(RouteType::Loop),
            Ok(RouteTypeV0::Fork) => Some(RouteType::Fork),
            Ok(RouteTypeV0::Fallback) => Some(RouteType::Fallback),
            Err(_) => None,
        };
        Ok(Wish {
            client: caller.client,
            number,
            sip_uri: wish.suri,
            mobile_originating_prefix: wish.mo_prefix,
            mobile_terminating_prefix: wish.mt_prefix,
            route_type,
        })
    }

    fn upsert(&self, wish: Wish) -> Result<(), NotAcceptable> {
        let now = self.world.now();
        let modes = &self.world.modes;
        if modes.is_on(Mode::RegistrationRefused, Some(&wish.number), now) {
            return Err(NotAcceptable("registrations are refused now"));
        }
        if !self.world.numbers.has(&wish.number) {
            return Err(NotAcceptable("there is no such number"));
        }
        check_uri(&wish.sip_uri, self.plain_sip)?;
        let prefixes = [
            &wish.mobile_originating_prefix,
            &wish.mobile_terminating_prefix,
        ];
        let is_prefix = |prefix: &&String| {
            prefix.len() <= LONGEST_PREFIX && prefix.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !prefixes.iter().all(is_prefix) {
            return Err(NotAcceptable("a prefix is up to eight digits"));
        }
        let route_type = wish.route_type;
        let registration = Registration {
            client: wish.client,
            sip_uri: wish.sip_uri,
            route_type: route_type.ok_or(NotAcceptable("there is no such route type"))?,
            mobile_originating_prefix: wish.mobile_originating_prefix,
            mobile_terminating_prefix: wish.mobile_terminating_prefix,
            expires_at: now.plus_millis(i64::try_from(self.life.as_millis()).unwrap_or(i64::MAX)),
        };
        let registrations = &self.world.registrations;
        match registrations.upsert(&wish.number, registration, now) {
            Upserted::Added | Upserted::Refreshed => Ok(()),
            Upserted::TooMany => Err(NotAcceptable("the number has too many registrations")),
        }
    }

    fn delete(&self, wish: &Wish) -> Result<(), NotAcceptable> {
        const UNKNOWN: NotAcceptable =
            NotAcceptable("the number has no registration with this SIP URI");
        let now = self.world.now();
        let mut all = self.world.registrations.of(&wish.number, now).into_iter();
        let registrations = &self.world.registrations;
        let is_own = all.any(|one| one.sip_uri == wish.sip_uri && one.client == wish.client);
        if is_own && registrations.delete(&wish.number, &wish.sip_uri, now) {
            Ok(())
        } else {
            Err(UNKNOWN)
        }
    }
}

/// `sips:host` or `sips:host:port`; `sip:` where the sandbox allows it.
fn check_uri(text: &str, plain_sip: bool) -> Result<(), NotAcceptable> {
    const SHAPE: NotAcceptable = NotAcceptable("sip_uri must be sips:host or sips:host:port");
    let uri = Uri::parse(text).map_err(|_| SHAPE)?;
    let scheme = match uri.scheme {
        Scheme::Sips => "sips",
        Scheme::Sip if plain_sip => "sip",
        _ => return Err(SHAPE),
    };
    let port = uri.port.map(|port| format!(":{port}")).unwrap_or_default();
    // Anything else in it would be written too.
    let bare = format!("{scheme}:{}{port}", uri.host);
    if text.eq_ignore_ascii_case(&bare) && uri.port != Some(0) {
        Ok(())
    } else {
        Err(SHAPE)
    }
}

#[tonic::async_trait]
impl ServiceV1 for RegistrationApi {
    async fn upsert_registration(
        &self,
        request: Request<v1::UpsertRegistrationRequest>,
    ) -> Result<Response<v1::UpsertRegistrationResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let wish = self.wish_v1(&metadata, message.registration).await?;
        let (status_code, error_message) = status_v1(&wish.and_then(|wish| self.upsert(wish)));
        let time_to_live = (status_code == v1::StatusCode::Ok).then(|| prost_types::Duration {
            seconds: i64::try_from(self.life.as_secs()).unwrap_or(i64::MAX),
            nanos: 0,
        });
        Ok(Response::new(v1::UpsertRegistrationResponse {
            status_code: status_code.into(),
            error_message,
            time_to_live,
        }))
    }

    async fn delete_registration(
        &self,
        request: Request<v1::DeleteRegistrationRequest>,
    ) -> Result<Response<v1::DeleteRegistrationResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let wish = self.wish_v1(&metadata, message.registration).await?;
        let (status_code, error_message) = status_v1(&wish.and_then(|wish| self.delete(&wish)));
        Ok(Response::new(v1::DeleteRegistrationResponse {
            status_code: status_code.into(),
            error_message,
        }))
    }
}

fn status_v1(result: &Result<(), NotAcceptable>) -> (v1::StatusCode, String) {
    match result {
        Ok(()) => (v1::StatusCode::Ok, String::new()),
        Err(NotAcceptable(why)) => (v1::StatusCode::NotAcceptable, (*why).into()),
    }
}

#[tonic::async_trait]
impl ServiceV0 for RegistrationApi {
    async fn upsert_registration(
        &self,
        request: Request<v0::RegistrationRequest>,
    ) -> Result<Response<v0::RegistrationResponse>, Status> {
        let wish = self.wish_v0(request).await?;
        Ok(answer_v0(&self.upsert(wish)))
    }

    async fn delete_registration(
        &self,
        request: Request<v0::RegistrationRequest>,
    ) -> Result<Response<v0::RegistrationResponse>, Status> {
        let wish = self.wish_v0(request).await?;
        Ok(answer_v0(&self.delete(&wish)))
    }
}

fn answer_v0(result: &Result<(), NotAcceptable>) -> Response<v0::RegistrationResponse> {
    let (code, message) = match result {
        Ok(()) => (Code::Ok, String::new()),
        Err(NotAcceptable(why)) => (Code::NotAcceptable, (*why).into()),
    };
    Response::new(v0::RegistrationResponse {
        status: Some(v0::Status {
            code: code.into(),
            message,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_with_tls_and_nothing_else() {
        for good in [
            "sips:voicemail.example.com",
            "sips:voicemail.example.com:5061",
            "SIPS:Voicemail.Example.com",
            "sips:192.0.2.1:5061",
            "sips:[2001:db8::1]:5061",
        ] {
            assert!(check_uri(good, false).is_ok(), "{good}");
        }
        for bad in [
            "",
            "voicemail.example.com",
            "https://voicemail.example.com",
            "sip:voicemail.example.com",
            "sips:user@voicemail.example.com",
            "sips:voicemail.example.com;transport=tcp",
            "sips:voicemail.example.com?a=b",
            "sips:voicemail.example.com:0",
            "sips:voicemail.example.com:99999",
            "sips:voice mail",
            "<sips:voicemail.example.com>",
            "sips:",
        ] {
            assert!(check_uri(bad, false).is_err(), "{bad}");
        }
        assert!(check_uri("sip:127.0.0.1:5060", true).is_ok());
        assert!(check_uri("sip:me@127.0.0.1:5060", true).is_err());
    }
}
