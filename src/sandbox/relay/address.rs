//! The address of the audio in a session description: found, and replaced by another.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Stands for an address that only the checks of ICE will show.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9);
/// The priority of the one candidate that is told: of a host, for the first component (RFC 8445 section 5.1.2.1).
const PRIORITY: u32 = (126 << 24) | (65_535 << 8) | 255;

/// Where a description wants its first audio stream. `None` where it wants none anywhere.
pub(super) fn audio_address(description: &str) -> Option<SocketAddr> {
    let mut ip = None;
    let mut port = None;
    for line in description.lines() {
        if line.starts_with("m=") {
            if port.is_some() {
                break;
            }
            let audio = line.strip_prefix("m=audio ");
            port = audio.and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok());
            port = port.filter(|port| *port != 0);
        } else if let Some(connection) = line.strip_prefix("c=IN ") {
            // Within the audio section, or before any.
            ip = connection.split_whitespace().nth(1);
        }
    }
    let (ip, port) = (ip?.parse::<IpAddr>().ok(), port?);
    match ip.filter(|ip| !ip.is_unspecified()) {
        Some(ip) => Some(SocketAddr::new(ip, port)),
        // A browser that has not gathered its candidates yet, or hides them behind a name.
        None => does_ice(description).then_some(UNKNOWN),
    }
}

/// The description with `local` in the place of that address. Other ways to the same media are left out, and where
/// there is ICE, `local` is the only candidate.
pub(super) fn with_address(description: &str, local: SocketAddr) -> String {
    let (address, port) = (local.ip(), local.port());
    let family = if local.is_ipv4() { "IP4" } else { "IP6" };
    let candidate = match does_ice(description) {
        true => format!("a=candidate:1 1 UDP {PRIORITY} {address} {port} typ host\r\n"),
        false => String::new(),
    };
    // `Some` within the audio section.
    let mut candidates = None;
    let mut is_done = false;
    let mut text = String::with_capacity(description.len() + 128);
    for line in description.lines() {
        if line.starts_with("m=") {
            text.extend(candidates.take());
        }
        if let Some(rest) = line.strip_prefix("m=audio ").filter(|_| !is_done) {
            let (told, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            is_done = told != "0";
            candidates = is_done.then_some(candidate.as_str());
            let port = if is_done { port } else { 0 };
            text += &format!("m=audio {port} {rest}");
        } else if line.starts_with("c=IN ") {
            text += &format!("c=IN {family} {address}");
        } else if OTHER_WAYS.iter().any(|way| line.starts_with(way)) {
            continue;
        } else {
            text += line;
        }
        text += "\r\n";
    }
    text.extend(candidates);
    text
}

const OTHER_WAYS: [&str; 3] = ["a=rtcp:", "a=candidate:", "a=remote-candidates:"];

fn does_ice(description: &str) -> bool {
    let mut lines = description.lines();
    lines.any(|line| line.starts_with("a=ice-ufrag:"))
}
