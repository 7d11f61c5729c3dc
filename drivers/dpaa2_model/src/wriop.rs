//! The packet processor: frames from a wire into queues, frames from queues onto a wire.
//!
//! The order of the receive steps is the reference's; where the public sources leave it open (filters before the parser,
//! tail drop before the buffers are filled) this is one of the possible orders.

use crate::Model;
use crate::audit::Rule;
use crate::bman::Place;
use crate::mc::Endpoint;
use crate::ni::{BufferLayout, Direct, PoolChoice, Steer, TX_CONFIRM_DISABLED, offload, option};
use crate::parse::{self, Parsed, Validate};
use crate::qman::{Fqid, Rejection};
use crate::wire::Waiting;
use dpaa2_defs::annotation::{Fas, RxAnnotation, fas, summary};
use dpaa2_defs::classify;
use dpaa2_defs::fd::{self, Fd, Format, SgEntry, SgFormat};
use zerocopy::{FromZeros, IntoBytes};

/// Entries of a scatter-gather table that are followed.
const SG_ENTRIES_MAX: usize = 64;
/// Longest frame that is sent.
const FRAME_MAX: usize = 10_240 + 64;
/// Interfaces a frame is redirected through before it is dropped.
const HOPS_MAX: u8 = 4;

/// A frame on its way to an interface's receiver.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub ni: usize,
    pub frame: Vec<u8>,
    pub hops: u8,
}

/// Where classification sends a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Queue { tc: u8, queue: u16, flc: Option<u64>, hash: Option<u32> },
    Rx(u32),
    Tx(u32),
    Drop,
}

impl Model {
    /// Takes a frame off the wire.
    pub(crate) fn ingress(&mut self, arriving: Arriving) {
        let Arriving { ni: index, frame, hops } = arriving;
        let Some(ni) = self.nis[index].as_mut() else { return };
        if !ni.settings.enabled {
            ni.counters.rx_while_disabled += 1;
            return;
        }
        let Some(destination) = frame.first_chunk::<6>().copied().filter(|_| frame.len() >= 14) else {
            ni.counters.rx_discarded += 1;
            return;
        };
        if frame.len() > usize::from(ni.settings.max_frame) {
            ni.counters.rx_discarded += 1;
            return;
        }
        let Some(mut direct) = ni.admits(destination) else {
            ni.counters.rx_filtered += 1;
            return;
        };
        let offloads = ni.settings.offloads;
        let validate = Validate { l3: offloads[offload::RX_L3] != 0, l4: offloads[offload::RX_L4] != 0 };
        let mut parsed = parse::parse(&frame, &ni.settings.tpids, validate);
        if ni.settings.vlan_filter
            && let Some(vid) = parsed.vlan_id(&frame)
        {
            match ni.settings.vlans.iter().find(|(known, _)| *known == vid) {
                Some((_, to)) => direct = direct.or(*to),
                None => {
                    ni.counters.rx_filtered += 1;
                    return;
                }
            }
        }
        parsed.status |= self.faults.next_frame_status();
        let errors = parsed.status & fas::ERRORS;
        let mut to_error_queue = false;
        if errors != 0 {
            let action = ni.settings.error_actions.iter().rev().find(|(mask, ..)| mask & errors == errors);
            match action {
                Some(&(_, 1, mark)) => {
                    if !mark {
                        parsed.status &= !errors;
                    }
                }
                Some(&(_, 2, _)) => {
                    to_error_queue = true;
                    parsed.status |= fas::DISC;
                }
                _ => {
                    ni.counters.rx_discarded += 1;
                    return;
                }
            }
        }
        if to_error_queue {
            let fqid = ni.rx_error;
            return self.receive(index, fqid, 0, 0, &frame, &parsed, None);
        }
        match self.classify(index, &frame, &parsed, direct) {
            Verdict::Queue { tc, queue, flc, hash } => {
                let Some(fqid) = self.nis[index].as_ref().and_then(|ni| ni.rx_queue(tc, queue)) else {
                    return self.count_discard(index);
                };
                let hash_word = hash.map(|hash| u64::from(hash) << 32);
                self.receive(index, fqid, tc, queue, &frame, &parsed, flc.or(hash_word));
            }
            Verdict::Drop => self.count_discard(index),
            Verdict::Rx(id) | Verdict::Tx(id) if hops >= HOPS_MAX => {
                let _ = id;
                self.count_discard(index);
            }
            Verdict::Rx(id) => match self.ni_index(id) {
                Some(ni) => self.arriving.push_back(Arriving { ni, frame, hops: hops + 1 }),
                None => self.count_discard(index),
            },
            Verdict::Tx(id) => match self.ni_index(id) {
                Some(ni) => self.put_on_link(ni, frame, hops + 1),
                None => self.count_discard(index),
            },
        }
    }

