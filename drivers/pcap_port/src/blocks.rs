//! Reading numbers of either byte order from a file's bytes.

use crate::Malformed;

/// The byte order a file, or a section of it, was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endian {
    Little,
    Big,
}

/// A piece of a file that knows where it lies in it.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub bytes: &'a [u8],
    pub offset: usize,
    pub endian: Endian,
}

impl<'a> Piece<'a> {
    /// The `len` bytes from `at` on.
    pub fn piece(&self, at: usize, len: usize, what: &'static str) -> Result<Piece<'a>, Malformed> {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.get(..len));
        match bytes {
            Some(bytes) => Ok(Piece { bytes, offset: self.offset + at, endian: self.endian }),
            None => Err(self.malformed(at.min(self.bytes.len()), what)),
        }
    }

    pub fn u16(&self, at: usize, what: &'static str) -> Result<u16, Malformed> {
        let bytes = self.piece(at, 2, what)?.bytes.try_into().expect("2 bytes");
        Ok(match self.endian {
            Endian::Little => u16::from_le_bytes(bytes),
            Endian::Big => u16::from_be_bytes(bytes),
        })
    }

    pub fn u32(&self, at: usize, what: &'static str) -> Result<u32, Malformed> {
        let bytes = self.piece(at, 4, what)?.bytes.try_into().expect("4 bytes");
        Ok(match self.endian {
            Endian::Little => u32::from_le_bytes(bytes),
            Endian::Big => u32::from_be_bytes(bytes),
        })
    }

    /// Says what is wrong at `at`.
    pub fn malformed(&self, at: usize, what: &'static str) -> Malformed {
        Malformed { offset: (self.offset + at) as u64, what, value: None }
    }

    /// Says what is wrong at `at`, where `value` stands.
    pub fn bad_value(&self, at: usize, what: &'static str, value: u64) -> Malformed {
        Malformed { value: Some(value), ..self.malformed(at, what) }
    }
}
