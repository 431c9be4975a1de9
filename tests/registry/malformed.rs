//! Whatever is sent, the answer is a problem with a stable code, and nothing changed.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sublet::api::{problem::PROBLEM_MEDIA_TYPE, secret::Secret};
use uuid::Uuid;

use crate::{
    market::{Host, all_offers, terms},
    server::Server,
};

struct Sender {
    server: Server,
    borrower: Secret,
    lender: Secret,
    host: Host,
}

impl Sender {
    async fn new() -> Self {
        let server = Server::start();
        let (borrower, lender) =
            (server.database().token("borrower", "bob"), server.database().token("lender", "alice"));
        let host = Host::enrol(&server, &server.client(lender.clone())).await;
        Self { server, borrower, lender, host }
    }

    fn request(&self, method: Method, path: &str, token: &Secret) -> RequestBuilder {
        let url = format!("{}{path}", self.server.address());
        sublet::client::bare().unwrap().request(method, url).bearer_auth(token.reveal())
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path, &self.borrower)
    }

    fn partition(&self, method: Method) -> RequestBuilder {
        let path = format!("/v1/hosts/{}/partitions/{}", self.host.enrolled.host, Uuid::from_u128(1));
        self.request(method, &path, &self.host.enrolled.host_token)
    }
}

async fn assert_problem(request: RequestBuilder, status: u16, code: &str) {
    let response = request.send().await.unwrap();
    let (got, kind) = (response.status().as_u16(), response.headers()["content-type"].clone());
    let problem: Value = response.json().await.unwrap();
    assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{problem}");
    assert_eq!(kind, PROBLEM_MEDIA_TYPE);
    assert_eq!(problem["status"], status);
    assert!(!problem["detail"].as_str().unwrap().is_empty());
}

