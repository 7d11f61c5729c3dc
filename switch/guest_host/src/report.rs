//! What a guest has to tell.

use serde::Serialize;

use crate::stats::Histogram;

/// How a guest is getting on, about once a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Since the guest started.
    pub seconds: f64,
    /// The switch is there.
    pub connected: bool,
    /// Why not, if it isn't; or what broke last.
    pub trouble: Option<String>,
    /// Frames sent, all kinds.
    pub sent: u64,
    /// Frames received, all kinds.
    pub received: u64,
    /// Frames sent per second since the last progress.
    pub sent_pps: f64,
    /// Frames received per second since the last progress.
    pub received_pps: f64,
    /// Bits sent per second since the last progress, frames without FCS.
    pub sent_bps: f64,
    /// Bits received per second since the last progress.
    pub received_bps: f64,
}

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The guest's name.
    pub name: String,
    /// What it did.
    pub role: &'static str,
    /// How long.
    pub seconds: f64,
    /// Times the switch was there: more than one when it was restarted.
    pub connections: u64,
    /// What was negotiated last: the virtio feature bits.
    pub features: u64,
    /// Frames sent: numbered ones by a generator, all by others.
    pub sent: u64,
    /// Frames received: numbered ones by generator (its own, come back) and sink, all by others.
    pub received: u64,
    /// Bytes of all frames sent.
    pub sent_bytes: u64,
    /// Bytes of all frames received.
    pub received_bytes: u64,
    /// Frames received of another kind, from somebody else.
    pub foreign: u64,
    /// Frames received for somebody else's Ethernet address; counted by a sink.
    pub misdirected: u64,
    /// Numbered frames that are missing. A generator knows only when something came back.
    pub lost: Option<u64>,
    /// Numbered frames that came twice.
    pub duplicated: u64,
    /// Numbered frames that came after a later one of their flow.
    pub reordered: u64,
    /// Frames per second sent, over the time in which there was something to send.
    pub sent_pps: f64,
    /// Frames per second received, from the first to the last.
    pub received_pps: f64,
    /// From generator to sink, or to the reflector and back.
    pub latency: Option<Latency>,
    /// One for each address pinged.
    pub pings: Vec<PingReport>,
    /// The TCP stream it sent.
    pub stream_sent: Option<StreamReport>,
    /// The TCP streams it took.
    pub stream_received: Option<StreamReport>,
    /// Times the switch broke the rings.
    pub ring_faults: u64,
    /// Frames whose buffers didn't fit together.
    pub bad_frames: u64,
    /// Why the switch isn't there, if it isn't; or what broke last.
    pub trouble: Option<String>,
}

/// Latencies in microseconds, within 3 %.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// The shortest.
    pub min_us: f64,
    /// The mean.
    pub mean_us: f64,
    /// Half are shorter.
    pub p50_us: f64,
    /// Nine of ten are shorter.
    pub p90_us: f64,
    /// 99 of 100 are shorter.
    pub p99_us: f64,
    /// 999 of 1000 are shorter.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Latency {
    /// Of a histogram of nanoseconds; `None` of an empty one.
    pub fn of(histogram: &Histogram) -> Option<Latency> {
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |fraction| us(histogram.quantile(fraction));
        (histogram.count() > 0).then(|| Latency {
            count: histogram.count(),
            min_us: us(histogram.min()),
            mean_us: histogram.mean() / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(histogram.max()),
        })
    }
}

/// How pinging an address went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PingReport {
    /// The address.
    pub target: String,
    /// Requests sent. Those of the last second may be neither answered nor lost.
    pub sent: u64,
    /// Answers.
    pub received: u64,
    /// Requests without an answer after a second.
    pub lost: u64,
    /// There and back.
    pub rtt: Option<Latency>,
}

/// How a TCP stream went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StreamReport {
    /// Connections.
    pub connections: u64,
    /// Bytes: acknowledged by the receiver, or received.
    pub bytes: u64,
    /// From the first byte to the last.
    pub seconds: f64,
    /// Bits per second over that time.
    pub bits_per_second: f64,
    /// Bytes that were not those sent.
    pub corrupt: u64,
}
