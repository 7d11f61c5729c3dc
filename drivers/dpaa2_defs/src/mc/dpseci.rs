//! Commands of DPSECI objects.
