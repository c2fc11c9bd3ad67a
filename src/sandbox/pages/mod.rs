//! The sandbox's own pages for people, and the same as JSON for scripts ([`control`]).

mod control;
mod events;
mod forms;
mod view;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;

use crate::domain::Msisdn;
use crate::sandbox::config::Behaviour;
use crate::sandbox::html;
use crate::sandbox::identity::{Identity, notice};
use crate::sandbox::phones::Phones;
use crate::sandbox::sip_core::SipCore;
use crate::sandbox::world::{Mode, World};

use view::{CallView, Choice, ModeView, NumberView, SmsView};

/// The longest body of any request to the sandbox.
const BODY_LIMIT_BYTES: usize = 64 * 1024;
/// Calls shown on a page.
const CALLS_SHOWN: usize = 20;

/// What the pages work with.
pub(crate) struct Pages {
    pub(crate) identity: Arc<Identity>,
    pub(crate) phones: Phones,
    /// Where a real phone registers.
    servers: Vec<String>,
    stop: CancellationToken,
}

impl Pages {
    pub(crate) fn world(&self) -> &World {
        &self.identity.world
    }
}

/// What handlers extract.
pub(crate) type Shared = State<Arc<Pages>>;

/// The identity server and the pages: everything on the sandbox's HTTP listener. What streams ends
/// with `stop`.
pub(crate) fn routes(
    identity: &Arc<Identity>,
    phones: Phones,
    core: &SipCore,
    stop: &CancellationToken,
) -> Router {
    let pages = Arc::new(Pages {
        identity: Arc::clone(identity),
        phones,
        servers: view::servers(core),
        stop: stop.clone(),
    });
    let own = Router::new()
        .route("/", get(overview))
        .route("/phone/{number}", get(phone))
        .route("/pages/calls", post(forms::place_call))
        .route("/pages/behaviour", post(forms::behaviour))
        .route("/pages/modes", post(forms::modes))
        .route("/pages/rotate-keys", post(forms::rotate_keys))
        .route("/pages/revoke-consent", post(forms::revoke_consent))
        .route("/sandbox/events", get(events::stream))
        .merge(control::routes())
        .fallback(not_found)
        .with_state(pages);
    Router::new()
        .route("/style.css", get(html::style))
        .route("/live.js", get(html::script))
        .merge(crate::sandbox::identity::routes(identity))
        .merge(own)
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
}

#[derive(Template)]
#[template(path = "sandbox/overview.html")]
struct Overview<'a> {
    operator: &'a str,
    csrf: &'a str,
    numbers: Vec<NumberView>,
    sayings: Vec<Choice>,
    media: Vec<Choice>,
    calls: Vec<CallView>,
    modes: Vec<ModeView>,
    key: String,
}

/// `GET /`
async fn overview(State(pages): Shared, headers: HeaderMap) -> Response {
    let (identity, world) = (&pages.identity, pages.world());
    let browser = identity.browsers.known_or_new(&headers);
    let now = world.now();
    let numbers = world.numbers.all();
    let calls = world.calls.recent(CALLS_SHOWN).into_iter();
    let page = Overview {
        operator: &identity.operator,
        csrf: &browser.csrf,
        numbers: numbers
            .iter()
            .map(|number| NumberView::of(number, identity, now))
            .collect(),
        sayings: view::sayings(),
        media: view::media(),
        calls: calls.map(|call| CallView::of(&pages, call)).collect(),
        modes: view::modes(world, None, &Mode::ALL, now),
        key: identity.keys.current_id(),
    };
    let response = html::page(StatusCode::OK, &page, None);
    html::with_cookie(response, identity.browsers.cookie(&browser))
}

#[derive(Template)]
#[template(path = "sandbox/phone.html")]
struct PhonePage<'a> {
    operator: &'a str,
    name: &'a str,
    number: &'a str,
    behaviour: &'static str,
    /// What a real phone needs to register, where there is to be one.
    account: Option<&'a str>,
    servers: &'a [String],
    messages: Vec<SmsView>,
    calls: Vec<CallView>,
}

/// `GET /phone/{number}`
async fn phone(State(pages): Shared, Path(number): Path<String>) -> Response {
    let (identity, world) = (&pages.identity, pages.world());
    let number = number_in(&number).and_then(|number| world.numbers.of(&number));
    let Some(number) = number else {
        return not_found(State(pages)).await;
    };
    let calls = world.calls.recent(usize::MAX).into_iter();
    let is_his = |whose: &Option<Msisdn>| whose.as_ref() == Some(&number.number);
    let calls = calls.filter(|call| is_his(&call.from) || is_his(&call.to));
    let page = PhonePage {
        operator: &identity.operator,
        name: view::name_of(&number),
        number: number.number.e164(),
        behaviour: number.behaviour.explained(),
        account: (number.behaviour == Behaviour::Phone).then(|| number.password.expose()),
        servers: &pages.servers,
        messages: world
            .sms
            .of(&number.number)
            .into_iter()
            .map(SmsView::of)
            .collect(),
        calls: calls
            .take(CALLS_SHOWN)
            .map(|call| CallView::of(&pages, call))
            .collect(),
    };
    html::page(StatusCode::OK, &page, None)
}

async fn not_found(State(pages): Shared) -> Response {
    let text = "There is nothing at this address. The overview is at /.";
    let status = StatusCode::NOT_FOUND;
    notice::page(&pages.identity, status, "Not found", text)
}

/// A number in a path, with its plus or without.
pub(crate) fn number_in(path: &str) -> Option<Msisdn> {
    let path = path.strip_prefix('+').unwrap_or(path);
    Msisdn::parse(&format!("+{path}")).ok()
}
