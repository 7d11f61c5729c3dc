//! The Management Complex: command portals, tokens, objects.
//!
//! Every command in every version up to the newest known is decoded with the newest layout; what an older one doesn't
//! have reads as 0. Commands, versions, objects and values that aren't known are refused.

mod dpni;
mod dprc;
mod objects;

use crate::Model;
use crate::audit::Rule;
use crate::memory::Region;
use crate::qman::{ChannelId, Fqid};
use dpaa2_defs::mc::common::ApiVersion;
use dpaa2_defs::mc::header::{Command, Frame, Status};
use dpaa2_defs::mc::object::{ObjectId, ObjectType, Text16};
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::sync::Arc;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Matches a request's number with commands and answers with what the arm of the right one gives.
macro_rules! commands {
    ($frame:expr; $( $(#[$meta:meta])* $command:ty => $handler:expr, )*) => {
        match $frame.header.id().id {
            $( id if id == <$command as dpaa2_defs::mc::header::Command>::CMD.id => {
                crate::mc::answer::<$command>($frame, $handler)
            } )*
            _ => Err(dpaa2_defs::mc::header::Status::UNSUPPORTED),
        }
    };
}
pub(crate) use commands;

/// The outcome of a command.
type Answer = Result<Frame, Status>;

/// Decodes a request, if its version is known, and encodes the response.
pub(crate) fn answer<C: Command>(
    frame: &Frame,
    handler: impl FnOnce(C) -> Result<C::Response, Status>,
) -> Answer {
    if frame.header.id().version > C::NEWEST_VERSION {
        return Err(Status::UNSUPPORTED);
    }
    handler(frame.read()).map(|response| frame.response(Status::OK, &response))
}

/// A portal for commands: a dpmcp's, or a container's own.
#[derive(Debug)]
pub(crate) struct CommandPortal {
    pub object: ObjectId,
    pub container: u32,
    pub region: Arc<Region>,
}

/// An interrupt of an object.
#[derive(Debug, Default)]
pub(crate) struct ObjectIrq {
    pub enabled: bool,
    pub mask: u32,
    pub status: u32,
    pub event: Option<OwnedFd>,
    pub msi: [u8; 16],
}

/// What all objects have.
#[derive(Debug)]
pub(crate) struct Object {
    pub container: u32,
    pub is_plugged: bool,
    pub label: Text16,
    pub irq: ObjectIrq,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Dprc {
    pub icid: u16,
    pub options: u32,
    pub portal_id: u32,
    pub is_locked: bool,
}

/// A concentrator.
#[derive(Debug)]
pub(crate) struct Dpcon {
    pub container: u32,
    pub channel: ChannelId,
    pub priorities: u8,
    pub enabled: bool,
}

/// A message queue pair.
#[derive(Debug)]
pub(crate) struct Dpci {
    pub container: u32,
    pub enabled: bool,
    pub rx: Vec<Fqid>,
    /// Destination as it was set, for reading back: type, number, priority.
    pub destinations: Vec<(u8, u32, u8)>,
}

/// An open object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    portal: ObjectId,
    object: ObjectId,
}

/// What an interface is connected with, by index in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Ni(usize),
    Mac(usize),
}

/// State of the Management Complex.
#[derive(Debug, Default)]
pub(crate) struct Mc {
    pub objects: BTreeMap<ObjectId, Object>,
    pub containers: BTreeMap<u32, Dprc>,
    pub connections: Vec<(ObjectId, ObjectId)>,
    tokens: BTreeMap<u16, Token>,
    last_token: u16,
    /// Commands by type, number and version, for people who want to know what a driver sends.
    pub seen: BTreeMap<(String, u16, u8), u64>,
}

/// Versions of the object types' commands, as firmware 10.40 has them.
const API_VERSIONS: [(ObjectType, u16, u16, u16); 8] = [
    (ObjectType::DPRC, 0xa05, 6, 7),
    (ObjectType::DPNI, 0xa01, 8, 6),
    (ObjectType::DPIO, 0xa03, 4, 3),
    (ObjectType::DPBP, 0xa04, 3, 4),
    (ObjectType::DPCON, 0xa08, 3, 3),
    (ObjectType::DPMCP, 0xa0b, 4, 1),
    (ObjectType::DPCI, 0xa07, 3, 4),
    (ObjectType::DPMAC, 0xa0c, 4, 11),
];

/// Version of an object type's commands.
pub(crate) fn api_version(object_type: ObjectType) -> ApiVersion {
    let known = API_VERSIONS.iter().find(|(known, ..)| *known == object_type);
    known.map_or(ApiVersion::default(), |&(.., major, minor)| ApiVersion {
        major: major.into(),
        minor: minor.into(),
    })
}

/// Commands "open", by number.
const OPEN: [(u16, ObjectType); 8] = [
    (0x801, ObjectType::DPNI),
    (0x803, ObjectType::DPIO),
    (0x804, ObjectType::DPBP),
    (0x805, ObjectType::DPRC),
    (0x807, ObjectType::DPCI),
    (0x808, ObjectType::DPCON),
    (0x80b, ObjectType::DPMCP),
    (0x80c, ObjectType::DPMAC),
];

/// Number of "close".
const CLOSE: u16 = 0x800;

impl Mc {
    pub(crate) fn open_tokens(&self) -> u64 {
        self.tokens.len() as u64
    }

    pub(crate) fn add(&mut self, object: ObjectId, container: u32) {
        let label = Text16::default();
        self.objects.insert(object, Object { container, is_plugged: true, label, irq: ObjectIrq::default() });
    }

    /// The lowest number from 1 on that no object of a type has.
    pub(crate) fn free_id(&self, object_type: ObjectType) -> u32 {
        (1..).find(|&id| !self.objects.contains_key(&object_type.with_id(id))).expect("2^32 numbers")
    }

    /// Objects in a container, sorted.
    pub(crate) fn objects_in(&self, container: u32) -> impl Iterator<Item = (ObjectId, &Object)> {
        self.objects
            .iter()
            .filter(move |(_, object)| object.container == container)
            .map(|(id, object)| (*id, object))
    }

    pub(crate) fn peer(&self, object: ObjectId) -> Option<ObjectId> {
        self.connections.iter().find_map(|&(a, b)| match object {
            _ if a == object => Some(b),
            _ if b == object => Some(a),
            _ => None,
        })
    }

    fn is_open(&self, object: ObjectId) -> bool {
        self.tokens.values().any(|token| token.object == object)
    }

    /// Whether `container` is `other` or holds it, however deep.
    fn holds(&self, container: u32, other: u32) -> bool {
        let mut at = other;
        loop {
            if at == container {
                return true;
            }
            match self.objects.get(&ObjectType::DPRC.with_id(at)) {
                Some(object) if object.container != at => at = object.container,
                _ => return false,
            }
        }
    }

    fn open(&mut self, portal: ObjectId, container: u32, object: ObjectId) -> Result<u16, Status> {
        let known = self.objects.get(&object).ok_or(Status::CONFIGURATION)?;
        let owner = if object.object_type == ObjectType::DPRC { object.id } else { known.container };
        if !self.holds(container, owner) {
            return Err(Status::CONFIGURATION);
        }
        let token = (1..=u16::MAX)
            .map(|step| self.last_token.wrapping_add(step))
            .find(|token| *token != 0 && !self.tokens.contains_key(token))
            .ok_or(Status::NO_RESOURCE)?;
        self.last_token = token;
        self.tokens.insert(token, Token { portal, object });
        Ok(token)
    }
}

impl Model {
    /// Carries out the command in a portal, when a store has covered its first byte.
    pub(crate) fn command_store(&mut self, index: usize, offset: usize) {
        if offset != 0 {
            return;
        }
        let region = Arc::clone(&self.command_portals[index].region);
        let mut request = Frame::new_zeroed();
        region.read(0, request.as_mut_bytes());
        if request.header.status != Status::READY {
            return;
        }
        if let Some(response) = self.command(index, &request) {
            region.write(8, &response.parameters);
            region.write(0, response.header.as_bytes());
        }
    }

    /// Answers a command, unless a fault keeps it from being answered.
    pub(crate) fn command(&mut self, index: usize, request: &Frame) -> Option<Frame> {
        self.counters.commands += 1;
        let fault = self.faults.next_command();
        let outcome = match fault {
            Some(None) => return None,
            Some(Some(status)) => Err(Status(status)),
            None => self.dispatch(index, request),
        };
        // A response carries parameters only if all went well.
        Some(outcome.unwrap_or_else(|status| request.response(status, &())))
    }

    fn dispatch(&mut self, index: usize, request: &Frame) -> Answer {
        let (portal, container) = (self.command_portals[index].object, self.command_portals[index].container);
        let (id, version, token) =
            (request.header.id().id, request.header.id().version, request.header.token.get());
        let object =
            self.mc.tokens.get(&token).filter(|known| known.portal == portal).map(|known| known.object);
        let kind = object.map_or_else(|| "-".to_owned(), |object| object.object_type.to_string());
        *self.mc.seen.entry((kind, id, version)).or_default() += 1;
        if let Some(&(_, object_type)) = OPEN.iter().find(|(open, _)| *open == id) {
            if version > 1 {
                return Err(Status::UNSUPPORTED);
            }
            let number =
                u32::read_from_prefix(&request.parameters).map_or(0, |(number, _)| u32::from_le(number));
            let token = self.mc.open(portal, container, object_type.with_id(number))?;
            let mut response = request.response(Status::OK, &());
            response.header.token = token.into();
            return Ok(response);
        }
        if let Some(&(object_type, ..)) = API_VERSIONS.iter().find(|(_, version, ..)| *version == id) {
            return Ok(request.response(Status::OK, &api_version(object_type)));
        }
        if token == 0 {
            return self.mng_command(container, request);
        }
        let Some(object) = object else {
            self.audit.violation(
                Rule::Token,
                format!("{portal}: command {} with token {token}", request.header.id()),
            );
            return Err(Status::AUTHENTICATION);
        };
        if id == CLOSE {
            self.mc.tokens.remove(&token);
            return Ok(request.response(Status::OK, &()));
        }
        let answer = self.object_command(object, request);
        if answer == Err(Status::UNSUPPORTED) {
            self.audit
                .violation(Rule::Known, format!("{object}: command {} isn't modelled", request.header.id()));
        }
        answer
    }

    fn object_command(&mut self, object: ObjectId, request: &Frame) -> Answer {
        if (0x012..=0x017).contains(&request.header.id().id) {
            return self.irq_command(object, request);
        }
        match object.object_type {
            ObjectType::DPRC => self.dprc_command(object.id, request),
            ObjectType::DPNI => self.dpni_command(object.id, request),
            ObjectType::DPIO => self.dpio_command(object.id, request),
            ObjectType::DPBP => self.dpbp_command(object.id, request),
            ObjectType::DPCON => self.dpcon_command(object.id, request),
            ObjectType::DPCI => self.dpci_command(object.id, request),
            ObjectType::DPMCP => self.dpmcp_command(object.id, request),
            ObjectType::DPMAC => self.dpmac_command(object.id, request),
            _ => Err(Status::UNSUPPORTED),
        }
    }

    /// Number of the interface behind a token, for redirecting entries.
    pub(crate) fn token_interface(&self, token: u16) -> Option<u32> {
        let object = self.mc.tokens.get(&token)?.object;
        (object.object_type == ObjectType::DPNI).then_some(object.id)
    }

    /// Notes an event of an object and sends its interrupt, if it wants it.
    pub(crate) fn raise(&mut self, object: ObjectId, events: u32) {
        let Some(known) = self.mc.objects.get_mut(&object) else { return };
        known.irq.status |= events;
        if known.irq.enabled
            && known.irq.mask & events != 0
            && let Some(event) = &known.irq.event
        {
            crate::signal(event);
        }
    }

    /// Index of an interface.
    pub(crate) fn ni_index(&self, id: u32) -> Option<usize> {
        self.nis.iter().position(|ni| ni.as_ref().is_some_and(|ni| ni.id == id))
    }

    pub(crate) fn ni_id(&self, index: usize) -> u32 {
        self.nis[index].as_ref().map_or(u32::MAX, |ni| ni.id)
    }

    /// What an interface is connected with.
    pub(crate) fn peer_of(&self, index: usize) -> Option<Endpoint> {
        let peer = self.mc.peer(ObjectType::DPNI.with_id(self.ni_id(index)))?;
        match peer.object_type {
            ObjectType::DPNI => self.ni_index(peer.id).map(Endpoint::Ni),
            ObjectType::DPMAC => self.macs.iter().position(|mac| mac.id == peer.id).map(Endpoint::Mac),
            _ => None,
        }
    }

    /// Whether an interface's link is up: it is enabled, and so is the other end.
    pub(crate) fn link_is_up(&self, index: usize) -> bool {
        let enabled = |index: usize| self.nis[index].as_ref().is_some_and(|ni| ni.settings.enabled);
        enabled(index)
            && match self.peer_of(index) {
                Some(Endpoint::Ni(peer)) => enabled(peer),
                Some(Endpoint::Mac(mac)) => self.macs[mac].is_up,
                None => false,
            }
    }

    /// Rate of an interface's link in Mbit/s.
    pub(crate) fn rate_of(&self, index: usize) -> u32 {
        match self.peer_of(index) {
            Some(Endpoint::Mac(mac)) => self.macs[mac].rate,
            _ => 10_000,
        }
    }
}
