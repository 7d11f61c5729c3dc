//! A switch port on vhost-user: connection state, memory tables, rings.
