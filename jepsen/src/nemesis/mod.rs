//! The nemesis: brings faults about, one after the other, and lifts every one of them.
//!
//! What it does and to whom is decided by the seed; each step is recorded as `installed`, `skipped` or `failed`.

use crate::cluster::{Cluster, Role};
use crate::history::{Kind, NEMESIS, Nemesis, Op};
use crate::net::Net;
use crate::options::Fault;
use crate::synthetic::Random;
use crate::workload::{Shared, status};
use anyhow::{Context, Result, bail};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Shortest and longest time without, and with, a fault, milliseconds.
const CALM_MS: (u64, u64) = (1_500, 4_000);
const FAULT_MS: (u64, u64) = (2_000, 6_000);

/// The nemesis of a run. Owns the cluster while the load runs.
pub struct Nemesist {
    /// The processes.
    pub cluster: Cluster,
    shared: Arc<Shared>,
    random: Random,
    /// Tracers of running disk faults.
    tracers: Vec<Child>,
}

impl Nemesist {
    /// Takes over the cluster.
    pub fn new(cluster: Cluster, shared: Arc<Shared>, seed: u64) -> Self {
        Self {
            cluster,
            shared,
            random: Random::new(seed),
            tracers: Vec::new(),
        }
    }

    fn note(&self, fault: Fault, action: &str, result: &str, detail: &str) {
        let op = Op::Nemesis(Nemesis {
            fault: fault.name(),
            action: action.to_owned(),
            result: result.to_owned(),
            detail: detail.to_owned(),
        });
        self.shared.recorder.record(NEMESIS, Kind::Info, op, "");
    }

    fn between(&mut self, (low, high): (u64, u64)) -> Duration {
        Duration::from_millis(low + self.random.below(high - low))
    }

    /// Sleeps, but not past the end of the load.
    async fn wait(&self, time: Duration) {
        let deadline = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < deadline && !self.shared.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs `faults` in a seeded order until the load ends. All are lifted when it returns.
    pub async fn run(&mut self, faults: &[Fault]) {
        let faults: Vec<Fault> = faults
            .iter()
            .copied()
            .filter(|f| *f != Fault::None)
            .collect();
        // Every fault comes once before any comes again.
        let mut bag: Vec<Fault> = Vec::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let calm = self.between(CALM_MS);
            self.wait(calm).await;
            if faults.is_empty() || self.shared.stop.load(Ordering::Relaxed) {
                continue;
            }
            if bag.is_empty() {
                bag.clone_from(&faults);
            }
            let at = self.random.below(bag.len() as u64) as usize;
            let fault = bag.swap_remove(at);
            let time = self.between(FAULT_MS);
            self.one(fault, time).await;
        }
    }

    /// Brings one fault about for `time`, and lifts it.
    async fn one(&mut self, fault: Fault, time: Duration) {
        match self.install(fault).await {
            Ok(Some(detail)) => {
                self.note(fault, "install", "installed", &detail);
                self.wait(time).await;
                match self.lift().await {
                    Ok(()) => self.note(fault, "lift", "lifted", ""),
                    Err(e) => self.note(fault, "lift", "failed", &format!("{e:#}")),
                }
            }
            Ok(None) => self.note(fault, "install", "skipped", "not possible on this machine"),
            Err(e) => {
                self.note(fault, "install", "failed", &format!("{e:#}"));
                let _ = self.lift().await;
            }
        }
    }

    async fn leader(&mut self) -> u32 {
        for address in self.shared.members.clone() {
            if let Ok(status) = status(&address).await
                && let Some(meta) = status.meta
                && meta.leader > 0
            {
                return meta.leader as u32;
            }
        }
        1 + self.random.below(self.cluster.members().into()) as u32
    }

    fn any_member(&mut self) -> u32 {
        1 + self.random.below(self.cluster.members().into()) as u32
    }

    /// A random minority of the members.
    fn minority(&mut self) -> Vec<u32> {
        let n = self.cluster.members();
        let most = n.div_ceil(2) - 1;
        let count = 1 + self.random.below(u64::from(most.max(1))) as u32;
        let mut ids: Vec<u32> = (1..=n).collect();
        let mut chosen = Vec::new();
        for _ in 0..count.min(most.max(1)) {
            let at = self.random.below(ids.len() as u64) as usize;
            chosen.push(ids.swap_remove(at));
        }
        chosen
    }

