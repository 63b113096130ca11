//! How each fault is brought about.

use super::{Installed, Nemesist, Tracer, delay};
use crate::checker::Finding;
use crate::cluster::Role;
use crate::net::Net;
use crate::options::Fault;
use crate::plan::pick;
use crate::synthetic::Random;
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Faults of which `all-at-once` takes some. Those that need executors are left out where there are none.
const COMBINED: [Fault; 12] = [
    Fault::Kill,
    Fault::Pause,
    Fault::PartitionOne,
    Fault::PartitionOneWay,
    Fault::PartitionLeader,
    Fault::Loss,
    Fault::SlowDisk,
    Fault::Clock,
    Fault::KillExecutor,
    Fault::PauseExecutor,
    Fault::KillGateway,
    Fault::ExecutorsFromStore,
];
/// How many of them.
const AT_ONCE: usize = 3;
/// Time between two restarts of a rolling one.
const ROLLING_PAUSE: Duration = Duration::from_millis(1_500);
/// How long strace may take to take hold of a process.
const ATTACHING: Duration = Duration::from_millis(300);
/// Shortest time that packets are held back, milliseconds; the longest is twice that. With the last one an answer takes
/// longer than members wait for a heartbeat's: nothing can be decided then, and nothing may go wrong.
const DELAYS_MS: [u64; 4] = [3, 15, 40, 200];
/// Jumps of wall clocks, seconds, in libfaketime's words.
const JUMPS: [&str; 6] = ["+3600", "-3600", "+86400", "-86400", "+1", "-1"];

fn members(ids: &[u32]) -> Vec<Role> {
    ids.iter().map(|id| Role::Member(*id)).collect()
}

impl Nemesist {
    pub(super) async fn install(&mut self, fault: Fault, random: &mut Random) -> Result<Installed> {
        if fault.needs_namespaces() && self.cluster.net() != Net::Namespaces {
            return Installed::skipped("no network namespaces on this machine");
        }
        if fault.needs_executors() && self.cluster.executors().is_empty() {
            return Installed::skipped("this workload has no executors");
        }
        let all = self.cluster.members();
        match fault {
            Fault::None => Installed::skipped("nothing"),
            Fault::Kill => {
                let victims = self.minority(random);
                self.kill(&members(&victims))
            }
            Fault::KillLeader => {
                let leader = self.leader(random).await;
                self.kill(&[Role::Member(leader)])
            }
            Fault::KillAll => self.kill(&members(&self.up_members())),
            Fault::PowerCut => {
                let victims = self.minority(random);
                self.cut_power(&victims)
            }
            Fault::PowerCutAll => self.cut_power(&self.up_members()),
            Fault::Pause => {
                let victims = self.minority(random);
                self.pause(&members(&victims))
            }
            Fault::RollingRestart => self.rolling_restart(&all).await,
            Fault::KillExecutor => {
                let victims = self.some_executors(random);
                self.kill(&victims)
            }
            Fault::KillExecutors => {
                let up = self.cluster.up();
                let all = self.cluster.executors().into_iter();
                let running: Vec<Role> = all.filter(|e| up.contains(e)).collect();
                self.kill(&running)
            }
            Fault::PauseExecutor => {
                let victims = self.some_executors(random);
                self.pause(&victims)
            }
            Fault::KillGateway => self.kill(&[Role::Gateway]),
            Fault::PartitionOne => {
                let victim = self.any_member(random);
                self.separate(&[victim], &all)
            }
            Fault::PartitionLeader => {
                let leader = self.leader(random).await;
                self.separate(&[leader], &all)
            }
            Fault::PartitionMajority => {
                let side = self.minority(random);
                self.separate(&side, &all)
            }
            Fault::PartitionRing => self.ring(&all),
            Fault::PartitionBridge => self.bridge(&all, random),
            Fault::PartitionOneWay => {
                let victim = self.any_member(random);
                for other in all.iter().filter(|m| **m != victim) {
                    self.cluster.net().cut(victim, *other)?;
                }
                let detail = format!("from member {victim} to the others");
                Installed::yes(detail, [Role::Member(victim)])
            }
            Fault::ExecutorsFromStore => {
                let victims = self.some_executors(random);
                self.cut_between(&victims, &members(&all), "the store")
            }
            Fault::GatewayFromExecutors => {
                let victims = self.some_executors(random);
                self.cut_between(&victims, &[Role::Gateway], "the gateway")
            }
            Fault::Loss => {
                let percent = 5 + random.below(30) as u32;
                self.cluster.net().lose(percent)?;
                Installed::yes(format!("{percent}% of all packets"), members(&all))
            }
            Fault::Delay => {
                let ms = DELAYS_MS[random.below(DELAYS_MS.len() as u64) as usize];
                self.delay = Some(delay::Delay::start(self.cluster.net(), &all, ms)?);
                Installed::yes(format!("{ms} to {} ms", 2 * ms), members(&all))
            }
            Fault::Clock => self.jump(random),
            Fault::DiskFull | Fault::SlowDisk | Fault::DiskError => self.disk(fault, random).await,
            Fault::BitFlip | Fault::Truncate => self.damage(fault, random).await,
            Fault::Wipe => self.wipe(random).await,
            Fault::Membership => self.change_membership(random).await,
            Fault::AllAtOnce => self.several(random).await,
        }
    }

