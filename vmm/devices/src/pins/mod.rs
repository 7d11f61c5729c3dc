//! General-purpose pins: a PL061 (Arm DDI 0190B, chapter 3), with push buttons at them.

use virtqueue::EventFd;

/// Registers, by offset. Below [`DIRECTION`] is the data register, at every address whose bits 2 to 9 select pins.
const DIRECTION: u64 = 0x400;
const LEVEL_SENSITIVE: u64 = 0x404;
const BOTH_EDGES: u64 = 0x408;
const RISING: u64 = 0x40c;
const ENABLED: u64 = 0x410;
const RAW: u64 = 0x414;
const MASKED: u64 = 0x418;
const CLEAR: u64 = 0x41c;
const ALTERNATE: u64 = 0x420;
const IDENTITY: u64 = 0xfe0;
const IDENTITY_BYTES: [u8; 8] = [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// Eight pins. A button that was pressed springs back when the guest has looked at it, so no press is too short.
pub struct Pins {
    line: EventFd,
    pressed: u8,
    output: u8,
    direction: u8,
    level_sensitive: u8,
    both_edges: u8,
    rising: u8,
    enabled: u8,
    /// Pins that an edge was seen at.
    edges: u8,
    alternate: u8,
}

impl Pins {
    /// Makes pins that raise their interrupt by `line`.
    pub fn new(line: EventFd) -> Pins {
        Pins {
            line,
            pressed: 0,
            output: 0,
            direction: 0,
            level_sensitive: 0,
            both_edges: 0,
            rising: 0,
            enabled: 0,
            edges: 0,
            alternate: 0,
        }
    }

    /// Presses the button at a pin, 0 to 7.
    pub fn press(&mut self, pin: u8) {
        self.set_pressed(self.pressed | 1 << (pin % 8));
    }

    fn set_pressed(&mut self, pressed: u8) {
        let before = self.masked();
        let changed = pressed ^ self.pressed;
        self.pressed = pressed;
        // An edge counts if both do, or if it goes the way that is looked for.
        self.edges |= changed & (self.both_edges | !(self.pressed ^ self.rising)) & !self.level_sensitive;
        self.interrupt(before);
    }

    /// What is to be told of, whether it may be or not.
    fn raw(&self) -> u8 {
        self.edges | !(self.pressed ^ self.rising) & self.level_sensitive
    }

    fn masked(&self) -> u8 {
        self.raw() & self.enabled
    }

    /// Raises the line if there is something now that there wasn't `before`.
    fn interrupt(&self, before: u8) {
        if self.masked() & !before != 0 {
            self.line.signal();
        }
    }

    /// Reads a register: a byte, and zeros behind it.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let value = match offset {
            0..DIRECTION => {
                let pins = (offset >> 2) as u8;
                let value = (self.output & self.direction | self.pressed & !self.direction) & pins;
                self.set_pressed(self.pressed & !pins);
                value
            }
            DIRECTION => self.direction,
            LEVEL_SENSITIVE => self.level_sensitive,
            BOTH_EDGES => self.both_edges,
            RISING => self.rising,
            ENABLED => self.enabled,
            RAW => self.raw(),
            MASKED => self.masked(),
            ALTERNATE => self.alternate,
            IDENTITY..0x1000 => IDENTITY_BYTES[(offset - IDENTITY) as usize / 4],
            _ => 0,
        };
        if let Some(first) = data.first_mut() {
            *first = value;
        }
    }

    /// Writes a register: its first byte counts.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        let before = self.masked();
        match offset {
            0..DIRECTION => {
                let pins = (offset >> 2) as u8 & self.direction;
                self.output = self.output & !pins | value & pins;
            }
            DIRECTION => self.direction = value,
            LEVEL_SENSITIVE => self.level_sensitive = value,
            BOTH_EDGES => self.both_edges = value,
            RISING => self.rising = value,
            ENABLED => self.enabled = value,
            CLEAR => self.edges &= !value,
            ALTERNATE => self.alternate = value,
            _ => {}
        }
        self.interrupt(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: u8 = 3;
    const BIT: u8 = 1 << PIN;
    const DATA: u64 = (BIT as u64) << 2;

    fn pins() -> (Pins, EventFd) {
        let line = EventFd::create().unwrap();
        (Pins::new(line.try_clone().unwrap()), line)
    }

    fn read(pins: &mut Pins, offset: u64) -> u8 {
        let mut data = [0xff; 4];
        pins.read(offset, &mut data);
        assert_eq!(data[1..], [0; 3]);
        data[0]
    }

    #[test]
    fn a_press_is_told_of_and_seen_once_and_so_is_its_end() {
        let (mut pins, line) = pins();
        pins.write(BOTH_EDGES, &[BIT]);
        pins.write(ENABLED, &[BIT]);
        pins.press(PIN);
        assert!(line.drain());
        assert_eq!(read(&mut pins, MASKED), BIT);
        pins.write(CLEAR, &[BIT]);
        assert_eq!(read(&mut pins, MASKED), 0);
        assert_eq!(read(&mut pins, DATA), BIT);
        assert!(line.drain(), "it sprang back");
        assert_eq!(read(&mut pins, MASKED), BIT);
        assert_eq!(read(&mut pins, DATA), 0);
    }

    #[test]
    fn a_press_waits_for_a_guest_that_does_not_want_to_be_told_yet() {
        let (mut pins, line) = pins();
        pins.write(RISING, &[BIT]);
        pins.press(PIN);
        assert!(!line.drain());
        assert_eq!(read(&mut pins, RAW), BIT);
        pins.write(ENABLED, &[BIT]);
        assert!(line.drain());
    }

    #[test]
    fn only_selected_outputs_are_written() {
        let (mut pins, _line) = pins();
        pins.write(DIRECTION, &[0x0f]);
        pins.write(0xff << 2, &[0xff]);
        pins.write(0x03 << 2, &[0]);
        assert_eq!(read(&mut pins, 0xff << 2), 0x0c);
    }

    #[test]
    fn the_identity_is_a_pl061s() {
        let (mut pins, _line) = pins();
        let identity: Vec<u8> = (IDENTITY..0x1000).step_by(4).map(|at| read(&mut pins, at)).collect();
        assert_eq!(identity, IDENTITY_BYTES);
    }

    #[test]
    fn every_register_and_any_width_is_harmless() {
        let (mut pins, _line) = pins();
        for offset in (0..0x1_0000).chain([u64::MAX]) {
            for len in 0..=8 {
                pins.write(offset, &[0xa5; 8][..len]);
                pins.read(offset, &mut [0; 8][..len]);
            }
        }
    }
}
