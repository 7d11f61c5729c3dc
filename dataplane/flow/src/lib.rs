//! Flow keys: what rules match on.
//!
//! [`FlowKey`] is plain words in a fixed order, [`FlowMask`] the same shape; [`Field`] names a range of bits in
//! both. Pure: no I/O, no clock, no `unsafe`.

mod key;

pub use key::{Field, FlowKey, FlowMask, PRESENT, WORDS, frag, prerequisite};
