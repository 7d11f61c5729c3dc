//! The queue manager: frame queues, the channels they feed, and congestion groups.
//!
//! Nothing here touches memory: what has to be told to software (notifications, congestion messages) is collected for
//! the model to deliver.

use dpaa2_defs::fd::Fd;
use std::collections::VecDeque;

/// Number of a frame queue, 24 bits; 0 is none.
pub(crate) type Fqid = u32;
/// Index of a portal in the model.
pub(crate) type PortalIndex = usize;
/// Number of a channel.
pub(crate) type ChannelId = u16;
/// Number of a congestion group.
pub(crate) type GroupId = u16;

/// The first frame queue's number.
const FQID_BASE: Fqid = 0x100;
/// The first channel's number.
const CHANNEL_BASE: ChannelId = 0x20;
/// Work queues of a channel.
pub(crate) const WORK_QUEUES: usize = 8;

/// What happens with frames that come to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consumer {
    /// Software takes them.
    Software,
    /// The interface with this index sends them.
    Egress {
        /// Index of the interface.
        ni: usize,
        /// Transmit channel.
        channel: u8,
        /// Traffic class.
        tc: u8,
    },
}

/// Who is told that a queue has frames, or takes them unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Nobody: it waits for a volatile dequeue.
    Parked,
    /// A portal gets one notification each time the queue is scheduled.
    Notify(PortalIndex),
    /// It is scheduled on a channel's work queue.
    Channel(ChannelId, u8),
}

/// A limit in bytes or frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub in_frames: bool,
    pub threshold: u64,
    /// Added to each frame's length when bytes count; negative values of the 12-bit field included.
    pub overhead: i16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheduling {
    /// Not in any work queue.
    Idle,
    /// In its work queue.
    Queued,
    /// Held by a portal that has `usize` of its frames unconsumed.
    Held(PortalIndex, usize),
}

/// A frame queue.
#[derive(Debug)]
pub(crate) struct Fq {
    pub fqid: Fqid,
    /// Container whose addresses its frames have.
    pub container: u32,
    pub consumer: Consumer,
    pub destination: Destination,
    pub context: u64,
    pub flc: u64,
    pub flc_is_stash: bool,
    pub hold_active: bool,
    pub taildrop: Option<Limit>,
    pub group: Option<GroupId>,
    pub is_off: bool,
    asked: u64,
    frames: VecDeque<Fd>,
    bytes: u64,
    scheduling: Scheduling,
    /// Whether the next frame gives a notification.
    armed: bool,
}

impl Fq {
    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
    pub(crate) fn is_scheduled(&self) -> bool {
        self.scheduling != Scheduling::Idle || (self.destination != Destination::Parked && self.armed)
    }
}

/// Where a channel's "data available" goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cdan {
    pub portal: PortalIndex,
    pub context: u64,
    pub enabled: bool,
}

/// A channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub container: u32,
    pub cdan: Option<Cdan>,
    /// Portals that dequeue from it unasked.
    pub subscribers: Vec<PortalIndex>,
    asked: u64,
    work: [VecDeque<Fqid>; WORK_QUEUES],
}

impl Channel {
    pub(crate) fn has_frames(&self) -> bool {
        self.work.iter().any(|queue| !queue.is_empty())
    }
    pub(crate) fn work_lengths(&self) -> [u32; WORK_QUEUES] {
        std::array::from_fn(|i| self.work[i].len() as u32)
    }
}

/// How a group's congestion is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CongestionNotice {
    pub in_frames: bool,
    pub enter: u64,
    pub exit: u64,
    /// Bits of the MC's congestion mode.
    pub mode: u16,
    pub address: u64,
    pub context: u64,
    pub destination_type: u8,
    pub destination_id: u32,
    pub destination_priority: u8,
}

/// Bits of [`CongestionNotice::mode`].
pub(crate) mod congestion_mode {
    pub(crate) const WRITE_ON_ENTER: u16 = 0x01;
    pub(crate) const WRITE_ON_EXIT: u16 = 0x02;
    pub(crate) const NOTIFY_ON_ENTER: u16 = 0x08;
    pub(crate) const NOTIFY_ON_EXIT: u16 = 0x10;
}

