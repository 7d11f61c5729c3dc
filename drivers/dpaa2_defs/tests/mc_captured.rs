//! Commands as another driver sends them, and responses as it reads them: captured from the command builders of DPDK
//! 26.11-rc0 (drivers/net/dpaa2/mc, drivers/bus/fslmc/mc), compiled alone and run against plain memory. Token 7 is an open
//! dpni, 2 a dprc, 4 a dpio.

use dpaa2_defs::mc::common::Enable;
use dpaa2_defs::mc::dpni::{self, *};
use dpaa2_defs::mc::header::{Command, Frame, Status};
use dpaa2_defs::mc::object::ObjectType;
use dpaa2_defs::mc::{dpio, dprc};
use zerocopy::IntoBytes;

fn bytes(text: &str) -> Vec<u8> {
    text.split([' ', '|']).filter(|t| !t.is_empty()).map(|t| u8::from_str_radix(t, 16).expect(t)).collect()
}

/// Asserts what is sent: 8 bytes of header, then the parameters up to the zeros at their end.
fn sent<C: Command>(token: u16, command: C, header: &str, parameters: &str) {
    let mut expected = bytes(header);
    expected.extend(bytes(parameters));
    expected.resize(64, 0);
    assert_eq!(Frame::request(token, &command).as_bytes(), expected, "{}", C::NAME);
}

#[test]
fn interfaces_are_opened_and_enabled() {
    sent(0, dpni::Open { id: 3.into() }, "00 00 01 00 00 00 11 80", "03");
    sent(7, Enable {}, "00 00 01 00 07 00 21 00", "");
}

#[test]
fn pools_are_bound_to_traffic_classes() {
    let mut pools = SetPools { count: 2, ..Default::default() };
    pools.pools[0] = Pool { dpbp_id: 1.into(), priority_mask: 0x01, ..Default::default() };
    pools.pools[1] = Pool { dpbp_id: 2.into(), priority_mask: 0x02, ..Default::default() };
    pools.buffer_sizes[0] = 2176.into();
    pools.buffer_sizes[1] = 2176.into();
    sent(
        7,
        pools,
        "00 00 01 00 07 00 03 20",
        "02 00 00 00 01 00 01 00 | 02 00 02 00 00 00 00 00 | 00 00 00 00 00 00 00 00 | 00 00 00 00 00 00 00 00 | \
         00 00 00 00 80 08 80 08",
    );
}

#[test]
fn a_buffer_layout_says_which_of_it_counts() {
    let layout = SetBufferLayout {
        queue_type: QueueType::RX,
        options: 0x3f.into(),
        flags: buffer_layout_flag::TIMESTAMP
            | buffer_layout_flag::PARSER_RESULT
            | buffer_layout_flag::FRAME_STATUS,
        data_alignment: 64.into(),
        head_room: 64.into(),
        ..Default::default()
    };
    sent(7, layout, "00 00 01 00 07 00 52 26", "00 00 00 00 3f 00 07 00 | 00 00 40 00 40");
}

#[test]
fn queues_are_set_up() {
    let stashing = SetQueue {
        queue_type: QueueType::RX,
        tc: 1,
        index: 2,
        options: set_queue_option::USER_CONTEXT | set_queue_option::FLC,
        flags: queue_flag::STASH_CONTROL,
        flc: stash::data(1).into(),
        user_context: 0x1122_3344_5566_7788.into(),
        ..Default::default()
    };
    sent(
        7,
        stashing,
        "00 00 01 00 07 00 03 26",
        "00 01 02 05 00 00 00 00 | 00 00 00 00 00 00 00 40 | 10 00 00 00 00 00 00 00 | 88 77 66 55 44 33 22 11",
    );
    let scheduled = SetQueue {
        queue_type: QueueType::RX,
        options: set_queue_option::USER_CONTEXT | set_queue_option::DESTINATION,
        destination_id: 4.into(),
        destination_priority: 1,
        flags: Destination::DPCON.0,
        user_context: 0x1000.into(),
        ..Default::default()
    };
    sent(
        7,
        scheduled,
        "00 00 01 00 07 00 03 26",
        "00 00 00 03 00 00 00 00 | 04 00 00 00 00 00 01 02 | 00 00 00 00 00 00 00 00 | 00 10",
    );
    let asked = GetQueue { queue_type: QueueType::TX, tc: 3, ..Default::default() };
    sent(7, asked, "00 00 01 00 07 00 f3 25", "01 03");
}

#[test]
fn a_taildrop_carries_its_overhead_in_two_pieces() {
    let (enable_and_overhead_low, overhead_high) = taildrop_overhead(128);
    let taildrop = SetTaildrop {
        point: CongestionPoint::QUEUE,
        queue_type: QueueType::RX,
        tc: 1,
        index: 2,
        enable_and_overhead_low,
        overhead_high,
        units: Units::BYTES,
        threshold: 65536.into(),
        ..Default::default()
    };
    sent(7, taildrop, "00 00 01 00 07 00 23 26", "00 00 01 02 00 00 00 00 | 01 01 00 00 00 00 01");
}

