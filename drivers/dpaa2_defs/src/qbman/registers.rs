//! Registers and rings of a portal: offsets in its two windows.
//!
//! CINH is the cache-inhibited window (registers, doorbells), CENA the one with the rings: cache-enabled device
//! memory before QBMan 5.0, ordinary coherent memory from 5.0 on. Names are the manual's.

/// EQCR producer index: reads give the index under the ring's mask and the valid bit; memory-backed writes of
/// [`RT_MODE`] | index | valid bit are the doorbell.
pub const QBMAN_CINH_SWP_EQCR_PI: u32 = 0x800;
/// EQCR consumer index, with its wrap bit.
pub const QBMAN_CINH_SWP_EQCR_CI: u32 = 0x840;
/// EQCR array allocate (array mode).
pub const QBMAN_CINH_SWP_EQAR: u32 = 0x8c0;
/// Management command ready (memory-backed).
pub const QBMAN_CINH_SWP_CR_RT: u32 = 0x900;
/// Volatile dequeue command ready (memory-backed).
pub const QBMAN_CINH_SWP_VDQCR_RT: u32 = 0x940;
/// EQCR array entry ready, entries 0 to 15, 4 bytes each (memory-backed array mode).
pub const QBMAN_CINH_SWP_EQCR_AM_RT: u32 = 0x980;
/// Release entry ready, 4 bytes each (memory-backed).
pub const QBMAN_CINH_SWP_RCR_AM_RT: u32 = 0x9c0;
/// DQRR producer index in bits 3:0; 0 after reset.
pub const QBMAN_CINH_SWP_DQPI: u32 = 0xa00;
/// DQRR fill level that raises an interrupt.
pub const QBMAN_CINH_SWP_DQRR_ITR: u32 = 0xa80;
/// Consumes the DQRR entry whose index is written.
pub const QBMAN_CINH_SWP_DCAP: u32 = 0xac0;
/// Static dequeue command, see [`super::dequeue::Sdqcr`].
pub const QBMAN_CINH_SWP_SDQCR: u32 = 0xb00;
/// EQCR array entry ready, entries from 16 on, 4 bytes each.
pub const QBMAN_CINH_SWP_EQCR_AM_RT2: u32 = 0xb40;
/// Release ring producer index; memory-backed initialisation writes [`RT_MODE`].
pub const QBMAN_CINH_SWP_RCR_PI: u32 = 0xc00;
/// Release array allocate, see [`Rar`]. **Each read allocates.**
pub const QBMAN_CINH_SWP_RAR: u32 = 0xcc0;
/// Configuration, see [`Cfg`].
pub const QBMAN_CINH_SWP_CFG: u32 = 0xd00;
/// Interrupt status, write one to clear. Bits: [`irq`].
pub const QBMAN_CINH_SWP_ISR: u32 = 0xe00;
/// Interrupt enable.
pub const QBMAN_CINH_SWP_IER: u32 = 0xe40;
/// Interrupt status disable.
pub const QBMAN_CINH_SWP_ISDR: u32 = 0xe80;
/// Interrupt inhibit: not zero masks the portal's interrupt.
pub const QBMAN_CINH_SWP_IIR: u32 = 0xec0;
/// Interrupt time-out in units of 256 QBMan clocks, at most 4096.
pub const QBMAN_CINH_SWP_ITPR: u32 = 0xf40;

/// Written to EQCR_PI, RCR_PI and the ..._RT registers: read-triggered mode.
pub const RT_MODE: u32 = 0x100;
/// Bytes of the memory-backed CENA area that a driver clears at initialisation.
pub const CENA_MEMORY_BYTES: usize = 64 << 10;

/// Interrupt bits of ISR, IER and ISDR.
pub mod irq {
    /// EQCR ring threshold.
    pub const EQRI: u32 = 0x01;
    /// Enqueue dispatched.
    pub const EQDI: u32 = 0x02;
    /// DQRR not empty: above its threshold, or not empty for longer than the time-out.
    pub const DQRI: u32 = 0x04;
    /// RCR ring threshold.
    pub const RCRI: u32 = 0x08;
    /// Release dispatched.
    pub const RCDI: u32 = 0x10;
    /// Volatile dequeue finished.
    pub const VDCI: u32 = 0x20;
}

/// How a portal's command rings are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// QBMan before 5.0 (LS1088A, LS2088A): 64-byte lines in cache-enabled device memory; valid bits say what is new.
    Direct,
    /// QBMan 5.0 (LX2160A): rings in ordinary coherent memory; doorbells say what is new.
    MemoryBacked,
}

/// QBMan of LS2088A and LS1088A.
pub const QBMAN_REV_4100: u32 = 0x0401_0000;
/// QBMan of LX2160A.
pub const QBMAN_REV_5000: u32 = 0x0500_0000;
const QBMAN_REV_MASK: u32 = 0xffff_0000;

