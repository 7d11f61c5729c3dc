//! `ringway fslmc list`: containers, and the objects of one.

use std::fmt;

use anyhow::Context;
use control::table::Table;
use dpaa2_defs::mc::dprc::{self, Connection, ObjectDescriptor, object_state};
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_mc::Container;
use fslmc_bus::Bus;
use fslmc_bus::vfio::Roots;
use serde::Serialize;

use super::as_text;

/// What there is.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// Containers of the system; of a model it isn't asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<ContainerRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Content>,
}

/// A container as the kernel knows it.
#[derive(Debug, Serialize)]
pub struct ContainerRow {
    #[serde(serialize_with = "as_text")]
    pub id: ObjectId,
    pub driver: Option<String>,
    pub iommu_group: Option<u32>,
    pub objects: usize,
}

/// A container as the MC knows it.
#[derive(Debug, Serialize)]
struct Content {
    #[serde(serialize_with = "as_text")]
    id: ObjectId,
    mc_version: String,
    soc: Option<&'static str>,
    icid: u32,
    options: Vec<&'static str>,
    /// Whose portal carried the commands.
    #[serde(serialize_with = "as_text")]
    portal: ObjectId,
    objects: Vec<ObjectRow>,
}

#[derive(Debug, Serialize)]
struct ObjectRow {
    object: String,
    label: String,
    plugged: bool,
    open: bool,
    api_version: String,
    regions: u8,
    irqs: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<ConnectionRow>,
}

/// What an object is connected to.
#[derive(Debug, Serialize)]
pub struct ConnectionRow {
    pub peer: String,
    pub link_up: bool,
}

/// The containers the kernel knows.
pub fn containers(roots: &Roots) -> Vec<ContainerRow> {
    let row = |id| ContainerRow {
        id,
        driver: roots.driver(id),
        iommu_group: roots.iommu_group(id),
        objects: roots.objects(id).map_or(0, |objects| objects.len()),
    };
    roots.containers().into_iter().map(row).collect()
}