    fn kill(&mut self, victims: &[Role]) -> Result<Installed> {
        for role in victims {
            self.cluster.kill(*role)?;
        }
        Installed::yes(names(victims), victims.to_vec())
    }

    fn pause(&mut self, victims: &[Role]) -> Result<Installed> {
        for role in victims {
            self.cluster.pause(*role)?;
        }
        Installed::yes(names(victims), victims.to_vec())
    }

    fn cut_power(&mut self, victims: &[u32]) -> Result<Installed> {
        if !self.cluster.has_disks() {
            let why = crate::disk::obstacle();
            return Installed::skipped(why.unwrap_or_else(|| "no disks of their own".to_owned()));
        }
        for id in victims {
            self.cluster.cut_power(*id)?;
        }
        let victims = members(victims);
        Installed::yes(names(&victims), victims)
    }

    async fn rolling_restart(&mut self, all: &[u32]) -> Result<Installed> {
        for id in all {
            let role = Role::Member(*id);
            if let Err(e) = self.cluster.stop(role).await {
                let text = format!("{e:#}");
                self.shared
                    .found(Finding::new("process/slow-end", text, vec![]));
            }
            self.cluster.start(role)?;
            self.wait(ROLLING_PAUSE).await;
        }
        Installed::yes("all members, one after the other", members(all))
    }

    fn separate(&self, side: &[u32], all: &[u32]) -> Result<Installed> {
        let net = self.cluster.net();
        for a in side {
            for b in all.iter().filter(|b| !side.contains(b)) {
                net.cut(*a, *b)?;
                net.cut(*b, *a)?;
            }
        }
        let side = members(side);
        Installed::yes(format!("{} from the other members", names(&side)), side)
    }

    fn cut_between(&self, some: &[Role], others: &[Role], from: &str) -> Result<Installed> {
        let net = self.cluster.net();
        for a in some {
            for b in others {
                let (a, b) = (self.cluster.host(*a), self.cluster.host(*b));
                net.cut(a, b)?;
                net.cut(b, a)?;
            }
        }
        Installed::yes(format!("{} from {from}", names(some)), some.to_vec())
    }

