//! A guest breaks its rings: each way stops its own port, or costs it a frame, and nothing else.
//!
//! Cases that replay the pattern of a published fault of DPDK's vhost library carry its number.

use anyhow::Result;
use lab::hostile::{BUFFER_BYTES, BUFFERS, Descriptor, GPA, Hostile, MEMORY_BYTES, RING_SIZE, Ring};
use std::time::{Duration, Instant};
use virtio_defs::desc_flag::{INDIRECT, NEXT, WRITE};
use virtio_defs::{feature, net};

use super::stage::{Case, Outcome, play};
use crate::{Need, Scenario};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new("resilience/hostile-descriptors", &[Need::Ringway], |c| play(c, DESCRIPTORS)),
    Scenario::new("resilience/hostile-indirect-tables", &[Need::Ringway], |c| play(c, INDIRECT_TABLES)),
    Scenario::new("resilience/hostile-frames", &[Need::Ringway], |c| play(c, FRAMES)),
    Scenario::new("resilience/truncated-memory", &[Need::Ringway], |c| play(c, TRUNCATED)),
];

use Outcome::{Drops, Ends, Passes, Stops};
use Ring::{Receives, Transmits};

const END: u64 = GPA + MEMORY_BYTES;
const UNMAPPED: &str = "buffer is outside the memory table";
/// Bytes of the virtio-net header.
const HEADER: u32 = 12;
/// An Ethernet header that leads nowhere in particular.
const FRAME: [u8; 64] = [0xff; 64];

const DESCRIPTORS: &[Case] = &[
    Case::new("address outside the memory", |h| transmit(h, &[(GPA - 1, 100, 0)]), Stops(UNMAPPED)),
    Case::new(
        "address at the end of all addresses",
        |h| transmit(h, &[(u64::MAX - 9, 100, 0)]),
        Stops(UNMAPPED),
    ),
    Case::new(
        "buffer runs out of the memory, CVE-2018-1059",
        |h| transmit(h, &[(END - 71, 100, 0)]),
        Stops(UNMAPPED),
    ),
    Case::new("enormous buffer", |h| transmit(h, &[(BUFFERS, u32::MAX, 0)]), Stops(UNMAPPED)),
    Case::new(
        "receive buffer outside the memory",
        |h| receive(h, &[(GPA - 1, 2048, WRITE)]),
        Stops(UNMAPPED),
    ),
    Case::new(
        "receive buffer runs out of the memory",
        |h| receive(h, &[(END - 40, 2048, WRITE)]),
        Stops(UNMAPPED),
    ),
    Case::new("bad buffer among good ones of a batch, CVE-2020-10725", bad_in_batch, Stops(UNMAPPED))
        .packed(),
    Case::new("head past the table", |h| head(h, Transmits, 64), Stops("past the descriptor table's end"))
        .split(),
    Case::new(
        "receive head past the table",
        |h| head(h, Receives, 0xffff),
        Stops("past the descriptor table's end"),
    )
    .split(),
    Case::new("available index jumps", |h| jump(h, Transmits, 65), Stops("available index moved past"))
        .split(),
    Case::new("receive index jumps back", |h| jump(h, Receives, 0xffff), Stops("available index moved past"))
        .split(),
    Case::new("chain leaves the table", leaves_table, Stops("chain leaves the table")).split(),
    Case::new("chain loops, CVE-2020-14378", |h| endless(h, Transmits, 0), Stops("chain loops")),
    Case::new("receive chain loops", |h| endless(h, Receives, WRITE), Stops("chain loops")),
    Case::new("chain of nothing, all around the ring", nothing, Stops("chain loops")),
    Case::new(
        "writable buffer to be sent",
        |h| transmit(h, &[(BUFFERS, 100, WRITE)]),
        Stops("wrong direction"),
    ),
    Case::new("read-only buffer to receive", |h| receive(h, &[(BUFFERS, 2048, 0)]), Stops("wrong direction")),
    Case::new("rewritten while being read, CVE-2020-14375", rewritten, Ends),
    Case::new("receive buffers on top of the rings", on_top_of_rings, Ends),
];

