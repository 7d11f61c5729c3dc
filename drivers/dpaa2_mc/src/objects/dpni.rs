//! Network interfaces.

use std::thread;
use std::time::{Duration, Instant};

use dpaa2_defs::mc::common::ApiVersion;
use dpaa2_defs::mc::dpni::{
    self, AddFsEntry, AddMacFilter, AddQosEntry, AddVlanId, ClearFsEntries, ClearMacFilters, ClearQosTable,
    ClearVlanFilters, ConfirmationMode, CongestionPoint, Destination, DumpTable, EnableVlanFilter,
    ErrorAction, GetBufferLayout, GetLinkState, GetMacSpeeds, GetMaxFrameLength, GetMulticastPromiscuous,
    GetPortMac, GetPrimaryMac, GetQdid, GetQueue, GetTaildrop, GetTxDataOffset, GetUnicastPromiscuous,
    LinkState, MacAddress, Offload, POOLS_MAX, Pool, Queue, QueueType, RemoveFsEntry, RemoveMacFilter,
    RemoveQosEntry, RemoveVlanId, ResetStatistics, SetBufferLayout, SetCongestionNotification,
    SetErrorsBehavior, SetLinkConfiguration, SetMaxFrameLength, SetMulticastPromiscuous, SetOffload,
    SetPools, SetPrimaryMac, SetQosTable, SetQueue, SetRxFsDistribution, SetRxHashDistribution, SetTaildrop,
    SetTxConfirmationMode, SetTxPriorities, SetTxShaping, SetUnicastPromiscuous, Units, buffer_layout_flag,
    buffer_layout_option, overhead_of, queue_flag, set_queue_option, taildrop_overhead,
};
use dpaa2_defs::mc::object::ObjectId;

use crate::error::McError;
use crate::mc::Mc;
use crate::object::{Disabled, Enabled, Object, State, Stateful};
use crate::statistics::{self, Counters, NamedCounter};

/// How long [`Dpni::disable`] waits for the interface to have stopped.
pub const DISABLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it asks.
const DISABLE_POLL: Duration = Duration::from_millis(5);

/// A network interface.
///
/// Pools and buffer layouts are set while it is disabled; everything else may also change while it works.
#[derive(Debug)]
pub struct Dpni<S: State = Disabled>(Stateful<S>);

stateful!(Dpni, dpni);

/// A buffer pool for an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolBinding {
    /// Number of the DPBP (not its bpid).
    pub dpbp_id: u32,
    /// Size of its buffers in bytes.
    pub buffer_size: u16,
    /// Bit t: receive traffic class t uses it. 0: all do.
    pub tc_mask: u8,
    /// It is used when the others are empty.
    pub backup: bool,
}

/// A queue of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueId {
    /// What it is for.
    pub queue_type: QueueType,
    /// Traffic class.
    pub tc: u8,
    /// Index in the traffic class.
    pub index: u8,
    /// Transmit channel; 0 for receive queues.
    pub channel: u8,
}

impl QueueId {
    /// A receive queue.
    pub const fn rx(tc: u8, index: u8) -> Self {
        Self { queue_type: QueueType::RX, tc, index, channel: 0 }
    }

    /// The transmit queue of a traffic class, on channel 0.
    pub const fn tx(tc: u8) -> Self {
        Self { queue_type: QueueType::TX, tc, index: 0, channel: 0 }
    }

    /// The queue for frames with errors.
    pub const RX_ERROR: Self = Self { queue_type: QueueType::RX_ERROR, tc: 0, index: 0, channel: 0 };
}

/// Where frames of a queue go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueTarget {
    /// Nowhere: they wait for volatile dequeues.
    Parked,
    /// Nowhere, and a DPIO is notified of them.
    Dpio {
        /// Its number.
        id: u32,
        /// Priority of the notification in its channel.
        priority: u8,
    },
    /// A DPCON's channel.
    Dpcon {
        /// Its number.
        id: u32,
        /// Priority in the channel.
        priority: u8,
    },
}

