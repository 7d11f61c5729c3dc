//! What objects send, and what they make of the answers: against a portal that answers as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dpaa2_defs::mc::common::{self, ApiVersion, Close, Disable, Enable, Enabled, IsEnabled, Reset};
use dpaa2_defs::mc::dpni::{self, QueueType};
use dpaa2_defs::mc::header::{Command, CommandId, Frame, Status};
use dpaa2_defs::mc::object::ObjectType;
use dpaa2_defs::mc::{dpbp, dpio, dpmng, dprc};
use dpaa2_mc::{
    BufferLayout, DISABLE_TIMEOUT, Dpbp, Dpio, Dpni, Dprc, Failure, Mc, McError, PoolBinding, QueueId,
    QueueTarget, Taildrop,
};
use fslmc_bus::{CommandPortal, PortalError};
use zerocopy::{Immutable, IntoBytes};

/// What the MC does with a command.
enum Answer {
    Give(Status, u16, Vec<u8>),
    Never,
}

/// Answers in order, for the command each is for; any other command fails the test. What was sent is kept.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Exchange>>);

/// Answers to come, and what was sent.
type Exchange = (VecDeque<(CommandId, Answer)>, Vec<Frame>);

impl Script {
    fn answer<C: Command>(&self, answer: Answer) -> &Self {
        self.0.lock().unwrap().0.push_back((C::CMD, answer));
        self
    }

    fn ok<C: Command>(&self) -> &Self {
        self.answer::<C>(Answer::Give(Status::OK, 0, Vec::new()))
    }

    fn give<C: Command>(&self, response: impl IntoBytes + Immutable) -> &Self {
        self.answer::<C>(Answer::Give(Status::OK, 0, response.as_bytes().to_vec()))
    }

    fn refuse<C: Command>(&self, status: Status) -> &Self {
        // What refused commands carry isn't to be looked at.
        self.answer::<C>(Answer::Give(status, 0xdead, vec![0xff; 56]))
    }

    fn opened<C: Command>(&self, token: u16) -> &Self {
        self.answer::<C>(Answer::Give(Status::OK, token, Vec::new()))
    }

    fn mc(&self) -> Mc {
        Mc::new(self.clone())
    }

    /// What was sent: names would be nicer, numbers are exact.
    fn sent(&self) -> Vec<(u16, u16)> {
        self.0.lock().unwrap().1.iter().map(|f| (f.header.id().id, f.header.token.get())).collect()
    }

    fn last<C: Command>(&self) -> C {
        let sent = &self.0.lock().unwrap().1;
        let frame = sent.iter().rfind(|frame| frame.header.id() == C::CMD).expect("it was sent");
        frame.read()
    }

    fn is_used_up(&self) -> bool {
        self.0.lock().unwrap().0.is_empty()
    }
}

impl CommandPortal for Script {
    fn execute(&mut self, command: &[u64; 8], timeout: Duration) -> Result<[u64; 8], PortalError> {
        let request = Frame::from_words(*command);
        assert_eq!(request.header.status, Status::READY);
        let (answers, sent) = &mut *self.0.lock().unwrap();
        sent.push(request);
        // Nobody minds what becomes of a `close` that a test doesn't mention.
        let id = request.header.id();
        if id == Close::CMD && answers.front().is_none_or(|(expected, _)| *expected != id) {
            return Ok(request.response(Status::OK, &()).words());
        }
        let (expected, answer) = answers.pop_front().unwrap_or_else(|| panic!("{id} isn't expected"));
        assert_eq!(id, expected);
        match answer {
            Answer::Never => Err(PortalError::Timeout(timeout)),
            Answer::Give(status, token, parameters) => {
                let mut response = request.response(status, &());
                if token != 0 {
                    response.header.token = token.into();
                }
                response.parameters[..parameters.len()].copy_from_slice(&parameters);
                Ok(response.words())
            }
        }
    }
}

fn open_dpni(script: &Script) -> Dpni {
    script.opened::<dpni::Open>(7);
    Dpni::open(&script.mc(), 1).expect("it opens")
}

