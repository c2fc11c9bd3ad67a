//! Whether the mobile core is there, and is what the configuration says.

use aftertone::config::Config;
use aftertone::domain::{Msisdn, Secret};
use aftertone::mobile_core::{Api, CoreError, GrpcCore, MobileCore, Wish};

use crate::commands::check::{Finding, chain};

const SETTING: &str = "core.endpoint";

/// What the core would refuse, and whether it is reached. Nothing where there is none.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let Some(endpoint) = config.core.endpoint.as_deref() else {
        return Vec::new();
    };
    let mut findings: Vec<_> = [own_uri(&config.sip.uri), scopes(config)]
        .into_iter()
        .flatten()
        .collect();
    findings.push(reach(config, endpoint).await);
    findings
}

/// Cores register `sips:host` and `sips:host:port`, and refuse everything else.
fn own_uri(uri: &str) -> Option<Finding> {
    const URI: &str = "sip.uri";
    let is_host_alone = |rest: &str| !rest.contains(['@', ';', '?']);
    if uri.strip_prefix("sips:").is_some_and(is_host_alone) {
        return None;
    }
    Some(if uri.strip_prefix("sip:").is_some_and(is_host_alone) {
        Finding::warn(
            URI,
            format!("{uri} is registered at the core, and most take sips: only"),
        )
    } else {
        Finding::fail(
            URI,
            format!(
                "{uri} is registered at the core, which will refuse it; write sips:<host> or sips:<host>:<port>"
            ),
        )
    })
}

/// The older dialect has another scope than the one that subscribers are asked for by default.
fn scopes(config: &Config) -> Option<Finding> {
    let oauth = config.oauth.as_ref()?;
    let is_of_v0 = |scope: &String| scope.starts_with("call.control");
    let lacks_it = config.core.api == Api::V0 && !oauth.scopes.iter().any(is_of_v0);
    lacks_it.then(|| {
        Finding::warn(
            "oauth.scopes",
            "core.api = \"v0\" is used with a scope such as call.control.answer_and_initiate, which is not among \
             them; the core will refuse every number",
        )
    })
}

/// Asks for a registration with a token that nobody issued: a core that says so is reached, its
/// certificate is good, and it speaks the configured dialect.
async fn reach(config: &Config, endpoint: &str) -> Finding {
    let core = match GrpcCore::new(&config.core) {
        Ok(core) => core,
        Err(error) => return Finding::fail(SETTING, chain(&error)),
    };
    let wish = Wish {
        // Of no country.
        number: Msisdn::parse("+0000000").expect("seven digits"),
        sip_uri: config.sip.uri.clone(),
    };
    let answer = core.upsert(&wish, &Secret::new("aftertone-check")).await;
    explain(endpoint, answer.err().as_ref(), config.core.timeout_ms)
}

fn explain(endpoint: &str, error: Option<&CoreError>, timeout_ms: u64) -> Finding {
    let Some(error) = error else {
        return Finding::warn(
            SETTING,
            format!("{endpoint} takes a token that nobody issued; it is no core to be trusted"),
        );
    };
    match error {
        CoreError::Unauthenticated | CoreError::Forbidden(_) => Finding::ok(
            SETTING,
            format!("{endpoint} answers, and refuses a token that nobody issued"),
        ),
        CoreError::NotAcceptable(_) => Finding::warn(
            SETTING,
            format!("{endpoint} answers, but looks at a request before its token: {error}"),
        ),
        CoreError::Nonsense(_) => Finding::fail(
            SETTING,
            format!(
                "{endpoint} answers, but is no such core: {error}; try core.api = \"v0\" or \"v1\""
            ),
        ),
        CoreError::Deadline => Finding::fail(
            SETTING,
            format!(
                "{endpoint} did not answer within {timeout_ms} ms; see that a firewall lets this machine \
                 connect there"
            ),
        ),
        CoreError::Unavailable(why) => Finding::fail(
            SETTING,
            format!(
                "{endpoint} cannot be used: {why}; {}",
                way_out(&why.to_lowercase())
            ),
        ),
    }
}

/// What to do, by the words that the libraries below use.
fn way_out(why: &str) -> &'static str {
    if why.contains("not valid for name") {
        "write the name that its certificate has"
    } else if why.contains("unknownissuer") || why.contains("certificate") {
        "name the authority that signed its certificate in core.ca_file"
    } else if why.contains("refused") {
        "nothing listens there: see that the port is right"
    } else if why.contains("dns") || why.contains("lookup") {
        "see that the name is right"
    } else if why.contains("corrupt message") || why.contains("invalid message") {
        "it speaks no TLS on this port"
    } else {
        "see that it is a gRPC service, and that the port is right"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::Level;

    #[test]
    fn a_uri_that_cores_refuse_is_told() {
        let level = |uri| own_uri(uri).map(|finding| finding.level);
        for uri in ["sips:voicemail.example.com", "sips:[2001:db8::1]:5061"] {
            assert_eq!(level(uri), None, "{uri}");
        }
        assert_eq!(level("sip:10.0.0.1"), Some(Level::Warn));
        for uri in [
            "sip:voicemail@localhost",
            "sips:vm@example.com",
            "sips:example.com;transport=tcp",
        ] {
            assert_eq!(level(uri), Some(Level::Fail), "{uri}");
        }
    }

    #[test]
    fn only_a_core_that_refuses_the_made_up_token_is_well() {
        let of = |error: Option<CoreError>| {
            let finding = explain("https://core", error.as_ref(), 5000);
            (finding.level, finding.sentence)
        };
        assert_eq!(of(Some(CoreError::Unauthenticated)).0, Level::Ok);
        assert_eq!(of(None).0, Level::Warn);
        let (level, sentence) = of(Some(CoreError::Deadline));
        assert!(
            level == Level::Fail && sentence.contains("5000 ms"),
            "{sentence}"
        );
        let (level, sentence) = of(Some(CoreError::Nonsense("so".into())));
        assert!(
            level == Level::Fail && sentence.contains("core.api"),
            "{sentence}"
        );
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_address_is_told_with_the_way_out() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        let mut config = Config::default();
        assert!(check(&config).await.is_empty());
        config.sip.uri = "sips:localhost".into();
        config.core.endpoint = Some(format!("http://127.0.0.1:{port}"));
        let sentence = check(&config).await.remove(0).sentence;
        assert!(sentence.contains("nothing listens there"), "{sentence}");

        let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = plain.local_addr().unwrap().port();
        config.core.endpoint = Some(format!("https://127.0.0.1:{port}"));
        let answer = async {
            let (mut stream, _) = plain.accept().await.unwrap();
            let page = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, page)
                .await
                .unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = answer => {}
            mut findings = check(&config) => {
                let sentence = findings.remove(0).sentence;
                assert!(sentence.contains("speaks no TLS"), "{sentence}");
            }
        }
        config.core.ca_file = Some("/nowhere/ca.pem".into());
        let sentence = check(&config).await.remove(0).sentence;
        assert!(sentence.contains("/nowhere/ca.pem"), "{sentence}");
    }
}
