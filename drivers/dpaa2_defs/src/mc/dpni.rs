//! Commands of DPNI objects.