#[test]
fn an_object_is_opened_used_by_its_token_and_closed() {
    let script = Script::default();
    script.opened::<dpbp::Open>(9);
    script.ok::<Reset>().ok::<Enable>().give::<dpbp::GetAttributes>(dpbp::Attributes {
        bpid: 5.into(),
        id: 2.into(),
        ..Default::default()
    });
    let pool = Dpbp::open(&script.mc(), 2).expect("opens");
    let pool = pool.reset().expect("resets").enable().expect("enables");
    assert_eq!(pool.attributes().expect("answers").bpid.get(), 5);
    assert_eq!(script.last::<dpbp::Open>().id.get(), 2);
    drop(pool);
    assert_eq!(script.sent(), [(0x804, 0), (0x005, 9), (0x002, 9), (0x004, 9), (0x800, 9)]);
}

#[test]
fn closing_can_say_that_it_failed_and_is_not_tried_twice() {
    let script = Script::default();
    script.opened::<dpio::Open>(3).refuse::<Close>(Status::AUTHENTICATION);
    let portal = Dpio::open(&script.mc(), 8).expect("opens");
    let error = portal.close().expect_err("refused");
    assert_eq!(error.status(), Some(Status::AUTHENTICATION));
    assert_eq!(script.sent(), [(0x803, 0), (0x800, 3)]);
}

#[test]
fn what_cannot_be_enabled_is_closed() {
    let script = Script::default();
    let interface = open_dpni(&script);
    script.refuse::<Enable>(Status::INVALID_STATE);
    assert!(interface.enable().is_err());
    assert_eq!(script.sent().last(), Some(&(0x800, 7)));
}

#[test]
fn a_refusal_names_object_command_meaning_and_remedy() {
    let script = Script::default();
    let mut interface = open_dpni(&script);
    script.refuse::<dpni::SetPools>(Status::NO_RESOURCE);
    let error = interface.set_pools(&[]).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "dpni.1: set pools (0x200 v3): NO_RESOURCE: the container has none left of what this takes; give the container \
         more (`restool … create --container=`), or use fewer queues, pools or entries"
    );
}

#[test]
fn every_status_has_a_meaning_and_a_remedy() {
    let script = Script::default();
    let interface = open_dpni(&script);
    for status in (1..=16).map(Status) {
        script.refuse::<dpni::GetLinkState>(status);
        let error = interface.link_state().expect_err("refused");
        assert_eq!(error.status(), Some(status));
        let text = error.to_string();
        assert!(text.starts_with("dpni.1: get link state (0x215 v2): "), "{text}");
        assert!(text.contains(&status.to_string()) && !error.remedy().is_empty(), "{text}");
    }
}

#[test]
fn a_token_that_is_not_valid_is_explained() {
    let script = Script::default();
    let interface = open_dpni(&script);
    script.refuse::<dpni::GetLinkState>(Status::AUTHENTICATION);
    let error = interface.link_state().expect_err("refused").to_string();
    assert!(error.contains("AUTH_ERR: the object isn't open on this portal"), "{error}");
}

#[test]
fn an_open_object_without_a_token_is_not_believed() {
    let script = Script::default();
    script.opened::<dpni::Open>(0);
    let error = Dpni::open(&script.mc(), 4).expect_err("nonsense");
    assert!(matches!(error.failure, Failure::Nonsense(_)), "{error}");
    assert_eq!(script.sent(), [(0x801, 0)], "nothing is there to be closed");
}

#[test]
fn a_silent_mc_is_an_error_that_says_how_long_it_was_waited_for() {
    let script = Script::default();
    script.answer::<dpmng::GetVersion>(Answer::Never);
    let mc = script.mc().with_timeout(Duration::from_millis(250));
    let error = mc.version().expect_err("silent");
    let text = error.to_string();
    assert!(
        text.starts_with("MC: get MC version (0x831 v1): the MC didn't answer within 250 ms; "),
        "{text}"
    );
}

