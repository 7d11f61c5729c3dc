//! The C library's functions that programs find here instead. Each looks whether a path or a descriptor is one of ours and
//! else does what it always does.
//!
//! Those that are variadic in C are defined with the arguments that matter: callers pass them in the same registers.

use crate::{real, shim};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

fn fail(error: c_int) -> c_int {
    // SAFETY: the calling thread's own error number.
    unsafe { *libc::__errno_location() = error };
    -1
}

fn outcome(outcome: Result<c_int, c_int>) -> c_int {
    outcome.unwrap_or_else(fail)
}

/// Opens a path relative to a directory.
///
/// # Safety
/// `path` is a C string.
unsafe fn open_path(directory: c_int, path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) };
    let Some(shim) = shim() else { return real::openat(directory, path, flags, mode) };
    if let Some(opened) = shim.vfio.open(&*shim.backend, path) {
        return outcome(opened);
    }
    real::openat(directory, &shim.tree.redirect(path), flags, mode)
}

/// # Safety
/// As open(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { open_path(libc::AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// As open(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { open_path(libc::AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// As openat(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { open_path(directory, path, flags, mode) }
}

/// # Safety
/// As openat(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(directory: c_int, path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { open_path(directory, path, flags, mode) }
}

/// # Safety
/// As close(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    if let Some(shim) = shim() {
        shim.vfio.closed(&*shim.backend, fd);
    }
    real::close(fd)
}

/// # Safety
/// As ioctl(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn ioctl(fd: c_int, request: libc::c_ulong, argument: *mut c_void) -> c_int {
    if let Some(shim) = shim() {
        // SAFETY: the caller's argument for this request.
        if let Some(answered) = unsafe { shim.vfio.ioctl(&*shim.backend, fd, request as u32, argument) } {
            return outcome(answered);
        }
    }
    real::ioctl(fd, request, argument)
}

/// # Safety
/// As mmap(2).
unsafe fn map(
    address: *mut c_void,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    if let Some(shim) = shim().filter(|_| fd >= 0)
        && let Some(mapped) = shim.vfio.mmap(&*shim.backend, address, len, prot, flags, fd, offset)
    {
        return mapped.unwrap_or_else(|error| {
            fail(error);
            libc::MAP_FAILED
        });
    }
    real::mmap(address, len, prot, flags, fd, offset)
}

/// # Safety
/// As mmap(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    address: *mut c_void,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { map(address, len, prot, flags, fd, offset) }
}

/// # Safety
/// As mmap(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap64(
    address: *mut c_void,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { map(address, len, prot, flags, fd, offset) }
}

/// # Safety
/// As munmap(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(address: *mut c_void, len: usize) -> c_int {
    if let Some(shim) = shim() {
        shim.vfio.unmapped(&*shim.backend, address as usize, len);
    }
    real::munmap(address, len)
}

fn transferred(result: Result<isize, c_int>) -> isize {
    result.unwrap_or_else(|error| fail(error) as isize)
}

/// # Safety
/// As pread(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn pread64(fd: c_int, buffer: *mut c_void, len: usize, offset: i64) -> isize {
    if let Some(shim) = shim().filter(|_| len == 64) {
        // SAFETY: the caller's buffer has `len` bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast(), len) };
        if let Some(result) = shim.vfio.pread(fd, bytes, offset) {
            return transferred(result);
        }
    }
    real::pread(fd, buffer, len, offset)
}

/// # Safety
/// As pread(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn pread(fd: c_int, buffer: *mut c_void, len: usize, offset: i64) -> isize {
    // SAFETY: the caller's promise.
    unsafe { pread64(fd, buffer, len, offset) }
}

/// # Safety
/// As pwrite(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, buffer: *const c_void, len: usize, offset: i64) -> isize {
    if let Some(shim) = shim() {
        // SAFETY: the caller's buffer has `len` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.cast(), len) };
        if let Some(result) = shim.vfio.pwrite(&*shim.backend, fd, bytes, offset) {
            return transferred(result);
        }
    }
    real::pwrite(fd, buffer, len, offset)
}

/// # Safety
/// As pwrite(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(fd: c_int, buffer: *const c_void, len: usize, offset: i64) -> isize {
    // SAFETY: the caller's promise.
    unsafe { pwrite64(fd, buffer, len, offset) }
}

/// Gives a path to `call`, redirected if it is one of ours.
///
/// # Safety
/// `path` is a C string.
unsafe fn with_path<R>(path: *const c_char, call: impl FnOnce(&CStr) -> R) -> R {
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) };
    match shim() {
        Some(shim) => call(&shim.tree.redirect(path)),
        None => call(path),
    }
}

/// # Safety
/// As readlink(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn readlink(path: *const c_char, buffer: *mut c_char, len: usize) -> isize {
    // SAFETY: the caller's promise.
    unsafe { with_path(path, |path| real::readlink(path, buffer, len)) }
}

/// # Safety
/// As stat(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn stat(path: *const c_char, buffer: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with_path(path, |path| real::fstatat(path, buffer, 0)) }
}

/// # Safety
/// As stat(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn stat64(path: *const c_char, buffer: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with_path(path, |path| real::fstatat(path, buffer, 0)) }
}

/// # Safety
/// As lstat(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn lstat64(path: *const c_char, buffer: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with_path(path, |path| real::fstatat(path, buffer, libc::AT_SYMLINK_NOFOLLOW)) }
}

/// # Safety
/// As statx(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn statx(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mask: u32,
    buffer: *mut c_void,
) -> c_int {
    // Without a path it is only asked whether the system has this call; this is how it says yes.
    if path.is_null() {
        return fail(libc::EFAULT);
    }
    // SAFETY: the caller's promise.
    unsafe { with_path(path, |path| real::statx(directory, path, flags, mask, buffer)) }
}

/// # Safety
/// As access(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn access(path: *const c_char, mode: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with_path(path, |path| real::faccessat(libc::AT_FDCWD, path, mode)) }
}

/// # Safety
/// As opendir(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn opendir(path: *const c_char) -> *mut libc::DIR {
    type OpenDirectory = unsafe extern "C" fn(*const c_char) -> *mut libc::DIR;
    static NEXT: OnceLock<OpenDirectory> = OnceLock::new();
    let next = NEXT.get_or_init(|| {
        // SAFETY: the name is a C string, and what has it next is the C library's function of this type.
        unsafe {
            std::mem::transmute::<*mut c_void, OpenDirectory>(libc::dlsym(
                libc::RTLD_NEXT,
                c"opendir".as_ptr(),
            ))
        }
    });
    // SAFETY: the caller's promise.
    unsafe { with_path(path, |path| next(path.as_ptr())) }
}
