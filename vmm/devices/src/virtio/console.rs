//! The console device (virtio 1.2, section 5.3), with one port. It works when it is rung, on the processor's thread.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_defs::feature::{INDIRECT_DESC, VERSION_1};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::local_queue::LocalQueue;
use super::{Device, Kind, Memory, Session, StartError, read_bytes};

const QUEUE_SIZE: u16 = 64;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Most bytes taken of one buffer at a time.
const PIECE: usize = 4096;
/// Bytes that wait for the guest at most; more is dropped, as at the serial port.
const WAITING_MAX: usize = 4096;
/// Columns, rows, ports, emergency write: none of them is offered.
const CONFIG: [u8; 12] = [0; 12];

/// Where the guest's text goes.
pub type Output = Box<dyn Write + Send>;

/// A console device.
pub struct Console {
    output: Output,
    keyboard: Keyboard,
}

/// Types to the guest. Clones are the same keyboard.
#[derive(Clone, Default)]
pub struct Keyboard(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    session: Option<([Option<LocalQueue>; 2], Memory)>,
    /// Typed, and not yet taken by the guest.
    waiting: Vec<u8>,
}

impl Keyboard {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Types, as far as there is room.
    pub fn type_in(&self, text: &[u8]) {
        let mut state = self.state();
        let room = WAITING_MAX - state.waiting.len();
        state.waiting.extend(&text[..text.len().min(room)]);
        state.feed();
    }
}

impl State {
    /// Gives the guest what waits for it.
    fn feed(&mut self) {
        let Some(([Some(queue), _], memory)) = &mut self.session else { return };
        let memory = memory.memory();
        let mut given = false;
        while !self.waiting.is_empty() {
            let Some(chain) = queue.pop(&*memory) else { break };
            let head = chain.head_index();
            let mut written = 0;
            for buffer in chain.filter(|descriptor| descriptor.is_write_only()) {
                let count = self.waiting.len().min(buffer.len() as usize);
                if count == 0 || memory.write_slice(&self.waiting[..count], buffer.addr()).is_err() {
                    break;
                }
                self.waiting.drain(..count);
                written += count as u32;
            }
            queue.give_back(&memory, head, written);
            given = true;
        }
        if given {
            queue.notify(&memory);
        }
    }
}

impl Console {
    /// Makes the device, and what types to it.
    pub fn new(output: Output) -> (Console, Keyboard) {
        let keyboard = Keyboard::default();
        (Console { output, keyboard: keyboard.clone() }, keyboard)
    }

    /// Takes what the guest has written.
    fn take(&mut self) {
        let mut state = self.keyboard.state();
        let Some(([_, Some(queue)], memory)) = &mut state.session else { return };
        let memory = memory.memory();
        for _ in 0..QUEUE_SIZE {
            let Some(chain) = queue.pop(&*memory) else { break };
            let head = chain.head_index();
            // One turn of a chain: a table of endless buffers is cut short.
            let mut left = PIECE * QUEUE_SIZE as usize;
            for buffer in chain.filter(|descriptor| !descriptor.is_write_only()) {
                let (mut at, mut len) = (buffer.addr().0, buffer.len() as usize);
                while len > 0 && left > 0 {
                    let mut piece = [0; PIECE];
                    let count = len.min(PIECE).min(left);
                    if memory.read_slice(&mut piece[..count], GuestAddress(at)).is_err() {
                        break;
                    }
                    // An output that fails has lost the guest's text; the guest goes on.
                    let _ = self.output.write_all(&piece[..count]);
                    (at, len, left) = (at.wrapping_add(count as u64), len - count, left - count);
                }
            }
            queue.give_back(&memory, head, 0);
        }
        queue.notify(&memory);
    }
}

impl Device for Console {
    fn kind(&self) -> Kind {
        Kind::Console
    }

    fn features(&self) -> u64 {
        VERSION_1 | INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_bytes(&CONFIG, offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        let Session { features, memory, queues } = session;
        let mut ours = [None, None];
        for queue in queues {
            let index = usize::from(queue.index);
            ours[index] = Some(LocalQueue::new(queue, features, &memory.memory())?);
        }
        self.keyboard.state().session = Some((ours, memory));
        Ok(())
    }

    fn stop(&mut self) {
        self.keyboard.state().session = None;
    }

    fn answers_doorbell(&self, _queue: u16) -> bool {
        true
    }

    fn rung(&mut self, queue: u16) {
        match usize::from(queue) {
            RECEIVE => self.keyboard.state().feed(),
            TRANSMIT => self.take(),
            _ => {}
        }
    }
}
