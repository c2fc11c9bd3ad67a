//! What holds for every request, and the admin listener.

use std::time::Duration;

use aftertone::http;
use aftertone::storage::Storage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Api, Request, Response, SOON};

#[tokio::test]
async fn paths_and_methods_that_lead_nowhere_are_problems_too() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    for path in [
        "/inbox",
        "/api",
        "/api/v1",
        "/api/v1/message",
        "/api/v1/messages/",
        "/metrics",
        "/healthz",
        "/%ff",
    ] {
        kari.get(path).await.is_problem(404);
    }
    for (method, path, allow) in [
        ("POST", "/api/v1/messages", "GET,HEAD"),
        ("PUT", "/api/v1/tokens/1", "DELETE"),
        ("OPTIONS", "/api/v1/me", "DELETE,GET,HEAD"),
    ] {
        let answer = kari.request(method, path).send().await;
        answer.is_problem(405);
        let mut allowed: Vec<_> = answer
            .header("allow")
            .unwrap()
            .split(',')
            .map(str::trim)
            .collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow);
    }
}

#[tokio::test]
async fn every_answer_has_an_id_and_forbids_what_it_need_not_allow() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    for path in [
        "/api/v1/me",
        "/api/v1/nothing",
        "/api/openapi.json",
        "/api/v1/greeting",
    ] {
        let answer = kari.get(path).await;
        assert!(
            answer
                .header("x-request-id")
                .is_some_and(|id| !id.is_empty()),
            "{path}"
        );
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert!(
            answer
                .header("content-security-policy")
                .unwrap()
                .contains("default-src 'none'")
        );
        assert_eq!(
            answer.header("referrer-policy"),
            Some("no-referrer"),
            "{path}"
        );
        assert!(answer.header("cache-control").is_some(), "{path}");
    }
}

#[tokio::test]
async fn wrong_tokens_of_all_kinds_get_one_and_the_same_answer() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let ask = async |value: &str| {
        let request = Request::new(api.address, "GET", "/api/v1/me");
        request.header("Authorization", value).send().await
    };
    let upper = kari.token.to_uppercase();
    let wrong = [
        format!("Bearer at_{}", "0".repeat(64)),
        "Bearer x".into(),
        format!("Bearer {upper}"),
        format!("Bearer {}x", kari.token),
        format!("Bearer {}", "x".repeat(5000)),
    ];
    let mut bodies = Vec::new();
    for value in wrong {
        let answer = ask(&value).await;
        answer.is_problem(401);
        assert!(
            answer
                .header("www-authenticate")
                .unwrap()
                .contains("error=\"invalid_token\"")
        );
        bodies.push(answer.body);
    }
    for value in ["Basic YTpi", "Bearer", kari.token.as_str()] {
        let answer = ask(value).await;
        answer.is_problem(401);
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Bearer realm=\"aftertone\"")
        );
        bodies.push(answer.body);
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(ask(&format!("bearer {}", kari.token)).await.status, 200);
}