fn json_body(request: RequestBuilder, body: impl Into<reqwest::Body>) -> RequestBuilder {
    request.header("content-type", "application/json").body(body)
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_malformed() {
    let sender = Sender::new().await;
    let deep = "[".repeat(60_000);
    let bodies: [&[u8]; 9] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{\"conditions\": 1}",
        b"{\"unknown\": 1}",
        b"{\"conditions\": {\"currency\": \"euro\"}}",
        b"{\"limit\": -1}",
        b"\xff\xfe",
    ];
    for body in bodies.into_iter().chain([deep.as_bytes()]) {
        assert_problem(json_body(sender.post("/v1/search"), body.to_vec()), 400, "malformed_request").await;
    }
}

#[tokio::test]
async fn a_body_of_another_kind_or_too_long_is_refused() {
    let sender = Sender::new().await;
    assert_problem(sender.post("/v1/search").body("{}"), 415, "unsupported_media_type").await;
    let other = sender.post("/v1/search").header("content-type", "text/plain").body("{}");
    assert_problem(other, 415, "unsupported_media_type").await;
    let long = " ".repeat(64 * 1024 + 1);
    assert_problem(json_body(sender.post("/v1/search"), long), 413, "payload_too_large").await;
}

#[tokio::test]
async fn a_path_or_method_that_is_not_served_is_a_problem() {
    let sender = Sender::new().await;
    for path in ["/", "/v2/search", "/v1/leases/7", "/v1/leases/%ff%fe", "/v1//leases"] {
        assert_problem(sender.request(Method::GET, path, &sender.borrower), 404, "not_found").await;
    }
    let request = sender.request(Method::DELETE, "/v1/leases", &sender.borrower);
    assert_problem(request, 405, "method_not_allowed").await;
    assert_problem(sender.partition(Method::GET), 405, "method_not_allowed").await;
}

#[tokio::test]
async fn a_value_out_of_bounds_is_invalid() {
    let sender = Sender::new().await;
    for search in
        [json!({"limit": 0}), json!({"limit": 1001}), json!({"cursor": "x"}), json!({"cursor": "e30"})]
    {
        assert_problem(sender.post("/v1/search").json(&search), 422, "invalid_request").await;
    }
    for seconds in [0, 31_536_001, u64::MAX] {
        let wish = json!({
            "host": Uuid::nil(), "partition": Uuid::nil(), "terms_version": 1, "duration_seconds": seconds
        });
        assert_problem(sender.post("/v1/leases").json(&wish), 422, "invalid_request").await;
    }
    for address in ["", "host", "ftp://host", "http://user:password@host"] {
        let request = sender.request(Method::POST, "/v1/hosts", &sender.lender);
        assert_problem(request.json(&json!({"address": address})), 422, "invalid_request").await;
    }
}

#[tokio::test]
async fn terms_out_of_bounds_are_invalid_and_nothing_is_offered() {
    let sender = Sender::new().await;
    let good = serde_json::to_value(terms(1, 0)).unwrap();
    let wrong: [(&str, Value); 7] = [
        ("/allocation/cpus", json!(0)),
        ("/allocation/cpus", json!(4_000_000_000u32)),
        ("/allocation/memory_mib", json!(u64::MAX)),
        ("/allocation/disk_mib", json!(u64::MAX)),
        ("/price/per_hour_micros", json!(-1)),
        ("/price/per_hour_micros", json!(i64::MAX)),
        ("/os_images", json!(["../../etc/passwd"])),
    ];
    for (pointer, value) in wrong {
        let mut terms = good.clone();
        *terms.pointer_mut(pointer).unwrap() = value;
        let request = sender.partition(Method::PUT).json(&json!({"terms": terms}));
        assert_problem(request, 422, "invalid_request").await;
    }
    assert!(all_offers(&sender.server.client(sender.borrower.clone())).await.is_empty());
}

#[tokio::test]
async fn a_change_needs_the_version_it_is_made_from() {
    let sender = Sender::new().await;
    let body = json!({"terms": terms(1, 0)});
    assert_problem(sender.partition(Method::PATCH).json(&body), 400, "malformed_request").await;
    for tag in ["1", "\"x\"", "W/\"1\"", "\"-1\"", "*"] {
        let request = sender.partition(Method::PATCH).header("if-match", tag).json(&body);
        assert_problem(request, 400, "malformed_request").await;
    }
    let request = sender.partition(Method::PATCH).header("if-match", "\"1\"").json(&body);
    assert_problem(request, 404, "not_found").await;
    assert_problem(sender.partition(Method::DELETE), 404, "not_found").await;
}

#[tokio::test]
async fn a_header_that_cannot_be_used_is_malformed() {
    let sender = Sender::new().await;
    let wish = json!({
        "host": Uuid::nil(), "partition": Uuid::nil(), "terms_version": 1, "duration_seconds": 1
    });
    for key in ["", &"k".repeat(129)] {
        let request = sender.post("/v1/leases").header("idempotency-key", key).json(&wish);
        assert_problem(request, 400, "malformed_request").await;
    }
    for authorization in ["", "Bearer", "Basic Ym9iOmJvYg==", "Bearer a b", "Bearer \u{e9}"] {
        let request = sublet::client::bare()
            .unwrap()
            .get(format!("{}/v1/leases", sender.server.address()))
            .header("authorization", authorization.as_bytes());
        assert_problem(request, 401, "unauthorized").await;
    }
}

#[tokio::test]
async fn a_query_that_cannot_be_read_is_malformed() {
    let sender = Sender::new().await;
    for query in ["limit=x", "cursor=x", "unknown=1", "limit=1&limit=2"] {
        let request = sender.request(Method::GET, &format!("/v1/leases?{query}"), &sender.borrower);
        assert_problem(request, 400, "malformed_request").await;
    }
    for query in ["limit=0", "limit=1001"] {
        let request = sender.request(Method::GET, &format!("/v1/ledger?{query}"), &sender.borrower);
        assert_problem(request, 422, "invalid_request").await;
    }
}
