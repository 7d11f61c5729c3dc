//! Typed messages: what a front-end asks, what a back-end answers.

use std::os::fd::OwnedFd;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::codec::{Message, Outgoing};
use crate::message::{
    CONFIG_MAX, ConfigAccess, ConfigHeader, FDS_MAX, Header, Inflight, LogArea, MemoryRegion, RegionsHeader,
    RequestCode, VringAddr, VringState,
};

/// A descriptor for a vring, or the explicit lack of one (poll instead).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringFile<F = OwnedFd> {
    /// Which vring.
    pub index: u8,
    /// `None`: the sender has no descriptor for this purpose.
    pub fd: Option<F>,
}

impl<F> VringFile<F> {
    const INDEX_MASK: u64 = 0xff;
    const NO_FD: u64 = 1 << 8;
}

/// A message of the front-end. `F` is the descriptor type.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<F = OwnedFd> {
    /// Which virtio features are offered.
    GetFeatures,
    /// These virtio features are acknowledged.
    SetFeatures(u64),
    /// The session starts.
    SetOwner,
    /// Deprecated: all rings are to be disabled.
    ResetOwner,
    /// The guest's memory from now on.
    SetMemTable(Vec<(MemoryRegion, F)>),
    /// The dirty log.
    SetLogBase(LogArea, F),
    /// To be signalled when the dirty log was written.
    SetLogFd(F),
    /// A vring's size.
    SetVringNum(VringState),
    /// A vring's place.
    SetVringAddr(VringAddr),
    /// Where in a vring to start.
    SetVringBase(VringState),
    /// Stops a vring and asks where it stands. The number is of no meaning.
    GetVringBase(VringState),
    /// Signalled by the driver.
    SetVringKick(VringFile<F>),
    /// To be signalled by the device.
    SetVringCall(VringFile<F>),
    /// To be signalled on a ring error.
    SetVringErr(VringFile<F>),
    /// Which protocol features are offered.
    GetProtocolFeatures,
    /// These protocol features are acknowledged.
    SetProtocolFeatures(u64),
    /// How many queues the back-end supports; of a network device, queue pairs.
    GetQueueNum,
    /// Enables (1) or disables (0) a vring.
    SetVringEnable(VringState),
    /// Announce the guest with this MAC address by a reverse ARP.
    SendRarp([u8; 6]),
    /// The MTU.
    NetSetMtu(u64),
    /// The socket on which the back-end may ask.
    SetBackendReqFd(F),
    /// Reads configuration space.
    GetConfig(ConfigAccess),
    /// Writes configuration space.
    SetConfig(ConfigAccess),
    /// Asks for a record of in-flight descriptors for that many vrings.
    GetInflightFd(Inflight),
    /// Gives the record back.
    SetInflightFd(Inflight, F),
    /// Back to the initial state, still owned.
    ResetDevice,
    /// How many memory regions the back-end can take.
    GetMaxMemSlots,
    /// One more memory region.
    AddMemReg(MemoryRegion, F),
    /// One memory region less; its `mmap_offset` is of no meaning.
    RemMemReg(MemoryRegion),
    /// The device status register was written.
    SetStatus(u64),
    /// Asks for the device status register.
    GetStatus,
    /// Anything that belongs to a protocol feature this project never offers, or that is unknown. Payload and
    /// descriptors are gone.
    Other(RequestCode),
}

/// A message that isn't what its code says. The sender is broken or hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The payload's size is not the message's.
    #[error("{code} with a payload of {size} bytes")]
    Size {
        /// Which message.
        code: RequestCode,
        /// Bytes of its payload.
        size: u32,
    },
    /// The number of descriptors is not the message's.
    #[error("{code} with {got} file descriptors instead of {expected}")]
    Fds {
        /// Which message.
        code: RequestCode,
        /// How many came.
        got: usize,
        /// How many there should be.
        expected: usize,
    },
    /// More memory regions than there can be descriptors for.
    #[error("{code} with {count} memory regions")]
    Regions {
        /// Which message.
        code: RequestCode,
        /// How many are announced.
        count: u32,
    },
    /// A number in the payload contradicts its length.
    #[error("{code}: {what} is {value}")]
    Field {
        /// Which message.
        code: RequestCode,
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A reply where a request should be.
    #[error("{0} with the reply flag set")]
    Reply(RequestCode),
}

