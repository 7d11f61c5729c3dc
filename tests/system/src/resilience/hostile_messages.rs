//! A front-end breaks the protocol: each way ends its own connection, or is refused, and nothing else.
//!
//! Cases that replay the pattern of a published fault of DPDK's vhost library carry its number.

use anyhow::{Result, ensure};
use lab::hostile::{GPA, Hostile, MEMORY_BYTES, Ring, USER};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use vhost_user::{
    Frontend, FrontendError, Inflight, LogArea, MemoryRegion, ProtocolFeatures, RequestCode as Code,
};
use virtqueue::EventFd;

use super::stage::{Case, Outcome, play};
use crate::{Need, Scenario};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new("resilience/hostile-messages", &[Need::Ringway], |c| play(c, MESSAGES)),
    Scenario::new("resilience/hostile-memory-tables", &[Need::Ringway], |c| play(c, MEMORY_TABLES)),
    Scenario::new("resilience/hostile-ring-setup", &[Need::Ringway], |c| play(c, RING_SETUP)),
];

use Outcome::{Costs, Ends, Refuses, Rests, Stops};
use Ring::{Receives, Transmits};

/// Requests of a flood; the switch reads 2,000 a second.
const FLOOD: u32 = 400;

const MESSAGES: &[Case] = &[
    Case::new("hangs up in mid-message", |h| part(h, &[0; 7]), Stops("closed in mid-message")).split(),
    Case::new(
        "hangs up in mid-message with a descriptor",
        part_with_descriptor,
        Stops("closed in mid-message"),
    )
    .split(),
    Case::new(
        "payload too short",
        |h| h.message(Code::SET_VRING_NUM, &[0; 4], vec![]),
        Stops("payload of 4 bytes"),
    )
    .split(),
    Case::new(
        "payload too long",
        |h| h.message(Code::SET_OWNER, &[0; 8], vec![]),
        Stops("payload of 8 bytes"),
    )
    .split(),
    Case::new(
        "payload of 4 GB",
        |h| h.message_of_size(Code::SET_MEM_TABLE, u32::MAX, &[0; 8], vec![]),
        Stops("more than 4096"),
    )
    .split(),
    Case::new(
        "descriptor where none belongs",
        |h| h.message(Code::SET_VRING_NUM, &[0; 8], h.descriptors(1)?),
        Stops("1 file descriptors instead of 0"),
    )
    .split(),
    Case::new(
        "no descriptor where one belongs",
        |h| h.message(Code::SET_VRING_CALL, &[0; 8], vec![]),
        Stops("0 file descriptors instead of 1"),
    )
    .split(),
    Case::new(
        "8 descriptors for one",
        |h| h.message(Code::SET_VRING_KICK, &[0; 8], h.descriptors(8)?),
        Stops("8 file descriptors instead of 1"),
    )
    .split(),
    Case::new(
        "64 descriptors with one message",
        too_many_descriptors,
        Stops("more than 32 file descriptors"),
    )
    .split(),
    Case::new("request nobody knows", |h| h.message(Code(999), &[], vec![]), Stops("not supported")).split(),
    Case::new(
        "crypto session, CVE-2020-10724",
        |h| h.message(Code::CREATE_CRYPTO_SESSION, &[0xff; 1056], vec![]),
        Stops("not supported"),
    )
    .split(),
    Case::new(
        "features that were not offered",
        |h| h.message(Code::SET_FEATURES, &[0xff; 8], vec![]),
        Stops("were not offered"),
    ),
    Case::new(
        "dirty log whose end overflows, CVE-2020-10722",
        overflowing_log,
        Stops("SET_LOG_BASE refused"),
    )
    .with(ProtocolFeatures::LOG_SHMFD),
    Case::new("dirty log that isn't there", missing_log, Stops("SET_LOG_BASE refused"))
        .with(ProtocolFeatures::LOG_SHMFD),
    Case::new(
        "in-flight records asked for again and again, CVE-2020-10726",
        many_inflight_records,
        Costs(16, 4),
    )
    .with(ProtocolFeatures::INFLIGHT_SHMFD),
    Case::new(
        "in-flight record of impossible shape",
        impossible_inflight,
        Stops("number of in-flight queues"),
    )
    .with(ProtocolFeatures::INFLIGHT_SHMFD),
    Case::new("in-flight record that isn't there", missing_inflight, Stops("in-flight record"))
        .with(ProtocolFeatures::INFLIGHT_SHMFD),
    Case::new("says nothing", |_| Ok(()), Ends).split(),
];

