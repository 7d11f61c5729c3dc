//! The serial port: a 16550.

use std::io::{self, Write};

use virtqueue::EventFd;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Uart, Trigger};

/// Registers it has.
pub const REGISTERS: u16 = 8;

struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.signal();
        Ok(())
    }
}

/// Where the guest's text goes.
pub type Output = Box<dyn Write + Send>;

/// A serial port. What the guest writes goes to its output.
pub struct Serial {
    uart: Uart<Line, NoEvents, Output>,
    /// Typed, and not yet taken by the guest.
    waiting: Vec<u8>,
}

/// Bytes that wait for the guest at most; more is dropped, as on a line without flow control.
const WAITING_MAX: usize = 4096;

impl Serial {
    /// Makes one that raises its interrupt by `line`.
    pub fn new(line: EventFd, output: Output) -> Serial {
        Serial { uart: Uart::new(Line(line), output), waiting: Vec::new() }
    }

    /// Reads registers from `offset` on: each byte of `data` is a read of the same one.
    pub fn read(&mut self, offset: u8, data: &mut [u8]) {
        for byte in data {
            *byte = self.uart.read(offset);
        }
        self.feed();
    }

    /// Writes to a register, byte by byte.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        for &byte in data {
            // An output that fails has lost the guest's text; the guest goes on.
            let _ = self.uart.write(offset, byte);
        }
        self.feed();
    }

    /// Types to the guest.
    pub fn type_in(&mut self, text: &[u8]) {
        let room = WAITING_MAX - self.waiting.len();
        self.waiting.extend(&text[..text.len().min(room)]);
        self.feed();
    }

    fn feed(&mut self) {
        let count = self.waiting.len().min(self.uart.fifo_capacity());
        if count > 0
            && let Ok(taken) = self.uart.enqueue_raw_bytes(&self.waiting[..count])
        {
            self.waiting.drain(..taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Line status: data ready.
    const LSR: u8 = 5;
    const DATA: u8 = 0;

    #[test]
    fn what_the_guest_writes_comes_out() {
        let paper = Paper::default();
        let mut serial = Serial::new(EventFd::create().unwrap(), Box::new(paper.clone()));
        serial.write(DATA, b"hello");
        assert_eq!(*paper.0.lock().unwrap(), b"hello");
    }

    #[test]
    fn typed_text_reaches_the_guest_in_order_however_long() {
        let mut serial = Serial::new(EventFd::create().unwrap(), Box::new(io::sink()));
        let text: Vec<u8> = (0..200).collect();
        serial.type_in(&text);
        let mut read = Vec::new();
        loop {
            let mut byte = [0];
            serial.read(LSR, &mut byte);
            if byte[0] & 1 == 0 {
                break;
            }
            serial.read(DATA, &mut byte);
            read.push(byte[0]);
        }
        assert_eq!(read, text);
    }

    #[test]
    fn a_guest_that_reads_nothing_fills_a_bounded_buffer() {
        let mut serial = Serial::new(EventFd::create().unwrap(), Box::new(io::sink()));
        (0..100).for_each(|_| serial.type_in(&[7; 1000]));
        assert!(serial.waiting.len() <= WAITING_MAX);
    }
}
