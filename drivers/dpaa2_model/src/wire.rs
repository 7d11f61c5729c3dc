//! Ends of wires: what is at the other side of a MAC.

use crate::config::{self, DescriptionError, WireEnd};
use rustix::fs::{Mode, OFlags};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// Frames kept at a quiet end for whoever asks; older ones are forgotten.
const KEPT: usize = 4096;
/// Frames taken from a TAP or a capture at a time.
const BURST: usize = 32;
/// How long a generator's wire waits for a receive queue that nobody asks, while others of the interface are.
const PATIENCE: Duration = Duration::from_millis(50);

/// A MAC with its wire.
#[derive(Debug)]
pub(crate) struct Mac {
    pub id: u32,
    pub container: u32,
    pub rate: u32,
    pub is_up: bool,
    pub sent_frames: u64,
    pub sent_bytes: u64,
    pub received_frames: u64,
    pub received_bytes: u64,
    pub end: End,
    /// Set by "set link state".
    pub supported: u64,
    pub advertising: u64,
    pub interface: u8,
}

/// What a wire ends in.
pub(crate) enum End {
    Quiet {
        sent: VecDeque<Vec<u8>>,
        waiting: VecDeque<Vec<u8>>,
    },
    Loop {
        waiting: VecDeque<Vec<u8>>,
    },
    Tap(File),
    Pcap {
        replay: VecDeque<Vec<u8>>,
        record: Option<File>,
    },
    Generator {
        frame: Vec<u8>,
        flows: u16,
        hosts: u8,
        next: u64,
        count: Option<u64>,
        pace: Pace,
        is_addressed: bool,
    },
}

/// A receive queue of the interface at a wire.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Frames in it.
    pub frames: usize,
    /// How often software has asked for some.
    pub asked: u64,
}

/// Which receive queues a wire with flow control waits for: those that software looks after. One that it leaves alone while
/// it looks after others doesn't stop the wire (as priority flow control does with a watchdog): its frames go on coming,
/// and the interface takes or drops them. While nobody asks for any frames, the wire waits.
#[derive(Debug, Default)]
struct FlowControl {
    /// How often each queue had been asked, and when that was noticed.
    asked: Vec<(u64, Instant)>,
}

impl FlowControl {
    /// How many frames wait in queues that the wire waits for.
    fn waiting(&mut self, queues: impl Iterator<Item = Waiting>, now: Instant) -> usize {
        let mut frames = [0; 2];
        let latest = self.asked.iter().map(|(_, at)| *at).max().unwrap_or(now);
        for (n, queue) in queues.enumerate() {
            if n == self.asked.len() {
                self.asked.push((queue.asked, now));
            }
            let (known, at) = &mut self.asked[n];
            if *known != queue.asked {
                (*known, *at) = (queue.asked, now);
            }
            let is_left_alone = latest.saturating_duration_since(*at) > PATIENCE;
            frames[usize::from(is_left_alone)] += queue.frames;
        }
        frames[0]
    }
}

/// How fast a generator sends.
pub(crate) struct Pace {
    burst: usize,
    flow_control: FlowControl,
    /// Time between two frames, and when the next one is due.
    limit: Option<(Duration, Instant)>,
}

impl Pace {
    fn new(burst: u16, rate: Option<u32>) -> Self {
        let limit = rate.map(|rate| (Duration::from_secs(1) / rate.max(1), Instant::now()));
        Self { burst: usize::from(burst), flow_control: FlowControl::default(), limit }
    }

    /// How many frames may be sent when `waiting` are at the interface already.
    fn frames(&mut self, waiting: usize, now: Instant) -> usize {
        let room = self.burst.saturating_sub(waiting);
        let Some((gap, due)) = &mut self.limit else { return room };
        // After a pause no more than a burst is made up for.
        let oldest = now.checked_sub(*gap * self.burst as u32);
        *due = oldest.map_or(*due, |oldest| oldest.max(*due));
        let mut frames = 0;
        while frames < room && *due <= now {
            *due += *gap;
            frames += 1;
        }
        frames
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quiet { .. } => "quiet",
            Self::Loop { .. } => "loop",
            Self::Tap(_) => "tap",
            Self::Pcap { .. } => "pcap",
            Self::Generator { .. } => "generator",
        })
    }
}

