//! A virtio block device (virtio 1.2, section 5.2), as far as reading takes it.

use crate::memory::Memory;
use crate::options::Options;
use crate::pci;
use crate::ring;
use crate::virtio::{Device, Queue};
use crate::virtio_defs::blk::{HEADER_BYTES, SECTOR_BYTES, request, status};
use crate::virtio_defs::desc_flag::WRITE;
use crate::virtio_defs::feature::INDIRECT_DESC;

/// PCI device number: 0x1040 and the device type.
const DEVICE_BLK: u16 = 0x1042;
/// Bytes that are read at once.
const BLOCK: usize = 4096;
/// Sectors of a block.
const SECTORS: u64 = BLOCK as u64 / SECTOR_BYTES;
/// Bytes behind a block for a request's header and status.
const BEHIND: usize = 64;
/// Bytes of a request's table: three descriptors.
const TABLE_BYTES: u32 = 48;

/// Where the header of the request is whose block is read to `data`.
fn header(data: u64) -> u64 {
    data + BLOCK as u64
}

/// Where its status is.
fn answer(data: u64) -> u64 {
    header(data) + HEADER_BYTES as u64
}

/// A disk, and the requests that can be made of it.
pub struct Disk {
    /// Its only queue.
    pub queue: Queue,
    /// Whole blocks that it has.
    pub blocks: u64,
    /// One by one: the block asked for, the data, header and status behind it, the table of these three.
    requests: &'static mut [Request],
}

#[derive(Clone, Copy)]
struct Request {
    block: u64,
    data: u64,
    table: u64,
}
// SAFETY: numbers.
unsafe impl crate::memory::Zero for Request {}

/// The first disk of the bus.
pub fn find(options: &Options, memory: &mut Memory) -> Result<Disk, &'static str> {
    let function = pci::virtio(options.ecam, DEVICE_BLK).next().ok_or("there is none")?;
    let device = Device::negotiate(function, INDIRECT_DESC, options)?;
    if device.features & INDIRECT_DESC == 0 {
        return Err("it takes no tables of buffers");
    }
    let [low, high] = [0, 4].map(|offset| u64::from(device.config.read::<u32>(offset)));
    let blocks = (high << 32 | low) / SECTORS;
    if blocks == 0 {
        return Err("it is smaller than a block");
    }
    let queue = device.queue(0, memory)?;
    let depth = match options.window {
        0 => queue.size.into(),
        window => window.min(queue.size.into()),
    };
    let requests = memory.table::<Request>(depth as usize);
    for request in requests.iter_mut() {
        let data = memory.take(BLOCK + BEHIND).as_mut_ptr() as u64;
        let buffers = [
            (header(data), HEADER_BYTES as u32, 0),
            (data, BLOCK as u32, WRITE),
            (answer(data), 1, WRITE),
        ];
        *request = Request { block: 0, data, table: ring::table(&buffers, device.is_packed(), memory) };
    }
    device.run();
    Ok(Disk { queue, blocks, requests })
}

impl Disk {
    /// Requests that can be under way.
    pub fn depth(&self) -> u32 {
        self.requests.len() as u32
    }

    /// Asks for a block.
    pub fn ask(&mut self, number: u32, block: u64) {
        let Request { block: asked, data, table } = &mut self.requests[number as usize];
        *asked = block;
        let header = header(*data) as *mut u64;
        // SAFETY: memory of ours that the device doesn't have now: a type and a reserved word, the first sector, the answer.
        unsafe {
            header.write_volatile(request::IN.into());
            header.add(1).write_volatile(block * SECTORS);
            (answer(*data) as *mut u8).write_volatile(u8::MAX);
        }
        self.queue.ring.add_indirect(*table, TABLE_BYTES, number);
    }

    /// Whether a request that came back was carried out, and whether the block says its number.
    pub fn judge(&self, number: u32) -> (bool, bool) {
        let Request { block, data, .. } = self.requests[number as usize];
        // SAFETY: memory of ours, which the device has given back.
        let (answer, says) =
            unsafe { ((answer(data) as *const u8).read_volatile(), (data as *const u64).read_volatile()) };
        (answer == status::OK, u64::from_be(says) == block)
    }
}
