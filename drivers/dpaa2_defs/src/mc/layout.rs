//! How the layouts of commands are declared: fields with the offsets the firmware's headers give, each asserted.

/// Declares a struct of exactly this many bytes, with alignment 1 and each field at the offset after its `@`.
///
/// Fields that are called `reserved…` are 0 in what is sent and not looked at in what is received.
macro_rules! layout {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident: $size:literal {
            $( $(#[$field_attribute:meta])* $field:ident: $type:ty => $offset:literal, )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[derive(
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $( $(#[$field_attribute])* #[doc = concat!("\n\nAt parameter byte ", $offset, ".")] pub $field: $type, )*
        }
        /// All bytes 0.
        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
        const _: () = assert!(size_of::<$name>() == $size);
        $( const _: () = assert!(core::mem::offset_of!($name, $field) == $offset); )*
    };
}

/// Makes a layout a command: its name as people say it, its number, the version this project sends, the newest one
/// known, and the layout of its response.
macro_rules! command {
    ($request:ty, $name:literal, $id:literal, v $version:literal of $newest:literal, $response:ty) => {
        impl $crate::mc::header::Command for $request {
            const NAME: &'static str = $name;
            const CMD: $crate::mc::header::CommandId = $crate::mc::header::CommandId::new($id, $version);
            const NEWEST_VERSION: u8 = $newest;
            type Response = $response;
        }
    };
    ($request:ty, $name:literal, $id:literal, v $version:literal, $response:ty) => {
        command!($request, $name, $id, v $version of $version, $response);
    };
}

/// Declares a number with named values that firmware may extend.
macro_rules! open_enum {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident: $repr:ty {
            $( $(#[$value_attribute:meta])* $value:ident = $number:literal $text:literal, )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable, zerocopy::Unaligned,
        )]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            $( $(#[$value_attribute])* pub const $value: Self = Self($number); )*

            /// How people call this value, if it is a known one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( $number => Some($text), )*
                    _ => None,
                }
            }
        }

        /// The value's name, or its number.
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{:#x}", self.0),
                }
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }
    };
}

/// Declares the commands that every object type has under numbers of its own: open, destroy, get API version.
macro_rules! object_commands {
    ($object:ident, open $open:literal, destroy $destroy:literal, version $version:literal) => {
        layout! {
            /// Opens an object: the answer's header carries the token for further commands. Token 0.
            pub struct Open: 4 {
                /// Number of the object.
                id: zerocopy::little_endian::U32 => 0,
            }
        }
        command!(Open, "open", $open, v 1, ());

        layout! {
            /// Destroys an object. With the token of its container.
            pub struct Destroy: 4 {
                /// Number of the object.
                id: zerocopy::little_endian::U32 => 0,
            }
        }
        command!(Destroy, "destroy", $destroy, v 1, ());

        layout! {
            /// Asks for the version of the commands of this object type. Token 0.
            pub struct GetApiVersion: 0 {}
        }
        command!(GetApiVersion, "get API version", $version, v 1, $crate::mc::common::ApiVersion);

        impl $crate::mc::common::Openable for Open {
            const OBJECT_TYPE: $crate::mc::object::ObjectType = $crate::mc::object::ObjectType::$object;
            type GetApiVersion = GetApiVersion;
            fn with_id(id: u32) -> Self {
                Self { id: id.into() }
            }
        }
    };
}
