//! Whether the service can listen where it should, and be found.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aftertone::config::Config;
use aftertone::media;
use aftertone::oauth::is_loopback;
use aftertone::sip::endpoint::Transport;
use aftertone::sip::message::{Host, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use url::Url;

use crate::commands::check::Finding;

/// A service on this machine answers at once.
const LOCAL_DEADLINE: Duration = Duration::from_secs(2);
const DNS_DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let runs = service_runs(config.admin.listen).await;
    let mut findings = Vec::new();
    for listen in &config.sip.listen {
        let tried = match listen.transport {
            Transport::Udp => bind_udp(listen.addr).await,
            _ => bind_tcp(listen.addr).await,
        };
        findings.push(listener("sip.listen", &listen.to_string(), tried, runs));
    }
    findings.push(media(&config.media, runs).await);
    for (setting, addr) in [
        ("http.listen", config.http.listen),
        ("admin.listen", config.admin.listen),
    ] {
        findings.push(listener(
            setting,
            &addr.to_string(),
            bind_tcp(addr).await,
            runs,
        ));
    }
    findings.extend(exposure(config));
    findings.extend(host_of_uri(config).await);
    findings
}

/// Every port of the workers. The spare ones are left out where they are in use.
async fn media(config: &media::Config, runs: bool) -> Finding {
    const SETTING: &str = "media.listen";
    let first = config.listen;
    let count = config.worker_count();
    let ports = (first.port()..=u16::MAX).take(if first.port() == 0 { 1 } else { count });
    let mut last = first;
    for port in ports {
        last.set_port(port);
        let tried = bind_udp(last).await;
        if tried.is_err() {
            return listener(SETTING, &format!("udp://{last}"), tried, runs);
        }
    }
    if first.port() == 0 {
        return Finding::ok(SETTING, format!("{} has free UDP ports", first.ip()));
    }
    Finding::ok(
        SETTING,
        format!("{first} to {} are free for UDP", last.port()),
    )
}

async fn bind_udp(addr: SocketAddr) -> io::Result<()> {
    UdpSocket::bind(addr).await.map(drop)
}

async fn bind_tcp(addr: SocketAddr) -> io::Result<()> {
    TcpListener::bind(addr).await.map(drop)
}

/// Whether the service runs already: its admin listener then tells how it is.
async fn service_runs(admin: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(admin).await?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.take(64 * 1024).read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = timeout(LOCAL_DEADLINE, ask).await;
    matches!(answer, Ok(Ok(answer)) if answer.contains("\"ready\"") && answer.contains("\"checks\""))
}

fn listener(setting: &'static str, addr: &str, tried: io::Result<()>, runs: bool) -> Finding {
    let Err(error) = tried else {
        return Finding::ok(setting, format!("{addr} is free"));
    };
    match error.kind() {
        io::ErrorKind::AddrInUse if runs => Finding::ok(
            setting,
            format!("{addr} is in use, by the service that runs"),
        ),
        io::ErrorKind::AddrInUse => Finding::fail(
            setting,
            format!("{addr} is in use by another program; stop it or choose another port"),
        ),
        io::ErrorKind::AddrNotAvailable => Finding::fail(
            setting,
            format!("{addr}: this machine has no such address; 0.0.0.0 or [::] is every address"),
        ),
        io::ErrorKind::PermissionDenied => Finding::fail(
            setting,
            format!("{addr}: ports below 1024 need CAP_NET_BIND_SERVICE, which this user lacks"),
        ),
        _ => Finding::fail(setting, format!("{addr} cannot be listened on: {error}")),
    }
}

