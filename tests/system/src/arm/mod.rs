//! Cases on an emulated 64-bit Arm machine with virtualisation: the switch, and virtual machines under KVM in it.
//!
//! Each is a number of commands at the machine's shell. Time passes slowly there, so nothing is measured.

use anyhow::{Context as _, Result, ensure};
use lab::disk::{storage_daemon_arguments, write_numbered_blocks};
use lab::{ArmFiles, Guest, until, workspace_root};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Tally;

/// For a command that only asks.
const SHORT: Duration = Duration::from_secs(30);
/// For one that waits for something in the machine.
const LONG: Duration = Duration::from_secs(120);

/// A case: its name, and what it does; the result is what is to be said about it.
type Case = (&'static str, fn(&mut Guest) -> Result<String>);

const CASES: &[Case] = &[
    ("arm/switch-split", |machine| switch(machine, "")),
    ("arm/switch-packed", |machine| switch(machine, "--packed")),
    ("arm/tap", tap),
    ("arm/micro-guests", micro_guests),
    ("arm/micro-guest-disk", micro_guest_disk),
    ("arm/linux-guest", |machine| linux_guest(machine, "linux.toml", with_pci)),
    ("arm/linux-guest-without-pci", |machine| linux_guest(machine, "linux-mmio.toml", without_pci)),
];

/// What the cases need to find in the machine, put together in `work`.
///
/// # Errors
/// When a file cannot be written.
pub fn files(work: &Path) -> Result<ArmFiles> {
    let linux = include_str!("linux.toml");
    let mmio = &linux.replace("cpus = 2", "transport = \"mmio\"\ncpus = 2");
    let configs = [
        ("switch.toml", include_str!("switch.toml")),
        ("disk.toml", include_str!("disk.toml")),
        ("linux.toml", linux),
        ("linux-mmio.toml", mmio),
    ];
    let mut files = ArmFiles::new();
    for (name, text) in configs {
        fs::write(work.join(name), text)?;
        files.push((work.join(name), Path::new("/etc").join(name)));
    }
    files.push((workspace_root().join("configs/demo-vm.toml"), "/etc/demo-vm.toml".into()));
    write_numbered_blocks(&work.join("disk"), 64)?;
    files.push((work.join("disk"), "/etc/disk".into()));
    Ok(files)
}

/// Runs the cases whose names contain `filter`, and prints how each came out.
pub fn run(filter: &str, machine: &mut Guest) -> Tally {
    let mut tally = Tally::default();
    for (name, case) in CASES.iter().filter(|(name, _)| name.contains(filter)) {
        let start = Instant::now();
        let result = case(machine);
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(note) => {
                println!("scenario {name} ... ok ({seconds:.1} s)\n    {note}");
                tally.passed += 1;
            }
            Err(error) => {
                println!("scenario {name} ... FAILED ({seconds:.1} s)\n{error:#}");
                println!("--- end of the machine's console\n{}", machine.process().tail());
                tally.failed += 1;
            }
        }
    }
    tally
}

/// Starts a switch in the machine; `$switch` is its process, `/tmp/summary` what it says at its end.
fn start(machine: &mut Guest, file: &str, socket: &str) -> Result<()> {
    machine.run(&format!("ringway run /etc/{file} --json > /tmp/summary 2> /tmp/log & switch=$!"), SHORT)?;
    wait_for(machine, &format!("[ -S {socket} ]"))
        .with_context(|| machine.run("cat /tmp/log", SHORT).unwrap_or_default())
}

/// Ends it as a user would, and returns its summary.
fn stop(machine: &mut Guest) -> Result<Value> {
    machine.run("kill -INT $switch; wait $switch", LONG)?;
    json(machine, "cat /tmp/summary")
}

fn wait_for(machine: &mut Guest, condition: &str) -> Result<()> {
    machine.run(&until(condition, Duration::from_secs(60)), LONG).map(drop)
}

fn json(machine: &mut Guest, command: &str) -> Result<Value> {
    let text = machine.run(command, LONG)?;
    serde_json::from_str(&text).with_context(|| format!("`{command}` says:\n{text}"))
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value[key].as_u64().with_context(|| format!("no number `{key}` in {value}"))
}

