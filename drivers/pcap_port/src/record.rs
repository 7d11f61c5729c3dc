//! The transmit queue that records.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use packet::{Burst, copy};
use port::{Accepts, DropReason, PortCounters, QueueFault, Selection, TxQueue};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::capture::FRAME_MAX;
use crate::pcapng;

/// How often the writer looks for something to write.
const WRITER_PERIOD: Duration = Duration::from_millis(10);

/// Which way recorded frames were going, for the reader of the capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received by the port that is observed.
    Inbound,
    /// Sent by it.
    Outbound,
}

/// How to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordOptions {
    /// The interface's name in the capture, up to 255 bytes.
    pub interface: String,
    /// Bytes of a frame to keep, at most 262,144.
    pub snap_len: u32,
    /// Bytes of recorded frames that may wait for the disk. Frames that find no room are dropped.
    pub buffer_bytes: usize,
    /// The direction to note on each frame, if any.
    pub direction: Option<Direction>,
    /// Goes on behind what a file of that name has, as a new section (pcapng allows any number of them).
    pub append: bool,
}

impl Default for RecordOptions {
    /// Whole frames, 8 MiB of buffer, no direction, a new file.
    fn default() -> Self {
        Self {
            interface: "ringway".to_owned(),
            snap_len: FRAME_MAX,
            buffer_bytes: 8 << 20,
            direction: None,
            append: false,
        }
    }
}

/// Why a capture can't be recorded, or is not complete.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file can't be created.
    #[error("capture {path}: can't be created ({source})", path = path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file could not be written to its end.
    #[error("capture {path}: incomplete after {bytes} bytes ({source})", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Bytes written before.
        bytes: u64,
        /// The system's answer.
        source: io::Error,
    },
}

/// What control can ask about a recording.
#[derive(Clone)]
pub struct RecordStatus(Arc<Progress>);

#[derive(Default)]
struct Progress {
    bytes: AtomicU64,
    /// The error's text; set once, before `failed`.
    error: OnceLock<String>,
    failed: AtomicBool,
}

impl RecordStatus {
    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Why nothing is written any more.
    pub fn error(&self) -> Option<&str> {
        self.0.error.get().map(String::as_str)
    }
}

/// Records what is sent in a pcapng file, times in nanoseconds.
///
/// The worker copies frames into a ring of bytes, without lock or system call; a thread writes them to the file
/// every 10 ms. A frame that finds no room is dropped as `tx-full`; all are dropped as `device` once the file
/// can't be written. Dropping the queue, or [`finish`](Self::finish), writes what waits.
pub struct PcapTx {
    /// `None` when finished.
    waiting: Option<Producer<u8>>,
    /// A packet block is put together here.
    block: Vec<u8>,
    snap_len: usize,
    flags: u32,
    clock: Box<dyn FnMut() -> u64 + Send>,
    progress: Arc<Progress>,
    writer: Option<JoinHandle<Result<u64, RecordError>>>,
}

