//! The vhost-user protocol: messages with file descriptors, both ends.
