//! Guests without a virtual machine, played by threads of the test itself.

use anyhow::{Result, anyhow, ensure};
use guest_host::{GenerateRole, GuestConfig, Rate, Report, Role, SocketMode};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A guest of `guest_host` on a thread of its own. Dropping it ends it.
pub struct PlayedGuest {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Report, guest_host::GuestError>>>,
}

impl PlayedGuest {
    /// Starts it. It waits for the switch as long as it takes.
    pub fn start(config: GuestConfig) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || guest_host::run(&config, &flag, |_| ()));
        Self { stop, thread: Some(thread) }
    }

    /// Ends it and returns what it has to tell.
    ///
    /// # Errors
    /// It could not begin, for instance because its socket is taken.
    pub fn finish(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("joined once");
        Ok(thread.join().map_err(|_| anyhow!("the thread of a played guest panicked"))??)
    }
}

impl Drop for PlayedGuest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How two played guests exchange frames.
#[derive(Clone, Copy, Debug)]
pub struct TrafficOptions {
    /// Frames a second.
    pub rate: u32,
    /// Frames on their way at most. Small against the rings, so that only a switch that loses frames loses one.
    pub window: u32,
    /// Bytes of a frame without FCS.
    pub size: u16,
    /// Packed instead of split rings.
    pub packed: bool,
    /// The guests listen, the switch connects.
    pub server: bool,
    /// Last byte of the generator's Ethernet address `02:52:57:ff:00:XX`; the reflector's is one more.
    pub station: u8,
}

impl Default for TrafficOptions {
    /// 20,000 short frames a second, 64 of them on their way, through split rings.
    fn default() -> Self {
        Self { rate: 20_000, window: 64, size: 60, packed: false, server: false, station: 1 }
    }
}

/// Entries of the rings: what a stalled switch leaves in them must not fill them.
const RING_SIZE: u16 = 1024;

/// Two guests in conversation: one sends numbered frames, the other sends them back.
pub struct Traffic {
    generator: PlayedGuest,
    reflector: PlayedGuest,
}

/// What two guests in conversation noticed.
#[derive(Clone, Debug)]
pub struct Felt {
    /// Frames sent.
    pub sent: u64,
    /// Frames that did not come back.
    pub lost: u64,
    /// Frames that came back twice.
    pub duplicated: u64,
    /// The longest time a frame took there and back, in milliseconds: no pause of the switch was longer.
    pub longest_ms: f64,
    /// Half of the frames took no longer, in milliseconds.
    pub median_ms: f64,
    /// The generator's own report.
    pub generator: Report,
    /// The reflector's own report.
    pub reflector: Report,
}

impl Traffic {
    /// Starts the reflector, then, when `ready` says that it is there, the generator: no frame is sent in vain.
    ///
    /// # Errors
    /// Those of `ready`.
    pub fn start(
        generator: &Path,
        reflector: &Path,
        options: TrafficOptions,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let reflect = Self::guest("reflector", reflector, options, Role::Reflect);
        let reflector = PlayedGuest::start(reflect);
        ready()?;
        Ok(Self { generator: PlayedGuest::start(Self::generator(generator, options)), reflector })
    }

    fn generator(socket: &Path, options: TrafficOptions) -> GuestConfig {
        let to = address(options.station + 1);
        let rate = Rate::Pps(NonZeroU64::new(options.rate.into()).expect("a generator has a rate"));
        let role = GenerateRole {
            to,
            rate,
            size: options.size,
            window: Some(options.window),
            ..GenerateRole::default()
        };
        Self::guest("generator", socket, options, Role::Generate(role))
    }

    fn guest(name: &str, socket: &Path, options: TrafficOptions, role: Role) -> GuestConfig {
        let mode = if options.server { SocketMode::Server } else { SocketMode::Client };
        let station = if role == Role::Reflect { options.station + 1 } else { options.station };
        GuestConfig {
            mac: address(station),
            packed: options.packed,
            ring_size: RING_SIZE,
            ..GuestConfig::new(name, socket, mode, role)
        }
    }

    /// Stops sending, waits for what is on its way, and compares.
    ///
    /// # Errors
    /// A guest could not begin, nothing came back, or the switch broke a ring.
    pub fn finish(self) -> Result<Felt> {
        let generator = self.generator.finish()?;
        let reflector = self.reflector.finish()?;
        for report in [&generator, &reflector] {
            ensure!(report.ring_faults == 0, "the switch broke a ring of the {}: {report:?}", report.name);
            ensure!(report.bad_frames == 0, "the {} got senseless frames: {report:?}", report.name);
        }
        let Some((lost, latency)) = generator.lost.zip(generator.latency.as_ref()) else {
            anyhow::bail!("nothing came back: {generator:?}")
        };
        Ok(Felt {
            sent: generator.sent,
            lost,
            duplicated: generator.duplicated,
            longest_ms: latency.max_us / 1000.0,
            median_ms: latency.p50_us / 1000.0,
            generator,
            reflector,
        })
    }
}

fn address(station: u8) -> [u8; 6] {
    [0x02, 0x52, 0x57, 0xff, 0, station]
}
