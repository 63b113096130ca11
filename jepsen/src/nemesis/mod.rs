//! The nemesis: brings faults about, one after the other, and lifts every one of them.
//!
//! Which come, when, how long and whom they strike is [`crate::plan`]'s; here they are done ([`install`], [`replace`]) and
//! undone. Each step is recorded as `installed`, `skipped` with its reason, or `failed`.

mod delay;
mod effects;
mod install;
mod replace;

use crate::checker::Finding;
use crate::cluster::{Cluster, Role};
use crate::history::{Kind, NEMESIS, Nemesis, Op};
use crate::options::Fault;
use crate::plan::{Faults, PlannedFault, pick};
use crate::synthetic::Random;
use crate::workload::{Shared, status};
use anyhow::Result;
use effects::Effects;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

/// How long a member whose disk fails may take to end.
const DEADLY: Duration = Duration::from_secs(10);

/// What came of installing a fault.
enum Installed {
    /// It is in force.
    Yes {
        /// What exactly.
        detail: String,
        /// The processes that it strikes.
        targets: Vec<Role>,
    },
    /// This machine or this run cannot have it.
    Skipped(String),
}

impl Installed {
    fn yes(detail: impl Into<String>, targets: impl IntoIterator<Item = Role>) -> Result<Self> {
        Ok(Self::Yes {
            detail: detail.into(),
            targets: targets.into_iter().collect(),
        })
    }

    fn skipped(why: impl Into<String>) -> Result<Self> {
        Ok(Self::Skipped(why.into()))
    }
}

/// strace at work on a process.
struct Tracer {
    child: Child,
    role: Role,
    /// What it says of every call that it tampers with.
    log: PathBuf,
    /// A disk that does this must end the process.
    deadly: bool,
}

/// The nemesis of a run. Owns the cluster while the load runs.
pub struct Nemesist {
    /// The processes.
    pub cluster: Cluster,
    shared: Arc<Shared>,
    /// Tracers of running disk faults.
    tracers: Vec<Tracer>,
    /// System calls that tracers have tampered with.
    injected: u64,
    /// Packets that were held back.
    held: u64,
    /// Holds packets back while it lives.
    delay: Option<delay::Delay>,
}

impl Nemesist {
    /// Takes over the cluster.
    pub fn new(cluster: Cluster, shared: Arc<Shared>) -> Self {
        Self {
            cluster,
            shared,
            tracers: Vec::new(),
            injected: 0,
            held: 0,
            delay: None,
        }
    }

    fn note(&self, noted: Nemesis) {
        let op = Op::Nemesis(noted);
        self.shared.recorder.record(NEMESIS, Kind::Info, op, "");
    }

    /// What faults have done so far.
    fn effects(&self) -> Effects {
        Effects {
            held: self.held + self.delay.as_ref().map_or(0, delay::Delay::held),
            injected: self.injected,
            ..Effects::of(&self.cluster)
        }
    }

