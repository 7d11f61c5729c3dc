//! What the command line says: words of the form `key=value`.

/// What the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Sends each frame back where it came from.
    Reflect,
    /// Sends what it receives on one port out of the other.
    Forward,
    /// Sends numbered frames, and counts those that come back.
    Generate,
    /// Takes frames and counts.
    Sink,
    /// Reads a disk.
    Read,
}

/// The command line, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `mode=`
    pub mode: Mode,
    /// `ecam=`: where PCI's configuration space lies.
    pub ecam: u64,
    /// `serial=`: where the serial port lies, where it isn't at a port.
    pub serial: u64,
    /// `exit=`: where the register lies that ends the machine, where it isn't at a port.
    pub exit: u64,
    /// `mailbox=`: where the [`Mailbox`](crate::mailbox::Mailbox) lies.
    pub mailbox: u64,
    /// `memory=`: first address behind the memory that the guest may use.
    pub memory: u64,
    /// `tick_khz=`: ticks of the cycle counter in a millisecond.
    pub tick_khz: u64,
    /// `packed=on`: packed rings where the device has them.
    pub packed: bool,
    /// `ring=`: most entries of a ring.
    pub ring: u16,
    /// `queues=`: most queue pairs of a device that are used.
    pub queues: u16,
    /// `requeue=on`: takes each queue back from the device once it runs, and sets it up again.
    pub requeue: bool,
    /// `size=`: bytes of a generated frame, without FCS.
    pub size: u16,
    /// `window=`: most frames on their way to a reflector and back; 0 doesn't wait for any. Of a disk, most requests under
    /// way; 0 fills the ring.
    pub window: u64,
    /// `count=`: frames to generate before the guest ends; 0 goes on until told.
    pub count: u64,
    /// `to=`: Ethernet address that frames are sent to.
    pub to: [u8; 6],
    /// `exits=`: times to leave the guest in each way before all else, to see what that takes.
    pub exits: u64,
    /// `report=`: seconds between lines on the console; 0 prints only at the end.
    pub report: u64,
}

impl Options {
    /// Reads a command line. Words that mean nothing here are passed over, as Linux does.
    pub fn parse(line: &[u8]) -> Options {
        let mut options = Options {
            mode: Mode::Reflect,
            ecam: 0,
            serial: 0,
            exit: 0,
            mailbox: 0,
            memory: 0,
            tick_khz: 1_000_000,
            packed: false,
            ring: 1024,
            queues: 1,
            requeue: false,
            size: 60,
            window: 480,
            count: 0,
            to: [0xff; 6],
            exits: 0,
            report: 0,
        };
        for word in line.split(|&byte| byte == b' ') {
            let Some(at) = word.iter().position(|&byte| byte == b'=') else { continue };
            let (key, value) = (&word[..at], &word[at + 1..]);
            match key {
                b"mode" => {
                    options.mode = match value {
                        b"forward" => Mode::Forward,
                        b"generate" => Mode::Generate,
                        b"sink" => Mode::Sink,
                        b"read" => Mode::Read,
                        _ => Mode::Reflect,
                    }
                }
                b"ecam" => options.ecam = number(value),
                b"serial" => options.serial = number(value),
                b"exit" => options.exit = number(value),
                b"mailbox" => options.mailbox = number(value),
                b"memory" => options.memory = number(value),
                b"tick_khz" => options.tick_khz = number(value).max(1),
                b"packed" => options.packed = value == b"on",
                b"ring" => options.ring = number(value).clamp(2, 32768) as u16,
                b"queues" => options.queues = number(value).clamp(1, 8) as u16,
                b"requeue" => options.requeue = value == b"on",
                b"size" => options.size = number(value).clamp(60, 1514) as u16,
                b"window" => options.window = number(value),
                b"count" => options.count = number(value),
                b"to" => options.to = mac(value).unwrap_or(options.to),
                b"exits" => options.exits = number(value),
                b"report" => options.report = number(value),
                _ => {}
            }
        }
        options
    }
}

/// A number, decimal or with `0x`; 0 if it is none.
fn number(text: &[u8]) -> u64 {
    let (digits, radix) = match text {
        [b'0', b'x', digits @ ..] => (digits, 16),
        digits => (digits, 10),
    };
    core::str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, radix).ok()).unwrap_or(0)
}

fn mac(text: &[u8]) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(|&byte| byte == b':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(core::str::from_utf8(parts.next()?).ok()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}