const INDIRECT_TABLES: &[Case] = &[
    Case::new(
        "not negotiated",
        |h| transmit(h, &[(BUFFERS, 16, INDIRECT)]),
        Stops("indirect descriptor was not negotiated"),
    )
    .without(feature::INDIRECT_DESC),
    Case::new(
        "table in a table",
        |h| table(h, &[(BUFFERS, 16, INDIRECT)], 16),
        Stops("inside an indirect table"),
    ),
    Case::new(
        "table with a successor",
        |h| transmit(h, &[(BUFFERS, 16, INDIRECT | NEXT)]),
        Stops("has a successor"),
    ),
    Case::new("table of no entry", |h| transmit(h, &[(BUFFERS, 0, INDIRECT)]), Stops("bad length")),
    Case::new("table of half an entry", |h| transmit(h, &[(BUFFERS, 24, INDIRECT)]), Stops("bad length")),
    Case::new("table outside the memory", |h| transmit(h, &[(END - 8, 16, INDIRECT)]), Stops(UNMAPPED)),
    Case::new("table of the whole memory", table_of_all, Stops("chain loops")),
    Case::new("entry outside the memory, CVE-2020-14377", |h| table(h, &[(END, 16, 0)], 16), Stops(UNMAPPED)),
    Case::new(
        "entries that loop",
        |h| table(h, &[(BUFFERS, 1, NEXT), (BUFFERS, 1, NEXT)], 32),
        Stops("chain loops"),
    )
    .split(),
    Case::new(
        "entry past the table",
        |h| table(h, &[(BUFFERS, 1, NEXT)], 16),
        Stops("chain leaves the table"),
    )
    .split(),
];

const FRAMES: &[Case] = &[
    Case::new(
        "checksum beyond the frame, CVE-2024-11614",
        |h| header(h, [1, 0, 0, 0, 0, 0, 0xf0, 0xff, 16, 0]),
        Drops("bad-offload"),
    ),
    Case::new("segments of no size", |h| header(h, [1, 1, 54, 0, 0, 0, 34, 0, 16, 0]), Drops("bad-offload")),
    Case::new("header over many buffers, CVE-2022-2132", header_in_pieces, Passes),
    Case::new("shorter than its header", |h| transmit(h, &[(BUFFERS, HEADER - 1, 0)]), Drops("bad-chain")),
    Case::new("frame of 13 bytes", |h| transmit(h, &[(BUFFERS, HEADER + 13, 0)]), Drops("runt")),
    Case::new("frame of 180 MB", |h| transmit(h, &[(BUFFERS, BUFFER_BYTES as u32, NEXT); 60]), Ends),
    Case::new(
        "receive buffers too small for a header, CVE-2020-14374",
        |h| receive(h, &[(BUFFERS, HEADER - 1, WRITE)]),
        Drops("tx-buffer-too-small"),
    )
    .without(net::feature::MRG_RXBUF),
    Case::new(
        "receive buffer a byte too small, CVE-2020-14376",
        |h| receive(h, &[(END - 71, HEADER + 59, WRITE)]),
        Drops("tx-buffer-too-small"),
    )
    .without(net::feature::MRG_RXBUF),
    Case::new("receive buffers of no bytes", |h| receive(h, &[(BUFFERS, 0, WRITE)]), Drops("tx-full")),
];

const TRUNCATED: &[Case] = &[
    Case::new("all of it", |h| truncated(h, 0), Stops("memory file was truncated")),
    Case::new("the frame to be sent", sent_from_truncated, Stops("memory file was truncated")),
    Case::new("the buffers to receive", received_into_truncated, Stops("memory file was truncated")),
];

fn transmit(hostile: &mut Hostile, chain: &[Descriptor]) -> Result<()> {
    hostile.start()?;
    hostile.write(BUFFERS - GPA + u64::from(HEADER), &FRAME)?;
    hostile.offer(Transmits, chain)
}

fn receive(hostile: &mut Hostile, chain: &[Descriptor]) -> Result<()> {
    hostile.start()?;
    hostile.offer(Receives, chain)
}

fn bad_in_batch(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    for index in [3, 2, 1, 0] {
        let address = if index == 2 { END } else { BUFFERS };
        hostile.ring_descriptor(Transmits, index, (address, 76, 0), index)?;
    }
    hostile.kick(Transmits);
    Ok(())
}

fn head(hostile: &mut Hostile, ring: Ring, head: u16) -> Result<()> {
    hostile.start()?;
    hostile.available_entry(ring, 0, head)?;
    jump_started(hostile, ring, 1)
}

fn jump(hostile: &mut Hostile, ring: Ring, index: u16) -> Result<()> {
    hostile.start()?;
    jump_started(hostile, ring, index)
}

fn jump_started(hostile: &mut Hostile, ring: Ring, index: u16) -> Result<()> {
    hostile.available_index(ring, index)?;
    hostile.kick(ring);
    Ok(())
}

