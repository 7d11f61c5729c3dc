//! Rows as Prometheus metrics.
