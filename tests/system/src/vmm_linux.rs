//! Linux guests of the built-in virtual machine monitor, in an emulated host with hardware virtualisation.

use anyhow::{Context as _, Result, ensure};
use lab::disk::{STORAGE_DAEMON, storage_daemon_arguments};
use lab::switch::Plan;
use lab::{EmulatedHost, Guest, GuestImage, GuestOptions, HOST_DIR, shared_libraries, until, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::{Context, Need, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("vmm/linux-guest", &[Need::Ringway], |c| in_emulated_host(c, guest)),
    Scenario::new("vmm/linux-disks", &[Need::Ringway], |c| in_emulated_host(c, disks)),
    Scenario::new("vmm/linux-elf", &[Need::Ringway], |c| in_emulated_host(c, elf)),
    Scenario::new("vmm/linux-without-pci", &[Need::Ringway], |c| in_emulated_host(c, without_pci)),
];

const LIMIT: Duration = Duration::from_secs(60);
/// Emulated hosts at most, one after another.
const HOSTS_MAX: usize = 3;

/// Runs a scenario, in a new host if one failed for its emulation's sake (see [`EmulatedHost`]): its kernel panicked, the
/// processor fell into a triple fault, or the host stands still in the middle of a command. That is said; any other
/// failure is one.
fn in_emulated_host(context: &Context, scenario: fn(&Context) -> Result<()>) -> Result<()> {
    for host in 1.. {
        let Err(error) = scenario(context) else { break };
        let said = |file: &str| std::fs::read_to_string(context.dir.join(file)).unwrap_or_default();
        let host_log = said("host.log");
        let has_failed = host_log.contains("Kernel panic - not syncing")
            || said("ringway.log").contains("crashed: triple fault")
            || !host_log.lines().last().is_some_and(|line| line.starts_with("@@ "));
        if host == HOSTS_MAX || !has_failed {
            return Err(error);
        }
        context.note(format!("emulated host {host} failed; once more in a new one"));
        for file in ["host.log", "ringway.log"] {
            // The switch's isn't there if the host failed before it began.
            let _ = std::fs::remove_file(context.dir.join(file));
        }
    }
    Ok(())
}
const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check net.ifnames=0 rdinit=/init";

/// The configuration of a switch with machines, each with a name, a kernel, and keys of its own.
fn configuration(image: &GuestImage, ports: &str, machines: &[(&str, &str, &str)]) -> Result<String> {
    let initrd = EmulatedHost::image_path(image, &image.initrd)?;
    let mut text =
        "[workers]\ncores = [2]\n[control]\nsocket = \"/tmp/ctl.sock\"\nprometheus = \"127.0.0.1:9090\"\n\
         [[bridge]]\nname = \"br0\"\n"
            .to_owned();
    text += ports;
    for (name, kernel, keys) in machines {
        text += &format!(
            "[[vm]]\nname = \"{name}\"\nkernel = \"{kernel}\"\ninitrd = \"{initrd}\"\ncmdline = \"{COMMAND_LINE}\"\n\
             memory = \"256M\"\n{keys}\n"
        );
    }
    Ok(text)
}

/// An emulated host in which a switch can be started that starts these machines.
fn boot(context: &Context, ports: &str, machines: &[(&str, &str, &str)]) -> Result<EmulatedHost> {
    let image = context.image()?;
    std::fs::write(context.dir.join("ringway.toml"), configuration(image, ports, machines)?)?;
    EmulatedHost::boot(&context.dir, image)
}

/// As [`boot`], and the switch has been started.
fn start(context: &Context, ports: &str, machines: &[(&str, &str, &str)]) -> Result<EmulatedHost> {
    let mut host = boot(context, ports, machines)?;
    host.start_switch()?;
    Ok(host)
}

fn status(host: &mut EmulatedHost, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&host.ringway(&format!("vm show {name} --json"))?)?)
}

