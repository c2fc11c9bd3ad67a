//! `/api/openapi.json` against what the service does.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Api, Request};

async fn description(api: &Api) -> Value {
    Request::new(api.address, "GET", "/api/openapi.json")
        .send()
        .await
        .ok(200)
}

/// Method and path of every operation.
fn operations(description: &Value) -> Vec<(String, String, &Value)> {
    let paths = description["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation))
    });
    operations.collect()
}

fn resolve<'a>(description: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').unwrap();
            let target = description.pointer(pointer);
            target.unwrap_or_else(|| panic!("{reference} leads nowhere"))
        }
        None => schema,
    }
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str));
            object.values().for_each(|v| references(v, found));
        }
        Value::Array(array) => array.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

/// Every property of the schema is there, and nothing else.
#[track_caller]
fn assert_matches(description: &Value, schema: &Value, value: &Value) {
    let schema = resolve(description, schema);
    if let Some(parts) = schema["allOf"].as_array() {
        let names = parts
            .iter()
            .flat_map(|part| properties(resolve(description, part)));
        return assert_eq!(names.collect::<BTreeSet<_>>(), keys(value));
    }
    match value {
        Value::Object(object) => {
            assert_eq!(
                properties(schema).into_iter().collect::<BTreeSet<_>>(),
                keys(value)
            );
            let required = schema["required"].as_array().unwrap().iter();
            let required = required.filter_map(Value::as_str).chain(["detail"]);
            let required: BTreeSet<_> = required.collect();
            let optional = object.keys().find(|name| !required.contains(name.as_str()));
            assert_eq!(
                optional, None,
                "an answer has all its fields, but for the detail of a problem"
            );
            for (name, value) in object {
                assert_matches(description, &schema["properties"][name], value);
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| assert_matches(description, &schema["items"], item)),
        Value::String(text) => {
            let names = schema["enum"].as_array();
            assert!(
                names.is_none_or(|names| names.contains(&Value::from(text.as_str()))),
                "{text}: {schema}"
            );
        }
        _ => {}
    }
}

fn properties(schema: &Value) -> Vec<String> {
    let properties = schema["properties"].as_object();
    properties
        .unwrap_or_else(|| panic!("no object: {schema}"))
        .keys()
        .cloned()
        .collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn every_described_operation_is_there_and_asks_for_a_token() {
    let api = Api::start().await;
    let description = description(&api).await;
    let described = operations(&description);
    for (method, path, operation) in &described {
        let path = path.replace("{id}", "00000000000070008000000000000000");
        let answer = Request::new(api.address, method, &path).send().await;
        assert_eq!(answer.status, 401, "{method} {path}");
        assert!(answer.header("www-authenticate").is_some());
        for response in operation["responses"].as_object().unwrap().values() {
            assert!(
                resolve(&description, response)["description"].is_string(),
                "{method} {path}"
            );
        }
        for status in ["401", "500", "503"] {
            assert!(
                operation["responses"][status].is_object(),
                "{method} {path}: {status}"
            );
        }
        assert!(operation["summary"].is_string() && operation["operationId"].is_string());
    }
    let either = serde_json::json!([{"token": []}, {"session": []}]);
    assert_eq!(description["security"], either);
    let change = &description["paths"]["/api/v1/me"]["delete"]["responses"];
    assert!(
        change["403"].is_object(),
        "a session is asked where it comes from"
    );
    assert_eq!(
        description["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
    let ids: BTreeSet<_> = described
        .iter()
        .map(|(_, _, o)| o["operationId"].to_string())
        .collect();
    assert_eq!(
        ids.len(),
        described.len(),
        "operation ids are unique: {ids:?}"
    );
}

#[tokio::test]
async fn the_description_holds_the_routes_of_the_contract() {
    let api = Api::start().await;
    let description = description(&api).await;
    let described: BTreeSet<String> = operations(&description)
        .into_iter()
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    let expected = [
        "DELETE /api/v1/greeting",
        "DELETE /api/v1/me",
        "DELETE /api/v1/messages/{id}",
        "DELETE /api/v1/tokens/{id}",
        "GET /api/v1/events",
        "GET /api/v1/greeting",
        "GET /api/v1/me",
        "GET /api/v1/messages",
        "GET /api/v1/messages/{id}",
        "GET /api/v1/messages/{id}/audio",
        "GET /api/v1/missed-calls",
        "GET /api/v1/settings",
        "GET /api/v1/tokens",
        "HEAD /api/v1/greeting",
        "HEAD /api/v1/messages/{id}/audio",
        "PATCH /api/v1/messages/{id}",
        "PATCH /api/v1/settings",
        "POST /api/v1/tokens",
        "PUT /api/v1/greeting",
    ];
    assert_eq!(described, expected.into_iter().map(str::to_owned).collect());
    let mut found = Vec::new();
    references(&description, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        assert!(
            description.pointer(&reference[1..]).is_some(),
            "{reference} leads nowhere"
        );
    }
}

#[tokio::test]
async fn answers_look_as_they_are_described() {
    let api = Api::start().await;
    let kari = api.subscriber("+4790000001").await;
    let id = kari.receives(b"x").await;
    kari.receives(b"y").await;
    kari.misses_a_call().await;
    let description = description(&api).await;
    let schema = |path: &str, method: &str, status: &str| {
        let response = &description["paths"][path][method]["responses"][status];
        let response = resolve(&description, response);
        let content = response["content"]
            .as_object()
            .unwrap_or_else(|| panic!("{path}: {response}"));
        content.values().next().unwrap()["schema"].clone()
    };

    for path in ["/me", "/messages", "/missed-calls", "/settings", "/tokens"] {
        let path = format!("/api/v1{path}");
        let body = kari.get(&path).await.ok(200);
        assert_matches(&description, &schema(&path, "get", "200"), &body);
    }
    let body = kari.get(&format!("/api/v1/messages/{id}")).await.ok(200);
    assert_matches(
        &description,
        &schema("/api/v1/messages/{id}", "get", "200"),
        &body,
    );
    let body = kari
        .request("POST", "/api/v1/tokens")
        .json("{}")
        .send()
        .await
        .ok(201);
    assert_matches(
        &description,
        &schema("/api/v1/tokens", "post", "201"),
        &body,
    );
    let body = kari.get("/api/v1/messages/1").await.ok(404);
    assert_matches(
        &description,
        &schema("/api/v1/messages/{id}", "get", "404"),
        &body,
    );
    let wav = kari
        .request("PUT", "/api/v1/greeting")
        .body("audio/wav", api.default_greeting.to_vec());
    let body = wav.send().await.ok(200);
    assert_matches(
        &description,
        &schema("/api/v1/greeting", "put", "200"),
        &body,
    );
}
