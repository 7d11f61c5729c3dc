//! Text to the serial port. Each byte leaves the guest, so this is for beginnings and ends.

use core::fmt::{self, Write};

use crate::arch;

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(arch::put_byte);
        Ok(())
    }
}

/// Prints.
pub fn write(arguments: fmt::Arguments<'_>) {
    // The console never fails.
    let _ = Console.write_fmt(arguments);
}

macro_rules! print {
    ($($arguments:tt)*) => { $crate::console::write(format_args!($($arguments)*)) };
}
pub(crate) use print;
