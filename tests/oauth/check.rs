//! What `aftertone check` says of the identity server.

use std::process::Command;

use crate::issuer::{CLIENT, Issuer, SECRET};

/// The lines about the identity server.
async fn check(oauth: String) -> Vec<String> {
    let checked = tokio::task::spawn_blocking(move || {
        let place = tempfile::tempdir().unwrap();
        let config = place.path().join("aftertone.toml");
        let toml = format!(
            "[oauth]\n{oauth}\n[core]\nendpoint = \"http://127.0.0.1:9\"\ntoken = \"client\""
        );
        std::fs::write(&config, toml).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_aftertone"));
        command
            .current_dir(place.path())
            .args(["check", "--config"])
            .arg(config);
        command.output().unwrap()
    });
    let told = String::from_utf8(checked.await.unwrap().stdout).unwrap();
    told.lines()
        .filter(|line| line.contains("oauth"))
        .map(str::to_owned)
        .collect()
}

fn settings(issuer: &str, secret: &str) -> String {
    format!("issuer = \"{issuer}\"\nclient_id = \"{CLIENT}\"\nclient_secret = \"{secret}\"")
}

#[tokio::test]
async fn check_reaches_the_identity_server_and_says_what_to_register_there() {
    let issuer = Issuer::start().await;
    let told = check(settings(&issuer.base, SECRET)).await;
    assert_eq!(told.len(), 4, "{told:#?}");
    assert!(told.iter().all(|line| line.starts_with("ok")), "{told:#?}");
    assert!(
        told[2].contains("/auth/callback must be registered"),
        "{told:#?}"
    );
}

#[tokio::test]
async fn check_explains_what_is_wrong_with_the_identity_server_and_shows_no_secret() {
    let issuer = Issuer::start().await;
    let told = check(settings(&issuer.base, "wrong secret")).await;
    assert!(
        told[3].starts_with("FAIL")
            && told[3].contains("see oauth.client_id and oauth.client_secret"),
        "{told:#?}"
    );
    assert!(!told.concat().contains("wrong secret"));

    let told = check(settings(&format!("{}/", issuer.base), SECRET)).await;
    assert!(
        told[0].starts_with("FAIL") && told[0].contains("must stand exactly as it does there"),
        "{told:#?}"
    );

    let told = check(settings("http://127.0.0.1:9", SECRET)).await;
    assert!(
        told[0].starts_with("FAIL") && told[0].contains("that this machine may connect there"),
        "{told:#?}"
    );
}
