//! Split and packed virtqueues, device side and driver side, over shared memory.
