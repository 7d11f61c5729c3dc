//! Capabilities of a thread.

use std::fmt;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// A set of capabilities; see capabilities(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

/// Those that the switch has a use for.
const NAMES: [(&str, Capabilities); 7] = [
    ("CAP_CHOWN", Capabilities::CHOWN),
    ("CAP_DAC_OVERRIDE", Capabilities::DAC_OVERRIDE),
    ("CAP_NET_BIND_SERVICE", Capabilities::NET_BIND_SERVICE),
    ("CAP_NET_ADMIN", Capabilities::NET_ADMIN),
    ("CAP_IPC_LOCK", Capabilities::IPC_LOCK),
    ("CAP_SYS_ADMIN", Capabilities::SYS_ADMIN),
    ("CAP_SYS_NICE", Capabilities::SYS_NICE),
];

impl Capabilities {
    /// None.
    pub const NONE: Capabilities = Capabilities(0);
    /// To give files to other users.
    pub const CHOWN: Capabilities = Capabilities(CapabilitySet::CHOWN.bits());
    /// To use files and sockets of other users.
    pub const DAC_OVERRIDE: Capabilities = Capabilities(CapabilitySet::DAC_OVERRIDE.bits());
    /// To listen at ports below 1024.
    pub const NET_BIND_SERVICE: Capabilities = Capabilities(CapabilitySet::NET_BIND_SERVICE.bits());
    /// To make and change network interfaces.
    pub const NET_ADMIN: Capabilities = Capabilities(CapabilitySet::NET_ADMIN.bits());
    /// To lock more memory than the limit says, for the DMA of hardware.
    pub const IPC_LOCK: Capabilities = Capabilities(CapabilitySet::IPC_LOCK.bits());
    /// To enter network namespaces.
    pub const SYS_ADMIN: Capabilities = Capabilities(CapabilitySet::SYS_ADMIN.bits());
    /// To come before other threads.
    pub const SYS_NICE: Capabilities = Capabilities(CapabilitySet::SYS_NICE.bits());

    /// Both sets together.
    pub const fn or(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }

    /// How many there are.
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Those of the calling thread.
    ///
    /// # Errors
    /// The kernel doesn't say.
    pub fn of_this_thread() -> rustix::io::Result<Capabilities> {
        Ok(Capabilities(capabilities(None)?.effective.bits()))
    }

    /// Whether all of `other` are among them.
    pub const fn has(self, other: Capabilities) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Capabilities::NONE {
            return f.write_str("none");
        }
        let mut rest = self.0;
        let mut between = "";
        for (name, capability) in NAMES {
            if self.has(capability) {
                write!(f, "{between}{name}")?;
                rest &= !capability.0;
                between = " ";
            }
        }
        if rest != 0 { write!(f, "{between}{rest:#x}") } else { Ok(()) }
    }
}

/// Leaves the calling thread those of its capabilities that are in `keep`. Returns what is gone and what is left.
pub(crate) fn drop_all_but(keep: Capabilities) -> rustix::io::Result<(Capabilities, Capabilities)> {
    let before = capabilities(None)?;
    let kept = before.effective & CapabilitySet::from_bits_retain(keep.0);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    let held = before.effective | before.permitted;
    Ok((Capabilities(held.bits() & !kept.bits()), Capabilities(kept.bits())))
}
