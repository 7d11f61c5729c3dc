//! Memory for frames that must outlive their burst or have no sender's buffer: segments made in software,
//! frames that wait for a device.

use std::ptr::NonNull;

/// Whether the pool's memory is to come from huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// When the kernel has some to give.
    Auto,
    /// Or not at all: [`Pool::new`] fails without.
    Require,
    /// Not even if there are.
    Off,
}

/// A fixed number of equal buffers, taken last-in first-out: the buffer used last is the one still in cache.
///
/// Memory becomes resident when a buffer is used for the first time, so an idle pool of ordinary pages costs
/// nothing.
pub struct Pool {
    memory: NonNull<u8>,
    bytes: usize,
    buffer_bytes: usize,
    free: Vec<u32>,
    count: u32,
    huge: bool,
}

// SAFETY: the pool owns its mapping; buffers are handed out as indices and reached through `&self`/`&mut self`.
unsafe impl Send for Pool {}

const HUGE_PAGE: usize = 2 << 20;

impl Pool {
    /// Maps memory for `count` buffers of `buffer_bytes` (rounded up to whole cache lines).
    ///
    /// # Errors
    /// The kernel's, when it has no memory or (with [`HugePages::Require`]) no huge pages: reserve some with
    /// `sysctl vm.nr_hugepages=N`.
    pub fn new(count: u32, buffer_bytes: usize, huge_pages: HugePages) -> std::io::Result<Pool> {
        let buffer_bytes = buffer_bytes.next_multiple_of(64);
        let bytes = (count as usize * buffer_bytes).max(1).next_multiple_of(HUGE_PAGE);
        let (memory, huge) = match huge_pages {
            HugePages::Off => (map(bytes, 0)?, false),
            HugePages::Require => (map(bytes, libc::MAP_HUGETLB | libc::MAP_POPULATE)?, true),
            HugePages::Auto => match map(bytes, libc::MAP_HUGETLB) {
                Ok(memory) => (memory, true),
                Err(_) => (map(bytes, 0)?, false),
            },
        };
        Ok(Pool { memory, bytes, buffer_bytes, free: (0..count).rev().collect(), count, huge })
    }

    /// Whether the memory is made of huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// Bytes in a buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Buffers nobody holds.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a buffer.
    #[inline]
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Gives a buffer back.
    ///
    /// # Panics
    /// When more buffers come back than were taken.
    #[inline]
    pub fn give(&mut self, buffer: u32) {
        assert!(buffer < self.count && self.free.len() < self.count as usize, "buffer {buffer} given twice");
        self.free.push(buffer);
    }

    /// The bytes of a taken buffer.
    ///
    /// # Panics
    /// When there is no such buffer.
    #[inline]
    pub fn bytes_mut(&mut self, buffer: u32) -> &mut [u8] {
        assert!(buffer < self.count);
        // SAFETY: the buffer lies inside the mapping (index checked, size a product of both at creation), the
        // mapping is initialised by the kernel, and `&mut self` makes this the only access.
        unsafe {
            let start = self.memory.as_ptr().add(buffer as usize * self.buffer_bytes);
            std::slice::from_raw_parts_mut(start, self.buffer_bytes)
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length and nothing refers to it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.bytes) };
    }
}

fn map(bytes: usize, extra: libc::c_int) -> std::io::Result<NonNull<u8>> {
    // Huge pages are reserved at once: without a reservation their absence would be a SIGBUS at first use.
    let reserve = if extra == 0 { libc::MAP_NORESERVE } else { 0 };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | reserve | extra;
    // SAFETY: an anonymous mapping at an address of the kernel's choice has no precondition.
    let p =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if p == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    Ok(NonNull::new(p.cast()).expect("mmap doesn't return address 0 for an anonymous mapping"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_distinct_and_come_back_last_in_first_out() {
        let mut pool = Pool::new(3, 100, HugePages::Off).unwrap();
        assert_eq!(pool.buffer_bytes(), 128);
        let taken: Vec<u32> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(taken.len(), 3);
        for &b in &taken {
            pool.bytes_mut(b).fill(b as u8 + 1);
        }
        for &b in &taken {
            assert!(pool.bytes_mut(b).iter().all(|&x| x == b as u8 + 1));
        }
        pool.give(taken[1]);
        assert_eq!(pool.take(), Some(taken[1]));
        assert_eq!(pool.take(), None);
    }
}