/// A congestion group: queues whose frames are counted together.
#[derive(Debug)]
pub(crate) struct Group {
    pub container: u32,
    pub taildrop: Option<Limit>,
    pub notice: Option<CongestionNotice>,
    pub congested: bool,
    pub frames: u64,
    pub bytes: u64,
    pub rejected_frames: u64,
    pub rejected_bytes: u64,
}

/// Something software has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A queue that notifies this portal has frames.
    QueueData(PortalIndex, Fqid, u64),
    /// A channel that notifies this portal has frames.
    ChannelData(PortalIndex, ChannelId, u64),
    /// A channel this portal dequeues from has frames.
    Fill(PortalIndex),
    /// A group entered or left congestion.
    Congestion(GroupId, bool),
    /// An interface has frames to send.
    Egress(usize),
}

/// Why a queue didn't take a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// No such queue in the container.
    NoQueue,
    /// The queue's tail drop.
    QueueTaildrop,
    /// The tail drop of its congestion group.
    GroupTaildrop,
}

/// Frames taken from one queue.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub fqid: Fqid,
    pub context: u64,
    pub frames: Vec<Fd>,
    /// Left in the queue.
    pub frames_left: u32,
    /// Left in the queue.
    pub bytes_left: u32,
    pub held: bool,
}

/// All queues, channels and groups.
#[derive(Debug, Default)]
pub(crate) struct Qman {
    fqs: Vec<Option<Fq>>,
    channels: Vec<Channel>,
    groups: Vec<Group>,
    events: Vec<Event>,
}

impl Qman {
    /// Makes a queue.
    pub(crate) fn add_fq(&mut self, container: u32, consumer: Consumer) -> Fqid {
        let fqid = FQID_BASE + self.fqs.len() as u32;
        self.fqs.push(Some(Fq {
            fqid,
            container,
            consumer,
            destination: Destination::Parked,
            context: 0,
            flc: 0,
            flc_is_stash: false,
            hold_active: false,
            taildrop: None,
            group: None,
            is_off: false,
            asked: 0,
            frames: VecDeque::new(),
            bytes: 0,
            scheduling: Scheduling::Idle,
            armed: false,
        }));
        fqid
    }

    /// Ends a queue; its frames are given back.
    pub(crate) fn remove_fq(&mut self, fqid: Fqid) -> Vec<Fd> {
        let frames = self.drain(fqid);
        self.unschedule(fqid);
        if let Some(slot) = self.slot(fqid) {
            *slot = None;
        }
        frames
    }

    fn slot(&mut self, fqid: Fqid) -> Option<&mut Option<Fq>> {
        self.fqs.get_mut(fqid.checked_sub(FQID_BASE)? as usize)
    }

    pub(crate) fn fq(&self, fqid: Fqid) -> Option<&Fq> {
        self.fqs.get(fqid.checked_sub(FQID_BASE)? as usize)?.as_ref()
    }

    pub(crate) fn fq_mut(&mut self, fqid: Fqid) -> Option<&mut Fq> {
        self.slot(fqid)?.as_mut()
    }

    pub(crate) fn fqs(&self) -> impl Iterator<Item = &Fq> {
        self.fqs.iter().flatten()
    }

    /// How often frames of a queue, or of its channel, have been asked for; there need not have been any.
    pub(crate) fn asked(&self, fq: &Fq) -> u64 {
        let channel = match fq.destination {
            Destination::Channel(id, _) => self.channel(id),
            _ => None,
        };
        fq.asked + channel.map_or(0, |channel| channel.asked)
    }

    /// Makes a channel.
    pub(crate) fn add_channel(&mut self, container: u32) -> ChannelId {
        let id = CHANNEL_BASE + self.channels.len() as ChannelId;
        let work = Default::default();
        self.channels.push(Channel { container, cdan: None, subscribers: Vec::new(), asked: 0, work });
        id
    }

    pub(crate) fn channel(&self, id: ChannelId) -> Option<&Channel> {
        self.channels.get(usize::from(id.checked_sub(CHANNEL_BASE)?))
    }

    pub(crate) fn channel_mut(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.channels.get_mut(usize::from(id.checked_sub(CHANNEL_BASE)?))
    }

    /// Makes a congestion group.
    pub(crate) fn add_group(&mut self, container: u32) -> GroupId {
        let id = self.groups.len() as GroupId;
        self.groups.push(Group {
            container,
            taildrop: None,
            notice: None,
            congested: false,
            frames: 0,
            bytes: 0,
            rejected_frames: 0,
            rejected_bytes: 0,
        });
        id
    }