const MEMORY_TABLES: &[Case] = &[
    Case::new("regions overlap", |h| h.memory_table(&[at(GPA), at(GPA + 4096)]), Stops("overlap")),
    Case::new(
        "regions overlap in the front-end",
        |h| h.memory_table(&[at(GPA), MemoryRegion { user_addr: USER + 4096, ..at(0) }]),
        Stops("overlap"),
    ),
    Case::new(
        "region of 64 TB",
        |h| h.memory_table(&[MemoryRegion { size: 1 << 46, ..at(GPA) }]),
        Stops("guest memory of 0x400000000000"),
    ),
    Case::new(
        "region longer than its file",
        |h| h.memory_table(&[MemoryRegion { size: MEMORY_BYTES + 1, ..at(GPA) }]),
        Stops("the file at"),
    ),
    Case::new(
        "region of nothing",
        |h| h.memory_table(&[MemoryRegion { size: 0, ..at(GPA) }]),
        Stops("makes no sense"),
    ),
    Case::new(
        "region around the end of all addresses",
        |h| h.memory_table(&[at(u64::MAX - 4095)]),
        Stops("makes no sense"),
    ),
    Case::new(
        "offset around the end of all addresses",
        |h| h.memory_table(&[MemoryRegion { mmap_offset: u64::MAX - 4095, ..at(GPA) }]),
        Stops("makes no sense"),
    ),
    Case::new(
        "regions without descriptors",
        |h| h.message(Code::SET_MEM_TABLE, &table(&[at(GPA)]), vec![]),
        Stops("0 file descriptors instead of 1"),
    ),
    Case::new(
        "descriptors without regions",
        |h| h.message(Code::SET_MEM_TABLE, &table(&[]), h.descriptors(5)?),
        Stops("5 file descriptors instead of 0"),
    ),
    Case::new(
        "more regions than bytes",
        |h| h.message(Code::SET_MEM_TABLE, &[8, 0, 0, 0, 0, 0, 0, 0], h.descriptors(8)?),
        Stops("payload of 8 bytes"),
    ),
    Case::new(
        "a million regions",
        |h| h.message(Code::SET_MEM_TABLE, &[0, 0, 16, 0, 0, 0, 0, 0], vec![]),
        Stops("1048576 memory regions"),
    ),
    Case::new("memory that is no file", no_file, Stops("no regular file")),
    Case::new("memory taken from under running rings", taken_away, Rests("outside the memory table")),
    Case::new("memory tables again and again", many_tables, Costs(16, 2)),
];

const RING_SETUP: &[Case] = &[
    Case::new(
        "ring index out of range, CVE-2020-10723",
        |h| h.state(Code::SET_VRING_NUM, 0x1_0000, 64),
        Stops("no vring 65536"),
    ),
    Case::new(
        "ring index at the end of all numbers",
        |h| h.state(Code::SET_VRING_BASE, u32::MAX, 0),
        Stops("no vring"),
    ),
    Case::new("ring of no entries", |h| h.state(Code::SET_VRING_NUM, 0, 0), Stops("vring size")),
    Case::new("ring of 65536 entries", |h| h.state(Code::SET_VRING_NUM, 0, 65536), Stops("vring size")),
    Case::new("sizes again and again, CVE-2019-14818", many_sizes, Costs(16, 1)),
    Case::new("ring outside the memory", outside, Rests("outside the memory table")),
    Case::new("ring across the memory's end", across, Rests("outside the memory table")),
    Case::new("ring at an odd address", odd, Rests("misaligned")),
    Case::new("ring of 63 entries", |h| sized(h, 63), Rests("size is not allowed")).split(),
    Case::new("moved while enabled", moved, Stops("its address can't change")),
    Case::new("moved while enabled, and told no", moved_politely, Refuses("its address can't change"))
        .with(ProtocolFeatures::REPLY_ACK),
    Case::new(
        "resized while enabled",
        |h| changed(h, Code::SET_VRING_NUM, 32),
        Stops("its size can't change"),
    ),
    Case::new(
        "set back while enabled",
        |h| changed(h, Code::SET_VRING_BASE, 9),
        Stops("its base can't change"),
    ),
    Case::new("a file for a kick", file_for_kick, Stops("not an event descriptor")),
    Case::new("enabled by 2", |h| h.state(Code::SET_VRING_ENABLE, 0, 2), Stops("enable")),
];

