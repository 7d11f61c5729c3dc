//! Virtio over registers in memory as a driver meets it: words in, calls to the device out.

mod story;

use std::sync::{Arc, Mutex};

use devices::EventFd;
use devices::virtio::Notifier;
use devices::virtio::mmio::{Bank, Transport};
use story::{Machine, Story, Told, WINDOW, memory};
use virtio_defs::feature::{ACCESS_PLATFORM, NOTIFICATION_DATA, RING_RESET, VERSION_1};

/// Offsets (virtio 1.2, section 4.2.2).
const DEVICE_FEATURES: u64 = 0x10;
const DEVICE_FEATURES_SEL: u64 = 0x14;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_NUM_MAX: u64 = 0x34;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
const QUEUE_DESC_LOW: u64 = 0x80;
const QUEUE_DESC_HIGH: u64 = 0x84;
const QUEUE_RESET: u64 = 0xc0;
const CONFIG_GENERATION: u64 = 0xfc;
const CONFIG: u64 = 0x100;

const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;

const USED: u32 = 1;
const CHANGED: u32 = 2;

struct Driver {
    transport: Transport,
    notifier: Notifier,
    line: EventFd,
    story: Story,
    sizes: Arc<Mutex<Vec<u16>>>,
}

impl Driver {
    fn new(features: u64) -> Driver {
        Driver::with(features, false)
    }

    fn with(features: u64, refuses: bool) -> Driver {
        let (story, notifier, line) = (Story::default(), Notifier::default(), EventFd::create().unwrap());
        let device =
            Told { story: story.clone(), features, refuses, config: (1..=6).collect(), ..Told::default() };
        let sizes = device.sizes.clone();
        let platform = Arc::new(Machine(story.clone()));
        let raises = line.try_clone().unwrap();
        let transport =
            Transport::new(Box::new(device), notifier.clone(), platform, memory(), raises, WINDOW).unwrap();
        Driver { transport, notifier, line, story, sizes }
    }

    fn write(&mut self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    fn read(&mut self, register: u64) -> u32 {
        let mut word = [0xff; 4];
        self.transport.read(register, &mut word);
        u32::from_le_bytes(word)
    }

    fn negotiate(&mut self, features: u64) -> bool {
        self.write(STATUS, 3);
        for (half, word) in [features as u32, (features >> 32) as u32].into_iter().enumerate() {
            self.write(DRIVER_FEATURES_SEL, half as u32);
            self.write(DRIVER_FEATURES, word);
        }
        self.write(STATUS, 3 | FEATURES_OK);
        self.read(STATUS) & FEATURES_OK != 0
    }

    fn enable(&mut self, queue: u32, desc: u64) {
        self.write(QUEUE_SEL, queue);
        self.write(QUEUE_DESC_LOW, desc as u32);
        self.write(QUEUE_DESC_HIGH, (desc >> 32) as u32);
        self.write(QUEUE_READY, 1);
    }

    fn start(&mut self, features: u64) {
        assert!(self.negotiate(features));
        (0..3).for_each(|queue| self.enable(queue, 0x1_0000_1000 * (1 + u64::from(queue))));
        self.write(STATUS, 3 | FEATURES_OK | DRIVER_OK);
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.story.lock().unwrap())
    }
}

#[test]
fn a_block_says_what_it_is() {
    let mut driver = Driver::new(VERSION_1);
    let words = [0, 4, 8, 12].map(|register| driver.read(register));
    assert_eq!(words, [u32::from_le_bytes(*b"virt"), 2, 1, 0x1af4]);
    assert_eq!(driver.read(QUEUE_NUM_MAX), 256);
    driver.write(QUEUE_SEL, 3);
    assert_eq!(driver.read(QUEUE_NUM_MAX), 0, "no such queue");
    driver.write(QUEUE_SEL, 0x1_0000);
    assert_eq!(driver.read(QUEUE_NUM_MAX), 0, "nor this one");
    let shared_memory = [0xb0, 0xb4, 0xb8, 0xbc].map(|register| driver.read(register));
    assert_eq!(shared_memory, [u32::MAX; 4]);
}

#[test]
fn features_are_offered_by_halves_without_those_that_need_a_transports_help() {
    let mut driver = Driver::new(VERSION_1 | 1 << 5 | NOTIFICATION_DATA | ACCESS_PLATFORM);
    let halves = [0, 1, 2].map(|half| {
        driver.write(DEVICE_FEATURES_SEL, half);
        driver.read(DEVICE_FEATURES)
    });
    assert_eq!(halves, [1 << 5, 1, 0]);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    assert!(!Driver::new(VERSION_1).negotiate(VERSION_1 | RING_RESET));
    assert!(!Driver::new(VERSION_1).negotiate(0), "version 1 is not to be left out");
    assert!(Driver::new(VERSION_1 | 1 << 5).negotiate(VERSION_1));
}

