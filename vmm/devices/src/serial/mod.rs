//! The serial port: a 16550A without its delays. What is written is out at once.
//!
//! Facts: National Semiconductor, PC16550D data sheet (June 1995), section 8; what Linux's driver asks of one,
//! `drivers/tty/serial/8250/8250_port.c`.

use std::collections::VecDeque;
use std::io::Write;

use virtqueue::EventFd;

/// Registers it has.
pub const REGISTERS: u16 = 8;

/// Where the guest's text goes.
pub type Output = Box<dyn Write + Send>;

/// Bytes that wait for the guest at most; more is dropped, as on a line without flow control.
const WAITING_MAX: usize = 4096;

/// Offsets of registers. The first two are the divisor's while [`DIVISOR_ACCESS`] is set.
mod register {
    pub const DATA: u8 = 0;
    pub const INTERRUPT_ENABLE: u8 = 1;
    /// Read: which interrupt. Written: control of the FIFOs.
    pub const INTERRUPT_OR_FIFO: u8 = 2;
    pub const LINE_CONTROL: u8 = 3;
    pub const MODEM_CONTROL: u8 = 4;
    pub const LINE_STATUS: u8 = 5;
    pub const MODEM_STATUS: u8 = 6;
    pub const SCRATCH: u8 = 7;
}

/// Interrupts that can be enabled: received, transmitter empty, line status, modem status. The last two never come.
const ENABLE_BITS: u8 = 0x0f;
const ENABLE_RECEIVED: u8 = 1 << 0;
const ENABLE_EMPTY: u8 = 1 << 1;
/// Which interrupt is pending.
const PENDING_NONE: u8 = 0x01;
const PENDING_EMPTY: u8 = 0x02;
const PENDING_RECEIVED: u8 = 0x04;
/// With them: the FIFOs are enabled.
const FIFOS_ON: u8 = 0xc0;
const FIFO_ENABLE: u8 = 1 << 0;
const DIVISOR_ACCESS: u8 = 1 << 7;
const LOOP: u8 = 1 << 4;
const MODEM_CONTROL_BITS: u8 = 0x1f;
const LINE_RECEIVED: u8 = 1 << 0;
/// Nothing is left in the transmitter, neither waiting nor on its way.
const LINE_EMPTY: u8 = 1 << 5 | 1 << 6;
/// Somebody is at the other end: clear to send, data set ready, carrier.
const MODEM_READY: u8 = 1 << 4 | 1 << 5 | 1 << 7;

/// A serial port. What the guest writes goes to its output.
///
/// Its interrupt is a level: an enabled condition that is pending. The line it is tied to takes edges, so it is signalled
/// when the level rises.
pub struct Serial {
    line: EventFd,
    output: Output,
    /// Typed, and not yet taken by the guest.
    received: VecDeque<u8>,
    divisor: [u8; 2],
    enabled: u8,
    /// The transmitter has become empty since the guest last asked which interrupt it was.
    emptied: bool,
    fifos: bool,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    /// Whether the interrupt is raised.
    raised: bool,
}

impl Serial {
    /// Makes one that raises its interrupt by `line`.
    pub fn new(line: EventFd, output: Output) -> Serial {
        Serial {
            line,
            output,
            received: VecDeque::new(),
            divisor: [0; 2],
            enabled: 0,
            emptied: false,
            fifos: false,
            line_control: 0,
            modem_control: 0,
            scratch: 0,
            raised: false,
        }
    }

    /// Reads registers from `offset` on: each byte of `data` is a read of the same one.
    pub fn read(&mut self, offset: u8, data: &mut [u8]) {
        data.fill_with(|| self.read_byte(offset));
        self.update();
    }

