//! The life of a process: started, killed, stopped in order, paused, restored; and how it ended, if by itself.

use super::{CLOCK_RIGHT, Cluster, Process, Role};
use crate::disk;
use crate::net;
use anyhow::{Context, Result, bail};
use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end in order.
pub const ORDERLY_END: Duration = Duration::from_secs(15);
/// Pause between two looks at whether it has ended.
const POLL: Duration = Duration::from_millis(20);

impl Cluster {
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
                self.set_clock(id, CLOCK_RIGHT)?;
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
        self.starts += 1;
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
        let process = self.running.remove(&role);
        let mut process = process.with_context(|| format!("{role} does not run"))?;
        // What has ended takes signals all the same until it is waited for: its own end must not pass for ours.
        let before = process.child.try_wait()?;
        process.child.kill()?;
        let status = process.child.wait()?;
        if before.is_some() || status.signal() != Some(libc::SIGKILL) {
            self.note_end(role, status);
        }
        Ok(())
    }

    /// Stops a member's file system without flushing, and kills the member.
    ///
    /// # Errors
    /// It does not run, or has no disk of its own.
    pub fn cut_power(&mut self, id: u32) -> Result<()> {
        let role = Role::Member(id);
        if let Some(status) = self.exit_status(role)? {
            self.note_end(role, status);
        }
        disk::cut(&self.data(id))?;
        self.dark.insert(id);
        // Its disk may fail it before it is killed.
        self.forgive(role);
        self.kill(role)
    }

    /// SIGTERM, and waits up to [`ORDERLY_END`] for an orderly end; SIGKILL then.
    ///
    /// # Errors
    /// It does not run, or did not end in time.
    pub async fn stop(&mut self, role: Role) -> Result<()> {
        if let Some(status) = self.exit_status(role)? {
            self.running.remove(&role);
            self.note_end(role, status);
            return Ok(());
        }
        self.signal(role, libc::SIGTERM)?;
        self.orderly_end(role).await
    }

    /// Waits for the end of a process that has had SIGTERM.
    async fn orderly_end(&mut self, role: Role) -> Result<()> {
        let deadline = Instant::now() + ORDERLY_END;
        while Instant::now() < deadline {
            if let Some(status) = self.exit_status(role)? {
                self.running.remove(&role);
                if !status.success() {
                    self.note_end(role, status);
                }
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        self.kill(role)?;
        bail!("{role} did not end within {ORDERLY_END:?} of SIGTERM")
    }

    fn exit_status(&mut self, role: Role) -> Result<Option<ExitStatus>> {
        let process = self.running.get_mut(&role);
        let process = process.with_context(|| format!("{role} does not run"))?;
        Ok(process.child.try_wait()?)
    }

    /// A process has ended otherwise than it was made to.
    fn note_end(&mut self, role: Role, status: ExitStatus) {
        if !self.forgiven.contains(&role) {
            self.crashed.push((role, status.to_string()));
        }
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
        let roles: Vec<Role> = self.running.keys().copied().collect();
        for role in roles {
            if let Ok(Some(status)) = self.exit_status(role) {
                self.running.remove(&role);
                self.note_end(role, status);
            }
        }
        std::mem::take(&mut self.crashed)
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
                self.set_clock(*id, CLOCK_RIGHT)?;
            }
        }
        Ok(())
    }

    /// Ends everything: in order first, so that data directories can be read, then by SIGKILL. Answers which members did
    /// not end in order.
    pub async fn shutdown(&mut self) -> Vec<String> {
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
        let mut late = Vec::new();
        for role in members {
            if let Err(e) = self.orderly_end(role).await {
                late.push(format!("{e:#}"));
            }
        }
        late
    }

    pub(super) fn kill_all(&mut self) {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Net;
    use crate::options::{Cli, Command as Asked, TestArgs};
    use clap::Parser;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// A cluster whose members are this script.
    fn cluster(dir: &Path, script: &str) -> Cluster {
        let program = dir.join("troika-store");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let Asked::Test(args) = Cli::parse_from(["troika-jepsen", "test"]).command else {
            unreachable!("asked for a test");
        };
        let args: TestArgs = args;
        Cluster::new(Net::Loopback, dir, dir, &args).unwrap()
    }

    /// A script that was just written may still be open for writing in a process that another test forks.
    async fn start(cluster: &mut Cluster, role: Role) {
        let started = Instant::now();
        while let Err(e) = cluster.start(role) {
            assert!(started.elapsed() < Duration::from_secs(60), "{e:#}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn until_ended(cluster: &mut Cluster, role: Role) {
        let started = Instant::now();
        while !cluster.has_ended(role) {
            assert!(started.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(POLL).await;
        }
    }

    #[tokio::test]
    async fn an_end_of_its_own_is_told_even_where_a_fault_came_for_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = cluster(dir.path(), "exit 7");
        let [killed, stopped, forgiven] = [1, 2, 3].map(Role::Member);
        for role in [killed, stopped, forgiven] {
            start(&mut cluster, role).await;
            until_ended(&mut cluster, role).await;
        }
        cluster.kill(killed).unwrap();
        cluster.stop(stopped).await.unwrap();
        cluster.forgive(forgiven);
        cluster.kill(forgiven).unwrap();
        let ended: Vec<Role> = cluster.ended().into_iter().map(|(role, _)| role).collect();
        assert_eq!(ended, [killed, stopped]);
        assert_eq!(cluster.ended(), []);
        assert_eq!(cluster.starts(), 3);
    }

    #[tokio::test]
    async fn an_orderly_stop_that_fails_is_told_and_a_kill_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("ready");
        let script = format!(
            "trap 'exit 5' TERM; touch {}; while :; do sleep 0.05; done",
            ready.display()
        );
        let mut cluster = cluster(dir.path(), &script);
        let [killed, stopped] = [1, 2].map(Role::Member);
        start(&mut cluster, killed).await;
        cluster.kill(killed).unwrap();
        let _ = std::fs::remove_file(&ready);
        start(&mut cluster, stopped).await;
        let started = Instant::now();
        while !ready.exists() {
            assert!(started.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(POLL).await;
        }
        cluster.stop(stopped).await.unwrap();
        let ended = cluster.ended();
        assert_eq!(ended.len(), 1, "{ended:?}");
        assert_eq!(ended[0].0, stopped);
    }
}