#[test]
fn queues_share_a_doorbell_and_are_told_apart_by_what_is_written() {
    let mut driver = Driver::new(VERSION_1);
    driver.start(VERSION_1);
    assert_eq!(
        driver.told(),
        ["start [(0, 100001000), (1, 200002000), (2, 300003000)]", "attach 0x50 = 0", "attach 0x50 = 1"],
    );
    driver.write(QUEUE_NOTIFY, 2);
    assert_eq!(driver.told(), ["rung 2"], "the device answers this one");
    driver.write(QUEUE_NOTIFY, 0x1_0002);
    driver.write(QUEUE_NOTIFY, 3);
    assert!(driver.told().is_empty(), "there are no such queues");
    driver.write(STATUS, 0);
    assert_eq!(driver.told(), ["stop", "detach 0x50 = 0", "detach 0x50 = 1"]);
    driver.write(QUEUE_NOTIFY, 2);
    assert!(driver.told().is_empty(), "a device that was reset is told of nothing");
}

#[test]
fn a_queue_is_as_large_as_the_driver_says_if_it_can_be() {
    let mut driver = Driver::new(VERSION_1);
    for (queue, sizes) in [&[16][..], &[], &[32, 0, 257, 0x1_0010]].into_iter().enumerate() {
        driver.write(QUEUE_SEL, queue as u32);
        sizes.iter().for_each(|&size| driver.write(QUEUE_NUM, size));
    }
    driver.start(VERSION_1);
    assert_eq!(*driver.sizes.lock().unwrap(), [16, 256, 32]);
}

#[test]
fn a_queue_can_be_taken_back_before_the_device_works() {
    let mut driver = Driver::new(VERSION_1);
    assert!(driver.negotiate(VERSION_1));
    (0..2).for_each(|queue| driver.enable(queue, 0x1000));
    assert_eq!(driver.read(QUEUE_READY), 1);
    driver.write(QUEUE_READY, 0);
    assert_eq!(driver.read(QUEUE_READY), 0);
    driver.write(STATUS, 3 | FEATURES_OK | DRIVER_OK);
    assert_eq!(driver.told(), ["start [(0, 1000)]", "attach 0x50 = 0"]);
}

#[test]
fn a_queue_that_was_reset_can_be_set_up_elsewhere() {
    let mut driver = Driver::new(VERSION_1 | RING_RESET);
    driver.start(VERSION_1 | RING_RESET);
    driver.told();
    driver.write(QUEUE_SEL, 1);
    driver.write(QUEUE_RESET, 1);
    assert_eq!(driver.told(), ["stop queue 1", "detach 0x50 = 1"]);
    assert_eq!((driver.read(QUEUE_RESET), driver.read(QUEUE_READY)), (0, 0));
    driver.enable(1, 0x9000);
    assert_eq!(driver.told(), ["start queue 1 at 0x9000", "attach 0x50 = 1"]);
    assert_eq!(driver.read(QUEUE_READY), 1);
    // The others were left alone, and a queue that works can't be moved.
    driver.enable(0, 0xa000);
    assert!(driver.told().is_empty());
}

#[test]
fn without_the_feature_a_queue_of_a_running_device_is_left_alone() {
    let mut driver = Driver::new(VERSION_1 | RING_RESET);
    driver.start(VERSION_1);
    driver.told();
    driver.write(QUEUE_SEL, 1);
    driver.write(QUEUE_RESET, 1);
    driver.write(QUEUE_READY, 0);
    assert!(driver.told().is_empty());
    assert_eq!(driver.read(QUEUE_READY), 1, "and the driver can see it");
}

#[test]
fn used_buffers_are_always_possible_and_changes_are_said_until_they_are_acknowledged() {
    let mut driver = Driver::new(VERSION_1);
    assert_eq!(driver.read(INTERRUPT_STATUS), 0, "not before the driver is ready");
    driver.start(VERSION_1);
    assert_eq!(driver.read(INTERRUPT_STATUS), USED);
    driver.notifier.config_changed();
    assert!(driver.line.drain());
    assert_eq!(driver.read(INTERRUPT_STATUS), USED | CHANGED);
    driver.write(INTERRUPT_ACK, USED);
    assert_eq!(driver.read(INTERRUPT_STATUS), USED | CHANGED, "this was not acknowledged");
    driver.write(INTERRUPT_ACK, USED | CHANGED);
    assert_eq!(driver.read(INTERRUPT_STATUS), USED);
    assert_eq!(driver.read(CONFIG_GENERATION), 1);
}

