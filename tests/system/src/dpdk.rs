//! DPDK's virtio-user driver as the guest, in every ring mode it has, counted at both ends.

use anyhow::{Context as _, Result, bail};
use lab::switch::{Plan, PortCounters, PortKind, Switch, System};
use lab::{PortStats, Testpmd, TestpmdOptions, VirtioUser, wait_until};
use std::time::Duration;

use crate::{Context, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("testpmd/split", &[], |c| exchange(c, |port| port)),
    Scenario::new("testpmd/packed", &[], |c| exchange(c, |port| VirtioUser { packed: true, ..port })),
    Scenario::new("testpmd/split-in-order", &[], |c| {
        exchange(c, |port| VirtioUser { in_order: true, ..port })
    }),
    Scenario::new("testpmd/split-not-in-order", &[], |c| {
        exchange(c, |port| VirtioUser { in_order: false, ..port })
    }),
    Scenario::new("testpmd/packed-in-order", &[], |c| {
        exchange(c, |port| VirtioUser { packed: true, in_order: true, ..port })
    }),
    Scenario::new("testpmd/packed-not-in-order", &[], |c| {
        exchange(c, |port| VirtioUser { packed: true, in_order: false, ..port })
    }),
    Scenario::new("testpmd/split-vectorized", &[], |c| {
        exchange(c, |port| VirtioUser { vectorized: true, in_order: false, mergeable: false, ..port })
    }),
    Scenario::new("testpmd/packed-vectorized", &[], |c| {
        exchange(c, |port| VirtioUser { packed: true, vectorized: true, mergeable: false, ..port })
    }),
    Scenario::new("testpmd/split-mrg_rxbuf=0", &[], |c| {
        exchange(c, |port| VirtioUser { mergeable: false, ..port })
    }),
    Scenario::new("testpmd/packed-mrg_rxbuf=0", &[], |c| {
        exchange(c, |port| VirtioUser { packed: true, mergeable: false, ..port })
    }),
    Scenario::new("testpmd/split-4-queue-pairs", &[], |c| {
        exchange(c, |port| VirtioUser { queues: 4, ..port })
    }),
    Scenario::new("testpmd/packed-4-queue-pairs", &[], |c| {
        exchange(c, |port| VirtioUser { packed: true, queues: 4, ..port })
    }),
    Scenario::new("testpmd/switch-connects", &[], |c| {
        exchange(c, |port| VirtioUser { server: true, ..port })
    }),
    Scenario::new("testpmd/small-rings", &[], |c| exchange(c, |port| VirtioUser { queue_size: 256, ..port })),
];

/// Frame sizes exchanged, in bytes without FCS: the smallest, and the largest that fits an MTU of 1,500.
const SIZES: [u32; 2] = [64, 1514];
/// How long each size is exchanged at least, and until how many frames have arrived. Rates are not judged here.
const TIME_PER_SIZE: Duration = Duration::from_millis(1500);
const FRAMES_PER_SIZE: u64 = 10_000;
const ARRIVAL_LIMIT: Duration = Duration::from_secs(15);
/// The vector receive function takes whole groups of descriptors and may leave one less than a group in each ring.
const VECTOR_REST: u64 = 7;
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Lets two ports of one testpmd throw frames at each other through the switch and compares all counters.
fn exchange(context: &Context, shape: impl Fn(VirtioUser) -> VirtioUser) -> Result<()> {
    let mut plan = Plan::with_guests(&context.dir, 2).join_first_two();
    // OVS counts frames of ports in client mode only.
    let guest_listens = context.system == System::OvsDpdk;
    let guest = |port| VirtioUser { server: guest_listens, ..VirtioUser::new(&plan.socket(port)) };
    let guests: Vec<_> = (0..2).map(|port| shape(guest(port))).collect();
    for (port, guest) in plan.ports.iter_mut().zip(&guests) {
        port.queues = guest.queues;
        port.kind = PortKind::VhostUser { listens: !guest.server };
    }
    let options = TestpmdOptions::guest("guest", 1, &guests);
    let (mut switch, mut testpmd) = if guests[0].server {
        let testpmd = Testpmd::launch(&context.dir, &options)?;
        let switch = context.system.start(&plan)?;
        (switch, testpmd)
    } else {
        let switch = context.system.start(&plan)?;
        (switch, Testpmd::launch(&context.dir, &options)?)
    };
    testpmd.wait_ready()?;
    let mut seen = 0;
    for size in SIZES {
        testpmd.circulate(size, 4)?;
        std::thread::sleep(TIME_PER_SIZE);
        wait_until("10,000 frames to arrive", ARRIVAL_LIMIT, || {
            Ok((testpmd.received()? - seen >= FRAMES_PER_SIZE).then_some(()))
        })
        .with_context(|| format!("frames of {size} bytes"))?;
        testpmd.command("stop")?;
        let received: u64 = testpmd.drain()?.iter().map(|port| port.rx_frames).sum();
        context.note(format!("{} frames of {size} bytes", received - seen));
        seen = received;
    }
    let rest = if guests[0].vectorized { VECTOR_REST * u64::from(guests[0].queues) } else { 0 };
    compare(context.system, &mut testpmd, switch.as_mut(), rest)?;
    testpmd.quit()?;
    switch.stop()
}

