//! Layouts of DPAA2, NXP's second data path architecture, and nothing else: no I/O, no clock, no `unsafe`.
//!
//! [`mc`] holds the commands of the Management Complex, [`qbman`] the registers and formats of a software portal,
//! [`fd`] frame descriptors, [`annotation`] what hardware writes in front of a frame and reads from there,
//! [`classify`] the memory formats of classification keys. Everything is little endian, declared with zerocopy
//! types; sizes and offsets that hardware fixes are asserted when the crate is compiled. The driver and the software
//! model use the same types, the one to encode what the other decodes.

pub mod annotation;
pub mod classify;
pub mod fd;
pub mod mc;
pub mod qbman;