#[test]
fn versions_are_read_in_the_order_of_the_firmware() {
    let script = Script::default();
    script
        .give::<dpmng::GetVersion>([0u32, 10, 39])
        .give::<dpmng::GetSocVersion>([0x8736_0020_u32, 0])
        .give::<dprc::GetContainerId>([2u32]);
    let mc = script.mc();
    assert_eq!(mc.version().expect("answers").to_string(), "10.39.0");
    assert_eq!(mc.soc_version().expect("answers").name(), Some("LX2160A"));
    assert_eq!(mc.container_id().expect("answers"), 2);
}

#[test]
fn an_interface_has_stopped_when_disabling_returns() {
    let script = Script::default();
    let interface = open_dpni(&script);
    script.ok::<Enable>().ok::<Disable>();
    script.give::<IsEnabled>(Enabled::from(true)).give::<IsEnabled>(Enabled::from(false));
    interface.enable().expect("enables").disable().expect("stops");
    assert!(script.is_used_up());
}

#[test]
fn an_interface_that_does_not_stop_is_an_error_in_time() {
    let script = Script::default();
    let interface = open_dpni(&script);
    script.ok::<Enable>().ok::<Disable>();
    for _ in 0..1000 {
        script.give::<IsEnabled>(Enabled::from(true));
    }
    let interface = interface.enable().expect("enables");
    let start = std::time::Instant::now();
    let error = interface.disable().expect_err("it doesn't stop");
    assert!(matches!(error.failure, Failure::StillEnabled), "{error}");
    assert!(start.elapsed() >= DISABLE_TIMEOUT);
    assert_eq!(script.sent().last(), Some(&(0x800, 7)), "it is closed all the same");
}

#[test]
fn pools_are_bound_with_their_sizes_and_classes() {
    let script = Script::default();
    let mut interface = open_dpni(&script);
    script.ok::<dpni::SetPools>();
    let pool = |dpbp_id, tc_mask, backup| PoolBinding { dpbp_id, buffer_size: 2048, tc_mask, backup };
    interface.set_pools(&[pool(4, 0x01, false), pool(5, 0xfe, true)]).expect("bound");
    let sent = script.last::<dpni::SetPools>();
    assert_eq!((sent.count, sent.backup_mask), (2, 0b10));
    assert_eq!(
        sent.pools.map(|pool| (pool.dpbp_id.get(), pool.priority_mask))[..3],
        [(4, 0x01), (5, 0xfe), (0, 0)]
    );
    assert_eq!(sent.buffer_sizes.map(|size| size.get())[..3], [2048, 2048, 0]);
}

#[test]
fn of_a_buffer_layout_only_what_is_chosen_changes() {
    let script = Script::default();
    let mut interface = open_dpni(&script);
    script.ok::<dpni::SetBufferLayout>();
    let layout = BufferLayout {
        timestamp: Some(false),
        frame_status: Some(true),
        head_room: Some(128),
        ..Default::default()
    };
    interface.set_buffer_layout(QueueType::RX, &layout).expect("set");
    let sent = script.last::<dpni::SetBufferLayout>();
    use dpni::buffer_layout_option::{FRAME_STATUS, HEAD_ROOM, TIMESTAMP};
    assert_eq!(sent.options.get(), TIMESTAMP | FRAME_STATUS | HEAD_ROOM);
    assert_eq!((sent.flags, sent.head_room.get()), (dpni::buffer_layout_flag::FRAME_STATUS, 128));
}

#[test]
fn queues_go_where_they_are_sent() {
    let script = Script::default();
    let interface = open_dpni(&script);
    script.ok::<dpni::SetQueue>().ok::<dpni::SetQueue>();
    let target = QueueTarget::Dpcon { id: 4, priority: 1 };
    interface.set_queue(QueueId::rx(1, 2), target, 0x1234, dpni::stash::data(1)).expect("set");
    let sent = script.last::<dpni::SetQueue>();
    assert_eq!((sent.tc, sent.index, sent.options), (1, 2, 0x07));
    assert_eq!((sent.destination_id.get(), sent.destination_priority, sent.flags), (4, 1, 0x42));
    assert_eq!((sent.user_context.get(), sent.flc.get()), (0x1234, 0x10));
    interface.set_queue(QueueId::rx(0, 0), QueueTarget::Parked, 0, 0).expect("set");
    assert_eq!(script.last::<dpni::SetQueue>().flags & 0x0f, 0);
}

