//! Views of Ethernet, VLAN, ARP, IP, TCP, UDP headers; checksums; segmentation.
