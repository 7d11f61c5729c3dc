//! ICMP, ICMPv6 and neighbour discovery.

use crate::{MacAddr, U16, U32, header};

/// ICMPv6 types and the options of neighbour discovery.
pub mod icmpv6 {
    /// Neighbour solicitation.
    pub const NEIGHBOR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    /// Option: source link-layer address.
    pub const SOURCE_LINK_LAYER: u8 = 1;
    /// Option: target link-layer address.
    pub const TARGET_LINK_LAYER: u8 = 2;
}

header! {
    /// The start of every ICMP (RFC 792) and ICMPv6 (RFC 4443) message.
    Icmp, 4 {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Checksum; in ICMPv6 over a pseudo header too.
        checksum: U16,
    }
}

header! {
    /// Neighbour solicitation and advertisement (RFC 4861, sections 4.3 and 4.4), without options.
    NeighborDiscovery, 24 {
        /// Type, code, checksum.
        icmp: Icmp,
        /// Router, solicited and override flag (advertisement), reserved bits.
        flags: U32,
        /// Target address.
        target: [u8; 16],
    }
}

/// An option of a neighbour discovery message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NdOption<'a> {
    /// See [`icmpv6`].
    pub kind: u8,
    /// Where the option starts, counted from the first option.
    pub offset: usize,
    /// The whole option, type and length included; a multiple of 8 bytes.
    pub bytes: &'a [u8],
}

impl NdOption<'_> {
    /// The link-layer address in an option of 8 bytes.
    #[inline]
    pub fn link_layer(&self) -> Option<MacAddr> {
        let &[_, _, a, b, c, d, e, f] = self.bytes else { return None };
        Some(MacAddr([a, b, c, d, e, f]))
    }
}

/// Iterator over the options of a neighbour discovery message. Ends at the first that is broken.
#[derive(Clone, Copy, Debug)]
pub struct NdOptions<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> NdOptions<'a> {
    /// `bytes` starts with the first option.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }
}

impl<'a> Iterator for NdOptions<'a> {
    type Item = NdOption<'a>;

    #[inline]
    fn next(&mut self) -> Option<NdOption<'a>> {
        let rest = self.bytes.get(self.offset..)?;
        let [kind, units, ..] = *rest else { return None };
        let len = units as usize * 8;
        if len == 0 || len > rest.len() {
            return None;
        }
        let option = NdOption { kind, offset: self.offset, bytes: &rest[..len] };
        self.offset += len;
        Some(option)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_end_at_the_first_broken_one() {
        let good = [1, 1, 2, 0, 0, 0, 0, 9];
        let mut bytes = good.to_vec();
        bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        let options: Vec<_> = NdOptions::new(&bytes).collect();
        assert_eq!(options.len(), 1, "zero length ends the walk");
        assert_eq!(options[0].link_layer(), Some(MacAddr([2, 0, 0, 0, 0, 9])));
        bytes[9] = 2;
        assert_eq!(NdOptions::new(&bytes).count(), 1, "longer than what is there");
        bytes[9] = 1;
        assert_eq!(NdOptions::new(&bytes).map(|o| o.offset).collect::<Vec<_>>(), [0, 8]);
    }
}
