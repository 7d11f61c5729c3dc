//! From a byte stream to messages, without I/O.

use std::os::fd::OwnedFd;

use zerocopy::{FromBytes, IntoBytes};

use crate::message::{FDS_MAX, HEADER_LEN, Header, PAYLOAD_MAX};

/// A whole message, not yet looked into.
///
/// `F` is the descriptor type; fuzzers use `()`. Dropping a message closes its descriptors.
#[derive(Debug)]
pub struct Message<F = OwnedFd> {
    /// Its header.
    pub header: Header,
    /// Its payload, `header.size` bytes.
    pub payload: Vec<u8>,
    /// The descriptors that came with any of its bytes, in order.
    pub fds: Vec<F>,
}

/// An encoded message on its way out.
#[derive(Debug)]
pub struct Outgoing<F = OwnedFd> {
    /// Header and payload.
    pub bytes: Vec<u8>,
    /// Descriptors to send with the first byte.
    pub fds: Vec<F>,
}

impl<F> Outgoing<F> {
    pub(crate) fn new(code: u32, flags: u32, payload: &[u8], fds: Vec<F>) -> Self {
        assert!(payload.len() <= PAYLOAD_MAX && fds.len() <= FDS_MAX, "own message too large");
        let header = Header { code, flags: flags | Header::VERSION, size: payload.len() as u32 };
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(payload);
        Outgoing { bytes, fds }
    }
}

/// The stream can't be cut into messages any more; the connection is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The header's version is not 1.
    #[error("message with protocol version {0} instead of 1")]
    Version(u32),
    /// The header announces more than [`PAYLOAD_MAX`] bytes.
    #[error("message with a payload of {0} bytes, more than {PAYLOAD_MAX}")]
    TooLong(u32),
    /// More than [`FDS_MAX`] descriptors came with one message.
    #[error("message with more than {FDS_MAX} file descriptors")]
    TooManyFds,
    /// The peer hung up inside a message.
    #[error("connection closed in mid-message, after {0} bytes of it")]
    CutShort(usize),
}

/// Collects the bytes of one message at a time.
///
/// Feed it at most [`wanted`](Self::wanted) bytes at once: the kernel hands descriptors over with the bytes
/// they were sent with, so reading no further than a message's end tells whose they are.
#[derive(Debug)]
pub struct Decoder<F = OwnedFd> {
    bytes: Vec<u8>,
    fds: Vec<F>,
}

impl<F> Default for Decoder<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> Decoder<F> {
    /// Starts at a message's first byte.
    pub fn new() -> Self {
        Self { bytes: Vec::with_capacity(HEADER_LEN), fds: vec![] }
    }

    /// How many bytes may be fed next, at least 1 and at most [`PAYLOAD_MAX`].
    pub fn wanted(&self) -> usize {
        match self.header() {
            None => HEADER_LEN - self.bytes.len(),
            Some(header) => HEADER_LEN + header.size as usize - self.bytes.len(),
        }
    }

    /// Whether a message has begun and is not complete.
    pub fn in_message(&self) -> bool {
        !self.bytes.is_empty() || !self.fds.is_empty()
    }

