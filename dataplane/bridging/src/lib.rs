//! The learning bridge: MAC table, VLAN modes and the output decision of NORMAL.
