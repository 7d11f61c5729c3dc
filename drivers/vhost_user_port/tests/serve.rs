//! A port and a front-end over a real socket, frames moving.

mod common;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use common::*;
use port::QueueFault;
use vhost_user::{BackendRequest, Frontend, MemoryRegion, ProtocolFeatures};
use vhost_user_port::{Direction, Phase, PortConfig, Served, Session, SocketError, SocketMode};
use virtio_defs::{feature, net};

#[test]
fn frames_move_through_split_and_packed_rings_of_one_and_four_pairs() {
    let dir = tempfile::tempdir().unwrap();
    for (name, wants) in [("split", Wants::split()), ("packed", Wants::packed())] {
        for pairs in [1, 4] {
            for without in [0, feature::IN_ORDER, feature::EVENT_IDX, net::feature::MRG_RXBUF] {
                let port = Port::server(&dir.path().join("s"));
                let wants = Wants { pairs, features: wants.features & !without, ..wants };
                let mut guest = Guest::connect(&port.path, wants);
                guest.start();
                let state = port.switch.wait_for(name, running);
                assert_eq!(usize::from(state.queue_pairs), pairs);
                guest.ping(&port, 200);
                assert_eq!(port.counters.rx_frames.get(), 200 * pairs as u64);
                assert_eq!(port.counters.tx_frames.get(), 200 * pairs as u64);
                drop(guest);
                port.switch.wait_for("hang-up", waiting);
                port.stop();
            }
        }
    }
}

#[test]
fn a_front_end_without_reply_ack_and_protocol_features_works() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::server(&dir.path().join("s"));
    let wants = Wants {
        features: Wants::split().features & !feature::VHOST_USER_PROTOCOL,
        protocol: ProtocolFeatures(0),
        ..Wants::split()
    };
    let mut guest = Guest::connect(&port.path, wants);
    let fd = guest.memory.fd();
    guest.front.set_mem_table(&[(guest.memory.region(), fd.as_fd())]).unwrap();
    for index in 0..2u32 {
        guest.front.set_vring_num(index, 64).unwrap();
        guest.front.set_vring_base(index, 0).unwrap();
        guest.front.set_vring_addr(guest.memory.vring_addr(index as usize, false)).unwrap();
        guest.front.set_vring_kick(index as u8, None).unwrap();
    }
    // Never enabled: without protocol features a ring is from the start.
    port.switch.wait_for("both rings", |s| s.queue_pairs == 1);
    guest.ping(&port, 20);
    port.stop();
}

#[test]
fn stopping_and_starting_goes_on_where_the_rings_stood() {
    let dir = tempfile::tempdir().unwrap();
    for wants in [Wants::split(), Wants::packed()] {
        let port = Port::server(&dir.path().join("s"));
        let mut guest = Guest::connect(&port.path, wants);
        guest.start();
        for round in 0..5 {
            guest.ping(&port, 50);
            let bases = guest.stop();
            assert_eq!(port.switch.state().phase, Phase::Negotiating);
            if wants.features & feature::RING_PACKED != 0 {
                assert!(
                    bases.iter().all(|b| b & 0xffff == b >> 16),
                    "used is where available is: {bases:x?}"
                );
            } else {
                assert_eq!(bases, [50 * (round + 1); 2]);
            }
            for (index, base) in bases.into_iter().enumerate() {
                guest.start_vring(index, base);
            }
        }
        port.stop();
    }
}

