//! A capture file in memory, with an index of its frames.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::{pcap, pcapng};

/// Largest file that is loaded, in bytes.
const FILE_MAX: u64 = 4 << 30;
/// Longest frame a capture may hold: what tcpdump and Wireshark read at most.
pub(crate) const FRAME_MAX: u32 = 262_144;
/// The link type of Ethernet (LINKTYPE_ETHERNET in tcpdump.org's list).
pub(crate) const LINK_ETHERNET: u32 = 1;

/// A capture file, read and checked as a whole: replaying it touches no file.
#[derive(Debug)]
pub struct Capture {
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    cut: usize,
}

/// Where a frame lies in the file, and when it is due.
#[derive(Clone, Copy, Debug)]
struct Frame {
    offset: usize,
    len: u32,
    /// After the first frame, never decreasing.
    at_ns: u64,
}

/// A frame as a parser finds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub offset: usize,
    pub len: u32,
    /// As long as it was on the wire.
    pub original_len: u32,
    /// Since the epoch. `None`: the file doesn't say.
    pub time_ns: Option<u64>,
}

/// Where a capture file breaks the rules of its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}{value} at byte {offset}", value = self.value.map(|v| format!(" ({v})")).unwrap_or_default())]
pub struct Malformed {
    /// Bytes from the file's start.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
    /// The offending value.
    pub value: Option<u64>,
}

/// Why a capture can't be replayed. Each message names the file.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file can't be read.
    #[error("capture {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is larger than what is held in memory.
    #[error(
        "capture {path}: more than 4 GiB; split it, for instance with `tcpdump -r FILE -w PART -C 1000`",
        path = path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is no capture, or a damaged one.
    #[error("capture {path}: {malformed}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What and where.
        malformed: Malformed,
    },
}

impl Capture {
    /// Reads a pcap (both byte orders, microseconds and nanoseconds) or pcapng file of Ethernet frames.
    ///
    /// # Errors
    /// The file can't be read, is larger than 4 GiB, or breaks its format.
    pub fn open(path: &Path) -> Result<Capture, CaptureError> {
        let read = |source| CaptureError::Read { path: path.to_owned(), source };
        let mut bytes = vec![];
        File::open(path).map_err(read)?.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > FILE_MAX {
            return Err(CaptureError::TooLarge { path: path.to_owned() });
        }
        Capture::parse(bytes)
            .map_err(|malformed| CaptureError::Malformed { path: path.to_owned(), malformed })
    }

    /// Reads a capture from the bytes of a file.
    ///
    /// # Errors
    /// What breaks the format, and where.
    pub fn parse(bytes: Vec<u8>) -> Result<Capture, Malformed> {
        let mut frames: Vec<Frame> = vec![];
        let mut cut = 0;
        let (mut first_ns, mut at_ns) = (None, 0);
        let mut found = |frame: Found| {
            // Frames without a time follow the one before; clocks that go back stand still.
            if let Some(time) = frame.time_ns {
                at_ns = at_ns.max(time.saturating_sub(*first_ns.get_or_insert(time)));
            }
            cut += usize::from(frame.len < frame.original_len);
            frames.push(Frame { offset: frame.offset, len: frame.len, at_ns });
        };
        match bytes.first_chunk::<4>() {
            Some(magic) if pcap::is_magic(magic) => pcap::parse(&bytes, &mut found)?,
            Some(magic) if pcapng::is_magic(magic) => pcapng::parse(&bytes, &mut found)?,
            Some([0x1f, 0x8b, ..]) => {
                return Err(Malformed {
                    offset: 0,
                    what: "compressed by gzip: unpack it first",
                    value: None,
                });
            }
            _ => return Err(Malformed { offset: 0, what: "neither pcap nor pcapng", value: None }),
        }
        Ok(Capture { bytes, frames, cut })
    }

    /// How many frames there are.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// How many of them were cut when they were captured. They are replayed as they are.
    pub fn cut_frames(&self) -> usize {
        self.cut
    }

    /// From the first frame to the last, in nanoseconds.
    pub fn duration_ns(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.at_ns)
    }

    /// When frame `i` is due, in nanoseconds after the first; never before the frame in front of it.
    ///
    /// # Panics
    /// When there is no such frame.
    pub fn at_ns(&self, i: usize) -> u64 {
        self.frames[i].at_ns
    }

    /// The bytes of frame `i`.
    ///
    /// # Panics
    /// When there is no such frame.
    pub fn frame(&self, i: usize) -> &[u8] {
        let frame = &self.frames[i];
        &self.bytes[frame.offset..][..frame.len as usize]
    }
}

/// Reads a capture from arbitrary bytes and visits all of it. For fuzzers: must never panic, and takes time and
/// memory in proportion to the bytes.
pub fn fuzz_capture(data: &[u8]) {
    let Ok(capture) = Capture::parse(data.to_vec()) else { return };
    let mut last_ns = 0;
    for i in 0..capture.frames() {
        assert!(capture.frame(i).len() <= FRAME_MAX as usize);
        assert!(capture.at_ns(i) >= last_ns);
        last_ns = capture.at_ns(i);
    }
    assert_eq!(capture.duration_ns(), last_ns);
    assert!(capture.cut_frames() <= capture.frames());
}
