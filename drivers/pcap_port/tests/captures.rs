//! Reading captures: every dialect of both formats, and what is refused, with the place.

use std::path::Path;

use pcap_port::{Capture, CaptureError, Malformed, fuzz_capture};

/// Writes numbers in a file's byte order.
#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

const ORDERS: [Order; 2] = [Order::Little, Order::Big];

impl Order {
    fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }
}

fn pcap_header(order: Order, magic: u32, link: u32) -> Vec<u8> {
    let mut out = order.u32(magic).to_vec();
    out.extend(order.u16(2));
    out.extend(order.u16(4));
    out.extend([0; 8]);
    out.extend(order.u32(65_535));
    out.extend(order.u32(link));
    out
}

fn pcap_record(order: Order, time: (u32, u32), original_len: u32, data: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    for value in [time.0, time.1, data.len() as u32, original_len] {
        out.extend(order.u32(value));
    }
    out.extend(data);
    out
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let len = (12 + body.len().next_multiple_of(4)) as u32;
    let mut out = order.u32(kind).to_vec();
    out.extend(order.u32(len));
    out.extend(body);
    out.resize(len as usize - 4, 0);
    out.extend(order.u32(len));
    out
}

fn section(order: Order) -> Vec<u8> {
    let mut body = order.u32(0x1a2b_3c4d).to_vec();
    body.extend(order.u16(1));
    body.extend(order.u16(0));
    body.extend([0xff; 8]);
    block(order, 0x0a0d_0d0a, &body)
}

