//! Holds every answer against `/openapi.json`: its status, media type, headers and body are what the description says.
//!
//! A small checker of what the description uses of JSON Schema. Stricter than that in one thing: a field that no schema
//! names is an error.

use crate::support::Answer;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// The description; all nodes are the same binary.
static DOCUMENT: OnceLock<Value> = OnceLock::new();

/// Panics if the answer is not as described. `fetch` gets the description, if the node serves it already.
pub fn check(method: &str, path: &str, answer: &Answer, fetch: impl FnOnce() -> Option<Value>) {
    let document = match DOCUMENT.get() {
        Some(document) => document,
        None => match fetch() {
            Some(document) => DOCUMENT.get_or_init(|| document),
            None => return,
        },
    };
    if let Err(error) = check_by(document, method, path, answer) {
        panic!("{method} {path} is not as described: {error}\n{answer:?}");
    }
}

fn check_by(document: &Value, method: &str, path: &str, answer: &Answer) -> Result<(), String> {
    let path = path.split('?').next().unwrap_or_default();
    let segments = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let fits = |template: &String| {
        let (template, path) = (segments(template), segments(path));
        template.len() == path.len() && template.iter().zip(&path).all(|(t, p)| t.starts_with('{') || t == p)
    };
    let paths = document["paths"].as_object().ok_or("no paths")?;
    let Some(item) = paths.iter().find(|(template, _)| fits(template)).map(|(_, item)| item) else {
        let is_told = path == "/openapi.json" || answer.status == 404 || answer.refusal() == (503, "not_ready");
        return if is_told { Ok(()) } else { Err("the path is not described".to_owned()) };
    };
    let Some(operation) = item.get(method.to_lowercase()) else {
        return if answer.status == 405 { Ok(()) } else { Err("the method is not described".to_owned()) };
    };
    let answers = &operation["responses"];
    let described = answers.get(answer.status.to_string()).or(answers.get("default")).ok_or("no such status")?;
    for header in described["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
        answer.header(&header.to_lowercase()).ok_or_else(|| format!("the header {header} is missing"))?;
    }
    let Some(contents) = described["content"].as_object() else {
        return if answer.body == "" { Ok(()) } else { Err("a body where none is described".to_owned()) };
    };
    let media_type = answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
    let content = contents.get(media_type).ok_or_else(|| format!("the media type {media_type} is not described"))?;
    match content.get("schema") {
        Some(schema) if media_type.ends_with("json") => check_value(document, schema, &answer.body, "body"),
        _ => Ok(()),
    }
}

fn check_value(document: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    check_parts(document, schema, value, place)?;
    let known = properties(document, schema, value);
    let unknown = value.as_object().into_iter().flatten().find(|(name, _)| !known.is_empty() && !known.contains(*name));
    match unknown {
        Some((name, _)) => Err(format!("{place}.{name} is not described")),
        None => Ok(()),
    }
}

fn check_parts(document: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    if let Some(target) = target(document, schema) {
        return check_parts(document, target, value, place);
    }
    let all = |key: &str| schema[key].as_array().cloned().unwrap_or_default();
    for part in all("allOf") {
        check_parts(document, &part, value, place)?;
    }
    let one_of = all("oneOf");
    let fitting = one_of.iter().filter(|part| check_parts(document, part, value, place).is_ok()).count();
    if !one_of.is_empty() && fitting != 1 {
        return Err(format!("{place} is {fitting} of oneOf"));
    }
    if let Some(kinds) = schema.get("type") {
        let kinds: Vec<&str> = kinds
            .as_array()
            .map_or_else(|| vec![kinds], |kinds| kinds.iter().collect())
            .into_iter()
            .filter_map(Value::as_str)
            .collect();
        if !kinds.is_empty() && !kinds.iter().any(|kind| is_of(kind, value)) {
            return Err(format!("{place} is not {kinds:?}: {value}"));
        }
    }
    if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
        return Err(format!("{place} is none of {}", schema["enum"]));
    }
    if let (Some(minimum), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < minimum
    {
        return Err(format!("{place} is less than {minimum}"));
    }
    for name in all("required").iter().filter_map(Value::as_str) {
        value.get(name).ok_or_else(|| format!("{place}.{name} is missing"))?;
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(name) {
            // The parts of an allOf describe one object between them: only nested ones are whole.
            check_value(document, schema, value, &format!("{place}.{name}"))?;
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        if let Some(schema) = schema.get("items") {
            check_value(document, schema, item, &format!("{place}[{index}]"))?;
        }
    }
    Ok(())
}

fn target<'a>(document: &'a Value, schema: &Value) -> Option<&'a Value> {
    document.pointer(schema["$ref"].as_str()?.strip_prefix('#')?)
}

/// All fields that a schema names for this value.
fn properties(document: &Value, schema: &Value, value: &Value) -> BTreeSet<String> {
    if let Some(target) = target(document, schema) {
        return properties(document, target, value);
    }
    let own = schema["properties"].as_object().into_iter().flat_map(|properties| properties.keys().cloned());
    let parts = ["allOf", "oneOf"].into_iter().flat_map(|key| schema[key].as_array().into_iter().flatten());
    let fitting = parts.filter(|part| check_parts(document, part, value, "").is_ok());
    own.chain(fitting.flat_map(|part| properties(document, part, value))).collect()
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        other => panic!("the checker does not know the type {other}"),
    }
}

#[test]
fn what_is_not_described_is_found() {
    let cluster = crate::support::single(&[]);
    let node = &cluster.nodes[0];
    let document = node.get("/openapi.json").unwrap().body;
    let good = node.get("/v1/cluster").unwrap();
    let check = |answer: &Answer| check_by(&document, "GET", "/v1/cluster", answer);
    assert_eq!(check(&good), Ok(()));
    let spoilt = |spoil: &dyn Fn(&mut Answer)| {
        let mut answer = node.get("/v1/cluster").unwrap();
        spoil(&mut answer);
        check(&answer).unwrap_err()
    };
    assert!(spoilt(&|answer| answer.body["nodes"][0]["alive"] = "yes".into()).contains("nodes[0].alive"));
    assert!(spoilt(&|answer| answer.body["surprise"] = 1.into()).contains("surprise is not described"));
    assert!(
        spoilt(&|answer| drop(answer.body.as_object_mut().unwrap().remove("settings"))).contains("settings is missing")
    );
    assert!(spoilt(&|answer| answer.status = 404).contains("media type"));
    assert!(
        check_by(&document, "GET", "/v1/hours", &good).unwrap_err().contains("the header Cache-Control is missing")
    );
    assert!(check_by(&document, "GET", "/v2", &good).unwrap_err().contains("not described"));
}
