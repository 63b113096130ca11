//! Hosts of their own for members and executors: network namespaces on a bridge, made inside a namespace of the run's own.
//!
//! The whole run happens in a private user, network, mount and process namespace ([`enter`]): when it ends, however it
//! ends, processes, interfaces, rules and mounts go with it. Where the machine does not allow that, everything runs on
//! loopback and the faults that need a network of our own are skipped, with the reason.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// Set for the inner process.
const INSIDE: &str = "TROIKA_JEPSEN_INSIDE";

/// How the processes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    /// Everything on 127.0.0.1, told apart by port.
    Loopback,
    /// Host `n` is 10.77.0.n in a namespace of its own.
    Namespaces,
}

/// True in the inner process.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Names this run: in the environment of every process that it starts, and in the paths of its disks.
pub fn token() -> String {
    std::env::var(INSIDE).unwrap_or_else(|_| format!("troika-jepsen-{}", std::process::id()))
}

/// Marks a process as one of this run's.
pub fn mark(command: &mut Command, token: &str) {
    command.env(INSIDE, token);
}

/// Arguments of `unshare` for this user.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    // Root needs no user namespace, and without one loop mounts keep working.
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args([
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
    ]);
    command
}

/// True for uid 0.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|s| {
        s.lines()
            .any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
    })
}

/// Why namespaces cannot be had here, if they cannot.
pub fn obstacle() -> Option<String> {
    let script = "mount -t tmpfs none /run && ip link add troika-try type bridge && nft list ruleset >/dev/null";
    let tried = unshare()
        .args(["sh", "-c", script])
        .stdout(Stdio::null())
        .output();
    match tried {
        Ok(out) if out.status.success() => None,
        Ok(out) => Some(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
        Err(e) => Some(format!("unshare: {e}")),
    }
}

/// Runs this program again inside namespaces of its own, with the same arguments, and returns its exit code.
///
/// Ctrl-C and SIGTERM reach the inner program, which heals, checks and ends by itself; SIGKILL to this one ends it too.
///
/// # Errors
/// The program cannot be started.
pub fn enter() -> Result<i32> {
    let program = std::env::current_exe()?;
    let mut command = unshare();
    command.arg(program).args(std::env::args_os().skip(1));
    mark(&mut command, &token());
    dies_with_us(&mut command);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut child = command.spawn().context("unshare")?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code().unwrap_or(3));
            }
            tokio::select! {
                biased;
                _ = interrupt.recv() => interrupt_children(child.id()),
                _ = terminate.recv() => interrupt_children(child.id()),
                () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
            }
        }
    })
}

/// SIGKILL for the process when the one that started it ends, however it ends.
pub fn dies_with_us(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl(2) is async-signal-safe and touches no memory of ours.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// SIGINT to the children of a process.
fn interrupt_children(parent: u32) {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    for pid in children.unwrap_or_default().split_whitespace() {
        if let Ok(pid) = pid.parse::<libc::pid_t>() {
            // SAFETY: kill(2) touches no memory.
            #[allow(unsafe_code)]
            unsafe {
                libc::kill(pid, libc::SIGINT);
            }
        }
    }
}

/// What a run left behind on this machine: processes, mounts, loop devices. Empty when all is well. Call when it has ended.
pub fn leaks(token: &str) -> Vec<String> {
    let mut leaks = Vec::new();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for line in mounts.lines().filter(|line| line.contains(token)) {
        leaks.push(format!("mount: {line}"));
    }
    for device in entries("/sys/block") {
        let backing = std::fs::read_to_string(device.join("loop/backing_file"));
        if let Ok(file) = backing
            && file.contains(token)
        {
            leaks.push(format!(
                "loop device: {} on {}",
                device.display(),
                file.trim()
            ));
        }
    }
    let own = std::process::id().to_string();
    for process in entries("/proc") {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        let mark = format!("{INSIDE}={token}");
        let marked = environment.split(|b| *b == 0).any(|v| v == mark.as_bytes());
        if marked && !process.ends_with(&own) {
            let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            leaks.push(format!("process {}: {line}", process.display()));
        }
    }
    leaks
}

fn entries(path: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|e| e.path()).collect()
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let out = Command::new(program)
        .args(args)
        .output()
        .with_context(|| program.to_owned())?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("{program} {}: {}", args.join(" "), said.trim());
    }
    Ok(())
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn ip(line: &str) -> Result<()> {
    run("ip", &words(line))
}