fn leaves_table(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    hostile.ring_descriptor(Transmits, 0, (BUFFERS, 10, NEXT), RING_SIZE)?;
    hostile.available_entry(Transmits, 0, 0)?;
    jump_started(hostile, Transmits, 1)
}

/// Every descriptor of the ring goes on, the last one with the first.
fn endless(hostile: &mut Hostile, ring: Ring, flags: u16) -> Result<()> {
    hostile.start()?;
    for index in (0..RING_SIZE).rev() {
        hostile.ring_descriptor(ring, index, (BUFFERS, 1, NEXT | flags), (index + 1) % RING_SIZE)?;
    }
    hostile.available_entry(ring, 0, 0)?;
    hostile.available_index(ring, 1)?;
    hostile.kick(ring);
    Ok(())
}

fn nothing(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    hostile.offer(Transmits, &[(0, 0, NEXT); RING_SIZE as usize])
}

/// For a while every field of the descriptors says something else every moment.
fn rewritten(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    let until = Instant::now() + Duration::from_millis(300);
    let mut turn = 0u16;
    while Instant::now() < until {
        turn = turn.wrapping_add(1);
        let address = [BUFFERS, END - 8, 0, u64::MAX][usize::from(turn % 4)];
        let flags = [0, NEXT, WRITE, INDIRECT, 0xffff][usize::from(turn % 5)];
        for (ring, index) in [(Transmits, turn % 3), (Receives, turn % 3)] {
            let length = u32::from(turn).wrapping_mul(0x9e37_79b9);
            hostile.ring_descriptor(ring, index, (address, length, flags), turn % 70)?;
            hostile.available_entry(ring, turn % 3, turn % 3)?;
            hostile.available_index(ring, turn % 64)?;
            hostile.kick(ring);
        }
    }
    Ok(())
}

/// What is received overwrites the ring it is received by.
fn on_top_of_rings(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    for turn in 0..20 {
        hostile.offer(Receives, &[(GPA + turn * 8, 2048, WRITE)])?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Sends by a table of these entries that claims to be `bytes` long.
fn table(hostile: &mut Hostile, entries: &[Descriptor], bytes: u32) -> Result<()> {
    hostile.start()?;
    for (index, &entry) in (0u16..).zip(entries) {
        // The last one leads back to the first, or out of a table of one.
        let link = if entries.len() == 1 { 1 } else { (index + 1) % entries.len() as u16 };
        hostile.descriptor(BUFFERS - GPA, index, entry, link)?;
    }
    hostile.offer(Transmits, &[(BUFFERS, bytes, INDIRECT)])
}

/// A table of as many entries as there is memory, each of a byte.
fn table_of_all(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    for index in 0..2048 {
        let flags = if hostile.packed { 0 } else { NEXT };
        hostile.descriptor(BUFFERS - GPA, index, (BUFFERS, 1, flags), index + 1)?;
    }
    hostile.offer(Transmits, &[(BUFFERS, BUFFER_BYTES as u32, INDIRECT)])
}

/// Sends a frame behind a virtio-net header that begins with these bytes.
fn header(hostile: &mut Hostile, bytes: [u8; 10]) -> Result<()> {
    hostile.start()?;
    hostile.write(BUFFERS - GPA, &bytes)?;
    hostile.offer(Transmits, &[(BUFFERS, HEADER + 60, 0)])
}

fn header_in_pieces(hostile: &mut Hostile) -> Result<()> {
    let mut chain: Vec<_> = (0..u64::from(HEADER)).map(|byte| (BUFFERS + byte, 1, NEXT)).collect();
    chain.push((BUFFERS + u64::from(HEADER), 60, 0));
    transmit(hostile, &chain)
}

fn truncated(hostile: &mut Hostile, bytes: u64) -> Result<()> {
    hostile.start()?;
    hostile.memory().set_len(bytes)?;
    hostile.kick(Transmits);
    Ok(())
}

/// The rings stay; the buffer goes before it is copied to the other guest.
fn sent_from_truncated(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    hostile.memory().set_len(BUFFERS - GPA)?;
    hostile.offer(Transmits, &[(BUFFERS + 4096, HEADER + 1000, 0)])
}

fn received_into_truncated(hostile: &mut Hostile) -> Result<()> {
    hostile.start()?;
    hostile.memory().set_len(BUFFERS - GPA)?;
    hostile.offer(Receives, &[(BUFFERS + 4096, 2048, WRITE)])
}
