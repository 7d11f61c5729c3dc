//! A request: what a chain of buffers asks for (section 5.2.6).

use std::ops::Deref;

use disk::{Buffer, Operation};
use virtio_defs::blk::{HEADER_BYTES, RANGE_BYTES, RANGE_UNMAP, SECTOR_BYTES, feature, request, status};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Geometry, RANGE_SECTORS_MAX};

/// A request that was understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub action: Action,
    /// Where the answer goes.
    pub status: u64,
}

/// What is to be done for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// An operation on the disk.
    Do {
        operation: Operation,
        buffers: Vec<Buffer>,
        offset: u64,
        /// Of operations without buffers.
        bytes: u64,
    },
    /// The device's name, into these buffers.
    Name(Vec<Buffer>),
    /// Nothing: the answer is this.
    Answer(u8),
}

impl Request {
    /// Bytes written to the guest when it has been done well: those read, and the answer.
    pub fn written(&self) -> u32 {
        let read = match &self.action {
            Action::Do { operation: Operation::Read, buffers, .. } | Action::Name(buffers) => {
                buffers.iter().fold(0, |sum: u32, buffer| sum.saturating_add(buffer.len))
            }
            _ => 0,
        };
        read.saturating_add(1)
    }

    /// Understands a chain. `features` are those the driver chose. `None` if there is no place for an answer.
    ///
    /// How the driver has cut the request into buffers is its business (section 2.7.4.1).
    pub fn parse<M>(chain: DescriptorChain<M>, geometry: &Geometry, features: u64) -> Option<Request>
    where
        M: Clone + Deref<Target = GuestMemoryMmap>,
    {
        let memory = chain.memory().clone();
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        for descriptor in chain {
            let buffer = Buffer { address: descriptor.addr().0, len: descriptor.len() };
            if descriptor.is_write_only() { writable.push(buffer) } else { readable.push(buffer) }
        }
        let status = take_last_byte(&mut writable)?;
        let action = action(&memory, readable, writable, geometry, features);
        Some(Request { action: action.unwrap_or_else(Action::Answer), status })
    }
}

/// Removes the last byte and returns its address.
fn take_last_byte(buffers: &mut Vec<Buffer>) -> Option<u64> {
    while let Some(last) = buffers.last_mut() {
        if last.len > 0 {
            last.len -= 1;
            return last.address.checked_add(last.len.into());
        }
        buffers.pop();
    }
    None
}

