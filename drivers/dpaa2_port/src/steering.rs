//! How received frames get their traffic class and their queue: the interface's QoS table, its flow-steering tables, its
//! hash distribution.
//!
//! ```text
//! frame ── class table (QoS) ──> class, perhaps queue        no entry: a default class, or dropped
//!             └─ flow table of the class ──> queue, or dropped
//!                   └─ no entry: hash over the class's queues, one queue, or dropped
//! ```
//!
//! Tables are values. Setting one puts exactly it in force: entries that stay the same are not touched, so frames that they
//! are for don't notice. In the table of classes they keep their places even if others come in front of them, and what goes
//! is taken out after what comes was put in.

use dpaa2_defs::classify::{
    Extract, KEY_BYTES_MAX, KeyAndMask, KeyConfig, TABLE_QOS, TableDumpEntry, TableDumpHeader, five_tuple,
};
use dpaa2_defs::mc::dpni::{
    AddFsEntry, AddQosEntry, Attributes, RemoveFsEntry, RemoveQosEntry, SetQosTable, SetRxFsDistribution,
    fs_entry_option, option, qos_entry_flag, qos_table_flag,
};
use dpaa2_defs::mc::object::ObjectId;
use dpaa2_mc::{Dpni, McError, State};
use fslmc_bus::{Bus, BusError, DmaMemory, barrier};
use zerocopy::{FromBytes, IntoBytes};

use crate::places::places;
use crate::{Dpaa2Error, RxClass};

/// Most traffic classes of reception.
pub(crate) const CLASSES_MAX: usize = 8;

/// The bytes that a table compares of each frame: an entry matches a frame when both are the same under the entry's mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Values of the table's fields in network order, one behind the other; at most 56 bytes, and zeros behind them.
    pub key: Vec<u8>,
    /// One bits are compared. As long as the key.
    pub mask: Vec<u8>,
}

/// The table that chooses the traffic class. The interface needs more than one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassTable {
    /// The fields that are looked at.
    pub key: Vec<Extract>,
    /// Its entries.
    pub entries: Vec<ClassEntry>,
    /// The class of frames that match none; `None` drops them.
    pub otherwise: Option<u8>,
}

/// An entry of a [`ClassTable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassEntry {
    /// Its rank: of several that match, the one with the lowest counts.
    pub index: u16,
    /// The frames it is for.
    pub matches: Match,
    /// Their class.
    pub class: u8,
    /// Their queue in the class; `None`: as the class has it.
    pub queue: Option<u8>,
}

/// The table that chooses the queue in a traffic class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowTable {
    /// The fields that are looked at.
    pub key: Vec<Extract>,
    /// Its entries.
    pub entries: Vec<FlowEntry>,
    /// What becomes of frames that match none.
    pub otherwise: Miss,
}

/// An entry of a [`FlowTable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    /// Its place: of several that match, the one with the lowest counts.
    pub index: u16,
    /// The frames it is for.
    pub matches: Match,
    /// Their queue in the class; `None` drops them.
    pub queue: Option<u8>,
}

/// What becomes of frames that match no entry of a [`FlowTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// They are spread over the queues of the class as without a table.
    Spread,
    /// They go to this queue of the class.
    Queue(u8),
    /// They are dropped.
    Drop,
}

/// What of the tables is in force, and memory for commands about them.
pub(crate) struct Steering<B: Bus> {
    object: ObjectId,
    attributes: Attributes,
    scratch: DmaMemory<B>,
    /// Where the firmware writes tables that are read back.
    dump: DmaMemory<B>,
    classes: InForce<ClassTable>,
    flows: [InForce<FlowTable>; CLASSES_MAX],
}

/// A table of the interface, as far as that is known.
#[derive(Clone, Debug, Default)]
enum InForce<T> {
    #[default]
    None,
    Table(T),
    /// A command about it failed.
    Unknown,
}

impl<T> InForce<T> {
    fn table(&self) -> Option<&T> {
        match self {
            InForce::Table(table) => Some(table),
            InForce::None | InForce::Unknown => None,
        }
    }
}

/// How an entry differs from what is in force.
struct Changes<'a, E> {
    removed: Vec<&'a E>,
    added: Vec<&'a E>,
    /// The same frames at the same place, but something else is done with them.
    updated: Vec<&'a E>,
}