#[test]
fn addresses_are_sent_in_reverse() {
    let address = MacAddress::new([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);
    assert_eq!(address.to_string(), "02:11:22:33:44:55");
    sent(
        7,
        SetPrimaryMac { address, ..Default::default() },
        "00 00 01 00 07 00 41 22",
        "00 00 55 44 33 22 11 02",
    );
}

#[test]
fn errors_are_continued_with_and_marked() {
    let behavior =
        SetErrorsBehavior { errors: 0x35.into(), flags: ErrorAction::CONTINUE.0 | SetErrorsBehavior::MARK };
    sent(7, behavior, "00 00 01 00 07 00 b1 20", "35 00 00 00 11");
}

#[test]
fn classification_names_keys_in_memory() {
    let qos = SetQosTable { key_config_iova: 0x1000_0000.into(), ..Default::default() };
    let zeros = "00 00 00 00 00 00 00 00 | ".repeat(6);
    sent(7, qos, "00 00 01 00 07 00 02 24", &format!("{zeros}00 00 00 10"));
    let entry = AddQosEntry {
        tc: 1,
        key_size: 56,
        key_iova: 0x1000_1000.into(),
        mask_iova: 0x1000_1100.into(),
        ..Default::default()
    };
    sent(
        7,
        entry,
        "00 00 01 00 07 00 12 24",
        "00 00 01 38 00 00 00 00 | 00 10 00 10 00 00 00 00 | 00 11 00 10",
    );
    let hash = SetRxHashDistribution {
        size: 16.into(),
        enable: 1,
        tc: 1,
        key_config_iova: 0x1000_0000.into(),
        ..Default::default()
    };
    sent(7, hash, "00 00 01 00 07 00 42 27", "10 00 01 01 00 00 00 00 | 00 00 00 10");
    let steering = SetRxFsDistribution {
        size: 16.into(),
        enable: 1,
        tc: 1,
        key_config_iova: 0x1000_0000.into(),
        ..Default::default()
    };
    sent(7, steering, "00 00 01 00 07 00 32 27", "10 00 01 01 00 00 00 00 | 00 00 00 10");
    let flow = AddFsEntry {
        tc: 1,
        key_size: 56,
        index: 5.into(),
        queue: 3.into(),
        key_iova: 0x1000_1000.into(),
        mask_iova: 0x1000_1100.into(),
        ..Default::default()
    };
    sent(
        7,
        flow,
        "00 00 01 00 07 00 42 24",
        "00 00 01 38 05 00 03 00 | 00 10 00 10 00 00 00 00 | 00 11 00 10",
    );
}

#[test]
fn congestion_is_written_to_memory() {
    let notification = SetCongestionNotification {
        queue_type: QueueType::TX,
        tc: 2,
        mode: (congestion_mode::WRITE_ON_ENTER
            | congestion_mode::WRITE_ON_EXIT
            | congestion_mode::COHERENT_WRITE)
            .into(),
        type_and_units: Units::FRAMES.0 << 4,
        message_iova: 0x2000_0040.into(),
        entry: 512.into(),
        exit: 460.into(),
        ..Default::default()
    };
    sent(
        7,
        notification,
        "00 00 01 00 07 00 73 26",
        "01 02 00 00 00 00 00 00 | 00 00 00 00 07 00 00 10 | 40 00 00 20 00 00 00 00 | 00 00 00 00 00 00 00 00 | \
         00 02 00 00 cc 01",
    );
}

#[test]
fn transmission_is_scheduled_and_shaped() {
    let mut priorities =
        SetTxPriorities { group_a_priority: 1, modes: [0x00, 0x11, 0x11, 0x11], ..Default::default() };
    for tc in 2..8u16 {
        priorities.weights[usize::from(tc)] = (100 * tc).into();
    }
    sent(
        7,
        priorities,
        "00 00 01 00 07 00 03 25",
        "00 00 01 00 00 00 00 00 | 00 11 11 11 00 00 00 00 | 00 00 00 00 00 00 00 00 | 00 00 00 00 c8 00 2c 01 | \
         90 01 f4 01 58 02 bc 02",
    );
    let shaping = SetTxShaping {
        committed_burst: 8192.into(),
        committed_rate: 1000.into(),
        options: SetTxShaping::WHOLE_INTERFACE,
        ..Default::default()
    };
    sent(7, shaping, "00 00 01 00 07 00 b3 21", "00 20 00 00 00 00 00 00 | e8 03 00 00 00 00 00 00 | 02");
}

#[test]
fn containers_and_portals_are_asked() {
    let connection =
        dprc::GetConnection { id: 3.into(), object_type: ObjectType::DPNI, ..Default::default() };
    sent(2, connection, "00 00 01 00 02 00 c1 16", "03 00 00 00 00 00 00 00 | 64 70 6e 69");
    sent(4, dpio::GetAttributes {}, "00 00 01 00 04 00 41 00", "");
}

/// A response with these bytes at these parameter offsets.
fn received(pieces: &[(usize, &[u8])]) -> Frame {
    let mut frame = Frame::request(7, &Enable {}).response(Status::OK, &());
    for (offset, bytes) in pieces {
        frame.parameters[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    frame
}

#[test]
fn responses_are_read() {
    let opened = Frame::from_words([0x8011_0007_0000_0000, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((opened.header.status, opened.header.token.get()), (Status::OK, 7));

    assert_eq!(received(&[(32, &[0x65])]).read::<Queue>().fqid.get(), 101);

    let connection = received(&[(24, &[1]), (32, b"dpmac"), (48, &[1])]).read::<dprc::Connection>();
    assert_eq!(connection.peer(), Some(ObjectType::DPMAC.with_id(1)));
    assert_eq!(connection.state.get(), dprc::Connection::UP);

    let portal = received(&[
        (0, &[5]),
        (4, &[9]),
        (6, &[8]),
        (7, &[1]),
        (24, &[0, 0, 0, 5]),
        (32, &[0, 0x27, 0xb9, 0x29]),
    ])
    .read::<dpio::Attributes>();
    assert_eq!((portal.id.get(), portal.portal_id.get(), portal.priorities), (5, 9, 8));
    assert_eq!(dpio::ChannelMode(portal.channel_mode), dpio::ChannelMode::LOCAL);
    assert_eq!(portal.qbman_version.get() & dpio::qbman_version::MASK, dpio::qbman_version::V5_0);
    assert_eq!(portal.qbman_clock.get(), 700_000_000);
}
