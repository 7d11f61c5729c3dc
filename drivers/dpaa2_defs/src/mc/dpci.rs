//! Commands of DPCI objects.
