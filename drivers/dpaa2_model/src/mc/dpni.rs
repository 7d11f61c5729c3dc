//! Interfaces.

use super::{Answer, Endpoint, commands};
use crate::Model;
use crate::config;
use crate::memory::DmaFault;
use crate::ni::{
    BufferLayout, Direct, Entry, Ni, PoolChoice, QosAction, Steer, TableError, TxSchedule, option,
};
use crate::parse;
use crate::qman::{CongestionNotice, Destination, Fqid, GroupId, Limit};
use dpaa2_defs::classify::{
    EXTRACTS_MAX, KEY_BYTES_MAX, KeyConfig, TABLE_QOS, TableDumpEntry, TableDumpHeader,
};
use dpaa2_defs::mc::common::{Disable, Enable, Enabled, IsEnabled, Reset};
use dpaa2_defs::mc::dpni::{self, *};
use dpaa2_defs::mc::header::{Frame, Status};
use dpaa2_defs::mc::object::ObjectType;
use zerocopy::{FromZeros, IntoBytes};

/// Bytes WRIOP wants in front of the data of a frame to send: its hardware annotation.
const TX_ANNOTATION: u16 = 128;
/// Custom ethertypes of VLAN tags an interface can have.
const TPIDS_MAX: usize = 2;
/// Longest frame that can be configured.
const FRAME_LENGTH_MAX: u16 = 10_240;

type Done = Result<(), Status>;

fn check(valid: bool) -> Done {
    if valid { Ok(()) } else { Err(Status::CONFIGURATION) }
}

impl From<DmaFault> for StatusOf {
    fn from(_: DmaFault) -> Self {
        Self(Status::DMA)
    }
}

impl From<TableError> for StatusOf {
    fn from(error: TableError) -> Self {
        Self(match error {
            TableError::Full => Status::NO_RESOURCE,
            TableError::Exists | TableError::Missing => Status::CONFIGURATION,
        })
    }
}

impl From<Status> for StatusOf {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

/// What an error means for the command.
struct StatusOf(Status);

impl From<StatusOf> for Status {
    fn from(status: StatusOf) -> Self {
        status.0
    }
}

fn direct(flags: u8, tc: u8, queue: u8) -> Direct {
    (flags & 1 != 0).then_some((tc, queue))
}

impl Model {
    fn ni(&mut self, index: usize) -> &mut Ni {
        self.nis[index].as_mut().expect("commands come with the index of an interface that exists")
    }

    /// Creates an interface by command.
    pub(super) fn create_dpni(&mut self, id: u32, container: u32, c: &dpni::Create) -> Result<(), Status> {
        let or = |value: u8, default: u8| if value == 0 { default } else { value };
        let tx_tcs = or(c.tcs, 1);
        let attributes = config::Dpni {
            mac: None,
            options: Some(c.options.get()),
            queues: or(c.queues, 1),
            rx_tcs: or(c.rx_tcs, tx_tcs.min(8)),
            tx_tcs,
            channels: or(c.channels, 1),
            mac_filters: or(c.mac_filter_entries, 80),
            vlan_filters: c.vlan_filter_entries,
            qos_entries: or(c.qos_entries, 64),
            fs_entries: if c.fs_entries.get() == 0 { 64 } else { c.fs_entries.get() },
            congestion_groups: c.congestion_groups,
            ..config::Dpni::new(id)
        };
        self.description.check_dpni(&attributes).map_err(|_| Status::CONFIGURATION)?;
        self.add_dpni(&attributes, container);
        Ok(())
    }

    /// Adds an interface whose attributes were checked.
    pub(crate) fn add_dpni(&mut self, attributes: &config::Dpni, container: u32) {
        let masking = if self.description.soc.has_key_masking() { option::HAS_KEY_MASKING } else { 0 };
        let options = attributes.options.unwrap_or(masking);
        let qdid = self.nis.len() as u16;
        let ni = Ni::new(attributes, options, container, qdid, &mut self.qman);
        self.nis.push(Some(ni));
        self.mc.add(ObjectType::DPNI.with_id(attributes.id), container);
        self.assign_default_groups(usize::from(qdid));
    }

    fn assign_default_groups(&mut self, index: usize) {
        let ni = self.ni(index);
        let (queues, senders) = (usize::from(ni.attributes.queues), ni.senders());
        let rx: Vec<(Fqid, GroupId)> = ni
            .rx
            .iter()
            .enumerate()
            .map(|(i, &fqid)| (fqid, ni.tc_groups[(i / queues).min(ni.tc_groups.len() - 1)]))
            .collect();
        let tx: Vec<(Fqid, GroupId)> =
            ni.tx.iter().enumerate().map(|(i, &fqid)| (fqid, ni.tx_groups[i / senders])).collect();
        for (fqid, group) in rx.into_iter().chain(tx) {
            self.qman.set_group(fqid, Some(group));
        }
    }

    /// Back to creation's defaults: queues parked and empty, pools detached, tables cleared.
    pub(super) fn reset_ni(&mut self, index: usize) {
        let was_up = self.link_is_up(index);
        let ni = self.ni(index);
        ni.reset();
        let (queues, container): (Vec<Fqid>, u32) = (ni.queues().collect(), ni.container);
        let groups: Vec<GroupId> =
            ni.tc_groups.iter().chain(&ni.own_groups).chain(&ni.tx_groups).copied().collect();
        for fqid in queues {
            self.qman.set_destination(fqid, Destination::Parked);
            if let Some(fq) = self.qman.fq_mut(fqid) {
                fq.context = 0;
                fq.flc = 0;
                fq.flc_is_stash = false;
                fq.hold_active = false;
                fq.taildrop = None;
                fq.is_off = false;
            }
            for fd in self.qman.drain(fqid) {
                self.discard(container, &fd);
            }
        }
        for group in groups {
            if let Some(group) = self.qman.group_mut(group) {
                group.taildrop = None;
                group.notice = None;
                group.congested = false;
            }
        }
        self.assign_default_groups(index);
        self.link_may_have_changed(index, was_up);
    }

