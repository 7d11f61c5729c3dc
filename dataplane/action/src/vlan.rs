//! Pushing and removing the outermost VLAN tag of a frame's head.

use packet::Burst;

/// Where the Ethernet type (or tag) follows the addresses.
const TYPE_OFFSET: usize = 12;
const TAG_BYTES: usize = 4;

/// Whether the head starts with addresses and a VLAN tag.
pub fn has_tag(head: &[u8]) -> bool {
    head.len() >= TYPE_OFFSET + TAG_BYTES
        && matches!(head[TYPE_OFFSET..TYPE_OFFSET + 2], [0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00])
}

/// Pushes a tag of this type. False, and nothing done, when the head has no Ethernet header or no room in front.
pub fn push_vlan(burst: &mut Burst, i: usize, tpid: u16, tci: u16) -> bool {
    if burst.head(i).len() < TYPE_OFFSET + 2 || !burst.grow_front(i, TAG_BYTES) {
        return false;
    }
    let head = burst.head_mut(i);
    head.copy_within(TAG_BYTES..TAG_BYTES + TYPE_OFFSET, 0);
    head[TYPE_OFFSET..TYPE_OFFSET + 2].copy_from_slice(&tpid.to_be_bytes());
    head[TYPE_OFFSET + 2..TYPE_OFFSET + 4].copy_from_slice(&tci.to_be_bytes());
    move_offload(burst, i, TAG_BYTES as i32);
    true
}

/// Removes the outermost tag, if there is one; returns its type and TCI.
pub fn pop_vlan(burst: &mut Burst, i: usize) -> Option<(u16, u16)> {
    let head = burst.head_mut(i);
    if !has_tag(head) {
        return None;
    }
    let tpid = u16::from_be_bytes([head[12], head[13]]);
    let tci = u16::from_be_bytes([head[14], head[15]]);
    head.copy_within(0..TYPE_OFFSET, TAG_BYTES);
    burst.shrink_front(i, TAG_BYTES);
    move_offload(burst, i, -(TAG_BYTES as i32));
    Some((tpid, tci))
}

/// Offsets in an offload request count from the frame's first byte, which has moved.
fn move_offload(burst: &mut Burst, i: usize, by: i32) {
    if burst.offload(i).is_plain() {
        return;
    }
    let offload = burst.offload_mut(i);
    if offload.needs_csum() {
        offload.csum_start = (i32::from(offload.csum_start) + by).max(0) as u16;
    }
    if offload.gso_type != 0 {
        offload.hdr_len = (i32::from(offload.hdr_len) + by).max(0) as u16;
    }
}
