//! Rows as Prometheus metrics, and the endpoint that serves them.
//!
//! Workers keep plain counters; a scrape reads them once, as a [`Snapshot`], and [`render`] registers each with the
//! `metrics` crate at its present value. So nothing is kept between scrapes: a port that was removed is not shown
//! as one that stands still.
//!
//! | name | labels | |
//! |---|---|---|
//! | `ringway_port_{rx,tx}_{frames,bytes}_total` | `port`, `bridge` | received from and sent to the port |
//! | `ringway_port_drops_total` | `port`, `bridge`, `reason` | dropped frames |
//! | `ringway_port_{copies,punted,injected}_total` | `port`, `bridge` | frames that make up the balance |
//! | `ringway_port_{kicks,calls}_total` | `port`, `bridge` | notifications from and to the peer |
//! | `ringway_port_up` | `port`, `bridge` | 1 if frames can pass |
//! | `ringway_worker_{busy,idle}_cycles_total` | `core` | cycles with and without frames |
//! | `ringway_worker_{frames,bursts,turns,sleeps}_total` | `core` | what the worker did |
//! | `ringway_worker_burst_frames_bucket` | `core`, `le` | bursts by size, cumulative |
//! | `ringway_worker_frame_cycles_bucket` | `core`, `le` | bursts by cycles per frame, cumulative |
//! | `ringway_cache_hits_total` | `core`, `cache` | frames decided by `shortcut`, `exact`, `megaflow` |
//! | `ringway_cache_{misses,flushes}_total` | `core` | frames decided by rules; times caches were emptied |
//! | `ringway_partition_{matched,delivered,sent,refused}_frames_total` | `partition`, `port`, `owner` | frames that came for a partition of a port's queues, that its owner got, sent, and may not send |
//! | `ringway_partition_drops_total` | `partition`, `port`, `owner`, `reason` | dropped frames |
//! | `ringway_partition_pool_{buffers,free}` | `partition`, `port`, `owner` | its buffers, where hardware has a pool of them |
//! | `ringway_partition_queue_{matched,delivered}_frames_total` | `partition`, `port`, `owner`, `queue` | frames that came for a queue of it, and that its owner got |
//! | `ringway_partition_queue_depth` | `partition`, `port`, `owner`, `queue` | frames that wait in hardware |
//! | `ringway_bridge_{rules,addresses,ports}` | `bridge` | how many there are |
//!
//! What virtual machines count is added by whoever serves the endpoint.

use std::io;
use std::time::Duration;

use metrics::{Label, counter, gauge, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::rows::{BridgeRow, Bucket, CacheRow, PartitionRow, PortRow, PortState, Snapshot, WorkerRow};

/// Bytes of a request's head at most.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// A client that takes longer is left.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Scrapes at a time at most.
const CONNECTIONS_MAX: usize = 8;

/// The snapshot in Prometheus' text format.
pub fn render(snapshot: &Snapshot) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        snapshot.ports.iter().for_each(port);
        snapshot.workers.iter().for_each(worker);
        snapshot.caches.iter().for_each(cache);
        snapshot.bridges.iter().for_each(bridge);
        snapshot.partitions.iter().for_each(partition);
    });
    recorder.handle().render()
}

fn count(name: &'static str, labels: &[Label], value: u64) {
    counter!(name, labels.iter()).absolute(value);
}

fn port(row: &PortRow) {
    let labels = [Label::new("port", row.name.clone()), Label::new("bridge", row.bridge.clone())];
    count("ringway_port_rx_frames_total", &labels, row.rx_frames);
    count("ringway_port_rx_bytes_total", &labels, row.rx_bytes);
    count("ringway_port_tx_frames_total", &labels, row.tx_frames);
    count("ringway_port_tx_bytes_total", &labels, row.tx_bytes);
    count("ringway_port_copies_total", &labels, row.copies);
    count("ringway_port_punted_total", &labels, row.punted);
    count("ringway_port_injected_total", &labels, row.injected);
    count("ringway_port_kicks_total", &labels, row.kicks);
    count("ringway_port_calls_total", &labels, row.calls);
    gauge!("ringway_port_up", labels.iter()).set(if row.state == PortState::Up { 1.0 } else { 0.0 });
    for (reason, frames) in &row.drops {
        let [port, bridge] = labels.clone();
        count("ringway_port_drops_total", &[port, bridge, Label::new("reason", reason.clone())], *frames);
    }
}

