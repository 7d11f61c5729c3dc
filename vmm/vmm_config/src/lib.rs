//! What a virtual machine is to be: types in which it is written, and what can be said about it without starting it.
//!
//! A [`Vm`] is made by whoever reads a file (`switch_config` for `[[vm]]`), and handed to the process that becomes the
//! machine as JSON. No I/O, no clock.
//!
//! ```
//! use vmm_config::{Kernel, MemorySize};
//!
//! assert_eq!("64M".parse::<MemorySize>().unwrap().bytes(), 64 << 20);
//! assert!(matches!("builtin:forward".parse(), Ok(Kernel::Builtin(_))));
//! assert!("builtin:fly".parse::<Kernel>().unwrap_err().to_string().contains("reflect"));
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Its name, unique on this host's control directory.
    pub name: VmName,
    /// What it starts.
    pub kernel: Kernel,
    /// Initial file system.
    pub initrd: Option<PathBuf>,
    /// Command line, as the user gave it.
    pub command_line: String,
    /// Processors.
    pub cpus: CpuCount,
    /// Host processors: that of machine processor `n` is `pins[n % pins.len()]`; not pinned if empty.
    pub pins: Vec<u32>,
    /// Memory.
    pub memory: MemorySize,
    /// Whether memory is to come from huge pages.
    pub huge_pages: bool,
    /// How the guest reaches virtio devices.
    pub transport: Transport,
    /// Network devices, in the order of their numbers.
    pub net: Vec<Net>,
    /// Disks, in the order of their numbers, behind the network devices.
    pub disks: Vec<Disk>,
    /// Whether it has a virtio console beside the serial port.
    pub virtio_console: bool,
    /// Whether it has an entropy device.
    pub rng: bool,
    /// The control group its process joins, as a folder of cgroup file systems.
    pub cgroup: Option<PathBuf>,
    /// The user its process becomes.
    pub user: Option<String>,
    /// The folder that its process sees as the root of the file system.
    pub chroot: Option<PathBuf>,
    /// When it is started again.
    pub restart: Restart,
    /// Its control socket.
    pub control: PathBuf,
    /// Where its process writes its log and the guest's console is recorded; nowhere if `None`.
    pub log: Option<PathBuf>,
}

impl Vm {
    /// The sockets that its devices connect to.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        let net = self.net.iter().filter_map(|net| match &net.backend {
            NetBackend::VhostUser { socket } => Some(socket.as_path()),
            _ => None,
        });
        let disks = self.disks.iter().filter_map(|disk| match &disk.backend {
            DiskBackend::VhostUserBlk { socket } => Some(socket.as_path()),
            _ => None,
        });
        net.chain(disks)
    }
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// The switch's port it is one side of; with a back-end of the kernel's, the TAP device.
    pub port: String,
    /// What moves its frames.
    pub backend: NetBackend,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Queue pairs.
    pub queues: u16,
    /// Entries of a queue at most.
    pub queue_size: u16,
    /// Longest IP packet; not told to the guest if `None`.
    pub mtu: Option<u16>,
}

/// What moves a network device's frames.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetBackend {
    /// A switch works on the guest's rings.
    VhostUser {
        /// Where it listens.
        socket: PathBuf,
    },
    /// A TAP device; the processor's thread that rings moves what the guest sends.
    TapInline,
    /// A TAP device; a thread of its own moves frames.
    TapIothread,
    /// A TAP device; the host's kernel works on the guest's rings.
    VhostNet,
}

impl NetBackend {
    /// Whether a switch is at the other end, not a TAP device.
    pub fn is_switch(&self) -> bool {
        matches!(self, NetBackend::VhostUser { .. })
    }
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// What does its work.
    pub backend: DiskBackend,
    /// Queues, 1 to 8; one without a thread of its own has 1.
    pub queues: u16,
}

/// What does a disk's work.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DiskBackend {
    /// The processor that asks.
    Inline(Image),
    /// A thread of its own.
    Dataplane {
        /// What is on the disk.
        image: Image,
        /// The host's processor the thread is pinned to; not pinned if `None`.
        pin: Option<u32>,
    },
    /// Another process.
    VhostUserBlk {
        /// Where it listens.
        socket: PathBuf,
    },
}

/// What is on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// A file, byte for byte, or a block device.
    pub path: PathBuf,
    /// It is never written.
    pub read_only: bool,
    /// Past the host's page cache.
    pub direct: bool,
}