trait Entry: PartialEq {
    fn place(&self) -> (u16, &Match);
}

impl Entry for ClassEntry {
    fn place(&self) -> (u16, &Match) {
        (self.index, &self.matches)
    }
}

impl Entry for FlowEntry {
    fn place(&self) -> (u16, &Match) {
        (self.index, &self.matches)
    }
}

fn changes<'a, E: Entry>(old: &'a [E], new: &'a [E]) -> Changes<'a, E> {
    let is_in = |list: &[E], entry: &E| list.iter().any(|other| other.place() == entry.place());
    Changes {
        removed: old.iter().filter(|entry| !is_in(new, entry)).collect(),
        added: new.iter().filter(|entry| !is_in(old, entry)).collect(),
        updated: new.iter().filter(|entry| is_in(old, entry) && !old.contains(entry)).collect(),
    }
}

impl<B: Bus> Steering<B> {
    pub fn new(bus: &B, object: ObjectId, attributes: Attributes) -> Result<Steering<B>, BusError> {
        let scratch = DmaMemory::new(bus, size_of::<KeyConfig>().max(size_of::<KeyAndMask>()))?;
        let entries = usize::from(attributes.qos_entries);
        let dump_bytes = size_of::<TableDumpHeader>() + entries * size_of::<TableDumpEntry>();
        let dump = DmaMemory::new(bus, dump_bytes)?;
        let (classes, flows) = Default::default();
        Ok(Steering { object, attributes, scratch, dump, classes, flows })
    }

    /// Puts a table for the firmware to read and returns where it is.
    fn show(&mut self, bytes: &[u8]) -> u64 {
        assert!(bytes.len() <= self.scratch.len_bytes(), "more than the memory is for");
        // SAFETY: the memory is ours and long enough; the firmware reads it only during a command, and there is none.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.scratch.as_ptr().as_ptr(), bytes.len()) };
        barrier::before_handover();
        self.scratch.iova()
    }

    fn show_key(&mut self, key: &[Extract]) -> Result<u64, Dpaa2Error> {
        let config = KeyConfig::new(key).filter(|_| !key.is_empty());
        let config = config.ok_or_else(|| self.wrong(format!("{} fields in a key", key.len())))?;
        Ok(self.show(config.as_bytes()))
    }

    /// Addresses of key and mask.
    fn show_match(&mut self, matches: &Match) -> (u64, u64) {
        let both = KeyAndMask::new(&matches.key, &matches.mask).expect("checked with its table");
        let key = self.show(both.as_bytes());
        (key, key + KeyAndMask::MASK_OFFSET)
    }

    fn wrong(&self, what: String) -> Dpaa2Error {
        Dpaa2Error::Config { object: self.object, what }
    }

    /// Spreads the frames of a class over its queues.
    pub fn spread<S: State>(&mut self, dpni: &Dpni<S>, class: u8, how: &RxClass) -> Result<(), Dpaa2Error> {
        if how.queues == 1 || how.spread_by.is_empty() {
            return Ok(dpni.clear_hash_distribution(class)?);
        }
        let key = self.show_key(&how.spread_by)?;
        Ok(dpni.set_hash_distribution(class, how.queues, key)?)
    }

    /// Whether a table of classes can take the place of the one in force entry by entry.
    pub fn can_follow(&self, table: &ClassTable) -> bool {
        self.classes.table().is_some_and(|old| old.key == table.key)
    }

