//! A modelled board with two interfaces, and a port's queues driven by hand.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use dpaa2_model::{Description, Model, ModelBus, SharedModel};
use dpaa2_port::{Dpaa2, Dpaa2Handle, PoolConfig, PortConfig};
use packet::{Burst, HugePages, Offload, OwnedBurst};
use port::{DropReason, PortCounters, QueueFault, Received, RxQueue, Selection, TxQueue};

pub const SOCS: [&str; 3] = ["lx2160a", "ls2088a", "ls1088a"];

/// A board: `dpni.1` and `dpni.2` on `dpmac.1` and `dpmac.2`.
pub struct Board {
    pub model: SharedModel,
    pub hardware: Dpaa2<ModelBus>,
}

impl Board {
    pub fn new(soc: &str) -> Board {
        Board::with(soc, 8)
    }

    /// With this many concentrators: without any, receive queues are polled.
    pub fn with(soc: &str, dpcons: u32) -> Board {
        Board::described(soc, dpcons, "")
    }

    /// Whose `dpni.1` has these attributes too.
    pub fn described(soc: &str, dpcons: u32, attributes: &str) -> Board {
        let text = format!(
            r#"
            soc = "{soc}"
            [[container]]
            id = 2
            dpio = 12
            dpbp = 4
            dpcon = {dpcons}
            [[container.dpni]]
            id = 1
            mac = "02:00:00:00:00:01"
            {attributes}
            [[container.dpni]]
            id = 2
            mac = "02:00:00:00:00:02"
            [[dpmac]]
            id = 1
            [[dpmac]]
            id = 2
            [[connection]]
            a = "dpni.1"
            b = "dpmac.1"
            [[connection]]
            a = "dpni.2"
            b = "dpmac.2"
            "#
        );
        let description = Description::from_toml(&text).unwrap();
        let model = Model::new(&description).unwrap().share();
        let bus = ModelBus::open(model.clone(), 2).unwrap();
        let hardware = Dpaa2::open(bus).unwrap();
        Board { model, hardware }
    }

    pub fn model<T>(&self, f: impl FnOnce(&mut Model) -> T) -> T {
        f(&mut self.model.lock().unwrap())
    }

    /// Opens `dpni.N` with a small pool of its own, `dpbp.N`.
    pub fn port(&self, dpni: u32) -> TestPort {
        self.port_with(small(dpni))
    }

    pub fn port_with(&self, config: PortConfig) -> TestPort {
        let port = self.hardware.open_port(&config).unwrap_or_else(|error| panic!("{error}"));
        let handle = port.handle();
        let dpaa2_port::Dpaa2Queues { rx, tx } = port.into_queues();
        TestPort { handle, rx, tx, counters: Arc::default() }
    }

    /// Puts a frame on a MAC's wire.
    pub fn send(&self, dpmac: u32, frame: &[u8]) {
        assert!(self.model(|model| model.put_on_wire(dpmac, frame)));
    }

    /// What was sent to a MAC's wire.
    pub fn sent(&self, dpmac: u32) -> Vec<Vec<u8>> {
        self.model(|model| std::iter::from_fn(|| model.take_from_wire(dpmac)).collect())
    }

    /// Asserts that nothing but the hardware itself is left, and that no rule was broken.
    pub fn close(self, ports: Vec<TestPort>) {
        drop(ports);
        for account in self.hardware.accounts().unwrap() {
            assert_eq!(account.free, account.buffers, "{}", account.dpbp);
        }
        drop(self.hardware);
        let audit = self.model.lock().unwrap().audit();
        assert!(
            audit.violations.is_empty(),
            "{}",
            audit.violations.iter().map(|v| format!("{v}\n")).collect::<String>()
        );
        assert_eq!(
            (audit.violations_total, audit.open_tokens, audit.queued_frames, audit.mapped_bytes),
            (0, 0, 0, 0)
        );
    }
}

/// 256 buffers instead of thousands.
pub fn small(dpni: u32) -> PortConfig {
    let mut config = PortConfig::new(dpni, dpni);
    config.rx_pools[0].pool = PoolConfig { buffers: 256, ..PoolConfig::new(dpni) };
    config
}