/// Where the control socket of machine `name` is: beside that of its switch, named after both.
pub fn control_path(switch_control: &Path, name: &str) -> PathBuf {
    switch_control.with_file_name(format!("{}{name}.sock", control_prefix(switch_control)))
}

/// Where the socket of a port is that is made with a machine: beside its switch's control socket, and no machine's.
pub fn port_path(switch_control: &Path, port: &str) -> PathBuf {
    let stem = switch_control.file_stem().unwrap_or_default().to_string_lossy();
    switch_control.with_file_name(format!("{stem}-port-{port}.sock"))
}

/// The name of the machine whose control socket has this file name, if it belongs to the switch.
pub fn name_of_control<'f>(switch_control: &Path, file_name: &'f str) -> Option<&'f str> {
    file_name.strip_prefix(&control_prefix(switch_control))?.strip_suffix(".sock")
}

fn control_prefix(switch_control: &Path) -> String {
    format!("{}-vm-", switch_control.file_stem().unwrap_or_default().to_string_lossy())
}

/// A word of the file that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{text}` (allowed: {allowed})")]
pub struct Invalid {
    what: &'static str,
    text: String,
    allowed: String,
}

impl Invalid {
    fn new(what: &'static str, text: &str, allowed: impl Into<String>) -> Invalid {
        Invalid { what, text: text.chars().take(60).collect(), allowed: allowed.into() }
    }

    /// What is wrong, without what would be right.
    pub fn problem(&self) -> String {
        format!("{} `{}`", self.what, self.text)
    }

    /// What would be right.
    pub fn allowed(&self) -> &str {
        &self.allowed
    }
}

/// A machine's name: letters, digits, `-`, `_`, `.`; it becomes part of file names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

impl VmName {
    /// Most bytes of a name: control sockets' paths are short.
    pub const BYTES_MAX: usize = 32;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<VmName, Invalid> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let good = (1..=Self::BYTES_MAX).contains(&text.len())
            && text.chars().all(plain)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if good {
            Ok(VmName(text.to_owned()))
        } else {
            Err(Invalid::new("a machine can't be called", text, "1 to 32 letters, digits, `-`, `_`, `.`"))
        }
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for VmName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<VmName, Invalid> {
        text.parse()
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> String {
        name.0
    }
}

/// What a machine starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Kernel {
    /// A file: ELF or bzImage (x86-64), Image (64-bit Arm).
    File(PathBuf),
    /// The micro-guest.
    Builtin(BuiltinMode),
}

/// What the micro-guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BuiltinMode {
    /// Sends each frame back where it came from.
    Reflect,
    /// Sends what it receives on one port out of the other.
    Forward,
    /// Sends numbered frames and counts those that come back.
    Generate,
    /// Takes frames and counts.
    Sink,
    /// Reads its first disk, again and again.
    Read,
}

impl BuiltinMode {
    /// Every mode.
    pub const ALL: [BuiltinMode; 5] = [
        BuiltinMode::Reflect,
        BuiltinMode::Forward,
        BuiltinMode::Generate,
        BuiltinMode::Sink,
        BuiltinMode::Read,
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            BuiltinMode::Reflect => "reflect",
            BuiltinMode::Forward => "forward",
            BuiltinMode::Generate => "generate",
            BuiltinMode::Sink => "sink",
            BuiltinMode::Read => "read",
        }
    }
}

const BUILTIN: &str = "builtin:";

impl FromStr for Kernel {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Kernel, Invalid> {
        let Some(word) = text.strip_prefix(BUILTIN) else {
            return match text {
                "" => Err(Invalid::new("no kernel", text, "a path, or builtin:MODE")),
                path => Ok(Kernel::File(path.into())),
            };
        };
        match BuiltinMode::ALL.into_iter().find(|mode| mode.word() == word) {
            Some(mode) => Ok(Kernel::Builtin(mode)),
            None => {
                let allowed = BuiltinMode::ALL.map(|mode| format!("{BUILTIN}{}", mode.word())).join(", ");
                Err(Invalid::new("unknown built-in guest", text, allowed))
            }
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kernel::File(path) => path.display().fmt(f),
            Kernel::Builtin(mode) => write!(f, "{BUILTIN}{}", mode.word()),
        }
    }
}

impl TryFrom<String> for Kernel {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Kernel, Invalid> {
        text.parse()
    }
}

impl From<Kernel> for String {
    fn from(kernel: Kernel) -> String {
        kernel.to_string()
    }
}

/// Bytes of memory, a multiple of 2 MiB. Written with a unit: `64M`, `2G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemorySize(u64);

