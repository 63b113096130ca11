//! The members of a run: started, killed, wiped, started again on what their disks hold.

mod damage;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use troika_store::db::crash::CrashDisk;
use troika_store::raft::{Deps, Handle, Member, MemberConfig, Role, StartError, Stopped};
use troika_store::runtime::Runtime;

use super::disk::SimFiles;
use super::network::{SimNetwork, address};
use super::process::{Process, within};
use super::world::{Crash, Moment, SimClock, World, lock};

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Killed: what was written is there.
    Kill,
    /// Its power goes: what was not synced may be lost or torn.
    PowerCut,
}

/// A member.
struct Slot {
    disk: CrashDisk,
    clock: Arc<SimClock>,
    process: Arc<Process>,
    handle: Option<Handle>,
    /// Faults of its disk are under way: it may stop by itself.
    excused: bool,
    /// It was wiped, or does not start any more: it is not meant to run again.
    gone: bool,
    /// It has lost its data: it must be refused.
    wiped: bool,
    /// Bits of its files have flipped: it may fail at any time, in words of its own.
    rotten: bool,
    /// What was on its disk when it was wiped or bits flipped.
    lost: Option<CrashDisk>,
}

/// All members. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    world: Arc<World>,
    slots: Arc<Mutex<BTreeMap<u64, Slot>>>,
    processes: Arc<Mutex<u64>>,
    founders: u64,
    /// A member is being replaced.
    pub replacing: Arc<AtomicBool>,
}

impl Cluster {
    /// A cluster of which nobody runs yet.
    pub fn new(world: Arc<World>) -> Self {
        Self {
            founders: world.plan.members,
            world,
            slots: Arc::default(),
            processes: Arc::default(),
            replacing: Arc::default(),
        }
    }

    /// Starts all founders.
    pub fn found(&self) {
        for id in 1..=self.founders {
            self.create(id);
        }
    }

    fn new_disk(&self) -> CrashDisk {
        let world = self.world.clone();
        CrashDisk::new().timed(move || world.elapsed())
    }

    /// A new member with an empty disk, started.
    pub fn create(&self, id: u64) {
        let slot = Slot {
            disk: self.new_disk(),
            clock: SimClock::new(self.world.clone()),
            process: self.world.own.clone(),
            handle: None,
            excused: false,
            gone: false,
            wiped: false,
            rotten: false,
            lost: None,
        };
        lock(&self.slots).insert(id, slot);
        self.start(id);
        if self.world.fault(300_000) {
            // The power goes while the directory is being made, or soon after.
            let cluster = self.clone();
            Runtime::spawn(async move {
                let after = cluster.world.random().millis(0, 150);
                Runtime::sleep(after).await;
                cluster.crash(id, Death::PowerCut);
                cluster.start_after(id, Duration::from_millis(50));
            });
        }
    }