    /// Writes to a register, byte by byte.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        data.iter().for_each(|&byte| self.write_byte(offset, byte));
        self.update();
    }

    /// Types to the guest.
    pub fn type_in(&mut self, text: &[u8]) {
        let room = WAITING_MAX - self.received.len();
        self.received.extend(&text[..text.len().min(room)]);
        // Told of each text anew: an edge on a line that was masked is lost.
        self.raised = false;
        self.update();
    }

    fn read_byte(&mut self, offset: u8) -> u8 {
        match offset {
            register::DATA | register::INTERRUPT_ENABLE if self.line_control & DIVISOR_ACCESS != 0 => {
                self.divisor[usize::from(offset)]
            }
            register::DATA => self.received.pop_front().unwrap_or(0),
            register::INTERRUPT_ENABLE => self.enabled,
            register::INTERRUPT_OR_FIFO => {
                let pending = self.pending();
                // To ask is to acknowledge (section 8.6.3).
                self.emptied &= pending != PENDING_EMPTY;
                pending | if self.fifos { FIFOS_ON } else { 0 }
            }
            register::LINE_CONTROL => self.line_control,
            register::MODEM_CONTROL => self.modem_control,
            register::LINE_STATUS if self.received.is_empty() => LINE_EMPTY,
            register::LINE_STATUS => LINE_EMPTY | LINE_RECEIVED,
            register::MODEM_STATUS if self.modem_control & LOOP != 0 => looped(self.modem_control),
            register::MODEM_STATUS => MODEM_READY,
            register::SCRATCH => self.scratch,
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, offset: u8, byte: u8) {
        match offset {
            register::DATA | register::INTERRUPT_ENABLE if self.line_control & DIVISOR_ACCESS != 0 => {
                self.divisor[usize::from(offset)] = byte;
            }
            register::DATA => {
                if self.modem_control & LOOP != 0 {
                    if self.received.len() < WAITING_MAX {
                        self.received.push_back(byte);
                    }
                } else {
                    // An output that fails has lost the guest's text; the guest goes on.
                    let _ = self.output.write_all(&[byte]);
                }
                self.emptied = true;
            }
            register::INTERRUPT_ENABLE => {
                // Enabled while the transmitter is empty, its interrupt comes at once (section 8.6.3).
                self.emptied |= byte & !self.enabled & ENABLE_EMPTY != 0;
                self.enabled = byte & ENABLE_BITS;
                // A driver that sets this register anew is told anew, too.
                self.raised = false;
            }
            // Text that was typed is not thrown away with the FIFOs: the guest's driver clears them when it begins.
            register::INTERRUPT_OR_FIFO => self.fifos = byte & FIFO_ENABLE != 0,
            register::LINE_CONTROL => self.line_control = byte,
            register::MODEM_CONTROL => self.modem_control = byte & MODEM_CONTROL_BITS,
            register::SCRATCH => self.scratch = byte,
            _ => {}
        }
    }

    /// The most urgent of the enabled conditions.
    fn pending(&self) -> u8 {
        if self.enabled & ENABLE_RECEIVED != 0 && !self.received.is_empty() {
            PENDING_RECEIVED
        } else if self.enabled & ENABLE_EMPTY != 0 && self.emptied {
            PENDING_EMPTY
        } else {
            PENDING_NONE
        }
    }

    fn update(&mut self) {
        let pending = self.pending() != PENDING_NONE;
        if pending && !self.raised {
            self.line.signal();
        }
        self.raised = pending;
    }
}

/// What the modem's inputs show when they are tied to its outputs: ready, request, and two without a purpose.
fn looped(control: u8) -> u8 {
    let tied = |output: u8, input: u8| if control & 1 << output != 0 { 1 << input } else { 0 };
    tied(0, 5) | tied(1, 4) | tied(2, 6) | tied(3, 7)
}

#[cfg(test)]
mod tests {
    use std::io;
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

    fn serial() -> Serial {
        Serial::new(EventFd::create().unwrap(), Box::new(io::sink()))
    }

    impl Serial {
        fn get(&mut self, offset: u8) -> u8 {
            let mut byte = [0];
            self.read(offset, &mut byte);
            byte[0]
        }

        fn put(&mut self, offset: u8, byte: u8) {
            self.write(offset, &[byte]);
        }

        fn was_signalled(&self) -> bool {
            self.line.drain()
        }
    }

    #[test]
    fn what_the_guest_writes_comes_out() {
        let paper = Paper::default();
        let mut serial = Serial::new(EventFd::create().unwrap(), Box::new(paper.clone()));
        serial.write(register::DATA, b"hello");
        assert_eq!(*paper.0.lock().unwrap(), b"hello");
    }

    #[test]
    fn typed_text_reaches_the_guest_in_order_however_long() {
        let mut serial = serial();
        let text: Vec<u8> = (0..200).collect();
        serial.type_in(&text);
        let mut read = Vec::new();
        while serial.get(register::LINE_STATUS) & LINE_RECEIVED != 0 {
            read.push(serial.get(register::DATA));
        }
        assert_eq!(read, text);
    }

