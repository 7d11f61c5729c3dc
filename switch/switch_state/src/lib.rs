//! A running switch as a value, for another process to go on with: a versioned format.
//!
//! ```text
//! "ringway\0" | version: u32 | text length: u32 | text: JSON | tables, for each bridge of the text:
//!               (all little endian)                             addresses: count u32, count * 16 bytes
//!                                                               credits:   count u32, count * 20 bytes
//! ```
//!
//! Nothing here touches a file descriptor: where the switch has one, the state has its place in the list that goes
//! with it. What the state says is not trusted either: [`State::parse`] accepts any bytes, and who uses a state
//! looks every name and number up.
//!
//! A hand-over takes two states of the same switch. The first, while it runs, has everything that is slow to take
//! over. The second, while it stands still, has what may have changed since.
//!
//! # Versions
//!
//! A new member with a default needs no new version: JSON members that are not known are skipped. A version is
//! raised when something changes its meaning or place, and the one before is still read ([`OLDEST`]), so that
//! each release can take over from the one before it. In version 1, addresses and credits are in the text: reading
//! ten thousand of them takes milliseconds, which the switch stands still.

mod format;
mod state;

pub use format::{MAGIC, OLDEST, ParseError, STATE_BYTES_MAX, VERSION, fuzz_state};
pub use state::{Address, Bridge, Credit, Driver, Metrics, Port, Rule, SessionMode, Stage, State};
