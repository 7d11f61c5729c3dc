//! Recording, with tcpdump as the judge of our files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use packet::{HugePages, Offload, OwnedBurst};
use pcap_port::{Capture, Direction, PcapTx, RecordError, RecordOptions};
use port::{Accepts, DropReason, PortCounters, Selection, TxQueue};

fn send(tx: &mut PcapTx, frames: &[Vec<u8>], counters: &PortCounters) {
    for chunk in frames.chunks(32) {
        let mut made = OwnedBurst::new(32, 70_000, HugePages::Off).unwrap();
        for frame in chunk {
            made.push(Offload::default(), |buffer| {
                buffer[..frame.len()].copy_from_slice(frame);
                frame.len()
            });
        }
        let which: Vec<u8> = (0..chunk.len() as u8).collect();
        tx.transmit(Selection { burst: made.burst(), which: &which }, counters).unwrap();
        tx.flush(counters).unwrap();
    }
}

/// Frames of a local experimental EtherType, with their number and length in them.
fn frames(lens: &[usize]) -> Vec<Vec<u8>> {
    let frame = |(i, &len): (usize, &usize)| {
        let mut frame = vec![i as u8; len];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
        frame
    };
    lens.iter().enumerate().map(frame).collect()
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pcapng");
    (folder, path)
}

fn tcpdump(arguments: &[&str], file: &Path) -> String {
    let output = Command::new("tcpdump").arg("-r").arg(file).args(arguments).output().expect("tcpdump runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tcpdump_reads_frames_times_and_lengths_as_they_were_recorded() {
    let (_folder, path) = scratch();
    let mut now = 1_700_000_000_000_000_001_u64;
    let clock = move || {
        now += 1_000_000_000;
        now
    };
    let options = RecordOptions { direction: Some(Direction::Outbound), ..RecordOptions::default() };
    let mut tx = PcapTx::create_with_clock(&path, options, clock).unwrap();
    assert_eq!(tx.accepts(), Accepts::default());
    let counters = PortCounters::default();
    let frames = frames(&[60, 61, 1514, 9014, 65_549]);
    for frame in &frames {
        send(&mut tx, std::slice::from_ref(frame), &counters);
    }
    let len = tx.finish().unwrap();
    assert_eq!(len, std::fs::metadata(&path).unwrap().len());
    assert_eq!(counters.tx_frames.get(), 5);
    assert_eq!(counters.tx_bytes.get(), frames.iter().map(|f| f.len() as u64).sum::<u64>());

    let text = tcpdump(&["-nn", "-e", "-tt", "--time-stamp-precision=nano"], &path);
    let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("17")).collect();
    assert_eq!(heads.len(), 5, "{text}");
    for (i, (head, frame)) in heads.iter().zip(&frames).enumerate() {
        let time = format!("17000000{:02}.000000001 ", i + 1);
        assert!(head.starts_with(&time), "{head}");
        assert!(head.contains("02:00:00:00:00:02 > 02:00:00:00:00:01"), "{head}");
        assert!(head.contains(&format!("length {}", frame.len())), "{head}");
    }

    // And what tcpdump writes from it, in its own format, is what we sent.
    let classic = path.with_extension("pcap");
    tcpdump(&["-w", &classic.to_string_lossy()], &path);
    for file in [&path, &classic] {
        let capture = Capture::open(file).unwrap();
        let read: Vec<&[u8]> = (0..capture.frames()).map(|i| capture.frame(i)).collect();
        assert_eq!(read, frames);
        assert_eq!((capture.duration_ns(), capture.cut_frames()), (4_000_000_000, 0));
    }
}

#[test]
fn frames_are_cut_at_the_snap_length_and_say_so() {
    let (_folder, path) = scratch();
    let options = RecordOptions { snap_len: 64, ..RecordOptions::default() };
    let mut tx = PcapTx::create(&path, options).unwrap();
    let counters = PortCounters::default();
    let frames = frames(&[60, 1514]);
    send(&mut tx, &frames, &counters);
    tx.finish().unwrap();
    let capture = Capture::open(&path).unwrap();
    assert_eq!((capture.frame(0), capture.frame(1)), (&frames[0][..], &frames[1][..64]));
    assert_eq!(capture.cut_frames(), 1);
    assert_eq!(counters.tx_bytes.get(), 1574, "sent in full");
    assert!(tcpdump(&["-e"], &path).contains("length 1514"));
}

#[test]
fn the_file_grows_while_it_is_recorded_and_is_complete_when_the_queue_is_dropped() {
    let (_folder, path) = scratch();
    let mut tx = PcapTx::create(&path, RecordOptions::default()).unwrap();
    let status = tx.status();
    let counters = PortCounters::default();
    send(&mut tx, &frames(&[60; 40]), &counters);
    let start = Instant::now();
    while Capture::open(&path).map_or(0, |capture| capture.frames()) < 40 {
        assert!(start.elapsed() < Duration::from_secs(5), "the frames don't reach the file");
        std::thread::sleep(Duration::from_millis(5));
    }
    send(&mut tx, &frames(&[60; 40]), &counters);
    drop(tx);
    assert_eq!(Capture::open(&path).unwrap().frames(), 80);
    assert_eq!(status.bytes(), std::fs::metadata(&path).unwrap().len());
    assert_eq!(status.error(), None);
}

#[test]
fn frames_that_find_no_room_are_dropped_and_the_file_stays_whole() {
    let (_folder, path) = scratch();
    let options = RecordOptions { buffer_bytes: 4096, ..RecordOptions::default() };
    let mut tx = PcapTx::create(&path, options).unwrap();
    let counters = PortCounters::default();
    send(&mut tx, &frames(&[1000; 64]), &counters);
    send(&mut tx, &frames(&[9000]), &counters);
    tx.finish().unwrap();
    let recorded = counters.tx_frames.get();
    assert!((1..64).contains(&recorded), "{recorded} of 64");
    assert_eq!(recorded + counters.drops(DropReason::TxFull), 65);
    assert_eq!(Capture::open(&path).unwrap().frames() as u64, recorded);
}

#[test]
fn a_full_disk_drops_frames_as_refused_by_the_device_and_is_reported() {
    let mut tx = PcapTx::create(Path::new("/dev/full"), RecordOptions::default()).unwrap();
    let status = tx.status();
    let start = Instant::now();
    while status.error().is_none() {
        assert!(start.elapsed() < Duration::from_secs(5), "the error is not reported");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(status.error().unwrap().contains("/dev/full"), "{:?}", status.error());
    let counters = PortCounters::default();
    let start = Instant::now();
    while counters.drops(DropReason::Device) == 0 {
        assert!(start.elapsed() < Duration::from_secs(5), "frames still count as sent");
        send(&mut tx, &frames(&[60]), &counters);
    }
    assert!(matches!(tx.finish(), Err(RecordError::Write { bytes: 0, .. })));
}

#[test]
fn a_file_that_cannot_be_created_is_an_error_that_names_it() {
    let error = PcapTx::create(Path::new("/nowhere/out.pcapng"), RecordOptions::default()).err().unwrap();
    assert!(error.to_string().starts_with("capture /nowhere/out.pcapng: can't be created"), "{error}");
}
