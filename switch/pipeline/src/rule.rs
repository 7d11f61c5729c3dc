//! A rule in its table, and what its evaluation may look at and change.

use std::time::Duration;

use flow::{Field, FlowMask};
use flow_text::{Action, FlowSpec, Needs, SetField};

use crate::RuleSlot;

/// A rule as snapshots share it.
#[derive(Debug)]
pub(crate) struct Rule {
    pub slot: RuleSlot,
    pub spec: FlowSpec,
    pub reach: Reach,
    /// When it was added.
    pub created: Duration,
    /// When it was added or last modified: where its timeouts start.
    pub modified: Duration,
}

/// Which bits of a key a rule has to do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reach {
    /// Bits that its match or its actions look at.
    pub looks: FlowMask,
    /// Bits that its actions change, so that later tables see others than the frame came with.
    pub writes: FlowMask,
}

impl Reach {
    pub fn of(spec: &FlowSpec) -> Reach {
        let mut reach = Reach { looks: *spec.match_.mask(), writes: FlowMask::default() };
        let write = &mut reach.writes;
        if let Some((_, mask)) = spec.instructions.metadata {
            write.add(Field::Metadata, mask.into());
        }
        for action in spec.instructions.apply.iter().chain(&spec.instructions.write) {
            match action {
                Action::Set(set) => {
                    write.add(set.to.field, set.in_key().1);
                    add_needs(&mut reach.looks, set);
                }
                Action::ModVlanVid(_) | Action::ModVlanPcp(_) => {
                    add_vlans(write);
                    reach.looks.add(Field::VlanTci, flow::PRESENT.into());
                }
                Action::PushVlan(_) | Action::PopVlan => add_vlans(write),
                Action::DecTtl => write.add(Field::IpTtl, Field::IpTtl.full()),
                Action::Resubmit { port: Some(_), .. } => write.add(Field::InPort, Field::InPort.full()),
                Action::Resubmit { port: None, .. }
                | Action::Output(_)
                | Action::InPort
                | Action::Normal
                | Action::Flood
                | Action::All
                | Action::Controller { .. } => {}
            }
        }
        reach
    }
}

/// Both tags.
pub(crate) fn add_vlans(mask: &mut FlowMask) {
    mask.add(Field::VlanTci, Field::VlanTci.full());
    mask.add(Field::VlanTci2, Field::VlanTci2.full());
}

/// The bits that decide whether a frame has the field that is set.
fn add_needs(looks: &mut FlowMask, set: &SetField) {
    match set.to.needs {
        Needs::Nothing => return,
        Needs::Vlan => return looks.add(Field::VlanTci, flow::PRESENT.into()),
        _ => {}
    }
    // What is looked at depends on what was seen before: all that may be.
    looks.add(Field::EthType, Field::EthType.full());
    if !matches!(
        set.to.needs,
        Needs::Arp | Needs::Ipv4 | Needs::Ipv6 | Needs::Ip | Needs::Ipv4OrArp | Needs::IpOrArp
    ) {
        looks.add(Field::IpProto, Field::IpProto.full());
        looks.add(Field::IpFrag, flow::frag::LATER.into());
    }
    if matches!(set.to.needs, Needs::Nd | Needs::NdSolicit | Needs::NdAdvert) {
        looks.add(Field::TpSrc, Field::TpSrc.full());
        looks.add(Field::TpDst, Field::TpDst.full());
    }
}
