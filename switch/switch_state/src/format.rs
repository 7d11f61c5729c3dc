//! States as bytes.

use crate::state::{Address, Credit, State};

/// What a state begins with.
pub const MAGIC: [u8; 8] = *b"ringway\0";
/// The version that is written.
pub const VERSION: u32 = 2;
/// The oldest version that is read.
pub const OLDEST: u32 = 1;
/// Bytes of a state at most.
pub const STATE_BYTES_MAX: usize = 256 << 20;

/// From this version on addresses and credits stand behind the text.
const TABLES_SINCE: u32 = 2;

const ADDRESS_BYTES: usize = 16;
const CREDIT_BYTES: usize = 20;

/// Why bytes are no state.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// They begin with something else.
    #[error("this is no state of a switch")]
    NotAState,
    /// The writer is of another time.
    #[error("the state is of version {found}; this program reads {OLDEST} to {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// They end too early, or too late.
    #[error("the state has {found} bytes where {expected} are announced")]
    Length {
        /// Bytes there should be at least.
        expected: u64,
        /// Bytes there are.
        found: usize,
    },
    /// The text.
    #[error("the state can't be read: {0}")]
    Text(#[from] serde_json::Error),
}

impl State {
    /// Writes the state in the current version.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = serde_json::to_vec(self).expect("names and numbers can be written as JSON");
        let mut out = Vec::with_capacity(16 + text.len() + self.table_bytes());
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text);
        for bridge in &self.bridges {
            out.extend((bridge.addresses.len() as u32).to_le_bytes());
            bridge.addresses.iter().for_each(|address| address.write(&mut out));
            out.extend((bridge.credits.len() as u32).to_le_bytes());
            bridge.credits.iter().for_each(|credit| credit.write(&mut out));
        }
        out
    }

    fn table_bytes(&self) -> usize {
        let of = |b: &crate::Bridge| 8 + b.addresses.len() * ADDRESS_BYTES + b.credits.len() * CREDIT_BYTES;
        self.bridges.iter().map(of).sum()
    }

    /// Reads a state of any version from [`OLDEST`] to [`VERSION`].
    ///
    /// # Errors
    /// It is none, is of another version, or is damaged. Memory taken is in proportion to `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<State, ParseError> {
        let mut input = Input { bytes, rest: bytes };
        if input.take(MAGIC.len()).map_err(|_| ParseError::NotAState)? != MAGIC {
            return Err(ParseError::NotAState);
        }
        let version = input.u32()?;
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(ParseError::Version { found: version });
        }
        let len = input.u32()?;
        let mut state: State = serde_json::from_slice(input.take(len as usize)?)?;
        if version >= TABLES_SINCE {
            for bridge in &mut state.bridges {
                bridge.addresses = input.table(ADDRESS_BYTES, Address::read)?;
                bridge.credits = input.table(CREDIT_BYTES, Credit::read)?;
            }
        }
        match input.rest {
            [] => Ok(state),
            rest => {
                let expected = (bytes.len() - rest.len()) as u64;
                Err(ParseError::Length { expected, found: bytes.len() })
            }
        }
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ParseError> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            let expected = (self.bytes.len() - self.rest.len()) as u64 + len as u64;
            return Err(ParseError::Length { expected, found: self.bytes.len() });
        };
        self.rest = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, ParseError> {
        Ok(u32::from_le_bytes(field(self.take(4)?, 0)))
    }

    fn table<T>(&mut self, record: usize, read: fn(&[u8]) -> T) -> Result<Vec<T>, ParseError> {
        let count = self.u32()? as usize;
        // A count of 32 bits times a record of 20 bytes fits 64 bits.
        Ok(self.take(count * record)?.chunks_exact(record).map(read).collect())
    }
}

/// `N` bytes of a record of known length.
fn field<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    record[at..at + N].try_into().expect("the range has this length")
}

impl Address {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.mac);
        out.extend(self.vlan.to_le_bytes());
        out.extend(self.port.to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.seen_secs.to_le_bytes());
    }

    fn read(record: &[u8]) -> Address {
        Address {
            mac: field(record, 0),
            vlan: u16::from_le_bytes(field(record, 6)),
            port: u16::from_le_bytes(field(record, 8)),
            seen_secs: u32::from_le_bytes(field(record, 12)),
        }
    }
}

impl Credit {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.frames.to_le_bytes());
        out.extend(self.bytes.to_le_bytes());
        out.extend(self.last_used_secs.to_le_bytes());
    }

    fn read(record: &[u8]) -> Credit {
        Credit {
            frames: u64::from_le_bytes(field(record, 0)),
            bytes: u64::from_le_bytes(field(record, 8)),
            last_used_secs: u32::from_le_bytes(field(record, 16)),
        }
    }
}

/// Feeds any bytes to the parser; panics when a state that was read isn't written so that it reads the same.
pub fn fuzz_state(data: &[u8]) {
    if let Ok(state) = State::parse(data) {
        let again = State::parse(&state.to_bytes()).expect("a state that was written can be read");
        assert_eq!(again, state);
    }
}
