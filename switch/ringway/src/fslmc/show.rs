//! `ringway fslmc show OBJECT`: everything there is to know of an object.

use std::fmt;

use anyhow::{Context, bail};
use dpaa2_defs::mc::common::{GetIrqEnable, GetIrqMask, GetIrqStatus};
use dpaa2_defs::mc::dpio::{self, ChannelMode};
use dpaa2_defs::mc::dpni::{self, Destination, Offload, QueueType};
use dpaa2_defs::mc::dprc::{self, ObjectDescriptor, region_flag};
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_mc::statistics::NamedCounter;
use dpaa2_mc::{Container, Dpbp, Dpcon, Dpio, Dpmac, Dpmcp, Dpni, McError, Object, QueueId};
use fslmc_bus::Bus;
use serde::Serialize;

use super::list::{ConnectionRow, connection, names};
use super::{Pairs, as_text};

/// An object.
#[derive(Debug, Serialize)]
pub struct Details {
    #[serde(serialize_with = "as_text")]
    object: ObjectId,
    label: String,
    plugged: bool,
    api_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<ConnectionRow>,
    /// As restool calls them.
    attributes: Pairs,
    regions: Vec<Region>,
    irqs: Vec<Irq>,
    /// Queues of an interface.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    queues: Vec<Queue>,
    statistics: Pairs,
}

#[derive(Debug, Serialize)]
struct Region {
    index: u8,
    kind: String,
    /// From where regions of this kind begin, or physical if there is a base address.
    offset: u64,
    size: u32,
    base_address: u64,
    cacheable: bool,
    shareable: bool,
}

#[derive(Debug, Serialize)]
struct Irq {
    index: u8,
    enabled: bool,
    mask: u32,
    pending: u32,
}

#[derive(Debug, Serialize)]
struct Queue {
    queue: String,
    tc: u8,
    index: u8,
    fqid: u32,
    destination: String,
}

/// What each type of object has of its own.
#[derive(Default)]
struct Own {
    attributes: Pairs,
    irqs: Vec<Irq>,
    queues: Vec<Queue>,
    statistics: Pairs,
}

impl Details {
    /// Asks the MC about an object of the container, or about the container.
    pub fn of<B: Bus>(container: &Container<B>, object: ObjectId) -> anyhow::Result<Self> {
        if object == container.bus().container() {
            return Self::of_container(container);
        }
        let descriptor = container.objects().iter().find(|descriptor| descriptor.object() == object);
        let Some(descriptor) = descriptor else {
            bail!("{object} isn't in {}; `ringway fslmc list` shows what is", container.bus().container());
        };
        let own = own(container, descriptor).with_context(|| format!("{object} can't be read"))?;
        Ok(Self {
            object,
            label: descriptor.label.to_string(),
            plugged: descriptor.is_plugged(),
            api_version: format!("{}.{}", descriptor.version_major, descriptor.version_minor),
            connection: connection(container, object)?,
            attributes: own.attributes,
            regions: regions(container, descriptor)?,
            irqs: own.irqs,
            queues: own.queues,
            statistics: own.statistics,
        })
    }

    fn of_container<B: Bus>(container: &Container<B>) -> anyhow::Result<Self> {
        let dprc = container.dprc();
        let attributes = dprc.attributes()?;
        let mut pairs = Pairs::default();
        pairs.push("icid", attributes.icid.get());
        pairs.push("portal_id", attributes.portal_id.get());
        pairs.push("options", options(attributes.options.get(), &dprc::option::NAMES));
        pairs.push("objects", container.objects().len());
        Ok(Self {
            object: dprc.object(),
            label: String::new(),
            plugged: true,
            api_version: dprc.api_version()?.to_string(),
            connection: None,
            attributes: pairs,
            regions: Vec::new(),
            irqs: irqs(dprc.handle(), 1)?,
            queues: Vec::new(),
            statistics: Pairs::default(),
        })
    }
}

