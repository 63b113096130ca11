//! Packets between members arrive late: a userspace relay beside the bridge.
//!
//! The bridge drops what members send each other; here the same packets are taken off the members' ports before it sees
//! them, held back, and put out at the other member's port. (`tc netem` is not in every kernel.) Each packet waits between
//! one and two times the delay, so that order changes too.

use crate::net::Net;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Packets that are under way; more are lost, as on any wire.
const IN_FLIGHT: usize = 16_384;
/// A packet with its offload header: links between namespaces carry up to 64 KiB at once.
const PACKET_BYTES: usize = 70_000;
/// `struct virtio_net_hdr`, which says what checksum and size a device was to fill in.
const OFFLOAD_BYTES: usize = 10;
/// Start of the IPv4 header behind it and the Ethernet header.
const IP: usize = OFFLOAD_BYTES + 14;
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Everything: what the bridge takes from a port is not offered to sockets that ask for one protocol alone.
const ETH_P_ALL: u16 = 0x0003;
/// Ethernet's type of IPv4, and where it stands.
const IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_TYPE: usize = OFFLOAD_BYTES + 12;

/// Delays packets while it lives.
pub struct Delay {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    held: Arc<AtomicU64>,
}

struct Held {
    due: Instant,
    to: u32,
    packet: Vec<u8>,
}

impl Delay {
    /// Starts to delay what `members` send each other.
    ///
    /// # Errors
    /// The ports cannot be opened.
    pub fn start(net: Net, members: &[u32], ms: u64) -> Result<Self> {
        let mut ports = BTreeMap::new();
        for member in members {
            ports.insert(*member, Arc::new(open(&format!("v{member}"))?));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (held, waiting) = sync_channel(IN_FLIGHT);
        let mut threads = Vec::new();
        let (relay_ports, counter) = (ports.clone(), count.clone());
        threads.push(std::thread::spawn(move || {
            put_out(&waiting, &relay_ports, &counter);
        }));
        for (member, port) in &ports {
            let (port, stop, held) = (port.clone(), stop.clone(), held.clone());
            let (member, others) = (*member, members.to_vec());
            threads.push(std::thread::spawn(move || {
                take_in(&port, member, &others, ms, &held, &stop);
            }));
        }
        for a in members {
            for b in members.iter().filter(|b| *b != a) {
                net.cut(*a, *b)?;
            }
        }
        Ok(Self {
            stop,
            threads,
            held: count,
        })
    }

    /// Packets that were held back so far.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A raw socket on an interface, which sees packets that arrive there.
#[allow(unsafe_code)]
fn open(interface: &str) -> Result<OwnedFd> {
    let name = CString::new(interface)?;
    let protocol = ETH_P_ALL.to_be();
    // SAFETY: plain system calls; every pointer is to a local that outlives its call, with its true size.
    unsafe {
        let index = libc::if_nametoindex(name.as_ptr());
        if index == 0 {
            bail!("no interface {interface}");
        }
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, libc::c_int::from(protocol));
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("raw socket");
        }
        let fd = OwnedFd::from_raw_fd(fd);
        for option in [PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING] {
            let on: libc::c_int = 1;
            set(&fd, libc::SOL_PACKET, option, &on)?;
        }
        let patience = libc::timeval {
            tv_sec: 0,
            tv_usec: 50_000,
        };
        set(&fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        let size = std::mem::size_of_val(&address) as libc::socklen_t;
        if libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) != 0 {
            return Err(std::io::Error::last_os_error()).context("bind");
        }
        Ok(fd)
    }
}

#[allow(unsafe_code)]
fn set<T>(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> Result<()> {
    let size = std::mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer is to `value`, of that size.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size,
        )
    };
    if done != 0 {
        return Err(std::io::Error::last_os_error()).context("socket option");
    }
    Ok(())
}

/// The member whose address stands at `at`.
fn member_at(packet: &[u8], at: usize) -> Option<u32> {
    match packet.get(at..at + 4)? {
        [10, 77, 0, n] => Some(u32::from(*n)),
        _ => None,
    }
}

#[allow(unsafe_code)]
fn take_in(
    port: &OwnedFd,
    member: u32,
    members: &[u32],
    ms: u64,
    held: &SyncSender<Held>,
    stop: &AtomicBool,
) {
    let mut random = crate::synthetic::Random::new(u64::from(member));
    let mut buffer = vec![0_u8; PACKET_BYTES];
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: the buffer is as large as said.
        let read = unsafe {
            libc::recv(
                port.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        };
        let Ok(read) = usize::try_from(read) else {
            continue; // Nothing within the patience.
        };
        let packet = &buffer[..read];
        if packet.get(ETHER_TYPE..ETHER_TYPE + 2) != Some(&IPV4[..]) {
            continue;
        }
        let (from, to) = (member_at(packet, IP + 12), member_at(packet, IP + 16));
        let (Some(from), Some(to)) = (from, to) else {
            continue;
        };
        if from == member && members.contains(&to) {
            let wait = Duration::from_micros(ms * 1_000 + random.below(ms * 1_000 + 1));
            let packet = packet.to_vec();
            let due = Instant::now() + wait;
            let _ = held.try_send(Held { due, to, packet });
        }
    }
}

/// Puts packets out when their time has come. Ends, with all sent, when the ports' threads have ended.
#[allow(unsafe_code)]
fn put_out(waiting: &Receiver<Held>, ports: &BTreeMap<u32, Arc<OwnedFd>>, held: &AtomicU64) {
    let mut queue: BTreeMap<(Instant, u64), Held> = BTreeMap::new();
    let mut count = 0;
    let mut open = true;
    while open || !queue.is_empty() {
        let next = queue.keys().next().map(|(due, _)| *due);
        let patience = next.map_or(Duration::from_millis(50), |due| {
            due.saturating_duration_since(Instant::now())
        });
        match waiting.recv_timeout(patience) {
            Ok(packet) => {
                count += 1;
                queue.insert((packet.due, count), packet);
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                open = false;
                std::thread::sleep(patience.min(Duration::from_millis(5)));
            }
        }
        while let Some(entry) = queue.first_entry() {
            if entry.key().0 > Instant::now() {
                break;
            }
            let packet = entry.remove();
            let Some(port) = ports.get(&packet.to) else {
                continue;
            };
            held.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the pointer and the length are the packet's.
            unsafe {
                libc::send(
                    port.as_raw_fd(),
                    packet.packet.as_ptr().cast(),
                    packet.packet.len(),
                    0,
                );
            }
        }
    }
}