/// Debian's kernel as it comes, on two pinned processors: to user space, ping, interrupts, exits, a switch killed and started
/// again.
fn guest(context: &Context) -> Result<()> {
    let image = context.image()?;
    let kernel = EmulatedHost::image_path(image, &image.kernel)?;
    let ports = "[[port]]\nname = \"host\"\nbridge = \"br0\"\ndriver = \"tap\"\ndevice = \"tap-host\"\npersistent = true\n";
    let keys = "cpus = 2\npins = [0, 1]\nnet = [{ port = \"vm-p0\" }]\nvirtio_console = true\nrng = true\n\
        cgroup = \"/tmp/groups/vm\"\ndisk = [{ path = \"/tmp/disk0\", backend = \"dataplane\", queues = 2, pin = 1 }]";
    let mut host = boot(context, ports, &[("vm", &kernel, keys)])?;
    host.run("mkdir /tmp/groups && mount -t cgroup2 none /tmp/groups && mkdir /tmp/groups/vm")?;
    host.run("truncate -s 64M /tmp/disk0")?;
    host.start_switch()?;
    host.run(&format!("ip addr add {ADDRESS_HOST}/24 dev tap-host && ip link set tap-host up"))?;
    host.wait_ready_in("vm")?;
    judge_machine(context, &mut host, "vm", 2)?;
    judge_threads(&mut host)?;

    host.run_in("vm", CONFIGURE, LIMIT)?;
    ping(&mut host)?;
    context.note("ping through the switch, 56 and 4000 bytes");
    interrupt_on_second_processor(&mut host)?;
    context.note("interrupts on the processor they were sent to");
    console_and_entropy(&mut host)?;
    context.note("virtio console both ways, entropy");
    let queues = host.run_in("vm", "modprobe virtio_blk; ls -d /sys/block/vda/mq/* | wc -l", LIMIT)?;
    ensure!(queues.trim() == "2", "queues of a disk: {queues}");
    plausible_exits(context, &mut host)?;
    metrics(context, &mut host)?;
    host.kill_switch()?;
    host.start_switch()?;
    ping(&mut host)?;
    context.note("ping after the switch was killed and started again");
    host.run("echo poweroff -f > /tmp/vm.in")?;
    end(&mut host).map(drop)
}

/// Debian's kernel with disks of every kind, through kills of a back-end and of the machine, then a reboot, and the power
/// button.
fn disks(context: &Context) -> Result<()> {
    let image = context.image()?;
    let kernel = EmulatedHost::image_path(image, &image.kernel)?;
    install_storage_daemon(&context.dir)?;
    let keys = "disk = [{ path = \"/tmp/disk0\", backend = \"inline\" }, \
        { path = \"/tmp/disk1\", backend = \"dataplane\" }, \
        { socket = \"/tmp/blk.sock\", backend = \"vhost-user-blk\" }, \
        { path = \"/tmp/disk3\", backend = \"inline\", read_only = true }]";
    let mut host = boot(context, "", &[("vm", &kernel, keys)])?;
    host.run("truncate -s 64M /tmp/disk0 /tmp/disk1 /tmp/disk2 && echo content > /tmp/disk3 && truncate -s 1M /tmp/disk3")?;
    start_storage_daemon(&mut host)?;
    host.start_switch()?;
    host.wait_ready_in("vm")?;
    disks_through_kills(context, &mut host)?;

    host.run("echo reboot -f > /tmp/vm.in")?;
    host.wait_said_in("vm", 2)?;
    let resets = status(&mut host, "vm")?["resets"].clone();
    ensure!(resets == 1, "resets counted: {resets}");
    context.note("reboot");
    host.run_in("vm", POWER_BUTTON, LIMIT)?;
    host.ringway("vm stop vm")?;
    let summary = end(&mut host)?;
    ensure!(summary.contains("stopped: as asked"), "the power button was not obeyed: {summary}");
    context.note("power button");
    Ok(())
}

/// Threads are where the file says, and the process is in its control group.
fn judge_threads(host: &mut EmulatedHost) -> Result<()> {
    let pid = status(host, "vm")?["pid"].as_u64().context("a process")?;
    host.run(&format!("grep -qx {pid} /tmp/groups/vm/cgroup.procs")).context("the control group")?;
    for (thread, cpu) in [("vcpu-0", 0), ("vcpu-1", 1), ("blk", 1)] {
        expect_pinned(host, pid, thread, cpu)?;
    }
    Ok(())
}

