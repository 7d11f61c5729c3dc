//! The 64 bytes a command portal carries: a header and 56 bytes of parameters. The response takes the place of the
//! request.
//!
//! Source: Linux, include/linux/fsl/mc.h and drivers/bus/fsl-mc/mc-sys.c; DPDK, drivers/bus/fslmc/mc/fsl_mc_cmd.h.
//!
//! ```
//! use dpaa2_defs::mc::{common::Enable, header::{Frame, Status}};
//!
//! let request = Frame::request(5, &Enable {});
//! assert_eq!(request.words()[0], 0x0021_0005_0001_0000);
//! let response = request.response(Status::OK, &());
//! assert_eq!(response.header.status, Status::OK);
//! ```

use core::fmt;

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

/// Length of a command in bytes.
pub const COMMAND_LEN: usize = 64;
/// Bytes of a command after its header.
pub const PARAMETERS_LEN: usize = 56;

/// Number and version of a command.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandId {
    /// Number, 12 bits.
    pub id: u16,
    /// Version, 4 bits: which layout the parameters have. Later ones append to earlier ones, but for the few that say
    /// so.
    pub version: u8,
}

impl CommandId {
    /// A command's number and version.
    ///
    /// # Panics
    /// If they don't fit in 12 and 4 bits.
    pub const fn new(id: u16, version: u8) -> Self {
        assert!(id < 1 << 12 && version < 1 << 4);
        Self { id, version }
    }

    /// From bytes 6 and 7 of the header.
    pub const fn from_word(word: u16) -> Self {
        Self { id: word >> 4, version: (word & 0xf) as u8 }
    }

    /// Bytes 6 and 7 of the header: the number in bits 15:4, the version in bits 3:0.
    pub const fn word(self) -> u16 {
        self.id << 4 | self.version as u16
    }
}

/// `0x004 v6`.
impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#05x} v{}", self.id, self.version)
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A command: the layout of its parameters, its number, and the layout of what is answered.
///
/// Neither layout may be larger than [`PARAMETERS_LEN`]; what is left is 0 when sent.
pub trait Command: IntoBytes + FromBytes + Immutable + KnownLayout + Copy + fmt::Debug {
    /// As people call it: "set pools".
    const NAME: &'static str;
    /// The number, and the version this project sends.
    const CMD: CommandId;
    /// The newest version whose parameters this layout can hold; an older one reads as 0 where it is shorter.
    const NEWEST_VERSION: u8;
    /// The layout of the response's parameters.
    type Response: IntoBytes + FromBytes + Immutable + KnownLayout + Copy + fmt::Debug;
}

open_enum! {
    /// How a command ended. The causes are inferred from what drivers do; NXP documents only the names.
    pub enum Status: u8 {
        /// It is done.
        OK = 0x0 "OK",
        /// It isn't done yet; what the driver writes.
        READY = 0x1 "READY",
        /// Wrong token, or the object isn't open on this portal.
        AUTHENTICATION = 0x3 "AUTH_ERR",
        /// The container's options don't allow it.
        NO_PRIVILEGE = 0x4 "NO_PRIVILEGE",
        /// The MC can't reach an address in the parameters.
        DMA = 0x5 "DMA_ERR",
        /// Wrong parameter, or no such object.
        CONFIGURATION = 0x6 "CONFIG_ERR",
        /// Something inside didn't answer.
        TIMEOUT = 0x7 "TIMEOUT",
        /// None left of what it takes.
        NO_RESOURCE = 0x8 "NO_RESOURCE",
        /// Out of memory.
        NO_MEMORY = 0x9 "NO_MEMORY",
        /// The object is in use.
        BUSY = 0xa "BUSY",
        /// Unknown command or version.
        UNSUPPORTED = 0xb "UNSUPPORTED_OP",
        /// Not in the state the object is in.
        INVALID_STATE = 0xc "INVALID_STATE",
    }
}

