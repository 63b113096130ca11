//! A file system of its own for a member, which can lose what was not flushed: a power cut.
//!
//! `kill -9` loses nothing that was written, flushed or not: the kernel still has it. Here the file system itself is shut
//! down without flushing (the ioctl of XFS and ext4 that their own tests use), the member is killed, and the file system
//! mounted again from what is really on the disk.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

/// `XFS_IOC_GOINGDOWN`, the same number on ext4.
const GOING_DOWN: libc::c_ulong = 0x8004_587d;
/// Without flushing the log.
const NO_FLUSH: u32 = 2;
/// Size of a member's disk: sparse, above the store's reserve of free space and what mkfs wants at least.
const DISK_BYTES: u64 = 1 << 30;

/// Why a power cut cannot be had here, if it cannot.
pub fn obstacle() -> Option<String> {
    if !crate::net::is_root() {
        return Some("loop mounts need root".to_owned());
    }
    if crate::net::obstacle().is_some() {
        return Some("needs a mount namespace of its own".to_owned());
    }
    if let Err(e) = Command::new("mkfs.xfs").arg("-V").output() {
        return Some(format!("mkfs.xfs: {e}"));
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no loop devices".to_owned());
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!known.lines().any(|l| l.trim() == "xfs")).then(|| "the kernel has no xfs".to_owned())
}

fn run(program: &str, args: &[&std::ffi::OsStr]) -> Result<()> {
    let out = Command::new(program)
        .args(args)
        .output()
        .with_context(|| program.to_owned())?;
    if !out.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

/// Makes a disk in the file `image` and mounts it at `at`.
///
/// # Errors
/// mkfs or mount failed.
pub fn make(image: &Path, at: &Path) -> Result<()> {
    for folder in [image.parent(), Some(at)].into_iter().flatten() {
        std::fs::create_dir_all(folder)?;
    }
    File::create(image)?.set_len(DISK_BYTES)?;
    run("mkfs.xfs", &["-q".as_ref(), image.as_os_str()])?;
    mount(image, at)
}

/// Mounts a disk.
///
/// # Errors
/// mount failed.
pub fn mount(image: &Path, at: &Path) -> Result<()> {
    let options = [
        "-o".as_ref(),
        "loop".as_ref(),
        image.as_os_str(),
        at.as_os_str(),
    ];
    run("mount", &options)
}

/// Unmounts what is mounted at `at`.
///
/// # Errors
/// Somebody still uses it.
pub fn unmount(at: &Path) -> Result<()> {
    run("umount", &[at.as_os_str()])
}

/// From now on nothing reaches the disk, and what has not reached it is lost.
///
/// # Errors
/// `at` is not a file system that can do that.
pub fn cut(at: &Path) -> Result<()> {
    let root = File::open(at)?;
    let how = NO_FLUSH;
    // SAFETY: the ioctl reads four bytes from the pointer, which outlives the call.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(root.as_raw_fd(), GOING_DOWN, &how) };
    if done != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| at.display().to_string());
    }
    Ok(())
}