/// The hostile guest's words for these cases.
trait Says {
    fn memory_table(&mut self, regions: &[MemoryRegion]) -> Result<()>;
    fn state(&mut self, code: Code, index: u32, number: u32) -> Result<()>;
}

impl Says for Hostile {
    fn memory_table(&mut self, regions: &[MemoryRegion]) -> Result<()> {
        self.message(Code::SET_MEM_TABLE, &table(regions), self.descriptors(regions.len())?)
    }

    fn state(&mut self, code: Code, index: u32, number: u32) -> Result<()> {
        let mut payload = index.to_ne_bytes().to_vec();
        payload.extend(number.to_ne_bytes());
        self.message(code, &payload, vec![])
    }
}

/// The memory at another guest-physical address, and as far from the others in the front-end.
fn at(guest_addr: u64) -> MemoryRegion {
    MemoryRegion { guest_addr, size: MEMORY_BYTES, user_addr: USER, mmap_offset: 0 }
}

fn table(regions: &[MemoryRegion]) -> Vec<u8> {
    let mut payload = (regions.len() as u64).to_ne_bytes().to_vec();
    for region in regions {
        for word in [region.guest_addr, region.size, region.user_addr, region.mmap_offset] {
            payload.extend(word.to_ne_bytes());
        }
    }
    payload
}

fn part(hostile: &mut Hostile, bytes: &[u8]) -> Result<()> {
    vhost_user::socket::send_some(hostile.front.as_fd(), bytes, &[])?;
    hang_up(&hostile.front)
}

fn part_with_descriptor(hostile: &mut Hostile) -> Result<()> {
    let memory = hostile.memory().as_fd();
    vhost_user::socket::send_some(hostile.front.as_fd(), &[5, 0, 0, 0, 1], &[memory])?;
    hang_up(&hostile.front)
}

/// Ends the connection while this process still has it open.
fn hang_up(front: &Frontend) -> Result<()> {
    Ok(UnixStream::from(front.as_fd().try_clone_to_owned()?).shutdown(Shutdown::Both)?)
}

fn too_many_descriptors(hostile: &mut Hostile) -> Result<()> {
    let memory = [hostile.memory().as_fd(); 32];
    for bytes in [&[5, 0, 0, 0][..], &[1, 0, 0, 0]] {
        vhost_user::socket::send_some(hostile.front.as_fd(), bytes, &memory)?;
    }
    Ok(())
}

fn log_base(hostile: &mut Hostile, area: LogArea) -> Result<()> {
    let mut payload = area.size.to_ne_bytes().to_vec();
    payload.extend(area.offset.to_ne_bytes());
    hostile.message(Code::SET_LOG_BASE, &payload, hostile.descriptors(1)?)
}

fn overflowing_log(hostile: &mut Hostile) -> Result<()> {
    log_base(hostile, LogArea { size: 1 << 20, offset: u64::MAX - 4095 })
}

fn missing_log(hostile: &mut Hostile) -> Result<()> {
    log_base(hostile, LogArea { size: 1 << 20, offset: MEMORY_BYTES })
}

fn many_inflight_records(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    for _ in 0..FLOOD {
        hostile.front.inflight(2, 64)?;
    }
    Ok(())
}

