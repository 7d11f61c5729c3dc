#!/bin/sh
# First process of a 64-bit Arm machine, emulated or inside an emulated one: loads what it lists in /etc/modules, then
# runs what the serial console sends, line by line. After each line it prints `@@ NUMBER`, the exit status, alone on a line.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
modprobe -a $(cat /etc/modules)
ip link set lo up
stty -echo < /dev/console
echo "@@ ready"
while read -r line; do
    eval "$line" < /dev/null
    echo "@@ $?"
done