#[tokio::test]
async fn a_crowd_is_shed_at_once_and_told_to_come_back() {
    let config = http::Config {
        max_requests: 1,
        ..http::Config::default()
    };
    let api = Api::with(config).await;
    let kari = api.subscriber("+4790000001").await;
    // A request under way: its body is yet to come.
    let mut slow = TcpStream::connect(api.address).await.unwrap();
    let head = format!(
        "POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nExpect: 100-continue\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
        kari.token
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut goes_on = [0; 25];
    slow.read_exact(&mut goes_on).await.unwrap();
    assert_eq!(&goes_on[..12], b"HTTP/1.1 100");

    let shed = kari.get("/api/v1/me").await;
    shed.is_problem(503);
    assert!(shed.header("retry-after").is_some());
    slow.write_all(b"{}").await.unwrap();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    assert_eq!(Response::parse(&answer).status, 201);
    assert_eq!(kari.get("/api/v1/me").await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let patience = |body_timeout_ms, request_timeout_ms| http::Config {
        body_timeout_ms,
        request_timeout_ms,
        ..http::Config::default()
    };
    for (config, status) in [(patience(100, 20_000), 408), (patience(20_000, 100), 504)] {
        let api = Api::with(config).await;
        let kari = api.subscriber("+4790000001").await;
        for (method, path, kind) in [
            ("POST", "tokens", "application/json"),
            ("PUT", "greeting", "audio/wav"),
        ] {
            let request = kari
                .request(method, &format!("/api/v1/{path}"))
                .header("Content-Type", kind);
            request
                .header("Content-Length", "2")
                .send()
                .await
                .is_problem(status);
        }
    }
}

#[tokio::test]
async fn a_database_that_fails_is_a_problem_without_details_and_makes_us_unready() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    api.storage.close().await;
    let answer = kari.get("/api/v1/messages").await;
    assert!(
        answer.status == 503 || answer.status == 500,
        "{}",
        answer.status
    );
    answer.is_problem(answer.status);
    assert_eq!(
        answer.json()["detail"],
        serde_json::Value::Null,
        "{}",
        answer.text()
    );

    let ready = Request::new(api.admin, "GET", "/readyz").send().await;
    let report = ready.ok(503);
    assert_eq!(report["ready"], false);
    assert_eq!(report["checks"][0]["name"], "database");
    assert!(
        report["checks"][0]["error"]
            .as_str()
            .is_some_and(|e| !e.is_empty())
    );
    assert_eq!(report["checks"][1]["ok"], true);
    assert_eq!(
        Request::new(api.admin, "GET", "/healthz")
            .send()
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn the_admin_listener_tells_health_readiness_and_metrics() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    kari.get("/api/v1/messages/123").await.is_problem(404);
    let admin = async |path: &str| Request::new(api.admin, "GET", path).send().await;

    assert_eq!(admin("/healthz").await.text(), "ok\n");
    let report = admin("/readyz").await.ok(200);
    assert_eq!(report["ready"], true, "{report}");
    api.readiness
        .report("sip", Err("udp://127.0.0.1:5060 is gone"));
    let report = admin("/readyz").await.ok(503);
    let sip = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["name"] == "sip")
        .unwrap();
    assert_eq!(sip["error"], "udp://127.0.0.1:5060 is gone");
    api.readiness.report("sip", Ok::<_, String>(()));
    admin("/readyz").await.ok(200);
    api.readiness.set_draining();
    admin("/readyz").await.ok(503);

    let metrics = admin("/metrics").await;
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    let line = r#"aftertone_http_requests_total{route="/api/v1/messages/{id}",status="404"}"#;
    assert!(metrics.text().contains(line), "{}", metrics.text());
    assert!(!metrics.text().contains("messages/123"));
    admin("/api/v1/me").await.is_problem(404);
    Request::new(api.admin, "POST", "/readyz")
        .send()
        .await
        .is_problem(405);
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_setting() {
    let api = Api::start().await;
    let config = aftertone::http::admin::Config {
        listen: api.address,
    };
    let metrics = aftertone::telemetry::prometheus();
    let serving = aftertone::http::admin::serve(
        &config,
        metrics,
        api.readiness.clone(),
        &api.tasks,
        api.stop.clone(),
    );
    let error = serving.await.unwrap_err().to_string();
    assert!(
        error.contains("admin.listen") && error.contains(&api.address.to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn nonsense_on_the_socket_ends_that_connection_alone() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    let long_line = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1_000_000));
    for nonsense in [
        "\u{16}\u{3}\u{1}\u{2}\r\n\r\n",
        "GET\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &many_headers,
        &long_line,
    ] {
        let exchange = async {
            let mut stream = TcpStream::connect(api.address).await.unwrap();
            drop(stream.write_all(nonsense.as_bytes()).await);
            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer).await);
            answer
        };
        let answer = tokio::time::timeout(SOON, exchange)
            .await
            .expect("the connection ends");
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    assert_eq!(kari.get("/api/v1/me").await.status, 200);
}

#[tokio::test]
async fn the_sections_of_the_configuration_have_defaults_and_refuse_what_they_do_not_know() {
    let config: http::Config = toml::from_str("").unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(
        Duration::from_millis(config.request_timeout_ms),
        Duration::from_secs(30)
    );
    let config: http::admin::Config = toml::from_str("").unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:9090");
    assert!(toml::from_str::<http::Config>("lisen = \"127.0.0.1:1\"").is_err());
}