/// Ends the switch when no machine is there any more, and returns its summary.
fn end(host: &mut EmulatedHost) -> Result<String> {
    host.run(&until("! ls /tmp/ctl-vm-*.sock > /dev/null 2>&1", Duration::from_secs(40)))?;
    host.stop_switch()
}

/// Lets the guest's power button do what it says.
const POWER_BUTTON: &str = "modprobe -a button evdev && mkdir -p /etc/acpi/PWRF && \
    printf '#!/bin/sh\\npoweroff -f\\n' > /etc/acpi/PWRF/00000080 && chmod +x /etc/acpi/PWRF/00000080 && \
    (acpid -f > /tmp/acpid.log 2>&1 &)";

/// All from the tables: processors, PCI's configuration space, the serial port, the clock of the hypervisor.
fn judge_machine(context: &Context, host: &mut EmulatedHost, name: &str, cpus: u32) -> Result<()> {
    let up = host.run_in(name, "nproc; cut -d' ' -f1 /proc/uptime", LIMIT)?;
    let lines: Vec<&str> = up.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    ensure!(lines.first() == Some(&cpus.to_string().as_str()), "processors, uptime: {lines:?}");
    context.note(format!("{name}: user space, {} s after the kernel's start", lines.last().unwrap_or(&"?")));
    let found = host.run_in(name, "dmesg | grep -e KVM -e MCFG -e MMCONFIG -e ttyS0 -e smp:", LIMIT)?;
    for wanted in [
        "Booting paravirtualized kernel on KVM",
        "ACPI: MCFG",
        "MMCONFIG for domain 0000 [bus 00-00]",
        "ttyS0 at I/O 0x3f8",
        &format!("smp: Brought up 1 node, {cpus} CPU"),
    ] {
        ensure!(found.contains(wanted), "`{wanted}` is missing in:\n{found}");
    }
    Ok(())
}

/// The same kernel unpacked: by PVH's entry, with the devices that QEMU gives it, too, where it finds the same; and by the
/// 64-bit entry where the kernel names none of PVH's. Each ends by its own power-off.
fn elf(context: &Context) -> Result<()> {
    let image = context.image()?;
    let vmlinux = image.unpacked_kernel()?;
    let mut elf = std::fs::read(&vmlinux)?;
    // Lengths of name and content, type XEN_ELFNOTE_PHYS32_ENTRY, name (Xen, include/public/elfnote.h).
    let note = |kind: u8, bytes: u8| [4, 0, 0, 0, bytes, 0, 0, 0, kind, 0, 0, 0, b'X', b'e', b'n', 0];
    let at = elf.windows(16).position(|bytes| bytes == note(18, 4) || bytes == note(18, 8));
    elf[at.context("a kernel with PVH's note")? + 8] = 99;
    std::fs::write(context.dir.join("vmlinux"), elf)?;
    let reference = found_under_qemu(context)?;
    let pvh = EmulatedHost::image_path(image, &vmlinux)?;
    let long = format!("{HOST_DIR}/vmlinux");
    let devices = format!(
        "restart = \"never\"\nnet = [{{ port = \"p0\", mac = \"52:54:00:00:00:07\" }}]\n\
         disk = [{{ path = \"{HOST_DIR}/disk\" }}]\nvirtio_console = true\nrng = true"
    );
    let mut host = start(context, "", &[("pvh", &pvh, &devices), ("long", &long, "restart = \"never\"")])?;
    for name in ["pvh", "long"] {
        host.wait_ready_in(name)?;
        judge_machine(context, &mut host, name, 1)?;
        if name == "pvh" {
            let ours = found_lines(&host.run_in(name, FOUND, LIMIT)?);
            ensure!(ours.len() >= 10, "too little was found: {ours:#?}");
            ensure!(ours == reference, "under ours: {ours:#?}\nunder QEMU: {reference:#?}");
            context.note(format!("{} lines about its devices, as under QEMU", ours.len()));
        }
        host.run(&format!("echo poweroff -f > /tmp/{name}.in"))?;
    }
    let summary = end(&mut host)?;
    ensure!(summary.matches("powered off").count() == 2, "not both have powered off: {summary}");
    Ok(())
}

