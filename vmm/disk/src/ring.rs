//! Many operations at a time, by io_uring.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::register::Restriction;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};
use vm_memory::GuestMemoryMmap;

use crate::Disk;
use crate::image::discarded;
use crate::vector::{Buffer, Vector};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Disk::read`].
    Read,
    /// [`Disk::write`].
    Write {
        /// To the medium.
        through: bool,
    },
    /// [`Disk::flush`].
    Flush,
    /// [`Disk::discard`]; the buffers say how many bytes.
    Discard,
    /// [`Disk::write_zeroes`].
    WriteZeroes {
        /// Gives the space back.
        unmap: bool,
    },
}

impl Operation {
    /// Of a change of the file's allocation: how (`fallocate(2)`).
    pub(crate) fn mode(self) -> i32 {
        match self {
            Operation::WriteZeroes { unmap: false } => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
            _ => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        }
    }
}

/// What [`DiskRing::wait`] returns.
#[derive(Debug)]
pub enum Completion {
    /// The operation with this tag is done.
    Done {
        /// As it was given.
        tag: u64,
        /// How it went.
        result: io::Result<()>,
    },
    /// A watched descriptor can be read. It isn't watched any longer.
    Readable {
        /// As it was given.
        tag: u64,
    },
}

/// An operation that the kernel works on.
struct Slot {
    tag: u64,
    operation: Operation,
    memory: Arc<GuestMemoryMmap>,
    buffers: Vec<Buffer>,
    vector: Vector,
    /// Where the next byte goes.
    offset: u64,
    bytes: u64,
}

/// All that the kernel is ever asked.
const ASKED: [u8; 5] = [
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
    opcode::PollAdd::CODE,
];
/// Marks a watched descriptor in what the kernel hands back; else it is the number of a slot.
const WATCH: u64 = 1 << 63;

/// A queue of operations on one disk.
pub struct DiskRing {
    ring: IoUring,
    disk: Arc<Disk>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

impl DiskRing {
    /// A queue for `operations` at a time, and `watches` besides.
    ///
    /// # Errors
    /// The kernel has no io_uring, or allows none.
    pub fn new(disk: Arc<Disk>, operations: u32, watches: u32) -> io::Result<DiskRing> {
        let ring = IoUring::builder().setup_r_disabled().build((operations + watches).next_power_of_two())?;
        // The kernel refuses everything else from here on: a ring is a way past a filter of system calls.
        ring.submitter().register_restrictions(&mut ASKED.map(Restriction::sqe_op))?;
        ring.submitter().register_enable_rings()?;
        let slots = (0..operations).map(|_| None).collect();
        Ok(DiskRing { ring, disk, slots, free: (0..operations as usize).rev().collect() })
    }

    /// Operations under way.
    pub fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether one more operation can begin.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Begins an operation at byte `offset`: of all of `buffers`, or where no memory takes part of `bytes` bytes.
    ///
    /// # Errors
    /// A buffer is no memory, or there is no room; nothing has begun then.
    pub fn begin(
        &mut self,
        tag: u64,
        operation: Operation,
        memory: &Arc<GuestMemoryMmap>,
        buffers: Vec<Buffer>,
        offset: u64,
        bytes: u64,
    ) -> io::Result<()> {
        let mut vector = match operation {
            Operation::Read | Operation::Write { .. } => self.disk.vector(memory, &buffers)?,
            _ => Vector::of_zeros(0)?,
        };
        if let Operation::Write { .. } = operation {
            vector.copy_in(memory, &buffers)?;
        }
        let index = self.free.pop().ok_or(io::ErrorKind::ResourceBusy)?;
        self.slots[index] =
            Some(Slot { tag, operation, memory: memory.clone(), buffers, vector, offset, bytes });
        if let Err(error) = self.push(index) {
            self.slots[index] = None;
            self.free.push(index);
            return Err(error);
        }
        Ok(())
    }

    /// Says once, as [`Completion::Readable`], that `fd` can be read.
    ///
    /// # Errors
    /// The kernel takes no more.
    pub fn watch(&mut self, fd: BorrowedFd<'_>, tag: u64) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), libc::POLLIN as u32).build();
        self.submit(entry.user_data(WATCH | tag))
    }

    /// Starts what was begun, waits until something is done, and hands all that is done to `each`.
    ///
    /// # Errors
    /// The kernel fails.
    pub fn wait(&mut self, mut each: impl FnMut(Completion)) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        loop {
            let entry = self.ring.completion().next();
            let Some(entry) = entry else { return Ok(()) };
            let (data, code) = (entry.user_data(), entry.result());
            if data & WATCH != 0 {
                each(Completion::Readable { tag: data & !WATCH });
            } else if let Some((tag, result)) = self.complete(data as usize, code) {
                each(Completion::Done { tag, result });
            }
        }
    }

    fn submit(&mut self, entry: squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: what the entry points to, the ranges of a slot's vector, stays in its place and mapped until the
            // kernel has handed the entry back: the slot, which holds both, is kept until then, even in `drop`.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Hands the kernel what is left of an operation.
    fn push(&mut self, index: usize) -> io::Result<()> {
        let Some(slot) = &self.slots[index] else { return Ok(()) };
        let fd = Fd(self.disk.as_fd().as_raw_fd());
        let ranges = slot.vector.ranges();
        let (pointer, count) = (ranges.as_ptr(), ranges.len() as u32);
        let entry = match slot.operation {
            Operation::Read => opcode::Readv::new(fd, pointer, count).offset(slot.offset).build(),
            Operation::Write { through } => opcode::Writev::new(fd, pointer, count)
                .offset(slot.offset)
                .rw_flags(if through { libc::RWF_DSYNC } else { 0 })
                .build(),
            Operation::Flush => opcode::Fsync::new(fd).flags(io_uring::types::FsyncFlags::DATASYNC).build(),
            Operation::Discard | Operation::WriteZeroes { .. } => {
                opcode::Fallocate::new(fd, slot.bytes).offset(slot.offset).mode(slot.operation.mode()).build()
            }
        };
        self.submit(entry.user_data(index as u64))
    }

    /// Takes an answer of the kernel's; `None` if the operation goes on.
    fn complete(&mut self, index: usize, code: i32) -> Option<(u64, io::Result<()>)> {
        let slot = self.slots.get_mut(index)?.as_mut()?;
        let answer = match code {
            0.. => Ok(code as usize),
            _ => Err(io::Error::from_raw_os_error(-code)),
        };
        let result = match (slot.operation, answer) {
            (Operation::Read | Operation::Write { .. }, Ok(count)) => {
                slot.vector.advance(count);
                slot.offset += count as u64;
                match (slot.vector.is_done(), count) {
                    (true, _) if slot.operation == Operation::Read => {
                        slot.vector.copy_out(&slot.memory, &slot.buffers)
                    }
                    (true, _) => Ok(()),
                    (false, 0) => Err(io::ErrorKind::UnexpectedEof.into()),
                    (false, _) => match self.push(index) {
                        Ok(()) => return None,
                        Err(error) => Err(error),
                    },
                }
            }
            (Operation::Read | Operation::Write { .. }, Err(error))
                if error.kind() == io::ErrorKind::Interrupted =>
            {
                match self.push(index) {
                    Ok(()) => return None,
                    Err(error) => Err(error),
                }
            }
            (Operation::WriteZeroes { .. }, Err(error)) if error.kind() == io::ErrorKind::Unsupported => {
                match Vector::of_zeros(slot.bytes) {
                    Ok(zeros) => {
                        (slot.vector, slot.operation) = (zeros, Operation::Write { through: false });
                        match self.push(index) {
                            Ok(()) => return None,
                            Err(error) => Err(error),
                        }
                    }
                    Err(error) => Err(error),
                }
            }
            (Operation::Discard, answer) => discarded(answer.map(drop)),
            (_, answer) => answer.map(drop),
        };
        let slot = self.slots[index].take()?;
        self.free.push(index);
        Some((slot.tag, result))
    }
}

impl Drop for DiskRing {
    fn drop(&mut self) {
        while self.under_way() > 0 {
            if let Err(error) = self.wait(|_| {}) {
                // The kernel still has addresses of memory that would be unmapped.
                eprintln!("waiting for a disk: {error}");
                std::process::abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::fd::AsFd;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::image::tests::{image, memory};

    /// Waits until nothing is under way; how each operation went, by tag.
    fn finish(ring: &mut DiskRing) -> BTreeMap<u64, bool> {
        let mut done = BTreeMap::new();
        while ring.under_way() > 0 {
            ring.wait(|completion| match completion {
                Completion::Done { tag, result } => drop(done.insert(tag, result.is_ok())),
                Completion::Readable { .. } => {}
            })
            .unwrap();
        }
        done
    }

    #[test]
    fn many_writes_and_reads_at_a_time_each_come_to_their_place() {
        let (_file, disk) = image(false);
        let (mut ring, memory) = (DiskRing::new(Arc::new(disk.unwrap()), 32, 0).unwrap(), Arc::new(memory()));
        for n in 0..32u64 {
            memory.write_slice(&[n as u8; 512], GuestAddress(n * 512)).unwrap();
            let buffers = vec![Buffer { address: n * 512, len: 512 }];
            ring.begin(n, Operation::Write { through: n == 0 }, &memory, buffers, n * 4096, 0).unwrap();
        }
        assert!(!ring.has_room());
        assert!(finish(&mut ring).into_values().all(|good| good));
        ring.begin(0, Operation::Flush, &memory, vec![], 0, 0).unwrap();
        finish(&mut ring);
        for n in 0..32u64 {
            let buffers = vec![Buffer { address: 0x8_0000 + n * 512, len: 512 }];
            ring.begin(n, Operation::Read, &memory, buffers, n * 4096, 0).unwrap();
        }
        finish(&mut ring);
        for n in 0..32u64 {
            assert_eq!(memory.read_obj::<u8>(GuestAddress(0x8_0000 + n * 512 + 511)).unwrap(), n as u8);
        }
    }

    #[test]
    fn what_fails_fails_alone() {
        let (_file, disk) = image(false);
        let (mut ring, memory) = (DiskRing::new(Arc::new(disk.unwrap()), 4, 0).unwrap(), Arc::new(memory()));
        let buffer = |address| vec![Buffer { address, len: 512 }];
        assert!(ring.begin(0, Operation::Read, &memory, buffer(1 << 40), 0, 0).is_err());
        ring.begin(1, Operation::Read, &memory, buffer(0), 2 << 20, 0).unwrap();
        ring.begin(2, Operation::Read, &memory, buffer(0), 0, 0).unwrap();
        ring.begin(3, Operation::WriteZeroes { unmap: false }, &memory, vec![], 0, 4096).unwrap();
        ring.begin(4, Operation::Discard, &memory, vec![], 0, 4096).unwrap();
        assert_eq!(finish(&mut ring), BTreeMap::from([(1, false), (2, true), (3, true), (4, true)]));
    }

    #[test]
    fn a_watched_descriptor_is_reported_once() {
        let (_file, disk) = image(false);
        let mut ring = DiskRing::new(Arc::new(disk.unwrap()), 1, 1).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        ring.watch(reader.as_fd(), 7).unwrap();
        std::io::Write::write_all(&mut &writer, b"x").unwrap();
        let mut tags = vec![];
        ring.wait(|completion| {
            if let Completion::Readable { tag } = completion {
                tags.push(tag);
            }
        })
        .unwrap();
        assert_eq!(tags, [7]);
    }
}