    /// Installs a fault. `None`: this machine cannot.
    async fn install(&mut self, fault: Fault) -> Result<Option<String>> {
        if fault.needs_namespaces() && self.cluster.net() != Net::Namespaces {
            return Ok(None);
        }
        let all: Vec<u32> = (1..=self.cluster.members()).collect();
        match fault {
            Fault::None => Ok(None),
            Fault::Kill => {
                let victims = self.minority();
                self.kill(&victims)
            }
            Fault::KillLeader => {
                let leader = self.leader().await;
                self.kill(&[leader])
            }
            Fault::KillAll => self.kill(&all),
            Fault::Pause => {
                let victims = self.minority();
                for id in &victims {
                    self.cluster.pause(Role::Member(*id))?;
                }
                Ok(Some(format!("members {victims:?}")))
            }
            Fault::RollingRestart => {
                for id in &all {
                    self.cluster.stop(Role::Member(*id)).await?;
                    self.cluster.start(Role::Member(*id))?;
                    self.wait(Duration::from_millis(1_500)).await;
                }
                Ok(Some("all members, one after the other".to_owned()))
            }
            Fault::KillExecutor => self.kill_executors(),
            Fault::PartitionOne => {
                let victim = self.any_member();
                self.separate(&[victim], &all)
            }
            Fault::PartitionLeader => {
                let leader = self.leader().await;
                self.separate(&[leader], &all)
            }
            Fault::PartitionMajority => {
                let side = self.minority();
                self.separate(&side, &all)
            }
            Fault::PartitionRing => self.ring(&all),
            Fault::PartitionOneWay => {
                let victim = self.any_member();
                for other in all.iter().filter(|m| **m != victim) {
                    self.cluster.net().cut(victim, *other)?;
                }
                Ok(Some(format!("from member {victim} to the others")))
            }
            Fault::Loss => {
                let percent = 5 + self.random.below(30) as u32;
                self.cluster.net().lose(percent)?;
                Ok(Some(format!("{percent}% of all packets")))
            }
            Fault::Clock => Ok(None),
            Fault::DiskFull | Fault::SlowDisk | Fault::DiskError => self.disk(fault),
        }
    }

    fn kill(&mut self, members: &[u32]) -> Result<Option<String>> {
        for id in members {
            self.cluster.kill(Role::Member(*id))?;
        }
        Ok(Some(format!("members {members:?}")))
    }

    fn kill_executors(&mut self) -> Result<Option<String>> {
        let running = (0..8).filter(|n| self.cluster.pid(Role::Executor(*n)).is_some());
        let mut running: Vec<u32> = running.collect();
        if running.is_empty() {
            return Ok(None);
        }
        let count = 1 + self
            .random
            .below(running.len() as u64 - u64::from(running.len() > 1))
            as usize;
        let mut killed = Vec::new();
        for _ in 0..count {
            let at = self.random.below(running.len() as u64) as usize;
            let n = running.swap_remove(at);
            self.cluster.kill(Role::Executor(n))?;
            killed.push(Role::Executor(n).to_string());
        }
        Ok(Some(killed.join(", ")))
    }

    fn separate(&self, side: &[u32], all: &[u32]) -> Result<Option<String>> {
        let net = self.cluster.net();
        for a in side {
            for b in all.iter().filter(|b| !side.contains(b)) {
                net.cut(*a, *b)?;
                net.cut(*b, *a)?;
            }
        }
        Ok(Some(format!("members {side:?} from the others")))
    }

    fn ring(&self, all: &[u32]) -> Result<Option<String>> {
        let n = all.len();
        if n < 4 {
            return Ok(None); // With three members every one of a ring sees both others.
        }
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                let apart = (n + i - j) % n;
                if apart > 1 && apart < n - 1 {
                    self.cluster.net().cut(*a, *b)?;
                }
            }
        }
        Ok(Some("every member sees its neighbours alone".to_owned()))
    }

    fn disk(&mut self, fault: Fault) -> Result<Option<String>> {
        if Command::new("strace")
            .arg("-V")
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            return Ok(None);
        }
        let id = self.any_member();
        let role = Role::Member(id);
        let pid = self.cluster.pid(role).context("the member does not run")?;
        let (trace, inject) = match fault {
            Fault::DiskFull => ("pwrite64,write", "pwrite64:error=ENOSPC"),
            Fault::SlowDisk => ("fsync,fdatasync", "fsync,fdatasync:delay_exit=200000"),
            _ => ("fsync,fdatasync", "fsync,fdatasync:error=EIO"),
        };
        if fault != Fault::SlowDisk {
            self.cluster.forgive(role); // It must stop by itself, with a message.
        }
        let tracer = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string()])
            .args([
                "-e",
                &format!("trace={trace}"),
                "-e",
                &format!("inject={inject}"),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.tracers.push(tracer);
        Ok(Some(format!("member {id}: {inject}")))
    }

    /// Lifts everything: heals the network, ends tracers, resumes and restarts processes.
    ///
    /// # Errors
    /// Something could not be undone.
    pub async fn lift(&mut self) -> Result<()> {
        for mut tracer in self.tracers.drain(..) {
            // strace detaches on SIGINT or SIGTERM; SIGKILL would leave the member stopped.
            let pid = libc::pid_t::try_from(tracer.id())?;
            // SAFETY: kill(2) touches no memory; the tracer has not been waited for.
            #[allow(unsafe_code)]
            unsafe {
                libc::kill(pid, libc::SIGINT);
            }
            tracer.wait()?;
        }
        self.cluster.net().heal()?;
        let ended = self.cluster.ended();
        self.cluster.restore()?;
        if !ended.is_empty() {
            bail!("ended by themselves: {ended:?}");
        }
        Ok(())
    }
}
