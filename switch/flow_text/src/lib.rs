//! Flow strings as `ovs-ofctl` users write them: parser and printer.
//!
//! ```
//! use flow_text::{NoPorts, parse_add};
//!
//! let flow = parse_add("priority=100,in_port=1,tcp,nw_dst=10.0.0.0/24,tp_dst=80,actions=dec_ttl,output:2", &NoPorts)?;
//! assert_eq!(flow.priority, 100);
//! assert_eq!(
//!     flow.to_string(),
//!     "priority=100,tcp,in_port=1,nw_dst=10.0.0.0/24,tp_dst=80 actions=dec_ttl,output:2",
//! );
//! # Ok::<(), flow_text::ParseError>(())
//! ```
//!
//! Three forms, as the three commands take them: [`parse_add`] reads a rule ([`FlowSpec`]), [`parse_mod`] a
//! [`FlowChange`], [`parse_del`] a [`FlowFilter`]. What they are made of is shared with the pipeline: [`Match`],
//! [`Instructions`], [`Action`], [`FieldDef`].
//!
//! Syntax: ovs-ofctl(8) "Flow Syntax", ovs-fields(7), ovs-actions(7) of Open vSwitch 3.1. Printed text is what
//! `ovs-ofctl dump-flows` prints for OpenFlow 1.5, and parses to an equal value again. Three deliberate
//! differences: a field whose prerequisite is missing is an error (ovs-ofctl drops the field and logs), so is a
//! value too large for its field (ovs-ofctl keeps the low bits), and `inner_vlan`, `inner_vlan_pcp` and
//! `inner_vlan_tci` match the second VLAN tag, which ovs-ofctl has no word for.

mod action;
mod error;
mod field;
mod matching;
mod parse;
mod port;
mod print;
mod scan;
mod spec;
mod value;

pub use action::{Action, Instructions, SetField};
pub use error::ParseError;
pub use field::{ETH_ARP, ETH_IPV4, ETH_IPV6, ETH_RARP, FIELDS, FieldDef, Needs};
pub use matching::Match;
pub use parse::{parse_add, parse_del, parse_match, parse_mod};
pub use port::{LOCAL, MAX_PORT, NO_PORT, NoPorts, PORT_CONTROLLER, Ports};
pub use print::{Counters, Shown};
pub use spec::{DEFAULT_PRIORITY, Flags, FlowChange, FlowFilter, FlowSpec, MAX_TABLE};

/// Feeds any bytes to the three parsers; panics when one breaks a promise: no panic inside, errors point into the
/// text, and what was read is printed so that it reads the same.
pub fn fuzz_flow(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let in_text = |error: &ParseError| {
        assert_eq!(text.get(error.span.clone()), Some(&*error.word), "{error}");
    };
    match parse_add(&text, &NoPorts) {
        Ok(flow) => {
            let printed = flow.to_string();
            match parse_add(&printed, &NoPorts) {
                Ok(again) => assert_eq!(again, flow, "{printed}"),
                Err(error) => panic!("printed as {printed:?}: {error}"),
            }
        }
        Err(error) => in_text(&error),
    }
    if let Err(error) = parse_mod(&text, &NoPorts) {
        in_text(&error);
    }
    match parse_del(&text, &NoPorts) {
        Ok(filter) => {
            let printed = filter.to_string();
            assert_eq!(parse_del(&printed, &NoPorts).as_ref(), Ok(&filter), "{printed}");
        }
        Err(error) => in_text(&error),
    }
}
