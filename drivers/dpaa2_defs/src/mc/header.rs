//! The 64-byte command a portal carries, its header and its status.