    fn count_discard(&mut self, index: usize) {
        if let Some(ni) = self.nis[index].as_mut() {
            ni.counters.rx_discarded += 1;
        }
    }

    fn classify(&mut self, index: usize, frame: &[u8], parsed: &Parsed, direct: Direct) -> Verdict {
        let Some(ni) = self.nis[index].as_mut() else { return Verdict::Drop };
        if let Some((tc, queue)) = direct {
            return Verdict::Queue { tc, queue: queue.into(), flc: None, hash: None };
        }
        let single_fs = ni.options & option::SHARED_FS != 0;
        let settings = &mut ni.settings;
        let mut tc = settings.default_tc;
        if ni.attributes.rx_tcs > 1
            && let Some(config) = settings.qos.config
        {
            let key = parsed.key(frame, &config);
            match settings.qos.look_up(&key) {
                Some(action) => {
                    tc = action.tc;
                    if let Some(queue) = action.queue {
                        return Verdict::Queue { tc, queue: queue.into(), flc: None, hash: None };
                    }
                }
                None if settings.discard_on_qos_miss => return Verdict::Drop,
                None => {
                    if let Some(queue) = settings.default_queue {
                        return Verdict::Queue { tc, queue, flc: None, hash: None };
                    }
                }
            }
        }
        let Some(distribution) = settings.tcs.get(usize::from(tc)) else { return Verdict::Drop };
        let hash_of = |config: &classify::KeyConfig| classify::hash(&parsed.key(frame, config));
        let hash = distribution.hash.as_ref().map(hash_of);
        let size = distribution.hash_size.max(1);
        let miss = distribution.miss_queue;
        let steered = distribution.steering_enabled;
        if steered {
            let table_tc = if single_fs { 0 } else { usize::from(tc) };
            let table = &mut settings.tcs[table_tc].steering;
            if let Some(config) = table.config {
                let key = parsed.key(frame, &config);
                match table.look_up(&key) {
                    Some(Steer::Discard) => return Verdict::Drop,
                    Some(Steer::Queue { queue, flc }) => return Verdict::Queue { tc, queue, flc, hash },
                    Some(Steer::RedirectRx { token, queue }) => {
                        return match self.token_interface(token) {
                            Some(id) => Verdict::Rx(id),
                            None => Verdict::Queue { tc, queue, flc: None, hash },
                        };
                    }
                    Some(Steer::RedirectTx { token, queue }) => {
                        return match self.token_interface(token) {
                            Some(id) => Verdict::Tx(id),
                            None => Verdict::Queue { tc, queue, flc: None, hash },
                        };
                    }
                    None => {}
                }
            }
        }
        match hash {
            Some(value) => Verdict::Queue { tc, queue: (value % u32::from(size)) as u16, flc: None, hash },
            None if steered && miss == 0xffff => Verdict::Drop,
            None if steered => Verdict::Queue { tc, queue: miss, flc: None, hash },
            None => Verdict::Queue { tc, queue: 0, flc: None, hash },
        }
    }