#[test]
fn the_memory_table_changes_while_rings_run() {
    let dir = tempfile::tempdir().unwrap();
    for wants in [Wants::split(), Wants::packed()] {
        let port = Port::server(&dir.path().join("s"));
        let mut guest = Guest::connect(&port.path, wants);
        guest.start();
        let fd = guest.memory.fd();
        let base = guest.memory.region();
        for round in 1..20u64 {
            let more =
                MemoryRegion { guest_addr: GPA << 4, size: 4096 * round, user_addr: 1 << 30, mmap_offset: 0 };
            guest.front.set_mem_table(&[(more, fd.as_fd()), (base, fd.as_fd())]).unwrap();
            guest.ping(&port, 10);
            assert_eq!(port.switch.state().memory_regions, 2);
        }
        // A table without the rings rests them; with them they go on.
        let other = MemoryRegion { user_addr: 1 << 30, ..base };
        guest.front.set_mem_table(&[(other, fd.as_fd())]).unwrap();
        let state = port.switch.state();
        assert_eq!(state.phase, Phase::Negotiating);
        assert!(state.vrings[0].problem.is_some(), "{state:?}");
        guest.front.set_mem_table(&[(base, fd.as_fd())]).unwrap();
        guest.ping(&port, 10);
        port.stop();
    }
}

#[test]
fn regions_are_added_and_removed_while_rings_run() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::server(&dir.path().join("s"));
    let mut guest = Guest::connect(&port.path, Wants::packed());
    assert_eq!(guest.front.max_mem_slots().unwrap(), 509);
    guest.start();
    let fd = guest.memory.fd();
    let region = |n: u64| MemoryRegion {
        guest_addr: (GPA << 4) + n * 4096,
        size: 4096,
        user_addr: (1 << 30) + n * 4096,
        mmap_offset: n * 4096,
    };
    for n in 0..508 {
        guest.front.add_mem_region(region(n), fd.as_fd()).unwrap();
        if n % 50 == 0 {
            guest.ping(&port, 2);
        }
    }
    assert!(guest.front.add_mem_region(region(508), fd.as_fd()).is_err(), "the 510th region");
    let overlapping = MemoryRegion { user_addr: 1 << 40, ..region(3) };
    assert!(guest.front.add_mem_region(overlapping, fd.as_fd()).is_err(), "overlaps");
    guest.front.add_mem_region(region(3), fd.as_fd()).expect("QEMU says it again for each queue pair");
    assert_eq!(port.switch.state().memory_regions, 509, "and it is there once");
    guest.ping(&port, 5);
    for n in 0..508 {
        guest.front.remove_mem_region(region(n)).unwrap();
    }
    assert!(guest.front.remove_mem_region(region(3)).is_err(), "is gone already");
    assert_eq!(port.switch.state().memory_regions, 1);
    guest.ping(&port, 5);
    port.stop();
}

#[test]
fn rings_can_be_disabled_reset_and_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::server(&dir.path().join("s"));
    let mut guest = Guest::connect(&port.path, Wants::split());
    guest.start();
    guest.ping(&port, 10);
    guest.front.disable_vring(0).unwrap();
    guest.front.disable_vring(1).unwrap();
    assert_eq!(port.switch.state().phase, Phase::Negotiating);
    guest.front.enable_vring(0).unwrap();
    guest.front.enable_vring(1).unwrap();
    guest.ping(&port, 10);

    guest.front.set_status(0x0f).unwrap();
    guest.front.reset_device().unwrap();
    assert_eq!(guest.front.status().unwrap(), 0);
    assert_eq!(port.switch.state().phase, Phase::Negotiating);
    assert!(port.switch.state().vrings.is_empty());
    guest.front.set_features(guest.wants.features).unwrap();
    guest.memory = GuestMemory::new(guest.wants);
    guest.start();
    guest.ping(&port, 10);

    guest.front.reset_owner().unwrap();
    assert_eq!(port.switch.state().phase, Phase::Negotiating);
    port.stop();
}

#[test]
fn a_front_end_that_comes_back_is_served_again() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::server(&dir.path().join("s"));
    for round in 1..=5 {
        let mut guest = Guest::connect(&port.path, Wants::split());
        guest.start();
        guest.ping(&port, 20);
        assert_eq!(port.switch.state().connections, round);
        drop(guest);
        let state = port.switch.wait_for("hang-up", waiting);
        assert_eq!(state.last_error.as_deref(), Some("the front-end hung up"));
        assert_eq!((state.memory_regions, state.vrings.len()), (0, 0));
    }
    port.stop();
}

