//! What each process is told when it starts.

use super::{Cluster, Role, executor_name, spares};
use crate::options::Workload;

/// Log bytes that members keep in workloads that want snapshots.
const SHORT_LOG_BYTES: u64 = 64 << 10;

impl Cluster {
    /// The members that executors and gateway are told of: those that may yet come, too.
    fn stores(&self) -> String {
        let all = 1..=self.args.members + spares(&self.args);
        let urls = all.map(|id| format!("http://{}", self.address(Role::Member(id))));
        urls.collect::<Vec<_>>().join(",")
    }

    pub(super) fn arguments(&self, role: Role) -> (&'static str, Vec<String>) {
        let listen = self.address(role);
        let flags = |pairs: &[(&str, String)]| -> Vec<String> {
            let flat = pairs.iter().flat_map(|(f, v)| [(*f).to_owned(), v.clone()]);
            flat.collect()
        };
        match role {
            Role::Member(id) => ("troika-store", self.member_arguments(id, listen)),
            Role::Executor(n) => {
                let mut args = vec!["executor".to_owned(), "--insecure".to_owned()];
                args.extend(flags(&[
                    ("--store", self.stores()),
                    ("--shards", format!("0-{}", self.args.shards - 1)),
                    ("--listen", listen),
                    ("--name", executor_name(n)),
                ]));
                ("troika-node", args)
            }
            Role::Gateway => {
                let executors = self.executors().into_iter();
                let executors: Vec<_> = executors
                    .map(|e| format!("http://{}", self.address(e)))
                    .collect();
                let mut args = vec!["gateway".to_owned(), "--insecure".to_owned()];
                args.extend(flags(&[
                    ("--store", self.stores()),
                    ("--executors", executors.join(",")),
                    ("--rpc", listen),
                ]));
                ("troika-node", args)
            }
        }
    }

    fn member_arguments(&self, id: u32, listen: String) -> Vec<String> {
        let mut args = vec!["serve".to_owned(), "--insecure".to_owned()];
        let mut flag = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
        flag("--id", id.to_string());
        flag("--data", self.data(id).display().to_string());
        flag("--listen", listen);
        flag("--peer-listen", self.peer_address(id));
        let snapshots =
            self.args.workload == Workload::Prune || self.args.nemesis.iter().any(|f| f.replaces());
        if snapshots {
            flag("--log-keep-bytes", SHORT_LOG_BYTES.to_string());
        }
        if id <= self.args.members {
            let first = 1..=self.args.members;
            let members = first.map(|m| format!("{m}={}", self.peer_address(m)));
            flag("--members", members.collect::<Vec<_>>().join(","));
        } else {
            args.push("--join".to_owned());
        }
        args
    }
}