    /// Puts a frame into buffers and them into a queue.
    #[expect(clippy::too_many_arguments, reason = "the outcome of classification, taken apart")]
    fn receive(
        &mut self,
        index: usize,
        fqid: Fqid,
        tc: u8,
        queue: u16,
        frame: &[u8],
        parsed: &Parsed,
        flc: Option<u64>,
    ) {
        let Some(ni) = self.nis[index].as_ref() else { return };
        let container = ni.container;
        let layout = ni.settings.layouts[0];
        let class = if ni.settings.pools_by_queue { queue } else { tc.into() };
        let pools: Vec<PoolChoice> = ni.settings.pools.clone();
        let Some((buffers, pool)) = self.take_buffers(container, &pools, class, &layout, frame.len()) else {
            if let Some(ni) = self.nis[index].as_mut() {
                ni.counters.rx_no_buffer += 1;
            }
            return;
        };
        let fd = self.build(index, fqid, &buffers, &pool, &layout, frame, parsed, flc);
        match fd {
            Ok(fd) => match self.qman.enqueue(fqid, fd) {
                Ok(()) => self.count_received(index, frame),
                Err(rejection) => {
                    if rejection == Rejection::NoQueue {
                        self.audit.violation(Rule::Existence, format!("receive queue {fqid:#x} is gone"));
                    }
                    self.give_back(container, pool.bpid, &buffers);
                    self.count_discard(index);
                }
            },
            Err(fault) => {
                self.audit.violation(Rule::DmaMapped, format!("receive buffer: {fault}"));
                self.give_back(container, pool.bpid, &buffers);
                self.count_discard(index);
            }
        }
    }

    fn give_back(&mut self, container: u32, bpid: u16, buffers: &[u64]) {
        for &buffer in buffers {
            self.bman.set_place(container, buffer, Place::Software);
            let _ = self.bman.release(container, bpid, buffer);
        }
    }

    fn count_received(&mut self, index: usize, frame: &[u8]) {
        let Some(ni) = self.nis[index].as_mut() else { return };
        let (counters, bytes) = (&mut ni.counters, frame.len() as u64);
        counters.rx_frames += 1;
        counters.rx_bytes += bytes;
        if frame[..6] == [0xff; 6] {
            counters.rx_broadcast_frames += 1;
            counters.rx_broadcast_bytes += bytes;
        } else if frame[0] & 1 != 0 {
            counters.rx_multicast_frames += 1;
            counters.rx_multicast_bytes += bytes;
        }
    }

    /// Buffers for a frame: of the class' pools the one with the smallest buffers that hold the frame whole, else the
    /// one with the largest; pools marked as backup last. (The sources don't say how hardware chooses.)
    fn take_buffers(
        &mut self,
        container: u32,
        pools: &[PoolChoice],
        class: u16,
        layout: &BufferLayout,
        len: usize,
    ) -> Option<(Vec<u64>, PoolChoice)> {
        let serves = |pool: &PoolChoice| {
            let mask = if pool.mask == 0 { 0xff } else { pool.mask };
            class < 8 && mask & 1 << class != 0
        };
        let room = layout.data_offset() + usize::from(layout.tail_room);
        let whole = |pool: &PoolChoice| usize::from(pool.size) >= room + len;
        let mut candidates: Vec<PoolChoice> = pools.iter().copied().filter(serves).collect();
        candidates.sort_by_key(|pool| {
            (pool.is_backup, !whole(pool), if whole(pool) { pool.size } else { u16::MAX - pool.size })
        });
        for pool in candidates {
            let count = if whole(&pool) {
                1
            } else {
                let table =
                    usize::from(pool.size).saturating_sub(layout.data_offset()) / size_of::<SgEntry>();
                let data = len.div_ceil(usize::from(pool.size).max(1));
                if layout.no_scatter_gather || data > table.min(SG_ENTRIES_MAX) {
                    continue;
                }
                1 + data
            };
            if self.faults.is_pool_empty(pool.bpid) || self.bman.free(container, pool.bpid) < count {
                continue;
            }
            let buffers =
                (0..count).filter_map(|_| self.bman.take(container, pool.bpid, Place::Queue)).collect();
            return Some((buffers, pool));
        }
        None
    }

