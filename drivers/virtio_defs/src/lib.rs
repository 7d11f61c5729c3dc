//! Layouts and constants of the virtio specification: rings, virtio-net.
