//! `ringway fslmc check`: what is in the way of using a container, each with its remedy.

use std::fmt;

use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use dpaa2_mc::{Container, McError};
use fslmc_bus::Bus;
use fslmc_bus::vfio::{OpenError, Roots, VfioBus, obstacles};
use serde::Serialize;
use switch_config::{Config, Driver};

/// Memory for DMA below which nothing useful can be set up, in bytes.
const DMA_BYTES_MIN: u64 = 64 << 20;
/// The firmware's major version this program knows.
const MC_MAJOR: u32 = 10;
/// The first minor version with the commands it uses.
const MC_MINOR_MIN: u32 = 32;

/// What the ports of a configuration take.
#[derive(Debug, PartialEq, Eq)]
pub struct Needs {
    /// Workers that serve them.
    workers: u32,
    /// Queue pairs of all of them.
    queues: u32,
    /// Their interfaces and pools, each once.
    objects: Vec<ObjectId>,
}

impl Needs {
    /// What this file's ports take.
    pub fn of(config: &Config) -> Self {
        let (mut queues, mut objects) = (0, Vec::new());
        for port in &config.ports {
            if let Driver::Dpaa2(dpaa2) = &port.driver {
                queues += u32::from(port.queues.get());
                objects.push(ObjectType::DPNI.with_id(dpaa2.dpni.number()));
                objects
                    .extend([dpaa2.pool, dpaa2.tx_pool].map(|pool| ObjectType::DPBP.with_id(pool.number())));
            }
        }
        objects.sort_unstable();
        objects.dedup();
        Self { workers: config.workers.cores.len() as u32, queues, objects }
    }

    fn count(&self, object_type: ObjectType) -> u32 {
        self.objects.iter().filter(|object| object.object_type == object_type).count() as u32
    }
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// It is as it should be.
    Ok,
    /// The switch can do without.
    Warning,
    /// The switch can't.
    Error,
}

/// Looks at a container of this machine: whether it can be used, and has what is needed.
pub fn hardware(roots: &Roots, container: ObjectId, needs: Option<&Needs>) -> Report {
    let mut report = Report::default();
    let found = obstacles(roots, container, DMA_BYTES_MIN);
    for obstacle in &found {
        report.error(obstacle, obstacle.remedy());
    }
    if !found.is_empty() {
        return report;
    }
    match VfioBus::open(roots, container) {
        Ok(bus) => {
            report.ok(format!("{container} can be opened"));
            let looked = Container::open(bus).map_err(anyhow::Error::from);
            if let Err(error) = looked.and_then(|opened| Ok(report.container(&opened, needs)?)) {
                report.error(error, "read the message; `dmesg` may have more".into());
            }
        }
        Err(OpenError::Obstacle(obstacle)) => report.error(&obstacle, obstacle.remedy()),
        Err(OpenError::Bus(error)) => report.error(error, "`dmesg` may say why the kernel refuses".into()),
    }
    report
}

