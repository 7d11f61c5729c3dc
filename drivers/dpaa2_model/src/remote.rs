//! A model in a process of its own, shared by the programs that drive it.
//!
//! One request, one answer, over a Unix socket of whole messages; an answer is sent when everything that follows from its
//! request has happened. Regions and DMA memory travel as descriptors, so loads, and the model's DMA, run at memory's speed.
//! A container belongs to the one program that has claimed it, and is reset when that releases it or is gone.
//!
//! Requests without a descriptor are written, and answers to them read, with write(2) and read(2): stores are made by threads
//! that may be allowed nothing else.

use crate::{Access, Model, ObjectInfo, SharedModel, control, lock};
use dpaa2_defs::mc::header::Frame;
use dpaa2_defs::mc::object::{ObjectId, ObjectType};
use memmap2::{MmapOptions, MmapRaw};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, sendmsg, socket_with,
};
use rustix::time::Timespec;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Longest message: a list of objects, or a report.
const MESSAGE_MAX: usize = 128 << 10;
/// Bytes of a program's DMA memory that are mapped at a time.
const WINDOW: u64 = 64 << 20;
/// Longest store.
pub const STORE_MAX: usize = 32;

/// What is asked.
mod operation {
    pub(super) const OBJECTS: u32 = 1;
    pub(super) const REGION: u32 = 2;
    pub(super) const STORE: u32 = 3;
    pub(super) const COMMAND: u32 = 4;
    pub(super) const DMA_MEMORY: u32 = 5;
    pub(super) const DMA_MAP: u32 = 6;
    pub(super) const DMA_UNMAP: u32 = 7;
    pub(super) const SET_IRQ: u32 = 8;
    pub(super) const RESET: u32 = 9;
    pub(super) const REPORT: u32 = 10;
    pub(super) const CLAIM: u32 = 11;
    pub(super) const RELEASE: u32 = 12;
}

/// A request; what its fields mean depends on the operation.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Request {
    operation: U32,
    id: U32,
    object_type: ObjectType,
    values: [U64; 3],
    len: U64,
    data: [u8; 64],
}

/// An answer; text follows it where there is some.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Answer {
    done: U64,
    value: U64,
    data: [u8; 64],
}

fn request(operation: u32, object: ObjectId, values: [u64; 3]) -> Request {
    Request {
        operation: operation.into(),
        id: object.id.into(),
        object_type: object.object_type,
        values: values.map(Into::into),
        len: 0.into(),
        data: [0; 64],
    }
}

fn unix_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn send(socket: &OwnedFd, parts: [&[u8]; 2], fd: Option<&OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        let parts = parts.map(IoSlice::new);
        match sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return result.map(drop).map_err(Into::into),
        }
    }
}

/// Sends a message without a descriptor.
fn send_plain(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    loop {
        match rustix::io::write(socket, message) {
            Err(Errno::INTR) => {}
            result => return result.map(drop).map_err(Into::into),
        }
    }
}

/// Receives a message without a descriptor; an empty message is the end.
fn receive_plain(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(socket, &mut *buffer) {
            Err(Errno::INTR) => {}
            result => return result.map_err(Into::into),
        }
    }
}

/// Receives a message and perhaps a descriptor; an empty message is the end.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    loop {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = match recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let fds = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fd = fds.flatten().next();
        return Ok((message.bytes, fd));
    }
}

/// A program's side.
#[derive(Debug)]
pub struct Client {
    socket: Mutex<OwnedFd>,
}

