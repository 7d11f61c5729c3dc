//! A running guest moves to another QEMU on another port of the same switch.

use anyhow::{Context as _, Result, bail, ensure};
use lab::switch::{Plan, PortKind, Ringway};
use lab::{Guest, GuestOptions, Namespace, Process, run_to_end, until, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::time::Duration;

use super::stage::number;
use crate::linux_guests::{ADDRESS_A, ADDRESS_B, configure};
use crate::traffic::{Host as _, NamespaceHost, ping};
use crate::{Context, Need, Scenario};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new("resilience/live-migration-split", NEEDS, |c| migration(c, |_| ())),
    Scenario::new("resilience/live-migration-packed-rarp", NEEDS, |c| {
        migration(c, |guest| {
            guest.packed = true;
            guest.properties.push(NO_GUEST_ANNOUNCE.into());
        })
    }),
];

const NEEDS: &[Need] = &[Need::Ringway, Need::Root, Need::Tun];
/// A guest that can't announce itself: QEMU asks the switch to do it.
const NO_GUEST_ANNOUNCE: &str = "guest_announce=off";
const SHELL_LIMIT: Duration = Duration::from_secs(60);
/// What the guest is sent while it moves: at first as much as its socket takes, which waits there in buffers that nobody
/// but the switch has written, then the rest.
const FILE_BYTES: u64 = 8 << 20;
const SOCKET_BYTES: u64 = 4 << 20;
/// Slow enough for the transfer to take place between the first and the last pass over the guest's memory.
const BANDWIDTH: u64 = 24 << 20;
const PING_INTERVAL: Duration = Duration::from_millis(50);
const UDP_SECONDS: u64 = 15;
const UDP_LIMIT: Duration = Duration::from_secs(40);

fn migration(context: &Context, shape: impl Fn(&mut GuestOptions)) -> Result<()> {
    let namespace = Namespace::create("host")?;
    let mut plan = Plan::with_guests(&context.dir, 3);
    plan.ports[2].name = "tap-host".into();
    plan.ports[2].kind = PortKind::Tap { netns: namespace.name().into() };
    let [source_options, target_options] = [("source", 0), ("target", 1)].map(|(name, port)| {
        let mut options = GuestOptions::new(name, 2, &plan.socket(port));
        shape(&mut options);
        GuestOptions { incoming: port == 1, ..options }
    });
    let announces_itself = !source_options.properties.iter().any(|property| property == NO_GUEST_ANNOUNCE);
    let image = context.image()?;
    let switch = Ringway::start(&plan)?;
    namespace.configure("tap-host", &format!("{ADDRESS_A}/24"), 1500)?;
    let mut source = Guest::launch(&context.dir, image, &source_options)?;
    let mut target = Guest::launch(&context.dir, image, &target_options)?;
    configure(&mut source, ADDRESS_B, 1500, &source_options)?;
    let mut host = NamespaceHost::new(&namespace, &context.dir);
    ping(&mut host, ADDRESS_B, 56)?;
    ensure!(port_of_guest(&switch)? == "vm0", "the guest's address is not behind vm0");

    let file = context.dir.join("file");
    let file = file.to_string_lossy();
    host.shell(&format!("head -c {FILE_BYTES} /dev/urandom > {file}"))?;
    prepare(&mut source)?;
    let in_namespace = |name: &str, program: &str, args: &[&str]| {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        Process::start_as(name, &context.dir, &namespace.wrap(), program, &args)
    };
    let seconds = UDP_SECONDS.to_string();
    let mut udp = in_namespace(
        "udp",
        "iperf3",
        &["-c", ADDRESS_B, "-u", "-b", "1M", "-l", "500", "-t", &seconds, "-J"],
    )?;
    let interval = PING_INTERVAL.as_secs_f64().to_string();
    let mut pings = in_namespace("ping", "busybox", &["ping", "-i", &interval, ADDRESS_B])?;
    pings.expect("an answer to a ping", 0, SHELL_LIMIT, |log| log.contains("seq="))?;

    let mut sender = None;
    let migration = source.migrate(&target, BANDWIDTH, || {
        let transfer = format!("exec busybox nc {ADDRESS_B} 5000 < {file}");
        sender = Some(in_namespace("sender", "sh", &["-c", &transfer])?);
        Ok(())
    })?;
    let mut sender = sender.context("the file is being sent")?;
    context.note(format!(
        "{:.1} s, {} passes, {} MB; by QEMU's account the guest ran nowhere for {} ms",
        migration.total.as_secs_f64(),
        migration.passes,
        migration.bytes >> 20,
        migration.downtime.as_millis()
    ));
    wait_until("the guest's address behind the other port", Duration::from_secs(10), || {
        Ok((port_of_guest(&switch)? == "vm1").then_some(()))
    })?;
    let injected = number(&switch.port("vm1")?, "injected");
    ensure!(announces_itself || injected > 0, "the switch was not asked to announce the guest");

    // The console of the target is in the middle of nothing: a first line may be cut.
    target.run("true; touch /tmp/go", SHELL_LIMIT)?;
    target.run(&until("[ -e /tmp/done ]", Duration::from_secs(60)), Duration::from_secs(90))?;
    let sums = "cat /tmp/before.sum; md5sum < /tmp/before; md5sum < /tmp/received; wc -c < /tmp/received";
    let sums = target.run(sums, SHELL_LIMIT)?;
    let sums: Vec<&str> = sums.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let sent = run_to_end("md5sum", &[&file], SHELL_LIMIT)?;
    let [before, after, received, bytes] = sums[..] else { bail!("checksums in the guest: {sums:?}") };
    ensure!(before == after, "what lay in the guest's memory has changed: {before}, then {after}");
    ensure!(bytes == FILE_BYTES.to_string(), "{bytes} of {FILE_BYTES} bytes have arrived");
    ensure!(
        sent.starts_with(received),
        "what the guest received is not what was sent: {received}, not {sent}"
    );
    sender.wait(SHELL_LIMIT)?;
    context.note(format!("{} MB received meanwhile, checksums right", FILE_BYTES >> 20));

    pings.signal(Signal::INT)?;
    pings.wait(SHELL_LIMIT)?;
    let (asked, answered) = ping_counts(&pings.log()).with_context(|| pings.tail())?;
    let lost = asked - answered;
    context.note(format!(
        "ping every {} ms: {lost} of {asked} lost, a pause of about {} ms",
        PING_INTERVAL.as_millis(),
        lost * PING_INTERVAL.as_millis() as u64
    ));
    udp.wait(UDP_LIMIT)?;
    let report: Value = serde_json::from_str(&udp.log()).with_context(|| udp.tail())?;
    let sum = &report["end"]["sum"];
    let (packets, lost) = (number(sum, "packets"), number(sum, "lost_packets"));
    ensure!(packets > 0 && lost < packets, "no datagram arrived: {sum}");
    context.note(format!("UDP, {} a second: {lost} of {packets} lost", packets / UDP_SECONDS));

    drop(source);
    ping(&mut host, ADDRESS_B, 1000)?;
    target.power_off()?;
    switch.finish().map(drop)
}

