//! The network device (virtio 1.2, section 5.1), with its back-ends.

pub mod vhost_user;

/// What the guest is told of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Longest IP packet; told to the guest.
    pub mtu: Option<u16>,
}

/// The device configuration (section 5.1.4).
pub(crate) fn config_bytes(config: &Config, link_up: bool) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..6].copy_from_slice(&config.mac);
    bytes[6] = link_up.into();
    bytes[8] = 1;
    bytes[10..].copy_from_slice(&config.mtu.unwrap_or(0).to_le_bytes());
    bytes
}