#[test]
fn a_taildrop_of_frames_of_bytes_and_none() {
    let script = Script::default();
    let interface = open_dpni(&script);
    for (taildrop, expected) in [
        (Taildrop::Off, (0, 0, 0, 0)),
        (Taildrop::Bytes { threshold: 65536, overhead: -1 }, (0xff, 0x1f, 0, 65536)),
        (Taildrop::Frames { threshold: 512 }, (1, 0, 1, 512)),
    ] {
        script.ok::<dpni::SetTaildrop>();
        interface.set_taildrop(QueueId::rx(0, 3), taildrop).expect("set");
        let sent = script.last::<dpni::SetTaildrop>();
        let bytes = (sent.enable_and_overhead_low, sent.overhead_high, sent.units.0, sent.threshold.get());
        assert_eq!(bytes, expected, "{taildrop:?}");
    }
}

#[test]
fn events_are_cleared_as_they_are_taken() {
    let script = Script::default();
    let interface = open_dpni(&script);
    script.give::<common::GetIrqStatus>([dpni::event::LINK_CHANGED]).ok::<common::ClearIrqStatus>();
    script.give::<common::GetIrqStatus>([0u32]);
    assert_eq!(interface.take_events().expect("answers"), dpni::event::LINK_CHANGED);
    assert_eq!(script.last::<common::ClearIrqStatus>().events.get(), dpni::event::LINK_CHANGED);
    assert_eq!(interface.take_events().expect("answers"), 0);
    assert!(script.is_used_up());
}

fn open_dprc(script: &Script) -> Dprc {
    script.opened::<dprc::Open>(2);
    Dprc::open(&script.mc(), 2).expect("it opens")
}

fn descriptor(object_type: ObjectType, id: u32) -> dprc::ObjectDescriptor {
    dprc::ObjectDescriptor { object_type, id: id.into(), state: 2.into(), ..Default::default() }
}

#[test]
fn a_container_that_loses_an_object_while_it_is_listed_is_listed_without_it() {
    let script = Script::default();
    let container = open_dprc(&script);
    script
        .give::<dprc::GetObjectCount>([0u32, 3])
        .give::<dprc::GetObject>(descriptor(ObjectType::DPNI, 1))
        .give::<dprc::GetObject>(descriptor(ObjectType::DPIO, 4))
        .refuse::<dprc::GetObject>(Status::CONFIGURATION);
    let objects = container.objects().expect("listed");
    let names: Vec<String> = objects.iter().map(|object| object.object().to_string()).collect();
    assert_eq!(names, ["dpio.4", "dpni.1"]);
}

#[test]
fn a_region_is_asked_for_in_the_version_the_firmware_knows() {
    let script = Script::default();
    for ((major, minor), version) in
        [((6, 7), 3), ((6, 6), 3), ((6, 3), 2), ((6, 2), 1), ((5, 9), 1), ((7, 0), 3)]
    {
        assert_eq!(dprc::get_object_region_version(major, minor), version);
    }
    let container = open_dprc(&script);
    script.give::<dprc::GetApiVersion>(ApiVersion { major: 6.into(), minor: 7.into() });
    let region = dprc::ObjectRegion {
        size: 65536.into(),
        region_type: dprc::RegionType::QBMAN_PORTAL,
        ..Default::default()
    };
    script.give::<dprc::GetObjectRegion>(region);
    assert_eq!(container.region(ObjectType::DPIO.with_id(4), 1).expect("answers"), region);
    let sent = script.last::<dprc::GetObjectRegion>();
    assert_eq!((sent.object_id.get(), sent.index, sent.object_type), (4, 1, ObjectType::DPIO));
}