    pub(crate) fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(usize::from(id))
    }

    pub(crate) fn group_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.groups.get_mut(usize::from(id))
    }

    /// Takes what has to be told since the last time.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub(crate) fn queued_frames(&self) -> u64 {
        self.fqs().map(|fq| fq.frames.len() as u64).sum()
    }

    /// Puts a frame at a queue's end.
    pub(crate) fn enqueue(&mut self, fqid: Fqid, fd: Fd) -> Result<(), Rejection> {
        let bytes = u64::from(fd.len());
        let fq = self.fq(fqid).ok_or(Rejection::NoQueue)?;
        if let Some(limit) = fq.taildrop
            && exceeds(limit, fq.frames.len() as u64, fq.bytes, bytes)
        {
            return Err(Rejection::QueueTaildrop);
        }
        let group = fq.group;
        if let Some(group) = group.and_then(|id| self.groups.get_mut(usize::from(id))) {
            if let Some(limit) = group.taildrop
                && exceeds(limit, group.frames, group.bytes, bytes)
            {
                group.rejected_frames += 1;
                group.rejected_bytes += bytes;
                return Err(Rejection::GroupTaildrop);
            }
            group.frames += 1;
            group.bytes += bytes;
        }
        let fq = self.fq_mut(fqid).expect("looked up above");
        fq.frames.push_back(fd);
        fq.bytes += bytes;
        if let Consumer::Egress { ni, .. } = fq.consumer {
            self.events.push(Event::Egress(ni));
        }
        if let Some(group) = group {
            self.check_congestion(group);
        }
        self.announce(fqid);
        Ok(())
    }

    /// Tells whoever wants to know that a queue has frames.
    fn announce(&mut self, fqid: Fqid) {
        let Some(fq) = self.fq_mut(fqid) else { return };
        if fq.frames.is_empty() || fq.is_off {
            return;
        }
        match fq.destination {
            Destination::Parked => {}
            Destination::Notify(portal) => {
                if std::mem::take(&mut fq.armed) {
                    let event = Event::QueueData(portal, fqid, fq.context);
                    self.events.push(event);
                }
            }
            Destination::Channel(channel, work) => {
                match fq.scheduling {
                    Scheduling::Idle => {
                        fq.scheduling = Scheduling::Queued;
                        if let Some(channel) = self.channel_mut(channel) {
                            channel.work[usize::from(work) % WORK_QUEUES].push_back(fqid);
                        }
                        self.announce_channel(channel);
                    }
                    Scheduling::Held(portal, _) => self.events.push(Event::Fill(portal)),
                    Scheduling::Queued => {}
                };
            }
        }
    }

    /// Tells a channel's subscribers and, once, its notification's receiver that it has frames.
    pub(crate) fn announce_channel(&mut self, id: ChannelId) {
        let mut events = Vec::new();
        if let Some(channel) = self.channel_mut(id).filter(|channel| channel.has_frames()) {
            events.extend(channel.subscribers.iter().map(|&portal| Event::Fill(portal)));
            if let Some(cdan) = channel.cdan.as_mut().filter(|cdan| cdan.enabled) {
                cdan.enabled = false;
                events.push(Event::ChannelData(cdan.portal, id, cdan.context));
            }
        }
        self.events.append(&mut events);
    }

    /// Sets where a queue's frames are announced, and schedules it if it has any.
    pub(crate) fn set_destination(&mut self, fqid: Fqid, destination: Destination) {
        self.unschedule(fqid);
        if let Some(fq) = self.fq_mut(fqid) {
            fq.destination = destination;
            fq.armed = destination != Destination::Parked;
        }
        self.announce(fqid);
    }

    /// Schedules a queue: arms its notification.
    pub(crate) fn schedule(&mut self, fqid: Fqid) {
        if let Some(fq) = self.fq_mut(fqid) {
            fq.armed = fq.destination != Destination::Parked;
        }
        self.announce(fqid);
    }

    /// Lets a queue be dequeued from, or not.
    pub(crate) fn set_off(&mut self, fqid: Fqid, is_off: bool) {
        if let Some(fq) = self.fq_mut(fqid) {
            fq.is_off = is_off;
        }
        self.announce(fqid);
    }

    /// Gives a queue another congestion group, with the frames it has.
    pub(crate) fn set_group(&mut self, fqid: Fqid, group: Option<GroupId>) {
        let Some(fq) = self.fq_mut(fqid) else { return };
        let old = std::mem::replace(&mut fq.group, group);
        let (frames, bytes) = (fq.frames.len() as u64, fq.bytes);
        if let Some(old) = old.and_then(|id| self.group_mut(id)) {
            old.frames -= frames;
            old.bytes -= bytes;
        }
        if let Some(new) = group.and_then(|id| self.group_mut(id)) {
            new.frames += frames;
            new.bytes += bytes;
        }
        for id in [old, group].into_iter().flatten() {
            self.check_congestion(id);
        }
    }

    fn unschedule(&mut self, fqid: Fqid) {
        for channel in &mut self.channels {
            for work in &mut channel.work {
                work.retain(|&other| other != fqid);
            }
        }
        if let Some(fq) = self.fq_mut(fqid) {
            fq.scheduling = Scheduling::Idle;
            fq.armed = false;
        }
    }

    /// Takes all frames of a queue.
    pub(crate) fn drain(&mut self, fqid: Fqid) -> Vec<Fd> {
        self.take_from(fqid, usize::MAX).frames
    }

    /// Takes up to `most` frames of one queue.
    pub(crate) fn take_from(&mut self, fqid: Fqid, most: usize) -> Taken {
        let Some(fq) = self.fq_mut(fqid).filter(|fq| !fq.is_off) else {
            return Taken { fqid, ..Taken::default() };
        };
        fq.asked += 1;
        let count = most.min(fq.frames.len());
        let frames: Vec<Fd> = fq.frames.drain(..count).collect();
        let bytes: u64 = frames.iter().map(|fd| u64::from(fd.len())).sum();
        fq.bytes -= bytes;
        let taken = Taken {
            fqid,
            context: fq.context,
            frames_left: fq.frames.len() as u32,
            bytes_left: fq.bytes as u32,
            held: matches!(fq.scheduling, Scheduling::Held(..)),
            frames,
        };
        if let Some(id) = fq.group {
            let group = self.group_mut(id).expect("queues name groups that exist");
            group.frames -= count as u64;
            group.bytes -= bytes;
            self.check_congestion(id);
        }
        taken
    }

    /// Takes up to `most` frames of the channel's next queue: by work queue, then in turn. A queue that is held active
    /// stays with `holder`, if there is one.
    pub(crate) fn take_from_channel(
        &mut self,
        id: ChannelId,
        most: usize,
        holder: Option<PortalIndex>,
    ) -> Taken {
        let Some(fqid) = self.next_of(id, None) else { return Taken::default() };
        self.take_scheduled(fqid, most, holder)
    }

    /// As [`Qman::take_from_channel`], from one work queue.
    pub(crate) fn take_from_work_queue(&mut self, id: ChannelId, work: usize, most: usize) -> Taken {
        let Some(fqid) = self.next_of(id, Some(work)) else { return Taken::default() };
        self.take_scheduled(fqid, most, None)
    }

    /// Takes more frames of a queue this portal holds.
    pub(crate) fn take_held(
        &mut self,
        portal: PortalIndex,
        channel: ChannelId,
        most: usize,
    ) -> Option<Taken> {
        let fqid = self
            .fqs()
            .find(|fq| {
                matches!(fq.scheduling, Scheduling::Held(holder, _) if holder == portal)
                    && matches!(fq.destination, Destination::Channel(id, _) if id == channel)
                    && !fq.frames.is_empty()
            })
            .map(|fq| fq.fqid)?;
        Some(self.take_scheduled(fqid, most, Some(portal)))
    }

    fn next_of(&mut self, id: ChannelId, work: Option<usize>) -> Option<Fqid> {
        let channel = self.channel_mut(id)?;
        channel.asked += 1;
        channel
            .work
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| work.is_none_or(|work| work == *i))
            .find_map(|(_, queue)| queue.pop_front())
    }

    fn take_scheduled(&mut self, fqid: Fqid, most: usize, holder: Option<PortalIndex>) -> Taken {
        let mut taken = self.take_from(fqid, most);
        let count = taken.frames.len();
        let Some(fq) = self.fq_mut(fqid) else { return taken };
        match (holder, fq.scheduling) {
            (Some(portal), Scheduling::Held(_, before)) => {
                fq.scheduling = Scheduling::Held(portal, before + count)
            }
            (Some(portal), _) if fq.hold_active => fq.scheduling = Scheduling::Held(portal, count),
            _ => {
                fq.scheduling = Scheduling::Idle;
                // Back to the end of its work queue, if frames are left. The channel's one notification isn't due:
                // it was given when the channel became non-empty.
                if !fq.frames.is_empty()
                    && let Destination::Channel(channel, work) = fq.destination
                {
                    fq.scheduling = Scheduling::Queued;
                    if let Some(channel) = self.channel_mut(channel) {
                        channel.work[usize::from(work) % WORK_QUEUES].push_back(fqid);
                    }
                }
            }
        }
        taken.held = self.fq(fqid).is_some_and(|fq| matches!(fq.scheduling, Scheduling::Held(..)));
        taken
    }

    /// A portal consumed one of the frames it got from a queue: a held queue goes on when all are.
    pub(crate) fn consumed(&mut self, portal: PortalIndex, fqid: Fqid, park: bool) {
        let Some(fq) = self.fq_mut(fqid) else { return };
        if let Scheduling::Held(holder, left) = fq.scheduling
            && holder == portal
        {
            if left > 1 {
                fq.scheduling = Scheduling::Held(holder, left - 1);
                return;
            }
            fq.scheduling = Scheduling::Idle;
            if park {
                fq.destination = Destination::Parked;
            }
            self.announce(fqid);
        }
    }

    fn check_congestion(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(usize::from(id)) else { return };
        let Some(notice) = group.notice.filter(|notice| notice.enter > 0) else { return };
        let level = if notice.in_frames { group.frames } else { group.bytes };
        let congested = if group.congested { level > notice.exit } else { level >= notice.enter };
        if congested != group.congested {
            group.congested = congested;
            self.events.push(Event::Congestion(id, congested));
        }
    }
}