/// The first 8 bytes of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// Which portal it came from; set by hardware.
    pub source: u8,
    /// Bit 7: [`Header::HIGH_PRIORITY`].
    pub hardware_flags: u8,
    /// READY in a request.
    pub status: Status,
    /// Bit 0: [`Header::NO_COMPLETION_IRQ`].
    pub software_flags: u8,
    /// Handle of the object the command is for, 0 for commands that take none; the answer to `open` carries a new one.
    pub token: U16,
    /// See [`CommandId::word`].
    pub command: U16,
}

const _: () = assert!(size_of::<Header>() == 8);

impl Header {
    /// In `hardware_flags`: goes into the MC's urgent queue.
    pub const HIGH_PRIORITY: u8 = 0x80;
    /// In `software_flags`: no interrupt of the portal at the end.
    pub const NO_COMPLETION_IRQ: u8 = 0x01;

    /// Number and version.
    pub const fn id(&self) -> CommandId {
        CommandId::from_word(self.command.get())
    }
}

/// A whole command, request or response.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Frame {
    /// What and how.
    pub header: Header,
    /// See the command's layouts.
    pub parameters: [u8; PARAMETERS_LEN],
}

const _: () = assert!(size_of::<Frame>() == COMMAND_LEN);

impl Frame {
    /// The request for a command, in the version this project sends.
    pub fn request<C: Command>(token: u16, command: &C) -> Self {
        Self::request_with_version(token, command, C::CMD.version)
    }

    /// The request in another version, for firmware whose API version asks for that.
    pub fn request_with_version<C: Command>(token: u16, command: &C, version: u8) -> Self {
        Self {
            header: Header {
                status: Status::READY,
                token: token.into(),
                command: CommandId::new(C::CMD.id, version).word().into(),
                ..Header::default()
            },
            parameters: padded(command),
        }
    }

    /// The response to this request: same command, new status and parameters.
    pub fn response<R: IntoBytes + Immutable>(&self, status: Status, response: &R) -> Self {
        Self { header: Header { status, ..self.header }, parameters: padded(response) }
    }

    /// The parameters as a layout. Bytes after it are left alone.
    pub fn read<T: FromBytes>(&self) -> T {
        const { assert!(size_of::<T>() <= PARAMETERS_LEN) };
        let Ok((value, _)) = T::read_from_prefix(&self.parameters) else {
            unreachable!("it fits, asserted above")
        };
        value
    }

    /// The command as a portal holds it: 8 little-endian words of 64 bits, the header first.
    pub fn words(&self) -> [u64; 8] {
        let words: [U64; 8] = transmute!(*self);
        words.map(U64::get)
    }

    /// The inverse of [`Frame::words`].
    pub fn from_words(words: [u64; 8]) -> Self {
        transmute!(words.map(U64::new))
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { status, token, .. } = self.header;
        write!(f, "{} token {token} {status} {:02x?}", self.header.id(), self.parameters)
    }
}

fn padded<T: IntoBytes + Immutable>(value: &T) -> [u8; PARAMETERS_LEN] {
    const { assert!(size_of::<T>() <= PARAMETERS_LEN) };
    let mut bytes = [0; PARAMETERS_LEN];
    bytes[..size_of::<T>()].copy_from_slice(value.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mc::common::Enable;

    #[test]
    fn a_frame_is_the_same_as_bytes_and_as_words() {
        let frame = Frame::request(7, &Enable {});
        assert_eq!(frame.as_bytes()[..8], [0, 0, 1, 0, 7, 0, 0x21, 0]);
        assert_eq!(frame.words()[0], 0x0021_0007_0001_0000);
        assert_eq!(Frame::from_words(frame.words()), frame);
    }

    #[test]
    fn a_status_is_called_by_its_name() {
        assert_eq!(format!("{}", Status::NO_PRIVILEGE), "NO_PRIVILEGE");
        assert_eq!(format!("{}", Status(0x2)), "0x2");
    }
}
