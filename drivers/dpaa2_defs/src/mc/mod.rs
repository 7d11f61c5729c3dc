//! Commands of the Management Complex (MC): what a 64-byte command portal carries.
//!
//! [`header`] has the frame every command shares, [`object`] the names of objects; the other modules have one object
//! type's commands each. Every command is a type that implements [`header::Command`].

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
