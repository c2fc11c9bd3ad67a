use super::*;

/// Reads `toml` as a configuration file, with these variables set.
fn read(toml: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("aftertone.toml");
    std::fs::write(&path, toml).unwrap();
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Config::read(Some(&path), &variables).map_err(|error| {
        let shown = error.to_string();
        shown.replace(&path.display().to_string(), "FILE")
    })
}

fn fault(toml: &str, variables: &[(&str, &str)]) -> String {
    read(toml, variables).expect_err("the configuration should be refused")
}

#[test]
fn an_empty_file_is_the_default_configuration() {
    let config = read("", &[]).unwrap();
    assert_eq!(config.recording, RecordingConfig::default());
    assert_eq!(config.database_url(), "sqlite://data/aftertone.db");
}

#[test]
fn the_database_lies_in_the_data_directory_unless_told() {
    let config = read("data_dir = \"/var/lib/aftertone\"", &[]).unwrap();
    assert_eq!(
        config.database_url(),
        "sqlite:///var/lib/aftertone/aftertone.db"
    );
    let config = read("database_url = \"sqlite://elsewhere.db\"", &[]).unwrap();
    assert_eq!(config.database_url(), "sqlite://elsewhere.db");
}

#[test]
fn the_environment_wins_over_the_file() {
    let toml = "[recording]\nmax_seconds = 60\nkeep_days = 7";
    let config = read(
        toml,
        &[
            ("AFTERTONE_RECORDING__MAX_SECONDS", "90"),
            ("AFTERTONE_DATA_DIR", "/tmp/x"),
            ("AFTERTONE_LOG__FORMAT", "json"),
        ],
    )
    .unwrap();
    assert_eq!(config.recording.max_seconds, 90);
    assert_eq!(config.recording.keep_days, 7);
    assert_eq!(config.data_dir, Path::new("/tmp/x"));
    assert_eq!(config.log.format, telemetry::LogFormat::Json);
}

#[test]
fn an_unknown_key_is_named_with_its_file_its_line_and_what_was_probably_meant() {
    assert_eq!(
        fault("\n[recording]\nmax_second = 3", &[]),
        "recording.max_second (FILE line 3): there is no such setting; did you mean max_seconds?"
    );
    assert_eq!(
        fault("[recordings]\nx = 1", &[]),
        "recordings (FILE line 1): there is no such setting; did you mean recording?"
    );
    assert!(fault("[greeting]\nvolume = 3", &[]).contains("known here: file, prompts, language"));
}

