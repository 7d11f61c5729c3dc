//! What hardware writes in front of a received frame, and what it reads there from a frame to send.
