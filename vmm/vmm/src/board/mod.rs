//! The board: which device answers to which address. One file for each processor type, with the same names inside.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::{Board, micro_guest_words};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{Board, micro_guest_words};

/// What an access comes to, beside its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: go on.
    None,
    /// The guest powers off.
    #[cfg(target_arch = "x86_64")]
    PowerOff,
    /// The guest resets.
    #[cfg(target_arch = "x86_64")]
    Reset,
    /// The guest ends with a code.
    Exit(u8),
}
