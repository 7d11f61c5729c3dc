//! Which frames of the burst in hand go to which port.

use packet::BURST_MAX;
use port::PortId;

/// Ports a burst can be bound for without a flush in between.
const TOUCHED_MAX: usize = 64;

#[derive(Clone, Copy)]
struct List {
    len: u8,
    which: [u8; BURST_MAX],
}

/// A list of frames per port, in the order they were decided.
pub(crate) struct Outputs {
    lists: Vec<List>,
    touched: Vec<u16>,
}

/// The lists have no room for this output: send what is there first.
pub(crate) struct Full;

impl Outputs {
    pub fn new() -> Self {
        Self { lists: Vec::new(), touched: Vec::with_capacity(TOUCHED_MAX) }
    }

    /// Makes room for ports below `ports`.
    pub fn resize(&mut self, ports: usize) {
        assert!(self.touched.is_empty(), "ports change between bursts only");
        self.lists.resize(ports, List { len: 0, which: [0; BURST_MAX] });
    }

    /// Adds frame `i` to the port's list. The port must exist.
    #[inline(always)]
    pub fn push(&mut self, port: PortId, i: usize) -> Result<(), Full> {
        let list = &mut self.lists[port.0 as usize];
        if list.len as usize == BURST_MAX {
            return Err(Full);
        }
        if list.len == 0 {
            if self.touched.len() == TOUCHED_MAX {
                return Err(Full);
            }
            self.touched.push(port.0);
        }
        list.which[list.len as usize] = i as u8;
        list.len += 1;
        Ok(())
    }

    /// Takes one port's list.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<(PortId, [u8; BURST_MAX], usize)> {
        let port = self.touched.pop()?;
        let list = &mut self.lists[port as usize];
        let len = std::mem::take(&mut list.len) as usize;
        Some((PortId(port), list.which, len))
    }
}