#[test]
fn a_client_port_connects_again_whenever_somebody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let port = Port::with(&path, SocketMode::Client, PortConfig::default());
    for round in 1..=3 {
        std::thread::sleep(Duration::from_millis(30));
        let listener = UnixListener::bind(&path).unwrap();
        let mut guest = Guest::accept(&listener, Wants::packed());
        guest.start();
        guest.ping(&port, 20);
        assert_eq!(port.switch.state().connections, round);
        // The listener first, or the port would connect to it again.
        drop(listener);
        drop(guest);
        std::fs::remove_file(&path).unwrap();
        port.switch.wait_for("hang-up", waiting);
    }
    port.stop();
}

#[test]
fn a_second_front_end_waits_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::server(&dir.path().join("s"));
    let mut first = Guest::connect(&port.path, Wants::split());
    first.start();
    let path = port.path.clone();
    let second = std::thread::spawn(move || Guest::connect(&path, Wants::split()));
    first.ping(&port, 100);
    assert_eq!(port.switch.state().connections, 1);
    drop(first);
    let mut second = second.join().unwrap();
    second.start();
    second.ping(&port, 10);
    port.stop();
}

#[test]
fn a_live_owner_of_the_socket_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let first = Port::server(&path);
    let error = Port::socket(&path, SocketMode::Server).listen().unwrap_err();
    assert!(matches!(error, SocketError::LiveOwner { .. }), "{error}");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    let mut guest = Guest::connect(&first.path, Wants::split());
    guest.start();
    guest.ping(&first, 5);
    first.stop();
    assert!(!path.exists(), "the socket's file goes with the port");
}

#[test]
fn a_disconnect_in_mid_message_frees_the_port_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::server(&dir.path().join("s"));
    let mut raw = UnixStream::connect(&port.path).unwrap();
    raw.write_all(&[1, 0, 0, 0, 1, 0]).unwrap();
    drop(raw);
    let state = port.switch.wait_for("the end", |s| s.connections == 1 && waiting(s));
    assert_eq!(state.last_error.as_deref(), Some("connection closed in mid-message, after 6 bytes of it"));
    let mut guest = Guest::connect(&port.path, Wants::split());
    guest.start();
    guest.ping(&port, 5);
    port.stop();
}

#[test]
fn a_broken_ring_ends_the_connection_with_its_reason_and_a_new_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::server(&dir.path().join("s"));
    let mut guest = Guest::connect(&port.path, Wants::split());
    guest.start();
    guest.ping(&port, 5);
    // The available index (at offset 2 of the driver area) jumps by more than the ring holds.
    let addr = guest.memory.vring_addr(1, false);
    guest.memory.write_at(addr.avail - USER_VA + 2, &9999u16.to_le_bytes());
    port.echo();
    let state = port.switch.wait_for("the end", waiting);
    let reason = state.last_error.unwrap();
    assert!(reason.starts_with("queue pair 0, rx: available index moved"), "{reason}");
    assert_eq!(state.memory_regions, 0);
    drop(guest);
    let mut guest = Guest::connect(&port.path, Wants::split());
    guest.start();
    guest.ping(&port, 5);
    port.stop();
}

#[test]
fn memory_that_is_cut_short_ends_that_connection_only() {
    let dir = tempfile::tempdir().unwrap();
    let (port, neighbour) = (Port::server(&dir.path().join("s")), Port::server(&dir.path().join("n")));
    let mut other = Guest::connect(&neighbour.path, Wants::packed());
    other.start();
    for wants in [Wants::split(), Wants::packed()] {
        let mut guest = Guest::connect(&port.path, wants);
        guest.start();
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let region = MemoryRegion { guest_addr: GPA << 4, size: 1 << 20, user_addr: 1 << 30, mmap_offset: 0 };
        guest.front.add_mem_region(region, file.as_fd()).unwrap();
        guest.memory.send_from(0, (GPA << 4) + 8192, 100);
        assert_eq!(port.echo(), 1);
        file.set_len(4096).unwrap();
        guest.memory.reap(0);
        guest.memory.send_from(0, (GPA << 4) + 8192, 100);
        // The frame may still be taken (as zeros); the next look at the ring finds out.
        port.echo();
        port.echo();
        let state = port.switch.wait_for("the end", waiting);
        assert!(
            state.last_error.as_deref().unwrap().ends_with("memory file was truncated (0x0)"),
            "{state:?}"
        );
        assert_eq!(state.memory_regions, 0);
        other.ping(&neighbour, 10);
    }
    let mut guest = Guest::connect(&port.path, Wants::split());
    guest.start();
    guest.ping(&port, 5);
    port.stop();
    neighbour.stop();
}

