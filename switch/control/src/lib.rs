//! The control socket: requests, responses, client.