    /// Members that are meant to run, ascending.
    pub fn ids(&self) -> Vec<u64> {
        let slots = lock(&self.slots);
        slots
            .iter()
            .filter(|(_, slot)| !slot.gone)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Members that run.
    pub fn running(&self) -> Vec<(u64, Handle)> {
        let slots = lock(&self.slots);
        let running = slots
            .iter()
            .filter(|(_, slot)| slot.process.is_alive() && !slot.gone);
        running
            .filter_map(|(id, slot)| Some((*id, slot.handle.clone()?)))
            .collect()
    }

    /// A running member, drawn.
    pub fn any(&self) -> Option<(u64, Handle)> {
        let running = self.running();
        self.world.random().pick(&running).cloned()
    }

    /// A member that is meant to run, drawn.
    pub fn any_id(&self) -> u64 {
        let ids = self.ids();
        self.world.random().pick(&ids).copied().unwrap_or(1)
    }

    /// The leader, if a running member believes to be it.
    pub fn leader(&self) -> Option<u64> {
        let running = self.running();
        running
            .iter()
            .find(|(_, handle)| handle.status().role == Role::Leader)
            .map(|(id, _)| *id)
    }

    /// The process of a member.
    pub fn process(&self, id: u64) -> Option<Arc<Process>> {
        Some(lock(&self.slots).get(&id)?.process.clone())
    }

    /// The disk of a member.
    pub fn disk(&self, id: u64) -> Option<CrashDisk> {
        Some(lock(&self.slots).get(&id)?.disk.clone())
    }

    /// What is on the disk of every member there ever was, and beside it what was there when it was lost, as after a power cut now.
    pub fn disks(&self) -> Vec<(CrashDisk, Option<CrashDisk>)> {
        let slots = lock(&self.slots);
        let disks = slots.values();
        disks
            .map(|slot| (slot.disk.synced(), slot.lost.clone()))
            .collect()
    }

    /// The clock of a member.
    pub fn clock(&self, id: u64) -> Option<Arc<SimClock>> {
        Some(lock(&self.slots).get(&id)?.clock.clone())
    }

    /// True if a process of the member runs.
    pub fn is_up(&self, id: u64) -> bool {
        let process = self.process(id);
        process.is_some_and(|process| process.member == id && process.is_alive())
    }

    /// Its disk is about to fail, so it may stop by itself.
    pub fn excuse(&self, id: u64) {
        if let Some(slot) = lock(&self.slots).get_mut(&id) {
            slot.excused = true;
        }
    }

    /// Runs an async call in a member's process, as its server would: it dies with the process.
    pub async fn on<T, F>(&self, id: u64, call: F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let process = self.process(id)?;
        if !process.is_alive() {
            return None;
        }
        let task = within(&process, || Runtime::spawn(call));
        task.await.ok()
    }

    fn config(&self, id: u64) -> MemberConfig {
        let plan = &self.world.plan;
        let mut config = MemberConfig::new(id, address(id), format!("client-{id}:1"));
        config.members = (1..=self.founders).map(|id| (id, address(id))).collect();
        config.join = id > self.founders;
        config.heartbeat = plan.heartbeat;
        config.election = plan.heartbeat * 15;
        config.log_keep_bytes = plan.log_keep_bytes;
        config.queue_bytes = plan.queue_bytes;
        config.entries_in_flight = plan.entries_in_flight;
        config.reserve_bytes = 1 << 20;
        config
    }

    /// Starts a member on its disk, unless it runs.
    pub fn start(&self, id: u64) {
        let (disk, clock, process) = {
            let mut slots = lock(&self.slots);
            let Some(slot) = slots.get_mut(&id) else {
                return;
            };
            if slot.process.member == id && slot.process.is_alive() {
                return;
            }
            let number = {
                let mut processes = lock(&self.processes);
                *processes += 1;
                *processes
            };
            let random = self.world.random().fork();
            let plan = &self.world.plan;
            let mutant = plan.mutant_of(id);
            slot.process = Process::new(id, number, plan.late_per_million, random, mutant);
            slot.handle = None;
            slot.excused = false;
            (slot.disk.clone(), slot.clock.clone(), slot.process.clone())
        };
        self.world.count("starts");
        self.world.tell(|| format!("member {id}: starts"));
        let deps = Deps {
            config: self.config(id),
            files: Arc::new(SimFiles::new(disk, self.world.clone(), process.clone())),
            clock,
            network: SimNetwork::new(self.world.clone(), process.clone()),
            observer: Some(self.observer(process.clone())),
        };
        let cluster = self.clone();
        within(&process.clone(), || {
            Runtime::spawn(cluster.live(process, deps))
        });
    }

    fn observer(&self, process: Arc<Process>) -> troika_store::raft::shared::Observer {
        let world = self.world.clone();
        let who = format!("member {}", process.member);
        let wiped = self.is_wiped(process.member);
        Arc::new(move |index, hash| {
            if !process.is_alive() {
                return;
            }
            let short = u64::from_le_bytes(hash.to_bytes()[..8].try_into().expect("8 of 32 bytes"));
            world.note(&[5, process.number, index, short], || {
                format!("{who}: applies {index}, state {short:016x}")
            });
            if wiped {
                world.violate(format!(
                    "{who} takes part again under its old id, after losing its data"
                ));
            }
            world.check(|oracle| oracle.applied(&who, index, hash));
            world.strike_now(&process, Moment::Applied);
        })
    }

    /// The life of one process, in that process.
    async fn live(self, process: Arc<Process>, deps: Deps) {
        let id = process.member;
        let handle = match Member::start(deps).await {
            Ok(handle) => handle,
            Err(error) => return self.failed_to_start(&process, &error),
        };
        let door = (process.clone(), handle.door());
        lock(&self.world.doors).insert(address(id), door);
        if let Some(slot) = lock(&self.slots).get_mut(&id)
            && slot.process.number == process.number
        {
            slot.handle = Some(handle.clone());
        }
        let stopped = handle.stopped().await;
        drop(handle);
        self.ended(&process, &stopped);
    }

    fn is_wiped(&self, id: u64) -> bool {
        lock(&self.slots).get(&id).is_some_and(|slot| slot.wiped)
    }

    fn excused(&self, id: u64) -> bool {
        lock(&self.slots).get(&id).is_none_or(|slot| slot.excused)
    }

    fn failed_to_start(&self, process: &Process, error: &StartError) {
        let id = process.member;
        self.world
            .tell(|| format!("member {id}: does not start: {error}"));
        if self.is_rotten(id) {
            self.world.count("members that named their damage");
            self.give_up(process);
        } else if self.excused(id) || process.cut.load(Ordering::Relaxed) {
            self.world.power_gone(id, process.number);
        } else {
            self.world
                .violate(format!("member {id} does not start: {error}"));
        }
    }

    fn ended(&self, process: &Process, stopped: &Stopped) {
        let id = process.member;
        self.world
            .tell(|| format!("member {id}: has ended: {stopped}"));
        let wiped = self.is_wiped(id);
        if self.is_rotten(id) && !matches!(stopped, Stopped::Wiped { .. }) {
            if matches!(stopped, Stopped::Failed(_)) {
                self.world.count("members that named their damage");
            }
            return self.give_up(process);
        }
        let expected = match stopped {
            Stopped::Wiped { .. } | Stopped::Removed(_) => wiped,
            Stopped::Failed(_) => self.excused(id) || process.cut.load(Ordering::Relaxed),
            Stopped::Requested | Stopped::NotAMember(_) => false,
        };
        if !expected {
            return self
                .world
                .violate(format!("member {id} has ended by itself: {stopped}"));
        }
        if wiped {
            process.stop();
        } else {
            self.world.power_gone(id, process.number);
        }
    }

    /// Bits of a member's files have flipped.
    pub fn is_rotten(&self, id: u64) -> bool {
        lock(&self.slots).get(&id).is_some_and(|slot| slot.rotten)
    }

    /// A member with damaged files has ended, and is not started again.
    fn give_up(&self, process: &Process) {
        process.stop();
        if let Some(slot) = lock(&self.slots).get_mut(&process.member) {
            slot.gone = true;
            slot.handle = None;
        }
    }

    /// Ends a member's process.
    pub fn crash(&self, id: u64, death: Death) {
        let Some((process, disk)) = ({
            let mut slots = lock(&self.slots);
            slots.get_mut(&id).map(|slot| {
                slot.handle = None;
                (slot.process.clone(), slot.disk.clone())
            })
        }) else {
            return;
        };
        if process.member != id {
            return;
        }
        self.world.tell(|| format!("member {id}: {death:?}"));
        process.kill();
        let mut doors = lock(&self.world.doors);
        let own = doors
            .get(&address(id))
            .is_some_and(|(at, _)| at.number == process.number);
        let door = if own {
            doors.remove(&address(id))
        } else {
            None
        };
        drop(doors);
        match death {
            Death::Kill => disk.kill(),
            Death::PowerCut => disk.power_cut(self.world.random().draw()),
        }
        drop(door);
    }

    /// Buries processes that lost their power in the middle of something, and starts their members again soon.
    pub async fn bury(self, mut crashes: mpsc::UnboundedReceiver<Crash>) {
        while let Some(crash) = crashes.recv().await {
            let current = self
                .process(crash.member)
                .is_some_and(|process| process.number == crash.process);
            if !current {
                continue;
            }
            let death = match self.world.random().chance(250_000) {
                true => Death::Kill,
                false => Death::PowerCut,
            };
            self.crash(crash.member, death);
            let after = self.world.random().millis(0, 300);
            self.start_after(crash.member, after);
        }
    }

    /// Starts a member again after a while.
    pub fn start_after(&self, id: u64, after: Duration) {
        let cluster = self.clone();
        Runtime::spawn(async move {
            Runtime::sleep(after).await;
            if cluster.ids().contains(&id) {
                cluster.start(id);
            }
        });
    }

    /// The highest id that was ever used.
    pub fn highest_id(&self) -> u64 {
        lock(&self.slots).keys().copied().max().unwrap_or(0)
    }

    /// A member that was replaced is gone for good.
    pub fn forget(&self, id: u64) {
        if let Some(slot) = lock(&self.slots).get_mut(&id) {
            slot.gone = true;
        }
        self.crash(id, Death::Kill);
    }

    /// All processes go on, all disks work, who is down is started.
    pub fn mend(&self) {
        for id in self.ids() {
            if self.excused(id) && !self.is_rotten(id) {
                self.crash(id, Death::Kill);
            }
            if let Some(disk) = self.disk(id) {
                disk.set_free_bytes(u64::MAX);
                disk.cut_after(u64::MAX / 2);
            }
            if let Some(process) = self.process(id) {
                process.resume();
            }
            self.start(id);
        }
    }

    /// Ends every process; nothing of the run goes on.
    pub fn close(&self) {
        let all: Vec<u64> = lock(&self.slots).keys().copied().collect();
        for id in all {
            self.crash(id, Death::Kill);
        }
        lock(&self.slots).clear();
    }
}
