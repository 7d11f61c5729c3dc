//! Frame descriptors, scatter-gather entries and frame lists.
