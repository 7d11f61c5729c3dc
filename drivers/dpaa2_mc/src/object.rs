//! What all objects have in common: an open token, states, interrupts.

use std::fmt::Debug;
use std::marker::PhantomData;

use dpaa2_defs::mc::common::{
    ApiVersion, ClearIrqStatus, Close, Disable, Enable, GetIrqStatus, IsEnabled, Openable, Reset,
    SetIrqEnable, SetIrqMask,
};
use dpaa2_defs::mc::header::Command;
use dpaa2_defs::mc::object::ObjectId;

use crate::error::{Failure, McError};
use crate::mc::Mc;

/// Whether an object works, as a type.
pub trait State: Debug + Send + 'static {}

/// The object doesn't work: it can be configured.
#[derive(Debug)]
pub struct Disabled;

/// The object works.
#[derive(Debug)]
pub struct Enabled;

impl State for Disabled {}
impl State for Enabled {}

/// An open object: its name and its token, which is closed when this is dropped.
#[derive(Debug)]
pub struct Object {
    mc: Mc,
    object: ObjectId,
    token: u16,
    is_closed: bool,
}

impl Object {
    /// Opens the object with this number.
    pub(crate) fn open<O: Openable>(mc: &Mc, id: u32) -> Result<Self, McError> {
        let object = O::OBJECT_TYPE.with_id(id);
        let token = mc.open::<O>(object)?;
        Ok(Self { mc: mc.clone(), object, token, is_closed: false })
    }

    /// Which object it is.
    pub fn id(&self) -> ObjectId {
        self.object
    }

    /// Its open token: what flow steering entries of other interfaces name.
    pub fn token(&self) -> u16 {
        self.token
    }

    /// Sends one of the object's commands, for which there is no method.
    ///
    /// # Errors
    /// The MC refuses, or doesn't answer in time.
    pub fn execute<C: Command>(&self, command: &C) -> Result<C::Response, McError> {
        self.mc.execute(Some(self.object), self.token, command)
    }

    pub(crate) fn execute_version<C: Command>(
        &self,
        command: &C,
        version: u8,
    ) -> Result<C::Response, McError> {
        self.mc.execute_version(Some(self.object), self.token, command, version)
    }

    pub(crate) fn api_version<O: Openable>(&self) -> Result<ApiVersion, McError> {
        self.mc.execute(Some(self.object), 0, &O::GetApiVersion::default())
    }

    pub(crate) fn still_enabled(&self) -> McError {
        McError::new::<Disable>(Some(self.object), Failure::StillEnabled)
    }

    pub(crate) fn is_enabled(&self) -> Result<bool, McError> {
        self.execute(&IsEnabled {}).map(|answer| answer.get())
    }

    pub(crate) fn close(mut self) -> Result<(), McError> {
        self.is_closed = true;
        self.execute(&Close {})
    }

    /// Lets interrupt 0 fire on these events. Those that have happened before are forgotten.
    pub(crate) fn arm_events(&self, events: u32) -> Result<(), McError> {
        self.execute(&ClearIrqStatus { events: u32::MAX.into(), index: 0 })?;
        self.execute(&SetIrqMask { mask: events.into(), index: 0 })?;
        self.execute(&SetIrqEnable { enable: 1, ..Default::default() })
    }

    /// Ends what [`Object::arm_events`] began.
    pub(crate) fn disarm_events(&self) -> Result<(), McError> {
        self.execute(&SetIrqEnable::default())?;
        self.execute(&SetIrqMask::default())
    }

    /// The events that have happened since this was asked last.
    pub(crate) fn take_events(&self) -> Result<u32, McError> {
        let events = self.execute(&GetIrqStatus { events: u32::MAX.into(), index: 0 })?.events;
        if events.get() != 0 {
            self.execute(&ClearIrqStatus { events, index: 0 })?;
        }
        Ok(events.get())
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if !self.is_closed {
            // Nothing to do about a failure: the MC closes everything when the container is reset.
            let _ = self.execute(&Close {});
        }
    }
}

/// An open object in a state.
#[derive(Debug)]
pub(crate) struct Stateful<S> {
    pub(crate) object: Object,
    state: PhantomData<S>,
}

impl<S: State> Stateful<S> {
    fn into<T>(self) -> Stateful<T> {
        Stateful { object: self.object, state: PhantomData }
    }

    pub(crate) fn enable(self) -> Result<Stateful<Enabled>, McError> {
        self.object.execute(&Enable {})?;
        Ok(self.into())
    }

    pub(crate) fn disable(self) -> Result<Stateful<Disabled>, McError> {
        self.object.execute(&Disable {})?;
        Ok(self.into())
    }

    pub(crate) fn reset(self) -> Result<Stateful<Disabled>, McError> {
        self.object.execute(&Reset {})?;
        Ok(self.into())
    }
}

impl Stateful<Disabled> {
    /// Opens an object. It may be working, from an earlier user: who wants to be sure resets it first.
    pub(crate) fn open<O: Openable>(mc: &Mc, id: u32) -> Result<Self, McError> {
        Ok(Self { object: Object::open::<O>(mc, id)?, state: PhantomData })
    }
}
