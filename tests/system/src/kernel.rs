//! TAP interfaces in network namespaces: the host's kernel as a neighbour.

use anyhow::Result;
use lab::switch::{Plan, PortKind};
use lab::{Guest, GuestOptions, Namespace};

use crate::linux_guests::{self, ADDRESS_A, ADDRESS_B};
use crate::traffic::{Host as _, NamespaceHost, ping, tcp, udp};
use crate::{Context, Need, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("tap/kernel-to-kernel", &[Need::Ringway, Need::Root, Need::Tun], kernel_to_kernel),
    Scenario::new("tap/kernel-to-guest", &[Need::Ringway, Need::Root, Need::Tun], kernel_to_guest),
];

fn tap(plan: &mut Plan, port: usize, name: &str, namespace: &Namespace) {
    plan.ports[port].name = name.into();
    plan.ports[port].kind = PortKind::Tap { netns: namespace.name().into() };
}

fn kernel_to_kernel(context: &Context) -> Result<()> {
    let (a, b) = (Namespace::create("a")?, Namespace::create("b")?);
    let mut plan = Plan::with_guests(&context.dir, 2);
    tap(&mut plan, 0, "tap-a", &a);
    tap(&mut plan, 1, "tap-b", &b);
    let switch = context.system.start(&plan)?;
    a.configure("tap-a", &format!("{ADDRESS_A}/24"), 1500)?;
    b.configure("tap-b", &format!("{ADDRESS_B}/24"), 1500)?;
    let (mut host_a, mut host_b) =
        (NamespaceHost::new(&a, &context.dir), NamespaceHost::new(&b, &context.dir));
    ping(&mut host_b, ADDRESS_A, 56)?;
    ping(&mut host_b, ADDRESS_A, 8000)?;
    context.note(format!("TCP, offloads on: {:.0} Mbit/s", tcp(&mut host_b, &mut host_a, ADDRESS_A)?));
    host_b.shell("ethtool -K tap-b tso off gso off tx off")?;
    context.note(format!("TCP, offloads off: {:.0} Mbit/s", tcp(&mut host_b, &mut host_a, ADDRESS_A)?));
    context.note(format!("UDP, 2 Mbit/s: {:.1} % lost", udp(&mut host_b, &mut host_a, ADDRESS_A)?));
    switch.stop()
}

fn kernel_to_guest(context: &Context) -> Result<()> {
    let namespace = Namespace::create("host")?;
    let mut plan = Plan::with_guests(&context.dir, 2);
    tap(&mut plan, 0, "tap-host", &namespace);
    let options = GuestOptions::new("guest", 2, &plan.socket(1));
    let image = context.image()?;
    let switch = context.system.start(&plan)?;
    namespace.configure("tap-host", &format!("{ADDRESS_A}/24"), 1500)?;
    let mut guest = Guest::launch(&context.dir, image, &options)?;
    linux_guests::configure(&mut guest, ADDRESS_B, 1500, &options)?;
    let mut host = NamespaceHost::new(&namespace, &context.dir);
    linux_guests::exchange(context, &mut host, &mut guest, ADDRESS_A)?;
    // And towards the guest, where the kernel is the one that sends large frames.
    context.note(format!("TCP to the guest: {:.0} Mbit/s", tcp(&mut host, &mut guest, ADDRESS_B)?));
    guest.power_off()?;
    switch.stop()
}
