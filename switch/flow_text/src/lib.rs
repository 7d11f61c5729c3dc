//! Flow strings as ovs-ofctl users write them: parser and printer.
