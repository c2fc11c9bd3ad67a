//! Who asks: the bearer token, what it is good for, and how the core misbehaves meanwhile.

use std::time::Duration;

use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::domain::Msisdn;
use crate::sandbox::world::{Mode, TokenFacts, World};

/// What "seconds late" is: longer than clients wait.
const SLOW: Duration = Duration::from_secs(8);

/// Who holds the token. Refuses tokens that are unknown, over or revoked, and everybody while the
/// core is out of service.
pub(super) async fn identify(world: &World, metadata: &MetadataMap) -> Result<TokenFacts, Status> {
    misbehave(world, None).await?;
    let token = metadata
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(token) = token else {
        return Err(Status::unauthenticated(
            "send an access token: authorization: Bearer <token>",
        ));
    };
    let now = world.now();
    let facts = world.tokens.check(token, now);
    let facts = facts.ok_or_else(|| {
        Status::unauthenticated("the access token is unknown, expired or revoked")
    })?;
    if world
        .modes
        .is_on(Mode::ExpiredToken, facts.number.as_ref(), now)
    {
        return Err(Status::unauthenticated("the access token has expired"));
    }
    Ok(facts)
}

/// What the modes say for this number alone (`None`: for everybody). [`identify`] has asked for everybody already.
pub(super) async fn misbehave(world: &World, number: Option<&Msisdn>) -> Result<(), Status> {
    let is_on = |mode| world.modes.of(number, world.now()).contains(&mode);
    if is_on(Mode::CoreSlow) {
        tokio::time::sleep(SLOW).await;
    }
    if is_on(Mode::CoreUnavailable) {
        return Err(Status::unavailable("the core is out of service"));
    }
    Ok(())
}

/// Refuses a token that has none of these scopes.
pub(super) fn require(facts: &TokenFacts, scopes: &[&str]) -> Result<(), Status> {
    if scopes.iter().any(|scope| facts.scopes.contains(scope)) {
        return Ok(());
    }
    let scope = scopes.first().copied().unwrap_or_default();
    Err(Status::permission_denied(format!(
        "the access token lacks the scope {scope}"
    )))
}
