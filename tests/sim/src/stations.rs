//! The MAC table as it should be: a map, and nothing else.

use std::collections::BTreeMap;

use bridging::FdbEntry;
use port::PortId;

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    port: u16,
    seen_secs: u32,
    is_static: bool,
}

/// The addresses a bridge should know. Holds the limit per port; that of the whole table is never reached.
#[derive(Debug, Default)]
pub struct Stations {
    lines: BTreeMap<(u16, u64), Line>,
    per_port: usize,
    /// What stood where since the burst in hand began, for those that changed.
    before: BTreeMap<(u16, u64), Option<u16>>,
}

impl Stations {
    pub fn new(per_port: u32) -> Stations {
        Stations { per_port: per_port as usize, ..Stations::default() }
    }

    pub fn begin_burst(&mut self) {
        self.before.clear();
    }

    pub fn lookup(&self, vlan: u16, mac: u64) -> Option<u16> {
        self.lines.get(&(vlan, mac)).map(|line| line.port)
    }

    /// As it was when the burst began: a worker may go by what it found for an earlier frame of the same burst.
    pub fn lookup_before(&self, vlan: u16, mac: u64) -> Option<u16> {
        self.before.get(&(vlan, mac)).copied().unwrap_or_else(|| self.lookup(vlan, mac))
    }

    pub fn learn(&mut self, vlan: u16, mac: u64, port: u16, now_secs: u32) {
        if mac == 0 || mac >> 40 & 1 == 1 {
            return;
        }
        let old = self.lines.get(&(vlan, mac)).copied();
        match old {
            Some(line) if line.is_static => return,
            Some(line) if line.port == port => {}
            _ if self.learned_on(port) >= self.per_port => return,
            _ => {
                self.before.entry((vlan, mac)).or_insert(old.map(|line| line.port));
            }
        }
        let seen_secs =
            old.filter(|line| line.port == port).map_or(now_secs, |line| line.seen_secs.max(now_secs));
        self.lines.insert((vlan, mac), Line { port, seen_secs, is_static: false });
    }

    /// Addresses learned on a port.
    pub fn learned_on(&self, port: u16) -> usize {
        self.lines.values().filter(|line| line.port == port && !line.is_static).count()
    }

    pub fn set_static(&mut self, vlan: u16, mac: u64, port: u16) {
        self.lines.insert((vlan, mac), Line { port, seen_secs: 0, is_static: true });
    }

    pub fn remove(&mut self, vlan: u16, mac: u64) -> bool {
        self.lines.remove(&(vlan, mac)).is_some()
    }

    pub fn flush(&mut self, port: u16) {
        self.lines.retain(|_, line| line.is_static || line.port != port);
    }

    pub fn expire(&mut self, now_secs: u32, max_age: u32) {
        self.lines.retain(|_, line| line.is_static || now_secs.saturating_sub(line.seen_secs) <= max_age);
    }

    /// As the real table lists itself.
    pub fn entries(&self) -> Vec<FdbEntry> {
        let entry = |(&(vlan, mac), line): (&(u16, u64), &Line)| FdbEntry {
            vlan,
            mac: address(mac),
            port: PortId(line.port),
            seen_secs: line.seen_secs,
            is_static: line.is_static,
        };
        self.lines.iter().map(entry).collect()
    }
}

/// An address as a number, first byte most significant.
pub fn number(mac: [u8; 6]) -> u64 {
    mac.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn address(number: u64) -> [u8; 6] {
    *number.to_be_bytes().last_chunk().expect("eight bytes have six")
}
