//! What is refused, with a stable code and nothing changed.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::server::{Agent, carving, small};

async fn send(agent: &Agent, method: Method, path: &str, body: impl Into<String>) -> Response {
    sublet::client::bare()
        .unwrap()
        .request(method, format!("{}{path}", agent.address))
        .bearer_auth(agent.owner_token())
        .header("content-type", "application/json")
        .body(body.into())
        .send()
        .await
        .unwrap()
}

async fn assert_problem(answer: Response, status: u16, code: &str) -> Value {
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!(answer.status(), status);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{problem}");
    assert!(!problem["detail"].as_str().unwrap().is_empty());
    problem
}

#[tokio::test]
async fn a_carving_that_cannot_be_read_or_makes_no_sense_is_refused_by_name() {
    let agent = Agent::start();
    let post = async |body: &str| send(&agent, Method::POST, "/v1/partitions", body).await;
    let allocation = |text: &str| format!(r#"{{"allocation":{text}}}"#);
    for body in [
        String::new(),
        "{".to_owned(),
        "null".to_owned(),
        "{}".to_owned(),
        allocation(r#"{"cpus":1}"#),
        allocation(r#"{"cpus":1,"memory_mib":64,"disk_mib":0,"gpus":1}"#),
        allocation(r#"{"cpus":-1,"memory_mib":64,"disk_mib":0}"#),
        allocation(r#"{"cpus":1,"memory_mib":1e99,"disk_mib":0}"#),
        r#"{"allocation":{"cpus":1,"memory_mib":64,"disk_mib":0},"prize":1}"#.to_owned(),
    ] {
        assert_problem(post(&body).await, 400, "malformed_request").await;
    }
    for (body, named) in [
        (allocation(r#"{"cpus":0,"memory_mib":64,"disk_mib":0}"#), "cpus"),
        (allocation(r#"{"cpus":33,"memory_mib":64,"disk_mib":0}"#), "cpus"),
        (allocation(r#"{"cpus":1,"memory_mib":1,"disk_mib":0}"#), "memory_mib"),
        (allocation(r#"{"cpus":1,"memory_mib":64,"disk_mib":18446744073709551615}"#), "disk_mib"),
        (
            r#"{"allocation":{"cpus":1,"memory_mib":64,"disk_mib":0},"price":{"per_hour_micros":-1,"currency":"EUR"}}"#
                .to_owned(),
            "price",
        ),
    ] {
        let problem = assert_problem(post(&body).await, 422, "invalid_request").await;
        assert!(problem["detail"].as_str().unwrap().contains(named), "{problem}");
    }
    assert_eq!(agent.owner().partitions().await.unwrap().partitions, []);
}

#[tokio::test]
async fn another_media_type_method_or_path_and_too_long_a_body_are_refused() {
    let agent = Agent::start();
    let url = format!("{}/v1/partitions", agent.address);
    let plain = sublet::client::bare()
        .unwrap()
        .post(&url)
        .bearer_auth(agent.owner_token())
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_problem(plain, 415, "unsupported_media_type").await;
    assert_problem(send(&agent, Method::PUT, "/v1/partitions", "{}").await, 405, "method_not_allowed").await;
    assert_problem(send(&agent, Method::GET, "/v1/nothing", "").await, 404, "not_found").await;
    let long = " ".repeat(3 << 20);
    assert_problem(send(&agent, Method::POST, "/v1/partitions", long).await, 413, "payload_too_large").await;
}

#[tokio::test]
async fn a_partition_that_is_not_there_is_not_found() {
    let agent = Agent::start();
    for id in ["00000000-0000-0000-0000-000000000001", "nonsense", "..%2f..%2fetc"] {
        let path = format!("/v1/partitions/{id}");
        assert_problem(send(&agent, Method::GET, &path, "").await, 404, "not_found").await;
        assert_problem(send(&agent, Method::DELETE, &path, "").await, 404, "not_found").await;
    }
}

#[tokio::test]
async fn a_stranger_cannot_tell_a_partition_from_none() {
    let agent = Agent::start();
    let carved = agent.owner().carve(&carving(small())).await.unwrap().id.to_string();
    let mut answers = Vec::new();
    for id in [carved.as_str(), "00000000-0000-0000-0000-000000000001"] {
        let url = format!("{}/v1/partitions/{id}", agent.address);
        let answer = sublet::client::bare().unwrap().get(url).bearer_auth("not a key").send().await.unwrap();
        answers.push(assert_problem(answer, 401, "key_invalid").await);
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn the_owners_token_opens_no_lease() {
    let agent = Agent::start();
    let carved = agent.owner().carve(&carving(small())).await.unwrap().id;
    for (method, rest) in [
        (Method::GET, "jobs"),
        (Method::POST, "return"),
        (Method::GET, "console"),
        (Method::GET, "tunnel/22"),
    ] {
        let answer = send(&agent, method, &format!("/v1/partitions/{carved}/{rest}"), "{}").await;
        assert_problem(answer, 403, "forbidden").await;
    }
}