/// What is in front of and behind a frame in its buffer. What is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferLayout {
    /// Hardware writes when the frame was received.
    pub timestamp: Option<bool>,
    /// Hardware writes what the parser found.
    pub parser_result: Option<bool>,
    /// Hardware writes what is wrong with the frame.
    pub frame_status: Option<bool>,
    /// Bytes at the buffer's start that are the driver's own.
    pub private_data_size: Option<u16>,
    /// The frame begins at a multiple of this many bytes.
    pub data_alignment: Option<u16>,
    /// Bytes between annotation and frame.
    pub head_room: Option<u16>,
    /// Bytes behind the frame.
    pub tail_room: Option<u16>,
}

/// When frames for a queue are dropped because there are too many in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taildrop {
    /// Never.
    Off,
    /// Above this many bytes, where each frame counts `overhead` bytes more than it has.
    Bytes {
        /// The most there may be.
        threshold: u32,
        /// To add for each frame; 12 bits with sign.
        overhead: i16,
    },
    /// Above this many frames.
    Frames {
        /// The most there may be.
        threshold: u32,
    },
}

impl Dpni<Disabled> {
    /// Binds buffer pools, at most 8, in place of those bound before.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    ///
    /// # Panics
    /// If there are more than 8, or a number of a DPBP has more than 16 bits.
    pub fn set_pools(&mut self, pools: &[PoolBinding]) -> Result<(), McError> {
        assert!(pools.len() <= POOLS_MAX, "more pools than an interface can have");
        let mut command = SetPools { count: pools.len() as u8, ..Default::default() };
        for (i, binding) in pools.iter().enumerate() {
            let dpbp_id = u16::try_from(binding.dpbp_id).expect("numbers of objects have 16 bits here");
            command.pools[i] =
                Pool { dpbp_id: dpbp_id.into(), priority_mask: binding.tc_mask, ..Default::default() };
            command.buffer_sizes[i] = binding.buffer_size.into();
            command.backup_mask |= u8::from(binding.backup) << i;
        }
        self.handle().execute(&command)
    }

    /// Sets what is in front of and behind frames of a kind of queues.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn set_buffer_layout(&mut self, queue_type: QueueType, layout: &BufferLayout) -> Result<(), McError> {
        use buffer_layout_option as option;
        let mut command = SetBufferLayout { queue_type, ..Default::default() };
        let mut options = 0;
        for (chosen, option_bit, flag_bit) in [
            (layout.timestamp, option::TIMESTAMP, buffer_layout_flag::TIMESTAMP),
            (layout.parser_result, option::PARSER_RESULT, buffer_layout_flag::PARSER_RESULT),
            (layout.frame_status, option::FRAME_STATUS, buffer_layout_flag::FRAME_STATUS),
        ] {
            options |= if chosen.is_some() { option_bit } else { 0 };
            command.flags |= if chosen == Some(true) { flag_bit } else { 0 };
        }
        for (chosen, option_bit, field) in [
            (layout.private_data_size, option::PRIVATE_DATA_SIZE, &mut command.private_data_size),
            (layout.data_alignment, option::DATA_ALIGNMENT, &mut command.data_alignment),
            (layout.head_room, option::HEAD_ROOM, &mut command.head_room),
            (layout.tail_room, option::TAIL_ROOM, &mut command.tail_room),
        ] {
            options |= if chosen.is_some() { option_bit } else { 0 };
            *field = chosen.unwrap_or(0).into();
        }
        command.options = options.into();
        self.handle().execute(&command)
    }
}

impl Dpni<Enabled> {
    /// Stops it: no frame is received from now on, and those under way have reached their queues when this returns. It
    /// is closed if that fails.
    ///
    /// # Errors
    /// The MC refuses, doesn't answer in time, or the interface hasn't stopped after [`DISABLE_TIMEOUT`].
    pub fn disable(self) -> Result<Dpni<Disabled>, McError> {
        let start = Instant::now();
        let stopping = self.0.disable()?;
        while stopping.object.is_enabled()? {
            if start.elapsed() >= DISABLE_TIMEOUT {
                return Err(stopping.object.still_enabled());
            }
            thread::sleep(DISABLE_POLL);
        }
        Ok(Dpni(stopping))
    }
}

