//! What the command line takes.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use dpaa2_defs::mc::object::ObjectId;
use switch_config::{DEFAULT_CONTROL_SOCKET, HostAddr, MacAddr};
use vmm_config::MemorySize;

const EXAMPLES: &str = "\
Examples:
  ringway check configs/demo.toml          is the file right?
  ringway run configs/demo.toml --for 10   run it for ten seconds, then print what passed
  ringway run /etc/ringway.toml            run until SIGTERM or Ctrl-C; SIGHUP reads the file again
  ringway show ports --watch               what passes the running switch's ports
  ringway flow add 'in_port=vm0,actions=output:vm1'

Exit codes:
  0  done; for `check`: every file is right
  1  a file is wrong, the switch refused or isn't there, or it failed; standard error says why
  2  the command line is wrong

Results go to standard output, log lines to standard error. RINGWAY_LOG chooses what is logged by module, such as
`info,vhost_user_port=debug`.";

/// A poll-mode virtual switch for virtual machines: vhost-user, TAP, OpenFlow-style rules.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, after_help = EXAMPLES, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub logging: LoggingArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct LoggingArgs {
    /// Log more; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log warnings only; twice for errors only, three times for nothing
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub quiet: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the switch that a file describes
    Run(RunArgs),
    /// Check files without running them; needs no privileges
    Check(CheckArgs),
    /// Show what a running switch does
    Show(ShowArgs),
    /// Change the rules of a running switch
    Flow(FlowArgs),
    /// Add ports to a running switch, or remove them
    Port(PortArgs),
    /// Divide the queues of a running switch's ports anew
    Partition(PartitionArgs),
    /// Have the running switch read its file again, as SIGHUP does
    Reload(SwitchArgs),
    /// Play a guest: a host, a generator, a reflector or a sink on a vhost-user socket
    Guest(Box<GuestArgs>),
    /// Show and control the virtual machines of a switch
    Vm(VmArgs),
    /// Look at DPAA2 hardware: containers, their objects, what is in the way of using them
    Fslmc(FslmcArgs),
    /// Print the JSON schema of the configuration file, for editors
    Schema,
    /// Print a script that completes this command in a shell
    #[command(
        after_help = "Example:\n  ringway completions bash > ~/.local/share/bash-completion/completions/ringway"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

const RUN_EXAMPLES: &str = "\
Examples:
  ringway run configs/demo.toml --for 10         with live rates on a terminal, tables at the end
  ringway run configs/demo.toml --for 10 --json  one JSON object on standard output at the end
  ringway run /etc/ringway.toml --take-over      upgrade: replace the running switch without a lost frame

Signals:
  SIGTERM, SIGINT  end: sockets are removed, the summary is printed
  SIGHUP           read the file again: only what differs is changed, or nothing if something can't be";

#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArgs {
    /// The configuration, TOML
    pub file: PathBuf,
    /// End after this many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    pub for_: Option<Duration>,
    /// Print the summary as JSON: ports, workers, guests
    #[arg(long)]
    pub json: bool,
    /// Go on where the switch is that runs with this control socket: its guests, devices, rules, addresses and
    /// counters. It ends; should this process fail to take over, it goes on
    #[arg(long)]
    pub take_over: bool,
}