    fn set_enabled(&mut self, index: usize, enabled: bool) -> Done {
        if enabled && self.ni(index).settings.pools.is_empty() {
            return Err(Status::INVALID_STATE);
        }
        let was_up = self.link_is_up(index);
        self.ni(index).settings.enabled = enabled;
        self.link_may_have_changed(index, was_up);
        self.egress(index);
        Ok(())
    }

    fn link_may_have_changed(&mut self, index: usize, was_up: bool) {
        if self.link_is_up(index) == was_up {
            return;
        }
        let own = ObjectType::DPNI.with_id(self.ni_id(index));
        self.raise(own, dpni::event::LINK_CHANGED);
        if let Some(Endpoint::Ni(peer)) = self.peer_of(index).filter(|peer| *peer != Endpoint::Ni(index)) {
            let peer = ObjectType::DPNI.with_id(self.ni_id(peer));
            self.raise(peer, dpni::event::LINK_CHANGED);
        }
    }

    pub(super) fn dpni_command(&mut self, id: u32, request: &Frame) -> Answer {
        let Some(index) = self.ni_index(id) else { return Err(Status::CONFIGURATION) };
        let number = request.header.id().id;
        match number {
            0x235..=0x246 | 0x251 | 0x273 | 0x274 | 0x27d => self.dpni_classification(index, request),
            0x25f..=0x262 | 0x267 | 0x268 => self.dpni_queues(index, request),
            0x220..=0x233 | 0x263 | 0x275..=0x277 => self.dpni_filters(index, request),
            _ => self.dpni_settings(index, request),
        }
    }