/// Reads the first bytes of `buffers` into `bytes`, and removes them.
fn take_front(memory: &GuestMemoryMmap, buffers: &mut Vec<Buffer>, bytes: &mut [u8]) -> Option<()> {
    let mut done = 0;
    while done < bytes.len() {
        let first = buffers.first_mut()?;
        let count = (bytes.len() - done).min(first.len as usize);
        memory.read_slice(&mut bytes[done..done + count], GuestAddress(first.address)).ok()?;
        first.address = first.address.checked_add(count as u64)?;
        first.len -= count as u32;
        if first.len == 0 {
            buffers.remove(0);
        }
        done += count;
    }
    Some(())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What a request comes to, or the answer that refuses it.
fn action(
    memory: &GuestMemoryMmap,
    mut readable: Vec<Buffer>,
    writable: Vec<Buffer>,
    geometry: &Geometry,
    features: u64,
) -> Result<Action, u8> {
    let mut header = [0; HEADER_BYTES];
    take_front(memory, &mut readable, &mut header).ok_or(status::IOERR)?;
    let (kind, sector) = (word(&header, 0), long(&header, 8));
    let writes = matches!(kind, request::OUT | request::DISCARD | request::WRITE_ZEROES);
    if writes && geometry.read_only {
        return Err(status::IOERR);
    }
    match kind {
        request::IN => {
            let offset = inside(geometry, sector, &writable)?;
            Ok(Action::Do { operation: Operation::Read, buffers: writable, offset, bytes: 0 })
        }
        request::OUT => {
            let offset = inside(geometry, sector, &readable)?;
            // A driver that can't flush is promised that what is written is there.
            let operation = Operation::Write { through: features & feature::FLUSH == 0 };
            Ok(Action::Do { operation, buffers: readable, offset, bytes: 0 })
        }
        request::FLUSH => {
            Ok(Action::Do { operation: Operation::Flush, buffers: vec![], offset: 0, bytes: 0 })
        }
        request::GET_ID => Ok(Action::Name(writable)),
        request::DISCARD if features & feature::DISCARD != 0 => {
            range(memory, readable, geometry, |flags| (flags == 0).then_some(Operation::Discard))
        }
        request::WRITE_ZEROES if features & feature::WRITE_ZEROES != 0 => {
            range(memory, readable, geometry, |flags| {
                let unmap = flags & RANGE_UNMAP != 0;
                (flags & !RANGE_UNMAP == 0).then_some(Operation::WriteZeroes { unmap })
            })
        }
        _ => Err(status::UNSUPP),
    }
}

/// The first byte of a transfer: whole sectors inside the disk.
fn inside(geometry: &Geometry, sector: u64, buffers: &[Buffer]) -> Result<u64, u8> {
    let bytes: u64 = buffers.iter().map(|buffer| u64::from(buffer.len)).sum();
    let end = sector.checked_add(bytes / SECTOR_BYTES);
    if !bytes.is_multiple_of(SECTOR_BYTES) || end.is_none_or(|end| end > geometry.sectors) {
        return Err(status::IOERR);
    }
    Ok(sector * SECTOR_BYTES)
}

/// A request with one range, as the configuration says.
fn range(
    memory: &GuestMemoryMmap,
    mut readable: Vec<Buffer>,
    geometry: &Geometry,
    operation: impl FnOnce(u32) -> Option<Operation>,
) -> Result<Action, u8> {
    let mut range = [0; RANGE_BYTES];
    take_front(memory, &mut readable, &mut range).ok_or(status::IOERR)?;
    if readable.iter().any(|buffer| buffer.len > 0) {
        return Err(status::UNSUPP);
    }
    let (sector, sectors) = (long(&range, 0), word(&range, 8));
    let operation = operation(word(&range, 12)).ok_or(status::UNSUPP)?;
    let is_inside = sector.checked_add(sectors.into()).is_some_and(|end| end <= geometry.sectors);
    if sectors == 0 || sectors > RANGE_SECTORS_MAX || !is_inside {
        return Err(status::IOERR);
    }
    let (offset, bytes) = (sector * SECTOR_BYTES, u64::from(sectors) * SECTOR_BYTES);
    Ok(Action::Do { operation, buffers: vec![], offset, bytes })
}

/// Writes the device's name into the guest's buffers, as far as they go; the answer.
pub(super) fn answer_name(memory: &GuestMemoryMmap, buffers: &[Buffer], geometry: &Geometry) -> u8 {
    let mut left = &geometry.id[..];
    for buffer in buffers {
        let (now, later) = left.split_at(left.len().min(buffer.len as usize));
        if memory.write_slice(now, GuestAddress(buffer.address)).is_err() {
            return status::IOERR;
        }
        left = later;
    }
    status::OK
}

#[cfg(test)]
mod tests {
    use virtio_defs::blk::ID_BYTES;

    use super::*;

    const GEOMETRY: Geometry =
        Geometry { sectors: 100, block_bytes: 512, read_only: false, queues: 1, id: [b'x'; ID_BYTES] };
    const ALL: u64 = u64::MAX;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap()
    }

    fn buffer(address: u64, len: u32) -> Buffer {
        Buffer { address, len }
    }

    fn header(memory: &GuestMemoryMmap, kind: u32, sector: u64) {
        memory.write_obj(kind, GuestAddress(0x100)).unwrap();
        memory.write_obj(sector, GuestAddress(0x108)).unwrap();
    }

    fn asked(
        kind: u32,
        sector: u64,
        more: &[Buffer],
        writable: &[Buffer],
        geometry: &Geometry,
    ) -> Result<Action, u8> {
        let memory = memory();
        header(&memory, kind, sector);
        let readable = [&[buffer(0x100, 16)], more].concat();
        action(&memory, readable, writable.to_vec(), geometry, ALL)
    }

    #[test]
    fn a_request_is_understood_however_it_is_cut() {
        let memory = memory();
        header(&memory, request::OUT, 3);
        let cuts: [&[u32]; 3] = [&[16, 1024], &[1040], &[1, 7, 0, 8, 512, 512]];
        for cut in cuts {
            let mut at = 0x100;
            let readable = cut.iter().map(|&len| {
                at += u64::from(len);
                buffer(at - u64::from(len), len)
            });
            let understood = action(&memory, readable.collect(), vec![], &GEOMETRY, ALL).unwrap();
            let Action::Do { operation, buffers, offset, .. } = understood else { panic!("{understood:?}") };
            assert_eq!((operation, offset), (Operation::Write { through: false }, 3 * 512));
            assert_eq!(buffers[0].address, 0x110);
            assert_eq!(buffers.iter().map(|buffer| buffer.len).sum::<u32>(), 1024);
        }
    }

    #[test]
    fn nothing_outside_the_disk_is_touched() {
        let data = [buffer(0x1000, 512)];
        for sector in [100, 1 << 40, u64::MAX, u64::MAX / 512] {
            assert_eq!(asked(request::IN, sector, &[], &data, &GEOMETRY), Err(status::IOERR));
            assert_eq!(asked(request::OUT, sector, &data, &[], &GEOMETRY), Err(status::IOERR));
        }
        assert!(asked(request::IN, 99, &[], &data, &GEOMETRY).is_ok());
        assert_eq!(asked(request::IN, 98, &[], &[buffer(0, 512 * 3)], &GEOMETRY), Err(status::IOERR));
        assert_eq!(
            asked(request::IN, 0, &[], &[buffer(0, 511)], &GEOMETRY),
            Err(status::IOERR),
            "half a sector"
        );
    }

    #[test]
    fn a_read_only_disk_is_read_only() {
        let geometry = Geometry { read_only: true, ..GEOMETRY };
        let data = [buffer(0x1000, 512)];
        assert!(asked(request::IN, 0, &[], &data, &geometry).is_ok());
        for kind in [request::OUT, request::DISCARD, request::WRITE_ZEROES] {
            assert_eq!(asked(kind, 0, &data, &[], &geometry), Err(status::IOERR));
        }
        assert_eq!(
            geometry.features() & (feature::DISCARD | feature::WRITE_ZEROES | feature::RO),
            feature::RO
        );
    }

    #[test]
    fn ranges_are_judged_by_sector_number_and_flags() {
        let memory = memory();
        let range_of = |kind: u32, sector: u64, sectors: u32, flags: u32| {
            header(&memory, kind, 0);
            memory.write_obj(sector, GuestAddress(0x110)).unwrap();
            memory.write_obj(sectors, GuestAddress(0x118)).unwrap();
            memory.write_obj(flags, GuestAddress(0x11c)).unwrap();
            action(&memory, vec![buffer(0x100, 32)], vec![], &GEOMETRY, ALL)
        };
        let done = |operation| Ok(Action::Do { operation, buffers: vec![], offset: 512, bytes: 1024 });
        assert_eq!(range_of(request::DISCARD, 1, 2, 0), done(Operation::Discard));
        assert_eq!(range_of(request::WRITE_ZEROES, 1, 2, 1), done(Operation::WriteZeroes { unmap: true }));
        assert_eq!(
            range_of(request::DISCARD, 1, 2, 1),
            Err(status::UNSUPP),
            "a flag discarding doesn't have"
        );
        assert_eq!(range_of(request::WRITE_ZEROES, 1, 2, 2), Err(status::UNSUPP), "a reserved flag");
        for (sector, sectors) in [(0, 0), (99, 2), (u64::MAX, 1), (0, u32::MAX)] {
            assert_eq!(range_of(request::DISCARD, sector, sectors, 0), Err(status::IOERR));
        }
    }

    #[test]
    fn without_flush_each_write_goes_to_the_medium() {
        let memory = memory();
        header(&memory, request::OUT, 0);
        let understood = action(&memory, vec![buffer(0x100, 528)], vec![], &GEOMETRY, 0).unwrap();
        assert!(matches!(understood, Action::Do { operation: Operation::Write { through: true }, .. }));
        header(&memory, request::DISCARD, 0);
        let refused = action(&memory, vec![buffer(0x100, 32)], vec![], &GEOMETRY, 0);
        assert_eq!(refused, Err(status::UNSUPP), "not negotiated");
    }

    #[test]
    fn what_is_no_request_is_answered_if_there_is_a_place_for_it() {
        assert_eq!(asked(77, 0, &[], &[], &GEOMETRY), Err(status::UNSUPP));
        assert_eq!(
            action(&memory(), vec![buffer(0, 15)], vec![], &GEOMETRY, ALL),
            Err(status::IOERR),
            "short"
        );
        assert_eq!(action(&memory(), vec![buffer(0xfff8, 16)], vec![], &GEOMETRY, ALL), Err(status::IOERR));
        assert_eq!(take_last_byte(&mut vec![buffer(5, 0)]), None);
        assert_eq!(take_last_byte(&mut vec![buffer(u64::MAX, 9)]), None);
        assert_eq!(take_last_byte(&mut vec![buffer(5, 3), buffer(9, 0)]), Some(7));
    }

    #[test]
    fn the_name_is_cut_to_the_buffers() {
        let memory = memory();
        assert_eq!(answer_name(&memory, &[buffer(0x100, 3), buffer(0x200, 100)], &GEOMETRY), status::OK);
        assert_eq!(memory.read_obj::<u32>(GuestAddress(0x100)).unwrap(), u32::from_le_bytes(*b"xxx\0"));
        assert_eq!(answer_name(&memory, &[buffer(1 << 40, 3)], &GEOMETRY), status::IOERR);
    }
}