/// Numbered frames from one guest to another and back: none is missing, and the switch has counted each.
fn switch(machine: &mut Guest, rings: &str) -> Result<String> {
    start(machine, "switch.toml", "/tmp/b.sock")?;
    let guest = format!("ringway guest {rings} --json");
    machine.run(
        &format!(
            "{guest} --socket /tmp/a.sock --mode reflect --mac 02:00:00:00:00:0a > /tmp/a 2>&1 & guest=$!"
        ),
        SHORT,
    )?;
    machine.run("sleep 1", SHORT)?;
    let options = "--mode generate --to 02:00:00:00:00:0a --window 64 --rate max --for 3";
    let report = json(machine, &format!("{guest} --socket /tmp/b.sock {options} 2> /dev/null"))?;
    machine.run("kill -INT $guest; wait $guest", LONG)?;
    let summary = stop(machine)?;
    let (sent, received, lost) =
        (number(&report, "sent")?, number(&report, "received")?, number(&report, "lost")?);
    ensure!(received > 100 && lost == 0 && sent - received <= 64, "{report}");
    let ports = summary["ports"].as_array().context("ports")?;
    ensure!(ports.len() == 3, "{summary}");
    Ok(format!("{received} of {sent} frames came back"))
}

/// The kernel's network stack of the machine pings a played host through a TAP device and io_uring.
fn tap(machine: &mut Guest) -> Result<String> {
    start(machine, "switch.toml", "/tmp/a.sock")?;
    machine.run(
        "ringway guest --socket /tmp/a.sock --mode host --address 10.3.0.2/24 > /tmp/a 2>&1 & guest=$!",
        SHORT,
    )?;
    machine.run("ip addr add 10.3.0.1/24 dev rw0 && ip link set rw0 up", SHORT)?;
    wait_for(machine, "ping -c 1 -W 1 10.3.0.2 > /dev/null")?;
    let said = machine.run("ping -c 3 -W 5 -s 1400 10.3.0.2", SHORT)?;
    machine.run("kill -INT $guest; wait $guest", LONG)?;
    stop(machine)?;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    Ok("3 pings of 1400 bytes".into())
}

/// The demo: two virtual machines with the micro-guest, started from one file. What is sent before the other one listens
/// is lost here, where starting takes long; the switch has counted it.
fn micro_guests(machine: &mut Guest) -> Result<String> {
    let summary = json(machine, "ringway run /etc/demo-vm.toml --for 8 --json 2> /tmp/log || cat /tmp/log")?;
    let guests = summary["guests"].as_array().context("guests")?;
    let generator = guests.iter().find(|guest| guest["name"] == "gen");
    let generator = generator.with_context(|| format!("no generator in {summary}"))?;
    let (received, lost) = (number(generator, "received")?, number(generator, "lost")?);
    let ports = summary["ports"].as_array().context("ports")?;
    let drops = ports.iter().filter_map(|port| port["drops"].as_object()).flat_map(|drops| drops.values());
    let dropped: u64 = drops.filter_map(Value::as_u64).sum();
    ensure!(received > 1000 && lost == dropped, "{summary}");
    Ok(format!("{received} frames there and back"))
}

/// A micro-guest reads a disk over and over: each block is the one it asked for.
fn micro_guest_disk(machine: &mut Guest) -> Result<String> {
    start(machine, "disk.toml", "/tmp/disk.sock")?;
    let status = json(machine, "sleep 5; ringway vm show reader --socket /tmp/disk.sock --json")?;
    stop(machine)?;
    let count = |what| number(&status["guest"], what);
    ensure!(count("received")? > 640 && count("lost")? == 0 && count("foreign")? == 0, "{status}");
    Ok(format!("{} blocks", count("received")?))
}

