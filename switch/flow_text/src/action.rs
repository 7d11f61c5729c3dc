use crate::FieldDef;

/// What a rule does, in the order in which OpenFlow executes it. Empty drops.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Instructions {
    /// Done at once, in this order.
    pub apply: Vec<Action>,
    /// Empties the action set.
    pub clear_actions: bool,
    /// Put into the action set, which is executed when the pipeline ends.
    pub write: Vec<Action>,
    /// Value and mask written into the metadata field.
    pub metadata: Option<(u64, u64)>,
    /// The table to go on with; a later one than the rule's.
    pub goto_table: Option<u8>,
}

impl Instructions {
    /// Just these actions, applied at once.
    pub fn apply(actions: impl Into<Vec<Action>>) -> Instructions {
        Instructions { apply: actions.into(), ..Instructions::default() }
    }

    /// Whether nothing happens to the frame but being dropped.
    pub fn is_empty(&self) -> bool {
        *self == Instructions::default()
    }

    /// Whether a frame may be sent to this port by name of the port (not by `normal` or `flood`).
    pub fn outputs_to(&self, port: u16) -> bool {
        self.apply.iter().chain(&self.write).any(|action| match action {
            Action::Output(to) => *to == port,
            Action::Controller { .. } => port == crate::PORT_CONTROLLER,
            _ => false,
        })
    }
}

/// One action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send to a port.
    Output(u16),
    /// Send back to where the frame came from.
    InPort,
    /// Let the learning bridge decide.
    Normal,
    /// Send to all other ports of the frame's VLAN.
    Flood,
    /// Send to all other ports.
    All,
    /// Hand the first bytes to the controller queue.
    Controller {
        /// Most bytes handed over.
        max_len: u16,
    },
    /// Write a header field or a register.
    Set(SetField),
    /// Set the outer VLAN ID, pushing an 802.1Q tag on an untagged frame.
    ModVlanVid(u16),
    /// Set the outer VLAN priority, pushing an 802.1Q tag on an untagged frame.
    ModVlanPcp(u8),
    /// Push a tag with this Ethernet type.
    PushVlan(u16),
    /// Remove the outer tag.
    PopVlan,
    /// Decrement TTL or hop limit.
    DecTtl,
    /// Look the frame up again; its actions are done here, then this list goes on.
    Resubmit {
        /// Taken for the input port in this look-up.
        port: Option<u16>,
        /// The table looked in; the rule's own when absent.
        table: Option<u8>,
    },
}

/// Bits written into a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SetField {
    /// The field.
    pub to: &'static FieldDef,
    /// The new bits, from the lowest bit of `to`; zero outside `mask`.
    pub value: u128,
    /// Which bits are written.
    pub mask: u128,
}

impl SetField {
    /// Value and mask as bits of the key's field `to.field`.
    pub fn in_key(&self) -> (u128, u128) {
        (self.value << self.to.shift, self.mask << self.to.shift)
    }
}
