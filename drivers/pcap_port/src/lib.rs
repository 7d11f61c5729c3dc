//! Ports that replay and record captures, and the null and loop ports.
