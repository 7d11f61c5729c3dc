//! Two QEMU guests with Debian's kernel: ping, TCP with and without segmentation offload, UDP, large frames, reboots.

use anyhow::{Result, ensure};
use lab::switch::{Plan, Switch, System};
use lab::{Guest, GuestOptions, until};
use std::time::Duration;

use crate::traffic::{Host, ping, tcp, udp};
use crate::{Context, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("qemu/split", &[], |c| all_traffic(c, |_| ())),
    Scenario::new("qemu/packed", &[], |c| all_traffic(c, |guest| guest.packed = true)),
    Scenario::new("qemu/split-2-queue-pairs", &[], |c| all_traffic(c, two_queue_pairs)),
    Scenario::new("qemu/packed-2-queue-pairs", &[], |c| {
        all_traffic(c, |guest| {
            two_queue_pairs(guest);
            guest.packed = true;
        })
    }),
    Scenario::new("qemu/mtu-9000", &[], mtu_9000),
    Scenario::new("qemu/guest-reboot", &[], guest_reboot),
    Scenario::new("qemu/second-start", &[], second_start),
];

const SHELL_LIMIT: Duration = Duration::from_secs(30);
pub(crate) const ADDRESS_A: &str = "10.1.0.1";
pub(crate) const ADDRESS_B: &str = "10.1.0.2";

fn two_queue_pairs(guest: &mut GuestOptions) {
    guest.queues = 2;
    guest.cores = 2;
}

/// A switch with two booted guests that have addresses.
struct Pair {
    a: Guest,
    b: Guest,
    switch: Box<dyn Switch>,
    options: [GuestOptions; 2],
}

impl Pair {
    fn boot(context: &Context, mtu: u16, shape: impl Fn(&mut GuestOptions)) -> Result<Self> {
        let mut plan = Plan::with_guests(&context.dir, 2);
        let options = [("a", 1), ("b", 2)].map(|(name, station)| {
            let mut options = GuestOptions::new(name, station, &plan.socket(usize::from(station) - 1));
            shape(&mut options);
            options
        });
        for (port, guest) in plan.ports.iter_mut().zip(&options) {
            port.queues = guest.queues;
            port.mtu = mtu;
        }
        let image = context.image()?;
        let switch = context.system.start(&plan)?;
        let mut a = Guest::launch(&context.dir, image, &options[0])?;
        let mut b = Guest::launch(&context.dir, image, &options[1])?;
        configure(&mut a, ADDRESS_A, mtu, &options[0])?;
        configure(&mut b, ADDRESS_B, mtu, &options[1])?;
        Ok(Self { a, b, switch, options })
    }

    fn finish(self) -> Result<()> {
        self.a.power_off()?;
        self.b.power_off()?;
        self.switch.stop()
    }
}

/// Waits for the guest's boot, checks that its device is what was asked for, and gives it an address.
pub(crate) fn configure(guest: &mut Guest, address: &str, mtu: u16, options: &GuestOptions) -> Result<()> {
    guest.wait_ready()?;
    guest.run(&until("[ -d /sys/class/net/eth0 ]", Duration::from_secs(10)), SHELL_LIMIT)?;
    // Bit 34 of the features is VIRTIO_F_RING_PACKED, counted from 0.
    let features = guest.run("cat /sys/class/net/eth0/device/features", SHELL_LIMIT)?;
    let packed = features.trim().as_bytes().get(34) == Some(&b'1');
    ensure!(
        packed == options.packed,
        "packed rings asked: {}, got: {packed} ({})",
        options.packed,
        features.trim()
    );
    if options.queues > 1 {
        guest.run(&format!("ethtool -L eth0 combined {}", options.queues), SHELL_LIMIT)?;
    }
    guest.run(&format!("ip link set eth0 mtu {mtu} up && ip addr add {address}/24 dev eth0"), SHELL_LIMIT)?;
    Ok(())
}

fn all_traffic(context: &Context, shape: impl Fn(&mut GuestOptions)) -> Result<()> {
    let mut pair = Pair::boot(context, 1500, shape)?;
    exchange(context, &mut pair.a, &mut pair.b, ADDRESS_A)?;
    pair.finish()
}

/// Ping, TCP with and without offloads, UDP, from `b` to `a`.
pub(crate) fn exchange(context: &Context, a: &mut dyn Host, b: &mut Guest, address_of_a: &str) -> Result<()> {
    ping(b, address_of_a, 56)?;
    ping(b, address_of_a, 8000)?;
    context.note("ping with 56 and 8000 bytes");
    let offered = b.run("ethtool -k eth0", SHELL_LIMIT)?.contains("tcp-segmentation-offload: on");
    // OVS offers it only when asked to at its start, testpmd's forwarding not at all.
    ensure!(offered || context.system != System::Ringway, "the guest was not offered TSO");
    let offloads = if offered { "TSO on" } else { "TSO not offered" };
    context.note(format!("TCP, {offloads}: {:.0} Mbit/s", tcp(b, a, address_of_a)?));
    b.run("ethtool -K eth0 tso off gso off tx off", SHELL_LIMIT)?;
    context.note(format!("TCP, TSO and checksum offload off: {:.0} Mbit/s", tcp(b, a, address_of_a)?));
    context.note(format!("UDP, 2 Mbit/s: {:.1} % lost", udp(b, a, address_of_a)?));
    Ok(())
}

fn mtu_9000(context: &Context) -> Result<()> {
    let mut pair = Pair::boot(context, 9000, |guest| guest.properties.push("host_mtu=9000".into()))?;
    ping(&mut pair.b, ADDRESS_A, 8972)?;
    context.note("ping with 8972 bytes in one frame");
    pair.b.run("ethtool -K eth0 tso off gso off", SHELL_LIMIT)?;
    context.note(format!("TCP, TSO off: {:.0} Mbit/s", tcp(&mut pair.b, &mut pair.a, ADDRESS_A)?));
    pair.finish()
}

fn guest_reboot(context: &Context) -> Result<()> {
    let mut pair = Pair::boot(context, 1500, |_| ())?;
    ping(&mut pair.b, ADDRESS_A, 56)?;
    pair.a.reboot()?;
    configure_again(&mut pair.a, &pair.options[0])?;
    ping(&mut pair.b, ADDRESS_A, 56)?;
    context.note("ping before and after a reboot of the guest that answers");
    pair.finish()
}

fn second_start(context: &Context) -> Result<()> {
    let mut pair = Pair::boot(context, 1500, |_| ())?;
    ping(&mut pair.b, ADDRESS_A, 56)?;
    pair.a.power_off()?;
    pair.a = Guest::launch(&context.dir, context.image()?, &pair.options[0])?;
    configure_again(&mut pair.a, &pair.options[0])?;
    ping(&mut pair.b, ADDRESS_A, 56)?;
    context.note("ping before and after the guest that answers was powered off and started again");
    pair.finish()
}

fn configure_again(guest: &mut Guest, options: &GuestOptions) -> Result<()> {
    configure(guest, ADDRESS_A, 1500, options)
}
