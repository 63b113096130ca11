//! What this machine can do, and what will be skipped.

use crate::{cluster, disk, net};

/// Prints it.
pub fn doctor() -> i32 {
    let line = |what: &str, obstacle: Option<String>, otherwise: &str| match obstacle {
        None => println!("{what:<14} yes"),
        Some(why) => println!("{what:<14} no: {why} ({otherwise})"),
    };
    let program = |name: &str, flag: &str| {
        let found = std::process::Command::new(name).arg(flag).output();
        found.err().map(|e| format!("{name}: {e}"))
    };
    let root = (!net::is_root()).then(|| "not uid 0".to_owned());
    line("root", root, "power cuts and delays are skipped");
    line(
        "namespaces",
        net::obstacle(),
        "partitions, loss and delay are skipped; all runs are on loopback",
    );
    line(
        "power cuts",
        disk::obstacle(),
        "power-cut and power-cut-all are skipped",
    );
    line(
        "strace",
        program("strace", "-V"),
        "disk-full, slow-disk and disk-error are skipped",
    );
    let faketime = cluster::faketime()
        .is_none()
        .then(|| "libfaketime is not installed".to_owned());
    line("clock jumps", faketime, "clock is skipped");
    println!("everything else (kill, pause, rolling restart, damage, membership) works anywhere");
    println!("packages       iproute2 nftables strace faketime xfsprogs util-linux");
    0
}