fn inflight(hostile: &mut Hostile, code: Code, shape: Inflight, fds: Vec<OwnedFd>) -> Result<()> {
    let mut payload = shape.mmap_size.to_ne_bytes().to_vec();
    payload.extend(shape.mmap_offset.to_ne_bytes());
    payload.extend(shape.num_queues.to_ne_bytes());
    payload.extend(shape.queue_size.to_ne_bytes());
    payload.extend([0; 4]);
    hostile.message(code, &payload, fds)
}

fn impossible_inflight(hostile: &mut Hostile) -> Result<()> {
    let shape = Inflight { num_queues: u16::MAX, queue_size: u16::MAX, ..Inflight::default() };
    inflight(hostile, Code::GET_INFLIGHT_FD, shape, vec![])
}

fn missing_inflight(hostile: &mut Hostile) -> Result<()> {
    let shape =
        Inflight { mmap_size: 1 << 40, mmap_offset: 1 << 40, num_queues: 2, queue_size: 64, padding: 0 };
    inflight(hostile, Code::SET_INFLIGHT_FD, shape, hostile.descriptors(1)?)
}

fn no_file(hostile: &mut Hostile) -> Result<()> {
    let event = EventFd::create()?;
    hostile.message(Code::SET_MEM_TABLE, &table(&[at(GPA)]), vec![event.into()])
}

fn taken_away(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    hostile.memory_table(&[MemoryRegion { user_addr: 1 << 30, ..at(GPA) }])
}

fn many_tables(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    for n in 0..u64::from(FLOOD) {
        let more = MemoryRegion {
            guest_addr: GPA << 4,
            size: 4096 * (n % 9 + 1),
            user_addr: 1 << 30,
            mmap_offset: 0,
        };
        hostile.memory_table(&[at(GPA), more])?;
    }
    hostile.settle()
}

fn many_sizes(hostile: &mut Hostile) -> Result<()> {
    for n in 0..FLOOD / 4 {
        hostile.state(Code::SET_VRING_NUM, n % 2, 1 << (n % 15))?;
        for code in [Code::SET_VRING_KICK, Code::SET_VRING_CALL, Code::SET_VRING_ERR] {
            let event = EventFd::create()?;
            hostile.message(code, &u64::from(n % 2).to_ne_bytes(), vec![event.into()])?;
        }
    }
    hostile.settle()
}

fn placed(hostile: &mut Hostile, desc: u64) -> Result<()> {
    hostile.show_memory()?;
    let mut addr = hostile.ring_addr(Transmits);
    addr.desc = desc;
    hostile.front.set_vring_addr(addr)?;
    hostile.front.set_vring_num(1, 64)?;
    hostile.front.set_vring_base(1, 0)?;
    hostile.front.set_vring_kick(1, None)?;
    hostile.front.enable_vring(1)?;
    Ok(())
}

fn outside(hostile: &mut Hostile) -> Result<()> {
    placed(hostile, USER - 4096)
}

fn across(hostile: &mut Hostile) -> Result<()> {
    placed(hostile, USER + MEMORY_BYTES - 1008)
}

fn odd(hostile: &mut Hostile) -> Result<()> {
    placed(hostile, USER + 8)
}

fn sized(hostile: &mut Hostile, size: u32) -> Result<()> {
    hostile.show_memory()?;
    hostile.start_ring(Receives, size)
}

fn moved(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    let mut addr = hostile.ring_addr(Receives);
    addr.used += 64;
    hostile.front.set_vring_addr(addr)?;
    Ok(())
}

fn moved_politely(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    let mut addr = hostile.ring_addr(Receives);
    addr.desc += 64;
    let answer = hostile.front.set_vring_addr(addr);
    ensure!(matches!(answer, Err(FrontendError::Refused(..))), "it was not told no: {answer:?}");
    Ok(())
}

fn changed(hostile: &mut Hostile, code: Code, number: u32) -> Result<()> {
    hostile.start()?;
    hostile.state(code, Transmits as u32, number)
}

fn file_for_kick(hostile: &mut Hostile) -> Result<()> {
    hostile.message(Code::SET_VRING_KICK, &[0; 8], hostile.descriptors(1)?)
}