/// What the outside sees that it perhaps should not.
fn exposure(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config
        .sip
        .trusted_peers
        .iter()
        .any(|net| net.prefix_len() == 0)
    {
        findings.push(Finding::warn(
            "sip.trusted_peers",
            "everybody may call and name himself as he likes; write the networks of your core or PBX",
        ));
    }
    let is_tls_outside = config
        .public_url
        .as_ref()
        .is_some_and(|url| url.starts_with("https://"));
    let is_in_clear = config.public_url.as_deref().is_some_and(|url| {
        url.starts_with("http://") && !Url::parse(url).is_ok_and(|url| is_loopback(&url))
    });
    if is_in_clear || !config.http.listen.ip().is_loopback() && !is_tls_outside {
        findings.push(Finding::warn(
            "public_url",
            "the API is reached from outside and public_url is not https://; tokens and messages must not \
             travel in clear: put a proxy with TLS before it",
        ));
    }
    let takes_calls_outside = config
        .sip
        .listen
        .iter()
        .any(|listen| !listen.addr.ip().is_loopback());
    let media = &config.media;
    if takes_calls_outside && media.public_address.is_none() && media.listen.ip().is_loopback() {
        findings.push(Finding::warn(
            "media.listen",
            "calls arrive from outside and their media stays on this machine, so that nobody would hear \
             anything; write 0.0.0.0 or the address of a network card",
        ));
    }
    if !is_private(config.admin.listen.ip()) {
        findings.push(Finding::warn(
            "admin.listen",
            "metrics are open to whoever reaches this address; choose a private one",
        ));
    }
    findings
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// The core finds us by the host of our URI. What this machine's resolver does not know, another
/// one may, so that nothing fails here.
async fn host_of_uri(config: &Config) -> Option<Finding> {
    const SETTING: &str = "sip.uri";
    let uri = Uri::parse(&config.sip.uri).ok()?;
    let Host::Name(name) = &uri.host else {
        return None;
    };
    let lookup = tokio::net::lookup_host((&**name, uri.port.unwrap_or(5061)));
    let found = match timeout(DNS_DEADLINE, lookup).await {
        Ok(Ok(found)) => found.map(|addr| addr.ip().to_string()).collect::<Vec<_>>(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    Some(match found.first() {
        Some(first) => Finding::ok(SETTING, format!("{name} is {first}")),
        None => Finding::warn(
            SETTING,
            format!(
                "{name} has no address as seen from here; see that the core finds one, or SRV records"
            ),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::Level;

    #[tokio::test]
    async fn a_port_that_another_program_has_fails_unless_that_is_us() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = taken.local_addr().unwrap();
        let tried = || async { bind_tcp(addr).await };
        assert_eq!(
            listener("http.listen", "a", tried().await, false).level,
            Level::Fail
        );
        assert_eq!(
            listener("http.listen", "a", tried().await, true).level,
            Level::Ok
        );
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let tried = bind_udp(udp.local_addr().unwrap()).await;
        assert_eq!(listener("sip.listen", "a", tried, false).level, Level::Fail);
    }

    #[tokio::test]
    async fn an_address_of_another_machine_fails_with_the_reason() {
        let tried = bind_tcp("192.0.2.1:0".parse().unwrap()).await;
        let finding = listener("http.listen", "192.0.2.1:0", tried, false);
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.sentence.contains("no such address"), "{finding}");
    }

    #[tokio::test]
    async fn one_taken_port_among_those_of_media_is_found() {
        let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = taken.local_addr().unwrap();
        let listen = SocketAddr::new(addr.ip(), addr.port() - 1);
        let config = media::Config {
            listen,
            workers: 2,
            spare_ports: 0,
            ..media::Config::default()
        };
        let finding = media(&config, false).await;
        assert_eq!(finding.level, Level::Fail);
        let any = media::Config {
            listen: SocketAddr::new(addr.ip(), 0),
            ..config
        };
        assert_eq!(media(&any, false).await.level, Level::Ok);
    }

    #[test]
    fn the_defaults_are_not_exposed_and_the_world_is_told_apart() {
        let mut config = Config::default();
        assert_eq!(exposure(&config), []);
        config.sip.trusted_peers = vec!["0.0.0.0/0".parse().unwrap()];
        config.http.listen = "0.0.0.0:8080".parse().unwrap();
        config.admin.listen = "203.0.113.1:9090".parse().unwrap();
        let settings: Vec<_> = exposure(&config)
            .iter()
            .map(|finding| finding.setting)
            .collect();
        assert_eq!(
            settings,
            ["sip.trusted_peers", "public_url", "admin.listen"]
        );
        config.public_url = Some("https://voicemail.example.com".into());
        assert_eq!(exposure(&config).len(), 2);

        let mut config = Config {
            public_url: Some("http://localhost:8080".into()),
            ..Config::default()
        };
        assert_eq!(exposure(&config), []);
        config.public_url = Some("http://voicemail.example.com".into());
        assert_eq!(exposure(&config)[0].setting, "public_url");
    }

    #[test]
    fn calls_from_outside_with_media_on_loopback_are_told() {
        let mut config = Config::default();
        config.sip.listen = vec!["udp://0.0.0.0:5060".parse().unwrap()];
        let settings = |config: &Config| exposure(config).first().map(|finding| finding.setting);
        assert_eq!(settings(&config), Some("media.listen"));
        config.media.listen = "0.0.0.0:40000".parse().unwrap();
        assert_eq!(settings(&config), None);
    }
}
