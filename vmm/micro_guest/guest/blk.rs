//! A virtio block device (virtio 1.2, section 5.2), as far as reading takes it.

use crate::memory::Memory;
use crate::options::Options;
use crate::pci;
use crate::ring;
use crate::virtio::{Device, Queue};
use crate::virtio_defs::desc_flag::WRITE;
use crate::virtio_defs::feature::INDIRECT_DESC;

/// PCI device number: 0x1040 and the device type.
const DEVICE_BLK: u16 = 0x1042;
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Bytes that are read at once.
const BLOCK: usize = 4096;
/// Type of a request that reads.
const IN: u32 = 0;
/// Status of a request that was carried out.
const OK: u8 = 0;

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

/// The first disk of the bus, with `depth` requests at most.
pub fn find(options: &Options, depth: u64, memory: &mut Memory) -> Result<Disk, &'static str> {
    let function = pci::virtio(options.ecam, DEVICE_BLK).next().ok_or("there is none")?;
    let device = Device::negotiate(function, INDIRECT_DESC, options)?;
    if device.features & INDIRECT_DESC == 0 {
        return Err("it takes no tables of buffers");
    }
    let [low, high] = [0, 4].map(|offset| u64::from(device.config.read::<u32>(offset)));
    let blocks = (high << 32 | low) / (BLOCK as u64 / SECTOR);
    if blocks == 0 {
        return Err("it is smaller than a block");
    }
    let queue = device.queue(0, memory)?;
    let requests = memory.table::<Request>(depth.min(queue.size.into()) as usize);
    for request in requests.iter_mut() {
        let data = memory.take(BLOCK + 64).as_mut_ptr() as u64;
        let header = data + BLOCK as u64;
        let buffers = [(header, 16, 0), (data, BLOCK as u32, WRITE), (header + 16, 1, WRITE)];
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
    pub fn ask(&mut self, request: u32, block: u64) {
        let Request { block: asked, data, table } = &mut self.requests[request as usize];
        *asked = block;
        let header = (*data + BLOCK as u64) as *mut u32;
        let sector = block * (BLOCK as u64 / SECTOR);
        // SAFETY: memory of ours that the device doesn't have now, with 64 bytes behind the data.
        unsafe {
            header.write_volatile(IN);
            header.add(2).cast::<u64>().write_volatile(sector);
            header.add(4).cast::<u8>().write_volatile(u8::MAX);
        }
        self.queue.ring.add_indirect(*table, 48, request);
    }

    /// Whether a request that came back was carried out, and whether the block says its number.
    pub fn judge(&self, request: u32) -> (bool, bool) {
        let Request { block, data, .. } = self.requests[request as usize];
        // SAFETY: memory of ours, which the device has given back.
        let (status, number) = unsafe {
            (((data + BLOCK as u64 + 16) as *const u8).read_volatile(), (data as *const u64).read_volatile())
        };
        (status == OK, u64::from_be(number) == block)
    }
}
