//! Commands of DPMAC objects: Ethernet MACs.
//!
//! Source: MC API 10.40, include/dplib/fsl_dpmac_cmd.h and fsl_dpmac.h. Reset and irq: [`super::common`].

use zerocopy::little_endian::{U16, U32, U64};

use super::common::Created;

object_commands!(DPMAC, open 0x80c, destroy 0x98c, version 0xa0c);

open_enum! {
    /// How a MAC's link comes about.
    pub enum LinkType: u8 {
        /// There is none.
        NONE = 0 "none",
        /// At a fixed rate.
        FIXED = 1 "fixed",
        /// Through a PHY that somebody drives.
        PHY = 2 "phy",
        /// Through a backplane.
        BACKPLANE = 3 "backplane",
    }
}

open_enum! {
    /// What is between MAC and PHY.
    pub enum EthernetInterface: u8 {
        /// MII.
        MII = 0 "mii",
        /// RMII.
        RMII = 1 "rmii",
        /// SMII.
        SMII = 2 "smii",
        /// GMII.
        GMII = 3 "gmii",
        /// RGMII.
        RGMII = 4 "rgmii",
        /// SGMII.
        SGMII = 5 "sgmii",
        /// QSGMII.
        QSGMII = 6 "qsgmii",
        /// XAUI.
        XAUI = 7 "xaui",
        /// XFI.
        XFI = 8 "xfi",
        /// CAUI.
        CAUI = 9 "caui",
        /// 1000BASE-X.
        BASE_1000X = 10 "1000base-x",
        /// USXGMII.
        USXGMII = 11 "usxgmii",
    }
}

/// Events of the object's interrupt 0.
pub mod event {
    /// Another configuration of the link is asked for.
    pub const LINK_CONFIGURATION_REQUEST: u32 = 0x01;
    /// The link went up or down.
    pub const LINK_CHANGED: u32 = 0x02;
    /// The link is asked to come up.
    pub const LINK_UP_REQUEST: u32 = 0x04;
    /// The link is asked to go down.
    pub const LINK_DOWN_REQUEST: u32 = 0x08;
    /// It was connected or disconnected.
    pub const ENDPOINT_CHANGED: u32 = 0x10;
}

layout! {
    /// Creates the object of a MAC. With the token of its container.
    pub struct Create: 4 {
        /// Number of the MAC.
        mac_id: U32 => 0,
    }
}
command!(Create, "create", 0x90c, v 1, Created);

layout! {
    /// Asks what the object is.
    pub struct GetAttributes: 0 {}
}
command!(GetAttributes, "get attributes", 0x004, v 3, Attributes);

layout! {
    /// What the object is. Version 1 ends after `max_rate`.
    pub struct Attributes: 22 {
        /// An [`EthernetInterface`].
        interface: EthernetInterface => 0,
        /// A [`LinkType`].
        link_type: LinkType => 1,
        /// Number of the MAC.
        mac_id: U16 => 2,
        /// In Mbit/s.
        max_rate: U32 => 4,
        /// Forward error correction.
        fec_mode: u8 => 8,
        /// Mode of the gap between frames.
        ipg_mode: u8 => 9,
        /// The gap.
        ipg_length: u8 => 10,
        reserved11: [u8; 5] => 11,
        /// Of the SerDes.
        serdes_sign: u8 => 16,
        /// Equalisation mode.
        eq_mode: u8 => 17,
        /// Equalisation amplitude.
        eq_amplitude: u8 => 18,
        /// Equalisation, after the first.
        eq_post1q: u8 => 19,
        /// Equalisation, before.
        eq_preq: u8 => 20,
        /// Equalisation type.
        eq_type: u8 => 21,
    }
}

layout! {
    /// Reads a register of a PHY.
    pub struct MdioRead: 4 {
        /// 1 for clause 45, 0 for clause 22.
        clause45: u8 => 0,
        /// Address of the PHY.
        phy: u8 => 1,
        /// The register.
        register: U16 => 2,
    }
}
command!(MdioRead, "mdio read", 0x0c0, v 1, MdioValue);

layout! {
    /// Content of a register.
    pub struct MdioValue: 2 {
        /// The value.
        value: U16 => 0,
    }
}

layout! {
    /// Writes a register of a PHY.
    pub struct MdioWrite: 6 {
        /// 1 for clause 45, 0 for clause 22.
        clause45: u8 => 0,
        /// Address of the PHY.
        phy: u8 => 1,
        /// The register.
        register: U16 => 2,
        /// The value.
        value: U16 => 4,
    }
}
command!(MdioWrite, "mdio write", 0x0c1, v 1, ());

layout! {
    /// Asks which link is wanted.
    pub struct GetLinkConfiguration: 0 {}
}
command!(GetLinkConfiguration, "get link configuration", 0x0c2, v 2, LinkConfiguration);

layout! {
    /// The wanted link.
    pub struct LinkConfiguration: 20 {
        /// See [`super::dpni::link_option`].
        options: U64 => 0,
        /// In Mbit/s.
        rate: U32 => 8,
        /// See [`super::dpni::advertising`].
        advertising: U64 => 12,
    }
}

