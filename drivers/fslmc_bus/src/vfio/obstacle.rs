//! What can keep a container from being opened, found without opening it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dpaa2_defs::mc::object::ObjectId;

use super::{OpenError, Roots};
use crate::BusError;

/// The kernel driver that gives containers to programs.
const VFIO_DRIVER: &str = "vfio-fsl-mc";

/// Something that is missing, and that an operator can provide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// The kernel knows no fsl-mc bus.
    #[error("this kernel has no fsl-mc bus ({} doesn't exist)", .0.display())]
    NoBus(PathBuf),
    /// The container isn't there.
    #[error("{container} doesn't exist{}", there_are(.existing))]
    NoContainer {
        /// Which.
        container: ObjectId,
        /// Those that do exist.
        existing: Vec<ObjectId>,
    },
    /// The module for it isn't loaded.
    #[error("the kernel's {VFIO_DRIVER} driver isn't loaded")]
    NoVfioDriver,
    /// The container is bound to another driver, or to none.
    #[error("{object} is {}, not to {VFIO_DRIVER}", bound_to(.driver))]
    NotBound {
        /// The container, or an object in it.
        object: ObjectId,
        /// Its driver.
        driver: Option<String>,
    },
    /// The container has no IOMMU group.
    #[error("{container} has no IOMMU group: the system's SMMU is off, or not in front of the fsl-mc bus")]
    NoIommuGroup {
        /// Which.
        container: ObjectId,
    },
    /// A device file isn't there.
    #[error("{} doesn't exist", .0.display())]
    NoDeviceFile(PathBuf),
    /// This user may not open a device file.
    #[error("this user may not read and write {}", .0.display())]
    NoPermission(PathBuf),
    /// Another process has the container.
    #[error("IOMMU group {group} is in use{}", by(.process))]
    GroupBusy {
        /// Number of the group.
        group: u32,
        /// Which process has it, if that can be seen: its number and name.
        process: Option<(u32, String)>,
    },
    /// Something in the container's IOMMU group is bound to an ordinary driver.
    #[error(
        "IOMMU group {group} isn't viable: something in it is bound to another driver than {VFIO_DRIVER}"
    )]
    GroupNotViable {
        /// Number of the group.
        group: u32,
    },
    /// VFIO has no driver for the IOMMU.
    #[error("VFIO has no driver for this IOMMU")]
    NoIommuDriver,
    /// Interrupts of devices aren't isolated.
    #[error("this system doesn't isolate interrupts of devices, and VFIO hasn't been told to do without")]
    UnsafeInterrupts,
    /// Too little memory may be locked.
    #[error("this process may lock {} KiB of memory, and DMA needs {} KiB or more", .limit / 1024, .needed / 1024)]
    Memlock {
        /// The limit in bytes.
        limit: u64,
        /// What is needed at least, in bytes.
        needed: u64,
    },
}

