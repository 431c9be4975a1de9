//! The description of the API is generated, committed and served; the three are one.

use serde_json::Value;
use sublet::agent::http::description;

use crate::server::Agent;

const REFRESH: &str = "cargo run --bin sublet-agent -- --openapi > docs/openapi/agent.json";

#[test]
fn the_committed_description_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi/agent.json");
    let committed: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let current = serde_json::to_value(description()).unwrap();
    assert!(committed == current, "{path} is stale; refresh it with: {REFRESH}");
}

#[tokio::test]
async fn description_health_and_metrics_need_no_token() {
    let agent = Agent::start();
    let get = async |path: &str| {
        sublet::client::bare()
            .unwrap()
            .get(format!("{}{path}", agent.address))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    };
    let served: Value = serde_json::from_str(&get("/openapi.json").await).unwrap();
    assert_eq!(served, serde_json::to_value(description()).unwrap());
    assert_eq!(served["openapi"], "3.1.0");
    assert_eq!(get("/healthz").await, "ok\n");
    assert!(get("/metrics").await.contains("sublet_free_cpus"));
}

#[tokio::test]
async fn everything_else_needs_one() {
    let agent = Agent::start();
    let paths = description().paths.paths;
    assert!(paths.len() > 10);
    for (path, item) in paths {
        if ["/openapi.json", "/healthz", "/metrics"].contains(&path.as_str()) {
            continue;
        }
        let methods =
            [("GET", item.get), ("POST", item.post), ("PATCH", item.patch), ("DELETE", item.delete)];
        for (method, _) in methods.into_iter().filter(|(_, operation)| operation.is_some()) {
            let url = format!("{}{}", agent.address, path.replace("{id}", ID).replace("{job}", ID));
            let method: reqwest::Method = method.parse().unwrap();
            let bare = sublet::client::bare().unwrap().request(method.clone(), &url).send().await.unwrap();
            assert_eq!(bare.status(), 401, "{method} {path}");
            let wrong = sublet::client::bare()
                .unwrap()
                .request(method, &url)
                .bearer_auth("wrong")
                .send()
                .await
                .unwrap();
            assert_eq!(wrong.status(), 401, "{path} with a wrong token");
        }
    }
}

const ID: &str = "00000000-0000-0000-0000-000000000001";
