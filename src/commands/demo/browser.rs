//! A browser as far as a sign-in needs one: it keeps cookies, follows redirects and sends forms.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::header::{COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, StatusCode, Url};
use serde_json::Value;

/// More redirects than any sign-in takes.
const REDIRECTS: usize = 20;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A browser with its cookies. Cookies belong to a host and not to a port (RFC 6265 section 8.5),
/// which is what the service and the sandbox see of each other on one machine.
pub(super) struct Browser {
    client: Client,
    cookies: BTreeMap<String, String>,
}

/// What the browser shows.
pub(super) struct Page {
    pub(super) url: Url,
    pub(super) status: StatusCode,
    pub(super) body: String,
}

/// A form of a page, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    method: Method,
    action: Url,
    fields: Vec<(String, String)>,
}

impl Browser {
    pub(super) fn new() -> anyhow::Result<Self> {
        let client = Client::builder().redirect(Policy::none()).timeout(PATIENCE);
        // Everything is on this machine: no proxy of the environment stands between.
        let client = client.no_proxy().build()?;
        Ok(Self {
            client,
            cookies: BTreeMap::new(),
        })
    }

    /// Opens an address.
    pub(super) async fn open(&mut self, url: &str) -> anyhow::Result<Page> {
        let url = url.parse().with_context(|| format!("{url} is no URL"))?;
        self.go(Method::GET, url, Vec::new()).await
    }

    /// Sends a form.
    pub(super) async fn send(&mut self, form: Form) -> anyhow::Result<Page> {
        self.go(form.method, form.action, form.fields).await
    }

    /// Asks an API for JSON, with the browser's cookies.
    pub(super) async fn json(&mut self, url: &str) -> anyhow::Result<Value> {
        let page = self.open(url).await?;
        ensure!(page.status.is_success(), "{url} answers {}", page.status);
        serde_json::from_str(&page.body).with_context(|| format!("{url} answers no JSON"))
    }

