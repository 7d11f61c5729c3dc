//! Flow keys: what rules match on, and how a frame's decision is found.
//!
//! [`FlowKey`] is plain words in a fixed order, [`FlowMask`] the same shape; [`Field`] names a range of bits in
//! both. [`extract`] makes the key of a frame. [`ExactCache`] finds the decision for a key seen before, after it
//! [`Megaflows`] the one for a key that differs only where no rule looked.
//!
//! What a frame costs is bounded by the number of masks that the operator's rules have and by the cap on
//! megaflow masks, never by traffic. Pure: no I/O, no clock, no `unsafe`; nothing here allocates per frame.

mod changes;
mod exact;
mod extract;
mod key;
mod mask_words;
mod megaflows;
mod ordered;
mod table;

pub use changes::Changes;
pub use exact::ExactCache;
pub use extract::{KeySlot, Layers, extract, extract_l2, fuzz_extract};
pub use key::{Field, FlowKey, FlowMask, PRESENT, WORDS, frag, prerequisite};
pub use mask_words::MaskWords;
pub use megaflows::{Admission, Megaflows};
pub use ordered::OrderedMatches;