    #[expect(clippy::too_many_arguments, reason = "everything a descriptor is made of")]
    fn build(
        &mut self,
        index: usize,
        fqid: Fqid,
        buffers: &[u64],
        pool: &PoolChoice,
        layout: &BufferLayout,
        frame: &[u8],
        parsed: &Parsed,
        flc: Option<u64>,
    ) -> Result<Fd, crate::memory::DmaFault> {
        let ni = self.nis[index].as_ref();
        let container = ni.map_or(0, |ni| ni.container);
        let with_summary = ni.is_some_and(|ni| ni.settings.offloads[offload::FLC_TYPE] != 0)
            && self.description.soc.has_memory_backed_portals();
        let queue_flc = self.qman.fq(fqid).map_or(0, |fq| fq.flc);
        let now = self.now_ns;
        let offset = layout.data_offset();
        let first = buffers[0];
        let dma = self.dma(container);
        if layout.pass != 0 {
            let mut annotation = RxAnnotation::new_zeroed();
            if layout.pass & 4 != 0 {
                annotation.fas = Fas { status: parsed.status.into(), ..Fas::new_zeroed() };
            }
            if layout.pass & 1 != 0 {
                annotation.timestamp = now.into();
            }
            if layout.pass & 2 != 0 {
                annotation.parse = parsed.result.to_words();
            }
            dma.write(first.wrapping_add(layout.private_size.into()), annotation.as_bytes())?;
        }
        let len = frame.len() as u32;
        let mut fd = if let [_] = buffers {
            dma.write(first.wrapping_add(offset as u64), frame)?;
            Fd::single(first, offset as u16, len, pool.bpid)
        } else {
            let pieces = frame.chunks(pool.size.into());
            let count = pieces.len();
            for (i, (piece, &buffer)) in pieces.zip(&buffers[1..]).enumerate() {
                dma.write(buffer, piece)?;
                let mut entry = SgEntry::new(buffer, 0, piece.len() as u32, pool.bpid);
                if i + 1 == count {
                    entry = entry.last();
                }
                let place = first.wrapping_add((offset + i * size_of::<SgEntry>()) as u64);
                dma.write(place, entry.as_bytes())?;
            }
            Fd::scatter_gather(first, offset as u16, len, pool.bpid)
        };
        let mut frc = 0;
        if layout.pass & 4 != 0 {
            frc |= fd::FRC_FASV;
        }
        if layout.pass & 2 != 0 {
            frc |= fd::FRC_FAPRV;
        }
        if with_summary {
            let value = if parsed.status & fas::ERRORS != 0 { summary::UNKNOWN } else { parsed.summary };
            frc |= u32::from(value) << 16;
        }
        fd.frc = frc.into();
        if parsed.status & fas::ERRORS != 0 {
            fd.ctrl = fd::CTRL_FAERR.into();
        }
        fd.flc = match flc {
            Some(hash) if with_summary => (hash | queue_flc & 0xffff_ffff).into(),
            Some(flc) if flc >> 32 == 0 => flc.into(),
            _ => queue_flc.into(),
        };
        if self.faults.corrupts_next_descriptor() {
            fd.addr = (fd.addr.get() ^ 0x5a5a_0000_0000).into();
        }
        Ok(fd)
    }

    /// Sends what the interface's queues hold, as far as time allows.
    pub(crate) fn egress(&mut self, index: usize) {
        loop {
            let Some(ni) = self.nis[index].as_ref() else { return };
            if self.is_stepped && ni.busy_until_ns > self.now_ns {
                return;
            }
            let Some((fqid, class, sender)) = self.next_to_send(index) else { return };
            let taken = self.qman.take_from(fqid, 1);
            let Some(fd) = taken.frames.first() else { return };
            self.transmit(index, fd, class, sender);
        }
    }