    /// Puts a table of classes in force, or none: then all frames are of class 0.
    pub fn set_classes<S: State>(
        &mut self,
        dpni: &Dpni<S>,
        rx_classes: &[RxClass],
        table: Option<&ClassTable>,
    ) -> Result<(), Dpaa2Error> {
        if let Some(table) = table {
            self.check_classes(rx_classes, table)?;
        } else if matches!(self.classes, InForce::None) {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.classes, InForce::Unknown);
        let Some(table) = table else {
            // A table without entries that gives all frames class 0 is as good as none.
            dpni.clear_qos_table()?;
            let empty = ClassTable { key: five_tuple().to_vec(), entries: vec![], otherwise: Some(0) };
            self.set_class_key(dpni, &empty, 0)?;
            self.classes = InForce::None;
            return Ok(());
        };
        let same_key = before.table().filter(|old| old.key == table.key);
        let entries: &[ClassEntry] = same_key.map_or(&[], |old| &old.entries);
        let table = ClassTable { entries: self.in_places(entries, &table.entries), ..table.clone() };
        let changes = changes(entries, &table.entries);
        match same_key {
            None => {
                dpni.clear_qos_table()?;
                self.set_class_key(dpni, &table, 0)?;
            }
            Some(old) if old.otherwise != table.otherwise => {
                self.set_class_key(dpni, &table, qos_table_flag::KEEP_ENTRIES)?;
            }
            Some(_) => {}
        }
        // What goes only makes room for what comes where it must: until then its frames have an entry.
        let full = entries.len() + changes.added.len() > self.attributes.qos_entries.into();
        let is_in_the_way = |entry: &&ClassEntry| {
            full || changes.added.iter().any(|new| new.index == entry.index || new.matches == entry.matches)
        };
        let (first, last): (Vec<_>, Vec<_>) = changes.removed.into_iter().partition(is_in_the_way);
        for entry in first {
            self.remove_class_entry(dpni, entry)?;
        }
        for (entries, flag) in [(changes.updated, qos_entry_flag::UPDATE), (changes.added, 0)] {
            for entry in entries {
                self.add_class_entry(dpni, entry, flag)?;
            }
        }
        for entry in last {
            self.remove_class_entry(dpni, entry)?;
        }
        self.read_back(dpni, &table.entries)?;
        self.classes = InForce::Table(table);
        Ok(())
    }

    /// Compares the table of classes in hardware with these entries, where the firmware can tell: it says their keys and
    /// masks. (For the keys' fields, and for what becomes of other frames, there is no command.)
    fn read_back<S: State>(&self, dpni: &Dpni<S>, entries: &[ClassEntry]) -> Result<(), Dpaa2Error> {
        let len = self.dump.len_bytes();
        let Some(count) = dpni.dump_table(TABLE_QOS, self.dump.iova(), len as u32)? else { return Ok(()) };
        barrier::after_takeover();
        let mut dumped = vec![0; len];
        // SAFETY: the memory is ours and that long; the firmware writes to it only during the command.
        unsafe { std::ptr::copy_nonoverlapping(self.dump.as_ptr().as_ptr(), dumped.as_mut_ptr(), len) };
        let (header, rest) = dumped.split_at(size_of::<TableDumpHeader>());
        let header = TableDumpHeader::read_from_bytes(header).expect("its own size");
        if header.entries_max.get() != u16::from(self.attributes.qos_entries) {
            return Ok(());
        }
        let differs = |what: String| Err(Dpaa2Error::ReadBack { object: self.object, what });
        if usize::from(count) != entries.len() {
            return differs(format!("a class table of {} entries (it says {count})", entries.len()));
        }
        let found: Vec<_> = rest
            .chunks_exact(size_of::<TableDumpEntry>())
            .take(count.into())
            .filter_map(|bytes| TableDumpEntry::read_from_bytes(bytes).ok())
            .collect();
        let masked = self.attributes.options.get() & option::HAS_KEY_MASKING != 0;
        for entry in entries {
            let Match { key, mask } = &entry.matches;
            let is_it = |dumped: &TableDumpEntry| {
                dumped.key.starts_with(key) && (!masked || dumped.mask.starts_with(mask))
            };
            if !found.iter().any(is_it) {
                return differs(format!(
                    "class entry {} (key {key:02x?}, class {})",
                    entry.index, entry.class
                ));
            }
        }
        Ok(())
    }

    /// New entries in their order, at places where those that are in force already stay.
    fn in_places(&self, old: &[ClassEntry], new: &[ClassEntry]) -> Vec<ClassEntry> {
        let mut new = new.to_vec();
        new.sort_by_key(|entry| entry.index);
        let old: Vec<_> = old.iter().map(Entry::place).collect();
        let matches: Vec<_> = new.iter().map(|entry| &entry.matches).collect();
        let places = places(&old, &matches, self.attributes.qos_entries.into());
        new.into_iter().zip(places).map(|(entry, index)| ClassEntry { index, ..entry }).collect()
    }

