//! The device side of a queue of requests: chains whose first buffers are read and whose last are written.
//!
//! For what is asked seldom, such as a network device's control queue. Requests are allocated, and may be completed in
//! any order.

use std::fmt;
use std::sync::Arc;

use guest_memory::MemMap;
use port::QueueFault;
use virtio_defs::feature;

use crate::chain::{Access, Piece, Walk};
use crate::core::{AnyRing, Core, queue_setters, with_ring};
use crate::ring::{Done, Ring};
use crate::{RingConfig, RingError};

/// A ring of requests.
#[derive(Debug)]
pub struct RequestQueue {
    core: Core,
    ring: AnyRing,
}

/// What a driver asks for, until [`RequestQueue::complete`].
pub struct Request {
    done: Done,
    readable: Vec<Piece>,
    writable: Vec<Piece>,
    /// Keeps what the pieces point to.
    map: Arc<MemMap>,
}

// SAFETY: the pieces point into the map beside them; what is there is reached by volatile copies only.
unsafe impl Send for Request {}

impl RequestQueue {
    /// Starts a ring.
    ///
    /// # Errors
    /// Size, alignment or place of the ring is not allowed, or version 1 was not negotiated.
    pub fn new(config: RingConfig, map: Arc<MemMap>) -> Result<RequestQueue, RingError> {
        let (core, ring) = Core::new(config, map)?;
        Ok(RequestQueue { core, ring })
    }

    /// Takes the next request, if there is one.
    ///
    /// # Errors
    /// The driver broke the ring, now or before.
    pub fn take(&mut self) -> Result<Option<Request>, QueueFault> {
        if let Some(fault) = self.core.fault {
            return Err(fault);
        }
        let taken = with_ring!(&mut self.ring, ring => take(&mut self.core, ring));
        match taken {
            Ok(_) if self.core.map.faulted() => Err(self.core.fail(RingError::MemoryGone(0))),
            Ok(request) => Ok(request),
            Err(error) => Err(self.core.fail(error)),
        }
    }

    /// Gives a request back, with so many bytes written into it, and interrupts the driver if it wants that.
    pub fn complete(&mut self, request: Request, written: u32) {
        if self.core.fault.is_some() {
            return;
        }
        with_ring!(&mut self.ring, ring => {
            ring.complete(&[request.done.with_len(written)]);
            if ring.wants_call() && let Some(call) = &self.core.config.call {
                call.signal();
            }
        });
    }

    /// Asks for kicks; true when a request is there already.
    pub fn ask_for_kicks(&mut self) -> bool {
        self.core.fault.is_none() && with_ring!(&mut self.ring, ring => ring.ask_for_kicks())
    }

    fn idle(&self) -> bool {
        true
    }

    queue_setters!();
}

fn take<R: Ring>(core: &mut Core, ring: &mut R) -> Result<Option<Request>, RingError> {
    ring.refresh()?;
    let Some(head) = ring.take()? else { return Ok(None) };
    let mut pieces = Vec::new();
    let mut walk = Walk {
        map: &core.map,
        cache: &mut core.cache,
        indirect: core.config.has(feature::INDIRECT_DESC),
        access: Access::ReadThenWrite,
        pieces: &mut pieces,
    };
    let chain = walk.run(ring, head)?;
    if !chain.listed {
        return Err(RingError::ChainLoop(chain.id.into()));
    }
    let writable = pieces.split_off(chain.readable);
    let done = Done::new(chain.id, chain.slots);
    Ok(Some(Request { done, readable: pieces, writable, map: core.map.clone() }))
}

impl Request {
    /// Bytes for the device to read.
    pub fn readable_len(&self) -> u64 {
        bytes(&self.readable)
    }

    /// Bytes for the device to write.
    pub fn writable_len(&self) -> u64 {
        bytes(&self.writable)
    }

    /// Copies what is to be read from `offset` on, and returns how many bytes there were, at most `into`'s.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        each_part(&self.readable, offset, into.len(), |ptr, at, len| {
            for (i, byte) in into[at..at + len].iter_mut().enumerate() {
                // SAFETY: `each_part` names bytes of a piece, which the map keeps mapped.
                *byte = unsafe { ptr.add(i).read_volatile() };
            }
        })
    }

    /// Copies into what is to be written, from `offset` on, and returns how many bytes there was room for.
    pub fn write(&self, offset: u64, from: &[u8]) -> usize {
        each_part(&self.writable, offset, from.len(), |ptr, at, len| {
            for (i, byte) in from[at..at + len].iter().enumerate() {
                // SAFETY: as in `read`.
                unsafe { ptr.add(i).write_volatile(*byte) };
            }
        })
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} readable, {} writable", self.done, self.readable_len(), self.writable_len())?;
        write!(f, ", of {} bytes of memory", self.map.bytes())
    }
}

fn bytes(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| u64::from(piece.len)).sum()
}

/// Calls `part` with a pointer, the place in the caller's buffer and the length, for each piece that `len` bytes from
/// `offset` on touch. Returns how many of the bytes there are.
fn each_part(
    pieces: &[Piece],
    offset: u64,
    len: usize,
    mut part: impl FnMut(*mut u8, usize, usize),
) -> usize {
    let (mut skip, mut at) = (offset, 0);
    for piece in pieces {
        let piece_len = u64::from(piece.len);
        if skip >= piece_len {
            skip -= piece_len;
            continue;
        }
        let count = (piece_len - skip).min((len - at) as u64) as usize;
        part(piece.ptr.wrapping_add(skip as usize), at, count);
        (skip, at) = (0, at + count);
    }
    at
}
