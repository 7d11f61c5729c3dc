//! Commands of DPBP objects.
