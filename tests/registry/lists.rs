//! Which hosts and leases there are, to each who may know of them, and to nobody else.

use sublet::{
    api::{
        problem::Code,
        registry::{KnownHost, LeaseQuery},
    },
    client::RegistryClient,
    domain::{
        id::{HostId, LeaseId},
        money::{Amount, Micros},
    },
};
use uuid::Uuid;

use crate::{
    market::{Host, end, lease, terms, wish},
    server::{Database, Server, assert_refused, eventually},
};

fn administrator(server: &Server) -> RegistryClient {
    server.client(server.database().token("admin", "root"))
}

async fn ids(client: &RegistryClient, query: LeaseQuery) -> Vec<LeaseId> {
    client.find_leases(&query).await.unwrap().leases.into_iter().map(|lease| lease.id).collect()
}

async fn hosts(client: &RegistryClient) -> Vec<HostId> {
    client.hosts(None).await.unwrap().hosts.into_iter().map(|host| host.host).collect()
}

#[tokio::test]
async fn a_lender_sees_its_own_hosts_an_administrator_all_and_nobody_else_any() {
    let server = Server::start();
    let (alice, carol, bob) = (server.lender("alice"), server.lender("carol"), server.borrower("bob"));
    let (one, other) = (Host::enrol(&server, &alice).await, Host::enrol(&server, &carol).await);
    let (id, other_id) = (one.enrolled.host, other.enrolled.host);
    assert_eq!((hosts(&alice).await, hosts(&carol).await), (vec![id], vec![other_id]));
    let root = administrator(&server);
    assert_eq!(hosts(&root).await, [other_id, id], "newest first");
    assert_eq!(root.host(id).await.unwrap().lender_name, "alice");
    assert_refused(carol.host(id).await, Code::NotFound);
    assert_refused(carol.host(HostId(Uuid::nil())).await, Code::NotFound);
    for stranger in [&bob, &one.client] {
        assert_refused(stranger.hosts(None).await, Code::Forbidden);
        assert_refused(stranger.host(id).await, Code::Forbidden);
    }
}

#[tokio::test]
async fn a_host_is_listed_with_what_it_lends_and_whether_it_is_heard() {
    let server = Server::start_with(Database::new(), &["--beat-every-ms", "200"]);
    let (alice, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &alice).await;
    let offer = host.offer(terms(1, 0)).await;
    host.offer(terms(2, 0)).await;
    let look = async || -> KnownHost { alice.host(host.enrolled.host).await.unwrap() };
    let granted = eventually("it is lent", async || {
        host.beat(<_>::default()).await;
        lease(&bob, &wish(&offer, 600)).await.ok()
    })
    .await;
    let up = eventually("it is heard", async || {
        host.beat(<_>::default()).await;
        Some(look().await).filter(|host| host.is_up)
    })
    .await;
    assert_eq!((up.address.as_str(), up.partitions, up.lent), ("http://192.0.2.1:7180", 2, 1));
    assert!(up.heard_at >= Some(granted.lease.started_at));
    let down = eventually("it is down", async || Some(look().await).filter(|host| !host.is_up)).await;
    assert!(down.heard_at >= up.heard_at, "since it was heard last");
}

#[tokio::test]
async fn leases_are_listed_to_their_borrower_to_their_lender_and_to_an_administrator() {
    let server = Server::start();
    let (alice, carol) = (server.lender("alice"), server.lender("carol"));
    let (bob, eve) = (server.borrower("bob"), server.borrower("eve"));
    let host = Host::enrol(&server, &alice).await;
    let (first, second) = (host.offer(terms(1, 3_600_000)).await, host.offer(terms(1, 0)).await);
    let budget = Some(Amount { micros: Micros(500_000), currency: "EUR".parse().unwrap() });
    let bobs = lease(&bob, &sublet::api::registry::MakeLease { budget, ..wish(&first, 900) }).await.unwrap();
    let eves = lease(&eve, &wish(&second, 600)).await.unwrap();
    let (bobs, eves) = (bobs.lease, eves);
    let all = LeaseQuery::default();
    let root = administrator(&server);
    assert_eq!(ids(&bob, all).await, [bobs.id]);
    assert_eq!(ids(&alice, all).await, [eves.lease.id, bobs.id]);
    assert_eq!(ids(&root, all).await, [eves.lease.id, bobs.id]);
    assert!(ids(&carol, all).await.is_empty());
    assert_refused(host.client.leases().await, Code::Forbidden);

    assert_eq!(bob.lease(bobs.id).await.unwrap().budget, Some(Micros(500_000)));
    assert_eq!(root.lease(bobs.id).await.unwrap(), bobs);
    assert_eq!(alice.lease(bobs.id).await.unwrap().budget, None, "that is the borrower's business");
    assert_eq!(alice.leases().await.unwrap().leases[1].budget, None);
    assert_refused(carol.lease(bobs.id).await, Code::NotFound);
    assert_refused(host.client.lease(bobs.id).await, Code::Forbidden);

    end(&eve, &eves).await.unwrap();
    let only = |active| LeaseQuery { active: Some(active), ..all };
    assert_eq!(
        (ids(&alice, only(true)).await, ids(&alice, only(false)).await),
        (vec![bobs.id], vec![eves.lease.id])
    );
    let of = LeaseQuery { partition: Some(second.partition), host: Some(second.host), ..all };
    assert_eq!(ids(&root, of).await, [eves.lease.id]);
    let nowhere = LeaseQuery { host: Some(HostId(Uuid::nil())), ..all };
    assert!(ids(&root, nowhere).await.is_empty());
    let page = root.find_leases(&LeaseQuery { limit: Some(1), ..all }).await.unwrap();
    let cursor = page.next_cursor.map(|cursor| cursor.parse().unwrap());
    assert_eq!(ids(&root, LeaseQuery { cursor, ..all }).await, [bobs.id]);
    assert_refused(root.find_leases(&LeaseQuery { limit: Some(0), ..all }).await, Code::InvalidRequest);
}