/// The names of the options that are set.
pub fn names(options: u32, known: &[(u32, &'static str)]) -> Vec<&'static str> {
    known.iter().filter(|(bit, _)| options & bit != 0).map(|(_, name)| *name).collect()
}

/// What an object is connected to, if it can be and is.
pub fn connection<B: Bus>(
    container: &Container<B>,
    object: ObjectId,
) -> anyhow::Result<Option<ConnectionRow>> {
    if ![ObjectType::DPNI, ObjectType::DPMAC, ObjectType::DPCI].contains(&object.object_type) {
        return Ok(None);
    }
    match container.dprc().connection(object, 0) {
        Ok(connection) => Ok(connection.peer().map(|peer| ConnectionRow {
            peer: peer.to_string(),
            link_up: connection.state.get() == Connection::UP,
        })),
        // Some firmware refuses to speak of objects that aren't connected.
        Err(error) if error.status().is_some() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Listing {
    /// Containers only: none was chosen.
    pub fn of_containers(containers: Vec<ContainerRow>) -> Self {
        Self { containers, container: None }
    }

    /// Containers, and the content of one.
    pub fn new<B: Bus>(containers: Vec<ContainerRow>, container: &Container<B>) -> anyhow::Result<Self> {
        let id = container.bus().container();
        let attributes = container.dprc().attributes().context("the container can't be read")?;
        let row = |descriptor: &ObjectDescriptor| -> anyhow::Result<ObjectRow> {
            Ok(ObjectRow {
                object: descriptor.object().to_string(),
                label: descriptor.label.to_string(),
                plugged: descriptor.is_plugged(),
                open: descriptor.state.get() & object_state::OPEN != 0,
                api_version: format!("{}.{}", descriptor.version_major, descriptor.version_minor),
                regions: descriptor.regions,
                irqs: descriptor.irqs,
                connection: connection(container, descriptor.object())?,
            })
        };
        let content = Content {
            id,
            mc_version: container.mc().version()?.to_string(),
            // A container that isn't the root's may be refused this.
            soc: container.mc().soc_version().ok().and_then(|soc| soc.name()),
            icid: attributes.icid.get(),
            options: names(attributes.options.get(), &dprc::option::NAMES),
            portal: container.portal(),
            objects: container.objects().iter().map(row).collect::<anyhow::Result<_>>()?,
        };
        Ok(Self { containers, container: Some(content) })
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { containers, container } = self;
        if containers.is_empty() && container.is_none() {
            return writeln!(f, "there are no containers; `ringway fslmc check` says why");
        }
        if !containers.is_empty() {
            let mut table = Table::new(["CONTAINER", "DRIVER", ">IOMMU GROUP", ">OBJECTS"]);
            for ContainerRow { id, driver, iommu_group, objects } in containers {
                let group = iommu_group.map_or("-".into(), |group| group.to_string());
                table.row([id.to_string(), driver.clone().unwrap_or("-".into()), group, objects.to_string()]);
            }
            table.fmt(f)?;
        }
        let Some(Content { id, mc_version, soc, icid, options, portal, objects }) = container else {
            return Ok(());
        };
        if !containers.is_empty() {
            writeln!(f)?;
        }
        writeln!(f, "{id} contains {} objects:", objects.len())?;
        let mut table =
            Table::new(["OBJECT", "LABEL", "STATE", ">API", ">REGIONS", ">IRQS", "CONNECTED TO", "LINK"]);
        for row in objects {
            let state = match (row.plugged, row.open) {
                (true, false) => "plugged",
                (true, true) => "plugged, open",
                (false, _) => "unplugged",
            };
            let (peer, link) = match &row.connection {
                Some(ConnectionRow { peer, link_up }) => (peer.clone(), if *link_up { "up" } else { "down" }),
                None => ("-".into(), "-"),
            };
            table.row([
                row.object.clone(),
                if row.label.is_empty() { "-".into() } else { row.label.clone() },
                state.into(),
                row.api_version.clone(),
                row.regions.to_string(),
                row.irqs.to_string(),
                peer,
                link.into(),
            ]);
        }
        table.fmt(f)?;
        writeln!(f, "\nMC {mc_version}, {}, through {portal}; icid {icid}", soc.unwrap_or("unknown SoC"))?;
        writeln!(f, "options: {}", options.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BOARD, container};
    use super::*;

    #[test]
    fn objects_are_listed_with_what_they_are_connected_to() {
        let listing = Listing::new(Vec::new(), &container(BOARD)).expect("it can be read");
        let text = listing.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "dprc.2 contains 12 objects:", "{text}");
        let line = |name: &str| {
            let line =
                lines.iter().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
            line.split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(line("dpni.1")[6..], ["dpmac.3", "down"], "not enabled yet\n{text}");
        assert_eq!(line("dpni.2")[6..], ["-", "-"], "{text}");
        assert_eq!(line("dpio.1")[2], "plugged", "{text}");
        assert!(text.contains("MC 10.39.0, LX2160A, through dpmcp.1; icid 2"), "{text}");
        assert!(text.contains("DPRC_CFG_OPT_IRQ_CFG_ALLOWED"), "{text}");
    }

    #[test]
    fn the_same_is_there_for_programs() {
        let listing = Listing::new(Vec::new(), &container(BOARD)).expect("it can be read");
        let json = serde_json::to_value(&listing).expect("serializable");
        assert_eq!(json["container"]["id"], "dprc.2");
        let objects = json["container"]["objects"].as_array().expect("a list");
        let dpni = objects.iter().find(|row| row["object"] == "dpni.1").expect("it is listed");
        assert_eq!(dpni["connection"]["peer"], "dpmac.3");
        assert_eq!(dpni["plugged"], true);
        assert!(json.get("containers").is_none(), "a model has no kernel");
    }

    #[test]
    fn containers_are_listed_as_the_kernel_has_them() {
        let root = tempfile::tempdir().expect("a directory");
        let devices = root.path().join("bus/fsl-mc/devices");
        for directory in ["dprc.1", "dprc.2/dpni.1", "dprc.2/dpio.1", "dpni.1"] {
            std::fs::create_dir_all(devices.join(directory)).expect(directory);
        }
        std::os::unix::fs::symlink("../../drivers/vfio-fsl-mc", devices.join("dprc.2/driver"))
            .expect("a link");
        let roots = Roots { sys: root.path().into(), ..Roots::default() };
        let containers = containers(&roots);
        assert_eq!(super::super::the_only_bound(&containers), Some(ObjectType::DPRC.with_id(2)));
        let text = Listing::of_containers(containers).to_string();
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            rows[1..],
            [vec!["dprc.1", "-", "-", "0"], vec!["dprc.2", "vfio-fsl-mc", "-", "2"]],
            "{text}"
        );
    }

    #[test]
    fn a_machine_without_containers_is_pointed_to_the_check() {
        let text = Listing::of_containers(Vec::new()).to_string();
        assert!(text.contains("ringway fslmc check"), "{text}");
    }
}
