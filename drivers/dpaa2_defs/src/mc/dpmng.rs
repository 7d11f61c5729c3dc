//! Commands of DPMNG objects.