    /// Sleeps, but not past the end of the load.
    async fn wait(&self, time: Duration) {
        let deadline = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < deadline && !self.shared.stopped() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs `faults` as planned until the load ends. All are lifted when it returns.
    pub async fn run(&mut self, faults: &[Fault]) {
        for planned in Faults::new(self.shared.seed, faults) {
            self.wait(Duration::from_millis(planned.calm_ms)).await;
            if self.shared.stopped() {
                return;
            }
            self.one(planned).await;
        }
        while !self.shared.stopped() {
            self.wait(Duration::from_secs(1)).await;
        }
    }

    /// Brings one fault about, and lifts it.
    async fn one(&mut self, planned: PlannedFault) {
        let fault = planned.fault;
        let mut random = Random::new(planned.choice);
        let mut noted = Nemesis {
            fault: fault.name(),
            action: "install".to_owned(),
            since: self.shared.recorder.now(),
            ..Nemesis::default()
        };
        self.shared.show_fault(&fault.name());
        let before = self.effects();
        let installed = Box::pin(self.install(fault, &mut random)).await;
        let failed = installed.is_err();
        (noted.result, noted.detail) = match installed {
            Ok(Installed::Yes { detail, targets }) => {
                noted.targets = targets.iter().map(Role::to_string).collect();
                ("installed".to_owned(), detail)
            }
            Ok(Installed::Skipped(why)) => ("skipped".to_owned(), why),
            Err(e) => ("failed".to_owned(), format!("{e:#}")),
        };
        let installed = noted.result == "installed";
        self.note(noted.clone());
        if installed {
            self.wait(Duration::from_millis(planned.lasts_ms)).await;
        }
        if installed || failed {
            self.undo(noted, before).await;
        }
        self.shared.show_fault("");
    }

    /// Lifts what was `noted`, and notes that, with what it did.
    async fn undo(&mut self, noted: Nemesis, before: Effects) {
        // Half of it shows only while the fault is in force, the other half only afterwards.
        let during = self.effects();
        let (result, detail) = match self.lift().await {
            Ok(()) => ("lifted", String::new()),
            Err(e) => ("failed", format!("{e:#}")),
        };
        let after = self.effects();
        let effects = Effects {
            starts: after.starts,
            injected: after.injected,
            held: after.held,
            ..during
        };
        self.note(Nemesis {
            action: "lift".to_owned(),
            result: result.to_owned(),
            detail,
            effects: effects.since(before),
            ..noted
        });
    }

    async fn leader(&mut self, random: &mut Random) -> u32 {
        for (_, address) in self.shared.members() {
            if let Ok(status) = status(&address).await
                && let Some(meta) = status.meta
                && self.up_members().contains(&(meta.leader as u32))
            {
                return meta.leader as u32;
            }
        }
        self.any_member(random)
    }

    /// Members that run and are not paused.
    fn up_members(&self) -> Vec<u32> {
        let up = self.cluster.up().into_iter();
        up.filter_map(|role| match role {
            Role::Member(id) => Some(id),
            _ => None,
        })
        .collect()
    }

    fn any_member(&self, random: &mut Random) -> u32 {
        let up = self.up_members();
        pick(random, &up, 1).first().copied().unwrap_or(1)
    }

    /// A random minority of the members.
    fn minority(&self, random: &mut Random) -> Vec<u32> {
        let most = (self.cluster.members().len().div_ceil(2) - 1).max(1);
        let count = 1 + random.below(most as u64) as usize;
        pick(random, &self.up_members(), count)
    }

    /// Some executors that run, never all of them.
    fn some_executors(&self, random: &mut Random) -> Vec<Role> {
        let up = self.cluster.up();
        let running: Vec<Role> = self
            .cluster
            .executors()
            .into_iter()
            .filter(|e| up.contains(e))
            .collect();
        let most = running.len().saturating_sub(1).max(1);
        let count = 1 + random.below(most as u64) as usize;
        pick(random, &running, count)
    }

    /// Lifts everything: heals the network, ends tracers, resumes and restarts processes, sets clocks right.
    ///
    /// # Errors
    /// Something could not be undone.
    pub async fn lift(&mut self) -> Result<()> {
        self.held += self.delay.take().map_or(0, |delay| delay.held());
        for tracer in std::mem::take(&mut self.tracers) {
            self.end_tracer(tracer).await?;
        }
        self.cluster.net().heal()?;
        for (role, status) in self.cluster.ended() {
            self.shared.found(Finding::new(
                "process/ended",
                format!(
                    "{role} ended by itself: {status}; its log ends with: {}",
                    self.last_line(role)
                ),
                vec![],
            ));
        }
        self.cluster.restore()
    }

    /// Ends a tracer. A member whose disk has failed must have ended by itself.
    async fn end_tracer(&mut self, mut tracer: Tracer) -> Result<()> {
        let role = tracer.role;
        if tracer.deadly
            && effects::injected(&tracer.log) > 0
            && !self.ends_within(role, DEADLY).await
        {
            let text = format!("{role} went on for {DEADLY:?} although writes to its disk failed");
            self.shared
                .found(Finding::new("process/outlived", text, vec![]));
        }
        // It has ended with its process, or it detaches on SIGINT; SIGKILL would leave the member stopped.
        if tracer.child.try_wait()?.is_none() {
            let pid = libc::pid_t::try_from(tracer.child.id())?;
            // SAFETY: kill(2) touches no memory; the tracer has not been waited for.
            #[allow(unsafe_code)]
            unsafe {
                libc::kill(pid, libc::SIGINT);
            }
            tracer.child.wait()?;
        }
        self.injected += effects::injected(&tracer.log);
        let _ = std::fs::remove_file(&tracer.log);
        Ok(())
    }

    /// The last line that a process has logged.
    fn last_line(&self, role: Role) -> String {
        let log = std::fs::read(self.cluster.log(role)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().next_back().unwrap_or("").to_owned()
    }
}
