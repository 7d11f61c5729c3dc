//! A disk on the processor's own thread: a guest that asks waits for its disk, and for nothing else.

use std::sync::Arc;

use disk::{Disk, Operation};
use virtio_defs::blk::status;
use virtio_defs::feature::EVENT_IDX;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};

use super::request::{Action, Request, answer_name};
use super::{Geometry, QUEUE_SIZE};
use crate::virtio::local_queue::LocalQueue;
use crate::virtio::{Device, Kind, Memory, Session, StartError, read_bytes};

/// A block device that works when it is rung.
pub struct InlineBlk {
    disk: Arc<Disk>,
    geometry: Geometry,
    session: Option<(LocalQueue, Memory)>,
}

impl InlineBlk {
    /// Makes the device; `id` is the name the guest can read.
    pub fn new(disk: Arc<Disk>, id: &str) -> InlineBlk {
        InlineBlk { geometry: Geometry::new(&disk, 1, id), disk, session: None }
    }
}

impl Device for InlineBlk {
    fn kind(&self) -> Kind {
        Kind::Block
    }

    fn features(&self) -> u64 {
        // With event indices a kick could be left out for what this turn leaves to the next.
        self.geometry.features() & !EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_bytes(&self.geometry.config(), offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.session = LocalQueue::only(session)?;
        Ok(())
    }

    fn stop(&mut self) {
        self.session = None;
    }

    fn answers_doorbell(&self, _queue: u16) -> bool {
        true
    }

    fn rung(&mut self, _queue: u16) {
        let Some((queue, memory)) = &mut self.session else { return };
        let memory = memory.memory();
        // As many as the ring holds, and no more: another processor could keep this one here for ever. For what
        // comes meanwhile there is another kick.
        for _ in 0..QUEUE_SIZE {
            let Some(chain) = queue.pop(&*memory) else { break };
            let head = chain.head_index();
            let written = match Request::parse(chain, &self.geometry, queue.features) {
                Some(request) => serve(&self.disk, &memory, &self.geometry, &request),
                None => 0,
            };
            queue.give_back(&memory, head, written);
        }
        queue.notify(&memory);
    }
}

/// Does what was asked; how many bytes the guest got.
fn serve(disk: &Disk, memory: &GuestMemoryMmap, geometry: &Geometry, request: &Request) -> u32 {
    let answer = match &request.action {
        Action::Answer(answer) => *answer,
        Action::Name(buffers) => answer_name(memory, buffers, geometry),
        Action::Do { operation, buffers, offset, bytes } => {
            let done = match *operation {
                Operation::Read => disk.read(memory, buffers, *offset),
                Operation::Write { through } => disk.write(memory, buffers, *offset, through),
                Operation::Flush => disk.flush(),
                Operation::Discard => disk.discard(*offset, *bytes),
                Operation::WriteZeroes { unmap } => disk.write_zeroes(*offset, *bytes, unmap),
            };
            if done.is_ok() { status::OK } else { status::IOERR }
        }
    };
    // An answer that can't be delivered is the guest's loss.
    let _ = memory.write_obj(answer, GuestAddress(request.status));
    if answer == status::OK { request.written() } else { 1 }
}
