//! F6 and F7 at the registry: it dies at each step of a registration, a change and a withdrawal, and has afterwards all of
//! it or nothing; said again, it is done once.

use std::net::SocketAddr;

use sublet::{
    api::{
        problem::Code,
        registry::{ChangeOffer, EnrolHost, Heartbeat, HostEnrolled, OfferPartition, RegisteredPartition},
    },
    client::{ClientError, HostRequestId},
    domain::{
        id::PartitionId,
        terms::{Epoch, Terms, TermsVersion},
    },
    registry::crash_point::CrashPoint,
};
use uuid::Uuid;

use super::{own_address, parties};
use crate::{
    market::terms,
    server::{Database, Server},
};

/// What a transaction of an offer comes by.
const PLACES: [CrashPoint; 4] =
    [CrashPoint::InPartition, CrashPoint::BeforeCommit, CrashPoint::AfterCommit, CrashPoint::BeforeAnswer];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Register,
    OfferOtherTerms,
    Change,
    ChangeKey,
    Withdraw,
    RegisterAgain,
}

impl Operation {
    const ALL: [Self; 6] = [
        Self::Register,
        Self::OfferOtherTerms,
        Self::Change,
        Self::ChangeKey,
        Self::Withdraw,
        Self::RegisterAgain,
    ];

    /// What is done before it.
    fn before(self) -> &'static [Self] {
        match self {
            Self::Register => &[],
            Self::RegisterAgain => &[Self::Register, Self::Withdraw],
            _ => &[Self::Register],
        }
    }

    fn terms(self) -> Terms {
        terms(1, if matches!(self, Self::OfferOtherTerms | Self::Change) { 2 } else { 1 })
    }

    /// What the registry has of a partition after it, with no lease ever: terms, version, epoch.
    fn result(self) -> Option<(Terms, TermsVersion, Epoch)> {
        let (version, epoch) = match self {
            Self::Withdraw => return None,
            Self::Register => (1, 0),
            Self::ChangeKey => (2, 1),
            Self::OfferOtherTerms | Self::Change | Self::RegisterAgain => (2, 0),
        };
        Some((self.terms(), TermsVersion(version), Epoch(epoch)))
    }
}

struct Host(HostEnrolled);

impl Host {
    async fn enrol(server: &Server) -> Self {
        parties::serves(server).await;
        let wish = EnrolHost { address: "http://192.0.2.1:7180".to_owned() };
        Self(server.lender("alice").enrol_host(HostRequestId(Uuid::new_v4()), &wish).await.unwrap())
    }

    async fn view(&self, server: &Server, partition: PartitionId) -> Option<(Terms, TermsVersion, Epoch)> {
        let client = server.client(self.0.host_token.clone());
        let views = client.heartbeat(self.0.host, &Heartbeat::default()).await.unwrap().partitions;
        let view = views.into_iter().find(|view| view.partition == partition);
        view.map(|RegisteredPartition { terms, version, epoch, .. }| (terms, version, epoch))
    }

    /// Of a partition of which the host was told version 1, where it was told of any.
    async fn ask(
        &self,
        server: &Server,
        partition: PartitionId,
        operation: Operation,
    ) -> Result<(), ClientError> {
        let (client, host) = (server.client(self.0.host_token.clone()), self.0.host);
        let known_version = (operation != Operation::Register).then_some(TermsVersion(1));
        let offer = OfferPartition { terms: operation.terms(), known_version };
        let change = ChangeOffer { terms: operation.terms(), new_key: operation == Operation::ChangeKey };
        match operation {
            Operation::Register | Operation::OfferOtherTerms | Operation::RegisterAgain => {
                client.offer_partition(host, partition, &offer).await.map(drop)
            }
            Operation::Change | Operation::ChangeKey => {
                client.change_partition(host, partition, TermsVersion(1), &change).await.map(drop)
            }
            Operation::Withdraw => client.withdraw_partition(host, partition, known_version).await,
        }
    }

    /// Asks until there is an answer, or nobody who could give one.
    async fn ask_the_doomed(
        &self,
        server: &mut Server,
        partition: PartitionId,
        operation: Operation,
    ) -> Result<(), ClientError> {
        loop {
            match self.ask(server, partition, operation).await {
                Err(error) if error.is_unreachable() && !server.is_dead() => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
    }
}

/// Does the operation at a registry that dies at this pass of the place; false: it was over before that. The registry
/// that comes after it.
async fn dies_in(
    listen: SocketAddr,
    server: Server,
    host: &Host,
    operation: Operation,
    (place, pass): (CrashPoint, u32),
) -> (bool, Server) {
    let partition = PartitionId(Uuid::new_v4());
    for earlier in operation.before() {
        host.ask(&server, partition, *earlier).await.unwrap();
    }
    let before = host.view(&server, partition).await;
    let mut doomed = Server::start_at(listen, server.kill(), Some(&format!("{place}:{pass}")));
    let answer = host.ask_the_doomed(&mut doomed, partition, operation).await;
    let server = Server::start_at(listen, doomed.kill(), None);
    parties::serves(&server).await;
    let after = host.view(&server, partition).await;
    let done = after == operation.result();
    match &answer {
        Ok(()) => assert!(done, "{operation:?}: what was acknowledged is lost: {after:?}"),
        Err(error) => assert!(error.code().is_none() && (done || after == before), "{error}: {after:?}"),
    }
    let again = host.ask(&server, partition, operation).await;
    let is_change = matches!(operation, Operation::Change | Operation::ChangeKey);
    let was_done = again.as_ref().is_err_and(|error| error.code() == Some(Code::PreconditionFailed));
    assert!(again.is_ok() || done && is_change && was_done, "{operation:?}: {again:?}");
    assert_eq!(host.view(&server, partition).await, operation.result(), "{operation:?}: done twice");
    (answer.is_err(), server)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_made_changed_and_withdrawn_whole_or_not_at_all_wherever_its_registry_dies() {
    let listen = own_address(6);
    let mut server = Server::start_at(listen, Database::new(), None);
    let host = Host::enrol(&server).await;
    for operation in Operation::ALL {
        for place in PLACES {
            let mut deaths = 0;
            loop {
                let (died, next) = dies_in(listen, server, &host, operation, (place, deaths + 1)).await;
                server = next;
                if !died {
                    break;
                }
                deaths += 1;
            }
            assert!(deaths > 0, "{operation:?} does not come by {place}");
        }
    }
}
