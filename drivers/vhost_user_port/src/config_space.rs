//! What the guest reads of its device.

use vhost_user::CONFIG_MAX;
use virtio_defs::net;

/// The configuration space of a network device (virtio 1.2, section 5.1.4), as bytes; zero past its fields.
pub(crate) fn config_space(mac: [u8; 6], link_up: bool, queue_pairs: u16, mtu: u16) -> [u8; CONFIG_MAX] {
    let mut space = [0; CONFIG_MAX];
    let status = if link_up { net::STATUS_LINK_UP } else { 0 };
    space[0..6].copy_from_slice(&mac);
    space[6..8].copy_from_slice(&status.to_le_bytes());
    space[8..10].copy_from_slice(&queue_pairs.to_le_bytes());
    space[10..12].copy_from_slice(&mtu.to_le_bytes());
    // Speed and duplex are unknown: all ones (section 5.1.4).
    space[12..17].fill(0xff);
    space
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let space = config_space([2, 0, 0, 0, 0, 9], true, 4, 9000);
        assert_eq!(space[..12], [2, 0, 0, 0, 0, 9, 1, 0, 4, 0, 0x28, 0x23]);
        assert!(space[17..].iter().all(|&b| b == 0));
        assert_eq!(config_space([0; 6], false, 1, 1500)[6..8], [0, 0]);
    }
}
