//! Who a member is, and whose messages it takes.
//!
//! A data directory draws a random *incarnation* when it is created, and belongs to one *cluster* from its first
//! message on. Both stand in every envelope. The members know each other's incarnations from the membership, so a
//! directory that was wiped (and would vote away what its predecessor has acknowledged) is told apart from the member
//! that it was, and refused before consensus sees its message.
//!
//! A member without a cluster adopts that of the first message that names its own incarnation: only somebody who has
//! asked this very directory (a hello) can know it.

use std::sync::OnceLock;

use bytes::Bytes;
use futures::future::BoxFuture;
use prost::Message;
use troika_proto::member::v1::{Refused, refused::Code};

use super::network::{Envelope, Kind, MemberId};
use crate::mutant::{self, Mutant};

/// Random identity of a data directory.
pub type Incarnation = [u8; 16];
/// Random identity of a cluster.
pub type ClusterId = [u8; 16];

/// 16 bytes for people.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(32), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Makes the cluster id durable.
pub type SaveCluster =
    Box<dyn Fn(ClusterId) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// This member's identity.
pub struct Identity {
    id: MemberId,
    incarnation: Incarnation,
    incarnation_bytes: Bytes,
    cluster: OnceLock<(ClusterId, Bytes)>,
    adopting: tokio::sync::Mutex<()>,
    save: SaveCluster,
}

/// What an envelope's head says to its receiver.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take it.
    Take,
    /// Take it after having become a member of this cluster.
    Adopt(ClusterId),
    /// Do not take it.
    Refuse(Code, String),
}

impl Identity {
    /// The identity that the data directory holds. `save` writes the cluster's id when there is one.
    pub fn new(
        id: MemberId,
        incarnation: Incarnation,
        cluster: Option<ClusterId>,
        save: SaveCluster,
    ) -> Self {
        let identity = Self {
            id,
            incarnation,
            incarnation_bytes: Bytes::copy_from_slice(&incarnation),
            cluster: OnceLock::new(),
            adopting: tokio::sync::Mutex::new(()),
            save,
        };
        if let Some(cluster) = cluster {
            identity.know(cluster);
        }
        identity
    }

