//! Objects of the Management Complex.