    fn ring(&self, all: &[u32]) -> Result<Installed> {
        let n = all.len();
        if n < 4 {
            return Installed::skipped(
                "in a ring of three everybody sees everybody: use --members 5",
            );
        }
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                let apart = (n + i - j) % n;
                if apart > 1 && apart < n - 1 {
                    self.cluster.net().cut(*a, *b)?;
                }
            }
        }
        Installed::yes("every member sees its neighbours alone", members(all))
    }

    fn bridge(&self, all: &[u32], random: &mut Random) -> Result<Installed> {
        if all.len() < 5 {
            return Installed::skipped(
                "two halves and a bridge need five members: use --members 5",
            );
        }
        let order = pick(random, all, all.len());
        let half = (order.len() - 1) / 2;
        let (left, rest) = order.split_at(half);
        let (bridge, right) = rest.split_at(1);
        for a in left {
            for b in right {
                self.cluster.net().cut(*a, *b)?;
                self.cluster.net().cut(*b, *a)?;
            }
        }
        let detail = format!("only member {} sees both {left:?} and {right:?}", bridge[0]);
        Installed::yes(detail, members(all))
    }

    fn jump(&mut self, random: &mut Random) -> Result<Installed> {
        if !self.cluster.has_clocks() {
            return Installed::skipped("faketime is not installed");
        }
        let mut jumped = Vec::new();
        let victims = {
            let count = 1 + random.below(self.cluster.members().len() as u64) as usize;
            pick(random, &self.up_members(), count)
        };
        for id in &victims {
            let jump = JUMPS[random.below(JUMPS.len() as u64) as usize];
            self.cluster.set_clock(*id, jump)?;
            jumped.push(format!("member {id} by {jump} s"));
        }
        Installed::yes(jumped.join(", "), members(&victims))
    }

    async fn disk(&mut self, fault: Fault, random: &mut Random) -> Result<Installed> {
        let there = Command::new("strace").arg("-V").output();
        if let Err(e) = there {
            return Installed::skipped(format!("strace: {e}"));
        }
        let id = self.any_member(random);
        let role = Role::Member(id);
        let pid = self.cluster.pid(role).context("the member does not run")?;
        let (calls, inject) = match fault {
            Fault::DiskFull => ("pwrite64", "pwrite64:error=ENOSPC"),
            Fault::SlowDisk => ("fsync,fdatasync", "fsync,fdatasync:delay_exit=200000"),
            _ => ("fsync,fdatasync", "fsync,fdatasync:error=EIO"),
        };
        let deadly = fault != Fault::SlowDisk;
        if deadly {
            self.cluster.forgive(role); // It must stop by itself, with a message.
        }
        let log = self.cluster.data(id).with_extension("strace");
        let mut child = Command::new("strace")
            .args(["-f", "-qq", "-s", "0", "-p", &pid.to_string()])
            .arg("-o")
            .arg(&log)
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={inject}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Where it may not trace, it says so and ends at once.
        tokio::time::sleep(ATTACHING).await;
        if let Some(status) = child.try_wait()?
            && !self.cluster.has_ended(role)
        {
            bail!("strace ended by itself: {status}");
        }
        self.tracers.push(Tracer {
            child,
            role,
            log,
            deadly,
        });
        Installed::yes(format!("member {id}: {inject}"), [role])
    }

    /// Several faults, each of which finds its own victims among what still runs.
    async fn several(&mut self, random: &mut Random) -> Result<Installed> {
        let real = !self.cluster.executors().is_empty();
        let fitting = COMBINED
            .iter()
            .copied()
            .filter(|f| real || !f.needs_executors());
        let fitting: Vec<Fault> = fitting.collect();
        let (mut details, mut targets, mut installed) = (Vec::new(), Vec::new(), 0);
        for fault in pick(random, &fitting, AT_ONCE) {
            match Box::pin(self.install(fault, random)).await {
                Ok(Installed::Yes {
                    detail,
                    targets: struck,
                }) => {
                    details.push(format!("{}: {detail}", fault.name()));
                    targets.extend(struck);
                    installed += 1;
                }
                Ok(Installed::Skipped(why)) => {
                    details.push(format!("{} skipped: {why}", fault.name()));
                }
                // Its victim is down already, by another one of these.
                Err(e) => details.push(format!("{} failed: {e:#}", fault.name())),
            }
        }
        if installed == 0 {
            return Installed::skipped(details.join("; "));
        }
        targets.sort();
        targets.dedup();
        Installed::yes(details.join("; "), targets)
    }
}

fn names(roles: &[Role]) -> String {
    let names: Vec<String> = roles.iter().map(Role::to_string).collect();
    names.join(", ")
}
