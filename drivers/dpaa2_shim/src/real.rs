//! The C library's functions that are replaced, by system call: asking for the next definition of a name would depend on
//! what else is preloaded.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};

/// Turns a system call's result into what the C library's function returns.
fn result(value: c_long) -> c_int {
    value as c_int
}

pub fn openat(directory: c_int, path: &CStr, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the path is a C string; the kernel checks the rest.
    result(unsafe { libc::syscall(libc::SYS_openat, directory, path.as_ptr(), flags, mode) })
}

pub fn ioctl(fd: c_int, request: libc::c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's arguments, passed on.
    result(unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) })
}

pub fn mmap(
    address: *mut c_void,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller's arguments, passed on.
    unsafe { libc::syscall(libc::SYS_mmap, address, len, prot, flags, fd, offset) as *mut c_void }
}

pub fn munmap(address: *mut c_void, len: usize) -> c_int {
    // SAFETY: the caller's arguments, passed on.
    result(unsafe { libc::syscall(libc::SYS_munmap, address, len) })
}

pub fn close(fd: c_int) -> c_int {
    // SAFETY: the caller's argument, passed on.
    result(unsafe { libc::syscall(libc::SYS_close, fd) })
}

pub fn pread(fd: c_int, buffer: *mut c_void, len: usize, offset: i64) -> isize {
    // SAFETY: the caller's arguments, passed on.
    unsafe { libc::syscall(libc::SYS_pread64, fd, buffer, len, offset) as isize }
}

pub fn pwrite(fd: c_int, buffer: *const c_void, len: usize, offset: i64) -> isize {
    // SAFETY: the caller's arguments, passed on.
    unsafe { libc::syscall(libc::SYS_pwrite64, fd, buffer, len, offset) as isize }
}

pub fn readlink(path: &CStr, buffer: *mut c_char, len: usize) -> isize {
    // SAFETY: the caller's arguments, passed on.
    unsafe { libc::syscall(libc::SYS_readlinkat, libc::AT_FDCWD, path.as_ptr(), buffer, len) as isize }
}

pub fn fstatat(path: &CStr, buffer: *mut c_void, flags: c_int) -> c_int {
    // SAFETY: the caller's arguments, passed on. On 64-bit Linux the C library's `struct stat` is the kernel's.
    result(unsafe { libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, path.as_ptr(), buffer, flags) })
}

pub fn statx(directory: c_int, path: &CStr, flags: c_int, mask: u32, buffer: *mut c_void) -> c_int {
    // SAFETY: the caller's arguments, passed on.
    result(unsafe { libc::syscall(libc::SYS_statx, directory, path.as_ptr(), flags, mask, buffer) })
}

pub fn faccessat(directory: c_int, path: &CStr, mode: c_int) -> c_int {
    // SAFETY: the caller's arguments, passed on.
    result(unsafe { libc::syscall(libc::SYS_faccessat, directory, path.as_ptr(), mode) })
}
