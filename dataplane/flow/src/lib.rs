//! Flow keys: what rules match on.
//!
//! [`FlowKey`] is plain words in a fixed order, [`FlowMask`] the same shape; [`Field`] names a range of bits in
//! both. [`extract`] makes the key of a frame. Pure: no I/O, no clock, no `unsafe`.

mod extract;
mod key;

pub use extract::{KeySlot, Layers, extract, extract_l2, fuzz_extract};
pub use key::{Field, FlowKey, FlowMask, PRESENT, WORDS, frag, prerequisite};