impl Obstacle {
    /// What to do about it: a sentence with the commands.
    pub fn remedy(&self) -> String {
        match self {
            Obstacle::NoBus(_) => "run on a Layerscape system whose MC firmware is started by the boot loader \
                                   (`fsl_mc start mc`, `fsl_mc apply dpl`), with CONFIG_FSL_MC_BUS in the kernel"
                .into(),
            Obstacle::NoContainer { .. } => {
                "create it (`restool dprc create dprc.1 --label=ringway`), or name one that exists".into()
            }
            Obstacle::NoVfioDriver => format!("load it: `modprobe {VFIO_DRIVER}`"),
            Obstacle::NotBound { object, driver } => {
                let devices = "/sys/bus/fsl-mc/devices";
                let unbind = match driver {
                    Some(_) => format!("echo {object} > {devices}/{object}/driver/unbind; "),
                    None => String::new(),
                };
                format!(
                    "bind it: `{unbind}echo {VFIO_DRIVER} > {devices}/{object}/driver_override; \
                     echo {object} > /sys/bus/fsl-mc/drivers/{VFIO_DRIVER}/bind`"
                )
            }
            Obstacle::NoIommuGroup { .. } => "have the SMMU in the kernel (CONFIG_ARM_SMMU) and an `iommu-map` in the device tree's \
                                              fsl-mc node, and don't boot with iommu.passthrough or arm-smmu.disable_bypass=0"
                .into(),
            Obstacle::NoDeviceFile(path) if path.ends_with("vfio") => {
                "load VFIO: `modprobe vfio vfio_iommu_type1`".into()
            }
            Obstacle::NoDeviceFile(_) => format!(
                "bind the container to {VFIO_DRIVER}: the kernel makes this file then, and a container of its own \
                 (chroot, namespace) must be given it"
            ),
            Obstacle::NoPermission(path) => format!(
                "run as root, or give this user the file: `chown USER {0}` (a udev rule on SUBSYSTEM==\"vfio\" makes it last)",
                path.display()
            ),
            Obstacle::GroupBusy { process: Some((pid, name)), .. } => {
                format!("end the process that has it (`{name}`, process {pid}), or give the switch another container")
            }
            Obstacle::GroupBusy { process: None, group } => format!(
                "end the process that has it (`fuser -v /dev/vfio/{group}` as root names it), or give the switch another container"
            ),
            Obstacle::GroupNotViable { .. } => format!(
                "bind the container itself to {VFIO_DRIVER}, which takes its objects along, and unbind objects that were bound \
                 by hand"
            ),
            Obstacle::NoIommuDriver => "load it: `modprobe vfio_iommu_type1`".into(),
            Obstacle::UnsafeInterrupts => {
                "allow that: `echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts` (who controls the \
                 container can then send any interrupt)"
                    .into()
            }
            Obstacle::Memlock { needed, .. } => format!(
                "raise the limit: `ulimit -l {}` in the shell, `LimitMEMLOCK=` in a systemd unit, or run with CAP_IPC_LOCK",
                needed / 1024
            ),
        }
    }
}

fn there_are(existing: &[ObjectId]) -> String {
    match existing {
        [] => String::new(),
        existing => format!(
            " (there are {})",
            existing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ),
    }
}

fn bound_to(driver: &Option<String>) -> String {
    driver.as_ref().map_or("bound to no driver".into(), |driver| format!("bound to {driver}"))
}

fn by(process: &Option<(u32, String)>) -> String {
    process.as_ref().map_or(String::new(), |(pid, name)| format!(" by process {pid} ({name})"))
}

/// Everything that is in the way of opening a container, in the order in which it is met. `dma_bytes` is how much memory is
/// to be mapped at least. Changes nothing, and opens nothing but the group for a moment, to see whether it is free.
pub fn obstacles(roots: &Roots, container: ObjectId, dma_bytes: u64) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let bus = roots.sys.join("bus/fsl-mc");
    if !bus.is_dir() {
        // Nothing that follows could be there.
        return vec![Obstacle::NoBus(bus)];
    }
    if !bus.join("drivers").join(VFIO_DRIVER).is_dir() {
        found.push(Obstacle::NoVfioDriver);
    }
    if roots.device(container).is_dir() {
        found.extend(in_the_way_of(roots, container));
    } else {
        found.push(Obstacle::NoContainer { container, existing: roots.containers() });
    }
    let vfio = roots.vfio();
    match may_open(&vfio) {
        Access::Granted => (),
        Access::Missing => found.push(Obstacle::NoDeviceFile(vfio)),
        Access::Denied => found.push(Obstacle::NoPermission(vfio)),
    }
    if roots.sys.join("module").is_dir() && !roots.sys.join("module/vfio_iommu_type1").is_dir() {
        found.push(Obstacle::NoIommuDriver);
    }
    found.extend(memlock(roots, dma_bytes));
    found
}

