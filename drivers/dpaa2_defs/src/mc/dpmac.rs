//! Commands of DPMAC objects.