/// A file of its own with its checksum, a socket that takes much, and a reader that doesn't read until it is told to.
fn prepare(guest: &mut Guest) -> Result<()> {
    guest.run(
        "head -c 16777216 /dev/urandom > /tmp/before && md5sum < /tmp/before > /tmp/before.sum",
        SHELL_LIMIT,
    )?;
    guest.run(
        &format!("echo '4096 {SOCKET_BYTES} {SOCKET_BYTES}' > /proc/sys/net/ipv4/tcp_rmem"),
        SHELL_LIMIT,
    )?;
    guest.run("iperf3 -s -1 -D", SHELL_LIMIT)?;
    // nc must not see an end of its input: it would end the connection's other direction, and the sender with it.
    let reader = "sleep 1000 | nc -l -p 5000 | \
                  (while [ ! -e /tmp/go ]; do sleep 0.1; done; cat > /tmp/received; touch /tmp/done)";
    guest.run(&format!("({reader}) > /dev/null 2>&1 & sleep 1"), SHELL_LIMIT)?;
    Ok(())
}

/// The port behind which the bridge has the guest's address.
fn port_of_guest(switch: &Ringway) -> Result<String> {
    let shown = switch.show("fdb")?;
    let rows = shown.as_array().or_else(|| shown["fdb"].as_array()).context("no addresses shown")?;
    let row = rows.iter().find(|row| row["mac"] == "52:54:00:00:00:02");
    Ok(row.and_then(|row| row["port"].as_str()).unwrap_or("none").to_owned())
}

/// Reads `N packets transmitted, N packets received`.
fn ping_counts(log: &str) -> Option<(u64, u64)> {
    let number = |label: &str| -> Option<u64> {
        log.split_once(label)?.0.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Some((number(" packets transmitted")?, number(" packets received")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_counts_of_a_ping_are_read() {
        let log = "64 bytes from 10.1.0.2: seq=0\n--- statistics ---\n140 packets transmitted, 131 packets received, 6% packet loss";
        assert_eq!(ping_counts(log), Some((140, 131)));
        assert_eq!(ping_counts("64 bytes from"), None);
    }
}