    fn dpni_settings(&mut self, index: usize, request: &Frame) -> Answer {
        let wriop = self.description.soc.wriop_version();
        commands!(request;
            Enable => |_| self.set_enabled(index, true),
            Disable => |_| self.set_enabled(index, false),
            IsEnabled => |_| Ok(Enabled::from(self.ni(index).settings.enabled)),
            Reset => |_| { self.reset_ni(index); Ok(()) },
            GetAttributes => |_| {
                let ni = self.ni(index);
                let a = &ni.attributes;
                Ok(Attributes {
                    options: ni.options.into(),
                    queues: a.queues,
                    rx_tcs: a.rx_tcs,
                    mac_filter_entries: a.mac_filters,
                    tx_tcs: a.tx_tcs,
                    vlan_filter_entries: a.vlan_filters,
                    channels: a.channels,
                    qos_entries: a.qos_entries,
                    fs_entries: a.fs_entries.into(),
                    qos_key_size: KEY_BYTES_MAX as u8,
                    fs_key_size: KEY_BYTES_MAX as u8,
                    wriop_version: wriop.into(),
                    congestion_groups: a.congestion_groups,
                    ..Default::default()
                })
            },
            SetPools => |c| self.set_pools(index, &c),
            SetErrorsBehavior => |c| {
                let action = c.flags & 15;
                check(action <= 2)?;
                let mask = c.errors.get();
                let actions = &mut self.ni(index).settings.error_actions;
                actions.push((mask, action, c.flags & SetErrorsBehavior::MARK != 0));
                // The last word on each error counts; older ones that it covers are noise.
                let last = actions.len() - 1;
                let mut i = 0;
                actions.retain(|(other, ..)| { i += 1; i > last || other & !mask != 0 });
                Ok(())
            },
            GetQdid => |c| {
                check(c.queue_type == QueueType::TX)?;
                Ok(Qdid { qdid: self.ni(index).qdid.into() })
            },
            GetQdids => |c| {
                check(c.queue_type == QueueType::TX)?;
                let ni = self.ni(index);
                let mut qdids = Qdids::default();
                for channel in 0..usize::from(ni.attributes.channels) {
                    qdids.qdids[channel] = (ni.qdid | (channel as u16) << 12).into();
                }
                Ok(qdids)
            },
            GetTxDataOffset => |_| {
                Ok(TxDataOffset { offset: (self.ni(index).settings.layouts[1].private_size + TX_ANNOTATION).into() })
            },
            GetLinkState => |_| {
                let (up, rate) = (self.link_is_up(index), self.rate_of(index));
                let settings = &self.ni(index).settings;
                Ok(LinkState {
                    flags: LinkState::VALID | if up { LinkState::UP } else { 0 },
                    rate: rate.into(),
                    options: settings.link_options.into(),
                    supported: advertising::RATE_10G.into(),
                    advertising: settings.link_advertising.into(),
                    ..Default::default()
                })
            },
            SetMaxFrameLength => |c| {
                check((64..=FRAME_LENGTH_MAX).contains(&c.length.get()))?;
                self.ni(index).settings.max_frame = c.length.get();
                Ok(())
            },
            GetMaxFrameLength => |_| Ok(MaxFrameLength { length: self.ni(index).settings.max_frame.into() }),
            SetLinkConfiguration => |c| {
                let settings = &mut self.ni(index).settings;
                settings.link_rate = c.rate.get();
                settings.link_options = c.options.get();
                settings.link_advertising = c.advertising.get();
                Ok(())
            },
            GetLinkConfiguration => |_| {
                let settings = &self.ni(index).settings;
                Ok(SetLinkConfiguration {
                    rate: settings.link_rate.into(),
                    options: settings.link_options.into(),
                    advertising: settings.link_advertising.into(),
                    ..Default::default()
                })
            },
            SetTxShaping => |c| {
                let whole = c.options & SetTxShaping::WHOLE_INTERFACE != 0;
                let settings = &mut self.ni(index).settings;
                let last = settings.shapers.len() - 1;
                let which = if whole { last } else { c.channel.into() };
                check(whole || which < last)?;
                settings.shapers[which] = c.committed_rate.get() + c.excess_rate.get();
                Ok(())
            },
            SetTxPriorities => |c| self.set_tx_priorities(index, &c),
            GetStatistics => |c| self.statistics(index, c.page, c.parameter.get()),
            ResetStatistics => |_| {
                let ni = self.ni(index);
                ni.counters = Default::default();
                ni.classes.fill(Default::default());
                Ok(())
            },
            GetBufferLayout => |c| {
                let layout = self.ni(index).settings.layouts[layout_index(c.queue_type)?];
                Ok(dpni::BufferLayout {
                    flags: layout.pass,
                    private_data_size: layout.private_size.into(),
                    data_alignment: layout.data_align.into(),
                    head_room: layout.head_room.into(),
                    tail_room: layout.tail_room.into(),
                    ..Default::default()
                })
            },
            SetBufferLayout => |c| self.set_buffer_layout(index, &c),
            SetTxConfirmationMode => |c| {
                check(c.mode.0 <= 2)?;
                let modes = &mut self.ni(index).settings.tx_confirm;
                *modes.get_mut(usize::from(c.channel)).ok_or(Status::CONFIGURATION)? = c.mode.0;
                Ok(())
            },
            GetTxConfirmationMode => |c| {
                let mode = self.ni(index).settings.tx_confirm.get(usize::from(c.channel)).copied();
                let mode = ConfirmationMode(mode.ok_or(Status::CONFIGURATION)?);
                Ok(TxConfirmationMode { mode, ..Default::default() })
            },
            GetOffload => |c| {
                let value = self.ni(index).settings.offloads.get(usize::from(c.offload.0)).copied();
                Ok(OffloadValue { value: value.ok_or(Status::CONFIGURATION)?.into(), ..Default::default() })
            },
            SetOffload => |c| {
                let offloads = &mut self.ni(index).settings.offloads;
                *offloads.get_mut(usize::from(c.offload.0)).ok_or(Status::CONFIGURATION)? = c.value.get();
                Ok(())
            },
            SetSingleStepPtp => |c| { self.ni(index).settings.ptp.copy_from_slice(c.as_bytes()); Ok(()) },
            GetSingleStepPtp => |_| {
                let mut answer = SingleStepPtp::default();
                answer.as_mut_bytes()[..8].copy_from_slice(&self.ni(index).settings.ptp);
                Ok(answer)
            },
            SetPortConfiguration => |c| {
                if c.flags.get() & 1 != 0 {
                    self.ni(index).settings.port_loopback = c.bits.get() & 1 != 0;
                }
                Ok(())
            },
            GetPortConfiguration => |_| {
                let loopback = u32::from(self.ni(index).settings.port_loopback);
                Ok(SetPortConfiguration { flags: 1.into(), bits: loopback.into() })
            },
            GetMacStatistics => |c| {
                let Some(Endpoint::Mac(mac)) = self.peer_of(index) else { return Err(Status::INVALID_STATE) };
                let container = self.ni(index).container;
                self.mac_statistics(mac, container, c.ids_iova.get(), c.values_iova.get(), c.count.get())
            },
            GetMacSpeeds => |_| {
                let Some(Endpoint::Mac(_)) = self.peer_of(index) else { return Err(Status::INVALID_STATE) };
                let rate = self.rate_of(index);
                let speeds = MAC_SPEEDS.iter().enumerate().filter(|(_, speed)| **speed <= rate).fold(0, |bits, (n, _)| bits | 1 << n);
                Ok(MacSpeeds { speeds: (speeds as u32).into() })
            },
        )
    }

    fn set_pools(&mut self, index: usize, c: &SetPools) -> Done {
        check(usize::from(c.count) <= POOLS_MAX && c.options <= 1)?;
        let container = self.ni(index).container;
        if self.ni(index).settings.enabled {
            return Err(Status::INVALID_STATE);
        }
        let mut pools = Vec::new();
        for i in 0..usize::from(c.count) {
            let pool = self.bman.by_object(c.pools[i].dpbp_id.get().into());
            let pool = pool.filter(|pool| pool.container == container).ok_or(Status::CONFIGURATION)?;
            pools.push(PoolChoice {
                bpid: pool.bpid,
                size: c.buffer_sizes[i].get(),
                mask: c.pools[i].priority_mask,
                is_backup: c.backup_mask & 1 << i != 0,
            });
        }
        let settings = &mut self.ni(index).settings;
        settings.pools = pools;
        settings.pools_by_queue = c.options & 1 != 0;
        Ok(())
    }

