//! Commands to the MC itself. Token 0.
//!
//! Source: MC API 10.40, include/dplib/fsl_dpmng_cmd.h; DPDK, drivers/bus/fslmc/mc/fsl_dpmng.h.

use core::fmt;

use zerocopy::little_endian::U32;

layout! {
    /// Asks for the firmware's version.
    pub struct GetVersion: 0 {}
}
command!(GetVersion, "get MC version", 0x831, v 1, Version);

layout! {
    /// Version of the firmware.
    pub struct Version: 12 {
        /// Changes with each release.
        revision: U32 => 0,
        /// Changes when commands become incompatible.
        major: U32 => 4,
        /// Changes when commands are added.
        minor: U32 => 8,
    }
}

/// `10.39.0`, as release notes write it.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.revision)
    }
}

layout! {
    /// Asks which system-on-chip this is.
    pub struct GetSocVersion: 0 {}
}
command!(GetSocVersion, "get SoC version", 0x832, v 1, SocVersion);

layout! {
    /// The chip's version registers.
    pub struct SocVersion: 8 {
        /// System version register: family in the upper half, revision in the lower.
        svr: U32 => 0,
        /// Processor version register.
        pvr: U32 => 4,
    }
}

/// Families of chips: the upper half of the system version register.
///
/// Source: DPDK, drivers/bus/fslmc/qbman/qbman_sys.h.
pub mod soc_family {
    /// What of the register is the family.
    pub const MASK: u32 = 0xffff_0000;
    /// LS1080A and LS1088A.
    pub const LS1088A: u32 = 0x8703_0000;
    /// LS2080A.
    pub const LS2080A: u32 = 0x8701_0000;
    /// LS2088A.
    pub const LS2088A: u32 = 0x8709_0000;
    /// LX2160A.
    pub const LX2160A: u32 = 0x8736_0000;
}

impl SocVersion {
    /// See [`soc_family`].
    pub const fn family(&self) -> u32 {
        self.svr.get() & soc_family::MASK
    }

    /// The number by which a portal is told to write near this core ("set stashing destination"): that of its cluster.
    /// `None` where it isn't known.
    ///
    /// Source: Linux, drivers/soc/fsl/dpio/dpio-driver.c (DPDK counts the clusters of LS2088A from 4).
    pub const fn stashing_destination(&self, core: usize) -> Option<u8> {
        let (first, cores) = match self.family() {
            soc_family::LX2160A | soc_family::LS2080A | soc_family::LS2088A => (0, 2),
            soc_family::LS1088A => (2, 4),
            _ => return None,
        };
        let cluster = first + core / cores;
        if cluster <= u8::MAX as usize { Some(cluster as u8) } else { None }
    }

    /// The family's name, if it is a known one.
    pub const fn name(&self) -> Option<&'static str> {
        match self.family() {
            soc_family::LS1088A => Some("LS1088A"),
            soc_family::LS2080A => Some("LS2080A"),
            soc_family::LS2088A => Some("LS2088A"),
            soc_family::LX2160A => Some("LX2160A"),
            _ => None,
        }
    }
}