#[test]
fn an_unknown_variable_is_named_with_what_was_probably_meant() {
    assert_eq!(
        fault("", &[("AFTERTONE_RECORDING__KEEP_DAY", "3")]),
        "recording.keep_day (environment variable AFTERTONE_RECORDING__KEEP_DAY): \
         there is no such setting; did you mean keep_days?"
    );
    assert_eq!(
        fault("", &[("AFTERTONE_RECORDING_KEEP_DAYS", "3")]),
        "recording_keep_days (environment variable AFTERTONE_RECORDING_KEEP_DAYS): there is no such \
         setting; two underscores part the section from the key: AFTERTONE_RECORDING__KEEP_DAYS"
    );
    assert!(
        fault("", &[("AFTERTONE_RECORDINX__A", "3")]).contains("AFTERTONE_RECORDINX__A"),
        "the variable is named even where the section is what is wrong"
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_its_place() {
    assert_eq!(
        fault("[recording]\nmax_seconds = \"long\"", &[]),
        "recording.max_seconds (FILE line 2): \"long\" is no whole number from 0 to 4294967295"
    );
    assert_eq!(
        fault("[recording]\nkeep_days = -1", &[]),
        "recording.keep_days (FILE line 2): -1 is no whole number from 0 to 4294967295"
    );
    assert_eq!(
        fault("", &[("AFTERTONE_RECORDING__KEEP_DAYS", "soon")]),
        "recording.keep_days (environment variable AFTERTONE_RECORDING__KEEP_DAYS): \
         \"soon\" is no whole number from 0 to 4294967295"
    );
    assert_eq!(
        fault("data_dir = 3", &[]),
        "data_dir (FILE line 1): 3 is no text; write it in quotes"
    );
    assert_eq!(
        fault("[log]\nformat = \"xml\"", &[]),
        "log.format (FILE line 2): \"xml\" is no known value; write one of: text, json"
    );
    assert_eq!(
        fault("recording = 3", &[]),
        "recording (FILE line 1): 3 is no section"
    );
}

#[test]
fn an_address_that_is_none_is_shown_with_the_right_form() {
    assert_eq!(
        fault("[http]\nlisten = \"localhost:8080\"", &[]),
        "http.listen (FILE line 2): \"localhost:8080\" is no address and port; \
         write them as 127.0.0.1:8080 or [::1]:8080"
    );
    assert_eq!(
        fault("", &[("AFTERTONE_MEDIA__PUBLIC_ADDRESS", "here")]),
        "media.public_address (environment variable AFTERTONE_MEDIA__PUBLIC_ADDRESS): \
         \"here\" is no IP address; write it as 192.0.2.1 or 2001:db8::1"
    );
    assert_eq!(
        fault("[sip]\ntrusted_peers = [\"10.0.0.0/33\"]", &[]),
        "sip.trusted_peers (FILE line 2): \"10.0.0.0/33\" is no network; \
         write it as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1"
    );
}

#[test]
fn an_address_alone_is_a_network_of_one() {
    let toml = "[sip]\ntrusted_peers = [\"192.0.2.1\", \"2001:db8::1\", \"10.0.0.0/8\"]";
    let peers = read(toml, &[]).unwrap().sip.trusted_peers;
    let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["192.0.2.1/32", "2001:db8::1/128", "10.0.0.0/8"]);
}

#[test]
fn a_core_over_plain_http_elsewhere_is_told() {
    let shown = fault("[core]\nendpoint = \"http://core.example.com:80\"", &[]);
    assert!(shown.starts_with("core.endpoint: "), "{shown}");
}

#[test]
fn what_the_core_puts_before_numbers_is_taken_off_again() {
    let toml = "[core]\nmobile_terminating_prefix = \"00\"\nmobile_originating_prefix = \"01\"\n\
                [sip]\nstrip_prefixes = [\"+00\", \"99\"]";
    let numbering = read(toml, &[]).unwrap().numbering();
    assert_eq!(numbering.strip_prefixes, ["+00", "99", "01"]);
    assert!(read("", &[]).unwrap().numbering().strip_prefixes.is_empty());
}

#[test]
fn a_file_that_is_no_toml_is_named_with_the_line() {
    let fault = fault("[recording]\nmax_seconds = ", &[]);
    assert!(fault.starts_with("FILE line 2: "), "{fault}");
}

#[test]
fn a_named_file_must_exist_and_the_default_one_need_not() {
    let missing = Path::new("/nowhere/aftertone.toml");
    let error = Config::read(Some(missing), &[]).unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/aftertone.toml"),
        "{error}"
    );
    let variable = (FILE_VARIABLE.to_owned(), missing.display().to_string());
    let error = Config::read(None, &[variable]).unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/aftertone.toml"),
        "{error}"
    );
}

#[test]
fn settings_against_sense_are_all_named_at_once() {
    let fault = fault(
        "public_url = \"voicemail.example.com\"\ndatabase_url = \"postgres://x\"\n\
         [recording]\nmax_seconds = 0\nmax_messages = 0\n[log]\nfilter = \"a=b=c\"",
        &[],
    );
    for key in [
        "public_url:",
        "database_url:",
        "recording.max_seconds:",
        "recording.max_messages:",
        "log.filter:",
    ] {
        assert!(fault.contains(key), "{key} is missing in\n{fault}");
    }
}

