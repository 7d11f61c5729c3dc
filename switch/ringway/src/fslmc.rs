//! `ringway fslmc`: what DPAA2 hardware there is, and what is in the way of using it.
//!
//! A container is opened as the switch would open it: through VFIO, alone. Its objects are only asked, never changed; but
//! closing a container resets what is in it, as the kernel does for every program that ends.

mod check;
mod list;
mod show;

use std::path::Path;

use anyhow::{Context, bail};
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_mc::Container;
use dpaa2_model::{Description, Model, ModelBus};
use fslmc_bus::vfio::{Roots, VfioBus};
use serde::ser::{Serialize, SerializeMap, Serializer};
use switch_config::FslmcBus;

use crate::args::{FslmcArgs, FslmcCommand};
use crate::failure::{Outcome, Verdict};
use crate::output;

/// Looks at what the arguments name.
pub fn fslmc(args: &FslmcArgs) -> Outcome {
    let Some(file) = &args.file else {
        return match &args.model {
            Some(board) => on_model(&args.command, board, args.container, None),
            None => on_hardware(&args.command, &Roots::default(), args.container, None),
        };
    };
    let Some(config) = crate::check::load_or_explain(file, &switch_config::Context::default()) else {
        return Ok(Verdict::Bad);
    };
    let section = config.fslmc.as_ref();
    let section = section.with_context(|| format!("{} has no section [fslmc]", file.display()))?;
    let container = args.container.or(Some(ObjectType::DPRC.with_id(section.container.number())));
    let needs = check::Needs::of(&config);
    match &section.bus {
        FslmcBus::Model { board } => on_model(&args.command, board, container, Some(&needs)),
        FslmcBus::Vfio => on_hardware(&args.command, &Roots::default(), container, Some(&needs)),
    }
}

fn on_model(
    command: &FslmcCommand,
    file: &Path,
    container: Option<ObjectId>,
    needs: Option<&check::Needs>,
) -> Outcome {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("{name} can't be read"))?;
    let description = Description::from_toml(&text).with_context(|| format!("{name} describes no model"))?;
    let model = Model::new(&description).with_context(|| format!("{name} describes no model"))?.share();
    let containers: Vec<_> = description.container.iter().map(|container| container.id).collect();
    let container = match (container, &containers[..]) {
        (Some(container), _) => container,
        (None, [only]) => ObjectType::DPRC.with_id(*only),
        (None, _) => bail!("say which container with --container: {name} describes {}", containers.len()),
    };
    let bus = ModelBus::open(model, container.id).with_context(|| format!("{name} has no {container}"))?;
    let opened = Container::open(bus)?;
    match command {
        FslmcCommand::List { json } => print(&list::Listing::new(Vec::new(), &opened)?, *json),
        FslmcCommand::Show { object, json } => print(&show::Details::of(&opened, *object)?, *json),
        FslmcCommand::Check { json } => {
            let mut report = check::Report::default();
            report.container(&opened, needs)?;
            conclude(&report, *json)
        }
    }
}

fn on_hardware(
    command: &FslmcCommand,
    roots: &Roots,
    container: Option<ObjectId>,
    needs: Option<&check::Needs>,
) -> Outcome {
    let containers = list::containers(roots);
    let container = container.or_else(|| the_only_bound(&containers));
    match command {
        FslmcCommand::List { json } => match container {
            Some(container) => print(&list::Listing::new(containers, &open(roots, container)?)?, *json),
            None => print(&list::Listing::of_containers(containers), *json),
        },
        FslmcCommand::Show { object, json } => {
            let container = container.context(
                "say which container with --container: none, or more than one, is bound to vfio-fsl-mc",
            )?;
            print(&show::Details::of(&open(roots, container)?, *object)?, *json)
        }
        FslmcCommand::Check { json } => {
            conclude(&check::hardware(roots, container.unwrap_or(FIRST_CHILD), needs), *json)
        }
    }
}

/// What restool calls the first container that is made.
const FIRST_CHILD: ObjectId = ObjectType::DPRC.with_id(2);

/// Nobody has to say which container is meant if only one can be.
fn the_only_bound(containers: &[list::ContainerRow]) -> Option<ObjectId> {
    let mut bound = containers.iter().filter(|row| row.driver.as_deref() == Some("vfio-fsl-mc"));
    let first = bound.next()?;
    if bound.next().is_some() { None } else { Some(first.id) }
}

fn open(roots: &Roots, container: ObjectId) -> anyhow::Result<Container<VfioBus>> {
    let bus = VfioBus::open(roots, container).with_context(|| format!("{container} can't be opened"))?;
    Container::open(bus).with_context(|| format!("{container} can't be read"))
}

fn print(value: &(impl Serialize + std::fmt::Display), json: bool) -> Outcome {
    if json { output::json(value) } else { output::text(&value.to_string()) }
}

fn conclude(report: &check::Report, json: bool) -> Outcome {
    print(report, json)?;
    Ok(if report.is_good() { Verdict::Good } else { Verdict::Bad })
}

/// Serializes what is written as text.
fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Names and values in an order of their own, an object in JSON.
#[derive(Debug, Default, PartialEq)]
struct Pairs(Vec<(String, serde_json::Value)>);

impl Pairs {
    fn push(&mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) {
        self.0.push((name.into(), value.into()));
    }
}

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A model with the containers this describes, and its container 2 opened.
    pub fn container(description: &str) -> Container<ModelBus> {
        let description = Description::from_toml(description).expect("right");
        let model = Model::new(&description).expect("possible").share();
        Container::open(ModelBus::open(model, 2).expect("there is one")).expect("it opens")
    }

    /// What a switch with two interfaces of one queue pair needs.
    pub const BOARD: &str = r#"
        soc = "lx2160a"
        [[container]]
        id = 2
        dpio = 5
        dpbp = 2
        dpcon = 2
        [[container.dpni]]
        id = 1
        mac = "02:00:00:00:00:01"
        [[container.dpni]]
        id = 2
        mac = "02:00:00:00:00:02"
        [[dpmac]]
        id = 3
        [[connection]]
        a = "dpni.1"
        b = "dpmac.3"
    "#;
}
