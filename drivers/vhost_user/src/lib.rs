//! The vhost-user protocol: messages with file descriptors, both ends.
//!
//! A vhost-user **front-end** (a VMM, or a tool that plays the driver) shares guest memory and virtqueues with a
//! **back-end** (the switch) over a Unix stream socket. This crate is the wire layer:
//!
//! - [`Decoder`] cuts a byte stream with descriptors into [`Message`]s; no I/O, pieces of any size.
//! - [`Request`] is a decoded message of the front-end. Decoding checks the payload's size and the number of
//!   descriptors of each message; [`Request::encode`] is the inverse.
//! - [`Reply`] is what the back-end answers.
//! - [`socket`] moves bytes and descriptors (`SCM_RIGHTS`) through a socket.
//! - [`Frontend`] is a blocking handle for the front-end's side, [`BackendChannel`] and [`FrontendChannel`] are
//!   the two ends of the channel on which the back-end asks.
//!
//! What a message means for a device is the business of `vhost_user_port`.
//!
//! Source: QEMU, docs/interop/vhost-user.rst. All numbers are in the machine's byte order.
//!
//! ```
//! use vhost_user::{Decoder, Request};
//!
//! let mut decoder = Decoder::<()>::new();
//! let sent = Request::<()>::SetFeatures(1 << 32).encode(false);
//! let (head, rest) = sent.bytes.split_at(decoder.wanted());
//! assert!(decoder.feed(head, []).unwrap().is_none());
//! let message = decoder.feed(rest, []).unwrap().expect("complete now");
//! assert!(matches!(Request::parse(message), Ok(Request::SetFeatures(f)) if f == 1 << 32));
//! ```

mod backend_channel;
mod codec;
mod features;
mod frontend;
pub mod fuzz;
mod message;
mod request;
pub mod socket;

pub use backend_channel::{BackendChannel, BackendRequest, FrontendChannel, channel_pair};
pub use codec::{DecodeError, Decoder, Message, Outgoing};
pub use features::ProtocolFeatures;
pub use frontend::{Frontend, FrontendError, Offer};
pub use message::{
    BackendCode, CONFIG_MAX, ConfigAccess, FDS_MAX, HEADER_LEN, Header, Inflight, LogArea, MemoryRegion,
    PAYLOAD_MAX, RequestCode, VRING_F_LOG, VringAddr, VringState,
};
pub use request::{MessageError, Reply, Request, VringFile};