    /// The queue whose frame goes next: channels in turn, classes by priority, weighted groups by what they had.
    fn next_to_send(&mut self, index: usize) -> Option<(Fqid, usize, usize)> {
        let ni = self.nis[index].as_ref()?;
        let (channels, tcs, senders) =
            (usize::from(ni.attributes.channels), usize::from(ni.attributes.tx_tcs), ni.senders());
        for turn in 0..channels {
            let channel = (ni.next_channel + turn) % channels;
            if self.is_stepped && ni.spent_until_ns[channel] > self.now_ns {
                continue;
            }
            let schedule = &ni.settings.schedules[channel];
            let best = (0..tcs)
                .filter_map(|tc| {
                    let class = channel * tcs + tc;
                    let sender = (0..senders).find(|sender| {
                        let fq = self.qman.fq(ni.tx[class * senders + sender]);
                        fq.is_some_and(|fq| fq.frames() > 0 && !fq.is_off)
                    })?;
                    let rank = match schedule.modes[tc] {
                        1 => schedule.priority_a,
                        2 if schedule.separate_groups => schedule.priority_b,
                        2 => schedule.priority_a,
                        _ => tc as u8,
                    };
                    let is_weighted = schedule.modes[tc] != 0;
                    Some((
                        (rank, is_weighted, if is_weighted { ni.served[class] } else { 0 }, tc),
                        class,
                        sender,
                    ))
                })
                .min_by_key(|(order, ..)| *order);
            if let Some((_, class, sender)) = best {
                let fqid = ni.tx[class * senders + sender];
                let ni = self.nis[index].as_mut()?;
                ni.next_channel = (channel + 1) % channels;
                return Some((fqid, class, sender));
            }
        }
        None
    }

    fn transmit(&mut self, index: usize, fd: &Fd, class: usize, sender: usize) {
        let Some(ni) = self.nis[index].as_ref() else { return };
        let (container, tcs) = (ni.container, usize::from(ni.attributes.tx_tcs));
        let (channel, tc) = (class / tcs, class % tcs);
        let offloads = ni.settings.offloads;
        let gathered = self.gather(container, fd);
        let mut error = 0;
        match gathered {
            Ok(mut frame) => {
                if offloads[offload::TX_L3] != 0 || offloads[offload::TX_L4] != 0 {
                    parse::fill_checksums(
                        &mut frame,
                        offloads[offload::TX_L3] != 0,
                        offloads[offload::TX_L4] != 0,
                    );
                }
                self.spend(index, class, frame.len() as u64);
                self.put_on_link(index, frame, 0);
            }
            Err((ctrl, rule, what)) => {
                self.audit.violation(rule, format!("dpni.{}: frame to send: {what}", self.ni_id(index)));
                error = ctrl;
                if let Some(ni) = self.nis[index].as_mut() {
                    ni.counters.tx_discarded += 1;
                }
            }
        }
        let Some(ni) = self.nis[index].as_mut() else { return };
        let confirm = ni.options & option::TX_FRAME_RELEASE == 0
            && ni.settings.tx_confirm.get(channel).is_some_and(|mode| *mode != TX_CONFIRM_DISABLED);
        if !confirm {
            return self.discard(container, fd);
        }
        ni.counters.tx_confirmed += 1;
        let Some(fqid) = ni.tx_confirm_queue(channel as u8, tc as u8, sender as u16) else { return };
        let mut confirmed = *fd;
        confirmed.ctrl = (fd.ctrl.get() & !fd::CTRL_ERR_MASK | error).into();
        if self.qman.enqueue(fqid, confirmed).is_err() {
            self.discard(container, fd);
        }
    }

    /// Time on the wire and share of the class.
    fn spend(&mut self, index: usize, class: usize, bytes: u64) {
        let rate = self.rate_of(index);
        let now = self.now_ns;
        let Some(ni) = self.nis[index].as_mut() else { return };
        let tcs = usize::from(ni.attributes.tx_tcs);
        let (channel, tc) = (class / tcs, class % tcs);
        let (own, whole) = (ni.settings.shapers[channel], ni.settings.shapers[ni.settings.shapers.len() - 1]);
        let rate = if whole > 0 { rate.min(whole) } else { rate };
        // Preamble, FCS and gap take 24 bytes of wire.
        let duration = |rate: u32| (bytes + 24) * 8 * 1000 / u64::from(rate.max(1));
        ni.busy_until_ns = ni.busy_until_ns.max(now) + duration(rate);
        if own > 0 {
            ni.spent_until_ns[channel] = ni.spent_until_ns[channel].max(now) + duration(own);
        }
        let weight = u64::from(ni.settings.schedules[channel].weights[tc].max(1));
        ni.served[class] += bytes * 10_000 / weight;
        ni.classes[class].frames += 1;
        ni.classes[class].bytes += bytes;
        if !self.is_stepped {
            self.now_ns = self.now_ns.max(ni.busy_until_ns);
        }
    }

