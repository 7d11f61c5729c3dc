//! Commands of the Management Complex.

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
