//! A machine and a device that write down what happens to them.

use std::io;
use std::sync::{Arc, Mutex};

use devices::virtio::{Device, Kind, Memory, Queue, Session, StartError};
use devices::{Doorbell, EventFd, Message, Platform, Vector};
use vm_memory::{GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};

/// Where the transport's registers are.
pub const WINDOW: u64 = 0xc000_0000;

/// What happened, in words.
pub type Story = Arc<Mutex<Vec<String>>>;

/// A machine that writes down which doorbells are attached, counted from [`WINDOW`].
pub struct Machine(pub Story);

impl Machine {
    fn say(&self, what: &str, doorbell: Doorbell) {
        let offset = doorbell.address.wrapping_sub(WINDOW);
        let datum = doorbell.datum.map_or(String::new(), |datum| format!(" = {datum}"));
        self.0.lock().unwrap().push(format!("{what} {offset:#x}{datum}"));
    }
}

struct NoVector(EventFd);

impl Vector for NoVector {
    fn event(&self) -> &EventFd {
        &self.0
    }
    fn unmask(&self, _: Message) -> io::Result<()> {
        Ok(())
    }
    fn mask(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Platform for Machine {
    fn attach_doorbell(&self, doorbell: Doorbell, _: &EventFd) -> io::Result<()> {
        self.say("attach", doorbell);
        Ok(())
    }
    fn detach_doorbell(&self, doorbell: Doorbell, _: &EventFd) {
        self.say("detach", doorbell);
    }
    fn create_vector(&self) -> io::Result<Box<dyn Vector>> {
        Ok(Box::new(NoVector(EventFd::create()?)))
    }
}

/// A device with three queues, the last of which is answered by the processor that rings.
#[derive(Default)]
pub struct Told {
    pub story: Story,
    pub features: u64,
    /// It doesn't start.
    pub refuses: bool,
    /// Its configuration.
    pub config: Vec<u8>,
    /// Those of the queues it was started with.
    pub sizes: Arc<Mutex<Vec<u16>>>,
}

impl Told {
    fn say(&self, what: String) {
        self.story.lock().unwrap().push(what);
    }
}

impl Device for Told {
    fn kind(&self) -> Kind {
        Kind::Net
    }
    fn features(&self) -> u64 {
        self.features
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256; 3]
    }
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        for (byte, value) in data.iter_mut().zip(self.config.iter().skip(offset)) {
            *byte = *value;
        }
    }
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.say(format!("config {offset:#x} = {data:x?}"));
    }
    fn start(&mut self, session: Session) -> Result<(), StartError> {
        let queues: Vec<_> = session.queues.iter().map(|queue| (queue.index, queue.desc)).collect();
        self.say(format!("start {queues:x?}"));
        *self.sizes.lock().unwrap() = session.queues.iter().map(|queue| queue.size).collect();
        if self.refuses { Err(StartError("no".into())) } else { Ok(()) }
    }
    fn stop(&mut self) {
        self.say("stop".into());
    }
    fn answers_doorbell(&self, queue: u16) -> bool {
        queue == 2
    }
    fn rung(&mut self, queue: u16) {
        self.say(format!("rung {queue}"));
    }
    fn stop_queue(&mut self, index: u16) {
        self.say(format!("stop queue {index}"));
    }
    fn start_queue(&mut self, queue: Queue) -> Result<(), StartError> {
        self.say(format!("start queue {} at {:#x}", queue.index, queue.desc));
        if self.refuses { Err(StartError("no".into())) } else { Ok(()) }
    }
}

/// The guest's memory.
pub fn memory() -> Memory {
    GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap())
}
