//! The agent's endpoints.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::{
    events::{EventStream, LogEvents},
    http::{ClientError, Connection},
    trust::Trust,
};
use crate::{
    api::{
        agent::{
            BorrowPartition, CarvePartition, ChangePartition, HostView, IssueKey, JobView, Jobs, KeyIssued,
            PartitionView, Partitions, RunJob, TUNNEL_PROTOCOL,
        },
        secret::Secret,
    },
    domain::{
        id::{JobId, LeaseId, PartitionId},
        receipt::chain::Receipt,
    },
};

/// An open tunnel to a guest.
pub type Tunnel = reqwest::Upgraded;

/// A lender host's agent, as its owner or a borrower sees it: by its bearer.
#[derive(Debug, Clone)]
pub struct AgentClient {
    connection: Connection,
}

impl AgentClient {
    /// `base` is like `http://host:7180`; `bearer` is the owner's token or a lending key.
    pub fn new(base: &str, bearer: Option<Secret>) -> Result<Self, ClientError> {
        Self::trusting(base, bearer, &Trust::default())
    }

    /// Says who may be taken for the server over TLS.
    pub fn trusting(base: &str, bearer: Option<Secret>, trust: &Trust) -> Result<Self, ClientError> {
        Ok(Self { connection: Connection::new(base, bearer, trust)? })
    }

    /// Names all its requests `id`, so that they can be found in the logs of several servers.
    pub fn traced(mut self, id: Uuid) -> Self {
        self.connection.trace(id);
        self
    }

    pub async fn host(&self) -> Result<HostView, ClientError> {
        self.connection.get("/v1/host").await
    }

    /// The host goes by another token at its registry from now on.
    pub async fn rotate_token(&self) -> Result<(), ClientError> {
        self.connection.call_for_nothing(self.connection.request(Method::POST, "/v1/host/token/rotate")).await
    }

    pub async fn partitions(&self) -> Result<Partitions, ClientError> {
        self.connection.get("/v1/partitions").await
    }

    pub async fn carve(&self, partition: &CarvePartition) -> Result<PartitionView, ClientError> {
        self.connection.post("/v1/partitions", partition).await
    }

    pub async fn partition(&self, id: PartitionId) -> Result<PartitionView, ClientError> {
        self.connection.get(&path(id, "")).await
    }

    /// The receipt of the lease whose key this is; for the owner that of its latest lease, or of the one that is named.
    pub async fn receipt(&self, id: PartitionId, lease: Option<LeaseId>) -> Result<Receipt, ClientError> {
        let lease = lease.map_or_else(String::new, |lease| format!("?lease={lease}"));
        self.connection.get(&path(id, &format!("/receipt{lease}"))).await
    }

    pub async fn change(
        &self,
        id: PartitionId,
        change: &ChangePartition,
    ) -> Result<PartitionView, ClientError> {
        self.connection.call(self.connection.request(Method::PATCH, &path(id, "")).json(change)).await
    }

    pub async fn release(&self, id: PartitionId) -> Result<(), ClientError> {
        self.connection.call_for_nothing(self.connection.request(Method::DELETE, &path(id, ""))).await
    }

    pub async fn offer(&self, id: PartitionId) -> Result<PartitionView, ClientError> {
        self.connection.post(&path(id, "/offer"), &json!({})).await
    }

    pub async fn withdraw(&self, id: PartitionId) -> Result<PartitionView, ClientError> {
        self.connection.post(&path(id, "/withdraw"), &json!({})).await
    }

    pub async fn issue_key(&self, id: PartitionId, key: &IssueKey) -> Result<KeyIssued, ClientError> {
        self.connection.post(&path(id, "/keys"), key).await
    }

    pub async fn borrow(
        &self,
        id: PartitionId,
        borrow: &BorrowPartition,
    ) -> Result<PartitionView, ClientError> {
        self.connection.post(&path(id, "/borrow"), borrow).await
    }

    /// Ends the lease at the host: the guest is stopped, the partition cleaned.
    pub async fn give_back(&self, id: PartitionId) -> Result<PartitionView, ClientError> {
        self.connection.post(&path(id, "/return"), &json!({})).await
    }

    /// Stops the guest; the lease goes on.
    pub async fn stop(&self, id: PartitionId) -> Result<PartitionView, ClientError> {
        self.connection.post(&path(id, "/stop"), &json!({})).await
    }

    /// Runs a job; asked again with the same `request` it answers with the same job.
    pub async fn run(&self, id: PartitionId, request: Uuid, job: &RunJob) -> Result<JobView, ClientError> {
        let call = self
            .connection
            .request(Method::POST, &path(id, "/jobs"))
            .header("Idempotency-Key", request.to_string())
            .json(job);
        self.connection.call(call).await
    }

    pub async fn jobs(&self, id: PartitionId) -> Result<Jobs, ClientError> {
        self.connection.get(&path(id, "/jobs")).await
    }

    pub async fn job(&self, id: PartitionId, job: JobId) -> Result<JobView, ClientError> {
        self.connection.get(&path(id, &format!("/jobs/{job}"))).await
    }

    pub async fn cancel(&self, id: PartitionId, job: JobId) -> Result<JobView, ClientError> {
        self.connection.post(&path(id, &format!("/jobs/{job}/cancel")), &json!({})).await
    }

    /// A job's output from its start (or from after the event `last`), and then its end.
    pub async fn logs(
        &self,
        id: PartitionId,
        job: JobId,
        last: Option<&str>,
    ) -> Result<LogEvents, ClientError> {
        let path = path(id, &format!("/jobs/{job}/logs"));
        EventStream::open(&self.connection, &path, last).await.map(LogEvents)
    }

    /// A connection to a TCP port of the guest's loopback. Each direction ends by itself.
    pub async fn tunnel(&self, id: PartitionId, port: u16) -> Result<Tunnel, ClientError> {
        self.connection.upgrade(&path(id, &format!("/tunnel/{port}")), TUNNEL_PROTOCOL).await
    }

    /// The console's output, for as long as the partition has one.
    pub async fn console(&self, id: PartitionId, last: Option<&str>) -> Result<LogEvents, ClientError> {
        EventStream::open(&self.connection, &path(id, "/console"), last).await.map(LogEvents)
    }
}

fn path(id: PartitionId, rest: &str) -> String {
    format!("/v1/partitions/{id}{rest}")
}
