//! One poll loop per core: receive, classify, act, transmit.