impl Report {
    /// Whether the switch can work with it.
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.level != Level::Error)
    }

    fn ok(&mut self, what: impl fmt::Display) {
        self.findings.push(Finding { level: Level::Ok, what: what.to_string(), remedy: None });
    }

    fn warning(&mut self, what: impl fmt::Display, remedy: String) {
        self.findings.push(Finding { level: Level::Warning, what: what.to_string(), remedy: Some(remedy) });
    }

    fn error(&mut self, what: impl fmt::Display, remedy: String) {
        self.findings.push(Finding { level: Level::Error, what: what.to_string(), remedy: Some(remedy) });
    }

    /// Looks at the firmware, and at what an open container holds: enough for these ports, or, if none are named, for one
    /// queue pair on each of its interfaces.
    pub fn container<B: Bus>(
        &mut self,
        container: &Container<B>,
        needs: Option<&Needs>,
    ) -> Result<(), McError> {
        let version = container.mc().version()?;
        let (major, minor) = (version.major.get(), version.minor.get());
        if major == MC_MAJOR && minor >= MC_MINOR_MIN {
            self.ok(format!("the MC firmware is {version}"));
        } else {
            self.error(
                format!(
                    "the MC firmware is {version}: this program needs {MC_MAJOR}.{MC_MINOR_MIN} or a later {MC_MAJOR}.x"
                ),
                format!(
                    "have the boot loader load MC firmware {MC_MAJOR}.{MC_MINOR_MIN} or later (LSDK 21.08 has one)"
                ),
            );
        }
        let name = container.bus().container();
        let interfaces = container.ids(ObjectType::DPNI).count() as u32;
        let queues = needs.map_or(interfaces, |needs| needs.queues).max(1);
        let workers = needs.map_or(1, |needs| needs.workers);
        let pools = needs.map_or(1, |needs| needs.count(ObjectType::DPBP));
        for (object_type, needed, why) in [
            (
                ObjectType::DPIO,
                1 + workers,
                format!("one for the control thread, one for each of {workers} workers"),
            ),
            (ObjectType::DPBP, pools, "for the buffers".into()),
            (ObjectType::DPMCP, 1, "to carry commands".into()),
            (ObjectType::DPNI, 1, "or there is nothing to switch".into()),
        ] {
            let there = container.ids(object_type).count() as u32;
            if there >= needed {
                self.ok(format!("{name} has {there} of {object_type}, {needed} needed"));
            } else {
                let what = format!("{name} has {there} of {object_type}, {needed} needed: {why}");
                self.error(what, creation(object_type, name, needed - there));
            }
        }
        for object in needs.map_or(&[][..], |needs| &needs.objects) {
            if !container.ids(object.object_type).any(|there| there == *object) {
                self.error(
                    format!("{object}, which the file names, isn't in {name}, or isn't plugged"),
                    "name one that is (`ringway fslmc list`), or move it there (`restool dprc assign`)"
                        .into(),
                );
            }
        }
        let channels = container.ids(ObjectType::DPCON).count() as u32;
        if channels < queues {
            self.warning(
                format!("{name} has {channels} of dpcon: a queue without one is polled, and its worker never sleeps"),
                creation(ObjectType::DPCON, name, queues - channels),
            );
        }
        self.unusable(container)
    }

    /// Objects that are there and can't be used: not plugged, not connected.
    fn unusable<B: Bus>(&mut self, container: &Container<B>) -> Result<(), McError> {
        let name = container.bus().container();
        for descriptor in container.objects().iter().filter(|descriptor| !descriptor.is_plugged()) {
            let object = descriptor.object();
            self.warning(
                format!("{object} isn't plugged: no driver may use it"),
                format!("`restool dprc assign {name} --object={object} --plugged=1`"),
            );
        }
        for object in container.ids(ObjectType::DPNI) {
            let connection = container.dprc().connection(object, 0);
            let is_connected = match &connection {
                Ok(connection) => connection.peer().is_some(),
                Err(error) if error.status().is_some() => false,
                Err(_) => return connection.map(drop),
            };
            if !is_connected {
                self.warning(
                    format!("{object} isn't connected: its link stays down"),
                    format!("`restool dprc connect dprc.1 --endpoint1={object} --endpoint2=dpmac.N`"),
                );
            }
        }
        Ok(())
    }
}

