//! The driver side of vhost-user as a tool: hosts, generators, reflectors.