    fn set_buffer_layout(&mut self, index: usize, c: &SetBufferLayout) -> Done {
        let which = layout_index(c.queue_type)?;
        let settings = &mut self.ni(index).settings;
        if settings.enabled {
            return Err(Status::INVALID_STATE);
        }
        let options = c.options.get();
        let mut layout: BufferLayout = settings.layouts[which];
        for (option, flag) in [
            (buffer_layout_option::TIMESTAMP, buffer_layout_flag::TIMESTAMP),
            (buffer_layout_option::PARSER_RESULT, buffer_layout_flag::PARSER_RESULT),
            (buffer_layout_option::FRAME_STATUS, buffer_layout_flag::FRAME_STATUS),
            (buffer_layout_option::SW_OPAQUE, buffer_layout_flag::SW_OPAQUE),
        ] {
            if options & option != 0 {
                layout.pass = layout.pass & !flag | c.flags & flag;
            }
        }
        for (option, field, value) in [
            (buffer_layout_option::PRIVATE_DATA_SIZE, &mut layout.private_size, c.private_data_size.get()),
            (buffer_layout_option::DATA_ALIGNMENT, &mut layout.data_align, c.data_alignment.get()),
            (buffer_layout_option::HEAD_ROOM, &mut layout.head_room, c.head_room.get()),
            (buffer_layout_option::TAIL_ROOM, &mut layout.tail_room, c.tail_room.get()),
        ] {
            if options & option != 0 {
                *field = value;
            }
        }
        layout.no_scatter_gather = options & buffer_layout_option::NO_SG != 0;
        // The offset of a frame descriptor has 12 bits.
        let rooms =
            [layout.private_size, layout.head_room, layout.tail_room].iter().all(|size| *size <= 0xfff);
        check(
            rooms && layout.private_size <= 64 && layout.data_align <= 4096 && layout.data_offset() <= 0xfff,
        )?;
        settings.layouts[which] = layout;
        Ok(())
    }

    fn set_tx_priorities(&mut self, index: usize, c: &SetTxPriorities) -> Done {
        let ni = self.ni(index);
        let tcs = usize::from(ni.attributes.tx_tcs);
        let schedule = ni.settings.schedules.get_mut(usize::from(c.channel)).ok_or(Status::CONFIGURATION)?;
        let mut new = TxSchedule {
            priority_a: c.group_a_priority,
            priority_b: c.group_b_priority,
            separate_groups: c.flags.get() & 1 != 0,
            ..TxSchedule::default()
        };
        // With more than 8 classes the 8 entries describe the upper ones; the lower ones are strict.
        let first = if tcs > 8 { 8 } else { 0 };
        for i in 0..8usize.min(tcs) {
            let mode = c.modes[i / 2] >> (4 * (i % 2)) & 15;
            let weight = c.weights[i].get();
            check(mode <= 2 && (mode == 0 || (100..=10_000).contains(&weight)))?;
            if first + i < tcs {
                new.modes[first + i] = mode;
                new.weights[first + i] = weight;
            }
        }
        *schedule = new;
        Ok(())
    }

    fn statistics(&mut self, index: usize, page: u8, parameter: u16) -> Result<Statistics, Status> {
        let ni = self.ni(index);
        let c = ni.counters;
        let (channel, tc) = (usize::from(parameter >> 8), usize::from(parameter & 0xff));
        let mut counters = [0; 7];
        let set = |counters: &mut [u64; 7], values: &[u64]| counters[..values.len()].copy_from_slice(values);
        match page {
            0 => set(
                &mut counters,
                &[
                    c.rx_frames,
                    c.rx_bytes,
                    c.rx_multicast_frames,
                    c.rx_multicast_bytes,
                    c.rx_broadcast_frames,
                    c.rx_broadcast_bytes,
                ],
            ),
            1 => set(
                &mut counters,
                &[
                    c.tx_frames,
                    c.tx_bytes,
                    c.tx_multicast_frames,
                    c.tx_multicast_bytes,
                    c.tx_broadcast_frames,
                    c.tx_broadcast_bytes,
                ],
            ),
            2 => set(
                &mut counters,
                &[c.rx_filtered, c.rx_discarded, c.rx_no_buffer, c.tx_discarded, c.tx_confirmed],
            ),
            3 => {
                let tcs = usize::from(ni.attributes.tx_tcs);
                check(tc < tcs && channel < usize::from(ni.attributes.channels))?;
                let class = ni.classes[channel * tcs + tc];
                set(&mut counters, &[class.bytes, class.frames, class.rejected_bytes, class.rejected_frames]);
            }
            4 => {
                let group =
                    ni.tc_groups.get(tc).or(ni.tc_groups.first()).copied().ok_or(Status::CONFIGURATION)?;
                if let Some(group) = self.qman.group(group) {
                    set(&mut counters, &[group.rejected_frames, group.rejected_bytes]);
                }
            }
            5 => check(tc < usize::from(ni.attributes.rx_tcs))?,
            6 => {
                let tx = ni.tx.clone();
                counters[0] =
                    tx.iter().filter_map(|&fqid| self.qman.fq(fqid)).map(|fq| fq.frames() as u64).sum();
            }
            _ => return Err(Status::CONFIGURATION),
        }
        Ok(Statistics { counters: counters.map(Into::into) })
    }

