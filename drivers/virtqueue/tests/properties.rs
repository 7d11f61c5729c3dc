//! Any honest traffic between two guests arrives once, intact, in order, with what it asked for.

mod support;

use packet::{Burst, Offload};
use port::{PortCounters, RxQueue, Selection, TxQueue};
use proptest::prelude::*;
use support::*;
use virtio_defs::{feature, net};

/// A frame and how its sender lays it out.
#[derive(Clone, Debug)]
struct Sent {
    len: usize,
    cuts: Vec<usize>,
    indirect: bool,
    segment: bool,
    head: usize,
}

fn sent() -> impl Strategy<Value = Sent> {
    let len = prop_oneof![4 => 14..200usize, 2 => 200..3000usize, 1 => 3000..20_000usize];
    let cuts =
        prop_oneof![3 => Just(vec![]), 1 => Just(vec![12]), 1 => prop::collection::vec(0..40usize, 0..6)];
    let head = prop_oneof![Just(0usize), Just(64), Just(128)];
    (len, cuts, any::<bool>(), any::<bool>(), head).prop_map(|(len, cuts, indirect, segment, head)| Sent {
        len,
        cuts,
        indirect,
        segment,
        head,
    })
}

/// The features that change how rings are used.
fn features() -> impl Strategy<Value = u64> {
    prop::collection::vec(any::<bool>(), 4).prop_map(|on| {
        let bits = [feature::RING_PACKED, feature::EVENT_IDX, feature::IN_ORDER, net::feature::MRG_RXBUF];
        let chosen: u64 = bits.iter().zip(on).filter(|(_, on)| *on).map(|(bit, _)| bit).sum();
        feature::VERSION_1 | feature::INDIRECT_DESC | HOST_OFFLOADS | GUEST_OFFLOADS | chosen
    })
}

fn tso(len: usize) -> Offload {
    Offload {
        flags: 1,
        gso_type: 1,
        hdr_len: 54.min(len as u16),
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
    }
}

fn header(offload: &Offload) -> Vec<u8> {
    let o = offload;
    let mut bytes = vec![o.flags, o.gso_type];
    for field in [o.hdr_len, o.gso_size, o.csum_start, o.csum_offset, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

/// Puts together what a guest received: buffers in order, as many to a frame as its header says.
fn reassemble(guest: &mut Guest, mergeable: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let received = guest.received();
    let mut buffers = received.into_iter().map(|(at, len)| guest.read(at, len));
    let mut frames = vec![];
    while let Some(mut bytes) = buffers.next() {
        let count = u16::from_le_bytes([bytes[10], bytes[11]]);
        assert!(count == 1 || mergeable);
        for _ in 1..count {
            bytes.extend(buffers.next().expect("all buffers of a frame come together"));
        }
        let frame = bytes.split_off(12);
        frames.push((bytes[..10].to_vec(), frame));
    }
    frames
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn frames_pass_from_guest_to_guest(
        from_features in features(),
        to_features in features(),
        from_size in prop::sample::select(vec![8u16, 16, 64, 256]),
        to_size in prop::sample::select(vec![64u16, 256, 1024]),
        buffer in prop::sample::select(vec![1600usize, 2048, 4096]),
        frames in prop::collection::vec(sent(), 1..120),
        batch in 1..50usize,
    ) {
        let (mut a, mut b) = (Guest::new(from_size, from_features), Guest::new(to_size, to_features));
        let (mut rx, mut tx) = (a.rx_queue(), b.tx_queue());
        let counters = PortCounters::default();
        let mergeable = to_features & net::feature::MRG_RXBUF != 0;
        let refill = |b: &mut Guest| {
            let shape = [12, if mergeable { buffer - 12 } else { 25_000 }];
            while b.post(&shape) {}
            b.rx.publish();
        };
        let mut expected = vec![];
        let mut arrived = vec![];
        let mut burst = Burst::new();
        let mut pending = 0;
        let mut heads = vec![];

        let mut deliver = |a: &mut Guest, b: &mut Guest, heads: &mut Vec<usize>, arrived: &mut Vec<_>| {
            a.tx.publish();
            loop {
                // Enough for the longest burst that may come: small rings are filled, and frames lost there are
                // another test's business.
                refill(b);
                burst.clear();
                rx.receive(&mut burst, &counters).unwrap();
                if burst.is_empty() {
                    break;
                }
                for (i, head) in heads.drain(..burst.len()).enumerate() {
                    burst.load_head(i, head);
                }
                // Few at a time are as good as all at once: two of the longest fit into the smallest ring.
                let which: Vec<u8> = (0..burst.len() as u8).collect();
                for part in which.chunks(2) {
                    tx.transmit(Selection { burst: &mut burst, which: part }, &counters).unwrap();
                    arrived.extend(reassemble(b, mergeable));
                    refill(b);
                }
                tx.flush(&counters).unwrap();
                rx.release(&mut burst, &counters);
                a.sent();
            }
        };
        for (n, f) in frames.iter().enumerate() {
            let bytes = frame(n, f.len);
            let offload = if f.segment && f.len >= 54 { tso(f.len) } else { Offload::default() };
            let cuts = if f.indirect { &f.cuts[..] } else { &f.cuts[..f.cuts.len().min(3)] };
            if !a.send_cut(&header(&offload), &bytes, cuts, f.indirect) {
                deliver(&mut a, &mut b, &mut heads, &mut arrived);
                pending = 0;
                prop_assert!(a.send_cut(&header(&offload), &bytes, cuts, f.indirect));
            }
            heads.push(f.head);
            expected.push((header(&offload)[..10].to_vec(), bytes));
            pending += 1;
            if pending == batch {
                deliver(&mut a, &mut b, &mut heads, &mut arrived);
                pending = 0;
            }
        }
        deliver(&mut a, &mut b, &mut heads, &mut arrived);
        prop_assert_eq!(drops(&counters), []);
        prop_assert_eq!(arrived.len(), expected.len());
        for (n, (got, want)) in arrived.iter().zip(&expected).enumerate() {
            prop_assert!(got == want, "frame {} differs", n);
        }
        prop_assert_eq!(a.tx.outstanding(), 0);
        prop_assert_eq!(counters.rx_frames.get(), frames.len() as u64);
        prop_assert_eq!(counters.tx_bytes.get(), counters.rx_bytes.get());
    }
}