    fn remove_class_entry<S: State>(&mut self, dpni: &Dpni<S>, entry: &ClassEntry) -> Result<(), McError> {
        let (key_iova, mask_iova) = self.show_match(&entry.matches);
        dpni.remove_qos_entry(&RemoveQosEntry {
            key_size: KEY_BYTES_MAX as u8,
            key_iova: key_iova.into(),
            mask_iova: mask_iova.into(),
            ..Default::default()
        })
    }

    fn set_class_key<S: State>(
        &mut self,
        dpni: &Dpni<S>,
        table: &ClassTable,
        flags: u8,
    ) -> Result<(), Dpaa2Error> {
        let key_config_iova = self.show_key(&table.key)?.into();
        let drop = if table.otherwise.is_none() { qos_table_flag::DISCARD_ON_MISS } else { 0 };
        Ok(dpni.set_qos_table(&SetQosTable {
            default_tc: table.otherwise.unwrap_or(0),
            flags: flags | drop,
            key_config_iova,
            ..Default::default()
        })?)
    }

    fn add_class_entry<S: State>(
        &mut self,
        dpni: &Dpni<S>,
        entry: &ClassEntry,
        flag: u8,
    ) -> Result<(), McError> {
        let (key_iova, mask_iova) = self.show_match(&entry.matches);
        let queue = if entry.queue.is_some() { qos_entry_flag::QUEUE } else { 0 };
        dpni.add_qos_entry(&AddQosEntry {
            flags: flag | queue,
            queue: entry.queue.unwrap_or(0),
            tc: entry.class,
            key_size: KEY_BYTES_MAX as u8,
            index: entry.index.into(),
            key_iova: key_iova.into(),
            mask_iova: mask_iova.into(),
            ..Default::default()
        })
    }

    /// Puts a flow table of a class in force, or none: then its frames are spread over its queues.
    pub fn set_flows<S: State>(
        &mut self,
        dpni: &Dpni<S>,
        rx_classes: &[RxClass],
        class: u8,
        table: Option<&FlowTable>,
    ) -> Result<(), Dpaa2Error> {
        let Some(how) = rx_classes.get(usize::from(class)) else {
            return Err(self.wrong(format!("class {class}; it has {}", rx_classes.len())));
        };
        if let Some(table) = table {
            self.check_flows(how, table)?;
        } else if matches!(self.flows[usize::from(class)], InForce::None) {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.flows[usize::from(class)], InForce::Unknown);
        let Some(table) = table else {
            self.spread(dpni, class, how)?;
            dpni.set_fs_distribution(&SetRxFsDistribution {
                size: 1.into(),
                tc: class,
                ..Default::default()
            })?;
            self.flows[usize::from(class)] = InForce::None;
            return Ok(());
        };
        let same_key = before.table().filter(|old| old.key == table.key);
        let entries: &[FlowEntry] = same_key.map_or(&[], |old| &old.entries);
        let changes = changes(entries, &table.entries);
        if same_key.is_none() {
            dpni.clear_fs_entries(class)?;
        }
        if same_key.is_none_or(|old| old.otherwise != table.otherwise) {
            self.set_flow_key(dpni, class, how, table)?;
        }
        for entry in changes.removed {
            let (key_iova, mask_iova) = self.show_match(&entry.matches);
            dpni.remove_fs_entry(&RemoveFsEntry {
                tc: class,
                key_size: KEY_BYTES_MAX as u8,
                key_iova: key_iova.into(),
                mask_iova: mask_iova.into(),
                ..Default::default()
            })?;
        }
        for (entries, option) in [(changes.updated, fs_entry_option::UPDATE), (changes.added, 0)] {
            for entry in entries {
                self.add_flow_entry(dpni, class, entry, option)?;
            }
        }
        self.flows[usize::from(class)] = InForce::Table(table.clone());
        Ok(())
    }