/// How an operator makes objects of a type.
fn creation(object_type: ObjectType, container: ObjectId, count: u32) -> String {
    let arguments = match object_type {
        ObjectType::DPIO => " --channel-mode=DPIO_LOCAL_CHANNEL --num-priorities=8",
        ObjectType::DPCON => " --num-priorities=2",
        ObjectType::DPNI => " --num-queues=8 --num-tcs=1",
        _ => "",
    };
    let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
    format!(
        "with {container} unbound, {times}: `restool {object_type} create{arguments} --container={container}`, then \
         `restool dprc assign {container} --object=WHAT-IT-MADE --plugged=1`"
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { level, what, remedy } in &self.findings {
            let mark = match level {
                Level::Ok => "ok     ",
                Level::Warning => "warning",
                Level::Error => "error  ",
            };
            writeln!(f, "{mark}  {what}")?;
            if let Some(remedy) = remedy {
                writeln!(f, "         -> {remedy}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BOARD, container};
    use super::*;

    fn report(description: &str, needs: Option<&Needs>) -> Report {
        let mut report = Report::default();
        report.container(&container(description), needs).expect("the MC answers");
        report
    }

    fn lines(report: &Report, level: Level) -> Vec<&str> {
        report.findings.iter().filter(|f| f.level == level).map(|f| f.what.as_str()).collect()
    }

    #[test]
    fn a_container_with_everything_is_good() {
        let report = report(BOARD, None);
        assert!(report.is_good(), "{report}");
        assert_eq!(
            lines(&report, Level::Warning),
            ["dpni.2 isn't connected: its link stays down"],
            "{report}"
        );
    }

    #[test]
    fn too_few_portals_and_pools_are_counted_and_said_how_to_make() {
        let board = BOARD.replace("dpio = 5", "dpio = 1").replace("dpbp = 2", "dpbp = 0");
        let report = report(&board, None);
        assert!(!report.is_good());
        let errors = lines(&report, Level::Error);
        assert_eq!(errors.len(), 2, "{report}");
        assert!(errors[0].starts_with("dprc.2 has 1 of dpio, 2 needed"), "{report}");
        assert!(errors[1].starts_with("dprc.2 has 0 of dpbp, 1 needed"), "{report}");
        let text = report.to_string();
        assert!(text.contains("once: `restool dpio create --channel-mode=DPIO_LOCAL_CHANNEL"), "{text}");
    }

    #[test]
    fn a_container_without_dpmcp_is_said_to_need_one() {
        let board = BOARD.replace("dpio = 5", "dpio = 5\ndpmcp = 0");
        let report = report(&board, None);
        assert!(lines(&report, Level::Error)[0].starts_with("dprc.2 has 0 of dpmcp, 1 needed"), "{report}");
    }

    #[test]
    fn what_a_file_names_must_be_there() {
        let file = r#"
            workers = { cores = [0, 1, 2, 3, 4, 5] }
            fslmc = { bus = "vfio", container = "dprc.2" }
            bridge = [{ name = "br0" }]
            [[port]]
            name = "wire1"
            bridge = "br0"
            driver = "dpaa2"
            dpni = "dpni.1"
            pool = "dpbp.1"
            [[port]]
            name = "wire9"
            bridge = "br0"
            driver = "dpaa2"
            dpni = "dpni.9"
            pool = "dpbp.1"
            tx_pool = "dpbp.7"
            queues = 3
        "#;
        let config = switch_config::parse(file, &switch_config::Context::default()).expect("right");
        let needs = Needs::of(&config);
        assert_eq!((needs.workers, needs.queues), (6, 4));
        let report = report(BOARD, Some(&needs));
        let errors = lines(&report, Level::Error);
        assert!(errors[0].starts_with("dprc.2 has 5 of dpio, 7 needed"), "{report}");
        assert_eq!(
            errors[1..],
            [
                "dpbp.7, which the file names, isn't in dprc.2, or isn't plugged",
                "dpni.9, which the file names, isn't in dprc.2, or isn't plugged"
            ],
            "{report}"
        );
    }

    #[test]
    fn old_and_strange_firmware_is_refused() {
        for (major, minor) in [(10, 31), (9, 99), (11, 0)] {
            let board = format!("firmware = {{ major = {major}, minor = {minor} }}\n{BOARD}");
            let report = report(&board, None);
            let expected = format!("the MC firmware is {major}.{minor}.0: this program needs 10.32");
            assert!(lines(&report, Level::Error)[0].starts_with(&expected), "{report}");
        }
        assert!(report(&format!("firmware = {{ major = 10, minor = 32 }}\n{BOARD}"), None).is_good());
    }

    #[test]
    fn idle_workers_want_channels() {
        let report = report(&BOARD.replace("dpcon = 2", "dpcon = 0"), None);
        assert!(report.is_good());
        assert!(lines(&report, Level::Warning)[0].contains("its worker never sleeps"), "{report}");
    }

    #[test]
    fn a_machine_that_is_no_board_is_told_so() {
        let root = tempfile::tempdir().expect("a directory");
        let path = |name: &str| root.path().join(name);
        let roots = Roots { dev: path("dev"), sys: path("sys"), proc: path("proc") };
        let report = hardware(&roots, ObjectType::DPRC.with_id(2), None);
        assert!(!report.is_good());
        let text = report.to_string();
        assert!(text.starts_with("error    this kernel has no fsl-mc bus"), "{text}");
        assert!(text.contains("-> run on a Layerscape system"), "{text}");
    }

    #[test]
    fn what_the_kernel_lacks_is_said_before_anything_is_opened() {
        let root = tempfile::tempdir().expect("a directory");
        let path = |name: &str| root.path().join(name);
        std::fs::create_dir_all(path("sys/bus/fsl-mc/devices/dprc.2")).expect("a directory");
        std::fs::create_dir_all(path("sys/module")).expect("a directory");
        let roots = Roots { dev: path("dev"), sys: path("sys"), proc: path("proc") };
        let report = hardware(&roots, ObjectType::DPRC.with_id(2), None);
        let errors = lines(&report, Level::Error);
        for expected in [
            "vfio-fsl-mc driver isn't loaded",
            "dprc.2 is bound to no driver",
            "no IOMMU group",
            "vfio/vfio doesn't exist",
        ] {
            assert!(errors.iter().any(|line| line.contains(expected)), "{expected}\n{report}");
        }
    }
}
