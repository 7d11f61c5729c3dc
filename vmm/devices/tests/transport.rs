//! Virtio over PCI as a driver meets it: registers in, calls to the device out.

mod story;

use std::sync::Arc;

use devices::pci::Function;
use devices::virtio::{Notifier, Transport};
use story::{Machine, Story, Told, WINDOW, memory};
use virtio_defs::feature::{RING_RESET, VERSION_1};

const NOTIFY: u64 = 0x3000;

/// Offsets in the common configuration (virtio 1.2, section 4.1.4.3).
const DRIVER_FEATURE_SELECT: u64 = 8;
const DRIVER_FEATURE: u64 = 12;
const STATUS: u64 = 20;
const QUEUE_SELECT: u64 = 22;
const QUEUE_ENABLE: u64 = 28;
const QUEUE_DESC: u64 = 32;
const QUEUE_RESET: u64 = 58;

const FEATURES_OK: u8 = 8;
const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 64;

struct Driver {
    transport: Transport,
    story: Story,
}

impl Driver {
    fn new(features: u64) -> Driver {
        Driver::with(features, false)
    }

    fn with(features: u64, refuses: bool) -> Driver {
        let story = Story::default();
        let device = Told { story: story.clone(), features, refuses, ..Told::default() };
        let platform = Arc::new(Machine(story.clone()));
        let mut transport =
            Transport::new(Box::new(device), Notifier::default(), platform, memory(), 8, WINDOW).unwrap();
        // Memory space, bus master.
        transport.write_config(4, &[6, 0]);
        Driver { transport, story }
    }

    fn write16(&mut self, offset: u64, value: u16) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    fn read16(&mut self, offset: u64) -> u16 {
        let mut bytes = [0; 2];
        self.transport.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn status(&mut self) -> u8 {
        let mut byte = [0];
        self.transport.read(STATUS, &mut byte);
        byte[0]
    }

    fn negotiate(&mut self, features: u64) -> bool {
        self.transport.write(STATUS, &[3]);
        for (half, word) in [features as u32, (features >> 32) as u32].into_iter().enumerate() {
            self.transport.write(DRIVER_FEATURE_SELECT, &(half as u32).to_le_bytes());
            self.transport.write(DRIVER_FEATURE, &word.to_le_bytes());
        }
        self.transport.write(STATUS, &[3 | FEATURES_OK]);
        self.status() & FEATURES_OK != 0
    }

    fn enable(&mut self, queue: u16, desc: u64) {
        self.write16(QUEUE_SELECT, queue);
        self.transport.write(QUEUE_DESC, &desc.to_le_bytes());
        self.write16(QUEUE_ENABLE, 1);
    }

    fn start(&mut self, features: u64) {
        assert!(self.negotiate(features));
        (0..3).for_each(|queue| self.enable(queue, 0x1000 * (1 + u64::from(queue))));
        self.transport.write(STATUS, &[3 | FEATURES_OK | DRIVER_OK]);
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.story.lock().unwrap())
    }
}

#[test]
fn doorbells_are_the_kernels_but_for_those_the_device_answers() {
    let mut driver = Driver::new(VERSION_1);
    driver.start(VERSION_1);
    assert_eq!(driver.told(), ["start [(0, 1000), (1, 2000), (2, 3000)]", "attach 0x3000", "attach 0x3004"]);
    driver.write16(NOTIFY + 8, 2);
    assert_eq!(driver.told(), ["rung 2"]);
    driver.transport.write(STATUS, &[0]);
    assert_eq!(driver.told(), ["stop", "detach 0x3000", "detach 0x3004"]);
    driver.write16(NOTIFY + 8, 2);
    assert!(driver.told().is_empty(), "a device that was reset is told of nothing");
}

#[test]
fn a_queue_that_was_reset_can_be_set_up_elsewhere() {
    let mut driver = Driver::new(VERSION_1 | RING_RESET);
    driver.start(VERSION_1 | RING_RESET);
    driver.told();
    driver.write16(QUEUE_SELECT, 1);
    driver.write16(QUEUE_RESET, 1);
    assert_eq!(driver.told(), ["stop queue 1", "detach 0x3004"]);
    assert_eq!((driver.read16(QUEUE_RESET), driver.read16(QUEUE_ENABLE)), (0, 0));
    driver.enable(1, 0x9000);
    assert_eq!(driver.told(), ["start queue 1 at 0x9000", "attach 0x3004"]);
    assert_eq!(driver.read16(QUEUE_ENABLE), 1);
    // The others were left alone, and a queue that works can't be moved.
    driver.enable(0, 0xa000);
    assert!(driver.told().is_empty());
}

#[test]
fn without_the_feature_a_queue_of_a_running_device_is_left_alone() {
    let mut driver = Driver::new(VERSION_1 | RING_RESET);
    driver.start(VERSION_1);
    driver.told();
    driver.write16(QUEUE_SELECT, 1);
    driver.write16(QUEUE_RESET, 1);
    assert!(driver.told().is_empty());
    assert_eq!(driver.read16(QUEUE_ENABLE), 1);
}

#[test]
fn a_queue_that_does_not_exist_is_not_reset() {
    let mut driver = Driver::new(VERSION_1 | RING_RESET);
    driver.start(VERSION_1 | RING_RESET);
    driver.told();
    driver.write16(QUEUE_SELECT, 7);
    driver.write16(QUEUE_RESET, 1);
    driver.write16(QUEUE_ENABLE, 1);
    assert!(driver.told().is_empty());
}

#[test]
fn features_that_were_not_offered_are_refused() {
    assert!(!Driver::new(VERSION_1).negotiate(VERSION_1 | RING_RESET));
    assert!(!Driver::new(VERSION_1).negotiate(0), "version 1 is not to be left out");
    assert!(Driver::new(VERSION_1 | 1 << 5).negotiate(VERSION_1));
}

#[test]
fn what_the_device_can_not_work_with_is_told_to_the_driver() {
    let mut driver = Driver::with(VERSION_1, true);
    driver.start(VERSION_1);
    assert_ne!(driver.status() & NEEDS_RESET, 0);
    driver.transport.write(STATUS, &[0]);
    assert_eq!(driver.status(), 0, "and can be mended by a reset");
}

#[test]
fn any_write_to_any_register_is_harmless() {
    let mut driver = Driver::new(VERSION_1 | RING_RESET);
    driver.start(VERSION_1 | RING_RESET);
    let mut seed = 1u64;
    for _ in 0..200_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (offset, len) = (seed >> 20 & 0x7fff, [1, 2, 4, 8][(seed >> 60 & 3) as usize]);
        // Most of them where it matters.
        let offset = if seed & 1 == 0 { offset % 64 } else { offset };
        driver.transport.write(offset, &seed.to_le_bytes()[..len]);
        driver.transport.read(offset, &mut [0; 8][..len]);
        driver.transport.write_config((seed >> 8 & 0xfff) as usize & !3, &(seed as u32).to_le_bytes());
    }
}