fn refused(what: String, cause: io::Error) -> DescriptionError {
    DescriptionError::System { what, cause }
}

impl Mac {
    pub(crate) fn new(config: &config::Dpmac) -> Result<Self, DescriptionError> {
        Ok(Self {
            id: config.id,
            container: config.container,
            rate: config.rate,
            is_up: true,
            sent_frames: 0,
            sent_bytes: 0,
            received_frames: 0,
            received_bytes: 0,
            end: End::new(&config.end)?,
            supported: 0,
            advertising: 0,
            interface: 11,
        })
    }

    /// A counter by its number (`dpaa2_defs::mc::dpmac::COUNTERS`): frames and bytes both ways; nothing ever goes wrong
    /// on this wire, and the others stay 0.
    pub(crate) fn counter(&self, id: usize) -> u64 {
        match id {
            15 | 35 => self.received_bytes,
            18 | 26 => self.received_frames,
            21 | 41 => self.sent_bytes,
            27 | 44 => self.sent_frames,
            _ => 0,
        }
    }

    /// The MAC's own address.
    pub(crate) fn address(&self) -> [u8; 6] {
        let [a, b, c, d] = self.id.to_be_bytes();
        [0x02, 0x4d, a, b, c, d]
    }

    /// Takes what an interface sends.
    pub(crate) fn send(&mut self, frame: Vec<u8>, now_ns: u64) {
        self.sent_frames += 1;
        self.sent_bytes += frame.len() as u64;
        self.end.take(frame, now_ns);
    }

    /// The next frames for the interface with this address and these receive queues.
    pub(crate) fn receive(&mut self, mac: [u8; 6], queues: impl Iterator<Item = Waiting>) -> Vec<Vec<u8>> {
        let frames = self.end.give(mac, queues);
        self.received_frames += frames.len() as u64;
        self.received_bytes += frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        frames
    }
}

impl End {
    fn new(config: &WireEnd) -> Result<Self, DescriptionError> {
        Ok(match config {
            WireEnd::Quiet => Self::Quiet { sent: VecDeque::new(), waiting: VecDeque::new() },
            WireEnd::Loop => Self::Loop { waiting: VecDeque::new() },
            WireEnd::Tap { name } => {
                Self::Tap(open_tap(name).map_err(|cause| refused(format!("TAP device {name}"), cause))?)
            }
            WireEnd::Pcap { replay, record } => {
                let replay = match replay {
                    None => VecDeque::new(),
                    Some(path) => std::fs::read(path)
                        .and_then(|bytes| read_capture(&bytes))
                        .map_err(|cause| refused(path.display().to_string(), cause))?,
                };
                let record = match record {
                    None => None,
                    Some(path) => Some(
                        File::create(path)
                            .and_then(|mut file| file.write_all(&CAPTURE_HEADER).map(|()| file))
                            .map_err(|cause| refused(path.display().to_string(), cause))?,
                    ),
                };
                Self::Pcap { replay, record }
            }
            WireEnd::Generator { size, flows, count, burst, rate, destination, hosts } => {
                let mac = destination.as_deref().and_then(config::parse_mac);
                let frame = udp_frame(usize::from(*size).clamp(64, 10_240), mac.unwrap_or_default());
                let (flows, hosts, is_addressed) = ((*flows).max(1), (*hosts).max(1), mac.is_some());
                let pace = Pace::new(*burst, *rate);
                Self::Generator { frame, flows, hosts, next: 0, count: *count, pace, is_addressed }
            }
        })
    }

    fn take(&mut self, frame: Vec<u8>, now_ns: u64) {
        match self {
            Self::Quiet { sent, .. } => {
                if sent.len() == KEPT {
                    sent.pop_front();
                }
                sent.push_back(frame);
            }
            Self::Loop { waiting } => waiting.push_back(frame),
            // A full device queue drops, as a wire without flow control does.
            Self::Tap(file) => drop(file.write(&frame)),
            Self::Pcap { record, .. } => {
                if let Some(file) = record {
                    let _ = file.write_all(&capture_record(&frame, now_ns));
                }
            }
            Self::Generator { .. } => {}
        }
    }