    fn dpni_filters(&mut self, index: usize, request: &Frame) -> Answer {
        let port_mac = match self.peer_of(index) {
            Some(Endpoint::Mac(mac)) => self.macs[mac].address(),
            _ => [0; 6],
        };
        let ni = self.ni(index);
        let (mac_room, vlan_room) =
            (usize::from(ni.attributes.mac_filters), usize::from(ni.attributes.vlan_filters));
        let has_mac_filter = ni.options & option::NO_MAC_FILTER == 0;
        let (tcs, queues) = (ni.attributes.rx_tcs, ni.attributes.queues);
        let reachable = |direct: Direct| direct.is_none_or(|(tc, queue)| tc < tcs && queue < queues);
        let settings = &mut ni.settings;
        commands!(request;
            SetMulticastPromiscuous => |c| { settings.multicast_promiscuous = c.enable & 1 != 0; Ok(()) },
            GetMulticastPromiscuous => |_| Ok(Enabled::from(settings.multicast_promiscuous)),
            SetUnicastPromiscuous => |c| { settings.unicast_promiscuous = c.enable & 1 != 0; Ok(()) },
            GetUnicastPromiscuous => |_| Ok(Enabled::from(settings.unicast_promiscuous)),
            SetPrimaryMac => |c| {
                let mac = c.address.octets();
                check(mac[0] & 1 == 0)?;
                settings.mac = mac;
                Ok(())
            },
            GetPrimaryMac => |_| {
                Ok(MacAddressField { address: MacAddress::new(settings.mac), ..Default::default() })
            },
            AddMacFilter => |c| {
                let (mac, to) = (c.address.octets(), direct(c.flags, c.tc, c.queue));
                check(has_mac_filter && reachable(to))?;
                settings.mac_filters.retain(|(known, _)| *known != mac);
                if settings.mac_filters.len() >= mac_room {
                    return Err(Status::NO_RESOURCE);
                }
                settings.mac_filters.push((mac, to));
                Ok(())
            },
            RemoveMacFilter => |c| {
                let (mac, before) = (c.address.octets(), settings.mac_filters.len());
                settings.mac_filters.retain(|(known, _)| *known != mac);
                check(settings.mac_filters.len() < before)
            },
            ClearMacFilters => |c| {
                settings.mac_filters.retain(|(mac, _)| c.flags & if mac[0] & 1 == 0 { 1 } else { 2 } == 0);
                Ok(())
            },
            EnableVlanFilter => |c| {
                check(vlan_room > 0 || c.enable & 1 == 0)?;
                settings.vlan_filter = c.enable & 1 != 0;
                Ok(())
            },
            AddVlanId => |c| {
                let (vid, to) = (c.vlan_id.get(), direct(c.flags, c.tc, c.queue));
                check(vid < 4096 && reachable(to))?;
                settings.vlans.retain(|(known, _)| *known != vid);
                if settings.vlans.len() >= vlan_room {
                    return Err(Status::NO_RESOURCE);
                }
                settings.vlans.push((vid, to));
                Ok(())
            },
            RemoveVlanId => |c| {
                let before = settings.vlans.len();
                settings.vlans.retain(|(known, _)| *known != c.vlan_id.get());
                check(settings.vlans.len() < before)
            },
            ClearVlanFilters => |_| { settings.vlans.clear(); Ok(()) },
            GetPortMac => |_| Ok(MacAddressField { address: MacAddress::new(port_mac), ..Default::default() }),
            AddCustomTpid => |c| {
                if settings.tpids.len() >= TPIDS_MAX {
                    return Err(Status::NO_RESOURCE);
                }
                settings.tpids.push(c.tpid.get());
                Ok(())
            },
            RemoveCustomTpid => |c| {
                let before = settings.tpids.len();
                settings.tpids.retain(|known| *known != c.tpid.get());
                check(settings.tpids.len() < before)
            },
            GetCustomTpid => |_| {
                let tpid = |i: usize| settings.tpids.get(i).copied().unwrap_or(0).into();
                Ok(CustomTpids { tpid1: tpid(0), tpid2: tpid(1) })
            },
        )
    }

