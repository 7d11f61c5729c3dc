//! OpenFlow tables 0-254: rules, priorities, timeouts, evaluation.