pub struct TestPort {
    pub handle: Dpaa2Handle,
    pub rx: Vec<Box<dyn RxQueue>>,
    pub tx: Vec<Box<dyn TxQueue>>,
    pub counters: Arc<PortCounters>,
}

impl TestPort {
    /// Receives what has come to all queues: bytes and offload of each frame.
    pub fn receive(&mut self) -> Vec<(Vec<u8>, Offload)> {
        let mut all = vec![];
        // Two empty turns: one to ask, one to look.
        let mut empty = 0;
        while empty < 2 {
            let mut burst = Burst::new();
            let before = all.len();
            for queue in &mut self.rx {
                let mut received = Received::poll(&mut **queue, &mut burst, &self.counters).unwrap();
                let burst = received.burst();
                for i in 0..burst.len() {
                    all.push((bytes(burst, i), *burst.offload(i)));
                }
            }
            empty = if all.len() == before { empty + 1 } else { 0 };
        }
        all
    }

    /// Sends frames made by somebody else.
    pub fn transmit(&mut self, frames: &[(Vec<u8>, Offload)]) {
        self.try_transmit(frames).unwrap();
    }

    pub fn try_transmit(&mut self, frames: &[(Vec<u8>, Offload)]) -> Result<(), QueueFault> {
        for frames in frames.chunks(packet::BURST_MAX) {
            let mut made = OwnedBurst::new(32, 16 << 10, HugePages::Off).unwrap();
            for (frame, offload) in frames {
                made.push(*offload, |to| {
                    to[..frame.len()].copy_from_slice(frame);
                    frame.len()
                });
            }
            let which: Vec<u8> = (0..frames.len() as u8).collect();
            self.tx[0].transmit(Selection { burst: made.burst(), which: &which }, &self.counters)?;
        }
        Ok(())
    }

    pub fn counter(&self, name: &str) -> u64 {
        let all = self.handle.statistics().unwrap();
        all.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("there is a counter {name}")).1
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.counters.drops(reason)
    }
}

/// Forwards what has come to `from` to `to`, each frame's only output, after `edit`. Returns how many.
pub fn forward(from: &mut TestPort, to: &mut TestPort, mut edit: impl FnMut(&mut Burst, usize)) -> usize {
    let mut forwarded = 0;
    let mut empty = 0;
    while empty < 2 {
        let mut burst = Burst::new();
        let mut received = Received::poll(&mut *from.rx[0], &mut burst, &from.counters).unwrap();
        let burst = received.burst();
        let which: Vec<u8> = (0..burst.len() as u8).collect();
        for &i in &which {
            edit(burst, i.into());
            burst.allow_take(i.into());
        }
        if which.is_empty() {
            empty += 1;
            continue;
        }
        empty = 0;
        forwarded += which.len();
        to.tx[0].transmit(Selection { burst, which: &which }, &to.counters).unwrap();
    }
    forwarded
}

pub fn bytes(burst: &Burst, i: usize) -> Vec<u8> {
    let mut bytes = vec![0; burst.frame_len(i)];
    burst.read(i, 0, &mut bytes);
    bytes
}

/// A frame without meaning, `len` bytes, number `n` in it.
pub fn frame(n: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
    for (i, byte) in frame.iter_mut().enumerate().skip(14) {
        *byte = (i as u8).wrapping_mul(31).wrapping_add(n);
    }
    frame
}

/// A UDP frame over IPv4 with right checksums.
pub fn udp(source_port: u16, payload: usize) -> Vec<u8> {
    let mut frame = frame(7, 14 + 20 + 8 + payload);
    frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    let ip = &mut frame[14..];
    let total = (28 + payload) as u16;
    ip[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let sum = headers::checksum::checksum(&ip[..20]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip[20..22].copy_from_slice(&source_port.to_be_bytes());
    ip[22..24].copy_from_slice(&9_u16.to_be_bytes());
    ip[24..26].copy_from_slice(&(8 + payload as u16).to_be_bytes());
    ip[26..28].fill(0);
    let pseudo = headers::checksum::Sum::default().pseudo_header(&ip[12..20], 17, 8 + payload);
    let sum = pseudo.bytes(&ip[20..]).finish();
    ip[26..28].copy_from_slice(&sum.to_be_bytes());
    frame
}