    fn dpni_classification(&mut self, index: usize, request: &Frame) -> Answer {
        let container = self.ni(index).container;
        let masked = self.ni(index).options & option::HAS_KEY_MASKING != 0;
        let tcs = self.ni(index).attributes.rx_tcs;
        let has_steering = self.ni(index).options & option::NO_FS == 0;
        let queues = u16::from(self.ni(index).attributes.queues);
        let tc_of = |tc: u8| if tc < tcs { Ok(usize::from(tc)) } else { Err(Status::CONFIGURATION) };
        commands!(request;
            SetRxHashDistribution => |c| {
                let tc = tc_of(c.tc)?;
                let hash = if c.enable & 1 != 0 {
                    check(DISTRIBUTION_SIZES.contains(&c.size.get()) && c.size.get() <= queues)?;
                    Some(self.key_config(container, c.key_config_iova.get())?)
                } else {
                    None
                };
                let distribution = &mut self.ni(index).settings.tcs[tc];
                distribution.hash = hash;
                distribution.hash_size = c.size.get();
                Ok(())
            },
            SetRxFsDistribution => |c| {
                let tc = tc_of(c.tc)?;
                check(has_steering)?;
                let config = if c.enable & 1 != 0 {
                    let miss = c.miss_queue.get();
                    check(miss < queues || miss == SetRxFsDistribution::DROP)?;
                    Some(self.key_config(container, c.key_config_iova.get())?)
                } else {
                    None
                };
                let distribution = &mut self.ni(index).settings.tcs[tc];
                distribution.steering_enabled = config.is_some();
                distribution.miss_queue = c.miss_queue.get();
                if config.is_none() {
                    distribution.steering.entries.clear();
                }
                distribution.steering.config = config;
                Ok(())
            },
            SetRxTcDistribution => |c| {
                let tc = tc_of(c.tc)?;
                let (mode, miss) = (c.modes & 15, c.modes >> 4);
                check(mode <= 2 && miss <= 2)?;
                let config = match mode {
                    0 => None,
                    _ => Some(self.key_config(container, c.key_config_iova.get())?),
                };
                let distribution = &mut self.ni(index).settings.tcs[tc];
                distribution.hash_size = c.size.get();
                distribution.steering_enabled = mode == 2;
                distribution.hash = if mode == 1 || mode == 2 && miss == 2 { config } else { None };
                distribution.steering.config = if mode == 2 { config } else { None };
                distribution.miss_queue = if miss == 0 { SetRxFsDistribution::DROP } else { c.default_queue.get() };
                if c.keep & 0x40 == 0 {
                    distribution.steering.entries.clear();
                }
                Ok(())
            },
            AddFsEntry => |c| {
                let tc = tc_of(c.tc)?;
                check(has_steering)?;
                let options = c.options.get();
                let known = fs_entry_option::DISCARD
                    | fs_entry_option::SET_FLC
                    | fs_entry_option::STASH_CONTROL
                    | fs_entry_option::REDIRECT_RX
                    | fs_entry_option::REDIRECT_TX
                    | fs_entry_option::UPDATE;
                if options & !known != 0 {
                    return Err(Status::UNSUPPORTED);
                }
                let (token, queue) = (c.redirect_tokens[0].get(), c.queue.get());
                let flc = (options & fs_entry_option::SET_FLC != 0).then(|| c.flc.get());
                let action = if options & fs_entry_option::DISCARD != 0 {
                    Steer::Discard
                } else if options & fs_entry_option::REDIRECT_RX != 0 {
                    Steer::RedirectRx { token, queue }
                } else if options & fs_entry_option::REDIRECT_TX != 0 {
                    Steer::RedirectTx { token, queue }
                } else {
                    check(queue < queues)?;
                    Steer::Queue { queue, flc }
                };
                if matches!(action, Steer::RedirectRx { .. } | Steer::RedirectTx { .. }) {
                    self.token_interface(token).ok_or(Status::CONFIGURATION)?;
                }
                let (key, mask) = self.key_and_mask(container, c.key_size, c.key_iova.get(), c.mask_iova.get(), masked)?;
                let update = options & fs_entry_option::UPDATE != 0;
                let table = &mut self.ni(index).settings.tcs[tc].steering;
                let at = masked.then(|| c.index.get());
                Ok(table.add(at, Entry { key, mask, action }, update).map_err(StatusOf::from)?)
            },
            RemoveFsEntry => |c| {
                let tc = tc_of(c.tc)?;
                let (key, mask) = self.key_and_mask(container, c.key_size, c.key_iova.get(), c.mask_iova.get(), masked)?;
                Ok(self.ni(index).settings.tcs[tc].steering.remove(&key, &mask).map_err(StatusOf::from)?)
            },
            ClearFsEntries => |c| {
                let tc = tc_of(c.tc)?;
                self.ni(index).settings.tcs[tc].steering.entries.clear();
                Ok(())
            },
            SetQosTable => |c| {
                check(tcs > 1 && c.default_tc < tcs)?;
                let config = self.key_config(container, c.key_config_iova.get())?;
                let settings = &mut self.ni(index).settings;
                settings.qos.config = Some(config);
                settings.default_tc = c.default_tc;
                settings.discard_on_qos_miss = c.flags & qos_table_flag::DISCARD_ON_MISS != 0;
                settings.default_queue =
                    (c.flags & qos_table_flag::DEFAULT_QUEUE != 0).then(|| c.default_queue.get());
                if c.flags & qos_table_flag::KEEP_ENTRIES == 0 {
                    settings.qos.entries.clear();
                }
                Ok(())
            },
            AddQosEntry => |c| {
                tc_of(c.tc)?;
                let queue = (c.flags & qos_entry_flag::QUEUE != 0).then_some(c.queue);
                check(queue.is_none_or(|queue| u16::from(queue) < queues))?;
                let (key, mask) = self.key_and_mask(container, c.key_size, c.key_iova.get(), c.mask_iova.get(), masked)?;
                let action = QosAction { tc: c.tc, queue };
                let update = c.flags & qos_entry_flag::UPDATE != 0;
                let at = masked.then(|| c.index.get());
                Ok(self.ni(index).settings.qos.add(at, Entry { key, mask, action }, update).map_err(StatusOf::from)?)
            },
            RemoveQosEntry => |c| {
                let (key, mask) = self.key_and_mask(container, c.key_size, c.key_iova.get(), c.mask_iova.get(), masked)?;
                Ok(self.ni(index).settings.qos.remove(&key, &mask).map_err(StatusOf::from)?)
            },
            DumpTable => |c| {
                if c.table_type.get() != TABLE_QOS {
                    return Err(Status::UNSUPPORTED);
                }
                let qos = &self.ni(index).settings.qos;
                let count = qos.entries.len() as u16;
                let mut header = TableDumpHeader { table_type: TABLE_QOS.into(), ..Default::default() };
                (header.entries, header.entries_max) = (count.into(), qos.capacity.into());
                let mut dump = header.as_bytes().to_vec();
                for entry in qos.entries.values() {
                    let mut one = TableDumpEntry::new_zeroed();
                    one.key[..entry.key.len()].copy_from_slice(&entry.key);
                    one.mask[..entry.mask.len()].copy_from_slice(&entry.mask);
                    dump.extend(one.as_bytes());
                }
                dump.truncate(c.size.get() as usize);
                self.dma(container).write(c.iova.get(), &dump).map_err(|_| Status::DMA)?;
                Ok(DumpedTable { entries: count.into() })
            },
            ClearQosTable => |_| { self.ni(index).settings.qos.entries.clear(); Ok(()) },
            SetRxTcPolicing => |c| {
                let tc = tc_of(c.tc)?;
                // Modes that colour frames need rates over time, which frames here don't have.
                match c.mode_and_colour & 15 {
                    0 | 1 => {}
                    _ => return Err(Status::UNSUPPORTED),
                }
                check(self.ni(index).options & option::HAS_POLICING != 0)?;
                self.ni(index).settings.policers[tc].copy_from_slice(c.as_bytes());
                Ok(())
            },
            GetRxTcPolicing => |c| {
                let tc = tc_of(c.tc)?;
                Ok(zerocopy::transmute!(self.ni(index).settings.policers[tc]))
            },
        )
    }