impl PcapTx {
    /// Creates the file, or empties the one that is there (unless asked to [append](RecordOptions::append)).
    ///
    /// # Errors
    /// The file can't be created, or the thread.
    pub fn create(path: &Path, options: RecordOptions) -> Result<PcapTx, RecordError> {
        Self::create_with_clock(path, options, || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
        })
    }

    /// As [`create`](Self::create), with a clock of the caller's: nanoseconds since the epoch. Read once a burst.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with_clock(
        path: &Path,
        options: RecordOptions,
        clock: impl FnMut() -> u64 + Send + 'static,
    ) -> Result<PcapTx, RecordError> {
        let snap_len = options.snap_len.clamp(1, FRAME_MAX);
        let create = |source| RecordError::Create { path: path.to_owned(), source };
        let file = match options.append {
            true => File::options().append(true).create(true).open(path),
            false => File::create(path),
        };
        let file = file.map_err(create)?;
        let mut start = vec![];
        pcapng::write_start(&mut start, &options.interface, snap_len);
        let (waiting, taken) = RingBuffer::new(options.buffer_bytes);
        let progress = Arc::new(Progress::default());
        let writer = Writer { path: path.to_owned(), file, taken, progress: Arc::clone(&progress) };
        let writer = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || writer.run(&start))
            .map_err(create)?;
        Ok(PcapTx {
            waiting: Some(waiting),
            // Framing, packet header and options take less.
            block: Vec::with_capacity(snap_len as usize + 128),
            snap_len: snap_len as usize,
            flags: match options.direction {
                None => 0,
                Some(Direction::Inbound) => 1,
                Some(Direction::Outbound) => 2,
            },
            clock: Box::new(clock),
            progress,
            writer: Some(writer),
        })
    }

    /// What control can ask while a worker has the queue.
    pub fn status(&self) -> RecordStatus {
        RecordStatus(Arc::clone(&self.progress))
    }

    /// Writes what waits, ends the file, and returns its length in bytes. Waits for the disk.
    ///
    /// # Errors
    /// The file is not complete.
    pub fn finish(mut self) -> Result<u64, RecordError> {
        self.end().expect("a queue is finished once")
    }

    fn end(&mut self) -> Option<Result<u64, RecordError>> {
        // The writer ends when the ring is empty and nobody is left to fill it.
        self.waiting = None;
        let writer = self.writer.take()?;
        writer.thread().unpark();
        Some(writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    fn record(&mut self, burst: &Burst, i: usize, time_ns: u64) -> Result<usize, DropReason> {
        let Some(waiting) = &mut self.waiting else { return Err(DropReason::Device) };
        let original_len = burst.frame_len(i);
        let len = original_len.min(self.snap_len);
        self.block.clear();
        let lengths = (len as u32, original_len as u32);
        pcapng::write_packet(&mut self.block, time_ns, lengths, self.flags, |out| {
            let start = out.len();
            out.resize(start + len, 0);
            let mut to = &mut out[start..];
            for part in burst.parts(i) {
                let (now, later) = to.split_at_mut((part.len as usize).min(to.len()));
                // SAFETY: the burst promises `part.len` readable bytes, `now` holds no more, and it is ours alone.
                unsafe { copy::copy(part.ptr, now.as_mut_ptr(), now.len()) };
                to = later;
            }
        });
        waiting.push_entire_slice(&self.block).map_err(|_| DropReason::TxFull)?;
        Ok(original_len)
    }
}

impl TxQueue for PcapTx {
    fn transmit(&mut self, frames: Selection<'_>, counters: &PortCounters) -> Result<(), QueueFault> {
        if self.progress.failed.load(Ordering::Relaxed) {
            counters.dropped(DropReason::Device, frames.which.len() as u64);
            return Ok(());
        }
        let time_ns = (self.clock)();
        let (mut sent, mut bytes) = (0, 0);
        for &i in frames.which {
            match self.record(frames.burst, i as usize, time_ns) {
                Ok(len) => {
                    sent += 1;
                    bytes += len as u64;
                }
                Err(reason) => counters.dropped(reason, 1),
            }
        }
        counters.sent(sent, bytes);
        Ok(())
    }

    /// Nothing: a capture has complete frames.
    fn accepts(&self) -> Accepts {
        Accepts::default()
    }

    fn flush(&mut self, _counters: &PortCounters) -> Result<(), QueueFault> {
        Ok(())
    }
}

impl Drop for PcapTx {
    fn drop(&mut self) {
        // Its outcome stays in the status.
        let _ = self.end();
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    taken: Consumer<u8>,
    progress: Arc<Progress>,
}

impl Writer {
    fn run(mut self, start: &[u8]) -> Result<u64, RecordError> {
        let mut bytes = 0;
        let outcome = self.write_all(start, &mut bytes);
        outcome.map_err(|source| {
            let error = RecordError::Write { path: self.path, bytes, source };
            let _ = self.progress.error.set(error.to_string());
            self.progress.failed.store(true, Ordering::Release);
            error
        })?;
        Ok(bytes)
    }

    fn write_all(&mut self, start: &[u8], bytes: &mut u64) -> io::Result<()> {
        let mut write = |file: &mut File, part: &[u8]| {
            file.write_all(part)?;
            *bytes += part.len() as u64;
            self.progress.bytes.store(*bytes, Ordering::Relaxed);
            Ok::<_, io::Error>(())
        };
        write(&mut self.file, start)?;
        loop {
            // Asked first: what was put in before the other end went away is seen below.
            let last = self.taken.is_abandoned();
            let waiting = self.taken.read_chunk(self.taken.slots()).expect("what there is can be read");
            let (first, second) = waiting.as_slices();
            write(&mut self.file, first)?;
            write(&mut self.file, second)?;
            waiting.commit_all();
            if last {
                return Ok(());
            }
            thread::park_timeout(WRITER_PERIOD);
        }
    }
}