    /// Collects a frame's bytes from memory.
    fn gather(&mut self, container: u32, fd: &Fd) -> Result<Vec<u8>, (u32, Rule, String)> {
        let len = fd.len() as usize;
        if len == 0 || len > FRAME_MAX {
            return Err((fd::CTRL_FSE, Rule::FrameFormat, format!("length {len}")));
        }
        let start = fd.addr.get().wrapping_add(fd.offset().into());
        let dma = self.dma(container);
        let bus = |fault: crate::memory::DmaFault| (fd::CTRL_SBE, Rule::DmaMapped, fault.to_string());
        let mut frame = vec![0; len];
        match fd.format() {
            Format::Single => dma.read(start, &mut frame).map_err(bus)?,
            Format::ScatterGather => {
                let entries = self.sg_entries(container, fd).map_err(bus)?;
                let dma = self.dma(container);
                let mut done = 0;
                for entry in &entries {
                    let piece = (entry.len() as usize).min(len - done);
                    let from = entry.addr.get().wrapping_add(entry.offset().into());
                    dma.read(from, &mut frame[done..done + piece]).map_err(bus)?;
                    done += piece;
                }
                if done < len || entries.last().is_none_or(|entry| !entry.is_final()) {
                    let what = format!("scatter-gather table with {done} of {len} bytes");
                    return Err((fd::CTRL_FSE, Rule::FrameFormat, what));
                }
            }
            format => return Err((fd::CTRL_UFD, Rule::FrameFormat, format!("format {format:?}"))),
        }
        Ok(frame)
    }

    /// A scatter-gather frame's entries, up to the final one.
    fn sg_entries(&self, container: u32, fd: &Fd) -> Result<Vec<SgEntry>, crate::memory::DmaFault> {
        let mut entries = Vec::new();
        let table = fd.addr.get().wrapping_add(fd.offset().into());
        for i in 0..SG_ENTRIES_MAX {
            let mut entry = SgEntry::new_zeroed();
            let place = table.wrapping_add((i * size_of::<SgEntry>()) as u64);
            self.dma(container).read(place, entry.as_mut_bytes())?;
            entries.push(entry);
            if entry.is_final() {
                break;
            }
        }
        Ok(entries)
    }

    /// Releases what a frame occupies to the pools it names, except where it says not to.
    pub(crate) fn discard(&mut self, container: u32, fd: &Fd) {
        if fd.format() == Format::ScatterGather
            && let Ok(entries) = self.sg_entries(container, fd)
        {
            for entry in entries.iter().filter(|entry| !entry.is_ivp() && entry.format() == SgFormat::Single)
            {
                self.release_sent(container, entry.bpid(), entry.addr.get());
            }
        }
        self.bman.set_place(container, fd.addr.get(), Place::Software);
        if !fd.is_ivp() {
            self.release_sent(container, fd.bpid(), fd.addr.get());
        }
    }

    fn release_sent(&mut self, container: u32, bpid: u16, address: u64) {
        if self.bman.place(container, address) == Place::Queue {
            self.bman.set_place(container, address, Place::Software);
        }
        match self.bman.release(container, bpid, address) {
            Ok(()) => {}
            Err(Some(place)) => {
                self.audit.violation(Rule::OneOwner, format!("sent buffer {address:#x} is in {place:?}"));
            }
            Err(None) => self
                .audit
                .violation(Rule::Existence, format!("sent buffer of pool {bpid}, which doesn't exist")),
        }
    }

