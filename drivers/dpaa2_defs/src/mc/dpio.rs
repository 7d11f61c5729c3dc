//! Commands of DPIO objects.
