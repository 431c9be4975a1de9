//! The description of the API is generated, committed and served; the three are one.

use serde_json::Value;
use sublet::registry::http::description;

use crate::server::Server;

const REFRESH: &str = "cargo run --bin sublet-registry -- openapi > docs/openapi/registry.json";

#[test]
fn the_committed_description_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi/registry.json");
    let committed: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let current = serde_json::to_value(description()).unwrap();
    assert!(committed == current, "{path} is stale; refresh it with: {REFRESH}");
}

#[tokio::test]
async fn the_served_description_is_the_same_and_openapi_3_1() {
    let server = Server::start();
    let served = sublet::client::bare()
        .unwrap()
        .get(format!("{}/openapi.json", server.address()))
        .send()
        .await
        .unwrap();
    let served: Value = served.json().await.unwrap();
    assert_eq!(served, serde_json::to_value(description()).unwrap());
    assert_eq!(served["openapi"], "3.1.0");
}

#[tokio::test]
async fn health_and_metrics_need_no_token() {
    let server = Server::start();
    let get = async |path: &str| {
        sublet::client::bare()
            .unwrap()
            .get(format!("{}{path}", server.address()))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    };
    assert_eq!(get("/healthz").await, "ok\n");
    assert!(get("/metrics").await.contains("sublet_leases_active 0"));
}
