//! The DPAA2 driver on the model, a fixed number of frames: what `cargo xtask bench dpaa2` counts of Ringway.
//!
//! One thread, no clock of its own: frames are put on the modelled wire, a turn moves them, they are taken off the wire. Prints
//! the stores and cache lines of all turns as JSON; callgrind counts the instructions inside [`counted_turn`], where the model,
//! which stands for hardware, is left out at its windows.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use dpaa2_model::{Description, Model, ModelBus, SharedModel, lock};
use dpaa2_port::{Dpaa2, PoolConfig, PortConfig};
use packet::{Burst, HugePages, Offload, OwnedBurst};
use port::{PortCounters, Received, RxQueue, Selection, TxQueue};

/// Bytes of a frame.
const FRAME: usize = 64;
/// Turns before counting begins: every buffer and ring entry has been used.
const WARM_UP: usize = 600;

/// Moves frames through a modelled DPAA2 interface.
#[derive(Parser)]
struct Arguments {
    /// `lx2160a`, `ls2088a` or `ls1088a`.
    soc: String,
    /// `forward` (descriptors move from receive to transmit), `receive` (and drop) or `transmit` (copies of others' frames).
    what: String,
    /// Frames a turn, 1 to 32.
    burst: usize,
    /// Turns that are counted.
    turns: usize,
}

/// The queues of an interface and bursts to use them with.
struct Interface {
    rx: Box<dyn RxQueue>,
    tx: Box<dyn TxQueue>,
    counters: Arc<PortCounters>,
    burst: Burst,
    /// Frames of somebody else, to be copied.
    others: OwnedBurst,
    which: [u8; packet::BURST_MAX],
}

impl Interface {
    /// One turn: receives, and sends what was received, or only one of the two. Returns how many frames were moved.
    fn turn(&mut self, what: What, frames: usize) -> Result<usize> {
        if what == What::Transmit {
            let selection = Selection { burst: self.others.burst(), which: &self.which[..frames] };
            self.tx.transmit(selection, &self.counters)?;
            return Ok(frames);
        }
        let mut received = Received::poll(&mut *self.rx, &mut self.burst, &self.counters)?;
        let burst = received.burst();
        let frames = burst.len();
        if what == What::Forward && frames > 0 {
            burst.allow_take_of(u32::MAX);
            self.tx.transmit(Selection { burst, which: &self.which[..frames] }, &self.counters)?;
        }
        Ok(frames)
    }
}

/// A turn, under a name of its own.
#[inline(never)]
fn counted_turn(interface: &mut Interface, what: What, frames: usize) -> Result<usize> {
    interface.turn(what, frames)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Forward,
    Receive,
    Transmit,
}

fn main() -> Result<()> {
    let Arguments { soc, what, burst, turns } = Arguments::parse();
    let what = match what.as_str() {
        "forward" => What::Forward,
        "receive" => What::Receive,
        "transmit" => What::Transmit,
        other => bail!("forward, receive or transmit, not {other}"),
    };
    ensure!((1..=packet::BURST_MAX).contains(&burst), "1 to {} frames a turn", packet::BURST_MAX);
    // A dequeue brings 16 frames at most on direct portals.
    let polls = if soc == "lx2160a" || what == What::Transmit { 1 } else { burst.div_ceil(16) };
    let (model, mut interface) = interface(&soc)?;
    let frame = frame();
    for _ in 0..burst {
        interface.others.push(Offload::default(), |to| {
            to[..FRAME].copy_from_slice(&frame);
            FRAME
        });
    }
    let mut before = None;
    for turn in 0..WARM_UP + turns {
        if turn == WARM_UP {
            let mut model = lock(&model);
            model.count_lines();
            before = Some(model.counters());
        }
        if what != What::Transmit {
            let mut model = lock(&model);
            ensure!((0..burst).all(|_| model.put_on_wire(1, &frame)), "the wire takes frames");
        }
        let mut moved = 0;
        for _ in 0..polls {
            moved += match turn {
                0..WARM_UP => interface.turn(what, burst)?,
                _ => counted_turn(&mut interface, what, burst)?,
            };
        }
        // The first polls ask for frames, the next ones have them.
        ensure!(moved == burst || turn < polls, "{moved} of {burst} frames were moved in turn {turn}");
        let mut model = lock(&model);
        while model.take_from_wire(1).is_some() {}
    }
    let (before, after) = (before.context("there was a turn")?, lock(&model).counters());
    let report = serde_json::json!({
        "frames": burst * turns,
        "stores": after.stores - before.stores,
        "lines": after.lines - before.lines,
    });
    println!("{report}");
    drop(interface);
    let audit = lock(&model).audit();
    ensure!(audit.is_clean(), "{audit}");
    Ok(())
}

fn interface(soc: &str) -> Result<(SharedModel, Interface)> {
    let board = format!(
        r#"
        soc = "{soc}"
        [[container]]
        id = 2
        dpio = 2
        dpbp = 1
        [[container.dpni]]
        id = 1
        mac = "02:00:00:00:00:01"
        [[dpmac]]
        id = 1
        end = {{ kind = "quiet" }}
        [[connection]]
        a = "dpni.1"
        b = "dpmac.1"
        "#
    );
    let model = Model::new(&Description::from_toml(&board)?)?.share();
    let bus = ModelBus::open(Arc::clone(&model), 2).context("the container is described")?;
    let hardware = Dpaa2::open(bus, &[0])?;
    let mut config = PortConfig::new(1, 1);
    config.rx_pools[0].pool = PoolConfig { buffers: 512, ..PoolConfig::new(1) };
    let mut queues = hardware.open_port(&config)?.into_queues();
    let mut rx = queues.rx.pop().context("a receive queue")?;
    rx.assign(0);
    let tx = queues.tx.pop().and_then(|mut workers| workers.pop()).context("a transmit queue")?;
    let others = OwnedBurst::new(packet::BURST_MAX as u32, 2048, HugePages::Off)?;
    let which = std::array::from_fn(|i| i as u8);
    Ok((model, Interface { rx, tx, counters: Arc::default(), burst: Burst::new(), others, which }))
}

/// UDP over IPv4 without a checksum, to the interface.
fn frame() -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17]);
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let sum: u32 =
        frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    frame[38..40].copy_from_slice(&30u16.to_be_bytes());
    frame
}
