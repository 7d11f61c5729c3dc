//! The buffer manager: pools of addresses, and who holds which buffer.

use crate::audit::PoolReport;
use std::collections::HashMap;

/// Who holds a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The program that owns the container.
    Software,
    /// The pool with this id.
    Pool(u16),
    /// A frame queue.
    Queue,
}

#[derive(Debug)]
struct Buffer {
    place: Place,
    /// The pool it was released to first.
    home: u16,
}

/// One pool.
#[derive(Debug)]
pub(crate) struct Pool {
    pub dpbp: u32,
    pub bpid: u16,
    pub container: u32,
    pub enabled: bool,
    pub notify: [u8; 40],
    /// Free buffers; the last one released is the first one taken, as hardware's stockpile does.
    free: Vec<u64>,
}

/// All pools.
#[derive(Debug, Default)]
pub(crate) struct Bman {
    pools: Vec<Pool>,
    /// Keyed by container and address: addresses of different containers are different memory.
    buffers: HashMap<(u32, u64), Buffer>,
}

impl Bman {
    /// Adds a pool and gives its id: 1 to 255 first, since drivers index small tables with it.
    pub(crate) fn add(&mut self, dpbp: u32, container: u32) -> Option<u16> {
        let bpid =
            (1..=dpaa2_defs::fd::BPID_MAX).find(|id| self.pools.iter().all(|pool| pool.bpid != *id))?;
        self.pools.push(Pool { dpbp, bpid, container, enabled: false, notify: [0; 40], free: Vec::new() });
        Some(bpid)
    }

    pub(crate) fn remove(&mut self, dpbp: u32) {
        if let Some(pool) = self.pools.iter().find(|pool| pool.dpbp == dpbp) {
            let bpid = pool.bpid;
            self.forget(bpid);
            self.pools.retain(|pool| pool.dpbp != dpbp);
        }
    }

    pub(crate) fn by_object(&mut self, dpbp: u32) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|pool| pool.dpbp == dpbp)
    }

    /// The pool with this id, if it belongs to `container`.
    pub(crate) fn get(&self, container: u32, bpid: u16) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.bpid == bpid && pool.container == container)
    }

    /// Drops what the pool holds: what resetting its object does.
    pub(crate) fn forget(&mut self, bpid: u16) {
        if let Some(pool) = self.pools.iter_mut().find(|pool| pool.bpid == bpid) {
            pool.free.clear();
        }
        self.buffers.retain(|_, buffer| buffer.home != bpid && buffer.place != Place::Pool(bpid));
    }

    /// Puts a buffer into a pool. The error is where it is instead of with software.
    pub(crate) fn release(&mut self, container: u32, bpid: u16, address: u64) -> Result<(), Option<Place>> {
        let Some(pool) = self.pools.iter_mut().find(|p| p.bpid == bpid && p.container == container) else {
            return Err(None);
        };
        let buffer =
            self.buffers.entry((container, address)).or_insert(Buffer { place: Place::Software, home: bpid });
        if let place @ (Place::Pool(_) | Place::Queue) = buffer.place {
            return Err(Some(place));
        }
        buffer.place = Place::Pool(bpid);
        pool.free.push(address);
        Ok(())
    }

    /// Takes a buffer out of a pool, for `place`.
    pub(crate) fn take(&mut self, container: u32, bpid: u16, place: Place) -> Option<u64> {
        let pool = self.pools.iter_mut().find(|p| p.bpid == bpid && p.container == container)?;
        let address = pool.free.pop()?;
        if let Some(buffer) = self.buffers.get_mut(&(container, address)) {
            buffer.place = place;
        }
        Some(address)
    }

    /// Free buffers of a pool, 0 if there is none such.
    pub(crate) fn free(&self, container: u32, bpid: u16) -> usize {
        self.get(container, bpid).map_or(0, |pool| pool.free.len())
    }

    /// Where a buffer is; buffers never seen are software's.
    pub(crate) fn place(&self, container: u32, address: u64) -> Place {
        self.buffers.get(&(container, address)).map_or(Place::Software, |buffer| buffer.place)
    }

    /// Moves a known buffer between software and a queue.
    pub(crate) fn set_place(&mut self, container: u32, address: u64, place: Place) {
        if let Some(buffer) = self.buffers.get_mut(&(container, address)) {
            buffer.place = place;
        }
    }

    /// Forgets buffers of memory that is no longer mapped.
    pub(crate) fn unmapped(&mut self, container: u32, iova: u64, len: u64) {
        let gone = |address: u64| address >= iova && address - iova < len;
        self.buffers.retain(|(owner, address), _| *owner != container || !gone(*address));
        for pool in self.pools.iter_mut().filter(|pool| pool.container == container) {
            pool.free.retain(|address| !gone(*address));
        }
    }

    pub(crate) fn report(&self) -> Vec<PoolReport> {
        let mut reports: Vec<PoolReport> = self
            .pools
            .iter()
            .map(|pool| PoolReport { dpbp: pool.dpbp, bpid: pool.bpid, ..PoolReport::default() })
            .collect();
        for buffer in self.buffers.values() {
            let Some(report) = reports.iter_mut().find(|report| report.bpid == buffer.home) else { continue };
            report.seen += 1;
            match buffer.place {
                Place::Software => report.software += 1,
                Place::Pool(_) => report.free += 1,
                Place::Queue => report.queued += 1,
            }
        }
        reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_in_one_place() {
        let mut bman = Bman::default();
        let bpid = bman.add(0, 2).unwrap();
        assert_eq!(bman.release(2, bpid, 0x1000), Ok(()));
        assert_eq!(bman.release(2, bpid, 0x1000), Err(Some(Place::Pool(bpid))));
        assert_eq!(bman.take(2, bpid, Place::Queue), Some(0x1000));
        assert_eq!(bman.release(2, bpid, 0x1000), Err(Some(Place::Queue)));
        bman.set_place(2, 0x1000, Place::Software);
        assert_eq!(bman.release(2, bpid, 0x1000), Ok(()));
        assert_eq!(bman.report()[0], PoolReport { dpbp: 0, bpid, free: 1, seen: 1, ..PoolReport::default() });
    }

    #[test]
    fn a_container_cannot_reach_anothers_pool() {
        let mut bman = Bman::default();
        let bpid = bman.add(0, 2).unwrap();
        assert_eq!(bman.release(3, bpid, 0x1000), Err(None));
        assert_eq!(bman.take(3, bpid, Place::Software), None);
    }

    #[test]
    fn unmapped_memory_takes_its_buffers_along() {
        let mut bman = Bman::default();
        let bpid = bman.add(0, 2).unwrap();
        for address in [0x1000, 0x2000, 0x3000] {
            bman.release(2, bpid, address).unwrap();
        }
        bman.unmapped(2, 0x2000, 0x1000);
        assert_eq!(bman.free(2, bpid), 2);
        assert_eq!(bman.report()[0].seen, 2);
    }
}
