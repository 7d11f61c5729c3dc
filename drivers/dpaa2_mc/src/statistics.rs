//! Counters of a network interface, by name.

use dpaa2_defs::mc::dpni::{Attributes, GetStatistics, STATISTICS_PAGES, StatisticsParameter, option};

use crate::error::McError;
use crate::object::Object;

/// What an interface counted since its creation or the last reset of its counters. Pages 0, 1, 2 and 6 of the MC's
/// statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received, without those dropped.
    pub ingress_frames: u64,
    /// Their bytes.
    pub ingress_bytes: u64,
    /// Frames received to group addresses other than broadcast.
    pub ingress_multicast_frames: u64,
    /// Their bytes.
    pub ingress_multicast_bytes: u64,
    /// Broadcast frames received.
    pub ingress_broadcast_frames: u64,
    /// Their bytes.
    pub ingress_broadcast_bytes: u64,
    /// Frames sent.
    pub egress_frames: u64,
    /// Their bytes.
    pub egress_bytes: u64,
    /// Frames sent to group addresses other than broadcast.
    pub egress_multicast_frames: u64,
    /// Their bytes.
    pub egress_multicast_bytes: u64,
    /// Broadcast frames sent.
    pub egress_broadcast_frames: u64,
    /// Their bytes.
    pub egress_broadcast_bytes: u64,
    /// Frames dropped by the address or VLAN filter.
    pub ingress_filtered_frames: u64,
    /// Frames dropped on reception for another reason: errors, full queues, rules.
    pub ingress_discarded_frames: u64,
    /// Frames dropped because their pools were empty.
    pub ingress_nobuffer_discards: u64,
    /// Frames dropped on transmission.
    pub egress_discarded_frames: u64,
    /// Frames confirmed as sent.
    pub egress_confirmed_frames: u64,
    /// Frames that wait to be sent; `None` if the firmware can't tell (before API 7.13).
    pub tx_pending_frames: Option<u64>,
}

impl Counters {
    pub(crate) fn read(dpni: &Object) -> Result<Self, McError> {
        let [
            ingress_frames,
            ingress_bytes,
            ingress_multicast_frames,
            ingress_multicast_bytes,
            ingress_broadcast_frames,
            ingress_broadcast_bytes,
            _,
        ] = page(dpni, 0, 0)?;
        let [
            egress_frames,
            egress_bytes,
            egress_multicast_frames,
            egress_multicast_bytes,
            egress_broadcast_frames,
            egress_broadcast_bytes,
            _,
        ] = page(dpni, 1, 0)?;
        let [
            ingress_filtered_frames,
            ingress_discarded_frames,
            ingress_nobuffer_discards,
            egress_discarded_frames,
            egress_confirmed_frames,
            ..,
        ] = page(dpni, 2, 0)?;
        Ok(Self {
            ingress_frames,
            ingress_bytes,
            ingress_multicast_frames,
            ingress_multicast_bytes,
            ingress_broadcast_frames,
            ingress_broadcast_bytes,
            egress_frames,
            egress_bytes,
            egress_multicast_frames,
            egress_multicast_bytes,
            egress_broadcast_frames,
            egress_broadcast_bytes,
            ingress_filtered_frames,
            ingress_discarded_frames,
            ingress_nobuffer_discards,
            egress_discarded_frames,
            egress_confirmed_frames,
            tx_pending_frames: tx_pending(dpni)?,
        })
    }
}

/// Frames that wait to be sent, if the firmware can tell.
pub(crate) fn tx_pending(dpni: &Object) -> Result<Option<u64>, McError> {
    optional(page(dpni, 6, 0)).map(|page| page.map(|[pending, ..]| pending))
}

/// Frames of a traffic class of reception that its congestion group refused (page 4).
pub(crate) fn class_drops(dpni: &Object, tc: u8) -> Result<u64, McError> {
    page(dpni, 4, tc.into()).map(|[frames, ..]| frames)
}

/// A counter with its name: that of its page, and which channel or traffic class it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCounter {
    /// Such as `ingress_all_frames`, or `ch0_tc2_ceetm_reject_frames`: restool's name, with what it is of in front.
    pub name: String,
    /// How much was counted.
    pub value: u64,
}

/// Every counter of every page, each traffic class by itself. Pages the firmware doesn't know, or that the interface
/// wasn't created for, are left out.
pub(crate) fn all(dpni: &Object, attributes: &Attributes) -> Result<Vec<NamedCounter>, McError> {
    let (rx_tcs, tx_tcs) = (u16::from(attributes.rx_tcs), u16::from(attributes.tx_tcs));
    let mut counters = Vec::new();
    for description in &STATISTICS_PAGES {
        let parameters: Vec<(u16, String)> = match description.parameter {
            StatisticsParameter::None => vec![(0, String::new())],
            StatisticsParameter::RxTc => (0..rx_tcs).map(|tc| (tc, format!("rx_tc{tc}_"))).collect(),
            StatisticsParameter::RxTcAndQueue if attributes.options.get() & option::CUSTOM_CG != 0 => {
                let queues = 0..u16::from(attributes.queues);
                let pairs = queues.flat_map(|queue| (0..rx_tcs).map(move |tc| (queue, tc)));
                pairs.map(|(queue, tc)| (queue << 8 | tc, format!("rx_tc{tc}_queue{queue}_"))).collect()
            }
            StatisticsParameter::RxTcAndQueue => (0..rx_tcs).map(|tc| (tc, format!("rx_tc{tc}_"))).collect(),
            StatisticsParameter::ChannelAndTc => {
                let channels = 0..u16::from(attributes.channels);
                let pairs = channels.flat_map(|channel| (0..tx_tcs).map(move |tc| (channel, tc)));
                pairs.map(|(channel, tc)| (channel << 8 | tc, format!("ch{channel}_tc{tc}_"))).collect()
            }
        };
        for (parameter, prefix) in parameters {
            let Some(values) = optional(page(dpni, description.number, parameter))? else { break };
            let named = description.names.iter().zip(values);
            counters
                .extend(named.map(|(name, value)| NamedCounter { name: format!("{prefix}{name}"), value }));
        }
    }
    Ok(counters)
}

fn page(dpni: &Object, page: u8, parameter: u16) -> Result<[u64; 7], McError> {
    let statistics = dpni.execute(&GetStatistics { page, parameter: parameter.into() })?;
    Ok(statistics.counters.map(|counter| counter.get()))
}

/// Nothing, if it is only that the MC refuses.
pub(crate) fn optional<T>(result: Result<T, McError>) -> Result<Option<T>, McError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.status().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}