layout! {
    /// Tells the MC which link there is; what drives the PHY does this.
    pub struct SetLinkState: 40 {
        /// See [`super::dpni::link_option`].
        options: U64 => 0,
        /// In Mbit/s.
        rate: U32 => 8,
        reserved12: U32 => 12,
        /// Bit 0 up, bit 1 valid.
        state: u8 => 16,
        reserved17: [u8; 7] => 17,
        /// See [`super::dpni::advertising`].
        supported: U64 => 24,
        /// See [`super::dpni::advertising`].
        advertising: U64 => 32,
    }
}
command!(SetLinkState, "set link state", 0x0c3, v 2, ());

layout! {
    /// Asks for one of [`COUNTERS`].
    pub struct GetCounter: 1 {
        /// Which.
        id: u8 => 0,
    }
}
command!(GetCounter, "get counter", 0x0c4, v 1, Counter);

layout! {
    /// A counter's value.
    pub struct Counter: 16 {
        reserved0: U64 => 0,
        /// The value.
        value: U64 => 8,
    }
}

layout! {
    /// Asks for the MAC's own address.
    pub struct GetMacAddress: 0 {}
}
command!(GetMacAddress, "get mac address", 0x0c5, v 1, super::dpni::MacAddressField);

layout! {
    /// Sets the gap between frames.
    pub struct SetParameters: 6 {
        /// Which of the fields count.
        flags: U32 => 0,
        /// Mode of the gap.
        ipg_mode: u8 => 4,
        /// The gap.
        ipg_length: u8 => 5,
    }
}
command!(SetParameters, "set parameters", 0x0c6, v 1, ());

layout! {
    /// Changes what is between MAC and PHY.
    pub struct SetProtocol: 1 {
        /// An [`EthernetInterface`].
        interface: EthernetInterface => 0,
    }
}
command!(SetProtocol, "set protocol", 0x0c7, v 1, ());

layout! {
    /// Has several counters written to memory.
    pub struct GetStatistics: 20 {
        /// IOVA of an array of numbers of counters, 32 bits each.
        ids_iova: U64 => 0,
        /// IOVA of the array for the values, 64 bits each.
        values_iova: U64 => 8,
        /// Length of both arrays.
        count: U32 => 16,
    }
}
command!(GetStatistics, "get statistics", 0x0c8, v 1, ());

layout! {
    /// Asks where the MAC's event register is.
    pub struct GetEventRegister: 0 {}
}
command!(GetEventRegister, "get ievent register base", 0x0c9, v 1, EventRegister);

layout! {
    /// Where the MAC's event register is.
    pub struct EventRegister: 4 {
        /// Physical address.
        address: U32 => 0,
    }
}

layout! {
    /// Tells the MC which interfaces what drives the PHY supports.
    pub struct SetSupportedInterfaces: 4 {
        /// Bit n: [`EthernetInterface`] n.
        interfaces: U32 => 0,
    }
}
command!(SetSupportedInterfaces, "set supported interfaces", 0x0ca, v 1, ());

/// Names of a MAC's counters, by number, as `ip -s` and ethtool users would call them.
///
/// Source: MC API 10.40, include/dplib/fsl_dpmac.h (enum dpmac_counter_id).
pub const COUNTERS: [&str; 62] = [
    "rx_64_bytes",
    "rx_65_127_bytes",
    "rx_128_255_bytes",
    "rx_256_511_bytes",
    "rx_512_1023_bytes",
    "rx_1024_1518_bytes",
    "rx_1519_max_bytes",
    "rx_fragments",
    "rx_jabber",
    "rx_discarded",
    "rx_alignment_errors",
    "tx_undersized",
    "rx_oversized",
    "rx_pause",
    "tx_pause",
    "rx_bytes",
    "rx_multicast",
    "rx_broadcast",
    "rx_all_frames",
    "rx_unicast",
    "rx_errors",
    "tx_bytes",
    "tx_multicast",
    "tx_broadcast",
    "tx_unicast",
    "tx_errors",
    "rx_good_frames",
    "tx_good_frames",
    "tx_64_bytes",
    "tx_65_127_bytes",
    "tx_128_255_bytes",
    "tx_256_511_bytes",
    "tx_512_1023_bytes",
    "tx_1024_1518_bytes",
    "tx_1519_max_bytes",
    "rx_all_bytes",
    "rx_fcs_errors",
    "rx_vlan",
    "rx_undersized",
    "rx_control",
    "rx_discarded_not_truncated",
    "tx_all_bytes",
    "tx_fcs_errors",
    "tx_vlan",
    "tx_all_frames",
    "tx_control",
    "rx_pfc_0",
    "rx_pfc_1",
    "rx_pfc_2",
    "rx_pfc_3",
    "rx_pfc_4",
    "rx_pfc_5",
    "rx_pfc_6",
    "rx_pfc_7",
    "tx_pfc_0",
    "tx_pfc_1",
    "tx_pfc_2",
    "tx_pfc_3",
    "tx_pfc_4",
    "tx_pfc_5",
    "tx_pfc_6",
    "tx_pfc_7",
];