    /// Posts JSON to an API and reads JSON.
    pub(super) async fn post_json(&self, url: &str, body: &Value) -> anyhow::Result<Value> {
        let response = self.client.post(url).json(body).send().await?;
        let status = response.status();
        let body = response.text().await?;
        ensure!(status.is_success(), "{url} answers {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("{url} answers no JSON"))
    }

    /// Fetches a file.
    pub(super) async fn bytes(&self, url: &str) -> anyhow::Result<Vec<u8>> {
        let request = self.client.get(url).header(COOKIE, self.cookie_header());
        let response = request.send().await?;
        let status = response.status();
        ensure!(status.is_success(), "{url} answers {status}");
        Ok(response.bytes().await?.to_vec())
    }

    async fn go(
        &mut self,
        mut method: Method,
        mut url: Url,
        mut fields: Vec<(String, String)>,
    ) -> anyhow::Result<Page> {
        for _ in 0..REDIRECTS {
            let mut request = self.client.request(method.clone(), url.clone());
            request = request.header(COOKIE, self.cookie_header());
            request = match method {
                Method::GET => request.query(&fields),
                _ => request
                    .header(ORIGIN, url.origin().ascii_serialization())
                    .form(&fields),
            };
            let response = request.send().await?;
            self.keep_cookies(&response);
            let status = response.status();
            if !status.is_redirection() {
                let url = response.url().clone();
                let body = response.text().await?;
                return Ok(Page { url, status, body });
            }
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            let location = location.with_context(|| format!("{url} redirects to nowhere"))?;
            url = url.join(location)?;
            method = Method::GET;
            fields.clear();
        }
        bail!("{url} redirects without end")
    }

    fn cookie_header(&self) -> String {
        let cookies = self.cookies.iter();
        let cookies: Vec<_> = cookies
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        cookies.join("; ")
    }

    fn keep_cookies(&mut self, response: &reqwest::Response) {
        let set = response.headers().get_all(SET_COOKIE).into_iter();
        for cookie in set.filter_map(|value| value.to_str().ok()) {
            let mut parts = cookie.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|first| first.split_once('=')) else {
                continue;
            };
            if parts.any(|part| part.eq_ignore_ascii_case("max-age=0")) {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}

impl Page {
    /// The first form whose action ends so.
    pub(super) fn form(&self, action: &str) -> anyhow::Result<Form> {
        let mut forms = forms(&self.body, &self.url);
        let found = forms.find(|form| form.action.path().ends_with(action));
        found.with_context(|| {
            let (url, status, title) = (&self.url, self.status, self.title());
            format!("{url} ({status}, {title}) has no form for {action}")
        })
    }

    /// The first link that leads to a place whose address has this in it.
    pub(super) fn link(&self, part: &str) -> anyhow::Result<String> {
        let links = self.body.split("<a").skip(1);
        let mut links = links.filter_map(|tag| attribute(tag.split('>').next()?, "href"));
        let found = links.find(|link| link.contains(part));
        let found = found.with_context(|| format!("{} has no link to {part}", self.url))?;
        Ok(self.url.join(&found)?.into())
    }

    /// What the page is about.
    pub(super) fn title(&self) -> &str {
        between(&self.body, "<title>", "</title>").unwrap_or("no title")
    }
}

impl Form {
    /// The form with this field filled in.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.retain(|(field, _)| field != name);
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }
}

fn forms<'a>(html: &'a str, page: &'a Url) -> impl Iterator<Item = Form> + 'a {
    html.split("<form").skip(1).filter_map(|rest| {
        let (tag, rest) = rest.split_once('>')?;
        let inside = rest.split("</form>").next()?;
        let action = attribute(tag, "action").unwrap_or_default();
        let method = attribute(tag, "method").unwrap_or_default();
        let inputs = inside.split("<input").skip(1);
        let fields = inputs.filter_map(|input| {
            let tag = input.split('>').next()?;
            let kind = attribute(tag, "type").unwrap_or_default();
            let is_hidden = kind.eq_ignore_ascii_case("hidden");
            let value = attribute(tag, "value").unwrap_or_default();
            Some((attribute(tag, "name")?, value)).filter(|_| is_hidden)
        });
        Some(Form {
            method: if method.eq_ignore_ascii_case("post") {
                Method::POST
            } else {
                Method::GET
            },
            action: page.join(&action).ok()?,
            fields: fields.collect(),
        })
    })
}

/// The value of `name="…"` in a tag, as HTML means it.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let value = between(tag, &format!(" {name}=\""), "\"")?;
    let value = value.replace("&quot;", "\"").replace("&#34;", "\"");
    let value = value.replace("&lt;", "<").replace("&#60;", "<");
    let value = value.replace("&gt;", ">").replace("&#62;", ">");
    Some(value.replace("&#38;", "&").replace("&amp;", "&"))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split(after).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_with_its_hidden_fields_and_filled_in() {
        let page = Page {
            url: "http://127.0.0.1:1/login?x=1".parse().unwrap(),
            status: StatusCode::OK,
            body: r#"<form class="a" method="post" action="/oauth2/login?a=1&#38;b=2">
                <input type="hidden" name="csrf" value="a&amp;b">
                <input type="tel" name="number" value="+47"></form>
                <form action="other"><input type="hidden" name="x" value="y"></form>"#
                .into(),
        };
        let form = page.form("/login").unwrap().with("number", "+471234");
        assert_eq!(form.method, Method::POST);
        assert_eq!(
            form.action.as_str(),
            "http://127.0.0.1:1/oauth2/login?a=1&b=2"
        );
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            form.fields,
            [field("csrf", "a&b"), field("number", "+471234")]
        );
        assert_eq!(page.form("other").unwrap().method, Method::GET);
        assert!(page.form("/nowhere").is_err());
    }
}
