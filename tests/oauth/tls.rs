//! Whose certificate is believed.

use std::path::Path;
use std::sync::Arc;

use aftertone::clock::SystemClock;
use aftertone::oauth::{Client, Config, Error, SetupError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::issuer::REDIRECT;

/// An authority, and a server with a certificate of its for `name`; the server's issuer.
async fn serve(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, authority).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let issuer = format!("https://localhost:{port}");
    let place = |path: &str| format!("{issuer}{path}");
    let document = json!({
        "issuer": issuer,
        "authorization_endpoint": place("/auth"),
        "token_endpoint": place("/token"),
        "jwks_uri": place("/jwks"),
    });
    let body = document.to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio_util::task::TaskTracker::new().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who does not trust the certificate hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 2048];
            if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                drop(stream.write_all(answer.as_bytes()).await);
                drop(stream.shutdown().await);
            }
        }
    });
    issuer
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn client(issuer: &str, ca_file: Option<&Path>) -> Result<Client, SetupError> {
    let config = Config {
        issuer: issuer.to_owned(),
        client_id: "aftertone".into(),
        ca_file: ca_file.map(Path::to_path_buf),
        ..Config::default()
    };
    let redirect = Url::parse(REDIRECT).unwrap();
    Client::new(&config, redirect, Arc::new(SystemClock), [1; 32])
}

#[tokio::test]
async fn a_certificate_counts_only_by_its_authority_and_for_its_name() {
    let ours = authority();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, ours.pem()).unwrap();
    let issuer = serve(&ours, "localhost").await;
    client(&issuer, Some(&file))
        .unwrap()
        .authorize()
        .await
        .unwrap();

    let of_another_name = serve(&ours, "id.example.com").await;
    let of_another_authority = serve(&authority(), "localhost").await;
    for issuer in [of_another_name, of_another_authority] {
        let refused = client(&issuer, Some(&file)).unwrap().authorize().await;
        assert!(
            matches!(refused, Err(Error::Unavailable { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_file_without_authorities_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let shown = |file: &Path| match client("https://id.example.com", Some(file)) {
        Ok(_) => panic!("there is no authority"),
        Err(error) => error.to_string(),
    };
    let missing = shown(&file);
    assert!(
        missing.contains("oauth.ca_file") && missing.contains("cannot be read"),
        "{missing}"
    );
    std::fs::write(&file, "no certificate").unwrap();
    assert!(shown(&file).contains("holds no certificate"));
}