/// The message being decoded, with the checks all messages share.
struct Parser<F> {
    code: RequestCode,
    payload: Vec<u8>,
    fds: Vec<F>,
}

impl<F> Parser<F> {
    fn size_error(&self) -> MessageError {
        MessageError::Size { code: self.code, size: self.payload.len() as u32 }
    }

    fn value<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<T, MessageError> {
        T::read_from_bytes(&self.payload).map_err(|_| self.size_error())
    }

    fn empty(&self) -> Result<(), MessageError> {
        if self.payload.is_empty() { Ok(()) } else { Err(self.size_error()) }
    }

    fn fds(&mut self, expected: usize) -> Result<Vec<F>, MessageError> {
        if self.fds.len() == expected {
            Ok(std::mem::take(&mut self.fds))
        } else {
            Err(MessageError::Fds { code: self.code, got: self.fds.len(), expected })
        }
    }

    fn one_fd(&mut self) -> Result<F, MessageError> {
        Ok(self.fds(1)?.pop().expect("fds(1) returned one"))
    }

    fn no_fds(&mut self) -> Result<(), MessageError> {
        self.fds(0).map(drop)
    }

    /// A payload of this type and no descriptors.
    fn plain<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, MessageError> {
        self.no_fds()?;
        self.value()
    }

    /// Neither payload nor descriptors.
    fn bare(&mut self, request: Request<F>) -> Result<Request<F>, MessageError> {
        self.no_fds()?;
        self.empty()?;
        Ok(request)
    }

    fn vring_file(&mut self) -> Result<VringFile<F>, MessageError> {
        let value: u64 = self.value()?;
        let index = (value & VringFile::<F>::INDEX_MASK) as u8;
        let fd = if value & VringFile::<F>::NO_FD == 0 {
            Some(self.one_fd()?)
        } else {
            self.no_fds()?;
            None
        };
        Ok(VringFile { index, fd })
    }

    fn mem_table(&mut self) -> Result<Vec<(MemoryRegion, F)>, MessageError> {
        let (header, rest) = RegionsHeader::read_from_prefix(&self.payload).map_err(|_| self.size_error())?;
        if header.count as usize > FDS_MAX {
            return Err(MessageError::Regions { code: self.code, count: header.count });
        }
        let count = header.count as usize;
        if rest.len() != count * size_of::<MemoryRegion>() {
            return Err(self.size_error());
        }
        let regions: Vec<MemoryRegion> = rest
            .chunks_exact(size_of::<MemoryRegion>())
            .map(|chunk| MemoryRegion::read_from_bytes(chunk).expect("a chunk has the region's size"))
            .collect();
        let fds = self.fds(count)?;
        Ok(regions.into_iter().zip(fds).collect())
    }

    /// The region after its 8 bytes of padding ("single memory region description").
    fn single_region(&self) -> Result<MemoryRegion, MessageError> {
        match self.payload.split_at_checked(size_of::<u64>()) {
            Some((_, region)) => MemoryRegion::read_from_bytes(region).map_err(|_| self.size_error()),
            None => Err(self.size_error()),
        }
    }

    fn config(&mut self) -> Result<ConfigAccess, MessageError> {
        self.no_fds()?;
        let (header, data) = ConfigHeader::read_from_prefix(&self.payload).map_err(|_| self.size_error())?;
        if header.size as usize > CONFIG_MAX || header.size as usize != data.len() {
            return Err(MessageError::Field { code: self.code, what: "size", value: header.size.into() });
        }
        Ok(ConfigAccess { offset: header.offset, flags: header.flags, data: data.to_vec() })
    }

    /// With or without the C struct's padding.
    fn inflight(&self) -> Result<Inflight, MessageError> {
        const PADDED: usize = size_of::<Inflight>();
        const UNPADDED: usize = PADDED - size_of::<u32>();
        let mut bytes = [0; PADDED];
        match self.payload.len() {
            PADDED | UNPADDED => {
                bytes[..UNPADDED].copy_from_slice(&self.payload[..UNPADDED]);
            }
            _ => return Err(self.size_error()),
        }
        Ok(Inflight::read_from_bytes(&bytes).expect("the array has the struct's size"))
    }
}