fn in_the_way_of(roots: &Roots, container: ObjectId) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let driver = roots.driver(container);
    let is_bound = driver.as_deref() == Some(VFIO_DRIVER);
    if is_bound {
        // The kernel binds what is in the container; an exception was made by hand, and spoils the group.
        for object in roots.objects(container).unwrap_or_default() {
            let driver = roots.driver(object);
            if driver.as_deref().is_some_and(|driver| driver != VFIO_DRIVER) {
                found.push(Obstacle::NotBound { object, driver });
            }
        }
    } else {
        found.push(Obstacle::NotBound { object: container, driver });
    }
    let Some(group) = roots.iommu_group(container) else {
        found.push(Obstacle::NoIommuGroup { container });
        return found;
    };
    let path = roots.group(group);
    match may_open(&path) {
        Access::Granted if super::open(&path).is_err_and(|e| is_busy(&e)) => found.push(busy(roots, group)),
        Access::Granted => (),
        // Without the driver there is no file yet; that has been said.
        Access::Missing if !is_bound => (),
        Access::Missing => found.push(Obstacle::NoDeviceFile(path)),
        Access::Denied => found.push(Obstacle::NoPermission(path)),
    }
    found
}

/// What [`super::VfioBus::open`] needs before it opens anything.
pub(super) fn group_of(roots: &Roots, container: ObjectId) -> Result<u32, OpenError> {
    let bus = roots.sys.join("bus/fsl-mc");
    if !bus.is_dir() {
        return Err(Obstacle::NoBus(bus).into());
    }
    if !roots.device(container).is_dir() {
        return Err(Obstacle::NoContainer { container, existing: roots.containers() }.into());
    }
    Ok(roots.iommu_group(container).ok_or(Obstacle::NoIommuGroup { container })?)
}

/// What it means that a device file can't be opened.
pub(super) fn opening(roots: &Roots, path: &Path, group: Option<u32>, cause: io::Error) -> OpenError {
    match (cause.kind(), group) {
        (io::ErrorKind::NotFound, _) => Obstacle::NoDeviceFile(path.to_owned()).into(),
        (io::ErrorKind::PermissionDenied, _) => Obstacle::NoPermission(path.to_owned()).into(),
        (_, Some(group)) if is_busy(&cause) => busy(roots, group).into(),
        _ => BusError::system(format!("opening {}", path.display()), cause).into(),
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

fn busy(roots: &Roots, group: u32) -> Obstacle {
    Obstacle::GroupBusy { group, process: user_of(roots, &roots.group(group)) }
}

/// The process that has a file open, if this one may see that.
fn user_of(roots: &Roots, file: &Path) -> Option<(u32, String)> {
    let processes = fs::read_dir(&roots.proc).ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find_map(|pid| {
        let directory = roots.proc.join(pid.to_string());
        let mut descriptors = fs::read_dir(directory.join("fd")).ok()?.flatten();
        descriptors.find(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == file))?;
        let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
        Some((pid, name.trim().to_owned()))
    })
}

enum Access {
    Granted,
    Missing,
    Denied,
}

fn may_open(path: &Path) -> Access {
    use std::os::unix::ffi::OsStrExt;
    if !path.exists() {
        return Access::Missing;
    }
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return Access::Missing };
    // SAFETY: the path is a string that ends with NUL.
    let answer = unsafe { libc::access(path.as_ptr(), libc::R_OK | libc::W_OK) };
    if answer == 0 { Access::Granted } else { Access::Denied }
}

