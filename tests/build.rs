//! Tells the program which commit it is built from: a finding is of use where it can be found again.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // HEAD names a branch, and the branch's file the commit. Only what is there is watched: a missing file is always new.
    let git = Path::new("../.git");
    let head = git.join("HEAD");
    let branch = std::fs::read_to_string(&head).unwrap_or_default();
    let branch = branch.trim().strip_prefix("ref: ").map(|r| git.join(r));
    for file in [Some(head), branch].into_iter().flatten() {
        if file.exists() {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
    let asked = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output();
    let commit = match asked {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    };
    println!("cargo:rustc-env=TROIKA_COMMIT={commit}");
}