    #[test]
    fn a_guest_that_stops_in_the_middle_of_the_text_is_told_that_there_is_more() {
        let mut serial = serial();
        serial.put(register::INTERRUPT_ENABLE, ENABLE_RECEIVED);
        serial.type_in(&[7; 300]);
        assert!(serial.was_signalled());
        serial.read(register::DATA, &mut [0; 256]);
        assert_eq!(serial.get(register::INTERRUPT_OR_FIFO), PENDING_RECEIVED);
        serial.read(register::DATA, &mut [0; 44]);
        assert_eq!(serial.get(register::INTERRUPT_OR_FIFO), PENDING_NONE);
        serial.type_in(b"x");
        assert!(serial.was_signalled());
    }

    #[test]
    fn the_transmitter_interrupts_when_enabled_and_after_each_byte_until_asked() {
        let mut serial = serial();
        serial.put(register::DATA, 1);
        assert!(!serial.was_signalled(), "not enabled");
        serial.put(register::INTERRUPT_ENABLE, ENABLE_EMPTY);
        assert!(serial.was_signalled());
        assert_eq!(serial.get(register::INTERRUPT_OR_FIFO), PENDING_EMPTY);
        assert_eq!(serial.get(register::INTERRUPT_OR_FIFO), PENDING_NONE, "asked before");
        serial.write(register::DATA, &[1, 2, 3]);
        assert!(serial.was_signalled());
        serial.put(register::DATA, 4);
        assert!(!serial.was_signalled(), "it is raised already");
    }

    #[test]
    fn received_text_comes_before_an_empty_transmitter_and_takes_nothing_from_it() {
        let mut serial = serial();
        serial.put(register::INTERRUPT_ENABLE, ENABLE_EMPTY | ENABLE_RECEIVED);
        serial.type_in(b"x");
        assert_eq!(serial.get(register::INTERRUPT_OR_FIFO), PENDING_RECEIVED);
        serial.get(register::DATA);
        assert_eq!(serial.get(register::INTERRUPT_OR_FIFO), PENDING_EMPTY);
    }

    #[test]
    fn interrupts_that_were_turned_off_come_when_they_are_turned_on_again() {
        let mut serial = serial();
        serial.put(register::INTERRUPT_ENABLE, 0);
        serial.type_in(b"x");
        assert!(!serial.was_signalled());
        for _ in 0..2 {
            serial.put(register::INTERRUPT_ENABLE, ENABLE_RECEIVED);
            assert!(serial.was_signalled());
        }
    }

    #[test]
    fn a_driver_finds_a_16550a_without_anything_newer() {
        let mut serial = serial();
        assert_eq!(serial.get(register::INTERRUPT_OR_FIFO) & FIFOS_ON, 0);
        serial.put(register::INTERRUPT_OR_FIFO, FIFO_ENABLE);
        assert_eq!(serial.get(register::INTERRUPT_OR_FIFO), FIFOS_ON | PENDING_NONE);
        serial.put(register::INTERRUPT_ENABLE, 0xff);
        assert_eq!(serial.get(register::INTERRUPT_ENABLE), ENABLE_BITS);
        serial.put(register::LINE_CONTROL, DIVISOR_ACCESS);
        serial.write(register::DATA, &[12]);
        assert_eq!((serial.get(register::DATA), serial.get(register::INTERRUPT_ENABLE)), (12, 0));
        serial.put(register::LINE_CONTROL, 3);
        assert_eq!(serial.get(register::INTERRUPT_ENABLE), ENABLE_BITS);
        serial.put(register::SCRATCH, 0x5a);
        assert_eq!(serial.get(register::SCRATCH), 0x5a);
    }

    #[test]
    fn a_loop_returns_text_and_modem_lines() {
        let paper = Paper::default();
        let mut serial = Serial::new(EventFd::create().unwrap(), Box::new(paper.clone()));
        serial.put(register::MODEM_CONTROL, LOOP | 0x0a);
        assert_eq!(
            serial.get(register::MODEM_STATUS),
            0x90,
            "request to send, and the second of the other two"
        );
        serial.put(register::DATA, 9);
        assert_eq!((serial.get(register::DATA), paper.0.lock().unwrap().len()), (9, 0));
        serial.put(register::MODEM_CONTROL, 0);
        assert_eq!(serial.get(register::MODEM_STATUS), MODEM_READY);
    }

    #[test]
    fn a_guest_that_reads_nothing_fills_a_bounded_buffer() {
        let mut serial = serial();
        (0..100).for_each(|_| serial.type_in(&[7; 1000]));
        serial.put(register::MODEM_CONTROL, LOOP);
        serial.put(register::DATA, 7);
        assert!(serial.received.len() <= WAITING_MAX);
    }
}
