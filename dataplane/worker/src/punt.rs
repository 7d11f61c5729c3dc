//! Frames for the controller: a bounded queue from all workers to the control thread.

use crossbeam_queue::ArrayQueue;
use packet::Burst;
use port::PortId;

/// Most bytes kept of a punted frame.
pub const PUNT_BYTES: usize = 256;

/// The beginning of a frame that a rule sent to the controller.
#[derive(Clone, Copy, Debug)]
pub struct Punt {
    /// The port it came in by.
    pub port: PortId,
    /// Its whole length in bytes.
    pub frame_len: u32,
    /// How many bytes are kept.
    pub len: u16,
    bytes: [u8; PUNT_BYTES],
}

impl Punt {
    /// Copies the first bytes of frame `i`, at most `max_len`.
    pub(crate) fn copy(burst: &Burst, i: usize, max_len: u16, port: PortId) -> Punt {
        let frame_len = burst.frame_len(i);
        let len = frame_len.min(max_len as usize).min(PUNT_BYTES);
        let mut bytes = [0; PUNT_BYTES];
        burst.read(i, 0, &mut bytes[..len]);
        Punt { port, frame_len: frame_len as u32, len: len as u16, bytes }
    }

    /// The kept bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

/// The queue; full, it refuses (the frame is dropped with a reason).
pub type PuntQueue = ArrayQueue<Punt>;