    /// This member's id.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// This directory's incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The cluster, if it has one.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().map(|(id, _)| *id)
    }

    fn know(&self, cluster: ClusterId) {
        // Lost only to a caller that set the same one: `adopt` runs one at a time.
        let _ = self
            .cluster
            .set((cluster, Bytes::copy_from_slice(&cluster)));
    }

    /// Becomes a member of `cluster`, durably. Refused if it is one of another already.
    pub async fn adopt(&self, cluster: ClusterId) -> Result<(), String> {
        let _one = self.adopting.lock().await;
        match self.cluster() {
            Some(own) if own == cluster => Ok(()),
            Some(own) => Err(format!(
                "member {} belongs to cluster {}, not to {}",
                self.id,
                hex(&own),
                hex(&cluster)
            )),
            None => {
                (self.save)(cluster).await?;
                self.know(cluster);
                Ok(())
            }
        }
    }

    /// An envelope from this member. `to_incarnation` may be empty only for a hello.
    pub fn envelope(
        &self,
        to: MemberId,
        to_incarnation: Bytes,
        kind: Kind,
        payload: Bytes,
    ) -> Envelope {
        Envelope {
            cluster_id: self
                .cluster
                .get()
                .map(|(_, bytes)| bytes.clone())
                .unwrap_or_default(),
            from: self.id,
            from_incarnation: self.incarnation_bytes.clone(),
            to,
            to_incarnation,
            kind: kind as u32,
            payload,
        }
    }

    /// The answer to `request`.
    pub fn answer(&self, request: &Envelope, kind: Kind, payload: &impl Message) -> Envelope {
        let payload = payload.encode_to_vec().into();
        self.envelope(
            request.from,
            request.from_incarnation.clone(),
            kind,
            payload,
        )
    }

    /// The answer that refuses `request`, and who leads where that is the reason.
    pub fn refuse(
        &self,
        request: &Envelope,
        code: Code,
        message: impl Into<String>,
        leader: Option<MemberId>,
    ) -> Envelope {
        let refused = Refused {
            code: code.into(),
            message: message.into(),
            leader: leader.filter(|_| code == Code::NotLeader).unwrap_or(0),
        };
        self.answer(request, Kind::Refused, &refused)
    }

    /// Judges an envelope by its head. `known` is the incarnation under which the membership knows the sender.
    pub fn judge(&self, envelope: &Envelope, known: Option<Incarnation>) -> Verdict {
        if envelope.to != self.id {
            let message = format!("this is member {}, not {}", self.id, envelope.to);
            return Verdict::Refuse(Code::WrongMember, message);
        }
        let named: Result<ClusterId, _> = envelope.cluster_id[..].try_into();
        if envelope.kind == Kind::Hello as u32 {
            return match (self.cluster(), named) {
                (Some(own), Ok(named)) if own != named => self.other_cluster(own, named),
                _ => Verdict::Take,
            };
        }
        let Ok(named) = named else {
            return Verdict::Refuse(Code::Malformed, "a cluster id has 16 bytes".into());
        };
        if let Some(own) = self.cluster()
            && own != named
        {
            return self.other_cluster(own, named);
        }
        if mutant::on(Mutant::WipedVoterReturns) {
            return match self.cluster() {
                Some(_) => Verdict::Take,
                None => Verdict::Adopt(named),
            };
        }
        if envelope.to_incarnation != self.incarnation_bytes {
            let message = format!(
                "member {} is incarnation {}, and the message is for {}: its data directory was wiped or swapped",
                self.id,
                hex(&self.incarnation),
                hex(&envelope.to_incarnation)
            );
            return Verdict::Refuse(Code::WrongIncarnation, message);
        }
        if let Some(known) = known
            && envelope.from_incarnation[..] != known
        {
            let message = format!(
                "member {} is known as incarnation {}, and this comes from {}: its data directory was wiped or swapped",
                envelope.from,
                hex(&known),
                hex(&envelope.from_incarnation)
            );
            return Verdict::Refuse(Code::WrongIncarnation, message);
        }
        match self.cluster() {
            Some(_) => Verdict::Take,
            None => Verdict::Adopt(named),
        }
    }

    fn other_cluster(&self, own: ClusterId, named: ClusterId) -> Verdict {
        let message = format!(
            "member {} belongs to cluster {}, and the message is of cluster {}",
            self.id,
            hex(&own),
            hex(&named)
        );
        Verdict::Refuse(Code::WrongCluster, message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::FutureExt;

    use super::*;

    fn member(id: MemberId, cluster: Option<ClusterId>) -> (Identity, Arc<Mutex<Vec<ClusterId>>>) {
        let saved = Arc::new(Mutex::new(Vec::new()));
        let log = saved.clone();
        let save: SaveCluster = Box::new(move |cluster| {
            log.lock().unwrap().push(cluster);
            async { Ok(()) }.boxed()
        });
        (Identity::new(id, [id as u8; 16], cluster, save), saved)
    }

    fn message(from: &Identity, to: &Identity, kind: Kind) -> Envelope {
        from.envelope(to.id, to.incarnation_bytes.clone(), kind, Bytes::new())
    }

    fn refused(verdict: Verdict) -> Code {
        match verdict {
            Verdict::Refuse(code, _) => code,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_message_of_the_same_cluster_is_taken() {
        let (one, _) = member(1, Some([7; 16]));
        let (two, _) = member(2, Some([7; 16]));
        assert_eq!(
            two.judge(&message(&one, &two, Kind::Append), Some([1; 16])),
            Verdict::Take
        );
        assert_eq!(
            two.judge(&message(&one, &two, Kind::Append), None),
            Verdict::Take
        );
    }

    #[test]
    fn a_wiped_sender_or_receiver_is_refused() {
        let (one, _) = member(1, Some([7; 16]));
        let (two, _) = member(2, Some([7; 16]));
        let append = message(&one, &two, Kind::Append);
        assert_eq!(
            refused(two.judge(&append, Some([9; 16]))),
            Code::WrongIncarnation
        );
        let mut stale = append;
        stale.to_incarnation = Bytes::copy_from_slice(&[9; 16]);
        assert_eq!(
            refused(two.judge(&stale, Some([1; 16]))),
            Code::WrongIncarnation
        );
        let (fresh, _) = member(2, None);
        assert_eq!(refused(fresh.judge(&stale, None)), Code::WrongIncarnation);
        stale.to_incarnation = Bytes::new();
        assert_eq!(refused(fresh.judge(&stale, None)), Code::WrongIncarnation);
    }

    #[test]
    fn another_cluster_is_refused_and_another_id_too() {
        let (one, _) = member(1, Some([7; 16]));
        let (two, _) = member(2, Some([8; 16]));
        for kind in [Kind::Append, Kind::Hello, Kind::Vote] {
            assert_eq!(
                refused(two.judge(&message(&one, &two, kind), None)),
                Code::WrongCluster
            );
        }
        let (three, _) = member(3, Some([7; 16]));
        assert_eq!(
            refused(three.judge(&message(&one, &two, Kind::Hello), None)),
            Code::WrongMember
        );
    }

    #[test]
    fn without_a_cluster_only_a_hello_is_taken() {
        let (one, _) = member(1, None);
        let (two, _) = member(2, None);
        assert_eq!(
            two.judge(&message(&one, &two, Kind::Hello), None),
            Verdict::Take
        );
        assert_eq!(
            refused(two.judge(&message(&one, &two, Kind::Vote), None)),
            Code::Malformed
        );
    }

    #[tokio::test]
    async fn the_first_cluster_that_knows_the_incarnation_is_adopted_for_ever() {
        let (one, _) = member(1, Some([7; 16]));
        let (two, saved) = member(2, None);
        assert_eq!(
            two.judge(&message(&one, &two, Kind::Append), None),
            Verdict::Adopt([7; 16])
        );
        two.adopt([7; 16]).await.unwrap();
        two.adopt([7; 16]).await.unwrap();
        assert!(two.adopt([8; 16]).await.is_err());
        assert_eq!(two.cluster(), Some([7; 16]));
        assert_eq!(*saved.lock().unwrap(), [[7; 16]]);
    }
}