impl Generation {
    /// The generation of a QBMan version, as the DPIO's attributes give it.
    pub const fn of(qbman_version: u32) -> Generation {
        if qbman_version & QBMAN_REV_MASK >= QBMAN_REV_5000 {
            Generation::MemoryBacked
        } else {
            Generation::Direct
        }
    }

    /// Index of the VFIO region with the CENA window; CINH is region 1 always.
    pub const fn cena_region(self) -> u32 {
        match self {
            Generation::Direct => 0,
            Generation::MemoryBacked => 2,
        }
    }

    /// Offsets in the CENA window.
    pub const fn layout(self) -> Layout {
        match self {
            Generation::Direct => Layout {
                eqcr: 0x000,
                eqcr_entries: 8,
                dqrr: 0x200,
                rcr: 0x400,
                cr: 0x600,
                rr: [0x700, 0x740],
                vdqcr: 0x780,
                eqcr_ci: 0x840,
            },
            Generation::MemoryBacked => Layout {
                eqcr: 0x000,
                eqcr_entries: 32,
                dqrr: 0x800,
                rcr: 0x1400,
                cr: 0x1600,
                rr: [0x1680, 0x1680],
                vdqcr: 0x1780,
                eqcr_ci: 0x1840,
            },
        }
    }
}

/// Index of the VFIO region with the CINH window.
pub const CINH_REGION: u32 = 1;

/// Entries of the DQRR: 4 before QBMan 4.1, 8 since.
pub const fn dqrr_entries(qbman_version: u32) -> u32 {
    if qbman_version & QBMAN_REV_MASK < QBMAN_REV_4100 { 4 } else { 8 }
}

/// Entries of the release ring.
pub const RCR_ENTRIES: u32 = 8;

/// Where things are in the CENA window. Rings have entries of 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Enqueue command ring.
    pub eqcr: u32,
    /// Its entries.
    pub eqcr_entries: u32,
    /// Dequeue result ring.
    pub dqrr: u32,
    /// Buffer release ring.
    pub rcr: u32,
    /// Management command.
    pub cr: u32,
    /// Management response, to a command without and with the valid bit.
    pub rr: [u32; 2],
    /// Volatile dequeue command.
    pub vdqcr: u32,
    /// Copy of EQCR_CI, 32 bits.
    pub eqcr_ci: u32,
}

impl Layout {
    /// Mask of an EQCR index with its wrap bit.
    pub const fn eqcr_pi_mask(&self) -> u32 {
        2 * self.eqcr_entries - 1
    }

    /// The response line to a command with this valid bit.
    pub const fn rr_of(&self, valid_bit: u8) -> u32 {
        self.rr[(valid_bit >> 7) as usize]
    }
}

/// What a read of RAR gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rar(pub u32);

impl Rar {
    /// A slot of the release ring, if one was allotted.
    pub const fn slot(self) -> Option<u32> {
        if self.0 & 0x100 != 0 { Some(self.0 & (RCR_ENTRIES - 1)) } else { None }
    }

    /// The valid bit of the slot's lap.
    pub const fn valid_bit(self) -> u8 {
        self.0 as u8 & super::VB
    }

    /// The register's value for this slot and valid bit.
    pub const fn allotted(slot: u32, valid_bit: u8) -> Rar {
        Rar(0x100 | (valid_bit & super::VB) as u32 | slot & (RCR_ENTRIES - 1))
    }
}

/// The portal's configuration register by fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cfg {
    /// EP (bit 0): EQCR_CI stashing has priority.
    pub eqcr_ci_stash_priority: bool,
    /// DE (1): dequeue stashing.
    pub dequeue_stash: bool,
    /// DP (2): dequeue stashing has priority.
    pub dequeue_stash_priority: bool,
    /// SE (3): memory stashing.
    pub memory_stash: bool,
    /// SP (4): memory stashing has priority.
    pub memory_stash_priority: bool,
    /// SD (5): memory stashing may be dropped.
    pub memory_stash_drop: bool,
    /// CPM (6): the management command is read on CR_RT.
    pub cr_read_triggered: bool,
    /// VPM (7): the volatile dequeue command is read on VDQCR_RT.
    pub vdqcr_read_triggered: bool,
    /// EPM (9:8): 0 ring by producer index, 2 ring by valid bit, 3 array by valid bit.
    pub eqcr_mode: u8,
    /// DCM (11:10): 2 discrete acknowledge.
    pub dqrr_mode: u8,
    /// RPM (13:12): 3 array by valid bit.
    pub rcr_mode: u8,
    /// WN (14): writes are not cacheable.
    pub writes_non_cacheable: bool,
    /// CPBS (15): memory-backed portal.
    pub memory_backed: bool,
    /// EST (19:16): stash EQCR_CI every so many consumed entries; 0 never.
    pub eqcr_ci_stash_threshold: u8,
    /// MF (23:20): most entries in the DQRR.
    pub dqrr_max_fill: u8,
}

/// EPM: the ring is consumed up to the producer index.
pub const EPM_RING_PI: u8 = 0;
/// EPM: the ring is consumed by valid bits.
pub const EPM_RING_VB: u8 = 2;
/// DCM: entries are consumed one by one.
pub const DCM_DISCRETE: u8 = 2;
/// RPM: entries are allotted by RAR and valid by their bit.
pub const RPM_ARRAY_VB: u8 = 3;

