//! The front-end's side, blocking: for VMMs and tools.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use virtio_defs::feature::VHOST_USER_PROTOCOL;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::backend_channel::{FrontendChannel, channel_pair};
use crate::codec::{Decoder, Message};
use crate::features::ProtocolFeatures;
use crate::message::{
    ConfigAccess, ConfigHeader, Header, Inflight, LogArea, MemoryRegion, RequestCode, VringAddr, VringState,
};
use crate::request::{Request, VringFile};
use crate::socket::{self, ReceiveError, Received};

/// Why a call on a [`Frontend`] failed. After anything but `Refused` and `NotOffered` the connection is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// The connection failed.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// The socket failed while sending, or could not be set up.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// The back-end hung up.
    #[error("the back-end closed the connection (waiting for the answer to {0})")]
    Closed(RequestCode),
    /// The back-end did not answer in time.
    #[error("the back-end did not answer {0} in time")]
    Timeout(RequestCode),
    /// The back-end answered something else.
    #[error("wrong answer to {0}")]
    WrongReply(RequestCode),
    /// The back-end answered no.
    #[error("the back-end refused {0} (code {1})")]
    Refused(RequestCode, u64),
    /// The back-end lacks a feature that the caller needs.
    #[error("the back-end doesn't offer {0}")]
    NotOffered(&'static str),
}

type Result<T> = std::result::Result<T, FrontendError>;

/// What a back-end offers.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Virtio features, with the bits of vhost and vhost-user among them.
    pub virtio: u64,
    /// Protocol features; empty where the back-end has none.
    pub protocol: ProtocolFeatures,
}

/// A connection to a back-end.
///
/// Calls block until the request is sent and, where it has an answer, until that has come. With REPLY_ACK
/// negotiated every request is acknowledged, so a refusal is the error of the very call.
#[derive(Debug)]
pub struct Frontend {
    socket: UnixStream,
    decoder: Decoder,
    protocol: ProtocolFeatures,
    features: u64,
}

