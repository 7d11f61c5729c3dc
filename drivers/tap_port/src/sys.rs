//! The ioctls of `/dev/net/tun` (`linux/if_tun.h`) and of network interfaces (netdevice(7)), as typed calls.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{Ioctl, c_int, c_ulong};

/// Bytes of the virtio-net header in front of each frame (virtio 1.2, section 5.1.6: with `num_buffers`).
pub(crate) const HEADER_LEN: usize = 12;

/// `struct ifreq`: a name, and a union of which the widest member has 24 bytes.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; 16],
    value: [u8; 24],
}
const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

impl InterfaceRequest {
    fn new(name: &str) -> Self {
        let mut request = Self { name: [0; 16], value: [0; 24] };
        let len = name.len().min(15);
        request.name[..len].copy_from_slice(&name.as_bytes()[..len]);
        request
    }

    fn short(&self) -> u16 {
        u16::from_ne_bytes([self.value[0], self.value[1]])
    }

    fn set_short(&mut self, value: u16) {
        self.value[..2].copy_from_slice(&value.to_ne_bytes());
    }

    fn int(&self) -> i32 {
        i32::from_ne_bytes(self.value[..4].try_into().expect("4 bytes of 24"))
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn with_interface(fd: BorrowedFd<'_>, request: c_ulong, argument: &mut InterfaceRequest) -> io::Result<()> {
    // SAFETY: every request passed here takes a pointer to `struct ifreq`, which `argument` has the size of, and
    // reads and writes only inside it, and, for SIOCETHTOOL, in the `Value` that its caller lent it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as Ioctl, std::ptr::from_mut(argument)) })
}

fn with_value(fd: BorrowedFd<'_>, request: Ioctl, value: c_ulong) -> io::Result<()> {
    // SAFETY: the requests passed here take their argument by value; the kernel follows no pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, value) })
}

/// Opens `/dev/net/tun`: a queue without a device, in the calling thread's network namespace.
pub(crate) fn open_tun() -> io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    Ok(file.into())
}

/// Opens a socket for questions about interfaces of the calling thread's network namespace.
pub(crate) fn open_socket() -> io::Result<OwnedFd> {
    // A datagram socket that is never bound: it receives nothing.
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    Ok(socket.into())
}

/// Connects the queue to the device (`TUNSETIFF`), with `flags` beside the ones every queue of ours has.
pub(crate) fn attach(queue: BorrowedFd<'_>, name: &str, flags: c_int) -> io::Result<()> {
    let mut request = InterfaceRequest::new(name);
    // 16 bits by the ABI; `IFF_TUN_EXCL` is the highest.
    request.set_short((libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags) as u16);
    with_interface(queue, libc::TUNSETIFF as c_ulong, &mut request)
}

/// Which device a queue belongs to (`TUNGETIFF`).
pub(crate) struct Attached {
    pub name: String,
    pub flags: c_int,
}

pub(crate) fn attached(queue: BorrowedFd<'_>) -> io::Result<Attached> {
    let mut request = InterfaceRequest::new("");
    with_interface(queue, libc::TUNGETIFF as c_ulong, &mut request)?;
    let len = request.name.iter().position(|&b| b == 0).unwrap_or(16);
    Ok(Attached {
        name: String::from_utf8_lossy(&request.name[..len]).into_owned(),
        flags: c_int::from(request.short()),
    })
}

pub(crate) fn set_header_len(queue: BorrowedFd<'_>) -> io::Result<()> {
    let len = HEADER_LEN as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads an int through the pointer.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
}

pub(crate) fn set_offloads(queue: BorrowedFd<'_>, flags: libc::c_uint) -> io::Result<()> {
    with_value(queue, libc::TUNSETOFFLOAD, c_ulong::from(flags))
}

pub(crate) fn set_persistent(queue: BorrowedFd<'_>, persistent: bool) -> io::Result<()> {
    with_value(queue, libc::TUNSETPERSIST, c_ulong::from(persistent))
}

/// Makes reads and writes answer `EAGAIN` where they would wait.
pub(crate) fn set_nonblocking(queue: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(queue)?;
    Ok(rustix::fs::fcntl_setfl(queue, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// Whether reads and writes can be told, one by one, not to wait (`RWF_NOWAIT`; TAP since Linux 6.4).
///
/// `O_NONBLOCK` alone doesn't do for io_uring, which takes it for the wish to be polled.
pub(crate) fn knows_nowait(queue: &OwnedFd) -> bool {
    // Too short for the header, so nothing is sent; the flag is refused before that is noticed.
    let mut byte = 0_u8;
    let byte = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: the vector names one readable byte, which a write only reads.
    let result = unsafe { libc::pwritev2(queue.as_raw_fd(), &raw const byte, 1, -1, libc::RWF_NOWAIT) };
    result >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EOPNOTSUPP)
}

/// A network interface seen through a socket of its namespace.
#[derive(Clone, Copy)]
pub(crate) struct Interface<'a> {
    pub socket: &'a OwnedFd,
    pub name: &'a str,
}

impl Interface<'_> {
    fn get(&self, request: c_ulong) -> io::Result<InterfaceRequest> {
        let mut argument = InterfaceRequest::new(self.name);
        with_interface(self.socket.as_fd(), request, &mut argument)?;
        Ok(argument)
    }

    fn set(&self, request: c_ulong, value: impl FnOnce(&mut InterfaceRequest)) -> io::Result<()> {
        let mut argument = InterfaceRequest::new(self.name);
        value(&mut argument);
        with_interface(self.socket.as_fd(), request, &mut argument)
    }

    pub fn index(&self) -> io::Result<u32> {
        Ok(self.get(libc::SIOCGIFINDEX as c_ulong)?.int() as u32)
    }

    /// `IFF_UP`, `IFF_RUNNING` and the like.
    pub fn flags(&self) -> io::Result<c_int> {
        Ok(c_int::from(self.get(libc::SIOCGIFFLAGS as c_ulong)?.short()))
    }

    /// Whether it is up and has a carrier at this moment (`ETHTOOL_GLINK`). `IFF_RUNNING` follows a second later.
    pub fn has_carrier(&self) -> io::Result<bool> {
        /// `struct ethtool_value`.
        #[repr(C)]
        struct Value {
            command: u32,
            data: u32,
        }
        const ETHTOOL_GLINK: u32 = 10;
        let mut value = Value { command: ETHTOOL_GLINK, data: 0 };
        self.set(libc::SIOCETHTOOL as c_ulong, |request| {
            let address = std::ptr::from_mut(&mut value).expose_provenance();
            request.value[..size_of::<usize>()].copy_from_slice(&address.to_ne_bytes());
        })?;
        Ok(value.data != 0)
    }

    pub fn set_flags(&self, flags: c_int) -> io::Result<()> {
        self.set(libc::SIOCSIFFLAGS as c_ulong, |r| r.set_short(flags as u16))
    }

    pub fn mtu(&self) -> io::Result<u32> {
        Ok(self.get(libc::SIOCGIFMTU as c_ulong)?.int() as u32)
    }

    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.set(libc::SIOCSIFMTU as c_ulong, |r| r.value[..4].copy_from_slice(&i32::from(mtu).to_ne_bytes()))
    }

    pub fn mac(&self) -> io::Result<[u8; 6]> {
        // The union holds a `struct sockaddr`: family, then the address.
        let request = self.get(libc::SIOCGIFHWADDR as c_ulong)?;
        Ok(request.value[2..8].try_into().expect("6 bytes of 24"))
    }

    pub fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        self.set(libc::SIOCSIFHWADDR as c_ulong, |r| {
            r.set_short(libc::ARPHRD_ETHER);
            r.value[2..8].copy_from_slice(&mac);
        })
    }
}
