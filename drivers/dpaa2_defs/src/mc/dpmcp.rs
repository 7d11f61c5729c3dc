//! Commands of DPMCP objects.