#[test]
fn a_split_ring_goes_on_at_its_used_index_when_its_front_end_remembers_less() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::server(&dir.path().join("s"));
    let mut guest = Guest::connect(&port.path, Wants::split());
    guest.start();
    guest.ping(&port, 100);
    // The connection breaks without a word about positions; DPDK's virtio-user starts with base 0 then.
    let Guest { front, memory, wants, .. } = guest;
    drop(front);
    port.switch.wait_for("hang-up", waiting);
    let mut guest = Guest::with_memory(Frontend::connect(&port.path).unwrap(), wants, memory);
    guest.start();
    guest.ping(&port, 100);
    port.stop();
}

#[test]
fn a_fault_of_an_earlier_connection_does_not_end_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::server(&dir.path().join("s"));
    let fault = QueueFault { what: "late", value: 0 };
    let mut guest = Guest::connect(&port.path, Wants::split());
    port.control.queue_fault(0, Direction::Rx, fault);
    guest.start();
    port.control.queue_fault(3, Direction::Tx, fault);
    guest.ping(&port, 5);
    assert_eq!(port.switch.state().connections, 1);
    port.stop();
}

#[test]
fn link_and_mtu_changes_are_pushed_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::server(&dir.path().join("s"));
    let mut guest = Guest::connect(&port.path, Wants::split());
    let mut channel = guest.front.open_channel().unwrap();
    let pushed = |channel: &mut vhost_user::FrontendChannel| {
        for _ in 0..5000 {
            if let Some(request) = channel.next_request().unwrap() {
                return request;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("nothing was pushed");
    };
    assert_eq!(guest.front.config(6, 2).unwrap(), [1, 0]);
    port.control.set_link(false);
    assert_eq!(pushed(&mut channel), BackendRequest::ConfigChanged);
    assert_eq!(guest.front.config(6, 2).unwrap(), [0, 0]);
    assert!(!port.switch.state().link_up);
    port.control.set_mtu(9000);
    assert_eq!(pushed(&mut channel), BackendRequest::ConfigChanged);
    assert_eq!(guest.front.config(10, 2).unwrap(), 9000u16.to_le_bytes());
    guest.front.set_mtu(4000).unwrap();
    assert_eq!(port.switch.state().mtu, 4000);
    guest.front.send_rarp([2, 0, 0, 0, 0, 7]).unwrap();
    assert_eq!(port.switch.inside().announced, [[2, 0, 0, 0, 0, 7]]);
    port.stop();
}

#[test]
fn messages_beyond_the_budget_wait_and_are_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let config = PortConfig { messages_per_second: 100, ..PortConfig::default() };
    let port = Port::with(&dir.path().join("s"), SocketMode::Server, config);
    let mut front = Frontend::connect(&port.path).unwrap();
    let start = std::time::Instant::now();
    // A second's worth is free; the other 100 take a second.
    for _ in 0..200 {
        front.offer().unwrap();
    }
    assert!(start.elapsed() > Duration::from_millis(2000), "{:?}", start.elapsed());
    port.stop();
}

#[test]
fn a_message_in_single_bytes_is_paid_for_by_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let config = PortConfig { messages_per_second: 20, ..PortConfig::default() };
    let port = Port::with(&dir.path().join("s"), SocketMode::Server, config);
    let mut raw = UnixStream::connect(&port.path).unwrap();
    port.switch.wait_for("connection", |s| s.connections == 1);
    raw.write_all(&[1]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    port.stop();
}

