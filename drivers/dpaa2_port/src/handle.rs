//! What control asks of a running port, and changes.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dpaa2_defs::mc::dpni::LinkState;
use dpaa2_mc::{Dpni, McError, QueueId, State};
use fslmc_bus::Bus;

use crate::open::{limit, limit_rate};
use crate::port::{Interface, Shared, with_dpni};
use crate::{ClassTable, Dpaa2Error, FlowTable, TxRate};

/// The control side of an open interface. Clones refer to the same one and keep it open.
#[derive(Clone)]
pub struct Dpaa2Handle(pub(crate) Arc<dyn Control>);

/// An interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dpaa2Status {
    /// Its name: `dpni.1`.
    pub dpni: String,
    /// Its primary Ethernet address.
    pub mac: [u8; 6],
    /// Its link.
    pub link: LinkStatus,
    /// Longest frame without FCS, in bytes.
    pub frame_max: u16,
    /// Whether it receives whatever unicast address a frame is for.
    pub unicast_promiscuous: bool,
    /// Whether it receives whatever group address a frame is for.
    pub multicast_promiscuous: bool,
}

/// A link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Whether frames pass.
    pub is_up: bool,
    /// Mbit/s.
    pub rate_mbps: u32,
}

/// A handle's requests, whatever bus is underneath.
pub(crate) trait Control: Send + Sync {
    fn status(&self) -> Result<Dpaa2Status, Dpaa2Error>;
    fn link(&self) -> Result<LinkStatus, Dpaa2Error>;
    fn link_event(&self) -> Option<BorrowedFd<'_>>;
    fn take_link_event(&self) -> Result<bool, Dpaa2Error>;
    fn statistics(&self) -> Result<Vec<(String, u64)>, Dpaa2Error>;
    fn set_promiscuous(&self, unicast: bool, multicast: bool) -> Result<(), Dpaa2Error>;
    fn add_mac(&self, mac: [u8; 6]) -> Result<(), Dpaa2Error>;
    fn remove_mac(&self, mac: [u8; 6]) -> Result<(), Dpaa2Error>;
    fn set_vlans(&self, vlans: Option<&[u16]>) -> Result<(), Dpaa2Error>;
    fn set_frame_max(&self, bytes: u16) -> Result<(), Dpaa2Error>;
    fn set_class_table(&self, table: Option<&ClassTable>) -> Result<(), Dpaa2Error>;
    fn can_follow(&self, table: &ClassTable) -> bool;
    fn set_flow_table(&self, class: u8, table: Option<&FlowTable>) -> Result<(), Dpaa2Error>;
    fn set_rx_queue_bytes(&self, class: u8, bytes: u32) -> Result<(), Dpaa2Error>;
    fn set_tx_rate(&self, rate: Option<TxRate>) -> Result<(), Dpaa2Error>;
    fn rx_depths(&self) -> Result<Vec<u32>, Dpaa2Error>;
    fn rx_class_drops(&self) -> Result<Vec<u64>, Dpaa2Error>;
    fn stop(&self);
}

impl Dpaa2Handle {
    /// Asks the firmware how the interface is.
    ///
    /// # Errors
    /// It doesn't say.
    pub fn status(&self) -> Result<Dpaa2Status, Dpaa2Error> {
        self.0.status()
    }

    /// Asks for the link only.
    ///
    /// # Errors
    /// The firmware doesn't say.
    pub fn link(&self) -> Result<LinkStatus, Dpaa2Error> {
        self.0.link()
    }