#[test]
fn a_secret_may_stand_in_a_file_of_its_own_but_not_in_both() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("url");
    std::fs::write(&secret, "sqlite:///secret.db\n").unwrap();
    let toml = format!("database_url_file = \"{}\"", secret.display());
    assert_eq!(
        read(&toml, &[]).unwrap().database_url(),
        "sqlite:///secret.db"
    );
    let variables = [("AFTERTONE_DATABASE_URL_FILE", secret.to_str().unwrap())];
    assert_eq!(
        read("", &variables).unwrap().database_url(),
        "sqlite:///secret.db"
    );
    let both = format!("database_url = \"sqlite://a.db\"\n{toml}");
    assert!(
        fault(&both, &[]).starts_with("database_url_file (FILE line 2): database_url is set too")
    );
    let gone = fault("database_url_file = \"/nowhere/url\"", &[]);
    assert!(gone.contains("\"/nowhere/url\" cannot be read"), "{gone}");
}

#[test]
fn an_identity_server_is_an_issuer_and_a_client_with_its_secret_in_a_file() {
    assert_eq!(read("", &[]).unwrap().oauth, None);
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let toml = format!(
        "[oauth]\nissuer = \"https://id.example.com\"\nclient_id = \"aftertone\"\n\
         client_secret_file = \"{}\"",
        secret.display()
    );
    let config = read(&toml, &[]).unwrap();
    assert!(!format!("{config:?}").contains("s3cret"));
    let oauth = config.oauth.unwrap();
    assert_eq!(oauth.client_secret.unwrap().expose(), "s3cret");
    assert_eq!(
        oauth.scopes,
        ["openid", "offline_access", "phone", "call.routing:write"]
    );

    let scopes = [("AFTERTONE_OAUTH__SCOPES", "openid, phone")];
    let oauth = read(&toml, &scopes).unwrap().oauth.unwrap();
    assert_eq!(oauth.scopes, ["openid", "phone"]);
}

#[test]
fn an_identity_server_that_makes_no_sense_is_explained() {
    let shown = fault("[oauth]\nissuer = \"http://id.example.com\"", &[]);
    assert!(
        shown.contains("oauth.issuer: must begin with https://"),
        "{shown}"
    );
    assert!(shown.contains("oauth.client_id: is not set"), "{shown}");
    let shown = fault("[oauth]\nisuer = \"x\"", &[]);
    assert!(shown.contains("did you mean issuer?"), "{shown}");
}

#[test]
fn an_empty_variable_unsets_what_need_not_be_set() {
    let config = read(
        "public_url = \"https://a.example\"",
        &[("AFTERTONE_PUBLIC_URL", "")],
    );
    assert_eq!(config.unwrap().public_url, None);
}

#[test]
fn what_kubernetes_says_of_a_service_called_aftertone_is_no_setting() {
    let links = [
        ("AFTERTONE_SERVICE_HOST", "10.0.0.1"),
        ("AFTERTONE_SERVICE_PORT_SIP", "5060"),
        ("AFTERTONE_PORT", "udp://10.0.0.1:5060"),
        ("AFTERTONE_PORT_5060_UDP_ADDR", "10.0.0.1"),
        ("AFTERTONE_SIP_PORT_5060_TCP_PROTO", "tcp"),
    ];
    read("", &links).unwrap();
}

#[test]
fn lists_in_the_environment_are_commas_or_toml() {
    for text in [
        "udp://127.0.0.1:5070, tcp://127.0.0.1:5071",
        r#"["udp://127.0.0.1:5070", "tcp://127.0.0.1:5071"]"#,
    ] {
        let config = read("", &[("AFTERTONE_SIP__LISTEN", text)]).unwrap();
        let listen: Vec<_> = config.sip.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["udp://127.0.0.1:5070", "tcp://127.0.0.1:5071"]);
    }
    let config = read("", &[("AFTERTONE_SIP__STRIP_PREFIXES", "00")]).unwrap();
    assert_eq!(config.numbering().strip_prefixes, ["00"]);
    assert_eq!(
        fault(
            "",
            &[("AFTERTONE_SIP__TRUSTED_PEERS", "10.0.0.0/8,10.0.0.0/99")]
        ),
        "sip.trusted_peers (environment variable AFTERTONE_SIP__TRUSTED_PEERS): \"10.0.0.0/99\" is no \
         network; write it as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1"
    );
}