/// All methods fail if the MC refuses, or doesn't answer in time.
impl<S: State> Dpni<S> {
    /// What is in front of and behind frames of a kind of queues.
    pub fn buffer_layout(&self, queue_type: QueueType) -> Result<dpni::BufferLayout, McError> {
        self.handle().execute(&GetBufferLayout { queue_type })
    }

    /// How many bytes there must be in front of data to transmit.
    pub fn tx_data_offset(&self) -> Result<u16, McError> {
        self.handle().execute(&GetTxDataOffset {}).map(|answer| answer.offset.get())
    }

    /// Says what to do with received frames that have any of these errors (bits of the frame annotation status).
    pub fn set_errors_behavior(&self, errors: u32, action: ErrorAction, mark: bool) -> Result<(), McError> {
        let flags = action.0 | if mark { SetErrorsBehavior::MARK } else { 0 };
        self.handle().execute(&SetErrorsBehavior { errors: errors.into(), flags })
    }

    /// The link. Up is not enough where `VALID` isn't said too.
    pub fn link_state(&self) -> Result<LinkState, McError> {
        self.handle().execute(&GetLinkState {})
    }

    /// Says which link is wanted. `options` are [`dpni::link_option`]s, `advertising` [`dpni::advertising`].
    pub fn set_link_configuration(
        &self,
        rate_mbps: u32,
        options: u64,
        advertising: u64,
    ) -> Result<(), McError> {
        self.handle().execute(&SetLinkConfiguration {
            rate: rate_mbps.into(),
            options: options.into(),
            advertising: advertising.into(),
            ..Default::default()
        })
    }

    /// Which rates the MAC can have: bit n is [`dpni::MAC_SPEEDS`] n. Since version 8.6 of the commands.
    pub fn mac_speeds(&self) -> Result<u32, McError> {
        self.handle().execute(&GetMacSpeeds {}).map(|answer| answer.speeds.get())
    }

    /// Sets the longest frame that is received, in bytes without frame check sequence.
    pub fn set_max_frame_length(&self, length: u16) -> Result<(), McError> {
        self.handle().execute(&SetMaxFrameLength { length: length.into() })
    }

    /// The longest frame that is received, in bytes without frame check sequence.
    pub fn max_frame_length(&self) -> Result<u16, McError> {
        self.handle().execute(&GetMaxFrameLength {}).map(|answer| answer.length.get())
    }

    /// Receives all unicast addresses, or not.
    pub fn set_unicast_promiscuous(&self, on: bool) -> Result<(), McError> {
        self.handle().execute(&SetUnicastPromiscuous { enable: on.into() })
    }

    /// Whether all unicast addresses are received.
    pub fn is_unicast_promiscuous(&self) -> Result<bool, McError> {
        self.handle().execute(&GetUnicastPromiscuous {}).map(|answer| answer.get())
    }

    /// Receives all group addresses, or not.
    pub fn set_multicast_promiscuous(&self, on: bool) -> Result<(), McError> {
        self.handle().execute(&SetMulticastPromiscuous { enable: on.into() })
    }

    /// Whether all group addresses are received.
    pub fn is_multicast_promiscuous(&self) -> Result<bool, McError> {
        self.handle().execute(&GetMulticastPromiscuous {}).map(|answer| answer.get())
    }

    /// Sets the interface's own address, in the order of the wire.
    pub fn set_primary_mac(&self, address: [u8; 6]) -> Result<(), McError> {
        self.handle().execute(&SetPrimaryMac { address: MacAddress::new(address), ..Default::default() })
    }

