//! What a port offers, and what its guest sees of it.

use guest_memory::REGIONS_MAX;
use vhost_user::ProtocolFeatures;
use virtio_defs::{feature, net};

/// Virtio features that every port has, unless its [`PortConfig`] masks them.
pub const OFFERED: u64 = feature::VERSION_1
    | feature::RING_PACKED
    | feature::INDIRECT_DESC
    | feature::EVENT_IDX
    | feature::IN_ORDER
    | feature::VHOST_LOG_ALL
    | feature::VHOST_USER_PROTOCOL
    | net::feature::CSUM
    | net::feature::GUEST_CSUM
    | net::feature::MTU
    | net::feature::GUEST_TSO4
    | net::feature::GUEST_TSO6
    | net::feature::GUEST_ECN
    | net::feature::HOST_TSO4
    | net::feature::HOST_TSO6
    | net::feature::HOST_ECN
    | net::feature::MRG_RXBUF
    | net::feature::STATUS
    | net::feature::GUEST_ANNOUNCE
    | net::feature::MQ;

/// Protocol features that every port has, unless its [`PortConfig`] masks them.
pub const OFFERED_PROTOCOL: ProtocolFeatures = ProtocolFeatures::MQ
    .or(ProtocolFeatures::LOG_SHMFD)
    .or(ProtocolFeatures::RARP)
    .or(ProtocolFeatures::REPLY_ACK)
    .or(ProtocolFeatures::MTU)
    .or(ProtocolFeatures::BACKEND_REQ)
    .or(ProtocolFeatures::CONFIG)
    .or(ProtocolFeatures::INFLIGHT_SHMFD)
    .or(ProtocolFeatures::RESET_DEVICE)
    .or(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .or(ProtocolFeatures::STATUS);

/// Smallest MTU (an IPv4 host must take datagrams of 68 bytes, RFC 791; virtio 1.2 section 5.1.4.1).
pub const MTU_MIN: u16 = 68;

/// Most queue pairs of a port: vring indices are one byte in some messages.
pub const QUEUE_PAIRS_MAX: u16 = 128;

/// What the operator decides about a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Most queue pairs, 1 to [`QUEUE_PAIRS_MAX`].
    pub queue_pairs: u16,
    /// Virtio features to offer; those outside [`OFFERED`] are not.
    pub features: u64,
    /// Protocol features to offer; those outside [`OFFERED_PROTOCOL`] are not.
    pub protocol: ProtocolFeatures,
    /// The guest's address in configuration space; some front-ends have their own.
    pub mac: [u8; 6],
    /// MTU in configuration space.
    pub mtu: u16,
    /// Bytes of guest memory that are mapped at most.
    pub memory_bytes_max: u64,
    /// Messages a second that are read; further ones wait in the socket.
    pub messages_per_second: u32,
    /// Log lines a second that the guest can cause.
    pub log_lines_per_second: u32,
}

impl Default for PortConfig {
    /// 8 queue pairs, all features, an MTU of 1500, 4 TiB of memory, 2,000 messages and 10 log lines a second.
    fn default() -> Self {
        Self {
            queue_pairs: 8,
            features: OFFERED,
            protocol: OFFERED_PROTOCOL,
            mac: [0; 6],
            mtu: 1500,
            memory_bytes_max: 4 << 40,
            messages_per_second: 2000,
            log_lines_per_second: 10,
        }
    }
}

impl PortConfig {
    /// The virtio features offered.
    pub fn offered(&self) -> u64 {
        let mut features = self.features & OFFERED;
        if self.queue_pairs < 2 {
            features &= !net::feature::MQ;
        }
        features
    }

    /// The protocol features offered; none without the feature bit that lets them be negotiated.
    pub fn offered_protocol(&self) -> ProtocolFeatures {
        if self.features & feature::VHOST_USER_PROTOCOL == 0 {
            return ProtocolFeatures(0);
        }
        self.protocol.and(OFFERED_PROTOCOL)
    }

    /// How many memory regions a guest may have.
    pub fn memory_slots(&self) -> u64 {
        REGIONS_MAX as u64
    }
}

/// Names of virtio features, for people. Bits without a name here are left out.
pub fn feature_names(features: u64) -> Vec<&'static str> {
    const NAMES: &[(u64, &str)] = &[
        (net::feature::CSUM, "CSUM"),
        (net::feature::GUEST_CSUM, "GUEST_CSUM"),
        (net::feature::MTU, "MTU"),
        (net::feature::GUEST_TSO4, "GUEST_TSO4"),
        (net::feature::GUEST_TSO6, "GUEST_TSO6"),
        (net::feature::GUEST_ECN, "GUEST_ECN"),
        (net::feature::HOST_TSO4, "HOST_TSO4"),
        (net::feature::HOST_TSO6, "HOST_TSO6"),
        (net::feature::HOST_ECN, "HOST_ECN"),
        (net::feature::MRG_RXBUF, "MRG_RXBUF"),
        (net::feature::STATUS, "STATUS"),
        (net::feature::GUEST_ANNOUNCE, "GUEST_ANNOUNCE"),
        (net::feature::MQ, "MQ"),
        (feature::VHOST_LOG_ALL, "LOG_ALL"),
        (feature::INDIRECT_DESC, "INDIRECT_DESC"),
        (feature::EVENT_IDX, "EVENT_IDX"),
        (feature::VHOST_USER_PROTOCOL, "PROTOCOL_FEATURES"),
        (feature::VERSION_1, "VERSION_1"),
        (feature::RING_PACKED, "RING_PACKED"),
        (feature::IN_ORDER, "IN_ORDER"),
    ];
    NAMES.iter().filter(|(bit, _)| features & bit != 0).map(|&(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offered_feature_has_a_name() {
        assert_eq!(feature_names(OFFERED).len(), OFFERED.count_ones() as usize);
        assert_eq!(OFFERED_PROTOCOL.names().len(), OFFERED_PROTOCOL.0.count_ones() as usize);
    }

    #[test]
    fn a_port_offers_no_more_than_its_configuration_lets_it() {
        let config = PortConfig {
            queue_pairs: 1,
            features: !feature::RING_PACKED,
            protocol: ProtocolFeatures(u64::MAX).without(ProtocolFeatures::STATUS),
            ..PortConfig::default()
        };
        assert_eq!(config.offered(), OFFERED & !(feature::RING_PACKED | net::feature::MQ));
        assert_eq!(config.offered_protocol(), OFFERED_PROTOCOL.without(ProtocolFeatures::STATUS));
        let plain = PortConfig { features: feature::VERSION_1, ..PortConfig::default() };
        assert_eq!(plain.offered_protocol(), ProtocolFeatures(0));
    }
}