/// Options by name; in a list of their own, because there are many.
fn options(options: u32, known: &[(u32, &'static str)]) -> serde_json::Value {
    let known_bits = known.iter().fold(0, |bits, (bit, _)| bits | bit);
    let mut names: Vec<String> = names(options, known).into_iter().map(str::to_owned).collect();
    if options & !known_bits != 0 {
        names.push(format!("{:#x}", options & !known_bits));
    }
    names.into()
}

/// Nothing, if the MC refuses: firmware and object types differ in what they tell.
fn optional<T>(result: Result<T, McError>) -> Result<Option<T>, McError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.status().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

fn regions<B: Bus>(container: &Container<B>, descriptor: &ObjectDescriptor) -> Result<Vec<Region>, McError> {
    let mut regions = Vec::new();
    for index in 0..descriptor.regions {
        if let Some(region) = optional(container.dprc().region(descriptor.object(), index))? {
            let flags = region.flags.get();
            regions.push(Region {
                index,
                kind: region.region_type.to_string(),
                offset: region.offset.get(),
                size: region.size.get(),
                base_address: region.base_address.get(),
                cacheable: flags & region_flag::CACHEABLE != 0,
                shareable: flags & region_flag::SHAREABLE != 0,
            });
        }
    }
    Ok(regions)
}

fn irqs(object: &Object, count: u8) -> Result<Vec<Irq>, McError> {
    let mut irqs = Vec::new();
    for index in 0..count {
        let enabled = object.execute(&GetIrqEnable { index, ..Default::default() });
        let Some(enabled) = optional(enabled)? else { continue };
        let mask = object.execute(&GetIrqMask { index, ..Default::default() })?.events.get();
        let pending = object.execute(&GetIrqStatus { events: u32::MAX.into(), index })?.events.get();
        irqs.push(Irq { index, enabled: enabled.get(), mask, pending });
    }
    Ok(irqs)
}

fn statistics(counters: Vec<NamedCounter>) -> Pairs {
    Pairs(counters.into_iter().map(|NamedCounter { name, value }| (name, value.into())).collect())
}

fn own<B: Bus>(container: &Container<B>, descriptor: &ObjectDescriptor) -> Result<Own, McError> {
    let (mc, id, irq_count) = (container.mc(), descriptor.id.get(), descriptor.irqs);
    let mut own = Own::default();
    let attributes = &mut own.attributes;
    match descriptor.object_type {
        ObjectType::DPNI => return interface(&Dpni::open(mc, id)?, irq_count),
        ObjectType::DPIO => {
            let dpio = Dpio::open(mc, id)?;
            let a = dpio.attributes()?;
            attributes.push("enabled", dpio.is_enabled()?);
            attributes.push("portal_id", a.portal_id.get());
            attributes.push("num_priorities", a.priorities);
            attributes.push("channel_mode", ChannelMode(a.channel_mode & 0xf).to_string());
            attributes.push("qbman_version", qbman_version(a.qbman_version.get()));
            attributes.push("qbman_clock_hz", a.qbman_clock.get());
            attributes.push("cena_offset", format!("{:#x}", a.cena_offset));
            attributes.push("cinh_offset", format!("{:#x}", a.cinh_offset));
            own.irqs = irqs(dpio.handle(), irq_count)?;
        }
        ObjectType::DPBP => {
            let dpbp = Dpbp::open(mc, id)?;
            attributes.push("enabled", dpbp.is_enabled()?);
            attributes.push("bpid", dpbp.attributes()?.bpid.get());
            own.irqs = irqs(dpbp.handle(), irq_count)?;
            if let Some(free) = optional(dpbp.free_buffers())? {
                own.statistics.push("free_buffers", free);
            }
        }
        ObjectType::DPCON => {
            let dpcon = Dpcon::open(mc, id)?;
            let a = dpcon.attributes()?;
            attributes.push("enabled", dpcon.is_enabled()?);
            attributes.push("qbman_channel_id", a.channel_id.get());
            attributes.push("num_priorities", a.priorities);
            own.irqs = irqs(dpcon.handle(), irq_count)?;
        }
        ObjectType::DPMAC => {
            let dpmac = Dpmac::open(mc, id)?;
            let a = dpmac.attributes()?;
            attributes.push("mac_id", a.mac_id.get());
            attributes.push("link_type", a.link_type.to_string());
            attributes.push("interface", a.interface.to_string());
            attributes.push("max_rate_mbps", a.max_rate.get());
            if let Some(address) = optional(dpmac.mac_address())? {
                attributes.push("mac_address", dpni::MacAddress::new(address).to_string());
            }
            own.statistics = statistics(dpmac.counters()?);
        }
        ObjectType::DPMCP => {
            // One that carries these commands may not be opened a second time.
            if let Some(dpmcp) = optional(Dpmcp::open(mc, id))? {
                attributes.push("options", format!("{:#x}", dpmcp.attributes()?.options));
            }
        }
        // Nothing is known of other types but what every object has.
        _ => (),
    }
    Ok(own)
}

fn qbman_version(version: u32) -> String {
    let name = match version & dpio::qbman_version::MASK {
        dpio::qbman_version::V5_0 => "5.0, memory-backed portals",
        dpio::qbman_version::V4_1 => "4.1, direct portals",
        dpio::qbman_version::V4_0 => "4.0, direct portals",
        _ => "unknown",
    };
    format!("{version:#x} ({name})")
}

fn interface(dpni: &Dpni, irq_count: u8) -> Result<Own, McError> {
    let a = dpni.attributes()?;
    let mut attributes = Pairs::default();
    attributes.push("enabled", dpni.is_enabled()?);
    let link = dpni.link_state()?;
    attributes.push("link", if link.is_up() { "up" } else { "down" });
    attributes.push("link_rate_mbps", link.rate.get());
    attributes.push("mac_address", dpni::MacAddress::new(dpni.primary_mac()?).to_string());
    attributes.push("port_mac_address", dpni::MacAddress::new(dpni.port_mac()?).to_string());
    attributes.push("max_frame_length", dpni.max_frame_length()?);
    attributes.push("unicast_promiscuous", dpni.is_unicast_promiscuous()?);
    attributes.push("multicast_promiscuous", dpni.is_multicast_promiscuous()?);
    attributes.push("options", options(a.options.get(), &dpni::option::NAMES));
    attributes.push("num_queues", a.queues);
    attributes.push("num_rx_tcs", a.rx_tcs);
    attributes.push("num_tx_tcs", a.tx_tcs);
    attributes.push("num_channels", a.channels);
    attributes.push("num_cgs", a.congestion_groups);
    attributes.push("mac_entries", a.mac_filter_entries);
    attributes.push("vlan_entries", a.vlan_filter_entries);
    attributes.push("qos_entries", a.qos_entries);
    attributes.push("fs_entries", a.fs_entries.get());
    attributes.push("qos_key_size", a.qos_key_size);
    attributes.push("fs_key_size", a.fs_key_size);
    let wriop = a.wriop_version.get();
    attributes.push("wriop_version", format!("{}.{}.{}", wriop >> 10, wriop >> 5 & 0x1f, wriop & 0x1f));
    for offload in (0..=6).map(Offload) {
        let value = dpni.handle().execute(&dpni::GetOffload { offload, ..Default::default() });
        if let Some(value) = optional(value)? {
            attributes.push(format!("offload_{offload}").replace('-', "_"), value.value.get() != 0);
        }
    }

    let rx = (0..a.rx_tcs).flat_map(|tc| (0..a.queues).map(move |index| QueueId::rx(tc, index)));
    let mut queues = Vec::new();
    for id in rx.chain((0..a.tx_tcs).map(QueueId::tx)) {
        if let Some(queue) = optional(dpni.queue(id))? {
            let destination = match Destination(queue.flags & dpni::queue_flag::DESTINATION_MASK) {
                _ if id.queue_type == QueueType::TX => "-".into(),
                Destination::NONE => "parked".into(),
                kind => format!("{kind}.{} priority {}", queue.destination_id, queue.destination_priority),
            };
            let QueueId { queue_type, tc, index, .. } = id;
            queues.push(Queue {
                queue: queue_type.to_string(),
                tc,
                index,
                fqid: queue.fqid.get(),
                destination,
            });
        }
    }
    Ok(Own {
        attributes,
        irqs: irqs(dpni.handle(), irq_count)?,
        queues,
        statistics: statistics(dpni.all_counters()?),
    })
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, label, plugged, api_version, connection, .. } = self;
        writeln!(f, "{object}")?;
        writeln!(f, "  version: {api_version}")?;
        writeln!(f, "  plugged state: {}", if *plugged { "plugged" } else { "unplugged" })?;
        if !label.is_empty() {
            writeln!(f, "  label: {label}")?;
        }
        if let Some(ConnectionRow { peer, link_up }) = connection {
            writeln!(f, "  endpoint: {peer}, link is {}", if *link_up { "up" } else { "down" })?;
        }
        section(f, "attributes", &self.attributes)?;
        for region in &self.regions {
            let Region { index, kind, offset, size, base_address, cacheable, shareable } = region;
            write!(f, "  region {index}: {kind}, {size} bytes at {base_address:#x} + {offset:#x}")?;
            writeln!(
                f,
                "{}{}",
                if *cacheable { ", cacheable" } else { "" },
                if *shareable { ", shareable" } else { "" }
            )?;
        }
        for Irq { index, enabled, mask, pending } in &self.irqs {
            let enabled = if *enabled { "enabled" } else { "disabled" };
            writeln!(f, "  irq {index}: {enabled}, mask {mask:#x}, pending {pending:#x}")?;
        }
        if !self.queues.is_empty() {
            writeln!(f, "  queues:")?;
        }
        for Queue { queue, tc, index, fqid, destination } in &self.queues {
            writeln!(f, "    {queue} tc {tc} index {index}: fqid {fqid}, {destination}")?;
        }
        section(f, "statistics", &self.statistics)
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, pairs: &Pairs) -> fmt::Result {
    use serde_json::Value;
    if pairs.0.is_empty() {
        return Ok(());
    }
    writeln!(f, "  {title}:")?;
    for (name, value) in &pairs.0 {
        match value {
            Value::String(text) => writeln!(f, "    {name}: {text}")?,
            Value::Array(lines) => {
                writeln!(f, "    {name}:{}", if lines.is_empty() { " none" } else { "" })?;
                lines.iter().filter_map(Value::as_str).try_for_each(|line| writeln!(f, "      {line}"))?;
            }
            value => writeln!(f, "    {name}: {value}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BOARD, container};
    use super::*;

    fn details(object: &str) -> Details {
        Details::of(&container(BOARD), object.parse().expect("a name")).expect("it can be read")
    }

    #[test]
    fn an_interface_is_shown_as_restool_users_know_it() {
        let text = details("dpni.1").to_string();
        for line in [
            "dpni.1",
            "  plugged state: plugged",
            "  endpoint: dpmac.3, link is down",
            "    mac_address: 02:00:00:00:00:01",
            "    num_queues: 8",
            "      DPNI_OPT_HAS_KEY_MASKING",
            "    wriop_version: 3.0.0",
            "    ingress_all_frames: 0",
            "    ingress_nobuffer_discards: 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.contains("\n  irq 0: disabled, mask 0x0, pending "), "{text}");
        let queues = text.lines().filter(|line| line.starts_with("    rx tc 0 index")).count();
        assert_eq!(queues, 8, "{text}");
    }

    #[test]
    fn every_type_of_object_can_be_shown() {
        for object in ["dprc.2", "dpmcp.1", "dpio.1", "dpbp.1", "dpcon.1", "dpni.2"] {
            let text = details(object).to_string();
            assert!(text.starts_with(&format!("{object}\n  version: ")), "{text}");
        }
        assert!(details("dpio.1").to_string().contains("memory-backed portals"));
        assert!(details("dpio.1").to_string().contains("region 1: qbman portal, 65536 bytes"));
        assert!(details("dpbp.1").to_string().contains("free_buffers: 0"));
    }

    #[test]
    fn programs_get_numbers_and_lists() {
        let json = serde_json::to_value(details("dpni.1")).expect("serializable");
        assert_eq!(json["attributes"]["num_queues"], 8);
        assert_eq!(json["attributes"]["options"][0], "DPNI_OPT_HAS_KEY_MASKING");
        assert_eq!(json["statistics"]["egress_all_frames"], 0);
        assert_eq!(json["connection"]["link_up"], false, "not enabled yet");
        assert_eq!(json["queues"][0]["queue"], "rx");
        assert_ne!(json["queues"][0]["fqid"], 0);
    }

    #[test]
    fn an_object_that_is_not_there_is_said_not_to_be() {
        let error = Details::of(&container(BOARD), "dpni.9".parse().unwrap()).expect_err("no such object");
        assert_eq!(error.to_string(), "dpni.9 isn't in dprc.2; `ringway fslmc list` shows what is");
    }
}
