#!/bin/sh
# First process of a test guest: loads the network driver, then runs what the serial console sends, line by line.
# After each line it prints `@@ NUMBER`, the exit status, alone on a line.
export PATH=/bin:/usr/bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /tmp
modprobe -a virtio_pci virtio_net
ip link set lo up
stty -echo < /dev/ttyS0
echo "@@ ready"
while read -r line; do
    eval "$line" < /dev/null
    echo "@@ $?"
done
