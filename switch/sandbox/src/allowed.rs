//! The system calls that each role needs.
//!
//! Collected by following the switch through its scenarios (`strace -f`), and from what the C library, the memory
//! allocator, tokio and the standard library call under load or in trouble. Names are those of the architecture: 64-bit
//! Arm has none of the older variants (`open`, `poll`, `epoll_wait`, ...).

use std::collections::BTreeSet;

use crate::Role;

macro_rules! calls {
    ($($(#[$arch:meta])? $name:ident)+) => {
        &[$($(#[$arch])? libc::$name),+]
    };
}

/// Every thread: memory (the C library's allocator asks for the number of cores), waiting, time, being interrupted,
/// ending, and saying why it panics.
const EVERY_THREAD: &[libc::c_long] = calls![
    SYS_brk SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise
    SYS_futex SYS_sched_yield SYS_nanosleep SYS_clock_nanosleep SYS_restart_syscall SYS_membarrier
    SYS_clock_gettime SYS_clock_getres SYS_gettimeofday
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sigaltstack
    SYS_getpid SYS_gettid SYS_tgkill SYS_getrandom SYS_rseq SYS_set_robust_list
    SYS_sched_getaffinity SYS_read SYS_write SYS_writev SYS_fcntl SYS_close
    SYS_exit SYS_exit_group
];

/// A worker: waiting for notifications, TAP devices, replayed captures.
const WORKER: &[libc::c_long] = calls![
    SYS_epoll_ctl SYS_epoll_pwait #[cfg(target_arch = "x86_64")] SYS_epoll_wait
    SYS_io_uring_enter SYS_timerfd_settime
];

/// The control thread, and what it starts: played guests, captures, visits of network namespaces.
const CONTROL: &[libc::c_long] = calls![
    // Files: configuration, captures, sockets' files, /proc.
    SYS_openat SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs SYS_lseek SYS_readlinkat SYS_faccessat
    SYS_faccessat2 SYS_getcwd SYS_readv SYS_pread64 SYS_pwrite64 SYS_preadv2 SYS_pwritev2 SYS_unlinkat
    SYS_fchmod SYS_fchmodat SYS_fchownat SYS_ioctl SYS_dup SYS_dup3 SYS_pipe2
    // What a DPAA2 container holds is a directory.
    SYS_getdents64
    #[cfg(target_arch = "x86_64")] SYS_open
    #[cfg(target_arch = "x86_64")] SYS_stat
    #[cfg(target_arch = "x86_64")] SYS_lstat
    #[cfg(target_arch = "x86_64")] SYS_access
    #[cfg(target_arch = "x86_64")] SYS_readlink
    #[cfg(target_arch = "x86_64")] SYS_unlink
    #[cfg(target_arch = "x86_64")] SYS_chmod
    #[cfg(target_arch = "x86_64")] SYS_lchown
    #[cfg(target_arch = "x86_64")] SYS_dup2
    // Memory that is shared.
    SYS_memfd_create SYS_ftruncate
    // Sockets.
    SYS_socket SYS_socketpair SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_connect SYS_shutdown SYS_getsockname
    SYS_getpeername SYS_getsockopt SYS_setsockopt SYS_sendmsg SYS_recvmsg SYS_sendto SYS_recvfrom
    // Waiting.
    SYS_eventfd2 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_ppoll SYS_timerfd_create
    SYS_timerfd_settime SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register
    #[cfg(target_arch = "x86_64")] SYS_epoll_wait
    #[cfg(target_arch = "x86_64")] SYS_poll
    // Threads and namespaces.
    SYS_clone SYS_clone3 SYS_set_tid_address SYS_prctl SYS_setns SYS_sched_setaffinity
    SYS_setpriority SYS_getpriority SYS_prlimit64
    #[cfg(target_arch = "x86_64")] SYS_arch_prctl
    // The C library waits for a child that could not become another program.
    SYS_wait4
    // Threads that it starts give up more than it has.
    SYS_capget SYS_capset SYS_seccomp
    // The process and the machine.
    SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_sysinfo SYS_uname
];

/// A machine's process: kernels and tables are loaded again at a reset, memory and devices are made anew, threads are
/// started that give up more; the control socket.
const MACHINE: &[libc::c_long] = calls![
    SYS_openat SYS_fstat SYS_fstatfs SYS_newfstatat SYS_statx SYS_lseek SYS_pread64 SYS_readv SYS_readlinkat
    SYS_unlinkat SYS_ioctl SYS_dup SYS_memfd_create SYS_ftruncate SYS_eventfd2 SYS_pipe2 SYS_socketpair
    #[cfg(target_arch = "x86_64")] SYS_open
    #[cfg(target_arch = "x86_64")] SYS_stat
    #[cfg(target_arch = "x86_64")] SYS_readlink
    #[cfg(target_arch = "x86_64")] SYS_unlink
    #[cfg(target_arch = "x86_64")] SYS_poll
    #[cfg(target_arch = "x86_64")] SYS_epoll_wait
    SYS_accept SYS_accept4 SYS_shutdown SYS_getsockname SYS_getpeername
    SYS_socket SYS_connect SYS_getsockopt SYS_setsockopt SYS_sendmsg SYS_recvmsg SYS_sendto SYS_recvfrom
    SYS_ppoll SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_timerfd_create SYS_timerfd_settime
    SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register
    SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2 SYS_fsync SYS_fdatasync SYS_fallocate
    SYS_clone SYS_clone3 SYS_set_tid_address SYS_prctl SYS_sched_setaffinity SYS_prlimit64
    #[cfg(target_arch = "x86_64")] SYS_arch_prctl
    SYS_capget SYS_capset SYS_seccomp
    SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_sysinfo SYS_uname
];

/// A processor: KVM, doorbells and interrupts; and what devices do whose work is a processor's: a TAP device by io_uring,
/// a disk's image.
const VCPU: &[libc::c_long] = calls![
    SYS_ioctl SYS_eventfd2 SYS_dup SYS_fstat SYS_fstatfs SYS_newfstatat SYS_statx SYS_lseek SYS_sendto SYS_io_uring_enter
    SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2 SYS_fsync SYS_fdatasync SYS_fallocate
];

/// A device's thread: a vhost-user connection or a TAP device, waiting.
const DEVICE: &[libc::c_long] = calls![
    SYS_socket SYS_connect SYS_getsockopt SYS_setsockopt SYS_sendmsg SYS_recvmsg SYS_shutdown
    SYS_ioctl SYS_eventfd2 SYS_dup SYS_fstat SYS_fstatfs SYS_newfstatat SYS_statx SYS_lseek
    SYS_ppoll SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2
    #[cfg(target_arch = "x86_64")] SYS_poll
    #[cfg(target_arch = "x86_64")] SYS_epoll_wait
    SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register
];

/// A disk's thread: its processor, and a ring for each session, which says for itself what can be asked by it.
const DISK: &[libc::c_long] =
    calls![SYS_sched_setaffinity SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register];

/// Calls that are refused in silence: who makes them has blocked all signals, or a new process is on its way to
/// another program, and the signal by which a refusal is told would end the process.
const PROGRAMS: &[libc::c_long] = calls![
    SYS_execve SYS_execveat
    #[cfg(target_arch = "x86_64")] SYS_fork
    #[cfg(target_arch = "x86_64")] SYS_vfork
];

/// Likewise.
const THREADS: &[libc::c_long] = calls![SYS_clone SYS_clone3];

/// The numbers of the calls that are refused in silence.
pub(crate) fn silently_refused(role: Role) -> BTreeSet<i64> {
    let threads = match role {
        Role::Control | Role::Machine => &[],
        Role::Worker | Role::Vcpu | Role::Device | Role::Disk => THREADS,
    };
    PROGRAMS.iter().chain(threads).copied().collect()
}

/// The numbers of the calls that a role may make.
pub(crate) fn of(role: Role) -> BTreeSet<i64> {
    let own = match role {
        Role::Control => CONTROL,
        Role::Worker => WORKER,
        Role::Machine => MACHINE,
        Role::Vcpu => VCPU,
        Role::Device => DEVICE,
        Role::Disk => DISK,
    };
    EVERY_THREAD.iter().chain(own).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_needs_nothing_but_what_the_control_thread_may_do() {
        assert!(of(Role::Worker).is_subset(&of(Role::Control)));
    }

    #[test]
    fn a_machines_threads_need_nothing_but_what_its_process_may_do() {
        for role in [Role::Vcpu, Role::Device, Role::Disk] {
            assert!(of(role).is_subset(&of(Role::Machine)), "{}", role.name());
        }
    }

    #[test]
    fn nothing_is_both_allowed_and_refused() {
        for role in [Role::Control, Role::Worker, Role::Machine, Role::Vcpu, Role::Device, Role::Disk] {
            assert!(of(role).is_disjoint(&silently_refused(role)));
        }
    }
}