impl<F> Request<F> {
    /// Decodes a message of the front-end. Descriptors that don't belong are closed.
    ///
    /// # Errors
    /// Size or number of descriptors is not what the specification gives for the code.
    pub fn parse(message: Message<F>) -> Result<Self, MessageError> {
        use RequestCode as C;
        let code = RequestCode(message.header.code);
        if message.header.flags & Header::REPLY != 0 {
            return Err(MessageError::Reply(code));
        }
        let mut p = Parser { code, payload: message.payload, fds: message.fds };
        Ok(match code {
            C::GET_FEATURES => p.bare(Request::GetFeatures)?,
            C::SET_FEATURES => Request::SetFeatures(p.plain()?),
            C::SET_OWNER => p.bare(Request::SetOwner)?,
            C::RESET_OWNER => p.bare(Request::ResetOwner)?,
            C::SET_MEM_TABLE => Request::SetMemTable(p.mem_table()?),
            C::SET_LOG_BASE => Request::SetLogBase(p.value()?, p.one_fd()?),
            C::SET_LOG_FD => {
                // A payload is not specified; some senders fill a u64 as for the vring descriptors.
                if p.payload.len() != size_of::<u64>() {
                    p.empty()?;
                }
                Request::SetLogFd(p.one_fd()?)
            }
            C::SET_VRING_NUM => Request::SetVringNum(p.plain()?),
            C::SET_VRING_ADDR => Request::SetVringAddr(p.plain()?),
            C::SET_VRING_BASE => Request::SetVringBase(p.plain()?),
            C::GET_VRING_BASE => Request::GetVringBase(p.plain()?),
            C::SET_VRING_KICK => Request::SetVringKick(p.vring_file()?),
            C::SET_VRING_CALL => Request::SetVringCall(p.vring_file()?),
            C::SET_VRING_ERR => Request::SetVringErr(p.vring_file()?),
            C::GET_PROTOCOL_FEATURES => p.bare(Request::GetProtocolFeatures)?,
            C::SET_PROTOCOL_FEATURES => Request::SetProtocolFeatures(p.plain()?),
            C::GET_QUEUE_NUM => p.bare(Request::GetQueueNum)?,
            C::SET_VRING_ENABLE => Request::SetVringEnable(p.plain()?),
            C::SEND_RARP => {
                let [a, b, c, d, e, f, _, _] = p.plain()?;
                Request::SendRarp([a, b, c, d, e, f])
            }
            C::NET_SET_MTU => Request::NetSetMtu(p.plain()?),
            C::SET_BACKEND_REQ_FD => {
                p.empty()?;
                Request::SetBackendReqFd(p.one_fd()?)
            }
            C::GET_CONFIG => Request::GetConfig(p.config()?),
            C::SET_CONFIG => Request::SetConfig(p.config()?),
            C::GET_INFLIGHT_FD => {
                p.no_fds()?;
                Request::GetInflightFd(p.inflight()?)
            }
            C::SET_INFLIGHT_FD => Request::SetInflightFd(p.inflight()?, p.one_fd()?),
            C::RESET_DEVICE => p.bare(Request::ResetDevice)?,
            C::GET_MAX_MEM_SLOTS => p.bare(Request::GetMaxMemSlots)?,
            C::ADD_MEM_REG => Request::AddMemReg(p.single_region()?, p.one_fd()?),
            C::REM_MEM_REG => {
                // One descriptor is tolerated, as the specification allows, and closed.
                if p.fds.len() != 1 {
                    p.no_fds()?;
                }
                Request::RemMemReg(p.single_region()?)
            }
            C::SET_STATUS => Request::SetStatus(p.plain()?),
            C::GET_STATUS => p.bare(Request::GetStatus)?,
            other => Request::Other(other),
        })
    }

