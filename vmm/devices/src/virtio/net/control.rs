//! The control queue (virtio 1.2, section 5.1.6.5): how many queue pairs the driver uses.

use std::sync::Arc;

use guest_memory::MemMap;
use port::QueueFault;
use virtqueue::RequestQueue;

use super::ring_config;
use crate::virtio::{Queue, StartError};

/// Class and command of "use so many queue pairs" (section 5.1.6.5.6.1).
const MQ: u8 = 4;
const MQ_VQ_PAIRS_SET: u8 = 0;
/// The device's answer.
const OK: u8 = 0;
const ERR: u8 = 1;

/// Entries of the queue at most: the driver has one command at a time.
pub const QUEUE_SIZE: u16 = 64;
/// Commands served for one ring of the doorbell; more wait for the next.
const COMMANDS_MAX: usize = 64;

/// What the driver asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Use the first so many queue pairs.
    SetPairs(u16),
    /// Something that this device never offered.
    Unknown,
}

/// The control queue of a device.
pub struct ControlQueue(RequestQueue);

impl ControlQueue {
    /// Starts the queue.
    pub fn new(queue: &Queue, features: u64, map: Arc<MemMap>) -> Result<ControlQueue, StartError> {
        let config = ring_config(queue, features)?;
        let mut queue =
            RequestQueue::new(config, map).map_err(|error| StartError(format!("control: {error}")))?;
        // Nobody looks unless the driver rings, so its first command must not lie there unrung.
        queue.ask_for_kicks();
        Ok(ControlQueue(queue))
    }

    /// Serves what is there. `act` does what is asked and says whether it could.
    ///
    /// # Errors
    /// The driver broke the ring.
    pub fn serve(&mut self, mut act: impl FnMut(Command) -> bool) -> Result<(), QueueFault> {
        for _ in 0..COMMANDS_MAX {
            let Some(request) = self.0.take()? else {
                if self.0.ask_for_kicks() {
                    continue;
                }
                return Ok(());
            };
            let mut bytes = [0; 4];
            let count = request.read(0, &mut bytes);
            let command = match (count, bytes) {
                (4, [MQ, MQ_VQ_PAIRS_SET, low, high]) => Command::SetPairs(u16::from_le_bytes([low, high])),
                _ => Command::Unknown,
            };
            let answer = if act(command) { OK } else { ERR };
            let written = request.write(0, &[answer]);
            self.0.complete(request, written as u32);
        }
        Ok(())
    }

    /// Goes on in a memory that has grown.
    ///
    /// # Errors
    /// The ring isn't in it.
    pub fn set_memory(&mut self, map: Arc<MemMap>) -> Result<(), StartError> {
        self.0.set_memory(map).map_err(|error| StartError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use guest_memory::{RegionSpec, SharedMemory};
    use virtio_defs::feature::{RING_PACKED, VERSION_1};
    use virtqueue::driver::{Buffer, Driver, DriverConfig};

    use super::*;
    use crate::EventFd;

    const DATA: usize = 64 << 10;

    struct Guest {
        memory: Arc<SharedMemory>,
        driver: Driver,
        control: ControlQueue,
    }

    impl Guest {
        fn new(features: u64) -> Guest {
            let memory = Arc::new(SharedMemory::new(c"control", 1 << 20).unwrap());
            let region = RegionSpec { gpa: 0, len: 1 << 20, user_va: 0, fd: memory.fd(), offset: 0 };
            let map = Arc::new(MemMap::new(&[region]).unwrap());
            let driver = Driver::new(memory.clone(), 0, DriverConfig { size: 64, features, gpa: 0 });
            let (desc, driver_area, device) = driver.user_addresses(0);
            let queue = Queue {
                index: 2,
                size: 64,
                desc,
                driver: driver_area,
                device,
                kick: EventFd::create().unwrap(),
                call: EventFd::create().unwrap(),
            };
            Guest { memory, driver, control: ControlQueue::new(&queue, features, map).unwrap() }
        }

        /// Sends a command and returns what was asked of the device, and its answer.
        fn ask(&mut self, command: &[u8], accepts: bool) -> (Vec<Command>, u8) {
            self.memory.write(DATA, command);
            self.memory.write(DATA + 64, &[0xff]);
            let buffers =
                [Buffer::readable(DATA as u64, command.len() as u32), Buffer::writable(DATA as u64 + 64, 1)];
            assert!(self.driver.add(&buffers, 0));
            self.driver.publish();
            let mut asked = Vec::new();
            let act = |command| {
                asked.push(command);
                accepts
            };
            self.control.serve(act).unwrap();
            assert_eq!(self.driver.poll(8, |_, _| {}).unwrap(), 1);
            let mut answer = [0];
            self.memory.read(DATA + 64, &mut answer);
            (asked, answer[0])
        }
    }

    #[test]
    fn the_number_of_queue_pairs_reaches_the_device_and_its_answer_the_driver() {
        for features in [VERSION_1, VERSION_1 | RING_PACKED] {
            let mut guest = Guest::new(features);
            assert_eq!(guest.ask(&[4, 0, 2, 1], true), (vec![Command::SetPairs(0x102)], OK));
            assert_eq!(guest.ask(&[4, 0, 9, 0], false), (vec![Command::SetPairs(9)], ERR));
        }
    }

    #[test]
    fn what_was_never_offered_is_refused() {
        let mut guest = Guest::new(VERSION_1);
        for command in [&[0u8, 0, 1][..], &[4, 1, 1, 0], &[4, 0, 1], &[4]] {
            assert_eq!(guest.ask(command, false), (vec![Command::Unknown], ERR), "{command:?}");
        }
    }

    #[test]
    fn a_command_without_room_for_the_answer_is_obeyed_all_the_same() {
        let mut guest = Guest::new(VERSION_1);
        guest.memory.write(DATA, &[4, 0, 3, 0]);
        assert!(guest.driver.add(&[Buffer::readable(DATA as u64, 4)], 0));
        guest.driver.publish();
        let mut asked = Vec::new();
        guest
            .control
            .serve(|command| {
                asked.push(command);
                true
            })
            .unwrap();
        assert_eq!(asked, [Command::SetPairs(3)]);
    }

    #[test]
    fn a_broken_ring_is_told() {
        let mut guest = Guest::new(VERSION_1);
        assert!(guest.driver.add(&[Buffer::readable(2 << 20, 4)], 0));
        guest.driver.publish();
        assert!(guest.control.serve(|_| true).is_err());
    }
}
