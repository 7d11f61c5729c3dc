//! Entry points for fuzzers, as plain functions; any input may be given to them.

use std::os::fd::{AsFd, OwnedFd};

use guest_memory::SharedMemory;
use packet::{BURST_MAX, Burst};
use port::{PortCounters, Received, RxQueue, Selection, TxQueue};
use vhost_user::{Decoder, HEADER_LEN, Message, RequestCode};
use virtqueue::EventFd;

use crate::{PortConfig, PortState, QueueHost, Session, SessionState};

/// Bytes of the memory file that comes with memory regions.
const FILE_BYTES: u64 = 1 << 20;

/// Polls each queue once whenever a pair is complete: what comes in goes out.
#[derive(Default)]
struct Host {
    rx: Vec<Option<Box<dyn RxQueue>>>,
    tx: Vec<Option<Box<dyn TxQueue>>>,
    counters: PortCounters,
}

impl Host {
    fn new(pairs: u16) -> Self {
        let mut host = Host::default();
        host.rx.resize_with(pairs.into(), || None);
        host.tx.resize_with(pairs.into(), || None);
        host
    }

    /// Returns the first fault of the first pair that has one.
    fn turn(&mut self) -> Result<(), (u16, crate::Direction, port::QueueFault)> {
        let mut burst = Burst::new();
        let all: [u8; BURST_MAX] = std::array::from_fn(|i| i as u8);
        for (pair, (rx, tx)) in self.rx.iter_mut().zip(&mut self.tx).enumerate() {
            let (Some(rx), Some(tx)) = (rx, tx) else { continue };
            let mut received = Received::poll(&mut **rx, &mut burst, &self.counters)
                .map_err(|fault| (pair as u16, crate::Direction::Rx, fault))?;
            let burst = received.burst();
            let which = &all[..burst.len()];
            tx.transmit(Selection { burst, which }, &self.counters)
                .and_then(|()| tx.flush(&self.counters))
                .map_err(|fault| (pair as u16, crate::Direction::Tx, fault))?;
        }
        Ok(())
    }
}

impl QueueHost for Host {
    fn attach_rx(&mut self, pair: u16, queue: Box<dyn RxQueue>) {
        assert!(self.rx[usize::from(pair)].replace(queue).is_none());
    }

    fn detach_rx(&mut self, pair: u16) -> Option<Box<dyn RxQueue>> {
        self.rx[usize::from(pair)].take()
    }

    fn attach_tx(&mut self, pair: u16, queue: Box<dyn TxQueue>) {
        assert!(self.tx[usize::from(pair)].replace(queue).is_none());
    }

    fn detach_tx(&mut self, pair: u16) -> Option<Box<dyn TxQueue>> {
        self.tx[usize::from(pair)].take()
    }

    fn state_changed(&mut self, _: PortState) {}

    fn announce(&mut self, _: [u8; 6]) {}
}