/// Debian's kernel with all devices by registers in memory, none on the PCI bus: they are found, and work, also after a reset.
fn without_pci(context: &Context) -> Result<()> {
    let image = context.image()?;
    let kernel = EmulatedHost::image_path(image, &image.kernel)?;
    std::fs::write(context.dir.join("disk"), b"sectors\n".repeat(1 << 17))?;
    let ports = "[[port]]\nname = \"host\"\nbridge = \"br0\"\ndriver = \"tap\"\ndevice = \"tap-host\"\n";
    let keys = format!(
        "transport = \"mmio\"\nnet = [{{ port = \"vm-p0\" }}]\ndisk = [{{ path = \"{HOST_DIR}/disk\" }}]\n\
         virtio_console = true\nrng = true"
    );
    let mut host = start(context, ports, &[("vm", &kernel, &keys)])?;
    host.run(&format!("ip addr add {ADDRESS_HOST}/24 dev tap-host && ip link set tap-host up"))?;
    for life in 1..=2 {
        match life {
            1 => host.wait_ready_in("vm")?,
            _ => {
                host.ringway("vm reset vm")?;
                host.wait_said_in("vm", life)?;
            }
        }
        host.run_in("vm", "modprobe -a virtio_mmio virtio_net virtio_blk virtio_console virtio_rng", LIMIT)?;
        let found = "grep -l 0x1af4 /sys/bus/pci/devices/*/vendor; for d in /sys/bus/virtio/devices/*; do \
            echo \"@virtio $(basename $(readlink $d/driver)) $(basename $(dirname $(readlink -f $d)))\"; done";
        let found = found_lines(&host.run_in("vm", &format!("({found}) 2> /dev/null"), LIMIT)?);
        let drivers = ["virtio_blk", "virtio_console", "virtio_net", "virtio_rng"];
        ensure!(
            found.len() == drivers.len()
                && drivers.iter().all(|driver| found.iter().any(|line| {
                    line.contains(&format!("virtio {driver} LNRO0005")) && !line.contains("pci")
                })),
            "found: {found:#?}"
        );
        host.run_in("vm", CONFIGURE, LIMIT)?;
        ping(&mut host)?;
        let sum = host.run_in(
            "vm",
            "dd if=/dev/vda bs=64k 2> /dev/null | sort -u; head -c 32 /dev/hwrng | wc -c",
            LIMIT,
        )?;
        ensure!(
            sum.split_whitespace().collect::<Vec<_>>() == ["sectors", "32"],
            "the disk's content, bytes of entropy: {sum}"
        );
    }
    context.note("ping, disk and entropy, in two lives");
    host.run("echo poweroff -f > /tmp/vm.in")?;
    let summary = end(&mut host)?;
    ensure!(summary.contains("powered off"), "it has not powered off: {summary}");
    Ok(())
}

const ADDRESS_HOST: &str = "10.2.0.1";
const ADDRESS_VM: &str = "10.2.0.2";
/// Gives the guest its address.
const CONFIGURE: &str = "ip addr add 10.2.0.2/24 dev eth0 && ip link set eth0 up";

/// The thread of this name may run on processor `cpu` of the host only.
fn expect_pinned(host: &mut EmulatedHost, pid: u64, thread: &str, cpu: u32) -> Result<()> {
    let task = format!("grep -lx {thread} /proc/{pid}/task/*/comm");
    host.run(&format!("grep -q 'Cpus_allowed_list:\t{cpu}$' $(dirname $({task}))/status")).map(drop)
}

fn ping(host: &mut EmulatedHost) -> Result<()> {
    // The first ones may be lost while the link comes up.
    host.run_in("vm", &until(&format!("ping -c 1 -W 1 {ADDRESS_HOST}"), LIMIT), LIMIT)?;
    host.run_in(
        "vm",
        &format!("ping -c 5 -i 0.2 -W 5 {ADDRESS_HOST} && ping -c 3 -s 4000 -W 5 {ADDRESS_HOST}"),
        LIMIT,
    )?;
    host.run(&format!("ping -c 3 -W 5 {ADDRESS_VM}")).map(drop)
}

