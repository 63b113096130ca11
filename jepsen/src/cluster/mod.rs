//! Real processes: members, executors, a gateway. Started, killed, paused and started again ([`life`]), by pid.

mod arguments;
mod life;

use crate::disk;
use crate::net::{self, Net};
use crate::options::{Fault, TestArgs};
use anyhow::{Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// First port of loopback runs; namespaces let all hosts use the same ones.
const BASE_PORT: u16 = 24_700;
/// Ids that members may join under, beyond the first ones.
const SPARES: u32 = 8;
/// A wall clock that is right, in libfaketime's words.
const CLOCK_RIGHT: &str = "+0";
/// Hosts of executors and of the gateway.
const EXECUTOR_HOST: u32 = 50;
const GATEWAY_HOST: u32 = 60;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Member `id`, from 1.
    Member(u32),
    /// Executor, from 0.
    Executor(u32),
    /// The gateway.
    Gateway,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Member(id) => write!(f, "member-{id}"),
            Self::Executor(n) => write!(f, "executor-{}", executor_name(*n)),
            Self::Gateway => f.write_str("gateway"),
        }
    }
}

/// "a", "b", ...
pub fn executor_name(n: u32) -> String {
    char::from(b'a' + n as u8).to_string()
}

struct Process {
    child: Child,
    paused: bool,
}

/// All processes of a run.
pub struct Cluster {
    net: Net,
    dir: PathBuf,
    bin: PathBuf,
    args: TestArgs,
    token: String,
    /// Members of the store now.
    members: BTreeSet<u32>,
    /// The id that the next member to join gets.
    next_id: u32,
    running: BTreeMap<Role, Process>,
    /// How often each was started.
    lives: BTreeMap<Role, u32>,
    /// How often any was started.
    starts: u64,
    /// Processes that were found ended where they were to be killed or stopped, with their exit status.
    crashed: Vec<(Role, String)>,
    /// Members whose exit is expected (a fault made it) until they are started again.
    forgiven: Vec<Role>,
    /// Members whose disk failed or was damaged at some time: their logs speak of errors.
    excused: BTreeSet<Role>,
    /// Members whose disk must be mounted again before they start.
    dark: BTreeSet<u32>,
    /// libfaketime, where clocks are to jump.
    faketime: Option<PathBuf>,
}

/// Hosts that a run may need.
pub fn hosts(args: &TestArgs) -> Vec<u32> {
    let mut hosts: Vec<u32> = (1..=args.members + spares(args)).collect();
    if args.workload.is_real() {
        hosts.extend((0..args.executors).map(|n| EXECUTOR_HOST + n));
        hosts.push(GATEWAY_HOST);
    }
    hosts
}

fn spares(args: &TestArgs) -> u32 {
    let replaces = args.nemesis.iter().any(|f| f.replaces());
    if replaces { SPARES } else { 0 }
}

/// libfaketime, if it is installed.
pub fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found = folders.map(|f| f.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.exists())
}

impl Cluster {
    /// Nothing runs yet. Makes the members' disks where power cuts are asked for.
    ///
    /// # Errors
    /// A disk cannot be made.
    pub fn new(net: Net, dir: &Path, bin: &Path, args: &TestArgs) -> Result<Self> {
        let wants = |fault: Fault| args.nemesis.contains(&fault);
        let cluster = Self {
            net,
            dir: dir.to_owned(),
            bin: bin.to_owned(),
            args: args.clone(),
            token: net::token(),
            members: (1..=args.members).collect(),
            next_id: args.members + 1,
            running: BTreeMap::new(),
            lives: BTreeMap::new(),
            starts: 0,
            crashed: Vec::new(),
            forgiven: Vec::new(),
            excused: BTreeSet::new(),
            dark: BTreeSet::new(),
            faketime: faketime().filter(|_| wants(Fault::Clock) || wants(Fault::AllAtOnce)),
        };
        if cluster.has_disks() {
            for id in &cluster.members {
                disk::make(&cluster.image(*id), &cluster.data(*id))?;
            }
        }
        Ok(cluster)
    }

    /// True if every member has a file system of its own.
    pub fn has_disks(&self) -> bool {
        let wanted = self.args.nemesis.iter().any(|f| f.cuts_power());
        wanted && self.net == Net::Namespaces && disk::obstacle().is_none()
    }

    /// True if members' clocks can jump.
    pub fn has_clocks(&self) -> bool {
        self.faketime.is_some()
    }

    fn image(&self, id: u32) -> PathBuf {
        self.dir
            .join(format!("disks/{}-member-{id}.img", self.token))
    }

    /// Data directory of member `id`.
    pub fn data(&self, id: u32) -> PathBuf {
        self.dir.join(format!("data/member-{id}"))
    }

    /// Where the log of a process is.
    pub fn log(&self, role: Role) -> PathBuf {
        self.dir.join(format!("logs/{role}.log"))
    }