impl MemorySize {
    /// Least and most bytes.
    const RANGE: std::ops::RangeInclusive<u64> = 16 << 20..=1 << 40;
    const UNIT: u64 = 2 << 20;

    /// Bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for MemorySize {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<MemorySize, Invalid> {
        let invalid = || {
            Invalid::new(
                "no size of memory:",
                text,
                "a number with M, G or T, from 16M to 1T, a multiple of 2M",
            )
        };
        let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let (digits, unit) = text.split_at(at);
        let shift = match unit {
            "M" | "MiB" => 20,
            "G" | "GiB" => 30,
            "T" | "TiB" => 40,
            _ => return Err(invalid()),
        };
        let number: u64 = digits.parse().map_err(|_| invalid())?;
        let bytes = number.checked_mul(1 << shift).ok_or_else(invalid)?;
        let good = Self::RANGE.contains(&bytes) && bytes.is_multiple_of(Self::UNIT);
        if good { Ok(MemorySize(bytes)) } else { Err(invalid()) }
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1 << 30) {
            write!(f, "{}G", self.0 >> 30)
        } else {
            write!(f, "{}M", self.0 >> 20)
        }
    }
}

impl TryFrom<String> for MemorySize {
    type Error = Invalid;

    fn try_from(text: String) -> Result<MemorySize, Invalid> {
        text.parse()
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> String {
        size.to_string()
    }
}

/// How many processors, 1 to 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct CpuCount(u32);

impl CpuCount {
    /// Least and most processors.
    pub const RANGE: std::ops::RangeInclusive<i64> = 1..=32;

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for CpuCount {
    type Error = Invalid;

    fn try_from(number: i64) -> Result<CpuCount, Invalid> {
        if Self::RANGE.contains(&number) {
            Ok(CpuCount(number as u32))
        } else {
            Err(Invalid::new("no number of processors:", &number.to_string(), "1 to 32"))
        }
    }
}

impl From<CpuCount> for i64 {
    fn from(count: CpuCount) -> i64 {
        count.0.into()
    }
}

/// How the guest reaches virtio devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// They are on the PCI bus.
    #[default]
    Pci,
    /// Each has registers in memory and an interrupt line.
    Mmio,
}

/// When a machine that has ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    Never,
    /// When it crashed: its process died, or the guest did.
    #[default]
    OnFailure,
    /// Also when the guest has powered off.
    Always,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_bounds() {
        let size = |text: &str| text.parse::<MemorySize>().map(MemorySize::bytes);
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("3GiB"), Ok(3 << 30));
        for bad in ["", "64", "M", "64K", "15M", "17M", "2T", "99999999999999999999G", "-1G", "64 M"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for good in ["64M", "2G", "1T"] {
            assert_eq!(good.parse::<MemorySize>().unwrap().to_string().parse::<MemorySize>(), good.parse());
        }
    }

    #[test]
    fn names_are_fit_for_file_names() {
        assert!("vm-1.test_x".parse::<VmName>().is_ok());
        for bad in ["", "a/b", "..", ".hidden", "-x", "a b", "ä", &"x".repeat(33)] {
            assert!(bad.parse::<VmName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn control_sockets_lie_beside_the_switch_and_tell_the_name() {
        let switch = Path::new("/run/ringway/a.sock");
        let path = control_path(switch, "vm1");
        assert_eq!(path, Path::new("/run/ringway/a-vm-vm1.sock"));
        let file_name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(name_of_control(switch, file_name), Some("vm1"));
        assert_eq!(name_of_control(switch, "a.sock"), None);
        assert_eq!(
            name_of_control(switch, port_path(switch, "p").file_name().unwrap().to_str().unwrap()),
            None
        );
        assert_eq!(name_of_control(Path::new("/run/b.sock"), file_name), None);
    }

    #[test]
    fn kernels_are_paths_or_modes() {
        assert_eq!("vmlinux".parse(), Ok(Kernel::File("vmlinux".into())));
        for mode in BuiltinMode::ALL {
            let kernel = Kernel::Builtin(mode);
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
        let error = "builtin:nothing".parse::<Kernel>().unwrap_err();
        let allowed = "builtin:reflect, builtin:forward, builtin:generate, builtin:sink, builtin:read";
        assert_eq!(error.allowed(), allowed);
    }

    #[test]
    fn processors_are_counted_from_1_to_32() {
        assert!(CpuCount::try_from(0).is_err() && CpuCount::try_from(33).is_err());
        assert_eq!(CpuCount::try_from(32).unwrap().get(), 32);
    }
}
