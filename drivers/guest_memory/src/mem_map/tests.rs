use std::os::fd::{AsFd, OwnedFd};

use super::*;
use crate::SharedMemory;

const PAGE: u64 = 4096;

/// A plain memfd of `len` bytes whose size nobody sealed, as a front-end may send one.
fn file(len: u64) -> std::fs::File {
    use std::os::fd::FromRawFd;
    // SAFETY: memfd_create returns a new descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)) };
    let file = std::fs::File::from(fd);
    file.set_len(len).expect("a memfd can grow");
    file
}

fn spec(file: &std::fs::File, gpa: u64, len: u64, user_va: u64, offset: u64) -> RegionSpec<'_> {
    RegionSpec { gpa, len, user_va, fd: file.as_fd(), offset }
}

fn read(at: NonNull<u8>) -> u8 {
    // SAFETY: the tests read where a live map said there is memory.
    unsafe { at.read_volatile() }
}

fn write(at: NonNull<u8>, value: u8) {
    // SAFETY: as in `read`.
    unsafe { at.write_volatile(value) }
}

#[test]
fn addresses_lead_to_the_file_s_bytes_in_both_address_spaces() {
    use std::os::unix::fs::FileExt;
    let file = file(16 * PAGE);
    file.write_at(b"x", 5 * PAGE + 7).unwrap();
    let map = MemMap::new(&[spec(&file, 0x10_0000, 4 * PAGE, 0x7000_0000, 4 * PAGE)]).unwrap();
    assert_eq!(read(map.translate_gpa(0x10_0000 + PAGE + 7, 1).unwrap()), b'x');
    assert_eq!(read(map.translate_user(0x7000_0000 + PAGE + 7, 1).unwrap()), b'x');
    assert_eq!(map.user_to_gpa(0x7000_0000 + 9, 1), Some(0x10_0009));
}

#[test]
fn a_region_may_begin_anywhere_in_its_file() {
    use std::os::unix::fs::FileExt;
    let file = file(4 * PAGE);
    file.write_at(b"y", 1000).unwrap();
    let map = MemMap::new(&[spec(&file, 0, PAGE, 0, 1000)]).unwrap();
    assert_eq!(read(map.translate_gpa(0, 1).unwrap()), b'y');
}

#[test]
fn the_end_of_a_range_is_checked_not_only_its_start() {
    // CVE-2018-1059: a length that runs out of the region was not noticed.
    let file = file(4 * PAGE);
    let map = MemMap::new(&[spec(&file, PAGE, 2 * PAGE, 0, 0)]).unwrap();
    let mut cache = RegionCache::EMPTY;
    for (gpa, len, inside) in [
        (PAGE, 2 * PAGE, true),
        (PAGE, 2 * PAGE + 1, false),
        (3 * PAGE - 1, 1, true),
        (3 * PAGE - 1, 2, false),
        (3 * PAGE, 0, false),
        (PAGE - 1, 1, false),
        (PAGE, u64::MAX, false),
        (u64::MAX, 2, false),
        (2 * PAGE, u64::MAX - PAGE, false),
    ] {
        assert_eq!(map.translate_gpa(gpa, len).is_some(), inside, "{gpa:#x} {len:#x}");
        assert_eq!(cache.translate_gpa(&map, gpa, len), map.translate_gpa(gpa, len));
    }
}

#[test]
fn a_range_over_two_neighbouring_regions_comes_in_parts() {
    let (a, b) = (file(PAGE), file(PAGE));
    let map = MemMap::new(&[spec(&a, 0, PAGE, 0x1000, 0), spec(&b, PAGE, PAGE, 0x9000, 0)]).unwrap();
    assert!(map.translate_gpa(PAGE - 1, 2).is_none());
    let (first, n) = map.translate_gpa_part(PAGE - 1, 2).unwrap();
    assert_eq!(n, 1);
    assert_eq!(first, map.translate_gpa(PAGE - 1, 1).unwrap());
    assert_eq!(map.translate_gpa_part(PAGE, 1).unwrap().1, 1);
    assert!(map.translate_gpa_part(2 * PAGE, 1).is_none());
}

#[test]
fn senseless_regions_are_refused() {
    let file = file(4 * PAGE);
    for (gpa, len, user_va, offset) in [
        (0, 0, 0, 0),
        (u64::MAX - 10, PAGE, 0, 0),
        (0, PAGE, u64::MAX - 10, 0),
        (0, PAGE, 0, u64::MAX - 10),
        (0, 5 * PAGE, 0, 0),
        (0, PAGE, 0, 4 * PAGE),
        (0, 1 << 60, 0, 0),
    ] {
        assert!(
            MemMap::new(&[spec(&file, gpa, len, user_va, offset)]).is_err(),
            "{gpa:x} {len:x} {offset:x}"
        );
    }
}

#[test]
fn regions_may_not_overlap_in_either_address_space() {
    let file = file(8 * PAGE);
    let first = spec(&file, 0, 2 * PAGE, 0x10_0000, 0);
    let in_guest = spec(&file, PAGE, PAGE, 0x20_0000, 2 * PAGE);
    let in_front_end = spec(&file, 0x50_0000, PAGE, 0x10_0000 + PAGE, 2 * PAGE);
    assert!(matches!(MemMap::new(&[first, in_guest]), Err(TableError::Overlap(0, PAGE))));
    assert!(matches!(MemMap::new(&[first, in_front_end]), Err(TableError::Overlap(0, 0x50_0000))));
}

#[test]
fn the_number_of_regions_is_bounded() {
    let file = file(PAGE);
    let all: Vec<_> = (0..=REGIONS_MAX as u64).map(|i| spec(&file, i * PAGE, PAGE, i * PAGE, 0)).collect();
    assert!(matches!(MemMap::new(&all), Err(TableError::TooMany(510))));
    let full = MemMap::new(&all[..REGIONS_MAX]).unwrap();
    assert!(matches!(full.add(&all[REGIONS_MAX]), Err(TableError::TooMany(510))));
}

