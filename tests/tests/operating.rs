//! `docs/operating.md`, run as it stands: every shell block, from top to bottom, in one shell that stops at the first
//! command that fails.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use troika_tests::processes::binary;

const PAGE: &str = include_str!("../../docs/operating.md");
/// Longest that all of it may take.
const LIMIT: Duration = Duration::from_secs(300);

/// The page's shell blocks, one after the other.
fn script(page: &str) -> String {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            // What is tested is built already, and stands elsewhere.
            _ if inside && line.starts_with("cargo build") => {}
            _ if inside && line.starts_with("export PATH=") => {}
            _ if inside => lines.push(line),
            _ => {}
        }
    }
    lines.join("\n")
}

/// The page's ports are four digits. A test may not rely on them being free: each gets one of its own below the ephemeral
/// ones. The last digit is often a variable of the shell, so that the first three are what is replaced.
fn with_free_ports(script: &str) -> String {
    let base = 20 + std::process::id() % 10;
    let mut script = script.replace("127.0.0.1:8545", &format!("127.0.0.1:{base}545"));
    for (place, prefix) in ["700", "710", "720", "910"].iter().enumerate() {
        let own = format!("127.0.0.1:{base}6{place}");
        script = script.replace(&format!("127.0.0.1:{prefix}"), &own);
    }
    script
}

#[test]
fn every_step_of_the_page_works_as_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = binary("troika-store");
    for name in ["troikactl", "troika-node"] {
        binary(name);
    }
    let programs = store.parent().expect("a folder").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    // Whatever happens, nothing is left running.
    let guard = "trap 'for f in *.pid; do kill -9 $(cat $f) 2>/dev/null || :; done' EXIT; trap 'exit 1' TERM";
    let script = with_free_ports(&script(PAGE));
    assert!(
        script.contains("troika-store restore"),
        "the page has its steps: {script}"
    );
    let (start, rest) = script.split_once('\n').expect("several lines");
    assert!(
        start.contains("cd cluster"),
        "all of it stays in one folder: {start}"
    );
    let script = format!("set -eux\n{start}\n{guard}\n{rest}\n");
    let (code, said) = run(&script, folder.path(), &format!("{programs}:{path}"));
    assert_eq!(code, Some(0), "{said}");
    // The member that was wiped was told what to do, and the last two commands gave a state hash each.
    assert!(said.contains("troikactl member remove 3"), "{said}");
    assert_eq!(said.matches("state hash").count(), 2, "{said}");
}

fn run(script: &str, folder: &Path, path: &str) -> (Option<i32>, String) {
    let log = folder.join("said");
    let file = std::fs::File::create(&log).expect("a file");
    let mut shell = Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .env("PATH", path)
        .env("TROIKA_TIMEOUT", "60s")
        .env_remove("TROIKA_ENDPOINTS")
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a file"))
        .stderr(file)
        .spawn()
        .expect("a shell");
    let deadline = Instant::now() + LIMIT;
    let code = loop {
        if let Some(status) = shell.try_wait().expect("a status") {
            break status.code();
        }
        if Instant::now() > deadline {
            // SIGTERM, so that its trap runs.
            let pid = shell.id().to_string();
            let _ = Command::new("kill").arg(&pid).status();
            let _ = shell.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let mut said = std::fs::read_to_string(&log).unwrap_or_default();
    if code != Some(0) {
        for entry in std::fs::read_dir(folder.join("cluster"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry
                .path()
                .extension()
                .is_some_and(|ending| ending == "log")
            {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let tail: Vec<_> = text.lines().rev().take(8).collect();
                let tail: Vec<_> = tail.into_iter().rev().collect();
                said += &format!("\n== {}\n{}", entry.path().display(), tail.join("\n"));
            }
        }
    }
    (code, said)
}