impl Frontend {
    /// Connects to a listening back-end.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(UnixStream::connect(path)?)
    }

    /// Waits for a back-end to connect.
    ///
    /// # Errors
    /// As `accept`.
    pub fn accept(listener: &UnixListener) -> Result<Self> {
        Self::new(listener.accept()?.0)
    }

    /// Uses a connected socket. Answers are waited for 10 s unless [`set_timeout`](Self::set_timeout) says more.
    ///
    /// # Errors
    /// The socket's options can't be set.
    pub fn new(socket: UnixStream) -> Result<Self> {
        socket.set_nonblocking(false)?;
        let this = Self { socket, decoder: Decoder::new(), protocol: ProtocolFeatures(0), features: 0 };
        this.set_timeout(Some(Duration::from_secs(10)))?;
        Ok(this)
    }

    /// How long to wait for an answer; `None` waits for ever.
    ///
    /// # Errors
    /// A timeout of zero.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        Ok(self.socket.set_read_timeout(timeout)?)
    }

    /// Starts the session: takes ownership and acknowledges what is both offered and wanted.
    ///
    /// # Errors
    /// The connection fails. What matters to the caller is to be checked in the result: what was negotiated.
    pub fn negotiate(&mut self, wanted: Offer) -> Result<Offer> {
        self.set_owner()?;
        let offered = self.offer()?;
        let agreed =
            Offer { virtio: offered.virtio & wanted.virtio, protocol: offered.protocol.and(wanted.protocol) };
        if offered.virtio & VHOST_USER_PROTOCOL != 0 {
            self.set_protocol_features(agreed.protocol)?;
        }
        self.set_features(agreed.virtio)?;
        Ok(agreed)
    }

    /// Asks what the back-end offers.
    ///
    /// # Errors
    /// The connection fails.
    pub fn offer(&mut self) -> Result<Offer> {
        let virtio = self.ask_u64(Request::GetFeatures)?;
        let protocol = if virtio & VHOST_USER_PROTOCOL != 0 {
            ProtocolFeatures(self.ask_u64(Request::GetProtocolFeatures)?)
        } else {
            ProtocolFeatures(0)
        };
        Ok(Offer { virtio, protocol })
    }

    /// The virtio features set last.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The protocol features set last.
    pub fn protocol_features(&self) -> ProtocolFeatures {
        self.protocol
    }

    /// Starts the session.
    ///
    /// # Errors
    /// Refused, or the connection fails; so for all the following.
    pub fn set_owner(&mut self) -> Result<()> {
        self.tell(Request::SetOwner)
    }

    /// Acknowledges virtio features.
    pub fn set_features(&mut self, features: u64) -> Result<()> {
        self.features = features;
        self.tell(Request::SetFeatures(features))
    }

    /// Acknowledges protocol features.
    pub fn set_protocol_features(&mut self, features: ProtocolFeatures) -> Result<()> {
        // The request itself is never acknowledged, since REPLY_ACK is not in force before it.
        self.protocol = ProtocolFeatures(0);
        self.tell(Request::SetProtocolFeatures(features.0))?;
        self.protocol = features;
        Ok(())
    }

    /// How many queues the back-end supports; of a network device, queue pairs. Needs MQ.
    pub fn queue_count(&mut self) -> Result<u64> {
        self.need(ProtocolFeatures::MQ, "MQ")?;
        self.ask_u64(Request::GetQueueNum)
    }

    /// Replaces the memory table: regions, each with the descriptor of its file.
    pub fn set_mem_table(&mut self, regions: &[(MemoryRegion, BorrowedFd<'_>)]) -> Result<()> {
        self.tell(Request::SetMemTable(regions.to_vec()))
    }

    /// How many memory regions the back-end takes. Needs CONFIGURE_MEM_SLOTS, as the next two.
    pub fn max_mem_slots(&mut self) -> Result<u64> {
        self.need(ProtocolFeatures::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS")?;
        self.ask_u64(Request::GetMaxMemSlots)
    }

    /// Adds a memory region.
    pub fn add_mem_region(&mut self, region: MemoryRegion, fd: BorrowedFd<'_>) -> Result<()> {
        self.need(ProtocolFeatures::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS")?;
        self.tell(Request::AddMemReg(region, fd))
    }

    /// Removes a memory region.
    pub fn remove_mem_region(&mut self, region: MemoryRegion) -> Result<()> {
        self.need(ProtocolFeatures::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS")?;
        self.tell(Request::RemMemReg(region))
    }

    /// Sets a vring's size.
    pub fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.tell(Request::SetVringNum(VringState { index, num }))
    }

    /// Sets a vring's place.
    pub fn set_vring_addr(&mut self, addr: VringAddr) -> Result<()> {
        self.tell(Request::SetVringAddr(addr))
    }

    /// Sets where in a vring to start: the next available index, or for a packed ring the wrap counter in bit 15
    /// above the index (and the used side in the upper half).
    pub fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.tell(Request::SetVringBase(VringState { index, num: base }))
    }

    /// Stops a vring and returns where it stands, in the form of [`set_vring_base`](Self::set_vring_base).
    pub fn vring_base(&mut self, index: u32) -> Result<u32> {
        let request = Request::GetVringBase(VringState { index, num: 0 });
        let code = request.code();
        let state: VringState = self.ask(request)?;
        if state.index == index { Ok(state.num) } else { Err(FrontendError::WrongReply(code)) }
    }

    /// Sets the descriptor the driver signals; with `None` the back-end polls. Starts the vring.
    pub fn set_vring_kick(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.tell(Request::SetVringKick(VringFile { index, fd }))
    }

    /// Sets the descriptor the device signals; with `None` the driver polls.
    pub fn set_vring_call(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.tell(Request::SetVringCall(VringFile { index, fd }))
    }

    /// Sets the descriptor that is signalled on a ring error.
    pub fn set_vring_err(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.tell(Request::SetVringErr(VringFile { index, fd }))
    }

    /// Enables a vring.
    pub fn enable_vring(&mut self, index: u32) -> Result<()> {
        self.tell(Request::SetVringEnable(VringState { index, num: 1 }))
    }

    /// Disables a vring.
    pub fn disable_vring(&mut self, index: u32) -> Result<()> {
        self.tell(Request::SetVringEnable(VringState { index, num: 0 }))
    }

    /// Gives the dirty log. Needs LOG_SHMFD.
    pub fn set_log_base(&mut self, area: LogArea, fd: BorrowedFd<'_>) -> Result<()> {
        self.need(ProtocolFeatures::LOG_SHMFD, "LOG_SHMFD")?;
        let code = RequestCode::SET_LOG_BASE;
        let message = self.exchange(Request::SetLogBase(area, fd))?;
        // The answer is specified, its payload was not for long: some send the acknowledgement, some nothing.
        match (message.payload.len(), u64::read_from_bytes(&message.payload)) {
            (0, _) | (_, Ok(0)) => Ok(()),
            (_, Ok(refused)) => Err(FrontendError::Refused(code, refused)),
            _ => Err(FrontendError::WrongReply(code)),
        }
    }

    /// Sets the descriptor that is signalled when the dirty log was written.
    pub fn set_log_fd(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        self.tell(Request::SetLogFd(fd))
    }

    /// Asks for a record of in-flight descriptors. Needs INFLIGHT_SHMFD.
    pub fn inflight(&mut self, num_queues: u16, queue_size: u16) -> Result<(Inflight, OwnedFd)> {
        self.need(ProtocolFeatures::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")?;
        let code = RequestCode::GET_INFLIGHT_FD;
        let wanted = Inflight { num_queues, queue_size, ..Inflight::default() };
        let mut message = self.exchange(Request::GetInflightFd(wanted))?;
        let inflight = Inflight::read_from_bytes(&message.payload);
        match (inflight, message.fds.pop(), message.fds.is_empty()) {
            (Ok(inflight), Some(fd), true) => Ok((inflight, fd)),
            (Ok(_), None, _) => Err(FrontendError::Refused(code, 0)),
            _ => Err(FrontendError::WrongReply(code)),
        }
    }

    /// Gives a record of in-flight descriptors back. Needs INFLIGHT_SHMFD.
    pub fn set_inflight(&mut self, inflight: Inflight, fd: BorrowedFd<'_>) -> Result<()> {
        self.need(ProtocolFeatures::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")?;
        self.tell(Request::SetInflightFd(inflight, fd))
    }

    /// Asks for the announcement of a migrated guest. Needs RARP.
    pub fn send_rarp(&mut self, mac: [u8; 6]) -> Result<()> {
        self.need(ProtocolFeatures::RARP, "RARP")?;
        self.tell(Request::SendRarp(mac))
    }

    /// Tells the MTU. Needs MTU.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<()> {
        self.need(ProtocolFeatures::MTU, "MTU")?;
        self.tell(Request::NetSetMtu(mtu.into()))
    }

    /// Opens the channel for the back-end's own requests. Needs BACKEND_REQ.
    pub fn open_channel(&mut self) -> Result<FrontendChannel> {
        self.need(ProtocolFeatures::BACKEND_REQ, "BACKEND_REQ")?;
        let (theirs, ours) = channel_pair()?;
        self.tell(Request::SetBackendReqFd(theirs.as_fd()))?;
        Ok(ours)
    }

    /// Reads `len` bytes of configuration space from `offset` on. Needs CONFIG.
    ///
    /// # Panics
    /// With more than [`crate::CONFIG_MAX`] bytes.
    pub fn config(&mut self, offset: u32, len: usize) -> Result<Vec<u8>> {
        self.need(ProtocolFeatures::CONFIG, "CONFIG")?;
        let code = RequestCode::GET_CONFIG;
        let access = ConfigAccess { offset, flags: 0, data: vec![0; len] };
        let message = self.exchange(Request::GetConfig(access))?;
        if message.payload.is_empty() {
            return Err(FrontendError::Refused(code, 0));
        }
        match ConfigHeader::read_from_prefix(&message.payload) {
            Ok((header, data)) if header.offset == offset && data.len() == len => Ok(data.to_vec()),
            _ => Err(FrontendError::WrongReply(code)),
        }
    }

    /// Writes configuration space. Needs CONFIG.
    ///
    /// # Panics
    /// With more than [`crate::CONFIG_MAX`] bytes.
    pub fn set_config(&mut self, access: ConfigAccess) -> Result<()> {
        self.need(ProtocolFeatures::CONFIG, "CONFIG")?;
        self.tell(Request::SetConfig(access))
    }

    /// Reads the device status register. Needs STATUS.
    pub fn status(&mut self) -> Result<u8> {
        self.need(ProtocolFeatures::STATUS, "STATUS")?;
        let status = self.ask_u64(Request::GetStatus)?;
        u8::try_from(status).map_err(|_| FrontendError::WrongReply(RequestCode::GET_STATUS))
    }

    /// Writes the device status register. Needs STATUS.
    pub fn set_status(&mut self, status: u8) -> Result<()> {
        self.need(ProtocolFeatures::STATUS, "STATUS")?;
        self.tell(Request::SetStatus(status.into()))
    }

    /// Resets the device. Needs RESET_DEVICE.
    pub fn reset_device(&mut self) -> Result<()> {
        self.need(ProtocolFeatures::RESET_DEVICE, "RESET_DEVICE")?;
        self.tell(Request::ResetDevice)
    }

    /// Deprecated request: disables all rings.
    pub fn reset_owner(&mut self) -> Result<()> {
        self.tell(Request::ResetOwner)
    }

    fn need(&self, feature: ProtocolFeatures, name: &'static str) -> Result<()> {
        if self.protocol.contains(feature) { Ok(()) } else { Err(FrontendError::NotOffered(name)) }
    }

    /// Sends a request without an answer of its own; waits for the acknowledgement where there is one.
    fn tell(&mut self, request: Request<BorrowedFd<'_>>) -> Result<()> {
        let code = request.code();
        let acked = self.protocol.contains(ProtocolFeatures::REPLY_ACK);
        socket::send(&self.socket, &request.encode(acked))?;
        if !acked {
            return Ok(());
        }
        match self.reply(code)? {
            message if u64::read_from_bytes(&message.payload) == Ok(0) => Ok(()),
            message => match u64::read_from_bytes(&message.payload) {
                Ok(refused) => Err(FrontendError::Refused(code, refused)),
                Err(_) => Err(FrontendError::WrongReply(code)),
            },
        }
    }

    fn exchange(&mut self, request: Request<BorrowedFd<'_>>) -> Result<Message> {
        let code = request.code();
        socket::send(&self.socket, &request.encode(false))?;
        self.reply(code)
    }

    fn ask<T: FromBytes + KnownLayout + Immutable>(&mut self, request: Request<BorrowedFd<'_>>) -> Result<T> {
        let code = request.code();
        let message = self.exchange(request)?;
        T::read_from_bytes(&message.payload).map_err(|_| FrontendError::WrongReply(code))
    }

    fn ask_u64(&mut self, request: Request<BorrowedFd<'_>>) -> Result<u64> {
        self.ask(request)
    }

    fn reply(&mut self, code: RequestCode) -> Result<Message> {
        match socket::receive(&self.socket, &mut self.decoder)? {
            Received::Message(message)
                if message.header.code == code.0 && message.header.flags & Header::REPLY != 0 =>
            {
                Ok(message)
            }
            Received::Message(_) => Err(FrontendError::WrongReply(code)),
            Received::WouldBlock => Err(FrontendError::Timeout(code)),
            Received::Closed => Err(FrontendError::Closed(code)),
        }
    }
}

impl AsFd for Frontend {
    /// The connection, to be watched for a hang-up.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
