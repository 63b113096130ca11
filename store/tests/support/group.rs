//! Real processes on real disks: members that a test starts, stops, kills and talks to with `troikactl`.

#![allow(
    clippy::disallowed_methods,
    reason = "watches processes from outside: no simulation runs it"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

/// No test waits longer for anything of a group.
pub const LONG: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(30);

/// Ports that were free a moment ago.
pub fn ports(count: usize) -> Vec<u16> {
    // All are held until all are known, so that none is given twice.
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let ports = listeners.iter().map(|l| l.local_addr().unwrap().port());
    ports.collect()
}

/// How a command of `troikactl` ended, and what it said.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails the test unless the exit code is this one.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// A member as a process.
pub struct Process {
    pub id: u64,
    pub client_port: u16,
    pub peer_port: u16,
    /// Where it serves clients, if not on loopback.
    pub listen: Option<String>,
    /// Arguments beyond those that every member has.
    pub extra: Vec<String>,
    /// Longest file that it may write.
    pub file_limit_kib: Option<u64>,
    /// Environment beyond the test's own.
    pub environment: Vec<(String, String)>,
    pub data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// What it has logged, over all its lives.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and its exit code at its end.
    pub fn stop(&mut self) -> i32 {
        self.signal("-TERM");
        self.ended()
    }

    /// It stands still, with all its connections.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// It goes on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert_eq!(run(Command::new("kill").args([signal, &pid])).code, 0);
    }

    /// Waits for its end and gives the exit code.
    pub fn ended(&mut self) -> i32 {
        let mut child = self.child.take().expect("it runs");
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("member {} does not end:\n{}", self.id, self.logged());
            }
            std::thread::sleep(POLL);
        }
    }

    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

/// Members that belong together, and their folder. They die with it.
pub struct Group {
    pub members: Vec<Process>,
    /// Certificates, if the group speaks TLS.
    pub certificates: Option<PathBuf>,
    formed_by: String,
    folder: tempfile::TempDir,
}

impl Drop for Group {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in &self.members {
                let log = member.logged();
                let tail: Vec<_> = log.lines().rev().take(12).collect();
                let tail: Vec<_> = tail.into_iter().rev().collect();
                eprintln!("== member {}\n{}", member.id, tail.join("\n"));
            }
        }
        self.members.iter_mut().for_each(Process::kill);
    }
}

impl Group {
    /// Members 1 to `count`, not started.
    pub fn new(count: u64) -> Self {
        let mut group = Self {
            members: Vec::new(),
            certificates: None,
            formed_by: String::new(),
            folder: tempfile::tempdir().unwrap(),
        };
        for id in 1..=count {
            group.add(id);
        }
        let named = group.members.iter();
        let named = named.map(|member| format!("{}=127.0.0.1:{}", member.id, member.peer_port));
        group.formed_by = named.collect::<Vec<_>>().join(",");
        group
    }