/// A page whose counters are 100 times its number, plus their place.
fn page(number: u64) -> [u64; 7] {
    std::array::from_fn(|place| 100 * number + place as u64)
}

#[test]
fn counters_have_the_names_of_their_pages() {
    let script = Script::default();
    let interface = open_dpni(&script);
    for number in [0, 1, 2, 6] {
        script.give::<dpni::GetStatistics>(page(number));
    }
    let counters = interface.counters().expect("answers");
    assert_eq!((counters.ingress_frames, counters.ingress_broadcast_bytes), (0, 5));
    assert_eq!((counters.egress_frames, counters.egress_multicast_bytes), (100, 103));
    assert_eq!((counters.ingress_filtered_frames, counters.ingress_nobuffer_discards), (200, 202));
    assert_eq!((counters.egress_discarded_frames, counters.egress_confirmed_frames), (203, 204));
    assert_eq!(counters.tx_pending_frames, Some(600));
}

#[test]
fn old_firmware_cannot_tell_what_is_pending() {
    let script = Script::default();
    let interface = open_dpni(&script);
    for number in 0..3 {
        script.give::<dpni::GetStatistics>(page(number));
    }
    script.refuse::<dpni::GetStatistics>(Status::CONFIGURATION);
    assert_eq!(interface.counters().expect("answers").tx_pending_frames, None);
}

#[test]
fn all_counters_are_those_of_each_class_by_itself_and_of_the_pages_there_are() {
    let script = Script::default();
    let interface = open_dpni(&script);
    script.give::<dpni::GetAttributes>(dpni::Attributes {
        rx_tcs: 1,
        tx_tcs: 2,
        channels: 1,
        ..Default::default()
    });
    for number in [0, 1, 2, 3, 3, 4] {
        script.give::<dpni::GetStatistics>(page(number));
    }
    // No policers, and nothing about what is pending.
    script
        .refuse::<dpni::GetStatistics>(Status::INVALID_STATE)
        .refuse::<dpni::GetStatistics>(Status::CONFIGURATION);
    let counters = interface.all_counters().expect("answers");
    let value =
        |name: &str| counters.iter().find(|counter| counter.name == name).map(|counter| counter.value);
    assert_eq!(value("ingress_all_bytes"), Some(1));
    assert_eq!(value("ch0_tc1_ceetm_dequeue_frames"), Some(301));
    assert_eq!(value("rx_tc0_cgr_reject_bytes"), Some(401));
    assert_eq!(value("rx_tc0_policer_cnt_red"), None);
    assert_eq!(counters.len(), 6 + 6 + 5 + 2 * 4 + 2);
    assert!(script.is_used_up());
}

#[test]
fn congestion_is_counted_for_each_queue_where_queues_have_groups_of_their_own() {
    let script = Script::default();
    let interface = open_dpni(&script);
    let options = dpni::option::CUSTOM_CG.into();
    script.give::<dpni::GetAttributes>(dpni::Attributes {
        options,
        queues: 2,
        rx_tcs: 1,
        ..Default::default()
    });
    for number in [0, 1, 2, 4, 4, 5, 6] {
        script.give::<dpni::GetStatistics>(page(number));
    }
    let counters = interface.all_counters().expect("answers");
    assert!(counters.iter().any(|counter| counter.name == "rx_tc0_queue1_cgr_reject_frames"));
    let sent = script.0.lock().unwrap().1.clone();
    let asked = sent.iter().filter(|frame| frame.header.id() == dpni::GetStatistics::CMD);
    let asked: Vec<_> =
        asked.map(|f| f.read::<dpni::GetStatistics>()).map(|c| (c.page, c.parameter.get())).collect();
    assert_eq!(asked, [(0, 0), (1, 0), (2, 0), (4, 0), (4, 0x100), (5, 0), (6, 0)]);
}

#[test]
fn errors_can_be_handed_to_other_threads() {
    fn is_sendable<T: Send + Sync + 'static>() {}
    is_sendable::<McError>();
    is_sendable::<Dpni>();
}
