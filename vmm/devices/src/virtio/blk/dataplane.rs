//! A disk on a thread of its own: io_uring, several queues, as many requests under way as there are.
//!
//! The thread sleeps in the kernel until a request is done or the guest kicks. While it has work it wants no kicks.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, channel};
use std::thread::JoinHandle;

use disk::{Completion, Disk, DiskRing};
use sandbox::Role;
use virtio_defs::blk::status;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};

use super::request::{Action, Request, answer_name};
use super::{Geometry, QUEUE_SIZE};
use crate::EventFd;
use crate::thread::Commands;
use crate::virtio::local_queue::LocalQueue;
use crate::virtio::{Device, Kind, Memory, Session, StartError, read_bytes};

/// A block device with a thread of its own.
pub struct DataplaneBlk {
    geometry: Geometry,
    queue_sizes: Vec<u16>,
    commands: Commands<Command>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Start(Session, SyncSender<Result<(), StartError>>),
    Stop(SyncSender<()>),
}

impl DataplaneBlk {
    /// Makes the device, with 1 to [`QUEUES_MAX`](super::QUEUES_MAX) queues; `id` is the name the guest can read.
    /// `on_start` runs first on its thread: to pin it, say.
    ///
    /// # Errors
    /// No thread or descriptor is left.
    pub fn new(
        disk: Arc<Disk>,
        queues: u16,
        id: &str,
        on_start: impl FnOnce() + Send + 'static,
    ) -> io::Result<DataplaneBlk> {
        let geometry = Geometry::new(&disk, queues, id);
        let (sender, inbox) = channel();
        let commands = Commands { sender, wake: EventFd::create()? };
        let theirs = commands.wake.try_clone()?;
        let thread = crate::thread::spawn("blk", Role::Disk, move || {
            on_start();
            let mut next = inbox.recv().ok();
            while let Some(command) = next.take() {
                if let Command::Start(session, answer) = command {
                    match Worker::new(&disk, geometry, session) {
                        Ok(worker) => {
                            let _ = answer.send(Ok(()));
                            next = worker.run(&inbox, &theirs);
                            continue;
                        }
                        Err(error) => drop(answer.send(Err(error))),
                    }
                } else if let Command::Stop(answer) = command {
                    let _ = answer.send(());
                }
                next = inbox.recv().ok();
            }
        })?;
        let queue_sizes = vec![QUEUE_SIZE; queues.into()];
        Ok(DataplaneBlk { geometry, queue_sizes, commands, thread: Some(thread) })
    }
}

impl Device for DataplaneBlk {
    fn kind(&self) -> Kind {
        Kind::Block
    }

