//! Surviving SIGBUS: a process-wide handler and the fixed table it looks at.
//!
//! The handler may run at any instruction of any thread that touches a mapping, so it uses nothing but atomics
//! and the `mmap` system call.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, Once};

/// Most mappings guarded at the same time in one process.
pub(crate) const GUARDED_MAX: usize = 8192;

/// A guarded range. `version` is odd while the range changes, so the handler never sees half of a change.
struct Slot {
    version: AtomicU32,
    faulted: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
}

static TABLE: [Slot; GUARDED_MAX] = [const {
    Slot {
        version: AtomicU32::new(0),
        faulted: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
    }
}; GUARDED_MAX];

/// Slots below this may be in use.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);
/// Live mappings that have faulted. Zero in a healthy process, so the check per burst is one load.
static FAULTED: AtomicUsize = AtomicUsize::new(0);
/// Free slots below `HIGH_WATER`.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);
// SAFETY: written once, inside `INSTALL` and before the handler can run; only read afterwards.
unsafe impl Sync for Previous {}
static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::uninit()));
static INSTALL: Once = Once::new();

/// Guards a mapped range until dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    slot: usize,
}

impl Guard {
    /// Starts to guard `len` bytes from `start`; `None` when the table is full.
    pub(crate) fn new(start: usize, len: usize) -> Option<Guard> {
        INSTALL.call_once(install);
        let mut free = FREE.lock().unwrap_or_else(|e| e.into_inner());
        let slot = match free.pop() {
            Some(slot) => slot,
            None => {
                let slot = HIGH_WATER.load(Ordering::Relaxed);
                if slot == GUARDED_MAX {
                    return None;
                }
                HIGH_WATER.store(slot + 1, Ordering::Release);
                slot
            }
        };
        TABLE[slot].set(start, len);
        Some(Guard { slot })
    }

    /// Whether the range was replaced by zero pages.
    #[inline]
    pub(crate) fn faulted(&self) -> bool {
        TABLE[self.slot].faulted.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(|e| e.into_inner());
        TABLE[self.slot].set(0, 0);
        if TABLE[self.slot].faulted.swap(false, Ordering::Relaxed) {
            FAULTED.fetch_sub(1, Ordering::Relaxed);
        }
        free.push(self.slot);
    }
}

/// Whether any live mapping of the process has faulted.
#[inline(always)]
pub(crate) fn any_faulted() -> bool {
    FAULTED.load(Ordering::Relaxed) != 0
}

impl Slot {
    /// Changes the range. Callers hold `FREE`.
    fn set(&self, start: usize, len: usize) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The range, when it holds `addr`. A slot in change can't be the one of a mapping that is being touched:
    /// it is skipped.
    fn holding(&self, addr: usize) -> Option<(usize, usize)> {
        let before = self.version.load(Ordering::Acquire);
        let (start, len) = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let stable = before & 1 == 0 && self.version.load(Ordering::Relaxed) == before;
        (stable && addr.wrapping_sub(start) < len).then_some((start, len))
    }
}

fn install() {
    // SAFETY: an all-zero sigaction is a valid value; the handler is async-signal-safe (atomics and mmap only) and
    // stays for the life of the process. SA_ONSTACK: Rust's threads have an alternate stack, others don't mind.
    unsafe {
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = on_sigbus as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut ours.sa_mask);
        // Read first: the handler must find it the moment it is in place.
        let previous = (*PREVIOUS.0.get()).as_mut_ptr();
        let read = libc::sigaction(libc::SIGBUS, std::ptr::null(), previous);
        assert_eq!(read, 0, "SIGBUS has an action that can be read");
        let set = libc::sigaction(libc::SIGBUS, &ours, std::ptr::null_mut());
        assert_eq!(set, 0, "SIGBUS can be handled");
    }
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler. A positive code means that the kernel
    // raised the signal for an access, so there is an address.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code <= 0 || !replace(addr) {
        chain(signal, info, context);
    }
}

/// Puts zero pages in place of the guarded range that holds `addr`; false when none does.
fn replace(addr: usize) -> bool {
    let high_water = HIGH_WATER.load(Ordering::Acquire);
    for slot in &TABLE[..high_water] {
        let Some((start, len)) = slot.holding(addr) else { continue };
        if !slot.faulted.swap(true, Ordering::Relaxed) {
            FAULTED.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: errno is the thread's own and is put back, because the interrupted code may be about to read it.
        // The range is one mapping of ours, alive because a thread is touching it; nothing but that memory, which
        // nobody has references into, is replaced.
        unsafe {
            let errno = libc::__errno_location();
            let saved = *errno;
            let mapped = libc::mmap(
                start as *mut libc::c_void,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            );
            *errno = saved;
            return mapped != libc::MAP_FAILED;
        }
    }
    false
}

/// Does what would have happened without our handler.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: `PREVIOUS` was filled before the handler was installed. The stored address is a handler of the kind
    // its flags say. Returning with the default action in place repeats the access, which then ends the process.
    unsafe {
        let previous = (*PREVIOUS.0.get()).assume_init_ref();
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                let mut default: libc::sigaction = std::mem::zeroed();
                default.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &default, std::ptr::null_mut());
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            }
            handler => {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}
