//! Keeps the layering of `src/`: a module may import only the modules listed beside it.
//!
//! Two conventions make it reliable: across files `use` names `crate::` paths (`super::` stands
//! only in tests), and one `use` names one module.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lower layers first. A longer path wins over a shorter one: `sip::endpoint` over `sip`. A module
/// may always import what lies within its own layer.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // Leaves.
    ("domain", &[]),
    ("clock", &["domain"]),
    ("telemetry", &[]),
    ("random", &[]),
    ("secret", &[]),
    ("signals", &[]),
    ("vault", &["domain"]),
    // Pure: no socket, no task, no clock.
    ("sip::message", &[]),
    ("sip::header", &["sip::message"]),
    ("sip::flow", &[]),
    ("sip::digest", &["sip::message", "sip::header"]),
    (
        "sip::transaction",
        &["sip::message", "sip::header", "sip::flow"],
    ),
    ("sip::dialog", &["sip::message", "sip::header", "sip::flow"]),
    (
        "sip::endpoint",
        &[
            "sip::message",
            "sip::header",
            "sip::flow",
            "sip::digest",
            "sip::transaction",
            "sip::dialog",
        ],
    ),
    (
        "sip::registration",
        &[
            "sip::message",
            "sip::header",
            "sip::digest",
            "sip::endpoint",
        ],
    ),
    ("media::audio", &[]),
    ("media::sdp", &["media::audio"]),
    ("media::rtp", &["media::audio"]),
    ("media::jitter", &["media::audio", "media::rtp"]),
    // What protects a call's packets, and finds their way.
    ("media::srtp", &["media::sdp", "media::rtp"]),
    ("media::dtls", &["media::sdp", "media::srtp"]),
    ("media::ice", &["media::sdp"]),
    (
        "media::link",
        &[
            "media::sdp",
            "media::rtp",
            "media::srtp",
            "media::dtls",
            "media::ice",
        ],
    ),
    // What was received, as it was received.
    ("media::recording", &["media::audio"]),
    (
        "media::timeline",
        &[
            "media::audio",
            "media::rtp",
            "media::jitter",
            "media::recording",
        ],
    ),
    ("media::demux", &["media::sdp", "media::rtp"]),
    (
        "media::session",
        &[
            "media::audio",
            "media::sdp",
            "media::rtp",
            "media::jitter",
            "media::recording",
            "media::timeline",
            "media::link",
        ],
    ),
    ("voicemail::policy", &["domain"]),
    (
        "voicemail::facts",
        &["domain", "sip::message", "sip::header"],
    ),
    // Shells.
    ("connections", &[]),
    ("sip", &["telemetry"]),
    ("media", &["telemetry"]),
    ("storage", &["domain", "clock", "telemetry"]),
    ("oauth", &["domain", "clock", "telemetry"]),
    ("mobile_core", &["domain", "clock", "oauth", "telemetry"]),
    // Pure: the proxy of the sandbox.
    (
        "sandbox::sip_core::proxy",
        &[
            "domain",
            "sandbox::config",
            "sandbox::world",
            "sandbox::sip_core::directory",
            "sandbox::sip_core::relay",
            "sip::message",
            "sip::header",
            "sip::flow",
            "sip::digest",
            "sip::transaction",
            "sip::dialog",
        ],
    ),
    // Pure: the keeper's schedule.
    ("enrolment::keeper::schedule", &["domain"]),
    // Service.
    (
        "voicemail",
        &["domain", "clock", "sip", "media", "storage", "telemetry"],
    ),
    (
        "enrolment",
        &[
            "secret",
            "domain",
            "clock",
            "vault",
            "storage",
            "oauth",
            "mobile_core",
            "telemetry",
        ],
    ),
    (
        "http",
        &[
            "random",
            "secret",
            "domain",
            "clock",
            "connections",
            "storage",
            "enrolment",
            "telemetry",
            "media::audio",
        ],
    ),
    // Composition.
    (
        "config",
        &[
            "domain",
            "sip",
            "media",
            "oauth",
            "mobile_core",
            "voicemail",
            "enrolment",
            "http",
            "telemetry",
        ],
    ),
    ("caller", &["domain", "sip", "media", "telemetry"]),
    (
        "server",
        &[
            "signals",
            "domain",
            "clock",
            "sip",
            "media",
            "vault",
            "storage",
            "oauth",
            "mobile_core",
            "voicemail",
            "enrolment",
            "http",
            "config",
            "telemetry",
        ],
    ),
    // Met over sockets only: it knows nothing of the service.
    (
        "sandbox",
        &[
            "random",
            "domain",
            "clock",
            "connections",
            "sip",
            "media",
            "mobile_core::pb",
            "config",
            "caller",
            "telemetry",
        ],
    ),
    ("lib", &[]),
    ("commands", &["*"]),
    ("main", &["*"]),
];

