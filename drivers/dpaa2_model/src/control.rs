//! Watching a model that other programs use, and making things happen to it: lines of text over a Unix socket, each
//! answered with JSON on one line.
//!
//! - `report`: counters, audit, interfaces, commands seen;
//! - `link DPMAC up|down`: takes a MAC's link up or down;
//! - `put DPMAC HEX`: puts a frame on a MAC's wire; `take DPMAC`: the oldest frame that was sent there;
//! - `count-lines`: begins to count cache lines written where hardware reads (the report's `lines`);
//! - `poll`: looks at the wires.

use crate::{Model, SharedModel, lock};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// Counters and audit as JSON on one line.
pub fn report(model: &Model) -> String {
    let audit = model.audit();
    let counters = model.counters();
    let interfaces: serde_json::Map<String, Value> = model
        .interfaces()
        .into_iter()
        .map(|(id, c)| {
            let value = json!({
                "rx_frames": c.rx_frames, "rx_bytes": c.rx_bytes, "rx_filtered": c.rx_filtered,
                "rx_discarded": c.rx_discarded, "rx_no_buffer": c.rx_no_buffer,
                "rx_while_disabled": c.rx_while_disabled, "tx_frames": c.tx_frames, "tx_bytes": c.tx_bytes,
                "tx_discarded": c.tx_discarded, "tx_confirmed": c.tx_confirmed,
            });
            (format!("dpni.{id}"), value)
        })
        .collect();
    let pools: Vec<Value> = audit
        .pools
        .iter()
        .map(|p| {
            json!({ "dpbp": p.dpbp, "bpid": p.bpid, "seen": p.seen, "free": p.free, "queued": p.queued, "software": p.software })
        })
        .collect();
    let commands: Vec<String> = model
        .commands_seen()
        .map(|(kind, id, version, count)| format!("{kind} {id:#05x} v{version} x{count}"))
        .collect();
    let violations: Vec<String> = audit.violations.iter().map(ToString::to_string).collect();
    json!({
        "stores": counters.stores, "commands": counters.commands, "enqueues": counters.enqueues,
        "dequeues": counters.dequeues, "releases": counters.releases, "management": counters.management,
        "lines": counters.lines,
        "violations_total": audit.violations_total, "violations": violations, "open_tokens": audit.open_tokens,
        "queued_frames": audit.queued_frames, "mapped_bytes": audit.mapped_bytes,
        "abandoned_tokens": audit.abandoned_tokens, "abandoned_bytes": audit.abandoned_bytes, "pools": pools,
        "interfaces": interfaces, "commands_seen": commands,
    })
    .to_string()
}

/// Carries out one line.
pub fn execute(model: &mut Model, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = |known: bool| {
        if known { json!({ "ok": true }) } else { json!({ "error": "no such dpmac" }) }.to_string()
    };
    match words[..] {
        ["report"] => report(model),
        ["count-lines"] => {
            model.count_lines();
            done(true)
        }
        ["poll"] => {
            model.poll();
            done(true)
        }
        ["link", mac, state @ ("up" | "down")] => {
            done(number(mac).is_some_and(|mac| model.set_link(mac, state == "up")))
        }
        ["put", mac, frame] => match bytes(frame) {
            Some(frame) => done(number(mac).is_some_and(|mac| model.put_on_wire(mac, &frame))),
            None => json!({ "error": "the frame isn't in hexadecimal digits" }).to_string(),
        },
        ["take", mac] => {
            let frame = number(mac).and_then(|mac| model.take_from_wire(mac)).map(|frame| hex(&frame));
            json!({ "frame": frame }).to_string()
        }
        _ => json!({ "error": format!("`{line}` isn't known") }).to_string(),
    }
}

fn number(name: &str) -> Option<u32> {
    name.strip_prefix("dpmac.").unwrap_or(name).parse().ok()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

fn hex(frame: &[u8]) -> String {
    frame.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Listens at `path` with a thread of its own, for as long as the process lives.
///
/// # Errors
/// The socket can't be made.
pub fn listen(model: &SharedModel, path: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    let model = Arc::clone(model);
    thread::Builder::new().name("model-control".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // One at a time: whoever watches asks briefly.
            let _ = serve(&model, &stream);
        }
    })?;
    Ok(())
}

fn serve(model: &SharedModel, stream: &UnixStream) -> io::Result<()> {
    let mut writer = stream;
    for line in BufReader::new(stream).lines() {
        let answer = execute(&mut lock(model), &line?);
        writeln!(writer, "{answer}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Description;

    #[test]
    fn a_line_is_answered_in_json() {
        let text = "soc = 'lx2160a'\n[[container]]\nid = 2\n[[container.dpni]]\nid = 1\n[[dpmac]]\nid = 1";
        let mut model = Model::new(&Description::from_toml(text).unwrap()).unwrap();
        let report: Value = serde_json::from_str(&execute(&mut model, "report")).unwrap();
        assert_eq!(report["violations_total"], 0);
        assert_eq!(report["interfaces"]["dpni.1"]["rx_frames"], 0);
        for (line, answer) in [
            ("link dpmac.1 down", r#"{"ok":true}"#),
            ("link dpmac.2 down", r#"{"error":"no such dpmac"}"#),
            ("put dpmac.1 0g", r#"{"error":"the frame isn't in hexadecimal digits"}"#),
            ("take dpmac.1", r#"{"frame":null}"#),
            ("", r#"{"error":"`` isn't known"}"#),
        ] {
            assert_eq!(execute(&mut model, line), answer);
        }
    }
}
