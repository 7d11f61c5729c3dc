//! A QBMan software portal: its registers in both generations and the formats that go through it.
//!
//! Source: DPDK's `qbman_portal.c`, `qbman_portal.h` and `qbman_sys.h`; Linux' `drivers/soc/fsl/dpio/qbman-portal.c`
//! and `include/soc/fsl/dpaa2-global.h`. Commands and results are 64-byte lines whose first byte is a verb with
//! the valid bit [`VB`] on top.
//!
//! - [`registers`]: what lies where, by [`registers::Generation`];
//! - [`enqueue`]: EQCR entries; [`dequeue`]: VDQCR, SDQCR, results and notifications;
//! - [`management`]: commands of the CR line; [`release`]: RCR entries.

pub mod dequeue;
pub mod enqueue;
pub mod management;
pub mod registers;
pub mod release;

/// Bytes of a command, a response, a result: one cache line.
pub const LINE_BYTES: usize = 64;
/// The valid bit of a verb byte and of the index registers.
pub const VB: u8 = 0x80;

/// Steps from `first` to `last` in a ring of `ring` entries whose indices count up to twice that (a wrap bit).
pub const fn cyclic_difference(ring: u32, first: u32, last: u32) -> u32 {
    if first <= last { last - first } else { 2 * ring + last - first }
}

#[cfg(test)]
mod tests {
    use super::cyclic_difference;

    #[test]
    fn differences_wrap_at_twice_the_ring() {
        assert_eq!(cyclic_difference(8, 0, 8), 8);
        assert_eq!(cyclic_difference(8, 14, 2), 4);
        assert_eq!(cyclic_difference(32, 63, 0), 1);
        assert_eq!(cyclic_difference(32, 5, 5), 0);
    }
}