    /// Reads a key configuration; only as many bytes as it says it has.
    fn key_config(&mut self, container: u32, iova: u64) -> Result<KeyConfig, Status> {
        let mut config = KeyConfig::new_zeroed();
        let bytes = config.as_mut_bytes();
        let dma = self.dma(container);
        dma.read(iova, &mut bytes[..8]).map_err(|_| Status::DMA)?;
        let count = usize::from(bytes[0]);
        check((1..=EXTRACTS_MAX).contains(&count))?;
        dma.read(iova.wrapping_add(8), &mut bytes[8..8 + 24 * count]).map_err(|_| Status::DMA)?;
        check(parse::is_supported(&config))?;
        Ok(config)
    }

    fn key_and_mask(
        &mut self,
        container: u32,
        size: u8,
        key: u64,
        mask: u64,
        masked: bool,
    ) -> Result<(Vec<u8>, Vec<u8>), Status> {
        let size = usize::from(size);
        check((1..=KEY_BYTES_MAX).contains(&size))?;
        let (mut key_bytes, mut mask_bytes) = (vec![0; size], vec![0xff; size]);
        let dma = self.dma(container);
        dma.read(key, &mut key_bytes).map_err(|_| Status::DMA)?;
        if masked {
            dma.read(mask, &mut mask_bytes).map_err(|_| Status::DMA)?;
        }
        Ok((key_bytes, mask_bytes))
    }

    fn dpni_queues(&mut self, index: usize, request: &Frame) -> Answer {
        let container = self.ni(index).container;
        commands!(request;
            GetQueue => |c| {
                let fqid = self.queue_named(index, c.queue_type, c.channel, c.tc, c.index)?;
                let fq = self.qman.fq(fqid).ok_or(Status::CONFIGURATION)?;
                let (kind, number, priority) = match fq.destination {
                    Destination::Parked => (0, 0, 0),
                    Destination::Notify(portal) => (1, self.portals[portal].dpio, 0),
                    Destination::Channel(channel, priority) => {
                        let dpcon = self.dpcons.iter().find(|(_, dpcon)| dpcon.channel == channel);
                        (2, dpcon.map_or(0, |(id, _)| *id), priority)
                    }
                };
                let flags = kind
                    | if fq.flc_is_stash { queue_flag::STASH_CONTROL } else { 0 }
                    | if fq.hold_active { queue_flag::HOLD_ACTIVE } else { 0 };
                Ok(Queue {
                    destination_id: number.into(),
                    destination_priority: priority,
                    flags,
                    flc: fq.flc.into(),
                    user_context: fq.context.into(),
                    fqid: fqid.into(),
                    qdbin: u16::from(c.index).into(),
                    ..Default::default()
                })
            },
            SetQueue => |c| self.set_queue(index, container, &c),
            GetTaildrop => |c| {
                let limit = self.taildrop_of(index, c.point, c.queue_type, 0, c.tc, c.index)?.first().and_then(|place| {
                    match *place {
                        Place::Queue(fqid) => self.qman.fq(fqid)?.taildrop,
                        Place::Group(group) => self.qman.group(group)?.taildrop,
                    }
                });
                let mut answer = Taildrop::default();
                if let Some(limit) = limit {
                    (answer.enable_and_overhead_low, answer.overhead_high) = taildrop_overhead(limit.overhead);
                    answer.units = if limit.in_frames { Units::FRAMES } else { Units::BYTES };
                    answer.threshold = (limit.threshold as u32).into();
                }
                Ok(answer)
            },
            SetTaildrop => |c| {
                let limit = (c.enable_and_overhead_low & 1 != 0).then(|| Limit {
                    in_frames: c.units == Units::FRAMES,
                    threshold: c.threshold.get().into(),
                    overhead: overhead_of(c.enable_and_overhead_low, c.overhead_high),
                });
                check(c.units.0 <= 1)?;
                for place in self.taildrop_of(index, c.point, c.queue_type, c.channel, c.tc, c.index)? {
                    match place {
                        Place::Queue(fqid) => {
                            if let Some(fq) = self.qman.fq_mut(fqid) {
                                fq.taildrop = limit;
                            }
                        }
                        Place::Group(group) => {
                            if let Some(group) = self.qman.group_mut(group) {
                                group.taildrop = limit;
                            }
                        }
                    }
                }
                Ok(())
            },
            SetCongestionNotification => |c| {
                let group = self.congestion_group(index, c.point, c.queue_type, c.channel, c.tc, c.congestion_group)?;
                check(c.message_iova.get().is_multiple_of(16))?;
                let notice = CongestionNotice {
                    in_frames: c.type_and_units >> 4 & 3 == 1,
                    enter: c.entry.get().into(),
                    exit: c.exit.get().into(),
                    mode: c.mode.get(),
                    address: c.message_iova.get(),
                    context: c.context.get(),
                    destination_type: c.type_and_units & 15,
                    destination_id: c.destination_id.get(),
                    destination_priority: c.destination_priority,
                };
                let group = self.qman.group_mut(group).ok_or(Status::CONFIGURATION)?;
                group.notice = (notice.enter > 0).then_some(notice);
                Ok(())
            },
            GetCongestionNotification => |c| {
                let group = self.congestion_group(index, c.point, c.queue_type, c.channel, c.tc, c.congestion_group)?;
                let notice = self.qman.group(group).and_then(|group| group.notice).unwrap_or_default();
                Ok(SetCongestionNotification {
                    queue_type: c.queue_type,
                    tc: c.tc,
                    channel: c.channel,
                    point: c.point,
                    congestion_group: c.congestion_group,
                    destination_id: notice.destination_id.into(),
                    mode: notice.mode.into(),
                    destination_priority: notice.destination_priority,
                    type_and_units: notice.destination_type | u8::from(notice.in_frames) << 4,
                    message_iova: notice.address.into(),
                    context: notice.context.into(),
                    entry: (notice.enter as u32).into(),
                    exit: (notice.exit as u32).into(),
                    ..Default::default()
                })
            },
        )
    }

