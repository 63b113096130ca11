//! Who may call what: roles, and the one table from a gRPC method to the role that it takes.
//!
//! A client's roles are the organisational units (OU) of its certificate's subject, its name is the common name (CN). The
//! unit, not the name, carries the role: names tell the many holders of one role apart in the log, any authority's tools
//! can set a unit, and a certificate may have several. Each role may do what it needs and no more:
//!
//! | role | may |
//! |---|---|
//! | `reader` | read: state, rounds, locks, status, members, watches |
//! | `executor` | the same, and take part in rounds: open, submit, lock, seal, void |
//! | `admin` | everything: also start the chain, change members, move the leadership, prune, back up |
//! | `member` | talk to members as the member that the common name names, on the members' listener alone |
//!
//! Health is for everybody who gets through the door, because a load balancer has no role.

/// What a certificate allows its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads.
    Reader,
    /// Reads and takes part in rounds.
    Executor,
    /// Everything that a client can do.
    Admin,
    /// Is a member, toward members.
    Member,
}

impl Role {
    /// Its name, as it stands in a certificate.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Executor => "executor",
            Self::Admin => "admin",
            Self::Member => "member",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Reader, Self::Executor, Self::Admin, Self::Member];
        all.into_iter().find(|role| role.name() == name)
    }

    /// True if who has this role may call what takes `needed`.
    pub fn covers(self, needed: Self) -> bool {
        match self {
            Self::Reader => needed == Self::Reader,
            Self::Executor => matches!(needed, Self::Reader | Self::Executor),
            Self::Admin => needed != Self::Member,
            Self::Member => needed == Self::Member,
        }
    }
}

/// The role that a call of this HTTP/2 path takes; None: everybody may.
///
/// What is not named here is for admins, so that a new method is closed until somebody has thought about it.
pub fn needed(path: &str) -> Option<Role> {
    let (service, method) = path.trim_start_matches('/').split_once('/')?;
    Some(match (service, method) {
        ("grpc.health.v1.Health", _) => return None,
        ("grpc.reflection.v1.ServerReflection", _) | ("troika.v1.State", _) => Role::Reader,
        ("troika.v1.Rounds", "Get" | "List" | "ListLocks" | "Watch") => Role::Reader,
        (
            "troika.v1.Rounds",
            "Open" | "Submit" | "SubmitStream" | "AcquireLocks" | "ReportDissent" | "Seal" | "Void",
        ) => Role::Executor,
        ("troika.v1.Cluster", "Status" | "Members") => Role::Reader,
        _ => Role::Admin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use prost_types::FileDescriptorSet;

    /// Every method that clients can call, as the descriptors have them, and the role that it takes.
    const TABLE: &[(&str, Role)] = &[
        ("/troika.v1.Cluster/AddLearner", Role::Admin),
        ("/troika.v1.Cluster/Backup", Role::Admin),
        ("/troika.v1.Cluster/InitChain", Role::Admin),
        ("/troika.v1.Cluster/Members", Role::Reader),
        ("/troika.v1.Cluster/Promote", Role::Admin),
        ("/troika.v1.Cluster/Prune", Role::Admin),
        ("/troika.v1.Cluster/Remove", Role::Admin),
        ("/troika.v1.Cluster/Status", Role::Reader),
        ("/troika.v1.Cluster/TransferLeadership", Role::Admin),
        ("/troika.v1.Rounds/AcquireLocks", Role::Executor),
        ("/troika.v1.Rounds/Get", Role::Reader),
        ("/troika.v1.Rounds/List", Role::Reader),
        ("/troika.v1.Rounds/ListLocks", Role::Reader),
        ("/troika.v1.Rounds/Open", Role::Executor),
        ("/troika.v1.Rounds/ReportDissent", Role::Executor),
        ("/troika.v1.Rounds/Seal", Role::Executor),
        ("/troika.v1.Rounds/Submit", Role::Executor),
        ("/troika.v1.Rounds/SubmitStream", Role::Executor),
        ("/troika.v1.Rounds/Void", Role::Executor),
        ("/troika.v1.Rounds/Watch", Role::Reader),
        ("/troika.v1.State/Block", Role::Reader),
        ("/troika.v1.State/BlockDiff", Role::Reader),
        ("/troika.v1.State/FindTransaction", Role::Reader),
        ("/troika.v1.State/Head", Role::Reader),
        ("/troika.v1.State/Read", Role::Reader),
        ("/troika.v1.State/Shard", Role::Reader),
    ];

    #[test]
    fn every_method_of_the_services_takes_the_role_that_was_decided_for_it() {
        let described = FileDescriptorSet::decode(troika_proto::DESCRIPTORS).unwrap();
        let mut paths = Vec::new();
        for file in &described.file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                if ["troika.v1.Rounds", "troika.v1.State", "troika.v1.Cluster"].contains(&&*name) {
                    let methods = service.method.iter();
                    paths.extend(methods.map(|method| format!("/{name}/{}", method.name())));
                }
            }
        }
        paths.sort();
        let named: Vec<_> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(
            paths, named,
            "a method came or went: decide who may call it"
        );
        for (path, role) in TABLE {
            assert_eq!(needed(path), Some(*role), "{path}");
        }
    }

    #[test]
    fn what_nobody_thought_about_is_for_admins() {
        assert_eq!(needed("/troika.v1.Rounds/Undo"), Some(Role::Admin));
        assert_eq!(needed("/elsewhere/X"), Some(Role::Admin));
        assert_eq!(needed("/grpc.health.v1.Health/Check"), None);
    }

    #[test]
    fn no_role_covers_more_than_it_needs() {
        let covered = |role: Role| {
            let all = [Role::Reader, Role::Executor, Role::Admin, Role::Member];
            all.map(|needed| role.covers(needed))
        };
        assert_eq!(covered(Role::Reader), [true, false, false, false]);
        assert_eq!(covered(Role::Executor), [true, true, false, false]);
        assert_eq!(covered(Role::Admin), [true, true, true, false]);
        assert_eq!(covered(Role::Member), [false, false, false, true]);
        for role in [Role::Reader, Role::Executor, Role::Admin, Role::Member] {
            assert_eq!(Role::from_name(role.name()), Some(role));
        }
        assert_eq!(Role::from_name("Admin"), None);
    }
}
