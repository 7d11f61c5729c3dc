//! A kernel into memory: Image, plain or compressed by gzip (Linux, `Documentation/arch/arm64/booting.rst`).

use std::io::{Cursor, Read};
use std::path::Path;

use flate2::read::GzDecoder;
use kvm::aarch64::Entry;
use linux_loader::loader::{KernelLoader, PE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::device_tree::Tree;
use super::layout;
use crate::boot::{Boot, BootError, BootFile, Kernel};

/// What is wrong with a file of another format.
pub(crate) const NOT_A_KERNEL: &str = "neither an Image for 64-bit Arm nor one compressed by gzip";

/// The Image's header.
mod header {
    pub const BYTES: usize = 64;
    pub const IMAGE_SIZE: usize = 16;
    pub const MAGIC: usize = 56;
}

const GZIP: &[u8] = &[0x1f, 0x8b];

/// Puts everything into memory that the guest finds at its start, and says how its first processor starts. Called
/// again for a reset.
///
/// # Errors
/// The kernel can't be read or doesn't fit.
pub fn load(memory: &GuestMemoryMmap, boot: &Boot) -> Result<Entry, BootError> {
    if boot.command_line.len() >= layout::COMMAND_LINE_MAX {
        return Err(BootError::CommandLine(boot.command_line.len()));
    }
    let kernel = load_kernel(memory, &boot.kernel)?;
    let initrd = match &boot.initrd {
        Some(file) => Some(load_initrd(memory, file, kernel.end)?),
        None => None,
    };
    let mut seed = [0; 64];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| BootError::File { path: "/dev/urandom".into(), source: error.into() })?;
    let Boot { cpus, ref command_line, virtio_slots, .. } = *boot;
    let tree = Tree { memory, cpus, command_line, initrd, seed, virtio_slots };
    let tree = tree.flattened().expect("a tree without input but text that is checked and numbers");
    memory.write_slice(&tree, GuestAddress(layout::DEVICE_TREE))?;
    Ok(Entry { pc: kernel.start, x0: layout::DEVICE_TREE })
}

struct Loaded {
    start: u64,
    /// First address behind the kernel and the memory that it takes without asking.
    end: u64,
}

fn load_kernel(memory: &GuestMemoryMmap, kernel: &Kernel) -> Result<Loaded, BootError> {
    match kernel {
        Kernel::Builtin(image) => load_image(memory, image, Path::new("the built-in guest")),
        Kernel::File(file) => {
            let path = file.path();
            let error = |source| BootError::File { path: path.to_owned(), source };
            let mut bytes = Vec::new();
            file.beginning()?.0.read_to_end(&mut bytes).map_err(error)?;
            if !bytes.starts_with(GZIP) {
                return load_image(memory, &bytes, path);
            }
            let mut image = Vec::new();
            // What is longer than the memory doesn't fit however it goes on.
            let most = memory.last_addr().0 - layout::KERNEL + 2;
            GzDecoder::new(&bytes[..]).take(most).read_to_end(&mut image).map_err(error)?;
            load_image(memory, &image, path)
        }
    }
}

fn load_image(memory: &GuestMemoryMmap, image: &[u8], path: &Path) -> Result<Loaded, BootError> {
    let is_image = image.len() >= header::BYTES && image[header::MAGIC..].starts_with(b"ARM\x64");
    if !is_image {
        return Err(BootError::Format(path.to_owned()));
    }
    let why =
        |error: &dyn std::fmt::Display| BootError::Load { path: path.to_owned(), why: error.to_string() };
    let at = Some(GuestAddress(layout::KERNEL));
    let loaded = PE::load(memory, at, &mut Cursor::new(image), None).map_err(|error| why(&error))?;
    let field = &image[header::IMAGE_SIZE..header::IMAGE_SIZE + 8];
    let image_size = u64::from_le_bytes(field.try_into().expect("eight bytes"));
    let start = loaded.kernel_load.0;
    match start.checked_add(image_size.max(image.len() as u64)) {
        Some(end) if end <= memory.last_addr().0 + 1 => Ok(Loaded { start, end }),
        _ => Err(why(&format_args!("it takes {} MiB of memory", image_size >> 20))),
    }
}

