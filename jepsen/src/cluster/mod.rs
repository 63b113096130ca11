//! Real processes: members, executors, a gateway. Started, killed, paused and started again, by pid.

use crate::disk;
use crate::net::{self, Net};
use crate::options::{Fault, TestArgs, Workload};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// First port of loopback runs; namespaces let all hosts use the same ones.
const BASE_PORT: u16 = 24_700;
/// Ids that members may join under, beyond the first ones.
const SPARES: u32 = 8;
/// Hosts of executors and of the gateway.
const EXECUTOR_HOST: u32 = 50;
const GATEWAY_HOST: u32 = 60;
/// Log bytes that members keep in workloads that want snapshots.
const SHORT_LOG_BYTES: u64 = 64 << 10;

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
            forgiven: Vec::new(),
            excused: BTreeSet::new(),
            dark: BTreeSet::new(),
            faketime: faketime().filter(|_| wants(Fault::Clock)),
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

    /// An id that no member has had, and which the next process may join under. `None`: there is no host for more.
    pub fn new_id(&mut self) -> Option<u32> {
        let id = self.next_id;
        if id > self.args.members + spares(&self.args) {
            return None;
        }
        self.next_id += 1;
        Some(id)
    }

    /// `id` is a member from now on.
    pub fn enlist(&mut self, id: u32) {
        self.members.insert(id);
    }

    /// Ends a member for good: it is none any more.
    pub fn retire(&mut self, id: u32) {
        let role = Role::Member(id);
        self.members.remove(&id);
        if self.has_ended(role) {
            self.running.remove(&role);
        } else if let Err(e) = self.kill(role) {
            eprintln!("{role}: {e:#}");
        }
        self.lives.remove(&role);
    }

    /// How often `role` has been started, less one.
    pub fn life(&self, role: Role) -> u32 {
        self.lives.get(&role).copied().unwrap_or(1) - 1
    }

    /// Process id of `role`, if it runs.
    pub fn pid(&self, role: Role) -> Option<u32> {
        self.running.get(&role).map(|p| p.child.id())
    }

    /// The members that executors and gateway are told of: those that may yet come, too.
    fn stores(&self) -> String {
        let all = 1..=self.args.members + spares(&self.args);
        let urls = all.map(|id| format!("http://{}", self.address(Role::Member(id))));
        urls.collect::<Vec<_>>().join(",")
    }

    fn arguments(&self, role: Role) -> (&'static str, Vec<String>) {
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

    /// Starts a process; its output is appended to `logs/ROLE.log`.
    ///
    /// # Errors
    /// It is running already, or cannot be started.
    pub fn start(&mut self, role: Role) -> Result<()> {
        if self.running.contains_key(&role) {
            bail!("{role} is running already");
        }
        if let Role::Member(id) = role
            && self.dark.remove(&id)
        {
            disk::unmount(&self.data(id))?;
            disk::mount(&self.image(id), &self.data(id))?;
        }
        let (program, args) = self.arguments(role);
        std::fs::create_dir_all(self.dir.join("logs"))?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(role))?;
        let mut command: Command = self.net.command(self.host(role), &self.bin.join(program));
        command
            .args(args)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at the terminal is for the suite alone.
            .process_group(0);
        net::mark(&mut command, &self.token);
        net::dies_with_us(&mut command);
        if let Some(mutant) = &self.args.mutant {
            command.env("TROIKA_MUTANT", mutant);
        }
        if let (Some(library), Role::Member(id)) = (&self.faketime, role) {
            let file = self.clock_file(id);
            if !file.exists() {
                self.set_clock(id, "+0")?;
            }
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", file)
                .env("FAKETIME_NO_CACHE", "1")
                .env("DONT_FAKE_MONOTONIC", "1");
        }
        let child = command
            .spawn()
            .with_context(|| format!("{role}: {program}"))?;
        let paused = false;
        self.running.insert(role, Process { child, paused });
        *self.lives.entry(role).or_default() += 1;
        self.forgiven.retain(|r| *r != role);
        Ok(())
    }

    fn signal(&self, role: Role, signal: i32) -> Result<()> {
        let process = self
            .running
            .get(&role)
            .with_context(|| format!("{role} does not run"))?;
        let pid = libc::pid_t::try_from(process.child.id())?;
        // SAFETY: kill(2) touches no memory; the pid is of a child that has not been waited for.
        #[allow(unsafe_code)]
        let result = unsafe { libc::kill(pid, signal) };
        if result != 0 {
            return Err(std::io::Error::last_os_error()).with_context(|| role.to_string());
        }
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, role: Role) -> Result<()> {
        self.signal(role, libc::SIGKILL)?;
        if let Some(mut process) = self.running.remove(&role) {
            process.child.wait()?;
        }
        Ok(())
    }

    /// Stops a member's file system without flushing, and kills the member.
    ///
    /// # Errors
    /// It does not run, or has no disk of its own.
    pub fn cut_power(&mut self, id: u32) -> Result<()> {
        disk::cut(&self.data(id))?;
        self.dark.insert(id);
        self.excused.insert(Role::Member(id));
        self.kill(Role::Member(id))
    }

    /// SIGTERM, and waits up to 15 s for an orderly end; SIGKILL then.
    ///
    /// # Errors
    /// It does not run, or did not end in time.
    pub async fn stop(&mut self, role: Role) -> Result<()> {
        self.signal(role, libc::SIGTERM)?;
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            let process = self.running.get_mut(&role).context("stopped meanwhile")?;
            if process.child.try_wait()?.is_some() {
                self.running.remove(&role);
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.kill(role)?;
        bail!("{role} did not end within 15 s of SIGTERM")
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&mut self, role: Role) -> Result<()> {
        self.signal(role, libc::SIGSTOP)?;
        self.running.entry(role).and_modify(|p| p.paused = true);
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&mut self, role: Role) -> Result<()> {
        self.signal(role, libc::SIGCONT)?;
        self.running.entry(role).and_modify(|p| p.paused = false);
        Ok(())
    }

    /// The exit of `role` is what the fault wants: it is no finding.
    pub fn forgive(&mut self, role: Role) {
        self.forgiven.push(role);
        self.excused.insert(role);
    }

    /// True if no fault gave the process of that name reason to log errors.
    pub fn is_quiet(&self, name: &str) -> bool {
        !self.excused.iter().any(|role| role.to_string() == name)
    }

    /// True if `role` was started and has ended by itself.
    pub fn has_ended(&mut self, role: Role) -> bool {
        let process = self.running.get_mut(&role);
        process.is_none_or(|p| matches!(p.child.try_wait(), Ok(Some(_))))
    }

    /// Processes that ended by themselves since the last call, with their exit status.
    pub fn ended(&mut self) -> Vec<(Role, String)> {
        let mut ended = Vec::new();
        for (role, process) in &mut self.running {
            if let Ok(Some(status)) = process.child.try_wait() {
                ended.push((*role, status.to_string()));
            }
        }
        for (role, _) in &ended {
            self.running.remove(role);
        }
        ended.retain(|(role, _)| !self.forgiven.contains(role));
        ended
    }

    /// Resumes what is paused and starts what does not run.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn restore(&mut self) -> Result<()> {
        let paused = self.running.iter().filter(|(_, p)| p.paused);
        let paused: Vec<Role> = paused.map(|(role, _)| *role).collect();
        for role in paused {
            self.resume(role)?;
        }
        let known: Vec<Role> = self.lives.keys().copied().collect();
        for role in known {
            if !self.running.contains_key(&role) {
                self.start(role)?;
            }
        }
        if self.has_clocks() {
            for id in &self.members {
                self.set_clock(*id, "+0")?;
            }
        }
        Ok(())
    }

    /// Ends everything: in order first, so that data directories can be read, then by SIGKILL.
    pub async fn shutdown(&mut self) {
        let roles: Vec<Role> = self.running.keys().copied().collect();
        // Executors and the gateway first; members all at once, so that none waits for a new leader.
        for role in roles.iter().filter(|r| !matches!(r, Role::Member(_))) {
            let _ = self.kill(*role);
        }
        let members = roles.iter().filter(|r| matches!(r, Role::Member(_)));
        let members: Vec<Role> = members.copied().collect();
        for role in &members {
            let _ = self.signal(*role, libc::SIGTERM);
        }
        for role in members {
            if let Err(e) = self.stop(role).await {
                eprintln!("{role}: {e:#}");
            }
        }
    }

    fn kill_all(&mut self) {
        let roles: Vec<Role> = self.running.keys().copied().collect();
        for role in roles {
            if let Err(e) = self.kill(role) {
                eprintln!("{role}: {e:#}");
            }
        }
    }

    /// Unmounts the members' disks: the images hold their data afterwards.
    pub fn unmount(&mut self) {
        if self.has_disks() {
            for id in 1..=self.args.members {
                if let Err(e) = disk::unmount(&self.data(id)) {
                    eprintln!("{e:#}");
                }
            }
        }
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
