//! A switch port on a TAP device, with offloads, through io_uring.