#[test]
fn a_change_between_look_and_acknowledgement_is_said_again() {
    let mut driver = Driver::new(VERSION_1);
    driver.start(VERSION_1);
    driver.notifier.config_changed();
    assert_eq!(driver.read(INTERRUPT_STATUS), USED | CHANGED);
    driver.notifier.config_changed();
    driver.write(INTERRUPT_ACK, USED | CHANGED);
    assert_eq!(driver.read(INTERRUPT_STATUS), USED | CHANGED);
}

#[test]
fn a_change_before_the_driver_is_ready_interrupts_once_it_is() {
    let mut driver = Driver::new(VERSION_1);
    driver.notifier.config_changed();
    assert!(!driver.line.drain(), "not yet");
    driver.start(VERSION_1);
    assert!(driver.line.drain());
    assert_eq!(driver.read(INTERRUPT_STATUS), USED | CHANGED);
    driver.write(STATUS, 0);
    driver.start(VERSION_1);
    assert!(!driver.line.drain(), "a driver that begins after it has seen it");
    assert_eq!(driver.read(INTERRUPT_STATUS), USED);
    driver.write(STATUS, 0);
    driver.notifier.config_changed();
    assert!(!driver.line.drain(), "nobody is there to be told");
}

#[test]
fn what_the_device_can_not_work_with_is_told_to_the_driver() {
    let mut driver = Driver::with(VERSION_1, true);
    driver.start(VERSION_1);
    assert!(driver.line.drain());
    assert_ne!(driver.read(STATUS) & NEEDS_RESET, 0);
    assert_eq!(driver.read(INTERRUPT_STATUS), USED | CHANGED);
    driver.write(STATUS, 0);
    assert_eq!(driver.read(STATUS), 0, "and can be mended by a reset");
}

#[test]
fn registers_are_words_and_the_configuration_has_any_width() {
    let mut driver = Driver::new(VERSION_1);
    for width in [1, 2, 8] {
        let mut data = [0xff; 8];
        driver.transport.read(0, &mut data[..width]);
        assert_eq!(data[..width], [0; 8][..width]);
        driver.transport.write(STATUS, &[3; 8][..width]);
    }
    driver.write(STATUS - 2, 0x0003_0000);
    assert_eq!((driver.read(STATUS), driver.read(2)), (0, 0));
    for width in [1, 2, 4] {
        let mut data = [0xff; 4];
        driver.transport.read(CONFIG + 1, &mut data[..width]);
        assert_eq!(data[..width], [2, 3, 4, 5][..width]);
    }
    assert_eq!(driver.read(CONFIG + 5), 6, "and reads as 0 behind its end");
    driver.transport.write(CONFIG + 2, &[7]);
    assert_eq!(driver.told(), ["config 0x2 = [7]"]);
}

#[test]
fn each_device_of_a_bank_answers_in_its_own_block() {
    const STEP: u64 = 0x1_0000;
    let bank = Bank::new(STEP, vec![Driver::new(VERSION_1).transport, Driver::new(VERSION_1).transport]);
    let read = |offset| {
        let mut word = [0; 4];
        bank.read(offset, &mut word);
        u32::from_le_bytes(word)
    };
    bank.write(STEP + STATUS, &1u32.to_le_bytes());
    assert_eq!((read(STATUS), read(STEP + STATUS)), (0, 1));
    assert_eq!([read(2 * STEP), read(0x1000), read(0xffe)], [u32::MAX; 3], "nobody is there");
}

#[test]
fn any_access_to_any_register_is_harmless() {
    let mut driver = Driver::new(VERSION_1 | RING_RESET);
    driver.start(VERSION_1 | RING_RESET);
    let mut seed = 1u64;
    for _ in 0..200_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (offset, len) = (seed >> 20 & 0xfff, [1, 2, 4, 8][(seed >> 60 & 3) as usize]);
        // Most of them where it matters.
        let offset = if seed & 1 == 0 { offset & 0xfc } else { offset };
        driver.transport.write(offset, &(seed >> 32).to_le_bytes()[..len]);
        driver.transport.read(offset, &mut [0; 8][..len]);
    }
}