#[test]
fn only_memory_files_are_mapped() {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    assert!(matches!(
        MemMap::new(&[spec(&null, 0, PAGE, 0, 0)]),
        Err(TableError::Map { source: MapError::NotAFile, .. })
    ));
}

#[test]
fn a_changed_table_shares_the_mappings_that_stay() {
    let (a, b) = (file(PAGE), file(PAGE));
    let one = MemMap::new(&[spec(&a, 0, PAGE, 0x1000, 0)]).unwrap();
    let two = one.add(&spec(&b, PAGE, PAGE, 0x9000, 0)).unwrap();
    assert_eq!(one.translate_gpa(0, 1), two.translate_gpa(0, 1));
    assert!(one.translate_gpa(PAGE, 1).is_none());
    write(two.translate_gpa(PAGE, 1).unwrap(), 7);
    let rest = two.remove(0, 0x1000, PAGE).unwrap();
    drop((one, two));
    assert_eq!(read(rest.translate_gpa(PAGE, 1).unwrap()), 7, "still mapped");
    assert!(matches!(rest.remove(PAGE, 0x9000, 2 * PAGE), Err(TableError::NoSuchRegion { .. })));
}

#[test]
fn memory_that_is_taken_away_reads_as_zeros_and_is_reported_for_that_guest_only() {
    let (victim, other) = (file(4 * PAGE), file(4 * PAGE));
    let map = MemMap::new(&[spec(&victim, 0, 4 * PAGE, 0, 0)]).unwrap();
    let neighbour = MemMap::new(&[spec(&other, 0, 4 * PAGE, 0, 0)]).unwrap();
    write(map.translate_gpa(2 * PAGE, 1).unwrap(), 9);
    victim.set_len(0).unwrap();
    assert_eq!(read(map.translate_gpa(2 * PAGE, 1).unwrap()), 0);
    assert!(map.faulted());
    assert!(!neighbour.faulted());
    write(map.translate_gpa(0, 1).unwrap(), 1);
    assert_eq!(read(map.translate_gpa(0, 1).unwrap()), 1, "usable until it is dropped");
    drop(map);
    assert!(!neighbour.faulted());
}

#[test]
fn every_thread_survives_losing_the_memory_at_the_same_time() {
    let victim = file(64 * PAGE);
    let map = MemMap::new(&[spec(&victim, 0, 64 * PAGE, 0, 0)]).unwrap();
    std::thread::scope(|threads| {
        for t in 0..4 {
            let map = &map;
            threads.spawn(move || {
                while !map.faulted() {
                    for page in 0..64 {
                        write(map.translate_gpa(page * PAGE + t, 1).unwrap(), 1);
                    }
                }
            });
        }
        victim.set_len(PAGE).unwrap();
    });
    assert!(map.faulted());
}

#[test]
fn a_bus_error_elsewhere_still_ends_the_process() {
    let guarded = SharedMemory::new(c"test", PAGE).unwrap();
    let foreign = file(PAGE);
    // SAFETY: a private child that only touches memory, through raw pointers, and dies of it.
    let status = unsafe {
        use std::os::fd::AsRawFd;
        let at = libc::mmap(
            std::ptr::null_mut(),
            PAGE as usize,
            libc::PROT_READ,
            libc::MAP_SHARED,
            foreign.as_raw_fd(),
            0,
        );
        foreign.set_len(0).unwrap();
        let child = libc::fork();
        if child == 0 {
            at.cast::<u8>().read_volatile();
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        libc::munmap(at, PAGE as usize);
        status
    };
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS, "status {status:#x}");
    drop(guarded);
}

mod dirty {
    use super::*;
    use crate::DirtyLog;

    fn bit(memory: &SharedMemory, page: usize) -> bool {
        // SAFETY: the page's byte is inside the test's memory.
        let byte = unsafe { memory.start().add(page / 8).read_volatile() };
        byte >> (page % 8) & 1 == 1
    }

    #[test]
    fn every_touched_page_is_marked_and_no_other() {
        let memory = SharedMemory::new(c"log", PAGE).unwrap();
        let log = DirtyLog::new(memory.fd(), 0, 8).unwrap();
        log.begin();
        log.mark(3 * PAGE - 1, 2);
        log.mark(9 * PAGE, 0);
        log.mark(20 * PAGE, 2 * PAGE);
        let marked: Vec<usize> = (0..100).filter(|&p| bit(&memory, p)).collect();
        assert_eq!(marked, [2, 3, 20, 21]);
    }

    #[test]
    fn what_the_log_has_no_bit_for_is_left_out() {
        // The pattern of CVE-2020-10722: a log smaller than the memory it is for.
        let memory = SharedMemory::new(c"log", PAGE).unwrap();
        let log = DirtyLog::new(memory.fd(), 0, 1).unwrap();
        log.mark(7 * PAGE, 100 * PAGE);
        log.mark(u64::MAX - 1, u64::MAX);
        let marked: Vec<usize> = (0..4096 * 8).filter(|&p| bit(&memory, p)).collect();
        assert_eq!(marked, [7]);
    }

    #[test]
    fn a_log_outside_its_file_is_refused() {
        let memory = SharedMemory::new(c"log", PAGE).unwrap();
        assert!(DirtyLog::new(memory.fd(), 0, PAGE + 1).is_err());
        assert!(DirtyLog::new(memory.fd(), u64::MAX - 7, 16).is_err());
        assert!(DirtyLog::new(memory.fd(), 0, 0).is_err());
    }
}
