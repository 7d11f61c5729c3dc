//! Counts the cache lines that software writes where hardware reads: commands in rings, results it clears, buffers.
//!
//! On a board each of them is a line that one side has to fetch from the other. A line of a buffer counts when its content is
//! another than when hardware handed the buffer over; the data of a frame in a buffer that came from a pool counts whole.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};

use dpaa2_defs::fd::{Fd, Format};
use dpaa2_defs::qbman::LINE_BYTES;
use dpaa2_defs::qbman::dequeue::TOKEN_OFFSET;

use crate::Model;

/// What is remembered of an empty buffer: more than any driver's headroom.
const EMPTY_BYTES: u64 = 512;

/// Lines as hardware left them. Looks at every buffer, so it is off until asked for.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    is_counting: bool,
    /// Results that hardware has written, by container.
    results: HashSet<(u32, u64)>,
    /// Buffers that software has.
    buffers: HashMap<(u32, u64), Handed>,
}

#[derive(Debug)]
struct Handed {
    /// Of each line from the buffer's start on.
    hashes: Vec<u64>,
    is_empty: bool,
}

impl Model {
    /// Counts lines from now on ([`Counters::lines`](crate::Counters::lines)).
    pub fn count_lines(&mut self) {
        self.lines = Lines { is_counting: true, ..Lines::default() };
    }

    /// A command's line was read.
    pub(crate) fn command_line(&mut self) {
        self.counters.lines += u64::from(self.lines.is_counting);
    }

    /// A result is about to be written.
    pub(crate) fn result_line(&mut self, container: u32, iova: u64) {
        if self.lines.is_counting && !self.lines.results.insert((container, iova)) {
            let mut token = [0xff];
            // An address that isn't mapped is reported where the result is written.
            let _ = self.dma(container).read(iova + TOKEN_OFFSET as u64, &mut token);
            self.counters.lines += u64::from(token == [0]);
        }
    }

    /// Software gets a frame.
    pub(crate) fn frame_handed(&mut self, container: u32, fd: &Fd) {
        if self.lines.is_counting && fd.format() == Format::Single {
            let (start, len) = (fd.addr.get(), u64::from(fd.offset()) + u64::from(fd.len()));
            let hashes = self.hashes(container, start, len);
            self.lines.buffers.insert((container, start), Handed { hashes, is_empty: false });
        }
    }

    /// Software gets an empty buffer.
    pub(crate) fn buffer_handed(&mut self, container: u32, start: u64) {
        if self.lines.is_counting {
            let hashes = self.hashes(container, start, EMPTY_BYTES);
            self.lines.buffers.insert((container, start), Handed { hashes, is_empty: true });
        }
    }

    /// Software gives a frame away.
    pub(crate) fn frame_given(&mut self, container: u32, fd: &Fd) {
        let (offset, len) = (u64::from(fd.offset()), u64::from(fd.len()));
        self.given(container, fd.addr.get(), offset..offset + len);
    }

    /// Software gives an empty buffer away.
    pub(crate) fn buffer_given(&mut self, container: u32, start: u64) {
        self.given(container, start, 0..0);
    }

    fn given(&mut self, container: u32, start: u64, data: std::ops::Range<u64>) {
        let Some(handed) = self.lines.buffers.remove(&(container, start)) else { return };
        let now = self.hashes(container, start, (handed.hashes.len() * LINE_BYTES) as u64);
        let line = LINE_BYTES as u64;
        let of_data = data.start / line..data.end.div_ceil(line);
        let is_new = handed.is_empty && !data.is_empty();
        let changed = now.iter().zip(&handed.hashes).enumerate();
        let changed =
            changed.filter(|(i, (now, then))| now != then && !(is_new && of_data.contains(&(*i as u64))));
        self.counters.lines += changed.count() as u64;
        if is_new {
            self.counters.lines += of_data.end - of_data.start;
        }
    }

    fn hashes(&self, container: u32, start: u64, len: u64) -> Vec<u64> {
        let dma = self.dma(container);
        let lines = (0..len.div_ceil(LINE_BYTES as u64)).map(|i| start.wrapping_add(i * LINE_BYTES as u64));
        let hash = |at: u64| {
            let mut bytes = [0; LINE_BYTES];
            // What isn't mapped can't have been written.
            let _ = dma.read(at, &mut bytes);
            let mut hasher = DefaultHasher::new();
            hasher.write(&bytes);
            hasher.finish()
        };
        lines.map(hash).collect()
    }
}
