//! Commands of DPRC objects.
