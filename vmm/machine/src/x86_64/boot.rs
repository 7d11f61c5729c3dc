//! A kernel into memory: ELF (with PVH's or the 64-bit entry) or bzImage.

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use kvm::x86_64::{Entry, Mode};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::{acpi, layout};
use crate::boot::{Boot, BootError, BootFile, Kernel};

/// Puts everything into memory that the guest finds at its start, and says how its first processor starts. Called
/// again for a reset.
///
/// # Errors
/// The kernel can't be read or doesn't fit.
pub fn load(memory: &GuestMemoryMmap, boot: &Boot) -> Result<Entry, BootError> {
    if boot.command_line.len() >= layout::COMMAND_LINE_MAX {
        return Err(BootError::CommandLine(boot.command_line.len()));
    }
    memory.write_slice(&acpi::tables(boot.cpus, boot.virtio_slots), GuestAddress(layout::ACPI))?;
    memory.write_slice(&FIRMWARE, GuestAddress(layout::RESET_ENTRY))?;
    memory.write_slice(boot.command_line.as_bytes(), GuestAddress(layout::COMMAND_LINE))?;
    memory.write_obj(0u8, GuestAddress(layout::COMMAND_LINE + boot.command_line.len() as u64))?;
    let loaded = load_kernel(memory, &boot.kernel)?;
    let initrd = match &boot.initrd {
        Some(file) => Some(load_initrd(memory, file, &loaded)?),
        None => None,
    };
    let entry = match loaded.entry {
        KernelEntry::Long(rip) => {
            write_boot_params(memory, &loaded.header, initrd)?;
            write_page_tables(memory)?;
            Entry {
                mode: Mode::Long { cr3: layout::PAGE_TABLES },
                rip,
                rsi: layout::BOOT_PARAMS,
                rbx: 0,
                rsp: layout::STACK,
                gdt_address: layout::GDT,
            }
        }
        KernelEntry::Pvh(rip) => {
            write_pvh_info(memory, initrd)?;
            Entry {
                mode: Mode::Protected,
                rip,
                rsi: 0,
                rbx: layout::PVH_INFO,
                rsp: 0,
                gdt_address: layout::GDT,
            }
        }
    };
    for (at, word) in (layout::GDT..).step_by(8).zip(entry.gdt()) {
        memory.write_obj(word, GuestAddress(at))?;
    }
    Ok(entry)
}

/// What is wrong with a file of another format.
pub(crate) const NOT_A_KERNEL: &str =
    "neither an ELF kernel for x86-64 nor a bzImage that starts in 64-bit mode";

enum KernelEntry {
    Long(u64),
    Pvh(u64),
}

struct Loaded {
    entry: KernelEntry,
    /// First address behind the kernel.
    end: u64,
    /// Of a bzImage: its setup header, from offset 0x1f1 of the file on.
    header: Vec<u8>,
}

trait Image: Read + vm_memory::ReadVolatile + Seek {}
impl<T: Read + vm_memory::ReadVolatile + Seek> Image for T {}

fn load_kernel(memory: &GuestMemoryMmap, kernel: &Kernel) -> Result<Loaded, BootError> {
    match kernel {
        Kernel::Builtin(image) => {
            load_image(memory, &mut Cursor::new(*image), Path::new("the built-in guest"))
        }
        Kernel::File(file) => load_image(memory, &mut file.beginning()?.0, file.path()),
    }
}

/// Offsets in a bzImage and in the boot parameters (Linux, `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel
/// Header"; `zero-page.rst`).
mod header {
    pub const START: usize = 0x1f1;
    pub const JUMP_OFFSET: usize = 0x201;
    pub const XLOADFLAGS: usize = 0x236;
    pub const XLOADFLAG_64BIT: u8 = 1;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    pub const INIT_SIZE: usize = 0x260;
    pub const ACPI_RSDP_ADDR: usize = 0x70;
    pub const E820_ENTRIES: usize = 0x1e8;
    pub const E820_TABLE: usize = 0x2d0;
    pub const PAGE: usize = 4096;
}

/// The 64-bit entry of a bzImage, from its load address.
const ENTRY_64: u64 = 0x200;
/// All the firmware there is: `mov al, RESET_VALUE; mov dx, RESET_PORT; out dx, al; hlt; jmp` back to `hlt`. Linux enters
/// it to restart a machine with reduced ACPI hardware and without EFI: it doesn't try ACPI's reset register there.
const FIRMWARE: [u8; 9] = {
    let [low, high] = layout::RESET_PORT.to_le_bytes();
    [0xb0, layout::RESET_VALUE, 0xba, low, high, 0xee, 0xf4, 0xeb, 0xfd]
};
/// An initial file system lies below this unless the kernel says otherwise.
const INITRD_MAX: u64 = 0x7fff_ffff;

