//! Faults that tests inject.

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The `nth` command from now on (1 is the next one) is never answered.
    CommandTimeout {
        /// Which one.
        nth: u64,
    },
    /// The `nth` command from now on isn't carried out and ends with this status.
    CommandError {
        /// Which one.
        nth: u64,
        /// Status byte of the answer.
        status: u8,
    },
    /// Stores to a software portal have no effect, until [`Fault::PortalMoves`].
    PortalStuck {
        /// The portal's object.
        dpio: u32,
    },
    /// Ends [`Fault::PortalStuck`]; what was stored meanwhile is lost.
    PortalMoves {
        /// The portal's object.
        dpio: u32,
    },
    /// A pool gives no buffers, until [`Fault::PoolFilled`].
    PoolEmpty {
        /// The number frame descriptors carry.
        bpid: u16,
    },
    /// Ends [`Fault::PoolEmpty`].
    PoolFilled {
        /// The number frame descriptors carry.
        bpid: u16,
    },
    /// The `nth` frame that comes to an interface from now on has these errors (bits of the frame annotation status).
    FrameError {
        /// Which one.
        nth: u64,
        /// The bits.
        status: u32,
    },
    /// The `nth` received frame's descriptor carries a wrong address.
    CorruptDescriptor {
        /// Which one.
        nth: u64,
    },
}

/// What is to go wrong yet.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    commands: Vec<(u64, Option<u8>)>,
    descriptors: Vec<u64>,
    frames: Vec<(u64, u32)>,
    empty_pools: Vec<u16>,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        match fault {
            Fault::CommandTimeout { nth } => self.commands.push((nth, None)),
            Fault::CommandError { nth, status } => self.commands.push((nth, Some(status))),
            Fault::CorruptDescriptor { nth } => self.descriptors.push(nth),
            Fault::FrameError { nth, status } => self.frames.push((nth, status)),
            Fault::PoolEmpty { bpid } => self.empty_pools.push(bpid),
            Fault::PoolFilled { bpid } => self.empty_pools.retain(|other| *other != bpid),
            Fault::PortalStuck { .. } | Fault::PortalMoves { .. } => {}
        }
    }

    pub(crate) fn is_pool_empty(&self, bpid: u16) -> bool {
        self.empty_pools.contains(&bpid)
    }

    /// What happens to the next command: nothing, no answer, or a status.
    pub(crate) fn next_command(&mut self) -> Option<Option<u8>> {
        for (left, _) in &mut self.commands {
            *left = left.saturating_sub(1);
        }
        let at = self.commands.iter().position(|(left, _)| *left == 0)?;
        Some(self.commands.remove(at).1)
    }

    /// What is wrong with the next frame.
    pub(crate) fn next_frame_status(&mut self) -> u32 {
        let mut status = 0;
        self.frames.retain_mut(|(left, bits)| {
            *left = left.saturating_sub(1);
            status |= if *left == 0 { *bits } else { 0 };
            *left > 0
        });
        status
    }

    pub(crate) fn corrupts_next_descriptor(&mut self) -> bool {
        for left in &mut self.descriptors {
            *left = left.saturating_sub(1);
        }
        let at = self.descriptors.iter().position(|left| *left == 0);
        at.map(|at| self.descriptors.remove(at)).is_some()
    }
}
