//! The running switch: control thread, workers, ports, metrics.