/// Sends `data` as messages to a session with real descriptors, polls its queues after each, and checks that the
/// end of the connection leaves no queue behind.
///
/// Each message is a header of 3 bytes (code, flags with bit 7 for a descriptor more than usual, payload length)
/// and its payload. Descriptors are of the kind the code asks for.
///
/// # Panics
/// When something is wrong with the session, or the process has no descriptors left.
pub fn fuzz_session(data: &[u8]) {
    let config = PortConfig { queue_pairs: 2, ..PortConfig::default() };
    let mut host = Host::new(config.queue_pairs);
    let mut session = Session::new("fuzz", config);
    let memory = SharedMemory::new(c"fuzz", FILE_BYTES).expect("a memory file");
    let memory_fd = || memory.fd().try_clone_to_owned().expect("a descriptor");
    session.connected(&mut host);
    let mut rest = data;
    while let [code, flags, len, tail @ ..] = rest {
        let (payload, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        let count = fd_count(RequestCode((*code).into()), payload) + usize::from(flags >> 7);
        let fds: Vec<OwnedFd> = (0..count.min(vhost_user::FDS_MAX))
            .map(|_| match u32::from(*code) {
                12..=14 => EventFd::create().expect("an event").into(),
                _ => memory_fd(),
            })
            .collect();
        let Some(message) = message(*code, *flags, payload, fds) else { continue };
        let ended = match session.handle(message, &mut host) {
            Err(end) => Some(end),
            Ok(_) => match host.turn() {
                Ok(()) => None,
                Err((pair, direction, fault)) => session.queue_fault(pair, direction, fault),
            },
        };
        if let Some(end) = ended {
            session.disconnected(&end, &mut host);
            assert!(host.rx.iter().all(Option::is_none) && host.tx.iter().all(Option::is_none));
            session.connected(&mut host);
        }
    }
    let (state, fds) = session.export().expect("descriptors");
    let import = Session::import(PortConfig { queue_pairs: 2, ..PortConfig::default() }, &state, fds);
    import.expect("what was exported can be imported");
}

fn message(code: u8, flags: u8, payload: &[u8], fds: Vec<OwnedFd>) -> Option<Message> {
    let mut decoder = Decoder::new();
    let flags = u32::from(flags & 0x7c) | 1;
    let mut bytes = vec![];
    for word in [u32::from(code), flags, payload.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(payload);
    let (head, body) = bytes.split_at(HEADER_LEN);
    match decoder.feed(head, fds).ok()? {
        Some(message) => Some(message),
        None => decoder.feed(body, []).ok()?,
    }
}

fn fd_count(code: RequestCode, payload: &[u8]) -> usize {
    match code {
        RequestCode::SET_MEM_TABLE => payload.first().map_or(0, |&n| usize::from(n)),
        RequestCode::SET_VRING_KICK | RequestCode::SET_VRING_CALL | RequestCode::SET_VRING_ERR => {
            usize::from(payload.get(1).is_none_or(|flags| flags & 1 == 0))
        }
        RequestCode::SET_LOG_BASE
        | RequestCode::SET_LOG_FD
        | RequestCode::SET_BACKEND_REQ_FD
        | RequestCode::SET_INFLIGHT_FD
        | RequestCode::ADD_MEM_REG => 1,
        _ => 0,
    }
}

/// Imports a state with descriptors of both kinds and resumes it.
///
/// # Panics
/// When something is wrong with the session, or the process has no descriptors left.
pub fn fuzz_import(state: &SessionState) {
    let memory = SharedMemory::new(c"fuzz", FILE_BYTES).expect("a memory file");
    let fds = (0..16)
        .map(|n| match n % 2 {
            0 => memory.fd().as_fd().try_clone_to_owned().expect("a descriptor"),
            _ => EventFd::create().expect("an event").into(),
        })
        .collect();
    let config = PortConfig { queue_pairs: 2, ..PortConfig::default() };
    let mut host = Host::new(config.queue_pairs);
    if let Ok(mut session) = Session::import(config, state, fds) {
        // Running out of descriptors is not the state's fault; anything else shows as a port without rings.
        session.resume(&mut host).expect("descriptors");
        let _ = host.turn();
        session.suspend(&mut host).expect("the queues come back");
        assert!(host.rx.iter().all(Option::is_none) && host.tx.iter().all(Option::is_none));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{AddrState, KickState, RegionState, STATE_VERSION, VringSaved};
    use virtio_defs::feature;

    /// Numbers that matter more often than chance has them.
    fn interesting() -> impl Strategy<Value = u64> {
        prop_oneof![
            0u64..4,
            Just(4096u64),
            Just(0x1_0000u64),
            Just(FILE_BYTES),
            Just(FILE_BYTES - 1),
            Just(u64::MAX),
            Just(u64::MAX - 4095),
            any::<u64>(),
        ]
    }

    fn number_bytes(longs: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(interesting(), longs)
            .prop_map(|v| v.into_iter().flat_map(u64::to_ne_bytes).collect())
    }

    fn words(count: usize) -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![0u32..5, Just(64u32), Just(256u32), any::<u32>()];
        proptest::collection::vec(word, count)
            .prop_map(|v| v.into_iter().flat_map(u32::to_ne_bytes).collect())
    }

    /// A message with a payload of the right size and likely contents.
    fn likely_message() -> impl Strategy<Value = Vec<u8>> {
        let region = || (interesting(), interesting(), interesting(), interesting());
        let region_bytes = |(a, b, c, d): (u64, u64, u64, u64)| [a, b, c, d].map(u64::to_ne_bytes).concat();
        let one_region = (0u64..2, 1u64..9).prop_map(|(at, pages)| (at << 20, pages << 12, at << 20, 0));
        let features = any::<u64>().prop_map(|bits| (bits | feature::VERSION_1) & crate::OFFERED);
        let payload = prop_oneof![
            (Just(2u8), features.prop_map(|f| f.to_ne_bytes().to_vec())),
            (Just(16u8), any::<u64>().prop_map(|b| (b & crate::OFFERED_PROTOCOL.0).to_ne_bytes().to_vec())),
            (
                Just(5u8),
                proptest::collection::vec(region(), 0..4).prop_map(move |v| {
                    let mut out = (v.len() as u64).to_ne_bytes().to_vec();
                    v.into_iter().for_each(|r| out.extend(region_bytes(r)));
                    out
                })
            ),
            (
                prop_oneof![Just(37u8), Just(38u8)],
                prop_oneof![region().boxed(), one_region.boxed()].prop_map(move |r| [
                    vec![0; 8],
                    region_bytes(r)
                ]
                .concat())
            ),
            (prop_oneof![Just(8u8), Just(10), Just(11), Just(18)], words(2)),
            (prop_oneof![Just(12u8), Just(13), Just(14)], number_bytes(1)),
            (
                Just(9u8),
                (words(2), proptest::collection::vec(0u64..0x4000, 4)).prop_map(|(mut head, addrs)| {
                    addrs.into_iter().for_each(|a| head.extend((a << 6).to_ne_bytes()));
                    head
                })
            ),
            (prop_oneof![Just(6u8)], number_bytes(2)),
            (prop_oneof![Just(31u8), Just(32)], number_bytes(3)),
            (prop_oneof![Just(19u8), Just(20), Just(39)], number_bytes(1)),
            (
                prop_oneof![Just(1u8), Just(3), Just(4), Just(15), Just(17), Just(34), Just(36), Just(40)],
                Just(vec![])
            ),
            (0u8..50, proptest::collection::vec(any::<u8>(), 0..60)),
        ];
        (payload, any::<bool>(), 0u8..30).prop_map(|((code, payload), reply, odd)| {
            let flags = if reply { 8 } else { 0 } | if odd == 0 { 0x80 } else { 0 };
            [vec![code, flags, payload.len() as u8], payload].concat()
        })
    }

    /// What negotiates everything and starts a pair of rings in 1 MiB of memory, so that what follows meets them.
    fn prelude() -> Vec<u8> {
        let mut out = vec![];
        let mut put = |code: RequestCode, payload: Vec<u8>| {
            out.extend([code.0 as u8, 0, payload.len() as u8]);
            out.extend(payload);
        };
        let longs = |v: &[u64]| v.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
        let state = |index: u32, num: u32| [index.to_ne_bytes(), num.to_ne_bytes()].concat();
        put(RequestCode::SET_PROTOCOL_FEATURES, longs(&[crate::OFFERED_PROTOCOL.0]));
        put(RequestCode::SET_FEATURES, longs(&[crate::OFFERED & !feature::RING_PACKED]));
        put(RequestCode::ADD_MEM_REG, longs(&[0, 0, FILE_BYTES, 0, 0]));
        for index in 0..2u32 {
            let at = 0x4000 * u64::from(index);
            put(RequestCode::SET_VRING_NUM, state(index, 64));
            put(RequestCode::SET_VRING_BASE, state(index, 0));
            let addr = longs(&[at, at + 0x1000, at + 0x2000, 0]);
            put(RequestCode::SET_VRING_ADDR, [state(index, 0), addr].concat());
            put(RequestCode::SET_VRING_KICK, longs(&[index.into()]));
            put(RequestCode::SET_VRING_ENABLE, state(index, 1));
        }
        out
    }

    #[test]
    fn the_prelude_starts_its_rings() {
        let mut host = Host::new(2);
        let mut session = Session::new("fuzz", PortConfig { queue_pairs: 2, ..PortConfig::default() });
        let memory = SharedMemory::new(c"fuzz", FILE_BYTES).unwrap();
        session.connected(&mut host);
        let data = prelude();
        let mut rest = &data[..];
        while let [code, flags, len, tail @ ..] = rest {
            let (payload, tail) = tail.split_at(usize::from(*len));
            rest = tail;
            let fds = match RequestCode((*code).into()) {
                RequestCode::ADD_MEM_REG => vec![memory.fd().try_clone_to_owned().unwrap()],
                RequestCode::SET_VRING_KICK => vec![EventFd::create().unwrap().into()],
                _ => vec![],
            };
            session.handle(message(*code, *flags, payload, fds).unwrap(), &mut host).unwrap();
        }
        assert_eq!(session.state().queue_pairs, 1, "{:?}", session.state());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            fuzz_session(&data);
        }

        #[test]
        fn any_sequence_of_likely_messages_is_survived(
            messages in proptest::collection::vec(likely_message(), 0..60),
        ) {
            fuzz_session(&[prelude(), messages.concat()].concat());
        }

        #[test]
        fn any_state_is_survived(
            regions in proptest::collection::vec((interesting(), interesting(), 0usize..9), 0..4),
            vrings in proptest::collection::vec((any::<u16>(), interesting(), any::<u32>(), 0usize..9), 0..6),
            features in any::<u64>(),
            version in prop_oneof![Just(STATE_VERSION), any::<u32>()],
        ) {
            let region = |(addr, size, fd)| RegionState {
                guest_addr: addr, size, user_addr: addr, mmap_offset: 0, fd,
            };
            let vring = |(size, at, base, fd)| VringSaved {
                size: Some(size),
                addr: Some(AddrState { flags: 1, desc: at, used: at, avail: at, log: at }),
                base: Some(base),
                kick: KickState::Event(fd),
                call: Some(fd + 1),
                err: None,
                enabled: true,
            };
            fuzz_import(&SessionState {
                version,
                name: "fuzz".into(),
                connected: true,
                features: (features | feature::VERSION_1) & crate::OFFERED,
                protocol: 0,
                status: 0,
                mtu: None,
                link_up: true,
                connections: 1,
                messages: 1,
                regions: regions.into_iter().map(region).collect(),
                vrings: vrings.into_iter().map(vring).collect(),
                log: None,
                inflight: None,
                channel: None,
            });
        }
    }
}
