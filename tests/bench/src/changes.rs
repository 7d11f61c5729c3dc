//! A thousand rule changes a second under load: what frames notice of them.

use anyhow::{Context as _, Result, bail};
use lab::switch::System;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::latency::latency_figures;
use crate::measure::{Bench, Measure, Outcome, figures, one_way};
use crate::rules::masked_rules;
use crate::section::{CHANGES, Section};
use crate::traffic::Headers;

/// The name of its row.
pub(crate) const NAME: &str = "rule-changes";

/// Between two changes.
const EVERY: Duration = Duration::from_millis(1);
const ANSWER: Duration = Duration::from_secs(10);
const RATE: f64 = 500_000.0;

/// Rule changes under load.
pub(crate) struct RuleChanges;

impl Measure for RuleChanges {
    fn section(&self) -> &'static Section {
        &CHANGES
    }

    fn names(&self) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn measure(
        &self,
        bench: &Bench<'_>,
        system: System,
        _wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, Outcome)>> {
        let dir = bench.dir()?;
        let plan = bench.plan(dir.path(), 2, masked_rules(16, "vm0", "vm1"));
        let mut switch = system.start(&plan)?;
        let mut traffic = bench.traffic(&plan, false)?;
        let mut changer: Box<dyn Changer> = match system {
            System::OvsDpdk => Box::new(OpenFlow::connect(&dir.path().join("br0.mgmt"))?),
            _ => Box::new(Control::connect(&dir.path().join("ctl.sock"))?),
        };
        let outcome = bench.judged(switch.as_mut(), None, |_| {
            let phase = one_way(bench.seconds(3.0), Some(RATE), 64, Headers::Flows(1000), true);
            traffic.phase(&phase)?;
            let quiet = latency_figures(&traffic.phase(&phase)?.streams[0]);
            let is_over = AtomicBool::new(false);
            let (result, rate) = std::thread::scope(|scope| {
                let changes = scope.spawn(|| change_until(changer.as_mut(), &is_over));
                let result = traffic.phase(&phase);
                is_over.store(true, Ordering::Relaxed);
                (result, changes.join().expect("a changing thread does not panic"))
            });
            let mut found = latency_figures(&result?.streams[0]);
            found.extend(figures([
                ("changes_per_s", rate?),
                ("quiet_stall_us", quiet["stall_us"]),
                ("quiet_p999_us", quiet["p999_us"]),
            ]));
            Ok(found)
        })?;
        drop(traffic);
        switch.stop()?;
        Ok(vec![(NAME.to_owned(), outcome)])
    }
}

/// Adds and removes a rule in turn, one change a millisecond, and returns how many there were a second.
fn change_until(changer: &mut dyn Changer, is_over: &AtomicBool) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        changer.change(count / 2 % 250, count % 2 == 0)?;
        count += 1;
        if let Some(wait) = (EVERY * count).checked_sub(start.elapsed()) {
            std::thread::sleep(wait);
        }
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// Changes a switch's rules.
trait Changer: Send {
    /// Adds the rule with this number, or removes it; returns when the change is acknowledged.
    fn change(&mut self, number: u32, adds: bool) -> Result<()>;
}

/// Ringway's control socket (docs/control.md).
struct Control {
    stream: BufReader<UnixStream>,
    id: u64,
}

impl Control {
    fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(Self { stream: BufReader::new(stream), id: 0 })
    }
}

impl Changer for Control {
    fn change(&mut self, number: u32, adds: bool) -> Result<()> {
        self.id += 1;
        let flow = format!("priority=2000,udp,nw_dst=10.253.255.{number}");
        let request = if adds {
            serde_json::json!({"flow-add": {"flow": flow + ",actions=drop"}})
        } else {
            serde_json::json!({"flow-del": {"flow": flow, "strict": true}})
        };
        let line = serde_json::json!({"version": 1, "id": self.id, "request": request});
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        if !answer.contains("\"ok\"") {
            bail!("a change was answered: {answer}");
        }
        Ok(())
    }
}

/// OpenFlow 1.0 as far as it is needed here (OpenFlow Switch Specification 1.0.0, sections 5.2 and 5.3).
struct OpenFlow {
    stream: UnixStream,
    id: u32,
}

const HELLO: u8 = 0;
const ERROR: u8 = 1;
const ECHO_REQUEST: u8 = 2;
const ECHO_REPLY: u8 = 3;
const FLOW_MOD: u8 = 14;
const BARRIER_REQUEST: u8 = 18;
const BARRIER_REPLY: u8 = 19;

impl OpenFlow {
    fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut this = Self { stream, id: 0 };
        this.send(HELLO, &[])?;
        this.wait_for(HELLO)?;
        Ok(this)
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        self.id += 1;
        let len = u16::try_from(8 + body.len())?;
        let mut message = vec![1, kind];
        message.extend(len.to_be_bytes());
        message.extend(self.id.to_be_bytes());
        message.extend(body);
        self.stream.write_all(&message)?;
        Ok(())
    }

    fn wait_for(&mut self, wanted: u8) -> Result<()> {
        loop {
            let mut header = [0; 8];
            self.stream.read_exact(&mut header)?;
            let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let mut body = vec![0; len.checked_sub(8).context("a message shorter than its header")?];
            self.stream.read_exact(&mut body)?;
            match header[1] {
                kind if kind == wanted => return Ok(()),
                ERROR => bail!("OpenFlow error {body:x?}"),
                ECHO_REQUEST => self.send(ECHO_REPLY, &body)?,
                _ => {}
            }
        }
    }
}

impl Changer for OpenFlow {
    fn change(&mut self, number: u32, adds: bool) -> Result<()> {
        self.send(FLOW_MOD, &flow_mod(number, adds))?;
        self.send(BARRIER_REQUEST, &[])?;
        self.wait_for(BARRIER_REPLY)
    }
}

/// The body of `priority=2000,udp,nw_dst=10.253.255.N` with no action, which drops.
fn flow_mod(number: u32, adds: bool) -> Vec<u8> {
    // All fields wildcarded but dl_type and nw_proto; nw_src wholly (bits 8-13), nw_dst (bits 14-19) not at all.
    const WILDCARDS: u32 = 0x3f_ffff & !(1 << 4) & !(1 << 5) & !(0x3f << 14);
    const DELETE_STRICT: u16 = 4;
    let mut body = WILDCARDS.to_be_bytes().to_vec();
    // in_port, dl_src, dl_dst, dl_vlan, dl_vlan_pcp and a pad byte.
    body.extend([0; 2 + 6 + 6 + 2 + 1 + 1]);
    body.extend([0x08, 0x00, 0, 17, 0, 0]);
    body.extend([0; 4]);
    body.extend([10, 253, 255, number as u8]);
    body.extend([0; 4]);
    // Cookie.
    body.extend([0; 8]);
    let command = if adds { 0 } else { DELETE_STRICT };
    // Command, timeouts, priority.
    body.extend([command, 0, 0, 2000].map(u16::to_be_bytes).as_flattened());
    // No buffer, any output port, no flags.
    body.extend([0xff; 4]);
    body.extend([0xff, 0xff, 0, 0]);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_mod_has_the_length_of_the_specification() {
        // ofp_flow_mod is 72 bytes with its header of 8, ofp_match 40 of them.
        let body = flow_mod(7, true);
        assert_eq!(body.len(), 64);
        assert_eq!(body[..4], [0x00, 0x30, 0x3f, 0xcf]);
        assert_eq!(body[32..36], [10, 253, 255, 7]);
        assert_eq!(body[48..56], [0, 0, 0, 0, 0, 0, 7, 208]);
    }
}