    fn set_flow_key<S: State>(
        &mut self,
        dpni: &Dpni<S>,
        class: u8,
        how: &RxClass,
        table: &FlowTable,
    ) -> Result<(), Dpaa2Error> {
        // What matches nothing is hashed whenever the class has a hash, whatever the miss queue says.
        let miss_queue = match table.otherwise {
            Miss::Spread => {
                self.spread(dpni, class, how)?;
                0
            }
            Miss::Queue(_) | Miss::Drop => {
                dpni.clear_hash_distribution(class)?;
                if let Miss::Queue(queue) = table.otherwise {
                    queue.into()
                } else {
                    SetRxFsDistribution::DROP
                }
            }
        };
        let key_config_iova = self.show_key(&table.key)?.into();
        Ok(dpni.set_fs_distribution(&SetRxFsDistribution {
            size: how.queues.into(),
            enable: 1,
            tc: class,
            miss_queue: miss_queue.into(),
            key_config_iova,
            ..Default::default()
        })?)
    }

    fn add_flow_entry<S: State>(
        &mut self,
        dpni: &Dpni<S>,
        class: u8,
        entry: &FlowEntry,
        option: u16,
    ) -> Result<(), McError> {
        let (key_iova, mask_iova) = self.show_match(&entry.matches);
        let discard = if entry.queue.is_none() { fs_entry_option::DISCARD } else { 0 };
        dpni.add_fs_entry(&AddFsEntry {
            options: (option | discard).into(),
            tc: class,
            key_size: KEY_BYTES_MAX as u8,
            index: entry.index.into(),
            queue: u16::from(entry.queue.unwrap_or(0)).into(),
            key_iova: key_iova.into(),
            mask_iova: mask_iova.into(),
            ..Default::default()
        })
    }

    fn check_classes(&self, rx_classes: &[RxClass], table: &ClassTable) -> Result<(), Dpaa2Error> {
        if rx_classes.len() < 2 {
            return Err(self.wrong("a table of classes needs more than one of them".to_owned()));
        }
        let has_class = |class: u8| usize::from(class) < rx_classes.len();
        if let Some(class) = table.otherwise.filter(|&class| !has_class(class)) {
            return Err(self.wrong(format!("class {class}; it has {}", rx_classes.len())));
        }
        for entry in &table.entries {
            let Some(class) = rx_classes.get(usize::from(entry.class)) else {
                return Err(self.wrong(format!("class {}; it has {}", entry.class, rx_classes.len())));
            };
            self.check_queue(class, entry.queue)?;
        }
        self.check_entries(&table.entries, self.attributes.qos_entries.into(), "class")
    }

    fn check_flows(&self, how: &RxClass, table: &FlowTable) -> Result<(), Dpaa2Error> {
        if self.attributes.options.get() & option::NO_FS != 0 {
            return Err(self.wrong("it was created without flow steering".to_owned()));
        }
        for entry in &table.entries {
            self.check_queue(how, entry.queue)?;
        }
        if let Miss::Queue(queue) = table.otherwise {
            self.check_queue(how, Some(queue))?;
        }
        self.check_entries(&table.entries, self.attributes.fs_entries.get(), "flow")
    }

    fn check_queue(&self, class: &RxClass, queue: Option<u8>) -> Result<(), Dpaa2Error> {
        match queue {
            Some(queue) if u16::from(queue) >= class.queues => {
                Err(self.wrong(format!("queue {queue} of a class that has {}", class.queues)))
            }
            _ => Ok(()),
        }
    }

    fn check_entries<E: Entry>(&self, entries: &[E], room: u16, kind: &str) -> Result<(), Dpaa2Error> {
        let masks = self.attributes.options.get() & option::HAS_KEY_MASKING != 0;
        for (n, entry) in entries.iter().enumerate() {
            let (index, matches) = entry.place();
            if index >= room {
                return Err(self.wrong(format!("{kind} entry {index}; it has room for {room}")));
            }
            if KeyAndMask::new(&matches.key, &matches.mask).is_none() {
                let (key, mask) = (matches.key.len(), matches.mask.len());
                let what = format!(
                    "{kind} entry {index}: {key} bytes of key, {mask} of mask; at most {KEY_BYTES_MAX}, as many"
                );
                return Err(self.wrong(what));
            }
            if !masks && matches.mask.iter().any(|&byte| byte != 0xff) {
                let what = format!("{kind} entry {index} has a mask; it was created without key masking");
                return Err(self.wrong(what));
            }
            let twice = |other: &E| other.place().0 == index || other.place().1 == matches;
            if entries[..n].iter().any(twice) {
                return Err(self.wrong(format!("{kind} entry {index} is there twice")));
            }
        }
        Ok(())
    }
}
