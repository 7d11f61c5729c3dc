//! A command portal that is mapped memory.

use std::thread;
use std::time::{Duration, Instant};

use dpaa2_defs::mc::header::{COMMAND_LEN, Header, Status};
use zerocopy::{FromBytes, IntoBytes};

use crate::{BusError, CommandPortal, PortalError, Window, barrier};

/// Speaks the portal protocol through the first 64 bytes of a window: parameters first, then the header, whose store
/// starts the command; then the header is read until its status isn't READY.
///
/// Source: Linux, drivers/bus/fsl-mc/mc-sys.c.
#[derive(Debug)]
pub struct WindowPortal<W: Window> {
    window: W,
    /// A command that timed out hasn't been answered, as far as is known.
    unanswered: bool,
}

/// Commands that only ask end within this time: they are waited for without sleeping.
const SPIN: Duration = Duration::from_micros(20);
/// Longer ones are asked about this often at first,
const FIRST_NAP: Duration = Duration::from_micros(10);
/// and this often at last.
const LAST_NAP: Duration = Duration::from_micros(500);

impl<W: Window> WindowPortal<W> {
    /// Takes a mapped portal, on which no command may be under way.
    ///
    /// # Errors
    /// The window is shorter than a command.
    pub fn new(window: W) -> Result<Self, BusError> {
        if window.window_len() < COMMAND_LEN {
            let cause = std::io::Error::other(format!("it has {} bytes", window.window_len()));
            return Err(BusError::system("mapping a command portal of 64 bytes", cause));
        }
        Ok(Self { window, unanswered: false })
    }

    fn is_answered(&self) -> bool {
        status_of(self.window.read64(0)) != Status::READY
    }
}

impl<W: Window> CommandPortal for WindowPortal<W> {
    fn execute(&mut self, command: &[u64; 8], timeout: Duration) -> Result<[u64; 8], PortalError> {
        if self.unanswered && !self.is_answered() {
            return Err(PortalError::Stuck);
        }
        self.window.write_words(8, &command[1..]);
        barrier::before_handover();
        self.window.write64(0, command[0]);

        let start = Instant::now();
        let mut nap = FIRST_NAP;
        while !self.is_answered() {
            let waited = start.elapsed();
            if waited >= timeout {
                self.unanswered = true;
                return Err(PortalError::Timeout(timeout));
            }
            if waited < SPIN {
                std::hint::spin_loop();
            } else {
                thread::sleep(nap.min(timeout - waited));
                nap = (nap * 2).min(LAST_NAP);
            }
        }
        self.unanswered = false;
        barrier::after_takeover();
        Ok(self.window.read_words(0))
    }
}

/// The status in the first word of a command.
pub(crate) fn status_of(word: u64) -> Status {
    let Ok(header) = Header::read_from_bytes(word.to_le().as_bytes()) else {
        unreachable!("both are 8 bytes")
    };
    header.status
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// 64 bytes that note stores, and complete a command after some loads of the header, or never.
    struct Fake(Rc<RefCell<State>>);

    // SAFETY: these tests use one thread.
    unsafe impl Send for Fake {}

    #[derive(Default)]
    struct State {
        words: [u64; 8],
        stores: Vec<usize>,
        answer_after: Option<u32>,
    }

    impl Window for Fake {
        fn window_len(&self) -> usize {
            64
        }
        fn read32(&self, _: usize) -> u32 {
            unreachable!("the portal is read in words of 64 bits")
        }
        fn write32(&self, _: usize, _: u32) {
            unreachable!("the portal is written in words of 64 bits")
        }
        fn read64(&self, offset: usize) -> u64 {
            let mut state = self.0.borrow_mut();
            if offset == 0 {
                match &mut state.answer_after {
                    Some(0) => {
                        state.words = [0x1234_0007_0000_0000, 1, 2, 3, 4, 5, 6, 7];
                    }
                    Some(reads) => *reads -= 1,
                    None => (),
                }
            }
            state.words[offset / 8]
        }
        fn write64(&self, offset: usize, value: u64) {
            let mut state = self.0.borrow_mut();
            state.words[offset / 8] = value;
            state.stores.push(offset);
        }
    }

    const COMMAND: [u64; 8] = [0x1234_0007_0001_0000, 10, 11, 12, 13, 14, 15, 16];
    const TIMEOUT: Duration = Duration::from_millis(2);

    fn portal(answer_after: Option<u32>) -> (WindowPortal<Fake>, Rc<RefCell<State>>) {
        let state = Rc::new(RefCell::new(State { answer_after, ..State::default() }));
        (WindowPortal::new(Fake(state.clone())).expect("64 bytes suffice"), state)
    }

    #[test]
    fn the_header_is_stored_last_and_the_answer_read_when_it_is_there() {
        let (mut portal, state) = portal(Some(3));
        let answer = portal.execute(&COMMAND, Duration::from_secs(5)).expect("it is answered");
        assert_eq!(answer, [0x1234_0007_0000_0000, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(state.borrow().stores, [8, 16, 24, 32, 40, 48, 56, 0]);
    }

    #[test]
    fn a_silent_mc_is_an_error_in_time_and_the_portal_waits_for_the_late_answer() {
        let (mut portal, state) = portal(None);
        let start = Instant::now();
        assert!(matches!(portal.execute(&COMMAND, TIMEOUT), Err(PortalError::Timeout(t)) if t == TIMEOUT));
        assert!(start.elapsed() >= TIMEOUT);

        state.borrow_mut().stores.clear();
        assert!(matches!(portal.execute(&COMMAND, TIMEOUT), Err(PortalError::Stuck)));
        assert_eq!(state.borrow().stores, [0; 0], "a command under way isn't written over");

        state.borrow_mut().answer_after = Some(0);
        assert!(portal.execute(&COMMAND, Duration::from_secs(5)).is_ok());
    }
}
