//! The internet checksum (RFC 1071): whole, incremental (RFC 1624), and completed for a sender.

use std::fmt;

/// A one's complement sum under way.
///
/// The sum doesn't care about byte order as long as it is the same throughout (RFC 1071, 2B), so bytes are
/// added as the machine reads them and the result is turned once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes. Only the last ones may be odd in number.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // 32-bit pieces into 64-bit lanes: no carry to look after below 16 GiB, and vectors where there are any.
        let mut lanes = [0u64; 8];
        let mut blocks = bytes.chunks_exact(32);
        for block in &mut blocks {
            for (lane, piece) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
                *lane += u32::from_ne_bytes(*piece) as u64;
            }
        }
        let mut sum: u64 = lanes.iter().sum();
        let (pieces, rest) = blocks.remainder().as_chunks::<4>();
        for piece in pieces {
            sum += u32::from_ne_bytes(*piece) as u64;
        }
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            sum += u32::from_ne_bytes(last) as u64;
        }
        Self(add(self.0, sum))
    }

    /// Adds a 16-bit number.
    #[inline]
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(add(self.0, word.to_be() as u64))
    }

    /// Adds the pseudo header of TCP, UDP, ICMPv6 over IPv4 or IPv6: the two addresses as they stand in the
    /// packet (source then destination, 8 or 32 bytes), protocol, and length of the transport's bytes.
    #[inline]
    #[must_use]
    pub fn pseudo_header(self, addresses: &[u8], protocol: u8, len: usize) -> Self {
        self.bytes(addresses).word(protocol as u16).word((len >> 16) as u16).word(len as u16)
    }

    /// The sum of 16 bits, not complemented: what a header's checksum field holds before it is completed.
    #[inline]
    pub fn partial(self) -> u16 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        u16::from_be(sum as u16)
    }

    /// The checksum.
    #[inline]
    pub fn finish(self) -> u16 {
        !self.partial()
    }
}

/// Adds with the carry brought round.
#[inline(always)]
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// The checksum of these bytes. 0 when they hold their own right checksum.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::default().bytes(bytes).finish()
}

/// The checksum after a 16-bit word it covers changed from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = !checksum as u32 + !old as u32 + new as u32;
    let sum = (sum >> 16) + (sum & 0xffff);
    !(((sum >> 16) + sum) as u16)
}

/// The checksum after bytes it covers changed. They start at an even offset and are even in number.
///
/// # Panics
/// When the two differ in length or their length is odd.
pub fn update_bytes(mut checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    assert!(old.len() == new.len() && old.len().is_multiple_of(2), "whole words are replaced");
    for (old, new) in old.as_chunks::<2>().0.iter().zip(new.as_chunks::<2>().0) {
        checksum = update(checksum, u16::from_be_bytes(*old), u16::from_be_bytes(*new));
    }
    checksum
}

/// A request for a checksum that doesn't fit its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChecksumRequest {
    /// Where the sum was to start.
    pub start: usize,
    /// Where it was to be stored, from `start`.
    pub offset: usize,
    /// The frame's length in bytes.
    pub frame_len: usize,
}

impl fmt::Display for BadChecksumRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, offset, frame_len } = self;
        write!(f, "checksum at {start}+{offset} does not lie in a frame of {frame_len} bytes")
    }
}

impl std::error::Error for BadChecksumRequest {}

/// Completes a checksum its sender left open (virtio 1.2, section 5.1.6.2): sums from `start` to the frame's end,
/// with the pseudo header's part already standing where the result is stored, `offset` bytes from `start`.
///
/// A result of 0 is stored as 0xffff, which is the same number and, in UDP, doesn't mean "none".
///
/// # Errors
/// When the place isn't inside the frame.
pub fn complete_checksum(frame: &mut [u8], start: u16, offset: u16) -> Result<(), BadChecksumRequest> {
    let (start, offset, frame_len) = (start as usize, offset as usize, frame.len());
    if start + offset + 2 > frame_len {
        return Err(BadChecksumRequest { start, offset, frame_len });
    }
    let sum = nonzero(checksum(&frame[start..]));
    frame[start + offset..][..2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// One of the two forms of zero, the one that UDP doesn't take for "no checksum".
#[inline]
pub fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, section 1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += (pair[0] as u64) << 8 | pair.get(1).copied().unwrap_or(0) as u64;
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&bytes).partial(), 0xddf2);
        assert_eq!(checksum(&bytes), !0xddf2);
    }

    #[test]
    fn a_long_run_of_ones_carries_right() {
        for len in [0, 1, 2, 31, 32, 33, 1500, 65_535] {
            let bytes = vec![0xff; len];
            assert_eq!(checksum(&bytes), naive(&bytes), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn every_length_sums_as_the_plain_loop(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(checksum(&bytes), naive(&bytes));
        }

        #[test]
        fn sums_of_parts_are_the_sum_of_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..100) {
            let at = (at * 2).min(bytes.len() / 2 * 2);
            let parts = Sum::default().bytes(&bytes[..at]).bytes(&bytes[at..]).finish();
            prop_assert_eq!(parts, naive(&bytes));
        }

        #[test]
        fn an_update_equals_a_new_sum(mut bytes in proptest::collection::vec(any::<u8>(), 8..100), new in any::<[u8; 6]>()) {
            // Some byte besides the changed ones is not zero, as in any header: RFC 1624 then leaves no doubt of -0.
            bytes[7] |= 1;
            let before = naive(&bytes);
            let updated = update_bytes(before, &bytes[..6], &new);
            bytes[..6].copy_from_slice(&new);
            prop_assert_eq!(updated, naive(&bytes));
        }

        #[test]
        fn a_completed_checksum_verifies(mut frame in proptest::collection::vec(any::<u8>(), 60..200), addresses in any::<[u8; 8]>()) {
            let len = frame.len() - 34;
            let pseudo = Sum::default().pseudo_header(&addresses, 17, len);
            frame[40..42].copy_from_slice(&pseudo.partial().to_be_bytes());
            complete_checksum(&mut frame, 34, 6).unwrap();
            prop_assert_eq!(pseudo.bytes(&frame[34..]).finish(), 0);
            prop_assert_ne!(&frame[40..42], &[0, 0]);
        }
    }

    #[test]
    fn a_checksum_outside_the_frame_is_refused() {
        let mut frame = [0u8; 60];
        assert_eq!(complete_checksum(&mut frame, 58, 0), Ok(()));
        for (start, offset) in [(58, 1), (59, 0), (60, 0), (0, 59), (u16::MAX, u16::MAX)] {
            let refused = complete_checksum(&mut frame, start, offset).unwrap_err();
            assert_eq!((refused.start, refused.frame_len), (start as usize, 60));
        }
    }
}