    /// The same, started.
    pub fn start(count: u64) -> Self {
        let mut group = Self::new(count);
        group.start_all();
        group
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another member, not started; its place in `members`.
    pub fn add(&mut self, id: u64) -> usize {
        let ports = ports(2);
        self.members.push(Process {
            id,
            client_port: ports[0],
            peer_port: ports[1],
            listen: None,
            extra: Vec::new(),
            file_limit_kib: None,
            environment: Vec::new(),
            data: self.folder().join(format!("m{id}")),
            log: self.folder().join(format!("m{id}.log")),
            child: None,
        });
        self.members.len() - 1
    }

    pub fn start_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.start_member(member));
    }

    /// Starts a member on its directory.
    pub fn start_member(&mut self, member: usize) {
        let mut command = self.command(member);
        self.members[member].child = Some(command.spawn().unwrap());
    }

    fn command(&self, member: usize) -> Command {
        let process = &self.members[member];
        let log = File::options().create(true).append(true).open(&process.log);
        let program = env!("CARGO_BIN_EXE_troika-store");
        let mut command = match process.file_limit_kib {
            None => Command::new(program),
            Some(kib) => {
                // Without the signal a write that is too long is an error, as on a full disk.
                let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2);
                let mut shell = Command::new("sh");
                shell.args(["-c", &script, program]);
                shell
            }
        };
        let local = |port| format!("127.0.0.1:{port}");
        command
            .args(["serve", "--id", &process.id.to_string()])
            .arg("--listen")
            .arg(
                process
                    .listen
                    .clone()
                    .unwrap_or_else(|| local(process.client_port)),
            )
            .args(["--peer-listen", &local(process.peer_port)])
            .args(["--heartbeat-ms", "100", "--election-ms", "1500"])
            .arg("--data")
            .arg(&process.data)
            .args(&process.extra)
            .envs(process.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap());
        let named = self
            .formed_by
            .split(',')
            .any(|named| named.split_once('=').map(|(id, _)| id) == Some(&process.id.to_string()));
        if !process.extra.iter().any(|flag| flag == "--reserve-bytes") {
            command.args(["--reserve-bytes", "0"]);
        }
        match named {
            true => command.args(["--members", &self.formed_by]),
            false => command.arg("--join"),
        };
        if let Some(folder) = &self.certificates {
            let file = |ending: &str| folder.join(format!("member-{}.{ending}", process.id));
            command
                .arg("--cacert")
                .arg(folder.join("ca.pem"))
                .arg("--cert")
                .arg(file("pem"))
                .arg("--key")
                .arg(file("key"));
        }
        command
    }

    pub fn url(&self, member: usize) -> String {
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://127.0.0.1:{}", self.members[member].client_port)
    }

    pub fn urls(&self) -> String {
        let urls = (0..self.members.len()).map(|member| self.url(member));
        urls.collect::<Vec<_>>().join(",")
    }

    /// `troikactl -o json ARGUMENTS` on all members, as this role if the group speaks TLS.
    pub fn ctl_as(&self, role: &str, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_troikactl"));
        command
            .args([
                "-o",
                "json",
                "--timeout",
                "30s",
                "--endpoints",
                &self.urls(),
            ])
            .args(arguments);
        if let Some(folder) = &self.certificates {
            command.arg("--cacert").arg(folder.join("ca.pem"));
            if !role.is_empty() {
                command
                    .arg("--cert")
                    .arg(folder.join(format!("{role}.pem")))
                    .arg("--key")
                    .arg(folder.join(format!("{role}.key")));
            }
        }
        run(&mut command)
    }

    /// The same as the admin.
    pub fn ctl(&self, arguments: &[&str]) -> Ran {
        self.ctl_as("admin", arguments)
    }

    /// Waits until all members that run are ready.
    pub fn ready(&mut self) {
        let deadline = Instant::now() + LONG;
        loop {
            let running = (0..self.members.len()).filter(|i| self.members[*i].is_running());
            let urls: Vec<_> = running
                .collect::<Vec<_>>()
                .iter()
                .map(|i| self.url(*i))
                .collect();
            let health = self.ctl(&["health", "--endpoints", &urls.join(",")]);
            if health.code == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "not ready: {health:?}");
            std::thread::sleep(POLL);
        }
    }

    /// Place of the member that leads.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + LONG;
        loop {
            let rows = self.ctl(&["status"]).json();
            let leads = |row: &&Value| row["role"] == "leader";
            if let Some(row) = rows.as_array().unwrap().iter().find(leads) {
                let id = row["id"].as_u64().unwrap();
                return self.members.iter().position(|m| m.id == id).unwrap();
            }
            assert!(Instant::now() < deadline, "nobody leads: {rows}");
            std::thread::sleep(POLL);
        }
    }

    /// A genesis file whose rounds may be sealed at once.
    pub fn genesis(&self) -> PathBuf {
        let path = self.folder().join("genesis.json");
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/genesis.json");
        let mut genesis: Value = serde_json::from_slice(&std::fs::read(example).unwrap()).unwrap();
        genesis["config"]["propose_after_ms"] = 0.into();
        genesis["config"]["seal_after_ms"] = 0.into();
        std::fs::write(&path, genesis.to_string()).unwrap();
        path
    }

    /// A connection that is made when it is first used, in plain text.
    pub fn channel(&self, member: usize) -> Channel {
        Endpoint::from_shared(self.url(member))
            .unwrap()
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_secs(5))
            .connect_lazy()
    }
}

/// Waits for something, and fails the test with its name after [`LONG`].
pub fn wait<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long for: {what}");
        std::thread::sleep(POLL);
    }
}

/// What a member serves over HTTP.
pub fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
