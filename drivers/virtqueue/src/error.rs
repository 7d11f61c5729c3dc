//! The ways in which a ring can be broken.

use port::QueueFault;

macro_rules! ring_errors {
    ($($(#[doc = $doc:literal])+ $variant:ident = $what:literal,)+) => {
        /// What a guest (or its front-end) broke. The value says with what.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum RingError {
            $($(#[doc = $doc])+ #[error("{} ({:#x})", $what, .0)] $variant(u64),)+
        }

        impl From<RingError> for QueueFault {
            #[cold]
            fn from(error: RingError) -> QueueFault {
                match error { $(RingError::$variant(value) => QueueFault { what: $what, value },)+ }
            }
        }
    };
}

ring_errors! {
    /// Size zero, above 32768, or for a split ring no power of two. Value: the size.
    Size = "ring size is not allowed",
    /// A ring area's address is not aligned as its kind needs. Value: the address.
    Misaligned = "ring area is misaligned",
    /// A ring area is not inside one region of the memory table. Value: the address.
    RingUnmapped = "ring area is outside the memory table",
    /// The starting position is outside the ring. Value: the position.
    Base = "ring position is outside the ring",
    /// The features leave out VERSION_1. Value: the features.
    Legacy = "version 1 was not negotiated",
    /// The available index moved by more than the ring holds. Value: the index.
    AvailJump = "available index moved past the ring's end",
    /// An available entry names a descriptor past the table's end. Value: the entry.
    HeadOutOfRange = "available entry is past the descriptor table's end",
    /// A descriptor's `next` is past the table's end. Value: `next`.
    NextOutOfRange = "descriptor chain leaves the table",
    /// A chain is longer than its table or ring: it loops, or never ends. Value: the chain's head.
    ChainLoop = "descriptor chain loops",
    /// A buffer is not inside the memory table. Value: its address.
    Unmapped = "buffer is outside the memory table",
    /// A buffer to be read is marked for writing or the reverse. Value: the flags.
    WrongDirection = "buffer has the wrong direction",
    /// An indirect descriptor without the feature. Value: the flags.
    IndirectRefused = "indirect descriptor was not negotiated",
    /// An indirect descriptor inside an indirect table. Value: the table's address.
    IndirectNested = "indirect descriptor inside an indirect table",
    /// An indirect descriptor that also says `NEXT`. Value: the flags.
    IndirectWithNext = "indirect descriptor has a successor",
    /// An indirect table of no entries or of a part of one. Value: its length in bytes.
    IndirectLength = "indirect table has a bad length",
    /// The guest's memory was taken away (its file shortened). Value: 0.
    MemoryGone = "memory file was truncated",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_what_and_with_which_value() {
        let fault = QueueFault::from(RingError::HeadOutOfRange(0x1234));
        assert_eq!(fault.to_string(), "available entry is past the descriptor table's end (0x1234)");
        assert_eq!(fault.to_string(), RingError::HeadOutOfRange(0x1234).to_string());
    }
}
