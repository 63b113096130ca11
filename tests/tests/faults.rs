//! The fault suite as a program: a run that is interrupted is judged all the same, and nothing of a run outlives it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use troika_jepsen::net;
use troika_tests::processes::binary;

/// Longest wait for anything here: the processes under test share the machine with all other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts a long run, and waits until its processes are there.
fn start(out: &Path) -> (Child, String) {
    let store = binary("troika-store");
    let child = Command::new(binary("troika-jepsen"))
        .args([
            "test",
            "--workload",
            "race",
            "--nemesis",
            "pause,kill",
            "--time-limit",
            "600s",
            "--seed",
            "1",
        ])
        .arg("--out")
        .arg(out)
        .arg("--bin")
        .arg(store.parent().expect("a binary is in a folder"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let token = format!("troika-jepsen-{}", child.id());
    // Three members, seen from outside: proof that what is looked for below would be seen.
    until("three members run", || {
        let members = net::leaks(&token)
            .into_iter()
            .filter(|l| l.contains("member-"));
        members.count() >= 3
    });
    (child, token)
}

fn until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn signal(child: &Child, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(sent.expect("kill starts").success());
}

#[test]
fn an_interrupted_run_is_judged_and_leaves_nothing() {
    let out = tempfile::tempdir().expect("a folder");
    let (mut child, token) = start(out.path());
    // Long enough for the load to have begun.
    let history = |dir: &Path| find(dir, "history.jsonl");
    until("a history is written", || {
        history(out.path())
            .is_some_and(|path| std::fs::metadata(path).is_ok_and(|m| m.len() > 50_000))
    });
    signal(&child, "-INT");
    let code = child.wait().expect("ends").code();
    let results = find(out.path(), "results.json").expect("results are written");
    let results = std::fs::read_to_string(results).expect("readable");
    // Valid, or too short to have tested all it was asked for.
    assert!(matches!(code, Some(0 | 2)), "{code:?}: {results}");
    assert!(find(out.path(), "report.html").is_some());
    assert_eq!(net::leaks(&token), Vec::<String>::new());
}

#[test]
fn a_killed_run_leaves_nothing() {
    let out = tempfile::tempdir().expect("a folder");
    let (mut child, token) = start(out.path());
    signal(&child, "-KILL");
    child.wait().expect("ends");
    until("everything has ended", || net::leaks(&token).is_empty());
}

/// The file of that name two folders below.
fn find(dir: &Path, name: &str) -> Option<std::path::PathBuf> {
    let tests = std::fs::read_dir(dir).ok()?.flatten();
    let runs = tests.flat_map(|test| {
        std::fs::read_dir(test.path())
            .into_iter()
            .flatten()
            .flatten()
    });
    runs.map(|run| run.path().join(name))
        .find(|path| path.exists())
}
