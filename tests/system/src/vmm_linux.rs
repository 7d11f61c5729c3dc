//! Linux guests of the built-in virtual machine monitor, in an emulated host with hardware virtualisation.

use anyhow::{Result, ensure};
use lab::EmulatedHost;
use std::time::Duration;

use crate::{Context, Need, Scenario};

pub(crate) const SCENARIOS: &[Scenario] =
    &[Scenario::new("vmm/linux-bzimage", &[Need::Ringway], |c| on_a_host(c, bzimage))];

const LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check net.ifnames=0 rdinit=/init";

/// Runs a scenario, and once more if it fails, which it says: a virtual machine inside an emulated one stands still now
/// and then, under other monitors too. What is wrong fails twice.
fn on_a_host(context: &Context, scenario: fn(&Context) -> Result<()>) -> Result<()> {
    scenario(context).or_else(|error| {
        context.note(format!("tried again: {error:#}"));
        scenario(context)
    })
}

/// An emulated host with a switch that has started a machine called `vm`.
fn start(context: &Context, kernel: &str, keys: &str) -> Result<EmulatedHost> {
    let image = context.image()?;
    let initrd = EmulatedHost::image_path(image, &image.initrd)?;
    let text = format!(
        "[workers]\ncores = [0]\n[control]\nsocket = \"/tmp/ctl.sock\"\n[[bridge]]\nname = \"br0\"\n\
         [[vm]]\nname = \"vm\"\nkernel = \"{kernel}\"\ninitrd = \"{initrd}\"\ncmdline = \"{COMMAND_LINE}\"\n\
         memory = \"256M\"\n{keys}\n"
    );
    std::fs::write(context.dir.join("ringway.toml"), text)?;
    let mut host = EmulatedHost::boot(&context.dir, image)?;
    host.start_switch()?;
    Ok(host)
}

/// Debian's kernel as it comes, to user space, with two processors; what it found.
fn bzimage(context: &Context) -> Result<()> {
    let image = context.image()?;
    let kernel = EmulatedHost::image_path(image, &image.kernel)?;
    let mut host = start(context, &kernel, "cpus = 2\nrestart = \"never\"")?;
    host.wait_ready_in("vm")?;
    judge_machine(context, &mut host)
}

/// All from the tables: processors, PCI's configuration space, the serial port, the clock of the hypervisor.
fn judge_machine(context: &Context, host: &mut EmulatedHost) -> Result<()> {
    let up = host.run_in("vm", "nproc; cut -d' ' -f1 /proc/uptime", LIMIT)?;
    let lines: Vec<&str> = up.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    ensure!(lines.first() == Some(&"2"), "processors, uptime: {lines:?}");
    context.note(format!("user space {} s after the kernel's start", lines.last().unwrap_or(&"?")));
    let found = host.run_in("vm", "dmesg | grep -e KVM -e MCFG -e MMCONFIG -e ttyS0 -e smp:", LIMIT)?;
    for wanted in [
        "Booting paravirtualized kernel on KVM",
        "ACPI: MCFG",
        "MMCONFIG for domain 0000 [bus 00-00]",
        "ttyS0 at I/O 0x3f8",
        "smp: Brought up 1 node, 2 CPUs",
    ] {
        ensure!(found.contains(wanted), "`{wanted}` is missing in:\n{found}");
    }
    Ok(())
}