    /// The interface's own address, in the order of the wire.
    pub fn primary_mac(&self) -> Result<[u8; 6], McError> {
        self.handle().execute(&GetPrimaryMac {}).map(|field| field.address.octets())
    }

    /// The address of the MAC it is connected to, in the order of the wire; zeros without one.
    pub fn port_mac(&self) -> Result<[u8; 6], McError> {
        self.handle().execute(&GetPortMac {}).map(|field| field.address.octets())
    }

    /// Receives an address.
    pub fn add_mac_filter(&self, address: [u8; 6]) -> Result<(), McError> {
        self.handle().execute(&AddMacFilter { address: MacAddress::new(address), ..Default::default() })
    }

    /// Ends what [`Dpni::add_mac_filter`] began.
    pub fn remove_mac_filter(&self, address: [u8; 6]) -> Result<(), McError> {
        self.handle().execute(&RemoveMacFilter { address: MacAddress::new(address), ..Default::default() })
    }

    /// Removes all added addresses.
    pub fn clear_mac_filters(&self) -> Result<(), McError> {
        self.handle().execute(&ClearMacFilters { flags: 0b11 })
    }

    /// Receives only the VLANs that were added, or all.
    pub fn set_vlan_filter(&self, on: bool) -> Result<(), McError> {
        self.handle().execute(&EnableVlanFilter { enable: on.into() })
    }

    /// Receives a VLAN.
    pub fn add_vlan(&self, vlan_id: u16) -> Result<(), McError> {
        self.handle().execute(&AddVlanId { vlan_id: vlan_id.into(), ..Default::default() })
    }

    /// Ends what [`Dpni::add_vlan`] began.
    pub fn remove_vlan(&self, vlan_id: u16) -> Result<(), McError> {
        self.handle().execute(&RemoveVlanId { vlan_id: vlan_id.into(), ..Default::default() })
    }

    /// Removes all VLANs.
    pub fn clear_vlans(&self) -> Result<(), McError> {
        self.handle().execute(&ClearVlanFilters {})
    }

    /// The number of a queueing destination.
    pub fn qdid(&self, queue_type: QueueType) -> Result<u16, McError> {
        self.handle().execute(&GetQdid { queue_type }).map(|answer| answer.qdid.get())
    }

    /// A queue: its number in hardware (fqid), where its frames go.
    pub fn queue(&self, queue: QueueId) -> Result<Queue, McError> {
        let QueueId { queue_type, tc, index, channel } = queue;
        self.handle().execute(&GetQueue { queue_type, tc, index, channel })
    }

    /// Sets up a queue: where its frames go, a value that comes with each of them, and what is stashed with them
    /// ([`dpni::stash`]).
    pub fn set_queue(
        &self,
        queue: QueueId,
        target: QueueTarget,
        user_context: u64,
        stash: u64,
    ) -> Result<(), McError> {
        let QueueId { queue_type, tc, index, channel } = queue;
        let (destination, id, priority) = match target {
            QueueTarget::Parked => (Destination::NONE, 0, 0),
            QueueTarget::Dpio { id, priority } => (Destination::DPIO, id, priority),
            QueueTarget::Dpcon { id, priority } => (Destination::DPCON, id, priority),
        };
        self.handle().execute(&SetQueue {
            queue_type,
            tc,
            index,
            channel,
            options: set_queue_option::USER_CONTEXT | set_queue_option::DESTINATION | set_queue_option::FLC,
            destination_id: id.into(),
            destination_priority: priority,
            flags: destination.0 | queue_flag::STASH_CONTROL,
            flc: stash.into(),
            user_context: user_context.into(),
            ..Default::default()
        })
    }

    /// Says when frames for a queue are dropped.
    pub fn set_taildrop(&self, queue: QueueId, taildrop: Taildrop) -> Result<(), McError> {
        self.set_taildrop_at(CongestionPoint::QUEUE, queue, taildrop)
    }