/// Debian's kernel on two processors, in the machine of this file, and what is done in it.
fn linux_guest(
    machine: &mut Guest,
    file: &str,
    inside: fn(&mut Console<'_>) -> Result<&'static str>,
) -> Result<String> {
    machine.run("rm -f /tmp/linux-vm-vm.log && truncate -s 8M /tmp/disk0 /tmp/disk1 /tmp/disk2", SHORT)?;
    start_storage_daemon(machine)?;
    start(machine, file, "/tmp/host.sock")?;
    machine.run(
        "ringway guest --socket /tmp/host.sock --mode host --address 10.4.0.2/24 > /tmp/a 2>&1 & guest=$!",
        SHORT,
    )?;
    let mut guest = Console { machine, seen: 0 };
    let result = inside(&mut guest);
    if result.is_err() {
        println!("--- log and console of the virtual machine");
        println!(
            "{}",
            machine.run("tail -n 40 /tmp/linux-vm-vm.log | sed 's/^@@/##/'; cat /tmp/log", SHORT)?
        );
    }
    let note = result?;
    machine.run("kill -INT $guest; wait $guest", LONG)?;
    stop(machine)?;
    machine.run("kill $daemon", SHORT)?;
    Ok(note.into())
}

/// Starts the back-end of the third disk; `$daemon` is its process.
fn start_storage_daemon(machine: &mut Guest) -> Result<()> {
    let arguments = storage_daemon_arguments(Path::new("/tmp/disk2"), Path::new("/tmp/blk.sock")).join(" ");
    let command =
        format!("rm -f /tmp/blk.sock; qemu-storage-daemon {arguments} > /tmp/daemon.log 2>&1 & daemon=$!");
    machine.run(&command, SHORT)?;
    wait_for(machine, "[ -S /tmp/blk.sock ]")
        .with_context(|| machine.run("cat /tmp/daemon.log", SHORT).unwrap_or_default())
}

const PING: &str = "ip addr add 10.4.0.1/24 dev eth0; ip link set eth0 up; ping -c 3 -W 5 10.4.0.2";

/// Sends the receive queue's interrupts to the second processor. The vector moves with the next of them; then all come there.
const SEND_INTERRUPTS: &str = "line() { grep virtio0-input /proc/interrupts; }; irq=$(line | cut -d: -f1); \
    echo 2 > /proc/irq/$((irq))/smp_affinity; ping -c 2 -W 5 10.4.0.2 > /dev/null; \
    set -- $(line); first=$2; second=$3; ping -c 3 -W 5 10.4.0.2 > /dev/null; \
    set -- $(line); [ $2 = $first ] && [ $3 -gt $second ] && echo interrupts come where they are sent";

/// All devices by registers in memory: the network and a disk work.
fn without_pci(guest: &mut Console<'_>) -> Result<&'static str> {
    guest.wait_for("@@ ready")?;
    guest.run(
        "echo PCI functions: $(grep -l 0x1af4 /sys/bus/pci/devices/*/vendor | wc -l)",
        "PCI functions: 0",
    )?;
    guest.run("echo devices: $(ls /sys/bus/virtio/devices | wc -l)", "devices: 4")?;
    guest.run(PING, " 0% packet loss")?;
    let content = "yes ringway | head -c 262144";
    for disk in ["vdb", "vdc"] {
        guest.run(
            &format!("{content} > /dev/{disk} && sync && echo 3 > /proc/sys/vm/drop_caches; {content} | cmp -n 262144 - /dev/{disk} && echo {disk} is whole"),
            &format!("{disk} is whole"),
        )?;
    }
    guest.say("poweroff -f")?;
    wait_for(guest.machine, "[ ! -S /tmp/linux-vm-vm.sock ]")?;
    Ok("no PCI functions; ping and two disks")
}

/// To user space, ping through the switch, interrupts by MSI-X, disks through a kill in the middle of their work, a reset from
/// inside, power-off by the button.
fn with_pci(guest: &mut Console<'_>) -> Result<&'static str> {
    guest.wait_for("@@ ready")?;
    guest.run("echo processors: $(nproc)", "processors: 2")?;
    guest.run(PING, " 0% packet loss")?;
    // A vector for each queue and the configuration, all of them by the translation service.
    guest.run("grep -c 'ITS-MSI.*virtio0' /proc/interrupts", "3")?;
    guest.run(SEND_INTERRUPTS, "interrupts come where they are sent")?;
    guest.run("cat /sys/class/net/eth0/address", "02:00:00:00:00:01")?;
    // What was written stays as it was while what is behind it is written when the machine is killed.
    let content = "yes ringway | head -c 1048576";
    for disk in ["vda", "vdb", "vdc"] {
        guest.run(
            &format!("{content} > /dev/{disk} && sync && echo written to {disk}"),
            &format!("written to {disk}"),
        )?;
        guest.say(&format!(
            "(while dd if=/dev/zero of=/dev/{disk} bs=64k seek=16 count=64 conv=fsync; do :; done > /dev/null 2>&1 &)"
        ))?;
    }
    // The back-end of one is killed, too, and the guest waits for the next.
    guest.machine.run("sleep 1; kill -9 $daemon; wait $daemon; true", SHORT)?;
    start_storage_daemon(guest.machine)?;
    guest.run(&format!("{content} > /dev/vdc && sync && echo again to vdc"), "again to vdc")?;
    let killed = json(guest.machine, "ringway vm show vm --socket /tmp/linux.sock --json")?;
    guest.machine.run(&format!("sleep 1; kill -9 {}", number(&killed, "pid")?), SHORT)?;
    guest.wait_for("@@ ready")?;
    for disk in ["vda", "vdb", "vdc"] {
        let compare = format!("{content} | cmp -n 1048576 - /dev/{disk} && echo {disk} is whole");
        guest.run(&compare, &format!("{disk} is whole"))?;
    }
    guest.say("reboot -f")?;
    guest.wait_for("@@ ready")?;
    guest.run(PING, " 0% packet loss")?;
    // An event of the input device has 24 bytes; what comes first is the button. Who isn't there yet misses it.
    let listen = "(dd if=/dev/input/event0 of=/dev/null bs=24 count=1; poweroff -f) 2> /dev/null & sleep 2; echo listening";
    guest.run(listen, "listening")?;
    let resets = json(guest.machine, "ringway vm show vm --socket /tmp/linux.sock --json")?;
    ensure!(number(&resets, "resets")? == 1, "{resets}");
    let exits = json(guest.machine, "ringway vm exits vm --socket /tmp/linux.sock --json")?;
    ensure!(exits.as_array().is_some_and(|vcpus| vcpus.len() == 2), "{exits}");
    let end = guest.machine.run("ringway vm stop vm --socket /tmp/linux.sock", LONG)?;
    ensure!(end.contains("stopped") && !end.contains("did not power off"), "{end}");
    for vcpu in exits.as_array().into_iter().flatten() {
        let rows = vcpu["rows"].as_array().context("rows of exits")?;
        let kinds: Vec<_> = rows.iter().filter_map(|row| row["kind"].as_str()).collect();
        ensure!(["guest", "mmio-write"].iter().all(|kind| kinds.contains(kind)), "{vcpu}");
        for row in rows {
            let [min, mean, max] = ["min_ns", "mean_ns", "max_ns"].map(|key| row[key].as_f64());
            ensure!(min.is_some() && min <= mean && mean <= max, "{row}");
        }
    }
    Ok("three starts, pings, MSI-X on the processor it is sent to, disks whole after kills, reset, power-off")
}

/// The console of the virtual machine, through the machine's.
struct Console<'m> {
    machine: &'m mut Guest,
    /// Lines of its record that were waited for already.
    seen: usize,
}

impl Console<'_> {
    fn say(&mut self, line: &str) -> Result<()> {
        // What ends the console is Ctrl-].
        let line = line.replace('\\', "\\\\").replace('\'', "'\\''").replace('%', "%%");
        let command =
            format!("printf '{line}\\n\\035' | ringway vm console vm --socket /tmp/linux.sock > /dev/null");
        self.machine.run(&command, SHORT).map(drop)
    }

    /// Waits until the record goes on with a line that has `text`.
    fn wait_for(&mut self, text: &str) -> Result<()> {
        let record = "/tmp/linux-vm-vm.log";
        let from = self.seen + 1;
        wait_for(self.machine, &format!("tail -n +{from} {record} | grep -qF '{text}'"))
            .with_context(|| format!("the virtual machine doesn't say `{text}`"))?;
        // Not the lines themselves: they have marks like those that end this command.
        let find = format!("tail -n +{from} {record} | grep -nF '{text}' | head -n 1 | cut -d : -f 1");
        let found = self.machine.run(&find, SHORT)?;
        self.seen += found.trim().parse::<usize>().with_context(|| format!("`{find}` says {found}"))?;
        Ok(())
    }

    /// Runs a command in the virtual machine; it must print a line that has `text`.
    fn run(&mut self, command: &str, text: &str) -> Result<()> {
        self.say(command)?;
        self.wait_for(text)
    }
}
