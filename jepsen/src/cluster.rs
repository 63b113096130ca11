//! Real processes: members, executors, a gateway. Started, killed, paused and started again, by pid.

use crate::net::Net;
use crate::options::TestArgs;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// First port of loopback runs; namespaces let all hosts use the same ones.
const BASE_PORT: u16 = 24_700;

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
    members: u32,
    executors: u32,
    shards: u32,
    running: BTreeMap<Role, Process>,
    /// How often each was started.
    lives: BTreeMap<Role, u32>,
    /// Members whose exit is expected (a fault made it) until they are started again.
    forgiven: Vec<Role>,
}

impl Cluster {
    /// Nothing runs yet.
    pub fn new(net: Net, dir: &Path, bin: &Path, args: &TestArgs) -> Self {
        Self {
            net,
            dir: dir.to_owned(),
            bin: bin.to_owned(),
            members: args.members,
            executors: args.executors,
            shards: args.shards,
            running: BTreeMap::new(),
            lives: BTreeMap::new(),
            forgiven: Vec::new(),
        }
    }

    fn port(&self, role: Role, peer: bool) -> u16 {
        let offset = match role {
            Role::Member(id) => id as u16 * 2 + u16::from(peer),
            Role::Executor(n) => 40 + n as u16,
            Role::Gateway => 60,
        };
        BASE_PORT + offset
    }

    fn host(&self, role: Role) -> u32 {
        match role {
            Role::Member(id) => id,
            Role::Executor(n) => self.members + 1 + n,
            Role::Gateway => self.members + self.executors + 1,
        }
    }

    /// HOST:PORT for clients of `role`.
    pub fn address(&self, role: Role) -> String {
        format!(
            "{}:{}",
            self.net.host(self.host(role)),
            self.port(role, false)
        )
    }

    /// Addresses of all members, by id.
    pub fn member_addresses(&self) -> Vec<String> {
        (1..=self.members)
            .map(|id| self.address(Role::Member(id)))
            .collect()
    }

    /// The network below.
    pub fn net(&self) -> Net {
        self.net
    }

    /// Number of members.
    pub fn members(&self) -> u32 {
        self.members
    }

    /// How often `role` has been started, less one.
    pub fn life(&self, role: Role) -> u32 {
        self.lives.get(&role).copied().unwrap_or(1) - 1
    }

    /// Process id of `role`, if it runs.
    pub fn pid(&self, role: Role) -> Option<u32> {
        self.running.get(&role).map(|p| p.child.id())
    }

    fn stores(&self) -> String {
        let urls = self.member_addresses();
        urls.iter()
            .map(|a| format!("http://{a}"))
            .collect::<Vec<_>>()
            .join(",")
    }

    fn arguments(&self, role: Role) -> (&'static str, Vec<String>) {
        let listen = self.address(role);
        match role {
            Role::Member(id) => {
                let peer = |id: u32| {
                    let host = self.net.host(id);
                    format!("{host}:{}", self.port(Role::Member(id), true))
                };
                let members: Vec<_> = (1..=self.members)
                    .map(|m| format!("{m}={}", peer(m)))
                    .collect();
                let data = self.dir.join(format!("data/member-{id}"));
                let mut args = vec!["serve".to_owned()];
                for (flag, value) in [
                    ("--id", id.to_string()),
                    ("--data", data.display().to_string()),
                    ("--listen", listen),
                    ("--peer-listen", peer(id)),
                    ("--members", members.join(",")),
                ] {
                    args.extend([flag.to_owned(), value]);
                }
                args.push("--insecure".to_owned());
                ("troika-store", args)
            }
            Role::Executor(n) => {
                let mut args = vec!["executor".to_owned()];
                for (flag, value) in [
                    ("--store", self.stores()),
                    ("--shards", format!("0-{}", self.shards - 1)),
                    ("--listen", listen),
                    ("--name", executor_name(n)),
                ] {
                    args.extend([flag.to_owned(), value]);
                }
                ("troika-node", args)
            }
            Role::Gateway => {
                let executors = (0..self.executors).map(|n| {
                    let address = self.address(Role::Executor(n));
                    format!("http://{address}")
                });
                let executors: Vec<_> = executors.collect();
                let mut args = vec!["gateway".to_owned()];
                for (flag, value) in [
                    ("--store", self.stores()),
                    ("--executors", executors.join(",")),
                    ("--rpc", listen),
                ] {
                    args.extend([flag.to_owned(), value]);
                }
                ("troika-node", args)
            }
        }
    }

    /// Starts a process; its output is appended to `logs/ROLE.log`.
    ///
    /// # Errors
    /// It is running already, or cannot be started.
    pub fn start(&mut self, role: Role) -> Result<()> {
        if self.running.contains_key(&role) {
            bail!("{role} is running already");
        }
        let (program, args) = self.arguments(role);
        let logs = self.dir.join("logs");
        std::fs::create_dir_all(&logs)?;
        let log: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(logs.join(format!("{role}.log")))?;
        let mut command: Command = self.net.command(self.host(role), &self.bin.join(program));
        command
            .args(args)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("{role}: {program}"))?;
        self.running.insert(
            role,
            Process {
                child,
                paused: false,
            },
        );
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
        self.reap(role)
    }

    /// SIGTERM, and waits up to 15 s for an orderly end; SIGKILL then.
    ///
    /// # Errors
    /// It does not run.
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

    fn reap(&mut self, role: Role) -> Result<()> {
        if let Some(mut process) = self.running.remove(&role) {
            process.child.wait()?;
        }
        Ok(())
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
        let paused: Vec<Role> = self
            .running
            .iter()
            .filter(|(_, p)| p.paused)
            .map(|(r, _)| *r)
            .collect();
        for role in paused {
            self.resume(role)?;
        }
        let known: Vec<Role> = self.lives.keys().copied().collect();
        for role in known {
            if !self.running.contains_key(&role) {
                self.start(role)?;
            }
        }
        Ok(())
    }

    /// Kills everything.
    pub fn shutdown(&mut self) {
        let roles: Vec<Role> = self.running.keys().copied().collect();
        for role in roles {
            if let Err(e) = self.kill(role) {
                eprintln!("{role}: {e:#}");
            }
        }
    }

    /// Lines in the logs that must not be there: panics.
    pub fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for role in self.lives.keys() {
            let path = self.dir.join(format!("logs/{role}.log"));
            let mut text = String::new();
            if File::open(&path)
                .and_then(|mut f| f.read_to_string(&mut text))
                .is_ok()
            {
                let lines = text.lines().filter(|l| l.contains("panicked at"));
                found.extend(lines.map(|l| format!("{role}: {l}")));
            }
        }
        found
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown();
    }
}