    /// The request's code.
    pub fn code(&self) -> RequestCode {
        use RequestCode as C;
        match self {
            Request::GetFeatures => C::GET_FEATURES,
            Request::SetFeatures(_) => C::SET_FEATURES,
            Request::SetOwner => C::SET_OWNER,
            Request::ResetOwner => C::RESET_OWNER,
            Request::SetMemTable(_) => C::SET_MEM_TABLE,
            Request::SetLogBase(..) => C::SET_LOG_BASE,
            Request::SetLogFd(_) => C::SET_LOG_FD,
            Request::SetVringNum(_) => C::SET_VRING_NUM,
            Request::SetVringAddr(_) => C::SET_VRING_ADDR,
            Request::SetVringBase(_) => C::SET_VRING_BASE,
            Request::GetVringBase(_) => C::GET_VRING_BASE,
            Request::SetVringKick(_) => C::SET_VRING_KICK,
            Request::SetVringCall(_) => C::SET_VRING_CALL,
            Request::SetVringErr(_) => C::SET_VRING_ERR,
            Request::GetProtocolFeatures => C::GET_PROTOCOL_FEATURES,
            Request::SetProtocolFeatures(_) => C::SET_PROTOCOL_FEATURES,
            Request::GetQueueNum => C::GET_QUEUE_NUM,
            Request::SetVringEnable(_) => C::SET_VRING_ENABLE,
            Request::SendRarp(_) => C::SEND_RARP,
            Request::NetSetMtu(_) => C::NET_SET_MTU,
            Request::SetBackendReqFd(_) => C::SET_BACKEND_REQ_FD,
            Request::GetConfig(_) => C::GET_CONFIG,
            Request::SetConfig(_) => C::SET_CONFIG,
            Request::GetInflightFd(_) => C::GET_INFLIGHT_FD,
            Request::SetInflightFd(..) => C::SET_INFLIGHT_FD,
            Request::ResetDevice => C::RESET_DEVICE,
            Request::GetMaxMemSlots => C::GET_MAX_MEM_SLOTS,
            Request::AddMemReg(..) => C::ADD_MEM_REG,
            Request::RemMemReg(_) => C::REM_MEM_REG,
            Request::SetStatus(_) => C::SET_STATUS,
            Request::GetStatus => C::GET_STATUS,
            Request::Other(code) => *code,
        }
    }

    /// Encodes the request; with `need_reply` it asks for an answer.
    ///
    /// # Panics
    /// When given more than [`FDS_MAX`] regions or [`CONFIG_MAX`] bytes of configuration space.
    pub fn encode(self, need_reply: bool) -> Outgoing<F> {
        let code = self.code();
        let mut fds = vec![];
        let mut out = vec![];
        match self {
            Request::GetFeatures
            | Request::SetOwner
            | Request::ResetOwner
            | Request::GetProtocolFeatures
            | Request::GetQueueNum
            | Request::ResetDevice
            | Request::GetMaxMemSlots
            | Request::GetStatus
            | Request::Other(_) => {}
            Request::SetFeatures(v)
            | Request::SetProtocolFeatures(v)
            | Request::NetSetMtu(v)
            | Request::SetStatus(v) => out.extend_from_slice(v.as_bytes()),
            Request::SetMemTable(regions) => {
                out.extend_from_slice(RegionsHeader { count: regions.len() as u32, padding: 0 }.as_bytes());
                for (region, fd) in regions {
                    out.extend_from_slice(region.as_bytes());
                    fds.push(fd);
                }
            }
            Request::SetLogBase(area, fd) => {
                out.extend_from_slice(area.as_bytes());
                fds.push(fd);
            }
            Request::SetLogFd(fd) | Request::SetBackendReqFd(fd) => fds.push(fd),
            Request::SetVringNum(s)
            | Request::SetVringBase(s)
            | Request::GetVringBase(s)
            | Request::SetVringEnable(s) => out.extend_from_slice(s.as_bytes()),
            Request::SetVringAddr(a) => out.extend_from_slice(a.as_bytes()),
            Request::SetVringKick(file) | Request::SetVringCall(file) | Request::SetVringErr(file) => {
                let flag = if file.fd.is_none() { VringFile::<F>::NO_FD } else { 0 };
                out.extend_from_slice((u64::from(file.index) | flag).as_bytes());
                fds.extend(file.fd);
            }
            Request::SendRarp(mac) => {
                out.extend_from_slice(&mac);
                out.extend_from_slice(&[0; 2]);
            }
            Request::GetConfig(access) | Request::SetConfig(access) => put_config(&mut out, &access),
            Request::GetInflightFd(inflight) => out.extend_from_slice(inflight.as_bytes()),
            Request::SetInflightFd(inflight, fd) => {
                out.extend_from_slice(inflight.as_bytes());
                fds.push(fd);
            }
            Request::AddMemReg(region, fd) => {
                put_region(&mut out, &region);
                fds.push(fd);
            }
            Request::RemMemReg(region) => put_region(&mut out, &region),
        }
        let flags = if need_reply { Header::NEED_REPLY } else { 0 };
        Outgoing::new(code.0, flags, &out, fds)
    }
}

