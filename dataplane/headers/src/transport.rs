//! TCP, UDP, SCTP.

use crate::{U16, U32, header};

/// Bits of a TCP header's flags.
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u16 = 0x001;
    /// Opens a connection.
    pub const SYN: u16 = 0x002;
    /// Resets a connection.
    pub const RST: u16 = 0x004;
    /// To be handed to the application.
    pub const PSH: u16 = 0x008;
    /// The acknowledgement number counts.
    pub const ACK: u16 = 0x010;
    /// The urgent pointer counts.
    pub const URG: u16 = 0x020;
    /// Congestion was experienced.
    pub const ECE: u16 = 0x040;
    /// Congestion window was reduced.
    pub const CWR: u16 = 0x080;
}

header! {
    /// TCP header (RFC 9293) without options.
    Tcp, 20 {
        /// Source port.
        src: U16,
        /// Destination port.
        dst: U16,
        /// Sequence number.
        seq: U32,
        /// Acknowledgement number.
        ack: U32,
        /// Header length in 32-bit words 4 bits, flags 12 bits.
        offset_flags: U16,
        /// Window.
        window: U16,
        /// Checksum.
        checksum: U16,
        /// Urgent pointer.
        urgent: U16,
    }
}

impl Tcp {
    /// Where the checksum lies in the header.
    pub const CHECKSUM_OFFSET: usize = 16;

    /// Header length in bytes as the header says it, options included: 0 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        (self.offset_flags.get() >> 12) as usize * 4
    }

    /// The 12 flag bits, see [`tcp_flags`].
    #[inline(always)]
    pub fn flags(&self) -> u16 {
        self.offset_flags.get() & 0xfff
    }

    /// Writes the 12 flag bits.
    #[inline]
    pub fn set_flags(&mut self, flags: u16) {
        self.offset_flags = (self.offset_flags.get() & 0xf000 | flags & 0xfff).into();
    }
}

header! {
    /// UDP header (RFC 768).
    Udp, 8 {
        /// Source port.
        src: U16,
        /// Destination port.
        dst: U16,
        /// Header and payload in bytes.
        length: U16,
        /// Checksum; 0 for none (IPv4 only).
        checksum: U16,
    }
}

impl Udp {
    /// Where the checksum lies in the header.
    pub const CHECKSUM_OFFSET: usize = 6;
}

header! {
    /// SCTP common header (RFC 9260).
    Sctp, 12 {
        /// Source port.
        src: U16,
        /// Destination port.
        dst: U16,
        /// Verification tag.
        tag: U32,
        /// CRC32c.
        checksum: U32,
    }
}
