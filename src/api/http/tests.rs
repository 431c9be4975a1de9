use axum::{body::Body, http::header, routing::post};
use serde::Deserialize;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    n: u8,
}

async fn answer(PathIds(id): PathIds<uuid::Uuid>, Bearer(_): Bearer, body: JsonBody<Question>) -> String {
    format!("{id} {}", body.0.n)
}

async fn boom() -> String {
    panic!("on purpose")
}

fn server() -> Router {
    let metrics = RequestMetrics::register(&prometheus::Registry::new()).unwrap();
    around(Router::new().route("/things/{id}", post(answer)).route("/boom", post(boom)), 1024, metrics)
}

const THING: &str = "/things/00000000-0000-0000-0000-000000000001";

fn request(path: &str) -> axum::http::request::Builder {
    Request::post(path)
        .header(header::AUTHORIZATION, "Bearer t")
        .header(header::CONTENT_TYPE, "application/json")
}

async fn ask(request: Request) -> Response {
    server().oneshot(request).await.unwrap()
}

async fn assert_problem(request: Request, status: u16, code: &str) {
    let response = ask(request).await;
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_MEDIA_TYPE);
    assert!(response.headers().contains_key(REQUEST_ID));
    let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["code"], code);
    assert_eq!(problem["status"], status);
}

#[tokio::test]
async fn a_request_as_it_should_be_reaches_its_handler() {
    let response = ask(request(THING).body(Body::from(r#"{"n":1}"#)).unwrap()).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_a_malformed_request() {
    for body in ["", "{", "[]", r#"{"n":256}"#, r#"{"n":1,"m":2}"#, r#"{}"#, "\u{0}"] {
        let request = request(THING).body(Body::from(body)).unwrap();
        assert_problem(request, 400, "malformed_request").await;
    }
}

#[tokio::test]
async fn a_body_of_another_media_type_is_refused() {
    let request = Request::post(THING)
        .header(header::AUTHORIZATION, "Bearer t")
        .body(Body::from(r#"{"n":1}"#))
        .unwrap();
    assert_problem(request, 415, "unsupported_media_type").await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let request = request(THING).body(Body::from(" ".repeat(1025))).unwrap();
    assert_problem(request, 413, "payload_too_large").await;
}

#[tokio::test]
async fn a_request_without_a_bearer_token_is_unauthorized() {
    for authorization in ["", "Bearer", "Bearer ", "Basic dDp0", "t"] {
        let request = Request::post(THING).header(header::AUTHORIZATION, authorization);
        assert_problem(request.body(Body::empty()).unwrap(), 401, "unauthorized").await;
    }
}

#[tokio::test]
async fn an_unknown_path_or_id_is_not_found() {
    for path in ["/", "/things", "/things/7", "/things/%ff"] {
        assert_problem(request(path).body(Body::empty()).unwrap(), 404, "not_found").await;
    }
}

#[tokio::test]
async fn another_method_is_not_allowed_and_the_answer_says_which_is() {
    let request = || Request::delete(THING).body(Body::empty()).unwrap();
    assert_problem(request(), 405, "method_not_allowed").await;
    assert_eq!(ask(request()).await.headers()[header::ALLOW], "POST");
}

#[tokio::test]
async fn a_handler_that_panics_is_an_internal_problem() {
    assert_problem(request("/boom").body(Body::empty()).unwrap(), 500, "internal").await;
}

#[tokio::test]
async fn a_request_keeps_the_id_it_came_with() {
    let request = request("/").header(REQUEST_ID, "mine").body(Body::empty()).unwrap();
    assert_eq!(ask(request).await.headers()[REQUEST_ID], "mine");
}

#[tokio::test]
async fn an_id_that_cannot_stand_in_a_log_is_replaced() {
    for insane in ["", "two words", "tab\there", "{}", &"x".repeat(65)] {
        let request = request("/").header(REQUEST_ID, insane).body(Body::empty()).unwrap();
        let answer = ask(request).await;
        let id = answer.headers()[REQUEST_ID].to_str().unwrap();
        assert!(id != insane && id.parse::<uuid::Uuid>().is_ok(), "{id}");
    }
}

#[test]
fn plain_http_is_for_loopback_unless_the_operator_says_otherwise() {
    let everywhere: std::net::SocketAddr = "0.0.0.0:80".parse().unwrap();
    assert_eq!(plain_http_allowed("127.0.0.1:80".parse().unwrap(), false), Ok(()));
    assert_eq!(plain_http_allowed("[::1]:80".parse().unwrap(), false), Ok(()));
    assert_eq!(plain_http_allowed(everywhere, false), Err(NotLoopback(everywhere)));
    assert_eq!(plain_http_allowed(everywhere, true), Ok(()));
}
