//! Commands of DPCON objects.