    /// Takes the next bytes of the stream and the descriptors that came with them. Returns the message they
    /// complete.
    ///
    /// # Errors
    /// The stream is broken; what was collected, descriptors included, goes with the decoder.
    ///
    /// # Panics
    /// When given more than [`wanted`](Self::wanted) bytes.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        fds: impl IntoIterator<Item = F>,
    ) -> Result<Option<Message<F>>, DecodeError> {
        assert!(bytes.len() <= self.wanted(), "fed {} bytes, wanted {}", bytes.len(), self.wanted());
        self.bytes.extend_from_slice(bytes);
        for fd in fds {
            if self.fds.len() == FDS_MAX {
                return Err(DecodeError::TooManyFds);
            }
            self.fds.push(fd);
        }
        let Some(header) = self.header() else { return Ok(None) };
        let version = header.flags & Header::VERSION_MASK;
        if version != Header::VERSION {
            return Err(DecodeError::Version(version));
        }
        if header.size as usize > PAYLOAD_MAX {
            return Err(DecodeError::TooLong(header.size));
        }
        if self.wanted() > 0 {
            return Ok(None);
        }
        let payload = self.bytes[HEADER_LEN..].to_vec();
        self.bytes.clear();
        Ok(Some(Message { header, payload, fds: std::mem::take(&mut self.fds) }))
    }

    /// Tells what the end of the stream means now.
    ///
    /// # Errors
    /// [`DecodeError::CutShort`] inside a message.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.in_message() { Err(DecodeError::CutShort(self.bytes.len())) } else { Ok(()) }
    }

    /// Takes the bytes and descriptors of the message that has begun, to be fed to another decoder.
    pub fn into_parts(self) -> (Vec<u8>, Vec<F>) {
        (self.bytes, self.fds)
    }

    /// The bytes and descriptors of the message that has begun.
    pub fn parts(&self) -> (&[u8], &[F]) {
        (&self.bytes, &self.fds)
    }

    /// Goes on inside a message, with the parts of another decoder.
    ///
    /// # Errors
    /// As [`feed`](Self::feed); [`DecodeError::TooLong`] also when the parts are more than one message.
    pub fn from_parts(bytes: &[u8], fds: Vec<F>) -> Result<Self, DecodeError> {
        let mut decoder = Self::new();
        let (head, rest) = bytes.split_at(bytes.len().min(HEADER_LEN));
        let complete = decoder.feed(head, fds)?.is_some();
        if complete || (!rest.is_empty() && rest.len() >= decoder.wanted()) {
            return Err(DecodeError::TooLong(bytes.len() as u32));
        }
        decoder.feed(rest, [])?;
        Ok(decoder)
    }

    fn header(&self) -> Option<Header> {
        Header::read_from_prefix(&self.bytes).ok().map(|(header, _)| header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(size: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Header { code: 2, flags, size }.as_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_message_in_pieces_of_any_size_is_the_same_message() {
        let bytes = message(8, 1, &[1, 2, 3, 4, 5, 6, 7, 8]);
        for piece in 1..=bytes.len() {
            let mut decoder = Decoder::<u8>::new();
            let mut rest = &bytes[..];
            let mut got = None;
            while !rest.is_empty() {
                let n = piece.min(decoder.wanted()).min(rest.len());
                got = decoder.feed(&rest[..n], [n as u8]).unwrap();
                rest = &rest[n..];
                assert_eq!(got.is_some(), rest.is_empty());
            }
            let got = got.expect("complete");
            assert_eq!(got.payload, [1, 2, 3, 4, 5, 6, 7, 8]);
            assert_eq!(got.fds.iter().map(|&n| n as usize).sum::<usize>(), bytes.len());
            assert!(!decoder.in_message());
        }
    }

    #[test]
    fn a_header_of_another_version_or_size_is_refused_before_its_payload_comes() {
        let mut decoder = Decoder::<()>::new();
        assert_eq!(decoder.feed(&message(8, 2, &[]), []).unwrap_err(), DecodeError::Version(2));
        let mut decoder = Decoder::<()>::new();
        assert_eq!(decoder.feed(&message(4097, 1, &[]), []).unwrap_err(), DecodeError::TooLong(4097));
        let mut decoder = Decoder::<()>::new();
        assert_eq!(decoder.feed(&message(u32::MAX, 1, &[]), []).unwrap_err(), DecodeError::TooLong(u32::MAX));
    }

    #[test]
    fn descriptors_spread_over_a_messages_pieces_are_bounded_in_sum() {
        let mut decoder = Decoder::<()>::new();
        let bytes = message(8, 1, &[0; 8]);
        assert!(decoder.feed(&bytes[..6], [(); 20]).unwrap().is_none());
        assert_eq!(decoder.feed(&bytes[6..12], [(); 13]).unwrap_err(), DecodeError::TooManyFds);
    }

    #[test]
    fn the_end_of_the_stream_is_an_error_inside_a_message_only() {
        let mut decoder = Decoder::<()>::new();
        assert_eq!(decoder.end(), Ok(()));
        decoder.feed(&[2, 0, 0], []).unwrap();
        assert_eq!(decoder.end(), Err(DecodeError::CutShort(3)));
    }

    #[test]
    fn a_begun_message_can_be_finished_by_another_decoder() {
        let bytes = message(8, 1, &[9; 8]);
        for cut in 0..bytes.len() {
            let mut first = Decoder::<u8>::new();
            first.feed(&bytes[..cut.min(12)], [7]).unwrap();
            first.feed(&bytes[cut.min(12)..cut], []).unwrap();
            let (begun, fds) = first.into_parts();
            let mut second = Decoder::from_parts(&begun, fds).unwrap();
            let mut got = None;
            for &byte in &bytes[cut..] {
                got = second.feed(&[byte], []).unwrap();
            }
            let got = got.expect("complete");
            assert_eq!((got.payload, got.fds), (vec![9; 8], vec![7]));
        }
        assert!(Decoder::<u8>::from_parts(&bytes, vec![]).is_err(), "a whole message is not a begun one");
        assert!(Decoder::<u8>::from_parts(&[bytes.clone(), bytes].concat(), vec![]).is_err());
    }
}
