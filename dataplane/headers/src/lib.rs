//! Headers of Ethernet, VLAN, ARP, IP, TCP, UDP, SCTP and ICMP; checksums; segmentation.
//!
//! Layouts are declared once, as structs whose integers are big-endian, and are used in place:
//!
//! ```
//! use headers::{Ethernet, Ipv4, ethertype};
//!
//! let mut frame = [0u8; 34];
//! let (eth, rest) = Ethernet::split_mut(&mut frame).unwrap();
//! eth.ethertype = ethertype::IPV4.into();
//! Ipv4::split_mut(rest).unwrap().0.ttl = 64;
//! assert_eq!(frame[12..14], [0x08, 0x00]);
//! assert_eq!(frame[22], 64);
//! ```
//!
//! A view only promises that its bytes are there; what they say is the sender's affair. [`Ipv4::options_len`]
//! and the like return `None` where a length contradicts itself. Pure: no I/O, no `unsafe`, no allocation, and
//! nothing panics on any input.

pub mod checksum;
mod ethernet;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod icmp;
mod ip;
mod segmentation;
mod transport;

pub use ethernet::{
    Arp, Ethernet, LLC_SNAP_LEN, MacAddr, ParseMacError, TYPE_MIN, TYPE_NONE, VlanTag, ethertype,
};
pub use icmp::{Icmp, NdOption, NdOptions, NeighborDiscovery, icmpv6};
pub use ip::{Chain, ChainError, Fragment, Ipv4, Ipv6, protocol, walk_extensions};
pub use segmentation::{BadSegmentation, SEGMENTS_MAX, Segmentation, Segments};
pub use transport::{Sctp, Tcp, Udp, tcp_flags};

/// Big-endian 16-bit integer, unaligned.
pub type U16 = zerocopy::byteorder::big_endian::U16;
/// Big-endian 32-bit integer, unaligned.
pub type U32 = zerocopy::byteorder::big_endian::U32;

/// Declares a header: its layout, size and the ways to see bytes as one.
macro_rules! header {
    ($(#[$meta:meta])* $name:ident, $len:literal { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)+ }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
            zerocopy::KnownLayout, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)+ }
        const _: () = assert!(size_of::<$name>() == $len);

        impl $name {
            /// Bytes the header takes (without options).
            pub const LEN: usize = $len;

            /// The header at the start of `bytes`, and what follows it. `None` when `bytes` is shorter.
            #[inline(always)]
            pub fn split(bytes: &[u8]) -> Option<(&Self, &[u8])> {
                zerocopy::FromBytes::ref_from_prefix(bytes).ok()
            }

            /// As [`split`](Self::split), to be written.
            #[inline(always)]
            pub fn split_mut(bytes: &mut [u8]) -> Option<(&mut Self, &mut [u8])> {
                zerocopy::FromBytes::mut_from_prefix(bytes).ok()
            }

            /// The header's bytes.
            #[inline]
            pub fn as_bytes(&self) -> &[u8] {
                zerocopy::IntoBytes::as_bytes(self)
            }
        }
    };
}
use header;