const CHECK_EXAMPLES: &str = "\
Examples:
  ringway check /etc/ringway.toml
  ringway check configs/*.toml --json
  ringway check --diff /etc/ringway.toml              what SIGHUP would change in the running switch
  ringway check --diff --against old.toml new.toml    what changes between two files

Each mistake is printed as FILE:LINE:COLUMN: KEY: what is wrong (allowed: what would be right).
With --diff: `+` comes, `-` goes, `~` changes, `!` can't be changed while the switch runs (exit code 1).";

#[derive(Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
pub struct CheckArgs {
    /// The configurations, TOML
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print what would change in the running switch if it read the file now
    #[arg(long)]
    pub diff: bool,
    /// Print what would change compared with this file, not with the running switch
    #[arg(long, value_name = "FILE", requires = "diff")]
    pub against: Option<PathBuf>,
    /// The running switch's control socket; that of the file unless given
    #[arg(long, value_name = "PATH", requires = "diff", conflicts_with = "against")]
    pub socket: Option<PathBuf>,
    /// Don't ask whether this machine has the processors: the file is for another one
    #[arg(long)]
    pub any_machine: bool,
    /// Print an array with an object for each file: file, ok, errors, and diff if asked for
    #[arg(long)]
    pub json: bool,
}

/// Which running switch.
#[derive(Clone, Debug, Args)]
pub struct SwitchArgs {
    /// The switch's control socket
    #[arg(long, value_name = "PATH", global = true, default_value = DEFAULT_CONTROL_SOCKET)]
    pub socket: PathBuf,
    /// Take the control socket from this configuration
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "socket")]
    pub file: Option<PathBuf>,
}

const SHOW_EXAMPLES: &str = "\
Examples:
  ringway show ports --watch                 redrawn every second, with rates
  ringway show flows --bridge br0 --table 0
  ringway show workers --stages on           time the stages of the path (a little slower)
  ringway show ports --json | jq '.[] | {name, drops}'";

#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub struct ShowArgs {
    /// What to show
    pub what: What,
    /// Only of this bridge (flows, fdb)
    #[arg(long, value_name = "NAME")]
    pub bridge: Option<String>,
    /// Only of this table (flows)
    #[arg(long, value_name = "NUMBER")]
    pub table: Option<u8>,
    /// First switch the timing of the path's stages on (unless `off` is said) or off (workers)
    #[arg(long, value_name = "on|off", num_args = 0..=1, default_missing_value = "on")]
    pub stages: Option<OnOff>,
    /// Show it again every second, with rates for ports, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Print JSON: an array of rows (status and config: an object); with --watch a line each time
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub switch: SwitchArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The switch in short: bridges, and what it does without
    Status,
    /// Frames, bytes and drops by port
    Ports,
    /// Who owns which queues of ports, and what they got
    Partitions,
    /// Links and counters of DPAA2 interfaces, as the hardware says them
    Hardware,
    /// Rules with their counters
    Flows,
    /// Learned addresses
    Fdb,
    /// Poll loops: busy and idle, frames, cycles per frame
    Workers,
    /// Which cache decided how many frames
    Caches,
    /// The configuration in force, defaults included
    Config,
    /// Frames that rules sent to the controller; each is shown once
    Controller,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    /// Time them
    On,
    /// Don't
    Off,
}

const FLOW_EXAMPLES: &str = "\
Examples:
  ringway flow add 'priority=10,ip,nw_dst=10.0.0.0/24,actions=output:vm1'
  ringway flow mod 'in_port=vm0,actions=drop'
  ringway flow del 'in_port=vm0'
  ringway flow del --all --bridge br0

Rules are written as for ovs-ofctl. A change is in force when the command returns.";

#[derive(Debug, Args)]
#[command(after_help = FLOW_EXAMPLES)]
pub struct FlowArgs {
    #[command(subcommand)]
    pub change: FlowChange,
    /// The bridge; may be left out if there is only one
    #[arg(long, value_name = "NAME", global = true)]
    pub bridge: Option<String>,
    #[command(flatten)]
    pub switch: SwitchArgs,
}

#[derive(Debug, Subcommand)]
pub enum FlowChange {
    /// Add a rule; one with the same table, priority and match is replaced
    Add {
        /// The rule, such as `in_port=vm0,actions=output:vm1`
        flow: String,
    },
    /// Change the actions of the rules that match
    Mod {
        /// Match and new actions
        flow: String,
        /// Only the rule with exactly this match and priority
        #[arg(long)]
        strict: bool,
    },
    /// Remove the rules that match
    Del {
        /// The match, such as `in_port=vm0`
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        flow: Option<String>,
        /// Only the rule with exactly this match and priority
        #[arg(long)]
        strict: bool,
        /// Every rule
        #[arg(long, conflicts_with = "strict")]
        all: bool,
    },
}

const PORT_EXAMPLES: &str = "\
Examples:
  ringway port add vm2 bridge=br0 driver=vhost-user socket=/tmp/vm2.sock mode=server
  ringway port add tap0 bridge=br0 driver=tap device=tap0 tag=10
  ringway port del vm2

KEY=VALUE are the keys of [[port]] in a file. An added port is there until the switch ends or reads its file again.";

#[derive(Debug, Args)]
#[command(after_help = PORT_EXAMPLES)]
pub struct PortArgs {
    #[command(subcommand)]
    pub change: PortChange,
    #[command(flatten)]
    pub switch: SwitchArgs,
}

#[derive(Debug, Subcommand)]
pub enum PortChange {
    /// Add a port
    Add {
        /// Its name
        name: String,
        /// What it is to be, as in a file
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = assignment)]
        keys: Vec<(String, toml::Value)>,
    },
    /// Remove a port
    Del {
        /// Its name
        name: String,
    },
}

const PARTITION_EXAMPLES: &str = "\
Examples:
  ringway partition add vm1 port=wan matches=ip,nw_dst=10.1.0.1 queues=4-7 owner=port:vm1
  ringway partition add voice port=wan matches=ip,nw_tos=184 queues=8 owner=bridge --before vm1
  ringway partition mod vm1 port=wan 'matches=[\"ip,nw_dst=10.1.0.1\", \"arp,arp_tpa=10.1.0.1\"]' queues=4-7 owner=port:vm1
  ringway partition del voice

KEY=VALUE are the keys of [[partition]] in a file; a new one comes before the last one of its port, which takes the rest.
Changes are there until the switch ends or reads its file again.";

#[derive(Debug, Args)]
#[command(after_help = PARTITION_EXAMPLES)]
pub struct PartitionArgs {
    #[command(subcommand)]
    pub change: PartitionChange,
    #[command(flatten)]
    pub switch: SwitchArgs,
}

#[derive(Debug, Subcommand)]
pub enum PartitionChange {
    /// Add a partition
    Add {
        /// Its name
        name: String,
        /// What it is to be, as in a file
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = assignment)]
        keys: Vec<(String, toml::Value)>,
        /// The partition that it goes before; the port's last when left out
        #[arg(long, value_name = "NAME")]
        before: Option<String>,
    },
    /// Replace a partition by another one of the same name, in the same place
    Mod {
        /// Its name
        name: String,
        /// What it is to be, as in a file
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = assignment)]
        keys: Vec<(String, toml::Value)>,
    },
    /// Remove a partition
    Del {
        /// Its name
        name: String,
    },
}

const VM_EXAMPLES: &str = "\
Examples:
  ringway vm list
  ringway vm console vm1                 what the guest writes; Ctrl-] ends it
  ringway vm exits vm1 --watch           why and how long the guest's processors stopped
  ringway vm stop vm1                    power off; --force doesn't ask the guest

Machines are found beside their switch's control socket (--socket or --file says which), also while it doesn't run.";

#[derive(Debug, Args)]
#[command(after_help = VM_EXAMPLES)]
pub struct VmArgs {
    #[command(subcommand)]
    pub action: VmAction,
    #[command(flatten)]
    pub switch: SwitchArgs,
}

#[derive(Debug, Subcommand)]
pub enum VmAction {
    /// List the machines
    List {
        /// Print a JSON array of what `show` prints
        #[arg(long)]
        json: bool,
    },
    /// Show what a machine is and does
    Show {
        /// Its name
        name: String,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Attach to a machine's serial console; Ctrl-] ends it
    Console {
        /// Its name
        name: String,
        /// The console that is a virtio device instead
        #[arg(long)]
        virtio: bool,
    },
    /// Stop a machine's processors where they are
    Pause {
        /// Its name
        name: String,
    },
    /// Let them run on
    Resume {
        /// Its name
        name: String,
    },
    /// Power a machine off
    Stop {
        /// Its name
        name: String,
        /// Don't ask the guest
        #[arg(long)]
        force: bool,
    },
    /// Give a machine more memory while it runs
    AddMemory {
        /// Its name
        name: String,
        /// How much, such as 64M or 2G; a multiple of 2M
        size: MemorySize,
    },
    /// Start a machine's guest anew
    Reset {
        /// Its name
        name: String,
    },
    /// Show how often a machine's processors left the guest, why, and for how long
    Exits {
        /// Its name
        name: String,
        /// Begin to count anew afterwards
        #[arg(long)]
        reset: bool,
        /// Print a JSON array with an object for each processor; with --watch a line each time
        #[arg(long, conflicts_with = "prometheus")]
        json: bool,
        /// Print Prometheus metrics
        #[arg(long, conflicts_with = "watch")]
        prometheus: bool,
        /// Show it again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Become a machine, as described by JSON on standard input; what a switch starts for each `[[vm]]`
    #[command(hide = true)]
    Become,
    /// Keep machines running, as told on standard input; what a switch starts beside itself
    #[command(hide = true)]
    Keep,
}

const GUEST_EXAMPLES: &str = "\
Examples:
  ringway guest --socket /tmp/vm0.sock --mode host --address 10.0.0.1/24 --ping 10.0.0.2
  ringway guest --socket /tmp/vm0.sock --mode host --address 10.0.0.1/24 --stream-to 10.0.0.2 --for 10
  ringway guest --socket /tmp/vm0.sock --mode generate --rate 100000 --size 1514 --flows 16 --for 10 --json
  ringway guest --socket /tmp/vm1.sock --mode sink --server --packed

It is to the switch what a virtual machine is. It connects to the socket of a port with mode = \"server\" (or listens
for one with mode = \"client\"), waits for the switch as long as it takes, and ends on SIGINT, SIGTERM or --for.
Progress goes to standard error on a terminal, the report to standard output.";

#[derive(Debug, Args)]
#[command(after_help = GUEST_EXAMPLES)]
pub struct GuestArgs {
    /// The vhost-user socket
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// What the guest does
    #[arg(long, value_name = "ROLE")]
    pub mode: GuestMode,
    /// Listen at the socket; the guest connects otherwise
    #[arg(long)]
    pub server: bool,
    /// A name for the report
    #[arg(long, default_value = "guest")]
    pub name: String,
    /// Ethernet address; made from the socket's path unless given
    #[arg(long)]
    pub mac: Option<MacAddr>,
    /// Ask for packed rings
    #[arg(long)]
    pub packed: bool,
    /// Queue pairs to ask for
    #[arg(long, value_name = "PAIRS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub queues: u16,
    /// Entries of each ring, a power of two
    #[arg(long, value_name = "ENTRIES", default_value_t = 256, value_parser = ring_size)]
    pub ring_size: u16,
    /// Don't ask for checksum and segmentation offloads
    #[arg(long)]
    pub no_offloads: bool,
    /// The longest IP packet in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u16).range(68..=9000))]
    pub mtu: u16,
    /// End after this many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    pub for_: Option<Duration>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten, next_help_heading = "Options of --mode host")]
    pub host: HostArgs,
    #[command(flatten, next_help_heading = "Options of --mode generate")]
    pub generate: GenerateArgs,
}

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GuestMode {
    /// A host with an IP address: answers ARP, ND, ping and UDP echo, takes TCP streams on port 5201
    Host,
    /// Sends IP frames that are for it back where they came from
    Reflect,
    /// Sends numbered, time-stamped UDP frames
    Generate,
    /// Receives those, counts loss and latency
    Sink,
}

#[derive(Debug, Args)]
pub struct HostArgs {
    /// Its IP address and its network's prefix, such as 10.0.0.1/24
    #[arg(long, value_name = "ADDRESS/BITS", required_if_eq("mode", "host"))]
    pub address: Option<HostAddr>,
    /// The router for addresses of other networks
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Option<IpAddr>,
    /// Ping this address without end; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub ping: Vec<IpAddr>,
    /// Time between pings [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "ping")]
    pub ping_interval: Option<Duration>,
    /// Send a TCP stream to the host with this address, without end
    #[arg(long, value_name = "ADDRESS")]
    pub stream_to: Option<IpAddr>,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Ethernet address to send to [default: broadcast]
    #[arg(long, value_name = "MAC")]
    pub to: Option<MacAddr>,
    /// Source address of the packets [default: 198.18.0.1]
    #[arg(long, value_name = "IPV4")]
    pub ip_src: Option<Ipv4Addr>,
    /// Destination address of the packets [default: 198.18.0.2]
    #[arg(long, value_name = "IPV4")]
    pub ip_dst: Option<Ipv4Addr>,
    /// Frames per second, or `max` [default: 1000]
    #[arg(long, value_name = "PPS", value_parser = rate)]
    pub rate: Option<guest_host::Rate>,
    /// Bytes of a frame without FCS [default: 60]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(60..=9018))]
    pub size: Option<u16>,
    /// Flows (UDP source ports) to send in turn [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub flows: Option<u32>,
    /// Most frames on their way to a reflector and back; without it the rate sets the pace
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub window: Option<u32>,
}

const FSLMC_EXAMPLES: &str = "\
Examples:
  ringway fslmc check --file /etc/ringway.toml   is this machine ready for that switch? if not, what to do
  ringway fslmc list --container dprc.2          the objects in a container
  ringway fslmc show dpni.1 --json | jq .statistics
  ringway fslmc list --model configs/boards/lx2160a.toml

Without --container and --file it is the container that is bound to vfio-fsl-mc. A container can be opened by one process
at a time: end the switch that uses it first. When this command ends, the kernel resets the container's objects, as it
does for every program.";

#[derive(Debug, Args)]
#[command(after_help = FSLMC_EXAMPLES)]
pub struct FslmcArgs {
    #[command(subcommand)]
    pub command: FslmcCommand,
    /// The container, such as dprc.2
    #[arg(long, value_name = "OBJECT", global = true)]
    pub container: Option<ObjectId>,
    /// Look at what this configuration of a switch names; `check` asks whether it has what the file's ports take
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "model")]
    pub file: Option<PathBuf>,
    /// Look at a software model, described by this TOML file, in place of hardware
    #[arg(long, value_name = "FILE", global = true)]
    pub model: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum FslmcCommand {
    /// List containers, and the objects in one: labels, states, versions, connections
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show an object: attributes, regions, interrupts, queues, statistics
    Show {
        /// The object, such as dpni.1
        object: ObjectId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Find what is in the way of using a container, and say what to do about it; exit code 1 if anything is
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Reads a time in seconds, fractions allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "allowed: seconds above 0, such as `10` or `0.5`".to_owned();
    let value: f64 = text.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(value).ok().filter(|d| !d.is_zero()).ok_or_else(wrong)
}

fn ring_size(text: &str) -> Result<u16, String> {
    let fits = |n: &u16| n.is_power_of_two() && (8..=32768).contains(n);
    text.parse().ok().filter(fits).ok_or_else(|| "allowed: a power of two from 8 to 32768".to_owned())
}

fn rate(text: &str) -> Result<guest_host::Rate, String> {
    match text {
        "max" => Ok(guest_host::Rate::Max),
        _ => text
            .parse::<NonZeroU64>()
            .map(guest_host::Rate::Pps)
            .map_err(|_| "allowed: frames per second, or `max`".to_owned()),
    }
}

/// Reads `KEY=VALUE`. What is a TOML number, boolean, list or string is taken as such, anything else as a string: a
/// shell's user needn't quote twice.
fn assignment(text: &str) -> Result<(String, toml::Value), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| "allowed: KEY=VALUE, such as `mtu=9000`".to_owned())?;
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if !is_key {
        return Err("KEY is a key of [[port]], such as `bridge` or `driver`".to_owned());
    }
    if key == "name" {
        return Err("the name stands before the keys".to_owned());
    }
    let parsed = format!("value = {value}").parse::<toml::Table>().ok().filter(|table| table.len() == 1);
    let value = match parsed.and_then(|mut table| table.remove("value")) {
        Some(
            typed @ (toml::Value::Integer(_)
            | toml::Value::Boolean(_)
            | toml::Value::Array(_)
            | toml::Value::String(_)),
        ) => typed,
        _ => toml::Value::String(value.to_owned()),
    };
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_socket_may_stand_before_and_after() {
        for line in [
            "ringway flow --socket /s add actions=drop",
            "ringway flow add actions=drop --socket /s",
            "ringway flow add --bridge br0 --socket /s actions=drop",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            let Command::Flow(args) = cli.command else { panic!("{line}") };
            assert_eq!(args.switch.socket, PathBuf::from("/s"));
        }
    }

    #[test]
    fn removing_every_rule_must_be_meant() {
        assert!(Cli::try_parse_from(["ringway", "flow", "del"]).is_err());
        assert!(Cli::try_parse_from(["ringway", "flow", "del", "--all"]).is_ok());
    }

    #[test]
    fn stages_can_be_switched() {
        let stages = |line: &str| {
            let Command::Show(args) = Cli::try_parse_from(line.split(' ')).expect(line).command else {
                panic!("{line}")
            };
            args.stages
        };
        assert_eq!(stages("ringway show workers"), None);
        assert_eq!(stages("ringway show workers --stages"), Some(OnOff::On));
        assert_eq!(stages("ringway show workers --stages off"), Some(OnOff::Off));
    }

    #[test]
    fn times_are_positive_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "nan", "inf", "1e300", "soon", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_of_keys_need_no_quotes() {
        let value = |text| assignment(text).map(|(_, value)| value);
        assert_eq!(value("mtu=9000"), Ok(toml::Value::Integer(9000)));
        assert_eq!(value("trunks=[1, 2]"), Ok(toml::Value::Array(vec![1.into(), 2.into()])));
        for (text, string) in [
            ("socket=/tmp/vm2.sock", "/tmp/vm2.sock"),
            ("device='tap0'", "tap0"),
            ("permissions=0600", "0600"),
            ("mac=02:00:00:00:00:01", "02:00:00:00:00:01"),
            ("socket=a\nbridge='x'", "a\nbridge='x'"),
        ] {
            assert_eq!(value(text), Ok(toml::Value::String(string.into())), "{text}");
        }
        for wrong in ["mtu", "=1", "a b=1", "name=x"] {
            assert!(assignment(wrong).is_err(), "{wrong}");
        }
    }
}