impl Cfg {
    /// The register's value.
    pub const fn to_bits(self) -> u32 {
        self.eqcr_ci_stash_priority as u32
            | (self.dequeue_stash as u32) << 1
            | (self.dequeue_stash_priority as u32) << 2
            | (self.memory_stash as u32) << 3
            | (self.memory_stash_priority as u32) << 4
            | (self.memory_stash_drop as u32) << 5
            | (self.cr_read_triggered as u32) << 6
            | (self.vdqcr_read_triggered as u32) << 7
            | (self.eqcr_mode as u32 & 3) << 8
            | (self.dqrr_mode as u32 & 3) << 10
            | (self.rcr_mode as u32 & 3) << 12
            | (self.writes_non_cacheable as u32) << 14
            | (self.memory_backed as u32) << 15
            | (self.eqcr_ci_stash_threshold as u32 & 15) << 16
            | (self.dqrr_max_fill as u32 & 15) << 20
    }

    /// The fields of a register's value.
    pub const fn from_bits(bits: u32) -> Cfg {
        Cfg {
            eqcr_ci_stash_priority: bits & 1 != 0,
            dequeue_stash: bits & 1 << 1 != 0,
            dequeue_stash_priority: bits & 1 << 2 != 0,
            memory_stash: bits & 1 << 3 != 0,
            memory_stash_priority: bits & 1 << 4 != 0,
            memory_stash_drop: bits & 1 << 5 != 0,
            cr_read_triggered: bits & 1 << 6 != 0,
            vdqcr_read_triggered: bits & 1 << 7 != 0,
            eqcr_mode: (bits >> 8 & 3) as u8,
            dqrr_mode: (bits >> 10 & 3) as u8,
            rcr_mode: (bits >> 12 & 3) as u8,
            writes_non_cacheable: bits & 1 << 14 != 0,
            memory_backed: bits & 1 << 15 != 0,
            eqcr_ci_stash_threshold: (bits >> 16 & 15) as u8,
            dqrr_max_fill: (bits >> 20 & 15) as u8,
        }
    }

    /// What DPDK configures, in ring mode: dequeue and memory stashing on, discrete acknowledge, releases in array
    /// mode.
    pub const fn stashing(generation: Generation) -> Cfg {
        let memory_backed = matches!(generation, Generation::MemoryBacked);
        Cfg {
            eqcr_ci_stash_priority: true,
            dequeue_stash: true,
            dequeue_stash_priority: true,
            memory_stash: true,
            memory_stash_priority: true,
            memory_stash_drop: true,
            cr_read_triggered: memory_backed,
            vdqcr_read_triggered: memory_backed,
            eqcr_mode: if memory_backed { EPM_RING_PI } else { EPM_RING_VB },
            dqrr_mode: DCM_DISCRETE,
            rcr_mode: RPM_ARRAY_VB,
            writes_non_cacheable: false,
            memory_backed,
            eqcr_ci_stash_threshold: 1,
            dqrr_max_fill: 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_have_the_values_captured_from_dpdk() {
        assert_eq!(Cfg::stashing(Generation::MemoryBacked).to_bits(), 0x0081_b8ff);
        assert_eq!(Cfg::stashing(Generation::Direct).to_bits(), 0x0081_3a3f);
    }

    #[test]
    fn a_configuration_survives_its_register() {
        for bits in [0, 0x0081_b8ff, 0x0081_3a3f, 0x0080_3a3f, 0x0081_f8fc, 0x0080_7a3c, 0x00ff_ffff] {
            assert_eq!(Cfg::from_bits(bits).to_bits(), bits);
        }
    }

    #[test]
    fn generations_follow_the_version() {
        assert_eq!(Generation::of(0x0400_0000), Generation::Direct);
        assert_eq!(Generation::of(0x0401_0001), Generation::Direct);
        assert_eq!(Generation::of(0x0500_0000), Generation::MemoryBacked);
        assert_eq!(
            [dqrr_entries(0x0400_0000), dqrr_entries(0x0401_0001), dqrr_entries(0x0500_0000)],
            [4, 8, 8]
        );
    }

    #[test]
    fn responses_of_a_direct_portal_alternate() {
        let direct = Generation::Direct.layout();
        assert_eq!((direct.rr_of(0x80), direct.rr_of(0)), (0x740, 0x700));
        assert_eq!((direct.eqcr_pi_mask(), Generation::MemoryBacked.layout().eqcr_pi_mask()), (0xf, 0x3f));
    }

    #[test]
    fn a_release_slot_is_read_as_it_is_allotted() {
        assert_eq!(Rar::allotted(2, 0x80).0, 0x182);
        assert_eq!((Rar(0x182).slot(), Rar(0x182).valid_bit()), (Some(2), 0x80));
        assert_eq!(Rar(0x082).slot(), None);
    }
}