/// Sends the interrupts of the receive queue to processor 1 and looks where they come.
fn interrupt_on_second_processor(host: &mut EmulatedHost) -> Result<()> {
    let line = "$(grep virtio0-input.0 /proc/interrupts | cut -d: -f1 | tr -d ' ')";
    let counts = |host: &mut EmulatedHost| -> Result<[u64; 2]> {
        let text = host.run_in("vm", "grep virtio0-input.0 /proc/interrupts", LIMIT)?;
        let mut numbers = text.split_whitespace().skip(1).map_while(|word| word.parse().ok());
        let mut next = || numbers.next().with_context(|| format!("two counts in {text}"));
        Ok([next()?, next()?])
    };
    host.run_in("vm", &format!("echo 2 > /proc/irq/{line}/smp_affinity"), LIMIT)?;
    // The vector moves with the next interrupt.
    ping(host)?;
    let before = counts(host)?;
    ping(host)?;
    let after = counts(host)?;
    ensure!(after[0] == before[0], "interrupts still come to processor 0: {before:?}, {after:?}");
    ensure!(after[1] > before[1], "no interrupts come to processor 1: {before:?}, {after:?}");
    Ok(())
}

fn console_and_entropy(host: &mut EmulatedHost) -> Result<()> {
    host.run_in("vm", "modprobe -a virtio_console virtio_rng", LIMIT)?;
    let random = host.run_in(
        "vm",
        "head -c 128 /dev/hwrng | wc -c; cat /sys/class/misc/hw_random/rng_current",
        LIMIT,
    )?;
    ensure!(random.contains("virtio_rng") && random.contains("128"), "entropy: {random}");
    host.run_in("vm", "stty -F /dev/hvc0 -echo; echo from-the-guest > /dev/hvc0; (read x < /dev/hvc0; echo \"heard $x\" > /tmp/heard) &", LIMIT)?;
    let console = "/program/ringway vm console vm --virtio --socket /tmp/ctl.sock";
    let said = host.run(&format!("(echo to-the-guest; sleep 2) | timeout 3 {console} || true"))?;
    ensure!(said.contains("from-the-guest"), "the virtio console says: {said}");
    let heard = until("grep -qx 'heard to-the-guest' /tmp/heard", Duration::from_secs(10));
    host.run_in("vm", &heard, LIMIT).context("what the host said at the virtio console")?;
    Ok(())
}