/// An answer that has all its bytes: without, the server is gone.
fn whole(len: usize, buffer: [u8; size_of::<Answer>()]) -> io::Result<Answer> {
    if len == buffer.len() {
        Ok(zerocopy::transmute!(buffer))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// A region as a program gets it.
#[derive(Debug)]
pub struct RemoteRegion {
    /// Its memory.
    pub file: File,
    /// Its length in bytes.
    pub len: usize,
    /// How stores have to be made.
    pub access: Access,
}

impl Client {
    /// Connects to a server.
    ///
    /// # Errors
    /// There is none at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = unix_socket()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket: Mutex::new(socket) })
    }

    fn ask(&self, request: &Request, fd: Option<&OwnedFd>) -> io::Result<(Answer, Option<OwnedFd>)> {
        let mut buffer = [0; size_of::<Answer>()];
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send(&socket, [request.as_bytes(), &[]], fd)?;
        let (len, fd) = receive(&socket, &mut buffer)?;
        whole(len, buffer).map(|answer| (answer, fd))
    }

    /// As [`Client::ask`], where no descriptor is sent or comes back.
    fn ask_plain(&self, request: &Request) -> io::Result<Answer> {
        let mut buffer = [0; size_of::<Answer>()];
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send_plain(&socket, request.as_bytes())?;
        let len = receive_plain(&socket, &mut buffer)?;
        whole(len, buffer)
    }

    fn ask_text(&self, operation: u32) -> io::Result<String> {
        let mut buffer = vec![0; MESSAGE_MAX];
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send(&socket, [request(operation, ObjectType::DPRC.with_id(0), [0; 3]).as_bytes(), &[]], None)?;
        let (len, _) = receive(&socket, &mut buffer)?;
        let text = buffer.get(size_of::<Answer>()..len).unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// Containers but the root, with their objects.
    ///
    /// # Errors
    /// The server is gone.
    pub fn containers(&self) -> io::Result<Vec<(u32, Vec<ObjectInfo>)>> {
        let mut containers: Vec<(u32, Vec<ObjectInfo>)> = Vec::new();
        for line in self.ask_text(operation::OBJECTS)?.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [container, name, regions, irqs] = words[..] else { continue };
            let Ok(container) = container.parse() else { continue };
            if containers.last().is_none_or(|(last, _)| *last != container) {
                containers.push((container, Vec::new()));
            }
            if let (Ok(id), Ok(regions), Ok(irqs)) = (name.parse(), regions.parse(), irqs.parse())
                && let Some((_, objects)) = containers.last_mut()
            {
                objects.push(ObjectInfo { id, regions, irqs });
            }
        }
        Ok(containers)
    }

    /// Takes a container for this program. False when another program has it, or there is none such.
    ///
    /// # Errors
    /// The server is gone.
    pub fn claim(&self, container: u32) -> io::Result<bool> {
        let object = ObjectType::DPRC.with_id(container);
        Ok(self.ask_plain(&request(operation::CLAIM, object, [0; 3]))?.done.get() != 0)
    }

    /// Gives a container back; it is reset.
    ///
    /// # Errors
    /// The server is gone.
    pub fn release(&self, container: u32) -> io::Result<()> {
        let object = ObjectType::DPRC.with_id(container);
        self.ask_plain(&request(operation::RELEASE, object, [0; 3])).map(drop)
    }

    /// A region of an object in a container this program has claimed.
    ///
    /// # Errors
    /// The server is gone, or there is no such region.
    pub fn region(&self, object: ObjectId, index: usize) -> io::Result<RemoteRegion> {
        let (answer, fd) = self.ask(&request(operation::REGION, object, [index as u64, 0, 0]), None)?;
        let fd = fd.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let access = if answer.done.get() == 2 { Access::Plain } else { Access::Trapped };
        Ok(RemoteRegion { file: File::from(fd), len: answer.value.get() as usize, access })
    }

    /// Stores up to [`STORE_MAX`] bytes into a trapped region.
    ///
    /// # Errors
    /// The server is gone.
    pub fn store(&self, object: ObjectId, region: usize, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let mut message = request(operation::STORE, object, [region as u64, offset as u64, 0]);
        let len = bytes.len().min(STORE_MAX);
        message.len = (len as u64).into();
        message.data[..len].copy_from_slice(&bytes[..len]);
        self.ask_plain(&message).map(drop)
    }

    /// Sends a command through a container's own portal.
    ///
    /// # Errors
    /// The server is gone.
    pub fn container_command(&self, container: u32, command: &Frame) -> io::Result<Option<Frame>> {
        let mut message = request(operation::COMMAND, ObjectType::DPRC.with_id(container), [0; 3]);
        message.data.copy_from_slice(command.as_bytes());
        let answer = self.ask_plain(&message)?;
        Ok((answer.done.get() != 0).then(|| zerocopy::transmute!(answer.data)))
    }

    /// Gives the memory file that later [`Client::dma_map`]s are ranges of.
    ///
    /// # Errors
    /// The server is gone.
    pub fn dma_memory(&self, file: &OwnedFd) -> io::Result<()> {
        self.ask(&request(operation::DMA_MEMORY, ObjectType::DPRC.with_id(0), [0; 3]), Some(file)).map(drop)
    }

    /// Maps `len` bytes of the memory file from `offset` on. False when the range can't be, or the container isn't claimed.
    ///
    /// # Errors
    /// The server is gone.
    pub fn dma_map(&self, container: u32, iova: u64, len: u64, offset: u64) -> io::Result<bool> {
        let object = ObjectType::DPRC.with_id(container);
        Ok(self.ask_plain(&request(operation::DMA_MAP, object, [iova, len, offset]))?.done.get() != 0)
    }

    /// Takes a range back. Gives the bytes that were mapped of it.
    ///
    /// # Errors
    /// The server is gone.
    pub fn dma_unmap(&self, container: u32, iova: u64, len: u64) -> io::Result<u64> {
        let object = ObjectType::DPRC.with_id(container);
        Ok(self.ask_plain(&request(operation::DMA_UNMAP, object, [iova, len, 0]))?.value.get())
    }

    /// Sets where an object's interrupt goes, or ends it.
    ///
    /// # Errors
    /// The server is gone.
    pub fn set_irq(&self, object: ObjectId, event: Option<&OwnedFd>) -> io::Result<bool> {
        Ok(self.ask(&request(operation::SET_IRQ, object, [0; 3]), event)?.0.done.get() != 0)
    }

    /// Resets an object.
    ///
    /// # Errors
    /// The server is gone.
    pub fn reset(&self, object: ObjectId) -> io::Result<bool> {
        Ok(self.ask_plain(&request(operation::RESET, object, [0; 3]))?.done.get() != 0)
    }

    /// Counters and audit as JSON.
    ///
    /// # Errors
    /// The server is gone.
    pub fn report(&self) -> io::Result<String> {
        self.ask_text(operation::REPORT)
    }
}

/// A connected program.
struct Program {
    socket: OwnedFd,
    memory: Option<File>,
    windows: BTreeMap<u64, Arc<MmapRaw>>,
    /// Those it has claimed.
    containers: BTreeSet<u32>,
}

/// Serves programs at `path` for as long as the process lives.
///
/// # Errors
/// The socket can't be made, or waiting fails.
pub fn serve(model: &SharedModel, path: &Path) -> io::Result<()> {
    let listener = unix_socket()?;
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    listen(&listener, 8)?;
    let mut programs: Vec<Program> = Vec::new();
    let mut claimed = BTreeSet::new();
    // Wires bring frames whoever sleeps.
    let look_at_wires = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    loop {
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(&listener, PollFlags::IN)];
        fds.extend(programs.iter().map(|program| PollFd::new(&program.socket, PollFlags::IN)));
        match poll(&mut fds, Some(&look_at_wires)) {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(0) => lock(model).poll(),
            Ok(_) => {}
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut index = 0;
        programs.retain_mut(|program| {
            index += 1;
            let keep = !ready[index] || program.answer(model, &mut claimed).is_ok();
            if !keep {
                for container in &program.containers {
                    lock(model).release_container(*container);
                    claimed.remove(container);
                }
            }
            keep
        });
        if ready[0] {
            let socket = accept_with(&listener, SocketFlags::CLOEXEC)?;
            let (windows, containers) = Default::default();
            programs.push(Program { socket, memory: None, windows, containers });
        }
    }
}

impl Program {
    /// Answers one request; `claimed` are the containers of all programs. An error is the end of the program.
    fn answer(&mut self, model: &SharedModel, claimed: &mut BTreeSet<u32>) -> io::Result<()> {
        let mut message = Request::new_zeroed();
        let (len, fd) = receive(&self.socket, message.as_mut_bytes())?;
        if len != size_of::<Request>() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut answer = Answer { done: 1.into(), value: 0.into(), data: [0; 64] };
        let object = message.object_type.with_id(message.id.get());
        let [a, b, c] = message.values.map(U64::get);
        let mut model = lock(model);
        let mut text = String::new();
        let mut sent = None;
        match message.operation.get() {
            operation::OBJECTS => text = objects(&model),
            operation::CLAIM => {
                let exists = model.container_of(object) == Some(object.id);
                let is_free = exists && claimed.insert(object.id);
                if is_free {
                    self.containers.insert(object.id);
                }
                answer.done = u64::from(is_free).into();
            }
            operation::RELEASE => {
                if self.containers.remove(&object.id) {
                    claimed.remove(&object.id);
                    model.release_container(object.id);
                }
            }
            operation::REGION => {
                let is_own = model.container_of(object).is_some_and(|id| self.containers.contains(&id));
                if let Some(handle) = model.region(object, a as usize).filter(|_| is_own) {
                    answer.done = if handle.access == Access::Plain { 2 } else { 1 }.into();
                    answer.value = (handle.memory.len() as u64).into();
                    sent = Some(handle.memory.file().as_fd().try_clone_to_owned()?);
                }
            }
            operation::STORE => {
                let len = (message.len.get() as usize).min(STORE_MAX);
                model.store(object, a as usize, b as usize, &message.data[..len]);
            }
            operation::COMMAND => {
                let command: Frame = zerocopy::transmute!(message.data);
                match model.container_command(object.id, &command) {
                    Some(response) => answer.data.copy_from_slice(response.as_bytes()),
                    None => answer.done = 0.into(),
                }
            }
            operation::DMA_MEMORY => {
                self.memory = fd.map(File::from);
                self.windows.clear();
            }
            operation::DMA_MAP => {
                let is_own = self.containers.contains(&object.id);
                let is_mapped = is_own && self.map(&mut model, object.id, a, b, c)?;
                answer.done = u64::from(is_mapped).into();
            }
            operation::DMA_UNMAP => answer.value = model.dma_unmap(object.id, a, b).into(),
            operation::SET_IRQ => answer.done = u64::from(model.set_irq(object, fd)).into(),
            operation::RESET => answer.done = u64::from(model.reset(object)).into(),
            operation::REPORT => text = control::report(&model),
            _ => answer.done = 0.into(),
        }
        drop(model);
        send(&self.socket, [answer.as_bytes(), text.as_bytes()], sent.as_ref())
    }

    /// Maps a range of the program's memory file, window by window.
    fn map(
        &mut self,
        model: &mut Model,
        container: u32,
        iova: u64,
        len: u64,
        offset: u64,
    ) -> io::Result<bool> {
        let Some(file) = &self.memory else { return Ok(false) };
        let mut done = 0;
        while done < len {
            let at = offset.saturating_add(done);
            let (index, inside) = (at / WINDOW, at % WINDOW);
            let piece = (len - done).min(WINDOW - inside);
            let window = match self.windows.get(&index) {
                Some(window) => Arc::clone(window),
                None => {
                    let map = MmapOptions::new().offset(index * WINDOW).len(WINDOW as usize).map_raw(file)?;
                    let window = Arc::new(map);
                    self.windows.insert(index, Arc::clone(&window));
                    window
                }
            };
            let host = window.as_mut_ptr().wrapping_add(inside as usize);
            // SAFETY: `host` is inside the window, which the mapping keeps alive.
            if !unsafe { model.dma_map(container, iova.wrapping_add(done), piece, host, Some(window)) } {
                model.dma_unmap(container, iova, done);
                return Ok(false);
            }
            done += piece;
        }
        Ok(true)
    }
}

fn objects(model: &Model) -> String {
    let mut text = String::new();
    for container in model.containers().into_iter().filter(|container| *container != 1) {
        for object in model.objects(container) {
            text.push_str(&format!("{container} {} {} {}\n", object.id, object.regions, object.irqs));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Description;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::io::Write;
    use std::time::Duration;

    fn client(board: &str) -> (SharedModel, Client, tempfile::TempDir) {
        let model = Model::new(&Description::from_toml(board).unwrap()).unwrap().share();
        let dir = tempfile::tempdir().unwrap();
        let (path, served) = (dir.path().join("model"), Arc::clone(&model));
        let server_path = path.clone();
        std::thread::spawn(move || serve(&served, &server_path));
        let client = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            Client::connect(&path).ok()
        });
        (model, client.expect("the server comes up"), dir)
    }

    #[test]
    fn a_program_elsewhere_sees_regions_stores_and_maps_memory() {
        let (model, client, _dir) = client("soc = 'lx2160a'\n[[container]]\nid = 2\ndpio = 1\ndpbp = 1");
        let containers = client.containers().unwrap();
        let names: Vec<String> = containers[0].1.iter().map(|object| object.id.to_string()).collect();
        assert_eq!((containers.len(), names.join(" ")), (1, "dpbp.1 dpio.1 dpmcp.1".to_owned()));

        let dpio = "dpio.1".parse().unwrap();
        assert!(client.region(dpio, 2).is_err(), "the container isn't this program's yet");
        assert!(client.claim(2).unwrap());
        assert_eq!(client.region(dpio, 2).unwrap().access, Access::Plain);
        assert!(client.region(dpio, 3).is_err());
        client.store(dpio, 1, 0xd00, &0x0081_b8ff_u32.to_le_bytes()).unwrap();
        assert_eq!(lock(&model).region(dpio, 1).unwrap().memory.u32(0xd00), 0x0081_b8ff);

        let memory = memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, 2 * WINDOW).unwrap();
        File::from(memory.try_clone().unwrap()).write_all(&[7; 16]).unwrap();
        client.dma_memory(&memory).unwrap();
        assert!(client.dma_map(2, 0x10_0000, WINDOW + 4096, 0).unwrap(), "across two windows");
        assert!(!client.dma_map(2, 0x10_0000, 4096, 0).unwrap(), "twice");
        let mut bytes = [0; 16];
        lock(&model).dma(2).read(0x10_0000, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 16]);

        drop(client);
        let gone = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            lock(&model).audit().mapped_bytes == 0
        });
        assert!(gone, "what a program mapped is unmapped when it is gone");
    }

    #[test]
    fn a_container_has_one_program_at_a_time() {
        let (_model, client, dir) = client("soc = 'lx2160a'\n[[container]]\nid = 2\ndpio = 1");
        let other = Client::connect(&dir.path().join("model")).unwrap();
        assert!(!client.claim(3).unwrap(), "there is none such");
        assert!(client.claim(2).unwrap());
        assert!(!other.claim(2).unwrap());
        client.release(2).unwrap();
        assert!(other.claim(2).unwrap());
        other.release(3).unwrap();
        drop(other);
        let is_free = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            client.claim(2).unwrap()
        });
        assert!(is_free, "a program that is gone has no container");
    }
}