#[test]
fn a_running_port_moves_to_a_successor_without_losing_a_frame() {
    let dir = tempfile::tempdir().unwrap();
    for (wants, mode) in [
        (Wants::split(), SocketMode::Server),
        (Wants::packed(), SocketMode::Server),
        (Wants { pairs: 4, ..Wants::packed() }, SocketMode::Client),
    ] {
        let path = dir.path().join("s");
        let listener = (mode == SocketMode::Client).then(|| UnixListener::bind(&path).unwrap());
        let old = Port::with(&path, mode, PortConfig::default());
        let front = match &listener {
            Some(listener) => Frontend::accept(listener).unwrap(),
            None => Frontend::connect(&path).unwrap(),
        };
        let mut guest = Guest::new(front, wants);
        guest.start();
        guest.ping(&old, 30);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();

        // First with everything running, to prepare; nothing changes for the guest.
        let (saved, fds) = runtime.block_on(old.control.export()).unwrap();
        let text = serde_json::to_string(&saved).unwrap();
        guest.ping(&old, 5);
        let prepared: vhost_user_port::SavedPort = serde_json::from_str(&text).unwrap();
        let (mut session, sockets) = prepared.import(PortConfig::default(), fds).unwrap();

        // A frame is sent that nobody has looked at yet when the port changes hands.
        let frame = vec![9; 99];
        assert!(guest.memory.send(0, 0, &frame));
        let (last, _fds) = runtime.block_on(old.control.suspend()).unwrap();
        assert_eq!(old.echo(), 0, "no queue is with the old switch");
        assert!(session.import_positions(&last.session));
        let new = Port::start(&path, mode, move || (session, sockets));
        new.switch.wait_for("the successor", running);
        old.control.release();
        assert_eq!(old.join().unwrap(), Served::Released);

        assert_eq!(new.echo(), 1);
        assert_eq!(guest.memory.receive(0), [frame]);
        while guest.memory.reap(0) > 0 {
            new.echo();
        }
        guest.ping(&new, 30);
        guest.front.set_mtu(3000).unwrap();
        assert_eq!(new.switch.state().mtu, 3000);
        let connections = new.switch.state().connections;
        assert_eq!(connections, 1);
        drop(listener);
        drop(guest);
        new.switch.wait_for("hang-up", waiting);
        if mode == SocketMode::Server {
            // The listening socket moved too.
            let mut guest = Guest::connect(&path, wants);
            guest.start();
            guest.ping(&new, 5);
            drop(guest);
        }
        new.stop();
        let _ = std::fs::remove_file(&path);
    }
}

#[test]
fn a_take_over_that_fails_leaves_the_old_port_running() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::server(&dir.path().join("s"));
    let mut guest = Guest::connect(&port.path, Wants::packed());
    guest.start();
    guest.ping(&port, 10);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut saved, fds) = runtime.block_on(port.control.suspend()).unwrap();
    saved.session.version += 1;
    assert!(saved.import(PortConfig::default(), fds).is_err());
    port.control.resume();
    port.switch.wait_for("the old port", running);
    guest.ping(&port, 10);
    port.stop();
}

#[test]
fn a_begun_message_is_finished_by_the_successor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let old = Port::server(&path);
    let mut raw = UnixStream::connect(&path).unwrap();
    let request = vhost_user::Request::<()>::GetFeatures.encode(false).bytes;
    raw.write_all(&request[..7]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut begun = 0;
    while begun < 7 {
        let (saved, _) = runtime.block_on(old.control.export()).unwrap();
        begun = saved.begun.len();
    }
    let (saved, fds) = runtime.block_on(old.control.suspend()).unwrap();
    let new = Port::start(&path, SocketMode::Server, move || {
        let (session, sockets): (Session, _) = saved.import(PortConfig::default(), fds).unwrap();
        (session, sockets)
    });
    old.control.release();
    old.join().unwrap();
    raw.write_all(&request[7..]).unwrap();
    let mut reply = [0; 20];
    std::io::Read::read_exact(&mut raw, &mut reply).unwrap();
    assert_eq!(reply[..4], 1u32.to_ne_bytes());
    new.stop();
}
