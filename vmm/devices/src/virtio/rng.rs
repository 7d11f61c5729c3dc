//! The entropy device (virtio 1.2, section 5.4): random bytes of the host's kernel.

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_defs::feature::{INDIRECT_DESC, VERSION_1};
use vm_memory::{Bytes, GuestAddressSpace};

use super::local_queue::LocalQueue;
use super::{Device, Kind, Memory, Session, StartError};

const QUEUE_SIZE: u16 = 64;
/// Most bytes for one request; a guest that wants more asks again (section 5.4.6.1).
const BYTES_MAX: usize = 4096;

/// An entropy device. It works when it is rung, on the processor's thread.
#[derive(Default)]
pub struct Rng {
    session: Option<(LocalQueue, Memory)>,
}

impl Device for Rng {
    fn kind(&self) -> Kind {
        Kind::Rng
    }

    fn features(&self) -> u64 {
        VERSION_1 | INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, _offset: usize, _data: &mut [u8]) {}

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
        for _ in 0..QUEUE_SIZE {
            let Some(chain) = queue.pop(&*memory) else { break };
            let head = chain.head_index();
            let mut written = 0;
            for buffer in chain.filter(|descriptor| descriptor.is_write_only()) {
                let mut bytes = [0; BYTES_MAX];
                let room = (buffer.len() as usize).min(BYTES_MAX - written);
                let got = getrandom(&mut bytes[..room], GetRandomFlags::empty()).unwrap_or(0);
                if got == 0 || memory.write_slice(&bytes[..got], buffer.addr()).is_err() {
                    break;
                }
                written += got;
            }
            queue.give_back(&memory, head, written as u32);
        }
        queue.notify(&memory);
    }
}
