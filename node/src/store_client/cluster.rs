//! The calls of `troika.v1.Cluster` that a node needs: starting the chain, and who leads.

use super::transport::{StoreClient, StoreError};
use super::types::Refusal;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::Channel;
use troika_proto::limits::MAX_MESSAGE_BYTES;
use troika_proto::whole::Whole;
use troika_proto::wire::hash;
use troika_proto::{B256, Genesis, v1};
use v1::cluster_client::ClusterClient;

/// Longest that one member is asked for its status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// The answer to starting the chain.
#[derive(Clone, Debug)]
pub enum InitOutcome {
    /// The chain is there; `true` if this call started it.
    Running(B256, bool),
    /// Another chain is there.
    Refused(Refusal),
}

/// One member's view of itself.
#[derive(Clone, Debug)]
pub struct MemberInfo {
    /// Where it was asked.
    pub url: String,
    /// `None` where it did not answer.
    pub status: Option<v1::StatusResponse>,
}

fn cluster(channel: Channel) -> ClusterClient<Whole<Channel>> {
    ClusterClient::new(Whole(channel))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

impl StoreClient {
    /// Starts the chain; the same genesis again is answered as done.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn init_chain(&self, genesis: &Genesis) -> Result<InitOutcome, StoreError> {
        let genesis = v1::Genesis::from(genesis);
        let reply = self
            .call("init chain", |channel| {
                let request = v1::InitChainRequest {
                    meta: self.any_state(),
                    genesis: Some(genesis.clone()),
                };
                async move { cluster(channel).init_chain(request).await }
            })
            .await?;
        match reply.refusal {
            Some(refusal) => Ok(InitOutcome::Refused(refusal.into())),
            None => Ok(InitOutcome::Running(
                hash("genesis_hash", &reply.genesis_hash)?,
                reply.started,
            )),
        }
    }

    /// Asks every member for its own status, all at once.
    pub async fn statuses(&self) -> Vec<MemberInfo> {
        let asked = self.member_channels().map(|(url, channel)| async move {
            let request = v1::StatusRequest { meta: None };
            let mut client = cluster(channel);
            let reply = timeout(STATUS_TIMEOUT, client.status(request)).await;
            MemberInfo {
                url: url.to_owned(),
                status: reply.ok().and_then(Result::ok).map(|r| r.into_inner()),
            }
        });
        futures::future::join_all(asked).await
    }

    /// The voters and learners of the cluster, as one member knows them.
    ///
    /// # Errors
    /// [`StoreError`] without an answer.
    pub async fn members(&self) -> Result<Vec<v1::Member>, StoreError> {
        let reply = self
            .call("members", |channel| async move {
                let request = v1::MembersRequest {
                    meta: None,
                    linearizable: false,
                };
                cluster(channel).members(request).await
            })
            .await?;
        Ok(reply.members)
    }
}
