//! Objects of the DPAA2 Management Complex (MC): opened, configured and closed through a command portal.
//!
//! An object is a type ([`Dpni`], [`Dpio`], …) that holds an open token; the token is closed when it is dropped. Where the
//! MC takes a command only in one state, the state is in the type: pools are bound to a `Dpni<Disabled>`, and
//! [`Dpni::enable`] turns that into a `Dpni<Enabled>`. Every failure is an [`McError`] that names the object, the
//! command, and what the MC said with its meaning; [`McError::remedy`] says what an operator can do.
//!
//! **Waits are bounded.** A command ends within [`COMMAND_TIMEOUT`] (or what [`Mc::with_timeout`] says), stopping an
//! interface within [`DISABLE_TIMEOUT`]. Calls block the thread meanwhile: they are for setting up, never for a
//! worker.
//!
//! ```no_run
//! # fn example<B: fslmc_bus::Bus>(bus: B) -> Result<(), dpaa2_mc::SetupError> {
//! use dpaa2_defs::mc::object::ObjectType;
//! use dpaa2_mc::{Container, Dpbp, Dpni, PoolBinding};
//!
//! let container = Container::open(bus)?;
//! let pool = container.ids(ObjectType::DPBP).next().expect("a pool");
//! let (_pool_device, pool) = container.take(pool, Dpbp::open)?;
//! let pool = pool.reset()?.enable()?;
//!
//! let interface = container.ids(ObjectType::DPNI).next().expect("an interface");
//! let (_device, interface) = container.take(interface, Dpni::open)?;
//! let mut interface = interface.reset()?;
//! interface.set_pools(&[PoolBinding { dpbp_id: pool.object().id, buffer_size: 2176, tc_mask: 0, backup: false }])?;
//! let interface = interface.enable()?;
//! println!("{}: {:?}", interface.object(), interface.link_state()?);
//! # Ok(()) }
//! ```

mod container;
mod error;
mod mc;
mod object;
mod objects;
pub mod statistics;

pub use container::{Container, SetupError};
pub use error::{Failure, McError};
pub use mc::{COMMAND_TIMEOUT, Mc};
pub use object::{Disabled, Enabled, Object, State};
pub use objects::{
    BufferLayout, DISABLE_TIMEOUT, Dpbp, Dpcon, Dpio, Dpmac, Dpmcp, Dpni, Dprc, PoolBinding, QueueId,
    QueueTarget, Taildrop,
};
