//! What processes logged that they must not log: panics, and errors that no fault explains.

use crate::checker::Finding;
use crate::cluster::Cluster;
use std::collections::BTreeMap;
use std::path::Path;

/// Most lines of one kind that are shown.
const SHOWN: usize = 3;

/// Findings in all logs of a run. `cluster` knows which members' disks failed or were damaged: those speak of errors.
pub fn check(dir: &Path, cluster: &Cluster) -> Vec<Finding> {
    let mut findings = Vec::new();
    let files = std::fs::read_dir(dir.join("logs"))
        .into_iter()
        .flatten()
        .flatten();
    let mut files: Vec<_> = files.map(|f| f.path()).collect();
    files.sort();
    for file in files {
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let quiet = cluster.is_quiet(&name);
        findings.extend(
            alarming(&text, quiet)
                .into_iter()
                .map(|(rule, text)| Finding::new(rule, format!("{name}: {text}"), vec![])),
        );
    }
    findings
}

/// Alarming lines of one log, each kind once.
fn alarming(text: &str, quiet: bool) -> Vec<(&'static str, String)> {
    let mut kinds: BTreeMap<(&'static str, String), (usize, Vec<String>)> = BTreeMap::new();
    for line in text.lines() {
        let line = plain(line);
        // openraft logs an error for every message that comes while a member stops.
        // redb panics on some damaged pages; the store catches that where it opens files, and names the damage.
        let known = !quiet && line.contains("/redb-");
        let rule = if line.contains("panicked at") && !known {
            "process/panic"
        } else if quiet && line.contains(" ERROR ") && !line.contains("raft stopped") {
            "process/error"
        } else {
            continue;
        };
        let kind: String = line
            .chars()
            .skip_while(|c| *c != ' ')
            .filter(|c| !c.is_ascii_digit())
            .take(60)
            .collect();
        let (count, lines) = kinds.entry((rule, kind)).or_default();
        *count += 1;
        if lines.len() < SHOWN {
            lines.push(line);
        }
    }
    let told = kinds.into_iter().map(|((rule, _), (count, lines))| {
        let times = if count > 1 {
            format!(" ({count} times)")
        } else {
            String::new()
        };
        (rule, format!("{}{times}", lines.join(" | ")))
    });
    told.collect()
}

/// A line without the terminal's colours.
fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('\u{1b}') {
        out.push_str(&rest[..at]);
        rest = rest[at..].split_once('m').map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_errors_are_told_once_each_and_errors_of_broken_disks_are_not() {
        let log = "2026-01-01T00:00:00Z \u{1b}[31mERROR\u{1b}[0m store: index 17 is wrong\n\
                   2026-01-01T00:00:01Z \u{1b}[31mERROR\u{1b}[0m store: index 18 is wrong\n\
                   2026-01-01T00:00:01Z  INFO store: fine\n\
                   thread 'x' panicked at store/src/lib.rs:3:4:\n";
        let rules = |quiet| {
            alarming(log, quiet)
                .into_iter()
                .map(|(r, _)| r)
                .collect::<Vec<_>>()
        };
        assert_eq!(rules(true), ["process/error", "process/panic"]);
        assert_eq!(rules(false), ["process/panic"]);
        assert!(alarming(log, true)[0].1.ends_with("(2 times)"));
        let redb = "thread 'x' panicked at registry/redb-4.6.0/src/page_manager.rs:1:2:";
        assert_eq!(
            (alarming(redb, true).len(), alarming(redb, false).len()),
            (1, 0)
        );
    }
}