    fn give(&mut self, mac: [u8; 6], queues: impl Iterator<Item = Waiting>) -> Vec<Vec<u8>> {
        match self {
            Self::Quiet { waiting, .. } => waiting.drain(..).collect(),
            Self::Loop { waiting } => waiting.drain(..).collect(),
            Self::Tap(file) => {
                let mut frames = Vec::new();
                let mut buffer = [0; 10_240];
                while frames.len() < BURST {
                    match file.read(&mut buffer) {
                        Ok(len) if len > 0 => frames.push(buffer[..len].to_vec()),
                        _ => break,
                    }
                }
                frames
            }
            Self::Pcap { replay, .. } => {
                let count = replay.len().min(BURST);
                replay.drain(..count).collect()
            }
            Self::Generator { frame, flows, hosts, next, count, pace, is_addressed } => {
                if !*is_addressed {
                    frame[..6].copy_from_slice(&mac);
                }
                let left = count.map_or(u64::MAX, |count| count - (*next).min(count));
                let now = Instant::now();
                let waiting = pace.flow_control.waiting(queues, now);
                (0..left.min(pace.frames(waiting, now) as u64))
                    .map(|_| {
                        let host = (*next % u64::from(*hosts)) as u8;
                        let port = 1024 + (*next / u64::from(*hosts) % u64::from(*flows)) as u16;
                        *next += 1;
                        let mut frame = frame.clone();
                        address_to(&mut frame, host);
                        frame[34..36].copy_from_slice(&port.to_be_bytes());
                        frame
                    })
                    .collect()
            }
        }
    }

    /// Whether what is sent comes back at once.
    pub(crate) fn is_looped(&self) -> bool {
        matches!(self, Self::Loop { .. })
    }

    /// Whether frames may come in without anybody putting them on the wire.
    pub(crate) fn is_active(&self) -> bool {
        match self {
            Self::Quiet { waiting, .. } | Self::Loop { waiting } => !waiting.is_empty(),
            Self::Tap(_) | Self::Generator { .. } => true,
            Self::Pcap { replay, .. } => !replay.is_empty(),
        }
    }
}

fn open_tap(name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open("/dev/net/tun", flags, Mode::empty())?);
    crate::memory::attach_tap(&file, name)?;
    Ok(file)
}

/// A UDP frame whose checksum is 0 ("none"), so that ports can change without computing it again.
fn udp_frame(size: usize, destination: [u8; 6]) -> Vec<u8> {
    // The length on the wire counts the FCS, which isn't here.
    let mut frame = vec![0; size - 4];
    let ip_len = (frame.len() - 14) as u16;
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0xff, 1]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..24].copy_from_slice(&[0x45, 0, (ip_len >> 8) as u8, ip_len as u8, 0, 0, 0, 0, 64, 17]);
    frame[26..34].copy_from_slice(&[192, 168, 1, 1, 192, 168, 1, 2]);
    frame[36..38].copy_from_slice(&[0, 9]);
    frame[38..40].copy_from_slice(&(ip_len - 20).to_be_bytes());
    let sum = headers::checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Sends a frame to another host: so many further than the one it is for.
