//! What a guest has to tell, for people.

use control::table::{grouped, scaled};
use guest_host::{Latency, PingReport, Progress, Report, StreamReport};

/// How a guest is getting on, one line.
pub fn progress(progress: &Progress) -> String {
    let Progress { seconds, sent, received, .. } = progress;
    let state = match (&progress.trouble, progress.connected) {
        (_, true) => "connected".to_owned(),
        (Some(trouble), false) => format!("waiting: {trouble}"),
        (None, false) => "waiting for the switch".to_owned(),
    };
    format!(
        "{seconds:.0} s, {state}; sent {} ({}frames/s, {}bit/s), received {} ({}frames/s, {}bit/s)\n",
        grouped(*sent),
        unit(progress.sent_pps),
        unit(progress.sent_bps),
        grouped(*received),
        unit(progress.received_pps),
        unit(progress.received_bps),
    )
}

/// What a guest has to tell.
pub fn report(report: &Report) -> String {
    let mut lines = vec![
        ("guest", format!("{} ({})", report.name, report.role)),
        ("time", format!("{:.1} s, {} connection(s)", report.seconds, report.connections)),
        ("sent", passed(report.sent, report.sent_bytes, report.sent_pps)),
        ("received", passed(report.received, report.received_bytes, report.received_pps)),
    ];
    let mut line = |name, text| lines.push((name, text));
    if let Some(lost) = report.lost {
        let (twice, late) = (grouped(report.duplicated), grouped(report.reordered));
        line("lost", format!("{} ({twice} came twice, {late} out of order)", grouped(lost)));
    }
    if report.foreign > 0 {
        line("from others", format!("{} frames", grouped(report.foreign)));
    }
    if let Some(latency) = &report.latency {
        line("latency", percentiles(latency));
    }
    for ping in &report.pings {
        line("ping", pinged(ping));
    }
    if let Some(stream) = &report.stream_sent {
        line("stream sent", streamed(stream));
    }
    if let Some(stream) = &report.stream_received {
        line("stream received", streamed(stream));
    }
    if report.ring_faults + report.bad_frames > 0 {
        let text = format!("{} broken rings, {} broken frames", report.ring_faults, report.bad_frames);
        line("faults", text);
    }
    if let Some(trouble) = &report.trouble {
        line("trouble", trouble.clone());
    }
    lines.iter().map(|(name, text)| format!("{name:<15}  {text}\n")).collect()
}

fn passed(frames: u64, bytes: u64, pps: f64) -> String {
    format!("{} frames, {} bytes, {}frames/s", grouped(frames), grouped(bytes), unit(pps))
}

fn percentiles(latency: &Latency) -> String {
    let Latency { count: _, min_us, mean_us, p50_us, p90_us, p99_us, p999_us, max_us } = latency;
    format!(
        "min {min_us:.1} us, mean {mean_us:.1}, p50 {p50_us:.1}, p90 {p90_us:.1}, p99 {p99_us:.1}, \
         p99.9 {p999_us:.1}, max {max_us:.1}"
    )
}

fn pinged(ping: &PingReport) -> String {
    let PingReport { target, sent, received, lost, rtt } = ping;
    let rtt = rtt.as_ref().map_or(String::new(), |rtt| format!("; {}", percentiles(rtt)));
    format!("{target}: {sent} sent, {received} answered, {lost} lost{rtt}")
}

fn streamed(stream: &StreamReport) -> String {
    let rate = unit(stream.bits_per_second);
    let corrupt = match stream.corrupt {
        0 => String::new(),
        bytes => format!(", {} bytes wrong", grouped(bytes)),
    };
    format!("{} bytes in {:.1} s, {rate}bit/s{corrupt}", grouped(stream.bytes), stream.seconds)
}

/// A number with a decimal prefix, to be followed by a unit: `1.23 k`, `5 `.
fn unit(number: f64) -> String {
    let text = scaled(number);
    if text.contains(' ') { text } else { text + " " }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_only_what_there_is() {
        let mut sink = Report { name: "s".into(), role: "sink", lost: Some(3), ..Report::default() };
        assert!(report(&sink).starts_with("guest"));
        assert!(report(&sink).contains("\nlost             3 ("), "{}", report(&sink));
        sink.lost = None;
        assert!(!report(&sink).contains("lost"));
    }

    #[test]
    fn progress_is_one_line_that_says_why_it_waits() {
        let mut now = Progress { sent: 1500, sent_pps: 2e6, connected: true, ..Progress::default() };
        assert!(
            progress(&now).contains("connected; sent 1 500 (2.00 Mframes/s, 0 bit/s)"),
            "{}",
            progress(&now)
        );
        now.connected = false;
        now.trouble = Some("no such file".into());
        assert!(progress(&now).contains("waiting: no such file"));
        assert_eq!(progress(&now).lines().count(), 1);
    }
}
