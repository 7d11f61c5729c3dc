//! The words a configuration is made of: each type holds only values that make sense.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

/// Why a text or number is not a value of the type: what is wrong, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What is wrong with it.
    pub what: String,
    /// What would be right.
    pub allowed: String,
}

impl Invalid {
    pub(crate) fn new(what: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { what: what.into(), allowed: allowed.into() }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (allowed: {})", self.what, self.allowed)
    }
}

impl std::error::Error for Invalid {}

/// What a name may consist of.
pub(crate) const NAME_RULE: &str = "a letter or `_`, then letters, digits, `_`, `-` or `.`, at most 63 characters, and no word of the flow syntax";

/// Port names that flow strings use for something else.
const RESERVED: &[&str] =
    &["in_port", "table", "normal", "flood", "all", "controller", "local", "any", "none", "drop", "unset"];

fn check_name(text: &str) -> Result<(), Invalid> {
    let mut bytes = text.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !starts || text.len() > 63 || !bytes.all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
        return Err(Invalid::new(format!("`{}` is no name", shorten(text)), NAME_RULE));
    }
    if RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text)) {
        return Err(Invalid::new(format!("`{text}` has a meaning of its own in flow strings"), NAME_RULE));
    }
    Ok(())
}

/// A file's text in a message: not all of a megabyte, and no control characters.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

macro_rules! name_type {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                check_name(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )+};
}

name_type! {
    /// The name of a port. A letter or `_` first, so that it can't be taken for a port number in a flow string.
    PortName;
    /// The name of a bridge.
    BridgeName;
    /// The name of a guest that Ringway itself plays.
    GuestName;
    /// The name of a partition of a port's queues.
    PartitionName;
}

macro_rules! object_type {
    ($($(#[doc = $doc:literal])+ $name:ident = $prefix:literal;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(u32);

        impl $name {
            /// What is allowed.
            pub(crate) const RULE: &str = concat!("\"", $prefix, ".\" and a number");

            /// Its number.
            pub const fn number(self) -> u32 {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                let digits = text.strip_prefix(concat!($prefix, ".")).filter(|digits| {
                    (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
                });
                let number = digits.and_then(|digits| digits.parse::<u16>().ok());
                let invalid = || Invalid::new(format!(concat!("`{}` is no ", $prefix), shorten(text)), Self::RULE);
                number.map(|number| Self(number.into())).ok_or_else(invalid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, ".{}"), self.0)
            }
        }
    )+};
}

object_type! {
    /// A container of DPAA2 objects.
    Dprc = "dprc";
    /// A network interface of DPAA2.
    Dpni = "dpni";
    /// A buffer pool of DPAA2.
    Dpbp = "dpbp";
}

/// The name of a kernel network interface: 1 to 15 bytes without `/`, `:` and white space.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct IfName(String);

impl IfName {
    /// What is allowed.
    pub(crate) const RULE: &str = "1 to 15 printable characters without `/`, `:` and spaces";

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fine = (1..=15).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
            && text != "."
            && text != "..";
        if fine {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new(format!("`{}` can't name a network interface", shorten(text)), Self::RULE))
        }
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The name of a network namespace, as `ip netns` lists it (a file in `/run/netns`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct NetnsName(String);

impl NetnsName {
    /// What is allowed.
    pub(crate) const RULE: &str = "the name of a network namespace as `ip netns list` prints it, without `/`";

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetnsName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fine = (1..=255).contains(&text.len())
            && !text.contains(['/', '\0'])
            && !text.chars().any(char::is_control)
            && text != "."
            && text != "..";
        if fine {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new(format!("`{}` can't name a network namespace", shorten(text)), Self::RULE))
        }
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

macro_rules! number_type {
    ($($(#[doc = $doc:literal])+ $name:ident($int:ty) = $range:expr, $what:literal;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name($int);

        impl $name {
            /// The values there are.
            pub const RANGE: std::ops::RangeInclusive<$int> = $range;
            pub(crate) const WHAT: &str = $what;

            /// The value, if it is in range.
            pub const fn new(value: $int) -> Option<Self> {
                if value >= *Self::RANGE.start() && value <= *Self::RANGE.end() { Some(Self(value)) } else { None }
            }

            /// The number.
            pub const fn get(self) -> $int {
                self.0
            }
        }

        impl TryFrom<i64> for $name {
            type Error = $crate::types::Invalid;

            fn try_from(value: i64) -> Result<Self, $crate::types::Invalid> {
                <$int>::try_from(value).ok().and_then(Self::new).ok_or_else(|| {
                    let (first, last) = (Self::RANGE.start(), Self::RANGE.end());
                    $crate::types::Invalid::new(
                        format!("{value} is no {}", Self::WHAT),
                        format!("{first} to {last}"),
                    )
                })
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.0, f)
            }
        }
    )+};
}
pub(crate) use number_type;

number_type! {
    /// A processor, numbered as Linux does.
    CpuId(u16) = 0..=1023, "processor number";
    /// A VLAN identifier; 0 stands for frames without one (untagged or priority-tagged), as in OVS.
    VlanId(u16) = 0..=4094, "VLAN identifier";
    /// A port's number in flow strings and tables.
    PortNumber(u16) = 1..=65279, "port number";
    /// The longest IP packet a port takes, in bytes (the frame is 14 bytes longer, plus VLAN tags).
    Mtu(u16) = 68..=9000, "MTU";
    /// Pairs of one receive and one transmit queue.
    QueuePairs(u16) = 1..=8, "number of queue pairs";
}

impl Mtu {
    /// That of Ethernet.
    pub const ETHERNET: Mtu = Mtu(1500);
}

/// An Ethernet address of one station (not multicast, not zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    pub(crate) const RULE: &str = "a unicast address such as `02:00:00:00:00:01`";

    /// The address, if it is that of one station.
    pub fn new(bytes: [u8; 6]) -> Option<Self> {
        (bytes[0] & 1 == 0 && bytes != [0; 6]).then_some(Self(bytes))
    }

    /// Its bytes as on the wire.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddr {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let address = ethernet_bytes(text).and_then(Self::new);
        address.ok_or_else(|| {
            Invalid::new(format!("`{}` is no station's Ethernet address", shorten(text)), Self::RULE)
        })
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        EtherAddr(self.0).fmt(f)
    }
}

