//! What the kernel counts of a processor (Linux, `Documentation/virt/kvm/api.rst`, "KVM_GET_STATS_FD").

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::{KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_MASK};

use crate::{KvmError, Vcpu};

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// Most counters and bytes of a name that are believed: a kernel has some tens, of 48 bytes.
const COUNTERS_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 256;
/// Flags, size of a name, number of descriptors, offsets of id, descriptors and data: four bytes each.
const HEADER_BYTES: usize = 24;
/// Flags (4), exponent (2), size (2), offset (4), bucket size (4); then the name.
const DESC_BYTES: usize = 16;

/// A processor's counters in the kernel, to be read by any thread at any time.
#[derive(Debug)]
pub struct KernelStats {
    file: File,
    /// Name, and where its value is.
    counters: Vec<(String, u64)>,
}

impl Vcpu {
    /// Opens the processor's counters in the kernel. Only those that count events up are kept: not what is a state,
    /// a peak or a histogram.
    ///
    /// # Errors
    /// The kernel is older than 5.14, or refuses.
    pub fn kernel_stats(&self) -> Result<KernelStats, KvmError> {
        let failed = |source| KvmError { call: "KVM_GET_STATS_FD", source };
        // SAFETY: the request takes no argument and returns a new descriptor, which nobody else owns.
        let file = unsafe {
            let fd = libc::ioctl(self.fd.as_raw_fd(), KVM_GET_STATS_FD);
            if fd < 0 {
                return Err(failed(io::Error::last_os_error()));
            }
            File::from_raw_fd(fd)
        };
        let counters = describe(&file).map_err(failed)?;
        Ok(KernelStats { file, counters })
    }
}

impl KernelStats {
    /// Name and value of each counter, in the kernel's order.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn read(&self) -> io::Result<Vec<(&str, u64)>> {
        let value = |at: u64| -> io::Result<u64> {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, at)?;
            Ok(u64::from_ne_bytes(bytes))
        };
        self.counters.iter().map(|counter| Ok((counter.0.as_str(), value(counter.1)?))).collect()
    }
}

/// Reads names and places of the counters.
fn describe(file: &impl FileExt) -> io::Result<Vec<(String, u64)>> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    let [_, name_bytes, count, _, descs_at, data_at] = words(&header);
    let (name_bytes, count) = (name_bytes as usize, count as usize);
    if name_bytes > NAME_BYTES_MAX || count > COUNTERS_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut descs = vec![0; count * (DESC_BYTES + name_bytes)];
    file.read_exact_at(&mut descs, descs_at.into())?;
    let counters = descs.chunks_exact(DESC_BYTES + name_bytes).filter_map(|desc| {
        let (fixed, name) = desc.split_at(DESC_BYTES);
        let [flags, exponent_and_size, offset, _] = words(fixed);
        let is_counter = flags & KVM_STATS_TYPE_MASK == KVM_STATS_TYPE_CUMULATIVE
            && exponent_and_size.to_ne_bytes()[2..] == 1u16.to_ne_bytes();
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        is_counter.then(|| (name, u64::from(data_at) + u64::from(offset)))
    });
    Ok(counters.collect())
}

fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut words =
        bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    std::array::from_fn(|_| words.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it: header, descriptors of 16 + 8 bytes, data.
    struct Bytes(Vec<u8>);

    impl FileExt for Bytes {
        fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest = self.0.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn file(count: u32, name_bytes: u32) -> Bytes {
        let mut bytes = Vec::new();
        [0, name_bytes, count, 24, 24, 24 + 3 * 24]
            .iter()
            .for_each(|word: &u32| bytes.extend(word.to_ne_bytes()));
        // A counter, a peak, a histogram of four buckets.
        for (flags, size, offset, name) in
            [(0u32, 1u16, 8u32, b"exits\0\0\0"), (2, 1, 0, b"peak\0\0\0\0"), (4, 4, 16, b"hist\0\0\0\0")]
        {
            bytes.extend(flags.to_ne_bytes());
            bytes.extend(0u16.to_ne_bytes());
            bytes.extend(size.to_ne_bytes());
            bytes.extend(offset.to_ne_bytes());
            bytes.extend(0u32.to_ne_bytes());
            bytes.extend(name);
        }
        Bytes(bytes)
    }

    #[test]
    fn counters_are_found_and_nothing_else() {
        assert_eq!(describe(&file(3, 8)).unwrap(), [("exits".to_owned(), 24 + 72 + 8)]);
    }

    #[test]
    fn a_description_that_is_no_such_is_refused() {
        assert!(describe(&file(u32::MAX, 8)).is_err());
        assert!(describe(&file(3, u32::MAX)).is_err());
        assert!(describe(&file(400, 8)).is_err(), "longer than the file");
        assert!(describe(&Bytes(Vec::new())).is_err());
    }
}
