//! Linux guests under QEMU while the switch is killed under them, and while they are killed themselves.

use anyhow::{Result, ensure};
use guest_host::{GuestConfig, HostRole, Ping, Role, SocketMode};
use lab::switch::{Plan, PortKind, Ringway};
use lab::{Guest, GuestOptions, PlayedGuest};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::stage::{is_up, is_waiting};
use crate::linux_guests::configure;
use crate::{Context, Need, Scenario};

pub(super) const SCENARIOS: &[Scenario] =
    &[Scenario::new("resilience/killed-switch-and-qemu", &[Need::Ringway], switch_and_guests_killed)];

/// Ring layout and socket mode of each guest: packed, listens.
const KINDS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];
const SHELL_LIMIT: Duration = Duration::from_secs(30);
/// More pings than a ring has entries (256): then every one of them has been used since.
const PINGS: u64 = 300;
/// For a played host to find all guests: it asks for one address a second.
const RESOLVE_TIME: Duration = Duration::from_millis(5500);
const PING_LIMIT: Duration = Duration::from_secs(20);

/// One boot of four guests for both: first the switch dies, then they do.
fn switch_and_guests_killed(context: &Context) -> Result<()> {
    let mut plan = Plan::with_guests(&context.dir, 1 + KINDS.len());
    for (port, (_, guest_listens)) in plan.ports[1..].iter_mut().zip(KINDS) {
        port.kind = PortKind::VhostUser { listens: !guest_listens };
    }
    let options: Vec<_> = (1u8..).zip(KINDS).map(|(n, kind)| guest_options(&plan, n, kind)).collect();
    let mut switch = Ringway::start(&plan)?;
    let mut guests = boot(context, &options)?;
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let before = on_each(&mut guests, boot_id)?;
    reach_all(&plan, &options)?;

    let stations: Vec<_> = options.iter().map(|options| options.station).collect();
    let host = host(&plan, &stations, Duration::from_millis(5));
    std::thread::sleep(RESOLVE_TIME);
    let start = Instant::now();
    switch.kill_and_start_again()?;
    for port in &plan.ports {
        switch.wait_for_port(&port.name, "up again", is_up)?;
    }
    let back = start.elapsed();
    std::thread::sleep(Duration::from_millis(500));
    let pings = host.finish()?.pings;
    let lost: Vec<_> =
        pings.iter().zip(&options).map(|(p, o)| format!("{} {}/{}", o.name, p.lost, p.sent)).collect();
    context.note(format!(
        "switch killed: all guests connected again after {:.0} ms; pings lost: {}",
        back.as_secs_f64() * 1000.0,
        lost.join(", ")
    ));
    reach_all(&plan, &options)?;
    ensure!(on_each(&mut guests, boot_id)? == before, "a guest was reset");
    let complaints =
        on_each(&mut guests, "dmesg | grep -i 'virtio.*\\(error\\|broken\\|not a head\\)'; true")?;
    ensure!(complaints.iter().all(|text| text.trim().is_empty()), "the drivers complain: {complaints:?}");

    for guest in &mut guests {
        guest.process().kill()?;
    }
    for port in &plan.ports[1..] {
        switch.wait_for_port(&port.name, "without its guest", is_waiting)?;
    }
    // Two of the four are enough for both layouts and both socket modes.
    let again = [options[0].clone(), options[3].clone()];
    let _guests = boot(context, &again)?;
    reach_all(&plan, &again)?;
    context.note("QEMU killed: the switch takes its successors");
    switch.finish().map(drop)
}

fn guest_options(plan: &Plan, n: u8, (packed, server): (bool, bool)) -> GuestOptions {
    let layout = if packed { "packed" } else { "split" };
    let name = if server { format!("{layout}-listens") } else { format!("{layout}-connects") };
    GuestOptions { packed, server, ..GuestOptions::new(&name, 10 + n, &plan.socket(n.into())) }
}

fn address(station: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, station)
}

fn boot(context: &Context, options: &[GuestOptions]) -> Result<Vec<Guest>> {
    let image = context.image()?;
    let launch = |options| Guest::launch(&context.dir, image, options);
    let mut guests = options.iter().map(launch).collect::<Result<Vec<_>>>()?;
    for (guest, options) in guests.iter_mut().zip(options) {
        configure(guest, &address(options.station).to_string(), 1500, options)?;
    }
    Ok(guests)
}

fn on_each(guests: &mut [Guest], command: &str) -> Result<Vec<String>> {
    guests.iter_mut().map(|guest| guest.run(command, SHELL_LIMIT)).collect()
}

/// A host on the first port that pings these stations.
fn host(plan: &Plan, stations: &[u8], interval: Duration) -> PlayedGuest {
    let ping = stations.iter().map(|&n| Ping { target: IpAddr::V4(address(n)), interval }).collect();
    let role = Role::Host(HostRole { ping, ..HostRole::new(IpAddr::V4(address(1)), 24) });
    PlayedGuest::start(GuestConfig::new("host", plan.socket(0), SocketMode::Client, role))
}

/// Pings each guest until it has answered more often than its rings have entries.
fn reach_all(plan: &Plan, options: &[GuestOptions]) -> Result<()> {
    for options in options {
        let (mut answered, deadline) = (0, Instant::now() + PING_LIMIT);
        while answered < PINGS {
            ensure!(Instant::now() < deadline, "{} answered {answered} pings", options.name);
            let host = host(plan, &[options.station], Duration::from_millis(2));
            std::thread::sleep(Duration::from_secs(1));
            answered += host.finish()?.pings.iter().map(|ping| ping.received).sum::<u64>();
        }
    }
    Ok(())
}
