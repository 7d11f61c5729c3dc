//! How ports take part in VLANs, as `vlan_mode` of Open vSwitch's Port table.

use flow::PRESENT;

const VID_BITS: u16 = 0x0fff;

/// A set of VLANs, 0 standing for untagged frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VlanSet {
    /// All of them.
    All,
    /// Those whose bit is set.
    Some(Box<[u64; 64]>),
}

impl VlanSet {
    /// The set of these VLANs, each below 4096.
    pub fn of(vlans: impl IntoIterator<Item = u16>) -> Self {
        let mut bits = Box::new([0; 64]);
        for vlan in vlans {
            bits[usize::from(vlan & VID_BITS) / 64] |= 1 << (vlan % 64);
        }
        VlanSet::Some(bits)
    }

    /// Whether the VLAN is in it.
    #[inline]
    pub fn contains(&self, vlan: u16) -> bool {
        match self {
            VlanSet::All => true,
            VlanSet::Some(bits) => bits[usize::from(vlan & VID_BITS) / 64] >> (vlan % 64) & 1 != 0,
        }
    }
}

/// How a port takes part in VLANs. The default, as in Open vSwitch, is a trunk of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortVlan {
    /// Frames of one VLAN, untagged.
    Access(u16),
    /// Frames of these VLANs, tagged; untagged ones are VLAN 0.
    Trunk(VlanSet),
    /// A trunk whose untagged frames belong to the VLAN; they leave tagged.
    NativeTagged(u16, VlanSet),
    /// A trunk whose untagged frames belong to the VLAN; they leave untagged.
    NativeUntagged(u16, VlanSet),
}

impl Default for PortVlan {
    fn default() -> Self {
        PortVlan::Trunk(VlanSet::All)
    }
}

/// What must be done to a frame's outermost tag before it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagOp {
    /// Nothing.
    Keep,
    /// Remove it.
    Pop,
    /// Push one of this VLAN.
    Push(u16),
    /// Write this VLAN into the tag that is there (it was a priority tag).
    SetVid(u16),
}

impl PortVlan {
    /// The VLAN a frame with this outermost tag belongs to. `None`: the port doesn't take it.
    #[inline]
    pub fn ingress(&self, tci: u16) -> Option<u16> {
        let vid = tci & VID_BITS;
        match self {
            PortVlan::Access(tag) => (vid == 0).then_some(*tag),
            PortVlan::Trunk(set) => set.contains(vid).then_some(vid),
            PortVlan::NativeTagged(native, set) | PortVlan::NativeUntagged(native, set) => match vid {
                0 => Some(*native),
                vid => (vid == *native || set.contains(vid)).then_some(vid),
            },
        }
    }

    /// What to do to a frame of `vlan`, that has the tag `tci` now, to send it here. `None`: not a member.
    #[inline]
    pub fn egress(&self, vlan: u16, tci: u16) -> Option<TagOp> {
        let tagged = match self {
            PortVlan::Access(tag) => {
                if vlan != *tag {
                    return None;
                }
                false
            }
            PortVlan::Trunk(set) => {
                if !set.contains(vlan) {
                    return None;
                }
                vlan != 0
            }
            PortVlan::NativeTagged(native, set) => {
                if vlan != *native && !set.contains(vlan) {
                    return None;
                }
                vlan != 0
            }
            PortVlan::NativeUntagged(native, set) => {
                if vlan != *native && !set.contains(vlan) {
                    return None;
                }
                vlan != *native && vlan != 0
            }
        };
        let has_tag = tci & PRESENT != 0;
        let has_vid = tci & VID_BITS != 0;
        Some(match (tagged, has_tag) {
            (true, false) => TagOp::Push(vlan),
            (true, true) if !has_vid => TagOp::SetVid(vlan),
            // Priority tags, too: what leaves untagged has none.
            (false, true) => TagOp::Pop,
            _ => TagOp::Keep,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(vid: u16) -> u16 {
        PRESENT | vid
    }

    #[test]
    fn an_access_port_takes_and_gives_untagged_frames_of_its_vlan_only() {
        let port = PortVlan::Access(5);
        assert_eq!(port.ingress(0), Some(5));
        assert_eq!(port.ingress(tag(0)), Some(5), "a priority tag is no VLAN");
        assert_eq!(port.ingress(tag(5)), None);
        assert_eq!(port.egress(5, tag(5)), Some(TagOp::Pop));
        assert_eq!(port.egress(5, 0), Some(TagOp::Keep));
        assert_eq!(port.egress(6, tag(6)), None);
    }

    #[test]
    fn a_trunk_carries_its_vlans_tagged_and_untagged_frames_as_vlan_0() {
        let port = PortVlan::Trunk(VlanSet::of([0, 10, 4095]));
        assert_eq!(port.ingress(tag(10)), Some(10));
        assert_eq!(port.ingress(tag(11)), None);
        assert_eq!(port.ingress(0), Some(0));
        assert_eq!(port.egress(10, 0), Some(TagOp::Push(10)));
        assert_eq!(port.egress(10, tag(10)), Some(TagOp::Keep));
        assert_eq!(port.egress(0, 0), Some(TagOp::Keep));
        assert_eq!(port.egress(11, 0), None);
        assert_eq!(PortVlan::Trunk(VlanSet::of([10])).ingress(0), None);
    }

    #[test]
    fn native_ports_differ_in_the_tag_of_the_native_vlan_going_out() {
        let set = || VlanSet::of([10]);
        for port in [PortVlan::NativeTagged(7, set()), PortVlan::NativeUntagged(7, set())] {
            assert_eq!(port.ingress(0), Some(7));
            assert_eq!(port.ingress(tag(7)), Some(7));
            assert_eq!(port.ingress(tag(10)), Some(10));
            assert_eq!(port.ingress(tag(11)), None);
            assert_eq!(port.egress(10, 0), Some(TagOp::Push(10)));
        }
        assert_eq!(PortVlan::NativeTagged(7, set()).egress(7, 0), Some(TagOp::Push(7)));
        assert_eq!(PortVlan::NativeUntagged(7, set()).egress(7, 0), Some(TagOp::Keep));
        assert_eq!(PortVlan::NativeUntagged(7, set()).egress(7, tag(7)), Some(TagOp::Pop));
    }

    #[test]
    fn a_priority_tag_gets_the_vlan_it_lacks() {
        let port = PortVlan::NativeTagged(7, VlanSet::All);
        assert_eq!(port.egress(7, tag(0) | 0xe000), Some(TagOp::SetVid(7)));
    }

    #[test]
    fn what_leaves_untagged_has_no_priority_tag_either() {
        assert_eq!(PortVlan::Access(5).egress(5, tag(0) | 0xe000), Some(TagOp::Pop));
        assert_eq!(PortVlan::default().egress(0, tag(0)), Some(TagOp::Pop));
    }
}