    fn features(&self) -> u64 {
        self.geometry.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_bytes(&self.geometry.config(), offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.commands
            .ask(|answer| Command::Start(session, answer))
            .unwrap_or_else(|| Err(StartError("the disk's thread has ended".into())))
    }

    fn stop(&mut self) {
        self.commands.ask(Command::Stop);
    }
}

impl Drop for DataplaneBlk {
    fn drop(&mut self) {
        self.stop();
        // Without a sender the thread ends.
        (self.commands.sender, _) = channel();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

/// The tag by which the thread's own event is watched; else it is the number of a queue.
const WAKE: u64 = u32::MAX as u64;

/// A session on the thread.
struct Worker {
    geometry: Geometry,
    features: u64,
    memory: Memory,
    queues: Vec<LocalQueue>,
    ring: DiskRing,
    /// What was asked, by tag: queue, head of the chain, where the answer goes, bytes written when done well.
    under_way: HashMap<u64, Pending>,
    next_tag: u64,
}

struct Pending {
    queue: usize,
    head: u16,
    status: u64,
    written: u32,
}

impl Worker {
    fn new(disk: &Arc<Disk>, geometry: Geometry, session: Session) -> Result<Worker, StartError> {
        let Session { features, memory, queues } = session;
        let entries: u32 = queues.iter().map(|queue| u32::from(queue.size)).sum();
        let guest = memory.memory();
        let queues = queues.into_iter().map(|queue| LocalQueue::new(queue, features, &guest));
        let queues = queues.collect::<Result<Vec<_>, _>>()?;
        let ring = DiskRing::new(disk.clone(), entries.max(1), queues.len() as u32 + 1);
        let ring = ring.map_err(|error| StartError(format!("io_uring: {error}")))?;
        Ok(Worker { geometry, features, memory, queues, ring, under_way: HashMap::new(), next_tag: 0 })
    }

    /// Works until the thread is told something, which is returned, and everything under way is done.
    fn run(mut self, inbox: &Receiver<Command>, wake: &EventFd) -> Option<Command> {
        let command = self.work(inbox, wake).unwrap_or_else(|error| {
            tracing::error!(%error, "a disk's thread can't go on");
            inbox.recv().ok()
        });
        let memory = self.memory.memory().into_inner();
        while self.ring.under_way() > 0 && self.collect(&memory, |_| {}).is_ok() {}
        command
    }

    fn work(&mut self, inbox: &Receiver<Command>, wake: &EventFd) -> io::Result<Option<Command>> {
        // All are watched from the beginning, and each again after it was readable.
        let mut to_watch: Vec<u64> = (0..self.queues.len() as u64).chain([WAKE]).collect();
        loop {
            for tag in to_watch.drain(..) {
                let event = if tag == WAKE { wake } else { &self.queues[tag as usize].kick };
                self.ring.watch(event.as_fd(), tag)?;
            }
            let memory = self.memory.memory().into_inner();
            (0..self.queues.len()).for_each(|index| self.take(index, &memory));
            self.collect(&memory, |tag| to_watch.push(tag))?;
            for &tag in &to_watch {
                match self.queues.get(tag as usize) {
                    Some(queue) => queue.kick.drain(),
                    None => wake.drain(),
                };
            }
            if to_watch.contains(&WAKE) {
                match inbox.try_recv() {
                    Ok(command) => return Ok(Some(command)),
                    Err(TryRecvError::Disconnected) => return Ok(None),
                    // The signal of a command that came before.
                    Err(TryRecvError::Empty) => {}
                }
            }
        }
    }

    /// Begins what the driver has made available in a queue.
    fn take(&mut self, index: usize, memory: &Arc<GuestMemoryMmap>) {
        self.queues[index].want_no_kicks(memory);
        let mut answered = false;
        loop {
            while self.ring.has_room() {
                let queue = &mut self.queues[index];
                let Some(chain) = queue.pop(&**memory) else { break };
                let head = chain.head_index();
                match Request::parse(chain, &self.geometry, self.features) {
                    Some(request) => answered |= self.begin(index, head, request, memory),
                    None => {
                        queue.give_back(memory, head, 0);
                        answered = true;
                    }
                }
            }
            // With no room there is something under way, after which this is called again.
            if !self.ring.has_room() || !self.queues[index].want_kicks(memory) {
                break;
            }
        }
        if answered {
            self.queues[index].notify(memory);
        }
    }

    /// Begins a request; whether it is answered already.
    fn begin(&mut self, queue: usize, head: u16, request: Request, memory: &Arc<GuestMemoryMmap>) -> bool {
        let pending = Pending { queue, head, status: request.status, written: request.written() };
        let answer = match request.action {
            Action::Answer(answer) => answer,
            Action::Name(buffers) => answer_name(memory, &buffers, &self.geometry),
            Action::Do { operation, buffers, offset, bytes } => {
                let tag = self.next_tag;
                match self.ring.begin(tag, operation, memory, buffers, offset, bytes) {
                    Ok(()) => {
                        self.next_tag = (tag + 1) & u64::from(u32::MAX);
                        self.under_way.insert(tag, pending);
                        return false;
                    }
                    Err(_) => status::IOERR,
                }
            }
        };
        self.answer(&pending, answer, memory);
        true
    }

    fn answer(&mut self, pending: &Pending, answer: u8, memory: &GuestMemoryMmap) {
        // An answer that can't be delivered is the guest's loss.
        let _ = memory.write_obj(answer, GuestAddress(pending.status));
        let written = if answer == status::OK { pending.written } else { 1 };
        self.queues[pending.queue].give_back(memory, pending.head, written);
    }

    /// Waits until something is done, and answers; what was watched is handed to `readable`.
    fn collect(&mut self, memory: &GuestMemoryMmap, mut readable: impl FnMut(u64)) -> io::Result<()> {
        let mut done = Vec::new();
        self.ring.wait(|completion| match completion {
            Completion::Done { tag, result } => done.push((tag, result)),
            Completion::Readable { tag } => readable(tag),
        })?;
        let mut answered = 0u64;
        for (tag, result) in done {
            let Some(pending) = self.under_way.remove(&tag) else { continue };
            if let Err(error) = &result {
                tracing::debug!(%error, "a request of the guest's failed");
            }
            self.answer(&pending, if result.is_ok() { status::OK } else { status::IOERR }, memory);
            answered |= 1 << pending.queue;
        }
        for (index, queue) in self.queues.iter_mut().enumerate() {
            if answered & 1 << index != 0 {
                queue.notify(memory);
            }
        }
        Ok(())
    }
}
