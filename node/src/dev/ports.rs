//! The ports of a cluster in one process.
//!
//! Members know each other by address, and those stand in their log: a chain that is kept must come back on the ports it
//! had. `cluster.json` in its folder remembers them, and what else about the cluster cannot change.

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

/// File in the data folder.
const FILE: &str = "cluster.json";
/// Version of its form.
const VERSION: u32 = 1;

/// Where one member listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPorts {
    /// For clients.
    pub client: u16,
    /// For other members.
    pub peer: u16,
}

/// Where all members listen, by id from 1 on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    version: u32,
    /// In the order of their ids.
    pub members: Vec<MemberPorts>,
}

impl Ports {
    /// Free ports for `members` members.
    ///
    /// # Errors
    /// No free port.
    pub fn free(members: u32) -> anyhow::Result<Self> {
        let ports = free_ports(members as usize * 2)?;
        let pairs = ports.chunks(2).map(|pair| MemberPorts {
            client: pair[0],
            peer: pair[1],
        });
        Ok(Self {
            version: VERSION,
            members: pairs.collect(),
        })
    }

    /// The ports of the cluster in `folder`; free ones, written down there, where there is none yet.
    ///
    /// # Errors
    /// A folder that cannot be used, or that holds a cluster of another size.
    pub fn kept(folder: &Path, members: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("the data folder {} cannot be made", folder.display()))?;
        let path = folder.join(FILE);
        let shown = path.display();
        let ports = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str::<Self>(&text)
                .with_context(|| format!("{shown} is not a cluster's description"))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let ports = Self::free(members)?;
                let text = serde_json::to_string_pretty(&ports).expect("ports are JSON");
                std::fs::write(&path, text)
                    .with_context(|| format!("{shown} cannot be written"))?;
                ports
            }
            Err(error) => return Err(error).with_context(|| format!("{shown} cannot be read")),
        };
        if ports.version != VERSION {
            bail!(
                "{shown} has version {}, this program knows {VERSION}",
                ports.version
            );
        }
        if ports.members.len() != members as usize {
            bail!(
                "{} holds a cluster of {} members, not {members}: say `--members {}`, or choose another folder",
                folder.display(),
                ports.members.len(),
                ports.members.len()
            );
        }
        Ok(ports)
    }
}

/// A port on loopback.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Ports to choose from: below those that the system gives to outgoing connections, or one of these would take a port
/// between its being found free and its being listened on.
const CHOICE: std::ops::Range<u16> = 18_000..32_000;
/// Where the next search in this process begins, beside a start that differs from process to process.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// `count` ports that are free on loopback now. Another call in this process gives others.
///
/// # Errors
/// No free port.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let size = CHOICE.end - CHOICE.start;
    let start = (std::process::id().wrapping_mul(61) % u32::from(size)) as u16;
    let mut ports = Vec::with_capacity(count);
    for _ in 0..size {
        if ports.len() == count {
            break;
        }
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % size;
        let port = CHOICE.start + (start + step) % size;
        if TcpListener::bind(loopback(port)).is_ok() {
            ports.push(port);
        }
    }
    if ports.len() < count {
        bail!(
            "no free port on loopback between {} and {}",
            CHOICE.start,
            CHOICE.end
        );
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_cluster_comes_back_on_its_ports() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("chain");
        let first = Ports::kept(&data, 3).expect("made");
        assert_eq!(first.members.len(), 3);
        assert_eq!(Ports::kept(&data, 3).expect("read"), first);
    }

    #[test]
    fn a_folder_of_another_cluster_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        Ports::kept(folder.path(), 3).expect("made");
        let error = Ports::kept(folder.path(), 5).unwrap_err().to_string();
        assert!(error.contains("`--members 3`"), "{error}");
        std::fs::write(folder.path().join(FILE), "{}").expect("written");
        let error = Ports::kept(folder.path(), 3).unwrap_err().to_string();
        assert!(error.contains("cluster.json"), "{error}");
    }
}