fn exceeds(limit: Limit, frames: u64, bytes: u64, next: u64) -> bool {
    if limit.in_frames {
        frames >= limit.threshold
    } else {
        let counted = next.saturating_add_signed(i64::from(limit.overhead));
        bytes + counted > limit.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n: u64) -> Fd {
        Fd::single(n, 0, 100, 1)
    }

    fn queue(destination: impl FnOnce(ChannelId) -> Destination) -> (Qman, Fqid, ChannelId) {
        let mut qman = Qman::default();
        let fqid = qman.add_fq(2, Consumer::Software);
        let channel = qman.add_channel(2);
        qman.set_destination(fqid, destination(channel));
        (qman, fqid, channel)
    }

    #[test]
    fn a_parked_queue_is_a_fifo_with_counts() {
        let (mut qman, fqid, _) = queue(|_| Destination::Parked);
        for n in 0..3 {
            qman.enqueue(fqid, frame(n)).unwrap();
        }
        assert!(qman.take_events().is_empty());
        let taken = qman.take_from(fqid, 2);
        assert_eq!(taken.frames, [frame(0), frame(1)]);
        assert_eq!((taken.frames_left, taken.bytes_left), (1, 100));
        assert_eq!(qman.drain(fqid), [frame(2)]);
    }

    #[test]
    fn a_queue_notifies_once_until_it_is_scheduled_again() {
        let (mut qman, fqid, _) = queue(|_| Destination::Notify(7));
        qman.enqueue(fqid, frame(0)).unwrap();
        qman.enqueue(fqid, frame(1)).unwrap();
        assert_eq!(qman.take_events(), [Event::QueueData(7, fqid, 0)]);
        qman.schedule(fqid);
        assert_eq!(qman.take_events(), [Event::QueueData(7, fqid, 0)], "still not empty, so at once");
        qman.drain(fqid);
        qman.schedule(fqid);
        assert!(qman.take_events().is_empty());
    }

    #[test]
    fn a_channel_notifies_once_until_enabled_again() {
        let (mut qman, fqid, channel) = queue(|channel| Destination::Channel(channel, 0));
        let cdan = Cdan { portal: 1, context: 9, enabled: true };
        qman.channel_mut(channel).unwrap().cdan = Some(cdan);
        qman.enqueue(fqid, frame(0)).unwrap();
        qman.enqueue(fqid, frame(1)).unwrap();
        assert_eq!(qman.take_events(), [Event::ChannelData(1, channel, 9)]);
        qman.channel_mut(channel).unwrap().cdan = Some(cdan);
        qman.announce_channel(channel);
        assert_eq!(qman.take_events(), [Event::ChannelData(1, channel, 9)]);
    }

    #[test]
    fn a_channel_serves_by_work_queue_then_in_turn_one_queue_at_a_time() {
        let mut qman = Qman::default();
        let channel = qman.add_channel(2);
        let fqids: Vec<Fqid> = [1, 1, 0]
            .iter()
            .map(|&work| {
                let fqid = qman.add_fq(2, Consumer::Software);
                qman.set_destination(fqid, Destination::Channel(channel, work));
                for n in 0..3 {
                    qman.enqueue(fqid, frame(n)).unwrap();
                }
                fqid
            })
            .collect();
        let order: Vec<(Fqid, usize)> = std::iter::from_fn(|| {
            let taken = qman.take_from_channel(channel, 2, None);
            (!taken.frames.is_empty()).then_some((taken.fqid, taken.frames.len()))
        })
        .collect();
        let [a, b, urgent] = fqids[..] else { unreachable!() };
        assert_eq!(order, [(urgent, 2), (urgent, 1), (a, 2), (b, 2), (a, 1), (b, 1)]);
    }

    #[test]
    fn a_held_queue_stays_with_its_portal_until_all_is_consumed() {
        let (mut qman, fqid, channel) = queue(|channel| Destination::Channel(channel, 0));
        qman.fq_mut(fqid).unwrap().hold_active = true;
        for n in 0..3 {
            qman.enqueue(fqid, frame(n)).unwrap();
        }
        let taken = qman.take_from_channel(channel, 1, Some(0));
        assert!(taken.held);
        assert!(qman.take_from_channel(channel, 1, Some(1)).frames.is_empty(), "nobody else gets it");
        assert_eq!(qman.take_held(0, channel, 1).unwrap().frames, [frame(1)]);
        qman.consumed(0, fqid, false);
        assert!(qman.take_from_channel(channel, 1, Some(1)).frames.is_empty());
        qman.consumed(0, fqid, false);
        assert_eq!(qman.take_from_channel(channel, 1, Some(1)).frames, [frame(2)]);
    }

    #[test]
    fn taildrop_counts_frames_or_bytes_with_overhead() {
        let (mut qman, fqid, _) = queue(|_| Destination::Parked);
        qman.fq_mut(fqid).unwrap().taildrop = Some(Limit { in_frames: true, threshold: 2, overhead: 0 });
        assert_eq!(
            [0, 1, 2].map(|n| qman.enqueue(fqid, frame(n))),
            [Ok(()), Ok(()), Err(Rejection::QueueTaildrop)]
        );
        qman.drain(fqid);
        qman.fq_mut(fqid).unwrap().taildrop = Some(Limit { in_frames: false, threshold: 200, overhead: 1 });
        assert_eq!([0, 1].map(|n| qman.enqueue(fqid, frame(n))), [Ok(()), Err(Rejection::QueueTaildrop)]);
    }

    #[test]
    fn a_group_tells_when_congestion_begins_and_when_it_ends() {
        let (mut qman, fqid, _) = queue(|_| Destination::Parked);
        let group = qman.add_group(2);
        qman.group_mut(group).unwrap().notice =
            Some(CongestionNotice { in_frames: true, enter: 3, exit: 1, ..CongestionNotice::default() });
        qman.set_group(fqid, Some(group));
        for n in 0..4 {
            qman.enqueue(fqid, frame(n)).unwrap();
        }
        assert_eq!(qman.take_events(), [Event::Congestion(group, true)]);
        qman.take_from(fqid, 2);
        assert!(qman.take_events().is_empty());
        qman.take_from(fqid, 1);
        assert_eq!(qman.take_events(), [Event::Congestion(group, false)]);
    }

    #[test]
    fn a_queue_that_is_off_keeps_its_frames() {
        let (mut qman, fqid, _) = queue(|_| Destination::Parked);
        qman.enqueue(fqid, frame(0)).unwrap();
        qman.set_off(fqid, true);
        assert!(qman.take_from(fqid, 1).frames.is_empty());
        qman.set_off(fqid, false);
        assert_eq!(qman.take_from(fqid, 1).frames.len(), 1);
    }
}