/// Each processor has exits of the kinds it must have, and their figures agree with each other.
fn plausible_exits(context: &Context, host: &mut EmulatedHost) -> Result<()> {
    let exits: Value = serde_json::from_str(&host.ringway("vm exits vm --json")?)?;
    let uptime_s = status(host, "vm")?["uptime_us"].as_f64().context("microseconds")? / 1e6;
    let vcpus = exits.as_array().context("an entry a processor")?;
    ensure!(vcpus.len() == 2, "{exits}");
    // The processor that looked for the devices has left the guest in every way.
    let mut has_all = false;
    for vcpu in vcpus {
        let rows = vcpu["rows"].as_array().context("rows")?;
        let row = |kind: &str| rows.iter().find(|row| row["kind"] == kind);
        let number = |row: &Value, key: &str| row[key].as_f64().with_context(|| format!("{key} in {row}"));
        ensure!(row("guest").is_some(), "{vcpu}");
        has_all |=
            ["port-read", "port-write", "mmio-read", "mmio-write"].iter().all(|kind| row(kind).is_some());
        let mut sum_s = 0.0;
        for row in rows {
            let [min, mean, max, p50, p99] = [
                number(row, "min_ns")?,
                number(row, "mean_ns")?,
                number(row, "max_ns")?,
                number(row, "p50_ns")?,
                number(row, "p99_ns")?,
            ];
            ensure!(min <= mean && mean <= max && p50 <= p99 && p99 <= 2.0 * max, "{row}");
            sum_s += number(row, "sum_ns")? / 1e9;
        }
        ensure!(sum_s <= uptime_s, "{sum_s} s of exits and guest in {uptime_s} s: {vcpu}");
        context.note(format!(
            "processor {}: {}",
            vcpu["vcpu"],
            rows.iter()
                .map(|row| format!("{} {}", row["kind"].as_str().unwrap_or("?"), row["count"]))
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    ensure!(has_all, "no processor has exits of every kind: {exits}");
    Ok(())
}

/// What Prometheus is told: every line as it must be, the machine's exits among them.
fn metrics(context: &Context, host: &mut EmulatedHost) -> Result<()> {
    host.run(&format!("wget -q -O {HOST_DIR}/metrics http://127.0.0.1:9090/metrics"))?;
    let text = std::fs::read_to_string(context.dir.join("metrics"))?;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
        ensure!(value.parse::<f64>().is_ok(), "no number: {line}");
    }
    for wanted in [
        "ringway_vm_exits_total{vm=\"vm\",vcpu=\"0\",kind=\"mmio-write\"} ",
        "ringway_vm_exits_total{vm=\"vm\",vcpu=\"1\",kind=\"guest\"} ",
        "ringway_vm_kernel_total{vm=\"vm\",vcpu=\"1\",",
        "port=\"vm-p0\"",
    ] {
        ensure!(text.contains(wanted), "`{wanted}` is missing in:\n{text}");
    }
    context.note(format!("{} lines for Prometheus", text.lines().count()));
    Ok(())
}

/// Files keep their checksums through kills of the machine and of a back-end.
fn disks_through_kills(context: &Context, host: &mut EmulatedHost) -> Result<()> {
    let limit = Duration::from_secs(120);
    host.run_in(
        "vm",
        "modprobe -a virtio_blk crc32c_generic ext4 && dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null",
        limit,
    )?;
    let checksum = |text: String| text.split_whitespace().next().map(str::to_owned);
    let wanted = checksum(host.run_in("vm", "sha256sum < /tmp/data", limit)?).context("a checksum")?;
    for (number, disk) in ["vda", "vdb", "vdc"].into_iter().enumerate() {
        let write = format!(
            "mke2fs -F /dev/{disk} > /dev/null && mkdir -p /{disk} && mount -t ext4 /dev/{disk} /{disk} && \
            cp /tmp/data /{disk}/data && sync"
        );
        host.run_in("vm", &write, limit).with_context(|| format!("disk{number}"))?;
    }
    let names = host.run_in("vm", "echo $(cat /sys/block/vda/serial) $(cat /sys/block/vdb/serial)", limit)?;
    ensure!(names.trim() == "disk0 disk1", "names: {names}");
    host.run_in("vm", "grep -q content /dev/vdd && [ $(cat /sys/block/vdd/ro) = 1 ] && ! dd if=/dev/zero of=/dev/vdd count=1 conv=fsync 2>/dev/null", limit)
        .context("the read-only disk")?;

    // The back-end of one is killed in the middle of its work; the guest waits for the next.
    let endless = |disk: &str| {
        format!(
            "(while dd if=/dev/zero of=/{disk}/more bs=64k count=256 conv=fsync; do :; done > /dev/null 2>&1 &)"
        )
    };
    host.run_in("vm", &endless("vdc"), limit)?;
    host.run("sleep 1; kill -9 $(cat /tmp/qsd.pid); sleep 1")?;
    start_storage_daemon(host)?;
    host.run_in(
        "vm",
        &format!("cp /tmp/data /vdc/again && sync && sha256sum < /vdc/again | grep -q {wanted}"),
        limit,
    )
    .context("after the back-end was killed")?;
    context.note("vhost-user-blk: back-end killed while writing, and started again");

    // The machine is killed in the middle of all their work, and starts again.
    for disk in ["vda", "vdb"] {
        host.run_in("vm", &endless(disk), limit)?;
    }
    let pid = status(host, "vm")?["pid"].as_u64().context("a process")?;
    host.run(&format!("sleep 1; kill -9 {pid}"))?;
    wait_until("another life of the machine", LIMIT, || {
        let now = status(host, "vm").ok().and_then(|status| status["pid"].as_u64());
        Ok(now.filter(|now| *now != pid))
    })?;
    host.wait_ready_in("vm")?;
    host.run_in("vm", "modprobe -a virtio_blk crc32c_generic ext4", limit)?;
    for (disk, kind) in [("vda", "inline"), ("vdb", "dataplane"), ("vdc", "vhost-user-blk")] {
        let read = format!(
            "mkdir -p /{disk} && mount -t ext4 /dev/{disk} /{disk} && sha256sum < /{disk}/data && umount /{disk}"
        );
        let found = checksum(host.run_in("vm", &read, limit)?);
        ensure!(found.as_ref() == Some(&wanted), "{kind}: {found:?} instead of {wanted}");
        context.note(format!("{kind}: the file written before the machine was killed has its checksum"));
    }
    // What is discarded is given back.
    for (number, disk) in ["vda", "vdb"].into_iter().enumerate() {
        host.run_in("vm", &format!("blkdiscard /dev/{disk}"), limit)?;
        let left = host.run(&format!("du -k /tmp/disk{number}"))?;
        ensure!(left.starts_with("0\t"), "disk{number} after it was discarded: {left}");
    }
    Ok(())
}

/// Puts QEMU's daemon and what it is linked with into a folder that the host sees.
fn install_storage_daemon(dir: &Path) -> Result<()> {
    let to = dir.join("daemon");
    std::fs::create_dir_all(&to)?;
    let path = Path::new(STORAGE_DAEMON);
    std::fs::copy(path, to.join("daemon")).with_context(|| format!("copying {}", path.display()))?;
    for library in shared_libraries(path)? {
        std::fs::copy(&library, to.join(library.file_name().context("a library has a name")?))?;
    }
    Ok(())
}

fn start_storage_daemon(host: &mut EmulatedHost) -> Result<()> {
    let program = format!(
        "{HOST_DIR}/daemon/ld-linux-x86-64.so.2 --library-path {HOST_DIR}/daemon {HOST_DIR}/daemon/daemon"
    );
    let arguments = storage_daemon_arguments(Path::new("/tmp/disk2"), Path::new("/tmp/blk.sock")).join(" ");
    host.run(&format!(
        "rm -f /tmp/blk.sock; {program} {arguments} > {HOST_DIR}/daemon.log 2>&1 & echo $! > /tmp/qsd.pid; {}",
        until("[ -S /tmp/blk.sock ]", Duration::from_secs(20))
    ))
    .context("starting qemu-storage-daemon")
    .map(drop)
}

/// What a guest finds, one line a virtio function: class, vendor, device; and what its drivers say of them.
const FOUND: &str = "modprobe -a virtio_blk virtio_console virtio_rng; \
    for d in /sys/bus/pci/devices/*; do [ $(cat $d/vendor) = 0x1af4 ] && echo \"@pci $(cat $d/class) $(cat $d/device)\"; done; \
    for d in /sys/bus/virtio/devices/*; do echo \"@virtio $(cat $d/device) $(cat $d/vendor) $(basename $(readlink $d/driver)) $(cut -c33 $d/features)\"; done; \
    echo \"@disk $(cat /sys/block/vda/size) $(cat /sys/block/vda/queue/logical_block_size)\"; \
    echo \"@net $(cat /sys/class/net/eth0/address)\"; \
    dmesg | grep -o '\\[vda\\] .*\\|virtio.*\\(fail\\|error\\|invalid\\).*' | sed 's/^/@said /'";

fn found_lines(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.trim().strip_prefix('@')).map(str::to_owned).collect()
}

/// What Debian's kernel finds in a machine of QEMU's with a disk of 4 MiB called `disk`.
fn found_under_qemu(context: &Context) -> Result<BTreeSet<String>> {
    let disk = context.dir.join("disk");
    std::fs::write(&disk, vec![0; 4 << 20])?;
    let plan = Plan::with_guests(&context.dir, 1);
    let switch = context.system.start(&plan)?;
    let mut options = GuestOptions::new("qemu", 7, &plan.socket(0));
    options.arguments = [
        "-drive",
        &format!("if=none,id=d0,format=raw,file={}", disk.display()),
        "-device",
        "virtio-blk-pci,drive=d0,disable-legacy=on",
        "-device",
        "virtio-serial-pci,disable-legacy=on",
        "-device",
        "virtio-rng-pci,disable-legacy=on",
    ]
    .map(String::from)
    .to_vec();
    options.properties.push("disable-legacy=on".into());
    let mut guest = Guest::launch(&context.dir, context.image()?, &options)?;
    guest.wait_ready()?;
    let reference = found_lines(&guest.run(FOUND, LIMIT)?);
    guest.power_off()?;
    switch.stop()?;
    Ok(reference)
}