    fn queue_named(
        &mut self,
        index: usize,
        kind: QueueType,
        channel: u8,
        tc: u8,
        queue: u8,
    ) -> Result<Fqid, Status> {
        let ni = self.ni(index);
        let fqid = match kind {
            QueueType::RX => ni.rx_queue(tc, queue.into()),
            QueueType::TX => ni.tx_queue(channel, tc, queue.into()),
            QueueType::TX_CONFIRM => ni.tx_confirm_queue(channel, tc, queue.into()),
            QueueType::RX_ERROR => Some(ni.rx_error),
            _ => None,
        };
        fqid.ok_or(Status::CONFIGURATION)
    }

    fn set_queue(&mut self, index: usize, container: u32, c: &SetQueue) -> Done {
        let fqid = self.queue_named(index, c.queue_type, c.channel, c.tc, c.index)?;
        if c.queue_type == QueueType::TX {
            return Ok(());
        }
        let options = c.options;
        let ni = self.ni(index);
        let tc_group = ni.tc_groups.get(usize::from(c.tc)).or(ni.tc_groups.first()).copied();
        let own_group = ni.own_groups.get(usize::from(c.congestion_group)).copied();
        if let Some(fq) = self.qman.fq_mut(fqid) {
            if options & set_queue_option::USER_CONTEXT != 0 {
                fq.context = c.user_context.get();
            }
            if options & set_queue_option::FLC != 0 {
                fq.flc = c.flc.get();
                fq.flc_is_stash = c.flags & queue_flag::STASH_CONTROL != 0;
            }
            if options & set_queue_option::HOLD_ACTIVE != 0 {
                fq.hold_active = c.flags & queue_flag::HOLD_ACTIVE != 0;
            }
        }
        if options & set_queue_option::SET_CONGESTION_GROUP != 0 {
            self.qman.set_group(fqid, Some(own_group.ok_or(Status::CONFIGURATION)?));
        } else if options & set_queue_option::CLEAR_CONGESTION_GROUP != 0 {
            self.qman.set_group(fqid, tc_group.filter(|_| c.queue_type == QueueType::RX));
        }
        if options & set_queue_option::DESTINATION != 0 {
            let kind = c.flags & queue_flag::DESTINATION_MASK;
            let to = self.destination_of(kind, c.destination_id.get(), c.destination_priority, container);
            self.qman.set_destination(fqid, to.ok_or(Status::CONFIGURATION)?);
        }
        Ok(())
    }

    fn taildrop_of(
        &mut self,
        index: usize,
        point: CongestionPoint,
        kind: QueueType,
        channel: u8,
        tc: u8,
        queue: u8,
    ) -> Result<Vec<Place>, Status> {
        match (point, kind) {
            (CongestionPoint::QUEUE, _) => {
                self.queue_named(index, kind, channel, tc, queue).map(|fqid| vec![Place::Queue(fqid)])
            }
            (CongestionPoint::GROUP, QueueType::RX) => {
                let groups = &self.ni(index).tc_groups;
                let group = groups.get(usize::from(tc)).or(groups.first()).copied();
                group.map(|group| vec![Place::Group(group)]).ok_or(Status::CONFIGURATION)
            }
            (CongestionPoint::CONGESTION_GROUP, _) => {
                let group = self.ni(index).own_groups.get(usize::from(queue)).copied();
                group.map(|group| vec![Place::Group(group)]).ok_or(Status::CONFIGURATION)
            }
            _ => Err(Status::CONFIGURATION),
        }
    }

    fn congestion_group(
        &mut self,
        index: usize,
        point: CongestionPoint,
        kind: QueueType,
        channel: u8,
        tc: u8,
        group: u8,
    ) -> Result<GroupId, Status> {
        let ni = self.ni(index);
        let found = match (point, kind) {
            (CongestionPoint::CONGESTION_GROUP, _) => ni.own_groups.get(usize::from(group)),
            (CongestionPoint::QUEUE | CongestionPoint::GROUP, QueueType::TX) => {
                let tcs = usize::from(ni.attributes.tx_tcs);
                let valid = usize::from(tc) < tcs && channel < ni.attributes.channels;
                ni.tx_groups.get(usize::from(channel) * tcs + usize::from(tc)).filter(|_| valid)
            }
            (CongestionPoint::GROUP, QueueType::RX) => {
                ni.tc_groups.get(usize::from(tc)).or(ni.tc_groups.first())
            }
            _ => None,
        };
        found.copied().ok_or(Status::CONFIGURATION)
    }
}

/// What a tail drop limits.
#[derive(Clone, Copy, Debug)]
enum Place {
    Queue(Fqid),
    Group(GroupId),
}

fn layout_index(kind: QueueType) -> Result<usize, Status> {
    match kind {
        QueueType::RX => Ok(0),
        QueueType::TX => Ok(1),
        QueueType::TX_CONFIRM => Ok(2),
        _ => Err(Status::CONFIGURATION),
    }
}
