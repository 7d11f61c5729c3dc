//! Access to memory that somebody else may write, or take away, at any time.