fn interface(order: Order, link: u16, snap_len: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = order.u16(link).to_vec();
    body.extend([0; 2]);
    body.extend(order.u32(snap_len));
    for (code, value) in options {
        body.extend(order.u16(*code));
        body.extend(order.u16(value.len() as u16));
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    block(order, 1, &body)
}

fn enhanced(order: Order, interface: u32, time: u64, original_len: u32, data: &[u8]) -> Vec<u8> {
    let mut body = vec![];
    for value in [interface, (time >> 32) as u32, time as u32, data.len() as u32, original_len] {
        body.extend(order.u32(value));
    }
    body.extend(data);
    block(order, 6, &body)
}

fn simple(order: Order, original_len: u32, data: &[u8]) -> Vec<u8> {
    let mut body = order.u32(original_len).to_vec();
    body.extend(data);
    block(order, 3, &body)
}

fn frames(capture: &Capture) -> Vec<&[u8]> {
    (0..capture.frames()).map(|i| capture.frame(i)).collect()
}

fn error(bytes: &[u8]) -> Malformed {
    Capture::parse(bytes.to_vec()).expect_err("it is malformed")
}

#[test]
fn pcap_is_read_in_both_byte_orders_and_resolutions() {
    for order in ORDERS {
        for (magic, gap_ns) in [(0xa1b2_c3d4, 250_000), (0xa1b2_3c4d, 250)] {
            let mut file = pcap_header(order, magic, 1);
            file.extend(pcap_record(order, (1_700_000_000, 999_900), 60, &[1; 60]));
            file.extend(pcap_record(order, (1_700_000_000, 1_000_150), 1514, &[2; 99]));
            let capture = Capture::parse(file).unwrap();
            assert_eq!(frames(&capture), [&[1; 60][..], &[2; 99]]);
            assert_eq!((capture.at_ns(0), capture.at_ns(1), capture.duration_ns()), (0, gap_ns, gap_ns));
            assert_eq!(capture.cut_frames(), 1);
        }
    }
}

#[test]
fn a_frame_check_sequence_that_was_captured_is_not_replayed() {
    // Two 16-bit words of FCS, and the flag that says so.
    let mut file = pcap_header(Order::Little, 0xa1b2_c3d4, 0x2400_0001);
    file.extend(pcap_record(Order::Little, (1, 0), 64, &[1; 64]));
    file.extend(pcap_record(Order::Little, (1, 0), 64, &[2; 62]));
    file.extend(pcap_record(Order::Little, (1, 0), 64, &[3; 20]));
    let capture = Capture::parse(file).unwrap();
    assert_eq!(frames(&capture), [&[1; 60][..], &[2; 60], &[3; 20]]);
    assert_eq!(capture.cut_frames(), 1);
}

#[test]
fn pcapng_is_read_with_several_sections_interfaces_and_resolutions() {
    let (little, big) = (Order::Little, Order::Big);
    let mut file = section(little);
    file.extend(interface(little, 1, 0, &[]));
    file.extend(interface(little, 1, 0, &[(2, b"eth1"), (9, &[9]), (0, &[])]));
    file.extend(enhanced(little, 0, 1_000_000, 60, &[1; 60]));
    file.extend(enhanced(little, 1, 1_000_000_777, 61, &[2; 61]));
    file.extend(block(little, 0x0bad_0001, b"nobody knows this"));
    file.extend(simple(little, 62, &[3; 62]));
    // Another machine's, in binary fractions and an epoch of its own.
    file.extend(section(big));
    file.extend(interface(big, 1, 0, &[(9, &[0x80 | 10]), (14, &1_u64.to_be_bytes()), (0, &[])]));
    file.extend(enhanced(big, 0, 512, 63, &[4; 63]));
    let capture = Capture::parse(file).unwrap();
    assert_eq!(frames(&capture), [&[1; 60][..], &[2; 61], &[3; 62], &[4; 63]]);
    let times: Vec<u64> = (0..4).map(|i| capture.at_ns(i)).collect();
    assert_eq!(times, [0, 777, 777, 500_000_000]);
}

#[test]
fn a_simple_packet_is_as_long_as_its_interface_allowed() {
    let order = Order::Little;
    let mut file = section(order);
    file.extend(interface(order, 1, 40, &[]));
    file.extend(simple(order, 1500, &[5; 40]));
    let capture = Capture::parse(file).unwrap();
    assert_eq!(frames(&capture), [&[5; 40]]);
    assert_eq!(capture.cut_frames(), 1);
}

#[test]
fn clocks_that_go_back_stand_still() {
    let mut file = pcap_header(Order::Little, 0xa1b2_c3d4, 1);
    for seconds in [10, 12, 5, 13] {
        file.extend(pcap_record(Order::Little, (seconds, 0), 60, &[0; 60]));
    }
    let capture = Capture::parse(file).unwrap();
    let seconds: Vec<u64> = (0..4).map(|i| capture.at_ns(i) / 1_000_000_000).collect();
    assert_eq!(seconds, [0, 2, 2, 3]);
}

#[test]
fn damaged_pcap_is_refused_with_the_place() {
    let order = Order::Little;
    let header = pcap_header(order, 0xa1b2_c3d4, 1);
    let with = |rest: &[u8]| [&header[..], rest].concat();
    let said = |bytes: &[u8]| error(bytes).to_string();

    assert_eq!(said(&[]), "neither pcap nor pcapng at byte 0");
    assert_eq!(said(b"GET / HTTP/1.1"), "neither pcap nor pcapng at byte 0");
    assert_eq!(said(&[0x1f, 0x8b, 8, 0]), "compressed by gzip: unpack it first at byte 0");
    assert_eq!(said(&header[..23]), "the file header is cut at byte 0");
    assert_eq!(said(&pcap_header(order, 0xa1b2_c3d4, 113)), "link type is not Ethernet (1) (113) at byte 20");
    let mut version = header.clone();
    version[4] = 3;
    assert_eq!(said(&version), "unknown version of pcap (3) at byte 4");
    assert_eq!(said(&with(&[0; 15])), "a record header is cut at byte 24");
    let record = pcap_record(order, (0, 0), 60, &[0; 60]);
    assert_eq!(said(&with(&record[..75])), "a frame is cut by the end of the file at byte 40");
    let mut huge = record;
    huge[8..12].copy_from_slice(&262_145_u32.to_le_bytes());
    assert_eq!(said(&with(&huge)), "a frame is longer than 262144 bytes (262145) at byte 32");
}

#[test]
fn damaged_pcapng_is_refused_with_the_place() {
    for order in ORDERS {
        let section = section(order);
        let with = |blocks: &[Vec<u8>]| [section.clone(), blocks.concat()].concat();
        let said = |bytes: &[u8]| error(bytes).to_string();
        let ethernet = interface(order, 1, 0, &[]);
        let packet = enhanced(order, 0, 0, 60, &[0; 60]);

        let mut bad = section.clone();
        bad[8] ^= 0xff;
        assert_eq!(said(&bad), "no byte-order magic in a section header at byte 8");
        assert_eq!(said(&section[..10]), "a section header is cut at byte 8");
        let mut version = section.clone();
        version[12..14].copy_from_slice(&order.u16(2));
        assert_eq!(said(&version), "unknown version of pcapng (2) at byte 12");
        assert_eq!(
            said(&with(std::slice::from_ref(&packet))),
            "a packet refers to an interface that is not there (0) at byte 36"
        );
        assert_eq!(said(&with(&[simple(order, 1, &[0])])), "a packet before any interface at byte 36");
        let radio = interface(order, 127, 0, &[]);
        assert_eq!(said(&with(&[radio, packet.clone()])), "link type is not Ethernet (1) (127) at byte 36");
        let fine = interface(order, 1, 0, &[(9, &[64])]);
        assert_eq!(said(&with(&[fine])), "a time resolution is finer than 64 bits allow (64) at byte 48");
        let mut option = interface(order, 1, 0, &[(2, b"abcd")]);
        option[18..20].copy_from_slice(&order.u16(5));
        assert_eq!(said(&with(&[option])), "an option is longer than its block at byte 48");

        let good = with(&[ethernet.clone(), packet.clone()]);
        assert_eq!(said(&good[..good.len() - 1]), "a block is cut by the end of the file at byte 48");
        for (len, message) in [
            (0, "impossible block length (0) at byte 32"),
            (8, "impossible block length (8) at byte 32"),
            (22, "impossible block length (22) at byte 32"),
            (u32::MAX, "impossible block length (4294967295) at byte 32"),
            (24, "a block's lengths differ"),
        ] {
            let mut bad = with(&[ethernet.clone(), packet.clone()]);
            bad[32..36].copy_from_slice(&order.u32(len));
            assert!(said(&bad).starts_with(message), "{}", said(&bad));
        }
        let mut long = packet.clone();
        long[20..24].copy_from_slice(&order.u32(61));
        assert_eq!(
            said(&with(&[ethernet.clone(), long.clone()])),
            "a frame is longer than its block at byte 76"
        );
        long[20..24].copy_from_slice(&order.u32(u32::MAX));
        assert_eq!(
            said(&with(&[ethernet, long])),
            "a frame is longer than 262144 bytes (4294967295) at byte 76"
        );
    }
}

#[test]
fn errors_name_the_file() {
    let absent = Capture::open(Path::new("/nowhere/at-all.pcap")).unwrap_err();
    assert!(matches!(absent, CaptureError::Read { .. }));
    assert!(absent.to_string().starts_with("capture /nowhere/at-all.pcap: "), "{absent}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"nonsense").unwrap();
    let damaged = Capture::open(file.path()).unwrap_err().to_string();
    assert!(damaged.contains(&*file.path().to_string_lossy()), "{damaged}");
    assert!(damaged.ends_with("neither pcap nor pcapng at byte 0"), "{damaged}");
}

#[test]
fn no_damage_to_a_file_makes_the_reader_panic() {
    let mut files = vec![];
    for order in ORDERS {
        let mut pcap = pcap_header(order, 0xa1b2_3c4d, 0x2400_0001);
        pcap.extend(pcap_record(order, (1, 2), 60, &[7; 60]));
        pcap.extend(pcap_record(order, (1, 3), 3, &[7; 3]));
        files.push(pcap);
        let mut pcapng = section(order);
        pcapng.extend(interface(order, 1, 50, &[(9, &[0x8a]), (14, &[0xff; 8]), (0, &[])]));
        pcapng.extend(enhanced(order, 0, u64::MAX, 60, &[7; 60]));
        pcapng.extend(simple(order, 60, &[7; 50]));
        pcapng.extend(block(order, 0xffff_ffff, &[1, 2, 3]));
        files.push(pcapng);
    }
    let mut seed = 1_u32;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed
    };
    for file in &files {
        fuzz_capture(file);
        for len in 0..file.len() {
            fuzz_capture(&file[..len]);
        }
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = file.clone();
                bytes[at] = value;
                fuzz_capture(&bytes);
            }
        }
        for _ in 0..20_000 {
            let mut bytes = file.clone();
            for _ in 0..1 + random() % 4 {
                let at = random() as usize % bytes.len();
                bytes[at] = random() as u8;
            }
            fuzz_capture(&bytes);
        }
    }
}
