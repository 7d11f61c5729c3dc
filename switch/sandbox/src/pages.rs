//! Memory that holds the program itself.

use std::ffi::{c_int, c_void};

/// Lets the kernel have back what this process has mapped of its program and libraries. What runs again is mapped again, from
/// the page cache; what only the start needed stays away: the greater part, several MiB.
pub fn release_program_pages() {
    // SAFETY: the function is called with valid descriptions of objects, and keeps none.
    unsafe { libc::dl_iterate_phdr(Some(release), std::ptr::null_mut()) };
}

/// Releases the segments of a loaded object that nobody can have written to.
unsafe extern "C" fn release(object: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: what calls this hands a valid description, and in it as many headers as it says.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    let page = rustix::param::page_size() as u64;
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let start = (base + header.p_vaddr) / page * page;
            let end = (base + header.p_vaddr + header.p_memsz).next_multiple_of(page);
            // SAFETY: a loaded segment without write permission is a private mapping of its file, whose pages are the file's:
            // mapped anew they are the same. It stays mapped as long as the object is loaded.
            //
            // Where the kernel refuses nothing is lost: the pages stay.
            let _ =
                unsafe { libc::madvise(start as *mut c_void, (end - start) as usize, libc::MADV_DONTNEED) };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of files on disks, and of those in memory, which are counted as shared memory.
    fn resident_file_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("of this process");
        let kib = |key| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line");
            line.split_whitespace().next().expect("a number").parse().expect("in KiB")
        };
        kib("RssFile:") + kib("RssShmem:")
    }

    #[test]
    fn pages_of_the_program_go_and_it_runs_on() {
        let text: Vec<String> = (0..1000).map(|n| format!("{n:x}")).collect();
        let before = resident_file_kib();
        release_program_pages();
        let after = resident_file_kib();
        assert!(after < before, "{before} KiB, then {after}");
        let again: Vec<String> = (0..1000).map(|n| format!("{n:x}")).collect();
        assert_eq!(text, again);
    }
}