fn partition(row: &PartitionRow) {
    let labels = [
        Label::new("partition", row.name.clone()),
        Label::new("port", row.port.clone()),
        Label::new("owner", row.owner.clone()),
    ];
    let with = |name: &'static str, value: String| {
        let [partition, port, owner] = labels.clone();
        [partition, port, owner, Label::new(name, value)]
    };
    count("ringway_partition_matched_frames_total", &labels, row.matched);
    count("ringway_partition_delivered_frames_total", &labels, row.delivered);
    count("ringway_partition_sent_frames_total", &labels, row.sent);
    count("ringway_partition_refused_frames_total", &labels, row.refused);
    for (reason, frames) in &row.drops {
        count("ringway_partition_drops_total", &with("reason", reason.clone()), *frames);
    }
    if let Some(pool) = &row.pool {
        gauge!("ringway_partition_pool_buffers", labels.iter()).set(pool.buffers as f64);
        gauge!("ringway_partition_pool_free", labels.iter()).set(pool.free as f64);
    }
    for queue in &row.each_queue {
        let labels = with("queue", queue.queue.to_string());
        count("ringway_partition_queue_matched_frames_total", &labels, queue.matched);
        count("ringway_partition_queue_delivered_frames_total", &labels, queue.delivered);
        if let Some(depth) = queue.depth {
            gauge!("ringway_partition_queue_depth", labels.iter()).set(depth as f64);
        }
    }
}

fn worker(row: &WorkerRow) {
    let labels = [Label::new("core", row.core.to_string())];
    count("ringway_worker_busy_cycles_total", &labels, row.busy_cycles);
    count("ringway_worker_idle_cycles_total", &labels, row.idle_cycles);
    count("ringway_worker_frames_total", &labels, row.frames);
    count("ringway_worker_bursts_total", &labels, row.bursts);
    count("ringway_worker_turns_total", &labels, row.turns);
    count("ringway_worker_sleeps_total", &labels, row.sleeps);
    histogram("ringway_worker_burst_frames_bucket", &labels[0], &row.burst_sizes);
    histogram("ringway_worker_frame_cycles_bucket", &labels[0], &row.frame_cycles);
}

/// Counters named and labelled as a histogram's buckets, which is all that queries look at. (The recorder's own
/// histograms take samples one by one; workers hand over counts.)
fn histogram(name: &'static str, label: &Label, buckets: &[Bucket]) {
    let mut cumulative = 0;
    for bucket in buckets {
        cumulative += bucket.count;
        if let Some(up_to) = bucket.up_to {
            count(name, &[label.clone(), Label::new("le", up_to.to_string())], cumulative);
        }
    }
    count(name, &[label.clone(), Label::new("le", "+Inf")], cumulative);
}

fn cache(row: &CacheRow) {
    let core = Label::new("core", row.core.to_string());
    for (cache, hits) in
        [("shortcut", row.shortcut_hits), ("exact", row.exact_hits), ("megaflow", row.megaflow_hits)]
    {
        count("ringway_cache_hits_total", &[core.clone(), Label::new("cache", cache)], hits);
    }
    count("ringway_cache_misses_total", std::slice::from_ref(&core), row.misses);
    count("ringway_cache_flushes_total", std::slice::from_ref(&core), row.flushes);
}

fn bridge(row: &BridgeRow) {
    let labels = [Label::new("bridge", row.name.clone())];
    gauge!("ringway_bridge_rules", labels.iter()).set(row.rules as f64);
    gauge!("ringway_bridge_addresses", labels.iter()).set(row.addresses as f64);
    gauge!("ringway_bridge_ports", labels.iter()).set(row.ports as f64);
}

