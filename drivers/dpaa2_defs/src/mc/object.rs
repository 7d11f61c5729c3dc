//! Names of MC objects: a type and a number, written `dpni.3`.

use core::fmt;
use core::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Text in 16 bytes, padded with NUL: labels, and types of objects.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct Text16([u8; 16]);

impl Text16 {
    /// Takes the first 15 bytes of a text, so that a NUL always ends it.
    pub const fn new(text: &str) -> Self {
        let mut bytes = [0; 16];
        let mut i = 0;
        while i < text.len() && i < 15 {
            bytes[i] = text.as_bytes()[i];
            i += 1;
        }
        Self(bytes)
    }

    /// The bytes before the first NUL.
    pub fn as_bytes_of_text(&self) -> &[u8] {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        &self.0[..end]
    }
}

/// The text; bytes that aren't printable ASCII are escaped.
impl fmt::Display for Text16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes_of_text().escape_ascii())
    }
}

impl fmt::Debug for Text16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// The type of an object, as the MC writes it: `dpni`, `dpio`, … Firmware may know types that aren't among the
/// constants.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct ObjectType(Text16);

impl ObjectType {
    /// Resource container: owns other objects.
    pub const DPRC: Self = Self::new("dprc");
    /// Network interface.
    pub const DPNI: Self = Self::new("dpni");
    /// Software portal of the queue and buffer managers.
    pub const DPIO: Self = Self::new("dpio");
    /// Buffer pool.
    pub const DPBP: Self = Self::new("dpbp");
    /// Concentrator: a channel that many frame queues feed.
    pub const DPCON: Self = Self::new("dpcon");
    /// MC command portal.
    pub const DPMCP: Self = Self::new("dpmcp");
    /// Ethernet MAC.
    pub const DPMAC: Self = Self::new("dpmac");
    /// Message queues between two owners.
    pub const DPCI: Self = Self::new("dpci");
    /// Queues of the crypto engine.
    pub const DPSECI: Self = Self::new("dpseci");
    /// Queues of the DMA engine.
    pub const DPDMAI: Self = Self::new("dpdmai");
    /// Layer-2 demultiplexer.
    pub const DPDMUX: Self = Self::new("dpdmux");
    /// Layer-2 switch.
    pub const DPSW: Self = Self::new("dpsw");
    /// Precision clock.
    pub const DPRTC: Self = Self::new("dprtc");

    /// The type with this name; at most 15 bytes of it count.
    pub const fn new(name: &str) -> Self {
        Self(Text16::new(name))
    }

    /// The object of this type with this number.
    pub const fn with_id(self, id: u32) -> ObjectId {
        ObjectId { object_type: self, id }
    }
}

impl fmt::Display for ObjectType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ObjectType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An object: `dpni.3`. Unique in the system, whatever container owns it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// Its type.
    pub object_type: ObjectType,
    /// Its number among the objects of that type.
    pub id: u32,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.object_type, self.id)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that doesn't name an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnObject;

impl fmt::Display for NotAnObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects are written TYPE.NUMBER, such as `dpni.1`")
    }
}

impl core::error::Error for NotAnObject {}

/// Reads `dpni.3`: a type of 1 to 15 lower-case letters, a dot, a decimal number without sign or superfluous zeros.
impl FromStr for ObjectId {
    type Err = NotAnObject;

    fn from_str(text: &str) -> Result<Self, NotAnObject> {
        let (name, id) = text.split_once('.').ok_or(NotAnObject)?;
        let is_type = (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase());
        let is_number = id.bytes().all(|b| b.is_ascii_digit()) && (id == "0" || !id.starts_with('0'));
        if !is_type || !is_number {
            return Err(NotAnObject);
        }
        Ok(ObjectType::new(name).with_id(id.parse().map_err(|_| NotAnObject)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_written_as_they_are_read() {
        for text in ["dpni.3", "dprc.1", "dpio.0", "dpseci.4294967295"] {
            assert_eq!(text.parse::<ObjectId>().map(|object| object.to_string()).as_deref(), Ok(text));
        }
        for wrong in
            ["", "dpni", "dpni.", ".3", "dpni.03", "dpni.-1", "dpni.4294967296", "power/1.2", "DPNI.1"]
        {
            assert_eq!(wrong.parse::<ObjectId>(), Err(NotAnObject), "{wrong}");
        }
    }

    #[test]
    fn a_type_is_sixteen_bytes_padded_with_nul() {
        assert_eq!(ObjectType::DPNI.as_bytes(), b"dpni\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(Text16::new("a label of more than 15").to_string(), "a label of more");
    }

    #[test]
    fn text_of_the_firmware_cannot_garble_a_terminal() {
        let text = Text16::read_from_bytes(b"a\x1b[2Jb\xff012345678").unwrap();
        assert_eq!(text.to_string(), "a\\x1b[2Jb\\xff012345678");
    }
}