/// Loads the initial file system as high as may be; returns its address and length.
fn load_initrd(
    memory: &GuestMemoryMmap,
    initrd: &BootFile,
    kernel_end: u64,
) -> Result<(u64, u64), BootError> {
    let (mut file, bytes) = initrd.beginning()?;
    let end = memory.last_addr().0 + 1;
    let room = end.saturating_sub(kernel_end.next_multiple_of(4096));
    if bytes > room {
        return Err(BootError::Initrd { path: initrd.path().to_owned(), bytes, room });
    }
    let at = (end - bytes) & !0xfff;
    memory.read_exact_volatile_from(GuestAddress(at), &mut file, bytes as usize)?;
    Ok((at, bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::memory::{Pages, create};

    fn boot(kernel: Kernel) -> Boot {
        Boot { kernel, initrd: None, command_line: "a=b".into(), cpus: 1, virtio_slots: 0 }
    }

    /// An Image of 4 KiB that says it takes `image_size`.
    fn image(image_size: u64) -> Vec<u8> {
        let mut image = vec![0x55; 4096];
        image[8..16].fill(0);
        image[header::IMAGE_SIZE..header::IMAGE_SIZE + 8].copy_from_slice(&image_size.to_le_bytes());
        image[header::MAGIC..header::MAGIC + 4].copy_from_slice(b"ARM\x64");
        image
    }

    fn kernel(path: &Path) -> Kernel {
        Kernel::File(BootFile::open(path).unwrap())
    }

    fn file(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn an_image_is_loaded_plain_and_compressed() {
        let memory = create(8 << 20, Pages::Small).unwrap();
        let plain = image(1 << 20);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&plain).unwrap();
        for bytes in [&plain, &gzip.finish().unwrap()] {
            let (_dir, path) = file(bytes);
            let entry = load(&memory, &boot(kernel(&path))).unwrap();
            assert_eq!(entry, Entry { pc: layout::KERNEL, x0: layout::DEVICE_TREE });
            let mut found = vec![0; plain.len()];
            memory.read_slice(&mut found, GuestAddress(layout::KERNEL)).unwrap();
            assert_eq!(found, plain);
        }
        let magic: u32 = memory.read_obj(GuestAddress(layout::DEVICE_TREE)).unwrap();
        assert_eq!(u32::from_be(magic), 0xd00d_feed);
    }

    #[test]
    fn a_file_of_no_known_format_is_refused_by_name() {
        let memory = create(4 << 20, Pages::Small).unwrap();
        for bytes in [&[][..], &[0; 5000], GZIP] {
            let (_dir, path) = file(bytes);
            let error = load(&memory, &boot(kernel(&path))).unwrap_err();
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        let error = BootFile::open(Path::new("/nonexistent/Image")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/Image"), "{error}");
    }

    #[test]
    fn a_kernel_that_takes_more_than_there_is_is_refused() {
        let memory = create(4 << 20, Pages::Small).unwrap();
        for size in [(2 << 20) + 1, u64::MAX] {
            let (_dir, path) = file(&image(size));
            assert!(matches!(load(&memory, &boot(kernel(&path))), Err(BootError::Load { .. })), "{size}");
        }
    }

    #[test]
    fn an_initial_file_system_lies_behind_the_kernel_or_is_refused() {
        let memory = create(8 << 20, Pages::Small).unwrap();
        let (_dir, path) = file(&image(1 << 20));
        let start = |bytes: usize| {
            let (_dir, initrd) = file(&vec![3; bytes]);
            load(&memory, &Boot { initrd: Some(BootFile::open(&initrd).unwrap()), ..boot(kernel(&path)) })
        };
        assert!(start(5 << 20).is_ok());
        assert!(matches!(start((5 << 20) + 1), Err(BootError::Initrd { room: 0x50_0000, .. })));
    }

    #[test]
    fn a_command_line_that_does_not_fit_is_refused() {
        let memory = create(4 << 20, Pages::Small).unwrap();
        let boot = Boot { command_line: "x".repeat(2048), ..boot(Kernel::Builtin(&[])) };
        assert!(matches!(load(&memory, &boot), Err(BootError::CommandLine(2048))));
    }
}