    /// Notes that a frame's buffers went to a queue or to software.
    pub(crate) fn own_frame(&mut self, container: u32, fd: &Fd, place: Place) {
        if fd.format() == Format::ScatterGather
            && let Ok(entries) = self.sg_entries(container, fd)
        {
            for entry in entries.iter().filter(|entry| !entry.is_ivp()) {
                self.move_buffer(container, entry.addr.get(), place);
            }
        }
        if !fd.is_ivp() {
            self.move_buffer(container, fd.addr.get(), place);
        }
    }

    /// A buffer in a pool stays there, whoever claims it: that is reported where it is claimed.
    fn move_buffer(&mut self, container: u32, address: u64, place: Place) {
        if !matches!(self.bman.place(container, address), Place::Pool(_)) {
            self.bman.set_place(container, address, place);
        }
    }

    /// Gives a frame to whatever an interface is connected with.
    pub(crate) fn put_on_link(&mut self, index: usize, frame: Vec<u8>, hops: u8) {
        let peer = self.peer_of(index);
        let is_up = self.link_is_up(index);
        let now = self.now_ns;
        let Some(ni) = self.nis[index].as_mut() else { return };
        if !is_up {
            ni.counters.tx_discarded += 1;
            return;
        }
        let (counters, bytes) = (&mut ni.counters, frame.len() as u64);
        counters.tx_frames += 1;
        counters.tx_bytes += bytes;
        if frame.starts_with(&[0xff; 6]) {
            counters.tx_broadcast_frames += 1;
            counters.tx_broadcast_bytes += bytes;
        } else if frame.first().is_some_and(|byte| byte & 1 != 0) {
            counters.tx_multicast_frames += 1;
            counters.tx_multicast_bytes += bytes;
        }
        if ni.settings.port_loopback {
            self.arriving.push_back(Arriving { ni: index, frame, hops });
            return;
        }
        match peer {
            Some(Endpoint::Ni(peer)) => self.arriving.push_back(Arriving { ni: peer, frame, hops }),
            Some(Endpoint::Mac(mac)) => {
                self.macs[mac].send(frame, now);
                if self.macs[mac].end.is_looped() {
                    self.take_from_mac(mac);
                }
            }
            None => {}
        }
    }

    /// Looks at all wires for frames that come in.
    pub(crate) fn poll_wires(&mut self) {
        for mac in 0..self.macs.len() {
            if self.macs[mac].is_up && self.macs[mac].end.is_active() {
                self.take_from_mac(mac);
            }
        }
        while let Some(arriving) = self.arriving.pop_front() {
            self.ingress(arriving);
        }
    }

    fn take_from_mac(&mut self, mac: usize) {
        let peer = self
            .nis
            .iter()
            .flatten()
            .map(|ni| usize::from(ni.qdid))
            .find(|&index| matches!(self.peer_of(index), Some(Endpoint::Mac(other)) if other == mac));
        let Some(peer) = peer else { return };
        let Some(ni) = self.nis[peer].as_ref().filter(|ni| ni.settings.enabled) else { return };
        let address = ni.settings.mac;
        let queues = ni.rx.iter().filter_map(|&fqid| self.qman.fq(fqid));
        let queues = queues.map(|fq| Waiting { frames: fq.frames(), asked: self.qman.asked(fq) });
        for frame in self.macs[mac].receive(address, queues) {
            self.arriving.push_back(Arriving { ni: peer, frame, hops: 0 });
        }
    }

    /// Counts a frame that a transmit queue refused.
    pub(crate) fn count_egress_rejection(&mut self, fqid: Fqid, fd: &Fd) {
        let Some(crate::qman::Consumer::Egress { ni, channel, tc }) =
            self.qman.fq(fqid).map(|fq| fq.consumer)
        else {
            return;
        };
        let Some(ni) = self.nis[ni].as_mut() else { return };
        let class = usize::from(channel) * usize::from(ni.attributes.tx_tcs) + usize::from(tc);
        ni.counters.tx_discarded += 1;
        ni.classes[class].rejected_frames += 1;
        ni.classes[class].rejected_bytes += u64::from(fd.len());
    }
}