fn nft(rules: &str) -> Result<()> {
    run("nft", &[rules])
}

impl Net {
    /// Makes the bridge and `hosts`. Call inside [`enter`]'s namespaces.
    ///
    /// # Errors
    /// A command failed; nothing needs to be undone.
    pub fn build(hosts: &[u32]) -> Result<Self> {
        run("mount", &["-t", "tmpfs", "none", "/run"])?;
        ip("link set lo up")?;
        ip("link add br0 type bridge")?;
        ip("addr add 10.77.0.254/24 dev br0")?;
        ip("link set br0 up")?;
        for n in hosts {
            ip(&format!("netns add h{n}"))?;
            ip(&format!(
                "link add v{n} type veth peer name eth0 netns h{n}"
            ))?;
            ip(&format!("link set v{n} master br0"))?;
            ip(&format!("link set v{n} up"))?;
            ip(&format!("-n h{n} addr add 10.77.0.{n}/24 dev eth0"))?;
            ip(&format!("-n h{n} link set eth0 up"))?;
            ip(&format!("-n h{n} link set lo up"))?;
        }
        nft("add table bridge troika")?;
        nft("add set bridge troika cut { type ipv4_addr . ipv4_addr; }")?;
        nft("add chain bridge troika forward { type filter hook forward priority 0; }")?;
        nft("add rule bridge troika forward ether type ip ip saddr . ip daddr @cut counter drop")?;
        nft("add chain bridge troika lossy { type filter hook forward priority 1; }")?;
        Ok(Self::Namespaces)
    }

    /// Address of host `n`.
    pub fn host(self, n: u32) -> String {
        match self {
            Self::Loopback => "127.0.0.1".to_owned(),
            Self::Namespaces => format!("10.77.0.{n}"),
        }
    }

    /// A command that runs `program` on host `n`.
    pub fn command(self, n: u32, program: &std::path::Path) -> Command {
        match self {
            Self::Loopback => Command::new(program),
            Self::Namespaces => {
                // Not `ip netns exec`: that would give every process a copy of all mounts, which then outlive us.
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net=/run/netns/h{n}"))
                    .arg("--")
                    .arg(program);
                command
            }
        }
    }

    /// Drops everything from host `a` to host `b`.
    ///
    /// # Errors
    /// nft failed.
    pub fn cut(self, a: u32, b: u32) -> Result<()> {
        let pair = format!("{} . {}", self.host(a), self.host(b));
        nft(&format!("add element bridge troika cut {{ {pair} }}"))
    }

    /// Loses `percent` of all packets between hosts.
    ///
    /// # Errors
    /// nft failed.
    pub fn lose(self, percent: u32) -> Result<()> {
        nft(&format!(
            "add rule bridge troika lossy ether type ip numgen random mod 100 < {percent} counter drop"
        ))
    }

    /// Packets that cuts and losses have dropped so far; those of losses only until they are lifted.
    ///
    /// # Errors
    /// nft failed.
    pub fn dropped(self) -> Result<u64> {
        if self != Self::Namespaces {
            return Ok(0);
        }
        let out = Command::new("nft")
            .args(["list", "table", "bridge", "troika"])
            .output()
            .context("nft")?;
        Ok(packets(&String::from_utf8_lossy(&out.stdout)))
    }

    /// Lifts all cuts and losses.
    ///
    /// # Errors
    /// nft failed.
    pub fn heal(self) -> Result<()> {
        if self == Self::Namespaces {
            nft("flush set bridge troika cut")?;
            nft("flush chain bridge troika lossy")?;
        }
        Ok(())
    }
}

/// The sum of all packet counters of a rule set.
fn packets(rules: &str) -> u64 {
    let counted = rules.split("counter packets ").skip(1);
    let numbers = counted.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    numbers.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_counters_of_all_rules_add_up() {
        let rules = "chain forward { ether type ip ip saddr . ip daddr @cut counter packets 12 bytes 900 drop }\n\
                     chain lossy { numgen random mod 100 < 20 counter packets 30 bytes 1 drop }";
        assert_eq!(packets(rules), 42);
        assert_eq!(packets("table bridge troika { }"), 0);
    }
}