fn load_image(memory: &GuestMemoryMmap, image: &mut impl Image, path: &Path) -> Result<Loaded, BootError> {
    let file = |source| BootError::File { path: path.to_owned(), source };
    let mut head = Vec::new();
    image.by_ref().take(header::PAGE as u64).read_to_end(&mut head).map_err(file)?;
    image.seek(SeekFrom::Start(0)).map_err(file)?;
    let why =
        |error: &dyn std::fmt::Display| BootError::Load { path: path.to_owned(), why: error.to_string() };
    if head.starts_with(b"\x7fELF") {
        let loaded =
            Elf::load(memory, None, image, Some(GuestAddress(layout::HIGH_START))).map_err(|e| why(&e))?;
        let entry = match loaded.pvh_boot_cap {
            PvhBootCapability::PvhEntryPresent(entry) => KernelEntry::Pvh(entry.0),
            _ => KernelEntry::Long(loaded.kernel_load.0),
        };
        return Ok(Loaded { entry, end: loaded.kernel_end, header: Vec::new() });
    }
    let is_bzimage = head.get(header::MAGIC..header::MAGIC + 4) == Some(b"HdrS");
    let starts_in_64_bits =
        head.get(header::XLOADFLAGS).is_some_and(|flags| flags & header::XLOADFLAG_64BIT != 0);
    if !is_bzimage || !starts_in_64_bits {
        return Err(BootError::Format(path.to_owned()));
    }
    let loaded =
        BzImage::load(memory, None, image, Some(GuestAddress(layout::HIGH_START))).map_err(|e| why(&e))?;
    // The header ends where the jump at its start leads (boot.rst, field `jump`).
    let end = (header::MAGIC + usize::from(head[header::JUMP_OFFSET])).min(head.len());
    let init_size = u64::from(u32_at(&head, header::INIT_SIZE));
    Ok(Loaded {
        entry: KernelEntry::Long(loaded.kernel_load.0 + ENTRY_64),
        end: loaded.kernel_end.max(loaded.kernel_load.0 + init_size),
        header: head[header::START..end].to_vec(),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_le_bytes(word.try_into().expect("four bytes")))
}

/// Loads the initial file system as high as may be; returns its address and length.
fn load_initrd(
    memory: &GuestMemoryMmap,
    initrd: &BootFile,
    kernel: &Loaded,
) -> Result<(u64, u64), BootError> {
    let (mut file, bytes) = initrd.beginning()?;
    let max = match u32_at(&kernel.header, header::INITRD_ADDR_MAX - header::START) {
        0 => INITRD_MAX,
        max => max.into(),
    };
    let low_end = memory.iter().next().map_or(0, |region| region.len()).min(max + 1);
    let room = low_end.saturating_sub(kernel.end.next_multiple_of(4096));
    if bytes > room {
        return Err(BootError::Initrd { path: initrd.path().to_owned(), bytes, room });
    }
    let at = (low_end - bytes) & !0xfff;
    memory.read_exact_volatile_from(GuestAddress(at), &mut file, bytes as usize)?;
    Ok((at, bytes))
}

/// E820 memory types (ACPI 6.5, table 15.4).
const USABLE: u32 = 1;
const RESERVED: u32 = 2;

/// Address, length and type of what the guest is told of its memory.
fn memory_map(memory: &GuestMemoryMmap) -> Vec<(u64, u64, u32)> {
    let mut map =
        vec![(0, layout::LOW_END, USABLE), (layout::LOW_END, layout::HIGH_START - layout::LOW_END, RESERVED)];
    for region in memory.iter() {
        let start = region.start_addr().0.max(layout::HIGH_START);
        map.push((start, region.start_addr().0 + region.len() - start, USABLE));
    }
    map.push((layout::ECAM, layout::ECAM_BYTES, RESERVED));
    map
}

fn write_boot_params(
    memory: &GuestMemoryMmap,
    setup: &[u8],
    initrd: Option<(u64, u64)>,
) -> Result<(), BootError> {
    let mut page = vec![0; header::PAGE];
    page[header::START..header::START + setup.len()].copy_from_slice(setup);
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    if setup.is_empty() {
        // An ELF kernel has no header of its own: what a loader of protocol 2.12 says.
        put(header::BOOT_FLAG, &0xaa55u16.to_le_bytes());
        put(header::MAGIC, b"HdrS");
        put(header::VERSION, &0x20cu16.to_le_bytes());
    }
    put(header::TYPE_OF_LOADER, &[0xff]);
    put(header::CMD_LINE_PTR, &(layout::COMMAND_LINE as u32).to_le_bytes());
    put(header::ACPI_RSDP_ADDR, &layout::ACPI.to_le_bytes());
    if let Some((at, bytes)) = initrd {
        put(header::RAMDISK_IMAGE, &(at as u32).to_le_bytes());
        put(header::RAMDISK_SIZE, &(bytes as u32).to_le_bytes());
    }
    let map = memory_map(memory);
    put(header::E820_ENTRIES, &[map.len() as u8]);
    for (at, (start, len, kind)) in (header::E820_TABLE..).step_by(20).zip(map) {
        put(at, &start.to_le_bytes());
        put(at + 8, &len.to_le_bytes());
        put(at + 16, &kind.to_le_bytes());
    }
    Ok(memory.write_slice(&page, GuestAddress(layout::BOOT_PARAMS))?)
}

/// Maps the first 4 GiB at their own addresses, in pages of 2 MiB.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), BootError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let page = |number: u64| layout::PAGE_TABLES + number * 4096;
    memory.write_obj(page(1) | PRESENT_WRITABLE, GuestAddress(page(0)))?;
    for gib in 0..4 {
        memory.write_obj(page(2 + gib) | PRESENT_WRITABLE, GuestAddress(page(1) + gib * 8))?;
        let directory: Vec<u8> = (0..512u64)
            .flat_map(|entry| (gib << 30 | entry << 21 | LARGE | PRESENT_WRITABLE).to_le_bytes())
            .collect();
        memory.write_slice(&directory, GuestAddress(page(2 + gib)))?;
    }
    Ok(())
}

