//! Tunnels to ports of the guest: a connection of HTTP/1.1 becomes one of theirs. The key is judged as long as the tunnel
//! is open, so that nobody stays longer than its key.

use std::{io, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::{Agent, auth::Borrowed};
use crate::{
    agent::{
        guest::tunnels::{Tunnel, TunnelError},
        partition::{admission, error::PartitionError, table::PartitionRow},
    },
    api::{
        agent::TUNNEL_PROTOCOL,
        http::{PathIds, chain, header_text},
        problem::{Code, Problem},
    },
    domain::lending_key::Operation,
};

/// How often it is looked whether a key has come to its end.
const KEY_PERIOD: Duration = Duration::from_secs(5);

/// Connects to a port of the guest's loopback: after the answer, the connection's bytes are the port's, and each direction
/// ends by itself. It ends with the guest, with the lease and with the key, and when the agent is restarted.
#[utoipa::path(
    get, path = "/v1/partitions/{id}/tunnel/{port}", tag = "leases", security(("lending_key" = [])),
    params(
        ("id" = String, Path, format = "uuid"),
        ("port" = u16, Path, description = "TCP port of the guest, 1 to 65535"),
        ("connection" = String, Header, description = "Upgrade"),
        ("upgrade" = String, Header, description = "sublet-tunnel"),
    ),
    responses(
        (status = 101, description = "Connected: the connection is a tunnel now"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn tunnel(
    State(agent): State<Arc<Agent>>,
    borrowed: Borrowed,
    PathIds((_, port)): PathIds<(String, u16)>,
    mut request: Request,
) -> Result<Response, Problem> {
    borrowed.admit()?;
    let row = borrowed.handle.row();
    let client = upgrade(&mut request)?;
    if port == 0 {
        return Err(Problem::new(Code::InvalidRequest, "port: must be 1 to 65535, is 0"));
    }
    let cid = running(&row).ok_or(PartitionError::NoGuestForTunnel)?;
    let tunnel = borrowed.handle.tunnels.open(port).await.map_err(PartitionError::from)?;
    // Another guest may run by now, perhaps another borrower's.
    if running(&borrowed.handle.row()) != Some(cid) {
        return Err(PartitionError::from(TunnelError::GuestEnded).into());
    }
    tokio::spawn(carry(agent, borrowed, cid, tunnel, client));
    Ok(switching())
}

fn switching() -> Response {
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, TUNNEL_PROTOCOL)];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    (StatusCode::SWITCHING_PROTOCOLS, HeaderMap::from_iter(headers)).into_response()
}

/// The connection, once it is no longer HTTP's.
fn upgrade(request: &mut Request) -> Result<OnUpgrade, Problem> {
    let wanted = header_text(request.headers(), &header::UPGRADE).unwrap_or_default();
    let is_ours = wanted.eq_ignore_ascii_case(TUNNEL_PROTOCOL);
    let connection = request.extensions_mut().remove::<OnUpgrade>().filter(|_| is_ours);
    connection.ok_or_else(|| {
        let detail = "send \"Connection: Upgrade\" and \"Upgrade: sublet-tunnel\" over HTTP/1.1, as `sublet tunnel` does";
        Problem::new(Code::UpgradeRequired, detail)
    })
}

/// Context id of the guest that runs.
fn running(row: &PartitionRow) -> Option<u32> {
    row.machine.built.as_ref().filter(|built| built.boot.is_some()).map(|built| built.cid)
}

async fn carry(agent: Arc<Agent>, borrowed: Borrowed, cid: u32, tunnel: Tunnel, client: OnUpgrade) {
    let partition = borrowed.handle.row().id;
    let carried = async {
        let client = client.await.map_err(io::Error::other)?;
        tunnel.carry(TokioIo::new(client)).await
    };
    tokio::select! {
        ended = carried => if let Err(error) = ended {
            tracing::info!(%partition, error = chain(&error), "a tunnel broke");
        },
        () = over(&agent, &borrowed, cid) => {}
        () = agent.shutdown.clone().wait() => {}
    }
}

/// Waits until the guest, the lease or the key has come to its end.
async fn over(agent: &Agent, borrowed: &Borrowed, cid: u32) {
    let mut rows = borrowed.handle.watch();
    loop {
        let goes_on = {
            let row = rows.borrow_and_update();
            running(&row) == Some(cid) && is_admitted(agent, borrowed, &row)
        };
        if !goes_on {
            return;
        }
        tokio::select! {
            changed = rows.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(KEY_PERIOD) => {}
        }
    }
}

fn is_admitted(agent: &Agent, borrowed: &Borrowed, row: &PartitionRow) -> bool {
    let services = &agent.services;
    let claims = services.keys.read(&borrowed.key, Operation::Tunnel, services.clock.now());
    let claims = claims.and_then(|claims| admission::for_partition(claims, services.identity.host(), row.id));
    claims.is_ok_and(|claims| admission::admit(&claims, &row.partition).is_ok())
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use rustls::pki_types::PrivateKeyDer;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        net::TcpListener,
        sync::{mpsc, watch},
    };
    use uuid::Uuid;

    use super::*;
    use crate::{
        agent::guest::tunnels::tests::opened,
        api::{
            http::{ServedAt, ServerIdentity, ServerTls, Shutdown, serve},
            secret::Secret,
        },
        client::{AgentClient, Trust},
        domain::id::PartitionId,
    };

    /// A server whose tunnels lead to the guests that are received.
    async fn server(tls: Option<ServerTls>) -> (String, mpsc::Receiver<DuplexStream>) {
        let (guests, received) = mpsc::channel(1);
        let tunnel = async move |mut request: Request| {
            let client = upgrade(&mut request)?;
            let (guest, tunnel) = opened().await;
            guests.send(guest).await.unwrap();
            tokio::spawn(async move { tunnel.carry(TokioIo::new(client.await.unwrap())).await });
            Ok::<_, Problem>(switching())
        };
        let routes = Router::new().route("/v1/partitions/{id}/tunnel/{port}", get(tunnel));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let at = ServedAt { address, tls: tls.is_some() }.to_string();
        let (never, shutdown) = watch::channel(false);
        tokio::spawn(async move {
            let served = serve(listener, tls, routes, Shutdown::on(shutdown)).await;
            drop(never);
            served
        });
        (at, received)
    }

    const ID: PartitionId = PartitionId(Uuid::nil());
    const MANY: usize = 1 << 20;

    #[tokio::test]
    async fn a_connection_becomes_a_tunnel_and_each_way_ends_by_itself() {
        let (address, guests) = server(None).await;
        each_way_ends_by_itself(AgentClient::new(&address, Some(Secret::new("key"))).unwrap(), guests).await;
    }

    #[tokio::test]
    async fn a_connection_over_tls_becomes_a_tunnel_as_well() {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let tls = ServerTls::new(ServerIdentity::new(certified.cert.into(), key), None).unwrap();
        let trust = Trust::key(tls.key());
        let (address, guests) = server(Some(tls)).await;
        let client = AgentClient::trusting(&address, Some(Secret::new("key")), &trust).unwrap();
        each_way_ends_by_itself(client, guests).await;
    }

    async fn each_way_ends_by_itself(client: AgentClient, mut guests: mpsc::Receiver<DuplexStream>) {
        let mut near = client.tunnel(ID, 22).await.unwrap();
        let mut far = guests.recv().await.unwrap();
        let guest = tokio::spawn(async move {
            far.write_all(b"hello").await.unwrap();
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.unwrap();
            far.write_all(&vec![2; MANY]).await.unwrap();
            heard
        });
        let mut hello = [0; 9];
        near.read_exact(&mut hello).await.unwrap();
        near.write_all(&vec![1; MANY]).await.unwrap();
        near.shutdown().await.unwrap();
        let mut said = Vec::new();
        near.read_to_end(&mut said).await.unwrap();
        assert!((&hello, said) == (b"SSH-hello", vec![2; MANY]));
        assert!(guest.await.unwrap() == vec![1; MANY]);
    }

    #[tokio::test]
    async fn a_request_that_asks_for_no_tunnel_is_told_how_to() {
        let (address, _guests) = server(None).await;
        let url = format!("{address}/v1/partitions/{}/tunnel/22", Uuid::nil());
        let plain = crate::client::bare().unwrap().get(&url).send().await.unwrap();
        assert_eq!(plain.status(), 426);
        let other = crate::client::bare()
            .unwrap()
            .get(&url)
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        assert_eq!(other.send().await.unwrap().status(), 426);
    }
}