    /// Says when frames for a traffic class of reception are dropped, whichever of its queues they are for. All classes of
    /// an interface created with `SHARED_CONGESTION` are one here.
    pub fn set_class_taildrop(&self, tc: u8, taildrop: Taildrop) -> Result<(), McError> {
        self.set_taildrop_at(CongestionPoint::GROUP, QueueId::rx(tc, 0), taildrop)
    }

    /// When frames for a queue are dropped.
    pub fn taildrop(&self, queue: QueueId) -> Result<Taildrop, McError> {
        self.taildrop_at(CongestionPoint::QUEUE, queue)
    }

    /// When frames for a traffic class of reception are dropped.
    pub fn class_taildrop(&self, tc: u8) -> Result<Taildrop, McError> {
        self.taildrop_at(CongestionPoint::GROUP, QueueId::rx(tc, 0))
    }

    fn taildrop_at(&self, point: CongestionPoint, queue: QueueId) -> Result<Taildrop, McError> {
        let QueueId { queue_type, tc, index, .. } = queue;
        let answer = self.handle().execute(&GetTaildrop { point, queue_type, tc, index })?;
        Ok(if answer.enable_and_overhead_low & 1 == 0 {
            Taildrop::Off
        } else if answer.units == Units::FRAMES {
            Taildrop::Frames { threshold: answer.threshold.get() }
        } else {
            let overhead = overhead_of(answer.enable_and_overhead_low, answer.overhead_high);
            Taildrop::Bytes { threshold: answer.threshold.get(), overhead }
        })
    }

    fn set_taildrop_at(
        &self,
        point: CongestionPoint,
        queue: QueueId,
        taildrop: Taildrop,
    ) -> Result<(), McError> {
        let QueueId { queue_type, tc, index, channel } = queue;
        let (overhead, units, threshold) = match taildrop {
            Taildrop::Off => ((0, 0), Units::BYTES, 0),
            Taildrop::Bytes { threshold, overhead } => (taildrop_overhead(overhead), Units::BYTES, threshold),
            Taildrop::Frames { threshold } => (taildrop_overhead(0), Units::FRAMES, threshold),
        };
        self.handle().execute(&SetTaildrop {
            point,
            queue_type,
            tc,
            index,
            channel,
            enable_and_overhead_low: overhead.0,
            overhead_high: overhead.1,
            units,
            threshold: threshold.into(),
            ..Default::default()
        })
    }

    /// Says what to do when there are too many frames: see the fields of the command.
    pub fn set_congestion_notification(&self, command: &SetCongestionNotification) -> Result<(), McError> {
        self.handle().execute(command)
    }

    /// Says how frames transmitted on a channel are confirmed.
    pub fn set_tx_confirmation(&self, channel: u8, mode: ConfirmationMode) -> Result<(), McError> {
        self.handle().execute(&SetTxConfirmationMode { channel, mode, ..Default::default() })
    }

    /// Switches an offload.
    pub fn set_offload(&self, offload: Offload, on: bool) -> Result<(), McError> {
        self.handle().execute(&SetOffload { offload, value: u32::from(on).into(), ..Default::default() })
    }

    /// Distributes a traffic class over its first `size` queues by a hash of the key that is configured at
    /// `key_config_iova`.
    pub fn set_hash_distribution(&self, tc: u8, size: u16, key_config_iova: u64) -> Result<(), McError> {
        self.handle().execute(&SetRxHashDistribution {
            size: size.into(),
            enable: 1,
            tc,
            key_config_iova: key_config_iova.into(),
            ..Default::default()
        })
    }

    /// Ends what [`Dpni::set_hash_distribution`] began.
    pub fn clear_hash_distribution(&self, tc: u8) -> Result<(), McError> {
        self.handle().execute(&SetRxHashDistribution { size: 1.into(), tc, ..Default::default() })
    }

    /// Steers flows of a traffic class by entries: see the fields of the command.
    pub fn set_fs_distribution(&self, command: &SetRxFsDistribution) -> Result<(), McError> {
        self.handle().execute(command)
    }

