//! QBMan software portals: registers, rings and the formats of commands and results.