    /// The descriptor that becomes readable when the link, or what the interface is connected to, has changed: then
    /// [`take_link_event`](Self::take_link_event). `None` when the object has no interrupt.
    pub fn link_event(&self) -> Option<BorrowedFd<'_>> {
        self.0.link_event()
    }

    /// Whether the link, or what the interface is connected to, has changed since this was asked last. Never blocks
    /// on the descriptor.
    ///
    /// # Errors
    /// The firmware doesn't say.
    pub fn take_link_event(&self) -> Result<bool, Dpaa2Error> {
        self.0.take_link_event()
    }

    /// Every counter of the interface by name: the firmware's pages (those of classes with their number), then the
    /// driver's own.
    ///
    /// # Errors
    /// The firmware doesn't say.
    pub fn statistics(&self) -> Result<Vec<(String, u64)>, Dpaa2Error> {
        self.0.statistics()
    }

    /// Receives frames for whatever address, or only those for the interface's own and added ones.
    ///
    /// # Errors
    /// The firmware refuses.
    pub fn set_promiscuous(&self, unicast: bool, multicast: bool) -> Result<(), Dpaa2Error> {
        self.0.set_promiscuous(unicast, multicast)
    }

    /// Receives frames for this address too; group addresses included, that of broadcast as well.
    ///
    /// # Errors
    /// The filter is full, or the interface was created without.
    pub fn add_mac(&self, mac: [u8; 6]) -> Result<(), Dpaa2Error> {
        self.0.add_mac(mac)
    }

    /// Undoes [`add_mac`](Self::add_mac).
    ///
    /// # Errors
    /// The address isn't in the filter.
    pub fn remove_mac(&self, mac: [u8; 6]) -> Result<(), Dpaa2Error> {
        self.0.remove_mac(mac)
    }

    /// Receives frames of these VLANs only, or of all.
    ///
    /// # Errors
    /// The filter has fewer entries, or the interface was created without.
    pub fn set_vlans(&self, vlans: Option<&[u16]>) -> Result<(), Dpaa2Error> {
        self.0.set_vlans(vlans)
    }

    /// Changes the longest frame, without FCS, both ways.
    ///
    /// # Errors
    /// The firmware refuses.
    pub fn set_frame_max(&self, bytes: u16) -> Result<(), Dpaa2Error> {
        self.0.set_frame_max(bytes)
    }

    /// Puts a table in force that gives received frames their traffic class, or none. Entries that stay as they are keep
    /// working meanwhile.
    ///
    /// # Errors
    /// The table doesn't fit the interface: nothing has changed. The firmware refuses: set one again.
    pub fn set_class_table(&self, table: Option<&ClassTable>) -> Result<(), Dpaa2Error> {
        self.0.set_class_table(table)
    }

    /// Whether a table can take the place of the one in force entry by entry, because both look at the same fields: then
    /// each frame gets its class by one or the other all the while. Else all get that of frames that match nothing while the
    /// table changes.
    pub fn can_follow(&self, table: &ClassTable) -> bool {
        self.0.can_follow(table)
    }

    /// Puts a table in force that gives frames of a class their queue, or none. Entries that stay as they are keep
    /// working meanwhile.
    ///
    /// # Errors
    /// As [`set_class_table`](Self::set_class_table).
    pub fn set_flow_table(&self, class: u8, table: Option<&FlowTable>) -> Result<(), Dpaa2Error> {
        self.0.set_flow_table(class, table)
    }

    /// Changes how many bytes may wait in each receive queue of a class.
    ///
    /// # Errors
    /// There is no such class, or the firmware refuses.
    pub fn set_rx_queue_bytes(&self, class: u8, bytes: u32) -> Result<(), Dpaa2Error> {
        self.0.set_rx_queue_bytes(class, bytes)
    }

    /// Limits transmission, or no longer. The interface must be connected to a MAC.
    ///
    /// # Errors
    /// The firmware refuses.
    pub fn set_tx_rate(&self, rate: Option<TxRate>) -> Result<(), Dpaa2Error> {
        self.0.set_tx_rate(rate)
    }

    /// Frames that wait in each receive queue.
    ///
    /// # Errors
    /// The firmware doesn't say which queues these are, or the portal doesn't answer.
    pub fn rx_depths(&self) -> Result<Vec<u32>, Dpaa2Error> {
        self.0.rx_depths()
    }

    /// Frames of each traffic class of reception that hardware dropped because too many of the class waited (see
    /// [`RxClass::frames`](crate::RxClass::frames)), since the interface was created.
    ///
    /// # Errors
    /// The firmware doesn't say.
    pub fn rx_class_drops(&self) -> Result<Vec<u64>, Dpaa2Error> {
        self.0.rx_class_drops()
    }

    /// Stops the interface before its queues are taken from the workers: nothing is received any more. It is started
    /// again by opening the port again.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl<B: Bus> Control for Shared<B> {
    fn status(&self) -> Result<Dpaa2Status, Dpaa2Error> {
        with_dpni!(self, dpni => Ok(Dpaa2Status {
            dpni: dpni.object().to_string(),
            mac: dpni.primary_mac()?,
            link: link_of(dpni.link_state()?),
            frame_max: dpni.max_frame_length()?,
            unicast_promiscuous: dpni.is_unicast_promiscuous()?,
            multicast_promiscuous: dpni.is_multicast_promiscuous()?,
        }))
    }

    fn link(&self) -> Result<LinkStatus, Dpaa2Error> {
        with_dpni!(self, dpni => Ok(link_of(dpni.link_state()?)))
    }

    fn link_event(&self) -> Option<BorrowedFd<'_>> {
        self.link_event.as_ref().map(AsFd::as_fd)
    }

    fn take_link_event(&self) -> Result<bool, Dpaa2Error> {
        self.clear_link_event();
        with_dpni!(self, dpni => Ok(dpni.take_events()? != 0))
    }

    fn statistics(&self) -> Result<Vec<(String, u64)>, Dpaa2Error> {
        let counters = with_dpni!(self, dpni => dpni.all_counters())?;
        let mut all: Vec<_> = counters.into_iter().map(|counter| (counter.name, counter.value)).collect();
        all.extend(self.counters.all());
        Ok(all)
    }

    fn set_promiscuous(&self, unicast: bool, multicast: bool) -> Result<(), Dpaa2Error> {
        with_dpni!(self, dpni => {
            dpni.set_unicast_promiscuous(unicast)?;
            Ok(dpni.set_multicast_promiscuous(multicast)?)
        })
    }

    fn add_mac(&self, mac: [u8; 6]) -> Result<(), Dpaa2Error> {
        with_dpni!(self, dpni => Ok(dpni.add_mac_filter(mac)?))
    }

    fn remove_mac(&self, mac: [u8; 6]) -> Result<(), Dpaa2Error> {
        with_dpni!(self, dpni => Ok(dpni.remove_mac_filter(mac)?))
    }

    fn set_vlans(&self, vlans: Option<&[u16]>) -> Result<(), Dpaa2Error> {
        with_dpni!(self, dpni => Ok(set_vlans(dpni, vlans)?))
    }

    fn set_frame_max(&self, bytes: u16) -> Result<(), Dpaa2Error> {
        with_dpni!(self, dpni => dpni.set_max_frame_length(bytes))?;
        self.frame_max.store(bytes.into(), Ordering::Relaxed);
        Ok(())
    }

    fn set_class_table(&self, table: Option<&ClassTable>) -> Result<(), Dpaa2Error> {
        with_dpni!(self, dpni => self.steering().set_classes(dpni, &self.rx_classes, table))
    }

    fn can_follow(&self, table: &ClassTable) -> bool {
        self.steering().can_follow(table)
    }

    fn set_flow_table(&self, class: u8, table: Option<&FlowTable>) -> Result<(), Dpaa2Error> {
        with_dpni!(self, dpni => self.steering().set_flows(dpni, &self.rx_classes, class, table))
    }

    fn set_rx_queue_bytes(&self, class: u8, bytes: u32) -> Result<(), Dpaa2Error> {
        let has = self.rx_classes.get(usize::from(class));
        with_dpni!(self, dpni => {
            let wrong = || Dpaa2Error::Config {
                object: dpni.object(),
                what: format!("class {class}; it has {}", self.rx_classes.len()),
            };
            for index in 0..has.ok_or_else(wrong)?.queues {
                dpni.set_taildrop(QueueId::rx(class, index as u8), limit(bytes))?;
            }
            Ok(())
        })
    }

    fn set_tx_rate(&self, rate: Option<TxRate>) -> Result<(), Dpaa2Error> {
        with_dpni!(self, dpni => Ok(limit_rate(dpni, None, rate)?))
    }

    fn rx_depths(&self) -> Result<Vec<u32>, Dpaa2Error> {
        let mut depths = vec![];
        for (class, has) in self.rx_classes.iter().enumerate() {
            for index in 0..has.queues {
                let queue = QueueId::rx(class as u8, index as u8);
                let fqid = with_dpni!(self, dpni => dpni.queue(queue))?.fqid.get();
                depths.push(self.hardware.frames_in(fqid)?);
            }
        }
        Ok(depths)
    }

    fn rx_class_drops(&self) -> Result<Vec<u64>, Dpaa2Error> {
        let classes = self.rx_classes.len() as u8;
        (0..classes).map(|class| with_dpni!(self, dpni => Ok(dpni.class_drops(class)?))).collect()
    }

    fn stop(&self) {
        Shared::stop(self);
    }
}

fn link_of(state: LinkState) -> LinkStatus {
    LinkStatus { is_up: state.is_up(), rate_mbps: state.rate.get() }
}

/// Lets frames of these VLANs pass, or of all.
pub(crate) fn set_vlans<S: State>(dpni: &Dpni<S>, vlans: Option<&[u16]>) -> Result<(), McError> {
    let Some(vlans) = vlans else { return dpni.set_vlan_filter(false) };
    dpni.clear_vlans()?;
    vlans.iter().try_for_each(|&vlan| dpni.add_vlan(vlan))?;
    dpni.set_vlan_filter(true)
}