    /// Adds a flow steering entry: see the fields of the command.
    pub fn add_fs_entry(&self, entry: &AddFsEntry) -> Result<(), McError> {
        self.handle().execute(entry)
    }

    /// Removes a flow steering entry by its content.
    pub fn remove_fs_entry(&self, entry: &RemoveFsEntry) -> Result<(), McError> {
        self.handle().execute(entry)
    }

    /// Removes all flow steering entries of a traffic class.
    pub fn clear_fs_entries(&self, tc: u8) -> Result<(), McError> {
        self.handle().execute(&ClearFsEntries { tc, ..Default::default() })
    }

    /// Sets up the table that chooses the traffic class: see the fields of the command.
    pub fn set_qos_table(&self, command: &SetQosTable) -> Result<(), McError> {
        self.handle().execute(command)
    }

    /// Adds an entry to the table that chooses the traffic class: see the fields of the command.
    pub fn add_qos_entry(&self, entry: &AddQosEntry) -> Result<(), McError> {
        self.handle().execute(entry)
    }

    /// Removes an entry of that table by its content.
    pub fn remove_qos_entry(&self, entry: &RemoveQosEntry) -> Result<(), McError> {
        self.handle().execute(entry)
    }

    /// Removes all entries of that table.
    pub fn clear_qos_table(&self) -> Result<(), McError> {
        self.handle().execute(&ClearQosTable {})
    }

    /// Has a table ([`TABLE_QOS`](dpaa2_defs::classify::TABLE_QOS)) written to `size` bytes at `iova`: a header, then its entries. Returns how many there are; `None` if
    /// the firmware can't tell.
    pub fn dump_table(&self, table_type: u16, iova: u64, size: u32) -> Result<Option<u16>, McError> {
        let command = DumpTable {
            table_type: table_type.into(),
            iova: iova.into(),
            size: size.into(),
            ..Default::default()
        };
        let answer = statistics::optional(self.handle().execute(&command))?;
        Ok(answer.map(|answer| answer.entries.get()))
    }

    /// Limits the rate of transmission: see the fields of the command.
    pub fn set_tx_shaping(&self, command: &SetTxShaping) -> Result<(), McError> {
        self.handle().execute(command)
    }

    /// Says in which order transmit traffic classes are served: see the fields of the command.
    pub fn set_tx_priorities(&self, command: &SetTxPriorities) -> Result<(), McError> {
        self.handle().execute(command)
    }

    /// What it has counted.
    pub fn counters(&self) -> Result<Counters, McError> {
        Counters::read(self.handle())
    }

    /// What it has counted, every counter of every traffic class. A command for each of them: for people, not for
    /// every second.
    pub fn all_counters(&self) -> Result<Vec<NamedCounter>, McError> {
        statistics::all(self.handle(), &self.attributes()?)
    }

    /// Frames of a traffic class of reception that were dropped because too many of it waited.
    pub fn class_drops(&self, tc: u8) -> Result<u64, McError> {
        statistics::class_drops(self.handle(), tc)
    }

    /// Sets all counters to 0.
    pub fn reset_counters(&self) -> Result<(), McError> {
        self.handle().execute(&ResetStatistics {})
    }

    /// Frames that wait to be sent; `None` if the firmware can't tell (before API 7.13).
    pub fn tx_pending(&self) -> Result<Option<u64>, McError> {
        statistics::tx_pending(self.handle())
    }

    /// Lets its interrupt 0 fire on [`dpni::event`]s, from now on.
    pub fn arm_events(&self, events: u32) -> Result<(), McError> {
        self.handle().arm_events(events)
    }

    /// Ends what [`Dpni::arm_events`] began.
    pub fn disarm_events(&self) -> Result<(), McError> {
        self.handle().disarm_events()
    }

    /// The [`dpni::event`]s that have happened since this was asked last.
    pub fn take_events(&self) -> Result<u32, McError> {
        self.handle().take_events()
    }
}