/// An Ethernet address of one station or of a group (not zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EtherAddr([u8; 6]);

impl EtherAddr {
    pub(crate) const RULE: &str = "an Ethernet address such as `02:00:00:00:00:01` or `01:00:5e:00:00:05`";

    /// Its bytes as on the wire.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// Whether it is that of a group, broadcast included.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl From<MacAddr> for EtherAddr {
    fn from(address: MacAddr) -> Self {
        Self(address.0)
    }
}

impl FromStr for EtherAddr {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let address = ethernet_bytes(text).filter(|bytes| *bytes != [0; 6]).map(Self);
        address.ok_or_else(|| Invalid::new(format!("`{}` is no Ethernet address", shorten(text)), Self::RULE))
    }
}

impl fmt::Display for EtherAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Six bytes in hexadecimal digits with colons between them.
fn ethernet_bytes(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

impl Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A host's address and the length of its network's prefix, such as `10.0.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostAddr {
    /// The address.
    pub addr: IpAddr,
    /// Bits of the network's prefix: at most 32 or 128.
    pub prefix: u8,
}

impl HostAddr {
    pub(crate) const RULE: &str = "an address with the length of its network's prefix, such as `10.0.0.1/24`";
}

impl FromStr for HostAddr {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let (addr, prefix) = text.split_once('/')?;
            let addr: IpAddr = addr.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let longest = if addr.is_ipv4() { 32 } else { 128 };
            let a_host = !addr.is_unspecified() && !addr.is_multicast();
            (prefix <= longest && a_host).then_some(HostAddr { addr, prefix })
        };
        parse().ok_or_else(|| Invalid::new(format!("`{}` is no host's address", shorten(text)), Self::RULE))
    }
}

impl fmt::Display for HostAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

impl Serialize for HostAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Queues of a port that follow each other: `3`, or `4-7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueRange {
    first: u16,
    last: u16,
}

impl QueueRange {
    /// The last queue a port can have.
    pub const LAST: u16 = 127;
    pub(crate) const RULE: &str = "a queue (0 to 127) or a range such as \"4-7\"";

    /// The queues from `first` to `last`.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last && last <= Self::LAST).then_some(Self { first, last })
    }

    pub(crate) fn from_number(number: i64) -> Result<Self, Invalid> {
        let queue = u16::try_from(number).ok().and_then(|queue| Self::new(queue, queue));
        queue.ok_or_else(|| Invalid::new(format!("there is no queue {number}"), Self::RULE))
    }

    /// The first queue.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last queue.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many there are: at least one.
    pub const fn count(self) -> u16 {
        self.last - self.first + 1
    }

    /// Whether both have a queue.
    pub const fn overlaps(self, other: QueueRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for QueueRange {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| {
            let is_number = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>().ok().filter(|_| is_number)
        };
        let range = number(first).zip(number(last)).and_then(|(first, last)| Self::new(first, last));
        range.ok_or_else(|| Invalid::new(format!("`{}` is no range of queues", shorten(text)), Self::RULE))
    }
}

impl fmt::Display for QueueRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count() {
            1 => write!(f, "{}", self.first),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl Serialize for QueueRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Who gets a partition's frames, as the file says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OwnerWord {
    /// `bridge`: the bridge of the divided port.
    Bridge,
    /// `port:NAME`: a vhost-user port.
    Port(PortName),
    /// `vm:NAME`: a virtual machine.
    Vm(String),
}

impl OwnerWord {
    pub(crate) const RULE: &str = "\"bridge\", \"port:\" and a port's name, or \"vm:\" and a machine's";
}

impl FromStr for OwnerWord {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.split_once(':') {
            None if text == "bridge" => Ok(OwnerWord::Bridge),
            Some(("port", name)) => name.parse().map(OwnerWord::Port),
            Some(("vm", name)) if !name.is_empty() => Ok(OwnerWord::Vm(name.to_owned())),
            _ => Err(Invalid::new(format!("`{}` is no owner", shorten(text)), Self::RULE)),
        }
    }
}