/// Whether too little memory may be locked. Who has CAP_IPC_LOCK, such as root, has no limit.
fn memlock(roots: &Roots, needed: u64) -> Option<Obstacle> {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let own = roots.proc.join("self");
    let status = fs::read_to_string(own.join("status")).ok()?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    if u64::from_str_radix(effective.trim(), 16).ok()? & CAP_IPC_LOCK != 0 {
        return None;
    }
    let limits = fs::read_to_string(own.join("limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    // The soft limit, or `unlimited`, which is no number.
    let limit = line.split_whitespace().next()?.parse().ok()?;
    (limit < needed).then_some(Obstacle::Memlock { limit, needed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const CONTAINER: &str = "dprc.2";

    /// A machine with a container that is ready, in a directory.
    struct Machine {
        root: tempfile::TempDir,
        roots: Roots,
    }

    impl Machine {
        fn ready() -> Self {
            let root = tempfile::tempdir().expect("a directory");
            let path = root.path().to_owned();
            let at = |rest: &str| path.join(rest);
            let roots = Roots { dev: at("dev"), sys: at("sys"), proc: at("proc") };
            let machine = Self { roots, root };
            for directory in [
                "sys/bus/fsl-mc/drivers/vfio-fsl-mc",
                "sys/bus/fsl-mc/drivers/fsl_mc_dprc",
                "sys/bus/fsl-mc/devices/dprc.2/dpio.3",
                "sys/bus/fsl-mc/devices/dprc.2/dpni.1",
                "sys/bus/fsl-mc/devices/dprc.2/power",
                "sys/bus/fsl-mc/devices/dpni.1",
                "sys/bus/fsl-mc/devices/dpio.3",
                "sys/module/vfio_iommu_type1",
                "sys/kernel/iommu_groups/7",
                "dev/vfio",
                "proc/self",
            ] {
                fs::create_dir_all(at(directory)).expect(directory);
            }
            for object in ["dprc.2", "dpni.1", "dpio.3"] {
                machine.bind(object, "vfio-fsl-mc");
            }
            symlink("../../../../kernel/iommu_groups/7", machine.device("dprc.2/iommu_group"))
                .expect("a link");
            machine.write("dev/vfio/vfio", "");
            machine.write("dev/vfio/7", "");
            machine.write("proc/self/status", "Name:\tringway\nCapEff:\t0000000000000000\n");
            machine.limit("unlimited");
            machine
        }

        fn device(&self, rest: &str) -> PathBuf {
            self.roots.sys.join("bus/fsl-mc/devices").join(rest)
        }

        fn bind(&self, object: &str, driver: &str) {
            let link = self.device(object).join("driver");
            let _ = fs::remove_file(&link);
            symlink(format!("../../drivers/{driver}"), link).expect("a link");
        }

        fn write(&self, path: &str, text: &str) {
            fs::write(self.root.path().join(path), text).expect(path);
        }

        fn remove(&self, path: &str) {
            let path = self.root.path().join(path);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.expect("it was there");
        }

        fn limit(&self, bytes: &str) {
            let text = format!(
                "Limit  Soft  Hard  Units\nMax locked memory         {bytes}      unlimited  bytes\n"
            );
            self.write("proc/self/limits", &text);
        }

        fn obstacles(&self) -> Vec<Obstacle> {
            obstacles(&self.roots, CONTAINER.parse().expect("a name"), 64 << 20)
        }
    }

    #[test]
    fn nothing_is_in_the_way_of_a_container_that_is_ready() {
        assert_eq!(Machine::ready().obstacles(), []);
    }

    #[test]
    fn objects_are_the_directories_that_are_called_like_objects() {
        let objects = Machine::ready().roots.objects(CONTAINER.parse().unwrap()).expect("readable");
        assert_eq!(objects.iter().map(ToString::to_string).collect::<Vec<_>>(), ["dpio.3", "dpni.1"]);
    }

    #[test]
    fn a_machine_without_the_bus_is_said_to_be_one() {
        let machine = Machine::ready();
        machine.remove("sys/bus");
        assert!(matches!(&machine.obstacles()[..], [Obstacle::NoBus(_)]));
    }

    #[test]
    fn a_missing_container_is_said_with_those_that_exist() {
        let machine = Machine::ready();
        fs::rename(machine.device("dprc.2"), machine.device("dprc.4")).expect("renamed");
        let found = machine.obstacles();
        let [obstacle @ Obstacle::NoContainer { .. }] = &found[..] else { panic!("{found:?}") };
        assert_eq!(obstacle.to_string(), "dprc.2 doesn't exist (there are dprc.4)");
    }

    #[test]
    fn missing_modules_are_named() {
        let machine = Machine::ready();
        machine.remove("sys/bus/fsl-mc/drivers/vfio-fsl-mc");
        machine.remove("sys/module/vfio_iommu_type1");
        machine.remove("dev/vfio/vfio");
        let found = machine.obstacles();
        let vfio = machine.roots.vfio();
        assert_eq!(found, [Obstacle::NoVfioDriver, Obstacle::NoDeviceFile(vfio), Obstacle::NoIommuDriver]);
        assert!(found[0].remedy().contains("modprobe vfio-fsl-mc"));
        assert!(found[1].remedy().contains("modprobe vfio "));
        assert!(found[2].remedy().contains("modprobe vfio_iommu_type1"));
    }

    #[test]
    fn a_container_of_another_driver_is_to_be_bound() {
        let machine = Machine::ready();
        machine.bind("dprc.2", "fsl_mc_dprc");
        machine.remove("dev/vfio/7");
        let found = machine.obstacles();
        let [obstacle @ Obstacle::NotBound { .. }] = &found[..] else { panic!("{found:?}") };
        assert_eq!(obstacle.to_string(), "dprc.2 is bound to fsl_mc_dprc, not to vfio-fsl-mc");
        assert!(obstacle.remedy().contains("echo dprc.2 > /sys/bus/fsl-mc/drivers/vfio-fsl-mc/bind"));
    }

    #[test]
    fn an_object_of_another_driver_spoils_the_group() {
        let machine = Machine::ready();
        machine.bind("dpni.1", "fsl_dpaa2_eth");
        let found = machine.obstacles();
        assert!(matches!(&found[..], [Obstacle::NotBound { object, .. }] if object.to_string() == "dpni.1"));
    }

    #[test]
    fn a_container_without_iommu_group_cannot_be_opened() {
        let machine = Machine::ready();
        machine.remove("sys/bus/fsl-mc/devices/dprc.2/iommu_group");
        assert!(matches!(&machine.obstacles()[..], [Obstacle::NoIommuGroup { .. }]));
        let opened = super::super::VfioBus::open(&machine.roots, CONTAINER.parse().unwrap());
        assert!(matches!(opened, Err(OpenError::Obstacle(Obstacle::NoIommuGroup { .. }))));
    }

    #[test]
    fn a_small_memlock_limit_counts_unless_the_process_is_exempt() {
        let machine = Machine::ready();
        machine.limit("8388608");
        assert_eq!(machine.obstacles(), [Obstacle::Memlock { limit: 8 << 20, needed: 64 << 20 }]);
        assert!(machine.obstacles()[0].remedy().contains("ulimit -l 65536"));
        machine.write("proc/self/status", "CapEff:\t000001ffffffffff\n");
        assert_eq!(machine.obstacles(), []);
    }

    #[test]
    fn the_process_that_has_a_group_is_named() {
        let machine = Machine::ready();
        for process in ["1", "42"] {
            fs::create_dir_all(machine.roots.proc.join(process).join("fd")).expect("a directory");
        }
        symlink(machine.roots.group(7), machine.roots.proc.join("42/fd/9")).expect("a link");
        machine.write("proc/42/comm", "dpdk-testpmd\n");
        let busy = opening(
            &machine.roots,
            &machine.roots.group(7),
            Some(7),
            io::Error::from_raw_os_error(libc::EBUSY),
        );
        assert_eq!(
            busy.to_string(),
            "IOMMU group 7 is in use by process 42 (dpdk-testpmd); end the process that has it (`dpdk-testpmd`, process \
             42), or give the switch another container"
        );
    }

    #[test]
    fn what_opening_says_is_translated() {
        let machine = Machine::ready();
        let path = machine.roots.group(7);
        let opening = |errno| opening(&machine.roots, &path, Some(7), io::Error::from_raw_os_error(errno));
        assert!(matches!(opening(libc::ENOENT), OpenError::Obstacle(Obstacle::NoDeviceFile(_))));
        assert!(matches!(opening(libc::EACCES), OpenError::Obstacle(Obstacle::NoPermission(_))));
        assert!(matches!(opening(libc::EIO), OpenError::Bus(_)));
    }
}