#[test]
fn modules_import_only_what_their_layer_allows() {
    let mut violations = Vec::new();
    for file in rust_files(Path::new("src")) {
        let module = module_of(&file);
        let rules = MAY_IMPORT
            .iter()
            .filter(|(layer, _)| is_within(&module, layer));
        let Some((layer, allowed)) = rules.max_by_key(|(layer, _)| layer.len()) else {
            violations.push(format!("{} is in no layer", file.display()));
            continue;
        };
        for import in crate_paths(&fs::read_to_string(&file).unwrap()) {
            if !may_import(layer, allowed, &import) {
                let file = file.display();
                violations.push(format!(
                    "{file}: `{layer}` must not import `crate::{import}`"
                ));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn a_parent_module_is_named_by_its_full_path_outside_tests() {
    let mut violations = Vec::new();
    for file in rust_files(Path::new("src")) {
        let is_test = file.ends_with("tests.rs") || file.iter().any(|folder| folder == "tests");
        if is_test {
            continue;
        }
        let source = fs::read_to_string(&file).unwrap();
        let code = source.split("\nmod tests {").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            if !line.trim_start().starts_with("//") && line.contains("super::") {
                violations.push(format!(
                    "{} line {}: {}",
                    file.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn the_checker_sees_paths_groups_and_prefixes_as_they_are() {
    let paths = crate_paths(
        "use crate::sip::message::{Uri, Host};\n// crate::http\nlet x = crate::domain::Msisdn::parse(y);",
    );
    assert_eq!(
        paths,
        BTreeSet::from(["sip::message".to_owned(), "domain".to_owned()])
    );
    let grouped = crate_paths("use crate::{http, sip};");
    assert!(
        grouped
            .iter()
            .all(|path| !may_import("http", &["sip"], path)),
        "a grouped use hides modules"
    );
    assert!(may_import(
        "sip::endpoint",
        &["sip::message"],
        "sip::message"
    ));
    assert!(!may_import("sip::endpoint", &["sip::message"], "sip"));
    assert!(!may_import("sip", &[], "sipper"));
    assert_eq!(module_of(Path::new("src/sip/mod.rs")), "sip");
    assert_eq!(crate_paths("pub(in crate::sip) mod lex;"), BTreeSet::new());
}

fn may_import(layer: &str, allowed: &[&str], import: &str) -> bool {
    is_within(import, layer)
        || allowed
            .iter()
            .any(|one| *one == "*" || is_within(import, one))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// `src/sip/endpoint.rs` is `sip::endpoint`; `src/sip/mod.rs` is `sip`.
fn module_of(file: &Path) -> String {
    let path = file.strip_prefix("src").unwrap().with_extension("");
    let parts = path.iter().map(|part| part.to_str().unwrap());
    parts
        .filter(|part| *part != "mod")
        .collect::<Vec<_>>()
        .join("::")
}

fn is_within(module: &str, parent: &str) -> bool {
    module == parent
        || module
            .strip_prefix(parent)
            .is_some_and(|rest| rest.starts_with("::"))
}

/// Every path that follows `crate::`, cut at its first type or brace. A brace right after
/// `crate::` yields an empty path, which no layer may import: one `use` names one module.
fn crate_paths(source: &str) -> BTreeSet<String> {
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut paths = BTreeSet::new();
    for line in code {
        // `pub(in crate::sip)` says who may look in, and imports nothing.
        let line = line.replace("(in crate::", "(in ");
        for tail in line.split("crate::").skip(1) {
            let parts = tail.split("::").map(|part| {
                part.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap()
            });
            let modules =
                parts.take_while(|part| part.starts_with(|c: char| c.is_ascii_lowercase()));
            paths.insert(modules.collect::<Vec<_>>().join("::"));
        }
    }
    paths
}