#[test]
fn a_tls_listener_needs_a_certificate_and_its_key() {
    let listen = "[sip]\nlisten = [\"tls://127.0.0.1:5061\"]\n";
    assert!(
        fault(listen, &[]).contains("tls:// needs sip.tls_certificate and sip.tls_private_key")
    );
    let half = format!("{listen}tls_certificate = \"a.pem\"");
    assert!(fault(&half, &[]).contains("only one of the two is set"));
    read(&format!("{half}\ntls_private_key = \"b.pem\""), &[]).unwrap();
}

#[test]
fn sip_settings_against_sense_are_named() {
    for (setting, key) in [
        ("listen = []", "sip.listen:"),
        ("uri = \"tel:+4712345678\"", "sip.uri:"),
        ("uri = \"voicemail.example.com\"", "sip.uri:"),
        ("trusted_peers = []", "sip.trusted_peers:"),
        ("strip_prefixes = [\"x\"]", "sip.strip_prefixes:"),
        (
            "default_country_code = \"0047\"",
            "sip.default_country_code:",
        ),
        ("advertised_address = \"a b\"", "sip.advertised_address:"),
        ("max_calls = 0", "sip.max_calls:"),
        ("min_se_secs = 30", "sip.min_se_secs:"),
        ("session_expires_secs = 60", "sip.session_expires_secs:"),
        ("max_message_bytes = 100", "sip.max_message_bytes:"),
    ] {
        let fault = fault(&format!("[sip]\n{setting}"), &[]);
        assert!(fault.starts_with(key), "{setting}: {fault}");
    }
}

#[test]
fn media_settings_against_sense_are_named() {
    let fault = fault("[media]\nlisten = \"127.0.0.1:65534\"\nworkers = 4", &[]);
    assert!(fault.starts_with("media.listen:"), "{fault}");
}

#[test]
fn metrics_and_the_public_api_do_not_share_an_address() {
    let fault = fault("[http]\nlisten = \"127.0.0.1:9090\"", &[]);
    assert!(fault.starts_with("admin.listen:"), "{fault}");
}

/// The keys of a section, as the refusal of an unknown one lists them.
fn keys_of(section: &str) -> Vec<String> {
    let header = if section.is_empty() {
        String::new()
    } else {
        format!("[{section}]\n")
    };
    let fault = fault(&format!("{header}zzzzzzzzzzzzzzzzzzzzzzzz = 1"), &[]);
    let (_, keys) = fault.split_once("known here: ").unwrap();
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_operations_page_explains_every_setting() {
    let page = include_str!("../../docs/operations.md");
    for key in keys_of("") {
        let as_section = read(&format!("[{key}]"), &[]);
        if as_section.is_err_and(|fault| fault.contains("a section is no")) {
            assert!(
                page.contains(&format!("| `{key}` |")),
                "{key} is not explained"
            );
            continue;
        }
        for inner in keys_of(&key) {
            assert!(
                page.contains(&format!("| `{key}.{inner}` |")),
                "{key}.{inner} is not explained"
            );
        }
    }
}

#[test]
fn the_files_that_come_with_the_service_make_sense() {
    let local = read(include_str!("../../aftertone.toml"), &[]).unwrap();
    assert!(
        local
            .sip
            .listen
            .iter()
            .all(|listen| listen.addr.ip().is_loopback())
    );
    let secret = tempfile::NamedTempFile::new().unwrap();
    let example = include_str!("../../docs/aftertone.example.toml").replace(
        "/etc/aftertone/client-secret",
        secret.path().to_str().unwrap(),
    );
    let example = read(&example, &[]).unwrap();
    assert_eq!(example.numbering().strip_prefixes, ["00"]);
}