/// Answers `GET /metrics` with what `text` says, until dropped. Runs on a current-thread runtime inside a `LocalSet`.
pub async fn serve(listener: TcpListener, text: impl AsyncFn() -> String + Clone + 'static) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let text = text.clone();
                connections.spawn_local(async move {
                    // A client that is slow, or gone, has only itself to blame.
                    let _ = tokio::time::timeout(TIMEOUT, answer(stream, text)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a scrape");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(mut stream: TcpStream, text: impl AsyncFn() -> String) -> io::Result<()> {
    let mut head = Vec::new();
    let complete = loop {
        if head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n") {
            break true;
        }
        if head.len() >= HEAD_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            break false;
        }
    };
    let (status, kind, body) = match request_line(&head).filter(|_| complete) {
        Some(("GET" | "HEAD", "/metrics")) => ("200 OK", "text/plain; version=0.0.4", text().await),
        Some(("GET" | "HEAD", _)) => ("404 Not Found", "text/plain", "look at /metrics\n".to_owned()),
        Some(_) => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
        None => ("400 Bad Request", "text/plain", "this is no HTTP request\n".to_owned()),
    };
    let length = body.len();
    let response_head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(response_head.as_bytes()).await?;
    if !head.starts_with(b"HEAD ") {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

/// Method and path, without a query.
fn request_line(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|&byte| byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let path = target.split('?').next()?;
    (version.starts_with("HTTP/1.") && words.next().is_none()).then_some((method, path))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::rows::PartitionQueueRow;

    fn snapshot() -> Snapshot {
        let bucket = |up_to, count| Bucket { up_to, count };
        Snapshot {
            bridges: vec![BridgeRow { name: "br0".into(), ports: 1, rules: 7, addresses: 3 }],
            ports: vec![PortRow {
                name: "vm0".into(),
                bridge: "br0".into(),
                state: PortState::Up,
                rx_frames: 12,
                drops: [("tx-full".to_owned(), 5)].into(),
                ..PortRow::default()
            }],
            workers: vec![WorkerRow {
                core: 2,
                busy_cycles: u64::MAX,
                burst_sizes: vec![bucket(Some(1), 4), bucket(Some(2), 0), bucket(None, 6)],
                ..WorkerRow::default()
            }],
            caches: vec![CacheRow { core: 2, exact_hits: 9, ..CacheRow::default() }],
            partitions: vec![PartitionRow {
                name: "p".into(),
                port: "vm0".into(),
                owner: "vm:a".into(),
                delivered: 8,
                each_queue: vec![PartitionQueueRow {
                    queue: 1,
                    matched: 9,
                    depth: Some(7),
                    ..PartitionQueueRow::default()
                }],
                ..PartitionRow::default()
            }],
        }
    }

    #[test]
    fn counters_have_their_labels_and_exact_values() {
        let text = render(&snapshot());
        for line in [
            "ringway_port_rx_frames_total{port=\"vm0\",bridge=\"br0\"} 12",
            "ringway_port_drops_total{port=\"vm0\",bridge=\"br0\",reason=\"tx-full\"} 5",
            "ringway_port_up{port=\"vm0\",bridge=\"br0\"} 1",
            "ringway_worker_busy_cycles_total{core=\"2\"} 18446744073709551615",
            "ringway_cache_hits_total{core=\"2\",cache=\"exact\"} 9",
            "ringway_bridge_rules{bridge=\"br0\"} 7",
            "ringway_partition_delivered_frames_total{partition=\"p\",port=\"vm0\",owner=\"vm:a\"} 8",
            "ringway_partition_queue_depth{partition=\"p\",port=\"vm0\",owner=\"vm:a\",queue=\"1\"} 7",
            "ringway_partition_queue_matched_frames_total{partition=\"p\",port=\"vm0\",owner=\"vm:a\",queue=\"1\"} 9",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_infinity() {
        let text = render(&snapshot());
        for (le, count) in [("1", 4), ("2", 4), ("+Inf", 10)] {
            let line = format!("ringway_worker_burst_frames_bucket{{core=\"2\",le=\"{le}\"}} {count}");
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_port_that_is_gone_is_not_shown() {
        render(&snapshot());
        assert!(!render(&Snapshot::default()).contains("vm0"));
    }

    fn with_endpoint(test: impl FnOnce(std::net::SocketAddr) + Send + 'static) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let done = tokio::task::spawn_blocking(move || test(address));
            tokio::select! {
                () = serve(listener, async || render(&snapshot())) => unreachable!("it serves until dropped"),
                joined = done => joined.unwrap(),
            }
        });
    }

    fn ask(address: std::net::SocketAddr, request: &[u8]) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(request).unwrap();
        let mut response = Vec::new();
        // Unread bytes make the kernel reset the connection after the answer.
        let _ = stream.read_to_end(&mut response);
        String::from_utf8(response).unwrap()
    }

    #[test]
    fn the_endpoint_answers_get_metrics_and_nothing_else() {
        with_endpoint(|address| {
            let metrics = ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
            assert!(metrics.starts_with("HTTP/1.1 200 ") && metrics.contains("ringway_port_up"), "{metrics}");
            let (head, body) = metrics.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())));
            assert!(!ask(address, b"HEAD /metrics HTTP/1.1\r\n\r\n").contains("ringway_port_up"));
            assert!(ask(address, b"GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404 "));
            assert!(ask(address, b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
            assert!(ask(address, b"\xff\r\n\r\n").starts_with("HTTP/1.1 400 "));
            assert!(ask(address, &[b'x'; HEAD_BYTES_MAX]).starts_with("HTTP/1.1 400 "));
        });
    }
}
