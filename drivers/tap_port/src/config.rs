//! What a TAP port is asked to be, and why it could not become that.

use std::io;
use std::path::PathBuf;

use port::Accepts;

/// Most queue pairs of a TAP device (`MAX_TAP_QUEUES` in Linux' `drivers/net/tun.c`).
pub(crate) const QUEUES_MAX: u16 = 256;

/// A TAP port as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapConfig {
    /// Name of the network interface, 1 to 15 bytes. Created when there is none, attached to otherwise.
    pub name: String,
    /// The network namespace to work in: a name as `ip netns` uses it, or a path when it has a `/`. `None`: the
    /// calling thread's.
    pub netns: Option<String>,
    /// Queue pairs, 1 to 256.
    pub queues: u16,
    /// Whether the device outlives this process. `false` leaves a device that somebody else made persistent
    /// as it is; see [`TapHandle::set_persistent`](crate::TapHandle::set_persistent).
    pub persistent: bool,
    /// Largest frame without Ethernet header, in bytes. Longer frames that need no segmentation are then dropped
    /// on their way to the device. `None`: what the device has (1500 when new), and no check.
    pub mtu: Option<u16>,
    /// Its Ethernet address, as the host sees it. `None`: what the device has (random when new).
    pub mac: Option<[u8; 6]>,
    /// Whether the interface is set up or down.
    pub link_up: bool,
    /// What the kernel may leave to the switch in frames it sends. Less is agreed on if the kernel refuses.
    pub offloads: Accepts,
}

impl TapConfig {
    /// The defaults: this namespace, one queue pair, not persistent, MTU and address as the device has them, up,
    /// all offloads.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            netns: None,
            queues: 1,
            persistent: false,
            mtu: None,
            mac: None,
            link_up: true,
            offloads: Accepts { partial_checksum: true, tso4: true, tso6: true, tso_ecn: true },
        }
    }

    pub(crate) fn check(&self) -> Result<(), TapError> {
        let forbidden = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
        if !(1..=15).contains(&self.name.len())
            || matches!(self.name.as_str(), "." | "..")
            || self.name.contains(forbidden)
        {
            return Err(TapError::Name { name: self.name.clone() });
        }
        if !(1..=QUEUES_MAX).contains(&self.queues) {
            return Err(TapError::QueueCount { device: self.name.clone(), queues: self.queues });
        }
        Ok(())
    }
}

/// Why a TAP port could not be opened, changed or asked. Each message names the device and a remedy.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name can't be an interface's.
    #[error("`{name}` can't name a network interface: 1 to 15 bytes, no space, `/`, `:` or `%`")]
    Name {
        /// The name.
        name: String,
    },
    /// No queue, or more than the kernel has.
    #[error("TAP device {device}: {queues} queues asked for; allowed are 1 to {QUEUES_MAX}")]
    QueueCount {
        /// The device.
        device: String,
        /// The number asked for.
        queues: u16,
    },
    /// `/dev/net/tun` can't be opened.
    #[error(
        "TAP device {device}: can't open /dev/net/tun ({source}); load the driver with `modprobe tun`, or give \
         the container the device (`--device /dev/net/tun`)"
    )]
    NoTun {
        /// The device that was asked for.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no such network namespace.
    #[error(
        "TAP device {device}: no network namespace {path} ({source}); create it with `ip netns add NAME`",
        path = path.display()
    )]
    NoNetns {
        /// The device that was asked for.
        device: String,
        /// Where the namespace was looked for.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The network namespace can't be entered.
    #[error(
        "TAP device {device}: can't enter network namespace {path} ({source}); this needs CAP_SYS_ADMIN",
        path = path.display()
    )]
    EnterNetns {
        /// The device that was asked for.
        device: String,
        /// The namespace.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Not allowed to create the device, or to attach to this one.
    #[error(
        "TAP device {device}: not permitted; run with CAP_NET_ADMIN, or create the device beforehand with `ip \
         tuntap add dev {device} mode tap user USER multi_queue vnet_hdr`"
    )]
    NotPermitted {
        /// The device.
        device: String,
    },
    /// Somebody else has the device open.
    #[error("TAP device {device}: in use by another process; stop that one, or choose another name")]
    Busy {
        /// The device.
        device: String,
    },
    /// An interface of this name is there and can't be attached to in this way.
    #[error(
        "TAP device {device}: the interface of this name is not a TAP device, or was created for one queue while \
         {queues} are asked for; see `ip -d link show {device}`, delete it, or recreate it with `ip tuntap add \
         dev {device} mode tap multi_queue vnet_hdr`"
    )]
    Mismatch {
        /// The device.
        device: String,
        /// Queues asked for.
        queues: u16,
    },
    /// A property could not be set.
    #[error("TAP device {device}: can't set {what} ({source}){hint}")]
    Set {
        /// The device.
        device: String,
        /// The property and its value.
        what: String,
        /// The kernel's answer.
        source: io::Error,
        /// The remedy, if one is known.
        hint: String,
    },
    /// The kernel gave no answer about the device: it was removed, or moved to another namespace.
    #[error("TAP device {device}: not there any more ({source})")]
    Gone {
        /// The device.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No io_uring.
    #[error(
        "TAP device {device}: io_uring is not available ({source}); it needs Linux 5.11, sysctl \
         kernel.io_uring_disabled=0, and in a container a seccomp profile that allows it"
    )]
    NoIoUring {
        /// The device.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Descriptors from a predecessor don't belong to the device.
    #[error("TAP device {device}: the descriptors handed over are not its queues: {what}")]
    HandedOver {
        /// The device.
        device: String,
        /// What is wrong with them.
        what: String,
    },
    /// Another call of the kernel failed.
    #[error("TAP device {device}: {call} failed ({source})")]
    System {
        /// The device.
        device: String,
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_refuses_or_expands_are_errors() {
        for name in ["", "a-name-too-long1", "a b", "a/b", "a:b", "tap%d", ".", "..", "tab\t"] {
            let error = TapConfig::new(name).check().unwrap_err();
            assert!(matches!(error, TapError::Name { .. }), "{name}: {error}");
        }
        TapConfig::new("exactly-15-byte").check().unwrap();
    }

    #[test]
    fn no_queue_and_too_many_are_errors() {
        for queues in [0, 257] {
            let error = TapConfig { queues, ..TapConfig::new("t") }.check().unwrap_err();
            assert!(error.to_string().contains("1 to 256"), "{error}");
        }
    }
}
