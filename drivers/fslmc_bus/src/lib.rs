//! The fsl-mc bus: what a driver of DPAA2 objects needs from the system underneath.
