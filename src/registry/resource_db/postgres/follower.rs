//! Follows what other registries commit: woken by the server's notifications, and looking by itself where one was missed.

use std::{
    future::poll_fn,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::MissedTickBehavior,
};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls};

use super::{
    super::{ResourceDb, StoreError, partitions},
    Shared,
    changes::{self, Reader},
    connect::Connector,
};
use crate::api::http::chain;

const LISTEN: &str = "LISTEN sublet_changes";
const NOTIFY: &str = "NOTIFY sublet_changes";
const LOOK: Duration = Duration::from_secs(1);
const KEEP_UP: Duration = Duration::from_secs(30);
/// Changes are kept for twice this long: who read none meanwhile may have missed some.
const MISSED: Duration = Duration::from_secs(1800);

pub(super) struct Follower {
    shared: Weak<Shared>,
    connector: Connector,
    reader: Reader,
    /// The connection that listens.
    listening: Option<Client>,
    notified: Arc<Notify>,
    read_at: Instant,
    kept_up_at: Instant,
}

impl Follower {
    pub(super) fn new(shared: &Arc<Shared>, connector: Connector, reader: Reader) -> Self {
        let (notified, now) = (Arc::default(), Instant::now());
        Self {
            shared: Arc::downgrade(shared),
            connector,
            reader,
            listening: None,
            notified,
            read_at: now,
            kept_up_at: now,
        }
    }

    /// Until nobody has the database open any more.
    pub(super) async fn run(mut self, committed: Arc<Notify>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(shared) = self.shared.upgrade() {
            if let Err(error) = self.follow(shared).await {
                tracing::warn!(error = chain(&error), "the changes of other registries cannot be read now");
            }
            tokio::select! {
                () = self.notified.notified() => {}
                _ = look.tick() => {}
                () = committed.notified() => self.tell_others().await,
            }
        }
    }

    async fn follow(&mut self, shared: Arc<Shared>) -> Result<(), StoreError> {
        if self.listening.as_ref().is_none_or(Client::is_closed) {
            self.listening = Some(self.listen().await?);
        }
        let client = shared.pool.get().await?;
        if self.read_at.elapsed() > MISSED {
            self.reader = Reader::begin(&client, shared.registry).await?;
            let db = ResourceDb::Postgres(super::Postgres(Arc::clone(&shared)));
            shared.announcer.announce(partitions::all(&db).await?);
        }
        shared.announcer.announce(self.reader.read(&client).await?);
        self.read_at = Instant::now();
        if self.kept_up_at.elapsed() > KEEP_UP {
            self.kept_up_at = Instant::now();
            shared.set_clock(&client).await?;
            changes::prune(&client).await?;
        }
        Ok(())
    }

    /// After a commit of this registry. Within the transaction it would have all commits wait for one another; and where
    /// this is lost, the others look by themselves.
    async fn tell_others(&self) {
        if let Some(client) = &self.listening
            && let Err(error) = client.batch_execute(NOTIFY).await
        {
            tracing::debug!(error = chain(&error), "other registries could not be notified");
        }
    }

    async fn listen(&self) -> Result<Client, StoreError> {
        let config = &self.connector.config;
        let client = match self.connector.tls.clone() {
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                tokio::spawn(hear(connection, Arc::clone(&self.notified)));
                client
            }
            Some(tls) => {
                let (client, connection) = config.connect(tls).await?;
                tokio::spawn(hear(connection, Arc::clone(&self.notified)));
                client
            }
        };
        client.batch_execute(LISTEN).await?;
        Ok(client)
    }
}

/// Moves the connection's bytes until it ends, and wakes the follower at each notification.
async fn hear<S, T>(mut connection: Connection<S, T>, notified: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            notified.notify_one();
        }
    }
    // The follower sees that it has ended.
    notified.notify_one();
}
