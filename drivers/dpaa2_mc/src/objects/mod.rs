//! The object types.

/// What every object with states can do: be opened, named, asked for its version, enabled, disabled, reset, closed.
macro_rules! stateful {
    ($name:ident, $defs:ident) => {
        impl $name<Disabled> {
            /// Opens the object with this number. It may still be working for an earlier user: reset it to be sure of
            /// its state.
            ///
            /// # Errors
            /// There is no such object in the container, or it is in use.
            pub fn open(mc: &Mc, id: u32) -> Result<Self, McError> {
                Stateful::open::<$defs::Open>(mc, id).map(Self)
            }

            /// Puts it to work. It is closed if that fails.
            ///
            /// # Errors
            /// The MC refuses, or doesn't answer in time.
            pub fn enable(self) -> Result<$name<Enabled>, McError> {
                self.0.enable().map($name)
            }
        }

        impl<S: State> $name<S> {
            /// Which object it is.
            pub fn object(&self) -> ObjectId {
                self.0.object.id()
            }

            /// The open object, for commands without a method here.
            pub fn handle(&self) -> &Object {
                &self.0.object
            }

            /// The version of its commands.
            ///
            /// # Errors
            /// The MC refuses, or doesn't answer in time.
            pub fn api_version(&self) -> Result<ApiVersion, McError> {
                self.0.object.api_version::<$defs::Open>()
            }

            /// What it is.
            ///
            /// # Errors
            /// The MC refuses, or doesn't answer in time.
            pub fn attributes(&self) -> Result<$defs::Attributes, McError> {
                self.0.object.execute(&$defs::GetAttributes {})
            }

            /// Whether it works, whoever has enabled it.
            ///
            /// # Errors
            /// The MC refuses, or doesn't answer in time.
            pub fn is_enabled(&self) -> Result<bool, McError> {
                self.0.object.is_enabled()
            }

            /// Puts it back into the state after its creation. It is closed if that fails.
            ///
            /// # Errors
            /// The MC refuses, or doesn't answer in time.
            pub fn reset(self) -> Result<$name<Disabled>, McError> {
                self.0.reset().map($name)
            }

            /// Closes it. Dropping does that too, and can't say whether it went well.
            ///
            /// # Errors
            /// The MC refuses, or doesn't answer in time.
            pub fn close(self) -> Result<(), McError> {
                self.0.object.close()
            }
        }
    };
}

mod dpbp;
mod dpcon;
mod dpio;
mod dpmac;
mod dpmcp;
mod dpni;
mod dprc;

pub use dpbp::Dpbp;
pub use dpcon::Dpcon;
pub use dpio::Dpio;
pub use dpmac::Dpmac;
pub use dpmcp::Dpmcp;
pub use dpni::{BufferLayout, DISABLE_TIMEOUT, Dpni, PoolBinding, QueueId, QueueTarget, Taildrop};
pub use dprc::Dprc;
