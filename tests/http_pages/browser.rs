//! A browser without script: it keeps cookies, finds forms and sends them as browsers do.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use aftertone::domain::{Subscriber, Timestamp};
use aftertone::storage::{NewSession, Storage};
use sha2::{Digest, Sha256};

use crate::api::{Api, Request, Response};

/// The name of the session's cookie over TLS.
pub(crate) const SESSION: &str = "__Host-aftertone";

pub(crate) struct Browser {
    to: SocketAddr,
    pub(crate) cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(crate) fn new(api: &Api) -> Self {
        Self {
            to: api.address,
            cookies: BTreeMap::new(),
        }
    }

    /// One in which `subscriber` is signed in, for an hour.
    pub(crate) async fn signed_in(api: &Api, subscriber: &Subscriber, secret: &str) -> Self {
        let now = Timestamp::from_millis(0);
        let session = NewSession {
            hash: Sha256::digest(secret).into(),
            subscriber: subscriber.id,
            created_at: now,
            ends_at: crate::api::NOW.plus_millis(3_600_000),
        };
        api.storage.add_session(&session).await.unwrap();
        let mut browser = Self::new(api);
        browser.cookies.insert(SESSION.into(), secret.into());
        browser
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        let cookies: Vec<_> = self
            .cookies
            .iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect();
        let request = Request::new(self.to, method, path).header("Accept", "text/html,*/*;q=0.8");
        if cookies.is_empty() {
            return request;
        }
        request.header("Cookie", &cookies.join("; "))
    }

    /// Goes to an address, as by a link or the address bar.
    pub(crate) async fn get(&mut self, path: &str) -> Response {
        let response = self.request("GET", path).send().await;
        self.remember(&response);
        response
    }

    /// Presses the button of the form of `page` that leads to `action`. Pages send no referrer, so
    /// browsers name no origin.
    pub(crate) async fn press(&mut self, page: &Response, action: &str) -> Response {
        let body = form(page.text(), action).unwrap_or_else(|| panic!("no form leads to {action}"));
        let request = self
            .request("POST", action)
            .header("Origin", "null")
            .header("Sec-Fetch-Site", "same-origin");
        self.send_form(request, &body).await
    }

    pub(crate) async fn send_form(&mut self, request: Request, body: &str) -> Response {
        let request = request.body("application/x-www-form-urlencoded", body);
        let response = request.send().await;
        self.remember(&response);
        response
    }

    fn remember(&mut self, response: &Response) {
        let set = response
            .headers
            .iter()
            .filter(|(name, _)| name == "set-cookie");
        for (_, cookie) in set {
            let (name, rest) = cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if rest.contains("Max-Age=0;") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.into(), value.into());
            }
        }
    }
}

/// The hidden fields of the form that leads to `action`, as a form sends them.
pub(crate) fn form(html: &str, action: &str) -> Option<String> {
    let start = html.find(&format!("action=\"{action}\""))?;
    let form = html[start..].split("</form>").next()?;
    let inputs = form.split("<input ").skip(1);
    let fields = inputs.map(|input| {
        let (name, value) = (attribute(input, "name"), attribute(input, "value"));
        format!("{}={}", name.unwrap(), value.unwrap())
    });
    Some(fields.collect::<Vec<_>>().join("&"))
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

#[track_caller]
pub(crate) fn assert_goes_to(response: &Response, path: &str) {
    assert_eq!(response.status, 303, "{}", response.text());
    assert_eq!(response.header("location"), Some(path));
}