impl fmt::Display for OwnerWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OwnerWord::Bridge => f.write_str("bridge"),
            OwnerWord::Port(name) => write!(f, "port:{name}"),
            OwnerWord::Vm(name) => write!(f, "vm:{name}"),
        }
    }
}

/// The path of a Unix socket: short enough for the kernel (107 bytes).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SocketPath(PathBuf);

impl SocketPath {
    pub(crate) const RULE: &str = "the path of a Unix socket, at most 107 bytes";

    /// The path, if the kernel takes it.
    ///
    /// # Errors
    /// It is empty, longer than 107 bytes or holds a NUL byte.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, Invalid> {
        let path = path.into();
        let bytes = path.as_os_str().as_encoded_bytes();
        if (1..=107).contains(&bytes.len()) && !bytes.contains(&0) {
            return Ok(Self(path));
        }
        let len = bytes.len();
        Err(Invalid::new(format!("a socket can't have this path ({len} bytes)"), Self::RULE))
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for SocketPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// Permission bits of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileMode(u32);

impl FileMode {
    pub(crate) const RULE: &str = "an octal string such as \"0600\" or \"0660\"";
    /// Read and write for the owner, nothing for others.
    pub const OWNER_ONLY: FileMode = FileMode(0o600);

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for FileMode {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(text, 8) {
            Ok(bits) if digits && bits <= 0o777 => Ok(Self(bits)),
            _ => Err(Invalid::new(format!("`{}` is no file mode", shorten(text)), Self::RULE)),
        }
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for FileMode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Processors, as Linux lists them: `0-3,8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSet(Vec<std::ops::RangeInclusive<u16>>);

impl CpuSet {
    /// Processors 0 to `count` - 1.
    pub fn first(count: u16) -> Self {
        Self(if count == 0 { Vec::new() } else { vec![0..=count - 1] })
    }

    /// Whether this one is there.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0.iter().any(|range| range.contains(&cpu.get()))
    }
}

impl FromStr for CpuSet {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        };
        let ranges: Option<Vec<_>> =
            text.trim().split(',').filter(|part| !part.is_empty()).map(range).collect();
        ranges
            .map(Self)
            .ok_or_else(|| Invalid::new(format!("`{}` is no list of processors", shorten(text)), "`0-3,8`"))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_flow_strings_would_misread_are_refused() {
        for bad in ["", "1", "7up", "in_port", "NORMAL", "a b", "a,b", "a:b", "ü", &"x".repeat(64)] {
            assert!(bad.parse::<PortName>().is_err(), "{bad:?}");
        }
        for good in ["vm0", "_x", "eth0.100", "tap-1"] {
            assert_eq!(good.parse::<PortName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn addresses_of_groups_are_no_stations() {
        assert!("ff:ff:ff:ff:ff:ff".parse::<MacAddr>().is_err());
        assert!("00:00:00:00:00:00".parse::<MacAddr>().is_err());
        for bad in ["02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "+2:00:00:00:00:01", "x"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad:?}");
        }
        assert_eq!("02:00:00:00:00:aB".parse::<MacAddr>().unwrap().to_string(), "02:00:00:00:00:ab");
    }

    #[test]
    fn ranges_end_where_they_say() {
        assert!(VlanId::new(4094).is_some() && VlanId::new(4095).is_none());
        assert!(Mtu::new(67).is_none() && Mtu::new(68).is_some());
        assert!(
            PortNumber::new(0).is_none()
                && PortNumber::new(65279).is_some()
                && PortNumber::new(65280).is_none()
        );
        assert!(VlanId::try_from(-1).is_err() && VlanId::try_from(65536 + 5).is_err());
    }

    #[test]
    fn modes_are_octal_permission_bits() {
        assert_eq!("0660".parse::<FileMode>().unwrap().bits(), 0o660);
        assert_eq!("600".parse::<FileMode>().unwrap().to_string(), "0600");
        for bad in ["", "6", "0680", "1777", "+600", "rw-"] {
            assert!(bad.parse::<FileMode>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn processor_lists_read_as_linux_prints_them() {
        let set: CpuSet = "0-2,8\n".parse().unwrap();
        let has = |n| set.contains(CpuId::new(n).unwrap());
        assert!(has(0) && has(2) && !has(3) && has(8));
        assert_eq!(set.to_string(), "0-2,8");
    }

    #[test]
    fn ranges_of_queues_are_numbers_in_order() {
        assert_eq!("4-7".parse::<QueueRange>().unwrap(), QueueRange::new(4, 7).unwrap());
        assert_eq!("4-4".parse::<QueueRange>().unwrap().to_string(), "4");
        for bad in ["", "7-4", "128", "0-128", "-1", "1-", "+1", "a", "0001"] {
            assert!(bad.parse::<QueueRange>().is_err(), "{bad:?}");
        }
        let of = |text: &str| text.parse::<QueueRange>().unwrap();
        assert!(of("0-3").overlaps(of("3-5")) && !of("0-3").overlaps(of("4-5")));
    }

    #[test]
    fn owners_read_as_they_print() {
        for word in ["bridge", "port:vm0", "vm:one"] {
            assert_eq!(word.parse::<OwnerWord>().unwrap().to_string(), word);
        }
        for bad in ["", "vm", "vm:", "port:", "port:1", "bridge:br0", "none"] {
            assert!(bad.parse::<OwnerWord>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn host_addresses_need_a_prefix_that_fits() {
        assert!("10.0.0.1/24".parse::<HostAddr>().is_ok() && "fd00::1/64".parse::<HostAddr>().is_ok());
        for bad in ["10.0.0.1", "10.0.0.1/33", "fd00::1/129", "224.0.0.1/24", "0.0.0.0/0", "x/1"] {
            assert!(bad.parse::<HostAddr>().is_err(), "{bad:?}");
        }
    }
}