/// Compares both ends once everything has come to rest.
fn compare(system: System, testpmd: &mut Testpmd, switch: &mut dyn Switch, rest: u64) -> Result<()> {
    let guest = testpmd.stats()?;
    let mut last = String::new();
    let settled = wait_until("agreement of both ends", SETTLE_LIMIT, || {
        let ports = switch.counters()?;
        Ok(match disagreement(system, &guest, &ports, rest) {
            None => Some(()),
            Some(difference) => {
                last = difference;
                None
            }
        })
    });
    if settled.is_err() {
        bail!("{last}");
    }
    Ok(())
}

/// Says where the counts of guest and switch differ by more than `rest` frames waiting in a ring.
fn disagreement(system: System, guest: &[PortStats], switch: &[PortCounters], rest: u64) -> Option<String> {
    for (index, (guest, port)) in guest.iter().zip(switch).enumerate() {
        if guest.tx_frames != port.rx_frames {
            let (sent, got) = (guest.tx_frames, port.rx_frames);
            return Some(format!("port {index}: the guest sent {sent} frames, the switch received {got}"));
        }
        let lost = port.tx_frames.checked_sub(guest.rx_frames);
        if lost.is_none_or(|lost| lost > rest) {
            let (sent, got) = (port.tx_frames, guest.rx_frames);
            return Some(format!("port {index}: the switch sent {sent} frames, the guest received {got}"));
        }
    }
    // testpmd does not count among its ports' statistics what it drops when a ring is full.
    if system != System::Testpmd {
        let sum = |of: fn(&PortCounters) -> u64| switch.iter().map(of).sum::<u64>();
        let (received, sent, dropped) =
            (sum(|p| p.rx_frames), sum(|p| p.tx_frames), sum(PortCounters::dropped));
        if received != sent + dropped {
            return Some(format!("received {received}, but sent {sent} and dropped {dropped}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(sent: u64, got: u64) -> (Vec<PortStats>, Vec<PortCounters>) {
        let guest = PortStats { rx_frames: got, tx_frames: 10, ..PortStats::default() };
        let port = PortCounters { rx_frames: 10, tx_frames: sent, ..PortCounters::default() };
        (vec![guest], vec![port])
    }

    #[test]
    fn equal_counts_agree() {
        let (guest, switch) = ends(10, 10);
        assert_eq!(disagreement(System::Ringway, &guest, &switch, 0), None);
    }

    #[test]
    fn a_frame_lost_on_the_way_to_the_guest_is_noticed() {
        let (guest, switch) = ends(10, 9);
        assert!(disagreement(System::Ringway, &guest, &switch, 0).is_some());
        assert_eq!(disagreement(System::Ringway, &guest, &switch, 1), None);
    }

    #[test]
    fn a_frame_neither_sent_nor_dropped_is_noticed() {
        let (guest, switch) = ends(9, 9);
        assert!(
            disagreement(System::Ringway, &guest, &switch, 0).is_some_and(|text| text.contains("dropped 0"))
        );
    }

    #[test]
    fn a_frame_the_guest_got_twice_is_noticed() {
        let (guest, switch) = ends(10, 11);
        assert!(disagreement(System::Testpmd, &guest, &switch, 7).is_some());
    }
}