fn address_to(frame: &mut [u8], host: u8) {
    for last_octet in [5, 33] {
        frame[last_octet] = frame[last_octet].wrapping_add(host);
    }
    frame[24..26].fill(0);
    let sum = headers::checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// A capture with nanoseconds, in this machine's byte order.
const CAPTURE_HEADER: [u8; 24] = {
    let mut header = [0; 24];
    let magic = 0xa1b2_3c4d_u32.to_ne_bytes();
    let (version, minor) = (2_u16.to_ne_bytes(), 4_u16.to_ne_bytes());
    let (longest, link) = (65_535_u32.to_ne_bytes(), 1_u32.to_ne_bytes());
    let mut i = 0;
    while i < 4 {
        header[i] = magic[i];
        header[16 + i] = longest[i];
        header[20 + i] = link[i];
        i += 1;
    }
    header[4] = version[0];
    header[5] = version[1];
    header[6] = minor[0];
    header[7] = minor[1];
    header
};

fn capture_record(frame: &[u8], now_ns: u64) -> Vec<u8> {
    let len = frame.len() as u32;
    let mut record = Vec::with_capacity(16 + frame.len());
    for word in [(now_ns / 1_000_000_000) as u32, (now_ns % 1_000_000_000) as u32, len, len] {
        record.extend(word.to_ne_bytes());
    }
    record.extend(frame);
    record
}

/// Frames of a capture in either byte order; an incomplete last record is left out.
fn read_capture(bytes: &[u8]) -> io::Result<VecDeque<Vec<u8>>> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not a capture file");
    let magic: [u8; 4] = bytes.get(..4).ok_or_else(wrong)?.try_into().map_err(|_| wrong())?;
    let is_swapped = match u32::from_ne_bytes(magic) {
        0xa1b2_c3d4 | 0xa1b2_3c4d => false,
        0xd4c3_b2a1 | 0x4d3c_b2a1 => true,
        _ => return Err(wrong()),
    };
    let mut frames = VecDeque::new();
    let mut rest = bytes.get(24..).ok_or_else(wrong)?;
    while let Some(head) = rest.get(..16) {
        let word = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
        let len = if is_swapped { word.swap_bytes() } else { word } as usize;
        let Some(frame) = rest.get(16..16 + len) else { break };
        frames.push_back(frame.to_vec());
        rest = &rest[16 + len..];
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_read_as_it_was_recorded() {
        let frames = [vec![1; 60], vec![2; 1500]];
        let mut bytes = CAPTURE_HEADER.to_vec();
        for frame in &frames {
            bytes.extend(capture_record(frame, 1_500_000_000));
        }
        assert_eq!(read_capture(&bytes).unwrap(), frames);
        assert_eq!(read_capture(&bytes[..bytes.len() - 1]).unwrap().len(), 1, "the last one is cut off");
        assert!(read_capture(b"what").is_err());
    }

    #[test]
    fn a_paced_generator_sends_when_frames_are_due_and_catches_up_by_one_burst() {
        let mut pace = Pace::new(4, Some(1000));
        let (_, start) = pace.limit.unwrap();
        let mut at = |ms| pace.frames(0, start + Duration::from_millis(ms));
        assert_eq!([at(0), at(0), at(1), at(3)], [1, 0, 1, 2]);
        let after_a_pause = [at(1000), at(1000)];
        assert_eq!(after_a_pause, [4, 1]);
        assert_eq!(at(1001), 1);
    }

    #[test]
    fn a_queue_that_is_left_alone_while_others_are_served_does_not_stop_the_wire() {
        let mut control = FlowControl::default();
        let start = Instant::now();
        let mut at = |ms: u64, asked: [u64; 2]| {
            let queues = [Waiting { frames: 10, asked: asked[0] }, Waiting { frames: 5, asked: asked[1] }];
            control.waiting(queues.into_iter(), start + Duration::from_millis(ms))
        };
        assert_eq!([at(0, [0, 0]), at(500, [0, 0])], [15, 15], "nobody asks: all wait");
        assert_eq!([at(501, [1, 1]), at(540, [1, 2])], [15, 15]);
        assert_eq!([at(560, [1, 3]), at(561, [1, 4])], [15, 5], "the first one has been left alone");
        assert_eq!([at(600, [2, 4]), at(900, [2, 4])], [15, 15], "it is looked after again");
    }

    #[test]
    fn a_generator_sends_its_flows_in_turn_and_ends_at_its_count() {
        let config = WireEnd::Generator {
            size: 64,
            flows: 2,
            count: Some(3),
            burst: 2,
            rate: None,
            destination: None,
            hosts: 1,
        };
        let mut end = End::new(&config).unwrap();
        let mut give = |frames| end.give([2; 6], [Waiting { frames, asked: 0 }].into_iter());
        assert!(give(2).is_empty(), "so many wait already");
        let frames: Vec<Vec<u8>> = (0..3).flat_map(|_| give(0)).collect();
        assert_eq!(frames.iter().map(|frame| frame[35]).collect::<Vec<_>>(), [0, 1, 0]);
        assert!(frames.iter().all(|frame| frame.len() == 60 && frame[..6] == [2; 6]));
    }
}