fn put_region(out: &mut Vec<u8>, region: &MemoryRegion) {
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(region.as_bytes());
}

fn put_config(out: &mut Vec<u8>, access: &ConfigAccess) {
    assert!(access.data.len() <= CONFIG_MAX, "{} bytes of configuration space", access.data.len());
    let header = ConfigHeader { offset: access.offset, size: access.data.len() as u32, flags: access.flags };
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&access.data);
}

/// What a back-end answers.
#[derive(Debug)]
pub enum Reply<F = OwnedFd> {
    /// A number; also an acknowledgement (0) or a refusal (anything else).
    U64(u64),
    /// Where a vring stands.
    Vring(VringState),
    /// The bytes read.
    Config(ConfigAccess),
    /// The access to configuration space was refused: a reply without payload.
    NoConfig,
    /// The record of in-flight descriptors.
    Inflight(Inflight, F),
}

impl<F> Reply<F> {
    /// The answer that a request succeeded.
    pub const ACK: Reply<F> = Reply::U64(0);
    /// The answer that a request was refused.
    pub const REFUSED: Reply<F> = Reply::U64(1);

    /// Encodes the answer to a request of this code.
    pub fn encode(self, code: RequestCode) -> Outgoing<F> {
        let mut fds = vec![];
        let mut out = vec![];
        match self {
            Reply::U64(v) => out.extend_from_slice(v.as_bytes()),
            Reply::Vring(s) => out.extend_from_slice(s.as_bytes()),
            Reply::Config(access) => put_config(&mut out, &access),
            Reply::NoConfig => {}
            Reply::Inflight(inflight, fd) => {
                out.extend_from_slice(inflight.as_bytes());
                fds.push(fd);
            }
        }
        Outgoing::new(code.0, Header::REPLY, &out, fds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Decoder;

    fn decode<F>(sent: Outgoing<F>) -> Result<Request<F>, MessageError> {
        let mut decoder = Decoder::new();
        let (head, rest) = sent.bytes.split_at(12);
        let message = match decoder.feed(head, sent.fds).expect("own header") {
            Some(message) => message,
            None => decoder.feed(rest, []).expect("own payload").expect("complete"),
        };
        Request::parse(message)
    }

    fn region(n: u64) -> MemoryRegion {
        MemoryRegion { guest_addr: n << 30, size: 1 << 20, user_addr: n << 40, mmap_offset: n }
    }

    fn every_request() -> Vec<Request<u8>> {
        let state = VringState { index: 3, num: 256 };
        let addr = VringAddr { index: 1, flags: 1, desc: 2, used: 3, avail: 4, log: 5 };
        let config = ConfigAccess { offset: 6, flags: 1, data: vec![1, 2, 3] };
        let inflight = Inflight { mmap_size: 1, mmap_offset: 2, num_queues: 3, queue_size: 4, padding: 0 };
        vec![
            Request::GetFeatures,
            Request::SetFeatures(1 << 40),
            Request::SetOwner,
            Request::ResetOwner,
            Request::SetMemTable(vec![]),
            Request::SetMemTable((0..32).map(|n| (region(n), n as u8)).collect()),
            Request::SetLogBase(LogArea { size: 4096, offset: 1 }, 9),
            Request::SetLogFd(1),
            Request::SetVringNum(state),
            Request::SetVringAddr(addr),
            Request::SetVringBase(state),
            Request::GetVringBase(state),
            Request::SetVringKick(VringFile { index: 7, fd: Some(1) }),
            Request::SetVringCall(VringFile { index: 255, fd: None }),
            Request::SetVringErr(VringFile { index: 0, fd: Some(2) }),
            Request::GetProtocolFeatures,
            Request::SetProtocolFeatures(7),
            Request::GetQueueNum,
            Request::SetVringEnable(state),
            Request::SendRarp([1, 2, 3, 4, 5, 6]),
            Request::NetSetMtu(9000),
            Request::SetBackendReqFd(3),
            Request::GetConfig(config.clone()),
            Request::SetConfig(config),
            Request::GetInflightFd(inflight),
            Request::SetInflightFd(inflight, 4),
            Request::ResetDevice,
            Request::GetMaxMemSlots,
            Request::AddMemReg(region(5), 5),
            Request::RemMemReg(region(6)),
            Request::SetStatus(15),
            Request::GetStatus,
            Request::Other(RequestCode::POSTCOPY_ADVISE),
            Request::Other(RequestCode(999)),
        ]
    }

    #[test]
    fn every_request_is_decoded_as_it_was_encoded() {
        for (a, b) in every_request().into_iter().zip(every_request()) {
            assert_eq!(decode(a.encode(false)).as_ref(), Ok(&b));
        }
    }

    #[test]
    fn a_memory_table_has_the_layout_of_the_c_struct() {
        let sent = Request::SetMemTable(vec![(region(1), 0u8)]).encode(true);
        let mut expected = vec![];
        for word in [5u32, 1 | 8, 40, 1, 0] {
            expected.extend_from_slice(&word.to_ne_bytes());
        }
        for long in [1u64 << 30, 1 << 20, 1 << 40, 1] {
            expected.extend_from_slice(&long.to_ne_bytes());
        }
        assert_eq!(sent.bytes, expected);
    }

    #[test]
    fn a_payload_one_byte_longer_or_shorter_is_refused() {
        for request in every_request() {
            let code = request.code();
            if matches!(request, Request::Other(_)) {
                continue;
            }
            let sent = request.encode(false);
            for change in [-1i32, 1] {
                let size = sent.bytes.len() as i32 - 12 + change;
                if size < 0 {
                    continue;
                }
                let mut payload = sent.bytes[12..].to_vec();
                payload.resize(size as usize, 0);
                let header = Header { code: code.0, flags: 1, size: size as u32 };
                let message = Message { header, payload, fds: sent.fds.clone() };
                let error = Request::parse(message).expect_err("wrong size");
                assert!(
                    matches!(error, MessageError::Size { .. } | MessageError::Field { .. }),
                    "{code}: {error}"
                );
            }
        }
    }

    #[test]
    fn a_descriptor_more_or_less_is_refused() {
        for request in every_request() {
            let code = request.code();
            if matches!(request, Request::Other(_)) {
                continue;
            }
            let sent = request.encode(false);
            let header = Header { code: code.0, flags: 1, size: sent.bytes.len() as u32 - 12 };
            let mut counts = vec![sent.fds.len() + 2];
            if code != RequestCode::REM_MEM_REG {
                counts.push(sent.fds.len() + 1);
            }
            counts.extend(sent.fds.len().checked_sub(1));
            for count in counts {
                let message = Message { header, payload: sent.bytes[12..].to_vec(), fds: vec![0u8; count] };
                let error = Request::parse(message).expect_err("wrong number of descriptors");
                assert!(matches!(error, MessageError::Fds { .. }), "{code} with {count}: {error}");
            }
        }
    }

    #[test]
    fn a_count_of_regions_that_contradicts_the_payload_is_refused() {
        for count in [0u32, 2, 32, 33, u32::MAX] {
            let mut sent = Request::SetMemTable(vec![(region(1), 0u8)]).encode(false);
            sent.bytes[12..16].copy_from_slice(&count.to_ne_bytes());
            assert!(decode(sent).is_err(), "{count} regions announced, one there");
        }
    }

    #[test]
    fn a_config_size_that_contradicts_the_payload_is_refused() {
        let access = ConfigAccess { offset: 0, flags: 0, data: vec![0; 4] };
        for size in [0u32, 3, 5, 257, u32::MAX] {
            let mut sent = Request::<u8>::GetConfig(access.clone()).encode(false);
            sent.bytes[16..20].copy_from_slice(&size.to_ne_bytes());
            assert!(decode(sent).is_err(), "size {size} announced, 4 there");
        }
    }

    #[test]
    fn a_reply_is_not_a_request() {
        let sent = Reply::<u8>::ACK.encode(RequestCode::SET_FEATURES);
        assert_eq!(decode(sent), Err(MessageError::Reply(RequestCode::SET_FEATURES)));
    }

    #[test]
    fn removing_a_region_tolerates_one_descriptor() {
        let mut sent = Request::RemMemReg(region(1)).encode(false);
        sent.fds.push(0u8);
        assert_eq!(decode(sent), Ok(Request::RemMemReg(region(1))));
    }
}
