//! What a connection brought goes with it. Alone in its process, because it counts the process's descriptors.

mod common;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use common::*;
use vhost_user::{MemoryRegion, Request};
use vhost_user_port::{PortConfig, SocketMode};

#[test]
fn a_hundred_connections_leak_neither_descriptors_nor_mappings() {
    let dir = tempfile::tempdir().unwrap();
    let config = PortConfig { messages_per_second: 1_000_000, ..PortConfig::default() };
    let port = Port::with(&dir.path().join("s"), SocketMode::Server, config);
    let round = |n: u32| {
        let wants = if n.is_multiple_of(2) { Wants::split() } else { Wants::packed() };
        let mut guest = Guest::connect(&port.path, Wants { pairs: 2, ..wants });
        guest.start();
        let fd = guest.memory.fd();
        let more = MemoryRegion { guest_addr: GPA << 4, size: 4096, user_addr: 1 << 30, mmap_offset: 0 };
        guest.front.add_mem_region(more, fd.as_fd()).unwrap();
        let _record = guest.front.inflight(4, 64).unwrap();
        let _channel = guest.front.open_channel().unwrap();
        guest.ping(&port, 3);
        match n % 4 {
            // Hang up with rings running, after stopping them, in mid-message, by a broken message with descriptors.
            0 => {}
            1 => drop(guest.stop()),
            2 => {
                let mut socket = UnixStream::from(guest.front.as_fd().try_clone_to_owned().unwrap());
                socket.write_all(&[5, 0, 0, 0, 1, 0, 0]).unwrap();
            }
            _ => {
                let mut broken =
                    Request::SetMemTable(vec![(more, fd.as_fd()), (more, fd.as_fd())]).encode(true);
                broken.bytes[12] = 200;
                vhost_user::socket::send(guest.front.as_fd(), &broken).unwrap();
            }
        }
        drop((guest, fd));
        port.switch.wait_for("the end", |s| s.connections == u64::from(n) + 1 && waiting(s));
    };
    for n in 0..4 {
        round(n);
    }
    let (fds, mappings) = (open_fds(), guest_mappings());
    for n in 4..104 {
        round(n);
    }
    assert_eq!((open_fds(), guest_mappings()), (fds, mappings));
    assert_eq!(mappings, 0);
    let state = port.switch.state();
    assert_eq!((state.memory_regions, state.memory_bytes, state.vrings.len()), (0, 0, 0));
    port.stop();
}
