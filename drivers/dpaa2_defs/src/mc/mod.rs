//! Commands of the Management Complex (MC): what a 64-byte command portal carries.
//!
//! [`header`] has the frame every command shares, [`object`] the names of objects, [`common`] the commands that objects
//! of several types have; the other modules have one object type's commands each. Every command is a struct, its
//! request, that implements [`header::Command`], which names the struct of the response. So one type encodes on the one
//! side what it decodes on the other:
//!
//! ```
//! use dpaa2_defs::mc::dpni::{GetQueue, Queue, QueueType};
//! use dpaa2_defs::mc::header::{Command, Frame, Status};
//!
//! // The driver:
//! let request = Frame::request(7, &GetQueue { queue_type: QueueType::TX, tc: 3, ..Default::default() });
//! // The firmware:
//! assert_eq!(request.header.id().id, GetQueue::CMD.id);
//! let asked: GetQueue = request.read();
//! let response = request.response(Status::OK, &Queue { fqid: (0x100 + u32::from(asked.tc)).into(), ..Default::default() });
//! // The driver again:
//! assert_eq!(response.read::<Queue>().fqid.get(), 0x103);
//! ```
//!
//! Command numbers are unique per object type only, and the type follows from the token; numbers from 0x800 on and those
//! of [`dpmng`] are unique altogether. Firmware of an older version of a command ignores what newer versions appended.

#[macro_use]
mod layout;

pub mod common;
pub mod dpbp;
pub mod dpci;
pub mod dpcon;
pub mod dpio;
pub mod dpmac;
pub mod dpmcp;
pub mod dpmng;
pub mod dpni;
pub mod dprc;
pub mod dpseci;
pub mod header;
pub mod object;