    /// Sets how far a member's wall clock is off, in libfaketime's words (`+3600`).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_clock(&self, id: u32, offset: &str) -> Result<()> {
        let path = self.clock_file(id);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, offset)?)
    }

    fn clock_file(&self, id: u32) -> PathBuf {
        self.dir.join(format!("clocks/member-{id}"))
    }

    fn port(&self, role: Role, peer: bool) -> u16 {
        let offset = match role {
            Role::Member(id) => id as u16 * 2 + u16::from(peer),
            Role::Executor(n) => 40 + n as u16,
            Role::Gateway => 60,
        };
        BASE_PORT + offset
    }

    /// Number of the host that `role` runs on.
    pub fn host(&self, role: Role) -> u32 {
        match role {
            Role::Member(id) => id,
            Role::Executor(n) => EXECUTOR_HOST + n,
            Role::Gateway => GATEWAY_HOST,
        }
    }

    /// HOST:PORT for clients of `role`.
    pub fn address(&self, role: Role) -> String {
        let host = self.net.host(self.host(role));
        format!("{host}:{}", self.port(role, false))
    }

    /// HOST:PORT of a member for other members.
    pub fn peer_address(&self, id: u32) -> String {
        format!(
            "{}:{}",
            self.net.host(id),
            self.port(Role::Member(id), true)
        )
    }

    /// Addresses of the members now, by id.
    pub fn member_addresses(&self) -> BTreeMap<u32, String> {
        let address = |id: &u32| (*id, self.address(Role::Member(*id)));
        self.members.iter().map(address).collect()
    }

    /// The network below.
    pub fn net(&self) -> Net {
        self.net
    }

    /// Ids of the members now.
    pub fn members(&self) -> Vec<u32> {
        self.members.iter().copied().collect()
    }

    /// Processes that run and are not paused.
    pub fn up(&self) -> Vec<Role> {
        let up = self.running.iter().filter(|(_, p)| !p.paused);
        up.map(|(role, _)| *role).collect()
    }

    /// Executors of this run.
    pub fn executors(&self) -> Vec<Role> {
        let count = if self.args.workload.is_real() {
            self.args.executors
        } else {
            0
        };
        (0..count).map(Role::Executor).collect()
    }

    /// True if `id` was a member from the start, and is told of the others.
    pub fn is_founder(&self, id: u32) -> bool {
        id <= self.args.members
    }

    /// True if another member can join in this run.
    pub fn has_new_id(&self) -> bool {
        self.next_id <= self.args.members + spares(&self.args)
    }

    /// An id that no member has had, and which the next process may join under. `None`: there is no host for more.
    pub fn new_id(&mut self) -> Option<u32> {
        let id = self.has_new_id().then_some(self.next_id)?;
        self.next_id += 1;
        Some(id)
    }

    /// `id` is a member from now on.
    pub fn enlist(&mut self, id: u32) {
        self.members.insert(id);
    }

    /// Ends a member for good: it is none any more, and may have ended by itself when it heard of that.
    pub fn retire(&mut self, id: u32) {
        let role = Role::Member(id);
        self.members.remove(&id);
        self.forgiven.push(role);
        if self.running.contains_key(&role)
            && let Err(e) = self.kill(role)
        {
            eprintln!("{role}: {e:#}");
        }
        self.lives.remove(&role);
    }

    /// How often `role` has been started, less one.
    pub fn life(&self, role: Role) -> u32 {
        self.lives.get(&role).copied().unwrap_or(1) - 1
    }

    /// How often any process was started.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// Paused processes that the kernel says stand still.
    pub fn standing_still(&self) -> u64 {
        let paused = self.running.values().filter(|p| p.paused);
        let still = paused.filter(|p| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", p.child.id()));
            // The state follows the name, which is in parentheses and may hold anything.
            let state = stat.as_deref().ok().and_then(|s| s.rsplit_once(") "));
            state.is_some_and(|(_, rest)| rest.starts_with('T'))
        });
        still.count() as u64
    }

    /// Members whose wall clock is libfaketime's, and off.
    pub fn clocks_off(&self) -> u64 {
        let off = self.running.iter().filter(|(role, process)| {
            let Role::Member(id) = role else { return false };
            let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.child.id()));
            let offset = std::fs::read_to_string(self.clock_file(*id));
            maps.is_ok_and(|maps| maps.contains("libfaketime"))
                && offset.is_ok_and(|offset| offset != CLOCK_RIGHT)
        });
        off.count() as u64
    }

    /// Process id of `role`, if it runs.
    pub fn pid(&self, role: Role) -> Option<u32> {
        self.running.get(&role).map(|p| p.child.id())
    }

    /// What `troika-store inspect` says of a stopped member's data directory, at `index` or at its checkpoint.
    ///
    /// # Errors
    /// The directory is refused; the message says why.
    pub fn inspect(&self, id: u32, index: Option<u64>) -> Result<String> {
        let mut command = Command::new(self.bin.join("troika-store"));
        command.arg("inspect").arg("--data").arg(self.data(id));
        if let Some(index) = index {
            command.arg("--at").arg(index.to_string());
        }
        let out = command.output()?;
        if !out.status.success() {
            bail!("{}", String::from_utf8_lossy(&out.stderr).trim().to_owned());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
        self.unmount();
    }
}