/// Xen, `xen/include/public/arch-x86/hvm/start_info.h`, version 1.
fn write_pvh_info(memory: &GuestMemoryMmap, initrd: Option<(u64, u64)>) -> Result<(), BootError> {
    const MAGIC: u32 = 0x336e_c578;
    const INFO_BYTES: u64 = 56;
    const MODULE_BYTES: u64 = 32;
    let modules = layout::PVH_INFO + INFO_BYTES;
    let map_at = modules + MODULE_BYTES;
    let map = memory_map(memory);
    let mut bytes = Vec::new();
    let words32 = [MAGIC, 1, 0, initrd.is_some().into()];
    words32.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    let words64 = [modules, layout::COMMAND_LINE, layout::ACPI, map_at];
    words64.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    [map.len() as u32, 0].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    let (at, len) = initrd.unwrap_or_default();
    [at, len, 0, 0].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    for (start, len, kind) in map {
        [start, len, kind.into()].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    }
    Ok(memory.write_slice(&bytes, GuestAddress(layout::PVH_INFO))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Pages, create};

    fn boot(kernel: Kernel) -> Boot {
        Boot { kernel, initrd: None, command_line: "a=b".into(), cpus: 1, virtio_slots: 0 }
    }

    #[test]
    fn a_file_of_no_known_format_is_refused_by_name() {
        let memory = create(4 << 20, Pages::Small).unwrap();
        let error = load(&memory, &boot(Kernel::Builtin(&[0; 5000]))).unwrap_err();
        assert!(matches!(error, BootError::Format(_)), "{error}");
        let error = BootFile::open(Path::new("/nonexistent/vmlinux")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/vmlinux"), "{error}");
    }

    #[test]
    fn a_command_line_that_does_not_fit_is_refused() {
        let memory = create(4 << 20, Pages::Small).unwrap();
        let boot = Boot { command_line: "x".repeat(2048), ..boot(Kernel::Builtin(&[])) };
        assert!(matches!(load(&memory, &boot), Err(BootError::CommandLine(2048))));
    }

    #[test]
    fn the_guest_is_told_of_all_its_memory_and_nothing_twice() {
        let memory = create(8 << 20, Pages::Small).unwrap();
        let mut map = memory_map(&memory);
        map.sort_unstable();
        assert!(map.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{map:x?}");
        let usable: u64 = map.iter().filter(|entry| entry.2 == USABLE).map(|entry| entry.1).sum();
        assert_eq!(usable, (8 << 20) - (layout::HIGH_START - layout::LOW_END));
    }
}
