//! What a sender left to be done, done here for a receiver that doesn't take it: checksums, segmentation.
//!
//! The frames are copied once more on this path. Linux guests with offloads pay it only towards ports that
//! refused them.

use headers::Segmentation;
use headers::checksum::complete_checksum;
use packet::{BURST_MAX, Burst, Gso, HugePages, Offload, OwnedBurst};
use port::{Accepts, DropReason, PortCounters, QueueFault, Selection};

use crate::engine::ALL;
use crate::plane::WorkerTx;

/// The longest frame a sender can ask to be segmented.
const SUPER_FRAME_MAX: usize = 65_536 + 64;
/// Bytes of a buffer: the largest MTU with its headers and tags.
const BUFFER_BYTES: usize = 10_240;

/// Buffers and a burst of its own for frames made in software.
pub(crate) struct Offloads {
    made: OwnedBurst,
    whole: Vec<u8>,
}

impl Offloads {
    pub fn new(buffers: u32, huge_pages: HugePages) -> std::io::Result<Offloads> {
        let made = OwnedBurst::new(buffers.max(BURST_MAX as u32), BUFFER_BYTES, huge_pages)?;
        Ok(Offloads { made, whole: Vec::with_capacity(SUPER_FRAME_MAX) })
    }

    pub fn has_huge_pages(&self) -> bool {
        self.made.is_huge()
    }

    pub fn free_buffers(&self) -> usize {
        self.made.free()
    }

    /// Sends the frames in order: those the queue takes as they are, the others completed or segmented.
    #[cold]
    #[inline(never)]
    pub fn transmit(
        &mut self,
        tx: WorkerTx<'_>,
        burst: &mut Burst,
        which: &[u8],
        limit: usize,
        counters: &PortCounters,
        from: &PortCounters,
    ) -> Result<(), QueueFault> {
        let accepts = tx.accepts;
        let mut result = Ok(());
        let mut sent = 0;
        for (at, &frame) in which.iter().enumerate() {
            let i = frame as usize;
            let need = need(burst.offload(i), burst.frame_len(i), limit, accepts);
            if need == Need::Nothing {
                continue;
            }
            // What was before it goes before it.
            result = result.and(send(tx, burst, &which[sent..at], counters));
            sent = at + 1;
            match need {
                Need::Nothing => {}
                Need::Shorter => counters.dropped(DropReason::TooLong, 1),
                Need::Checksum => result = result.and(self.complete(tx, burst, i, counters)),
                Need::Segments => result = result.and(self.segment(tx, burst, i, limit, counters, from)),
            }
        }
        result.and(send(tx, burst, &which[sent..], counters))
    }

    /// Sends frame `i` with its checksum completed.
    fn complete(
        &mut self,
        tx: WorkerTx<'_>,
        burst: &Burst,
        i: usize,
        counters: &PortCounters,
    ) -> Result<(), QueueFault> {
        let len = burst.frame_len(i);
        let request = *burst.offload(i);
        let mut completed = false;
        if len <= BUFFER_BYTES {
            self.made.push(Offload::default(), |bytes| {
                burst.read(i, 0, &mut bytes[..len]);
                completed =
                    complete_checksum(&mut bytes[..len], request.csum_start, request.csum_offset).is_ok();
                len
            });
        }
        if completed {
            return self.flush(tx, counters);
        }
        self.made.clear();
        counters.dropped(DropReason::BadOffload, 1);
        Ok(())
    }

    /// Sends frame `i` in segments.
    fn segment(
        &mut self,
        tx: WorkerTx<'_>,
        burst: &Burst,
        i: usize,
        limit: usize,
        counters: &PortCounters,
        from: &PortCounters,
    ) -> Result<(), QueueFault> {
        self.whole.clear();
        self.whole.resize(burst.frame_len(i), 0);
        burst.read(i, 0, &mut self.whole);
        let request = burst.offload(i);
        let segmentation = match Segmentation::new(&self.whole, request.csum_start, request.gso_size) {
            Ok(s) if s.segment_max() <= limit.min(BUFFER_BYTES) => s,
            Ok(_) => {
                counters.dropped(DropReason::TooLong, 1);
                return Ok(());
            }
            Err(_) => {
                counters.dropped(DropReason::BadOffload, 1);
                return Ok(());
            }
        };
        let mut segments = segmentation.segments();
        from.copies.add(segments.len() as u64 - 1);
        let mut result = Ok(());
        while segments.len() > 0 {
            while self.made.has_room() && segments.len() > 0 {
                self.made.push(Offload::default(), |bytes| segments.write_next(bytes));
            }
            result = result.and(flush(&mut self.made, tx, counters));
        }
        result
    }

    fn flush(&mut self, tx: WorkerTx<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        flush(&mut self.made, tx, counters)
    }
}

/// Sends what was made and frees it.
fn flush(made: &mut OwnedBurst, tx: WorkerTx<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
    let frames = made.burst().len();
    let result = send(tx, made.burst(), &ALL[..frames], counters);
    made.clear();
    result
}

#[derive(PartialEq, Eq)]
enum Need {
    Nothing,
    Shorter,
    Checksum,
    Segments,
}

/// What must be done to a frame before a queue takes it.
fn need(request: &Offload, len: usize, limit: usize, accepts: Accepts) -> Need {
    let taken = match request.gso() {
        Gso::None => {
            return match () {
                () if len > limit => Need::Shorter,
                () if request.needs_csum() && !accepts.partial_checksum => Need::Checksum,
                () => Need::Nothing,
            };
        }
        Gso::Tcp4 => accepts.tso4,
        Gso::Tcp6 => accepts.tso6,
        Gso::Udp | Gso::Unknown(_) => false,
    };
    let ecn = request.gso_type & Offload::GSO_ECN != 0;
    let segment = usize::from(request.hdr_len) + usize::from(request.gso_size);
    if taken && (!ecn || accepts.tso_ecn) && segment <= limit { Need::Nothing } else { Need::Segments }
}

fn send(
    tx: WorkerTx<'_>,
    burst: &mut Burst,
    which: &[u8],
    counters: &PortCounters,
) -> Result<(), QueueFault> {
    if which.is_empty() { Ok(()) } else { tx.with(|q| q.transmit(Selection { burst, which }, counters)) }
}
