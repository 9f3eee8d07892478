#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Init of the demo's guest: finds its virtio disk, writes to it, reads back, says so on the serial console, and then
# waits for the power button. Everything it needs is in the initramfs that scripts/demonstration/guest.py builds.
PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1 </dev/null
for module in $(cat /modules.order); do insmod "/modules/$module" || echo "GUEST: module $module did not load"; done

disk=
tries=0
while [ -z "$disk" ] && [ $tries -lt 100 ]; do
    for candidate in /sys/block/vd*; do [ -e "$candidate" ] && disk="/dev/${candidate##*/}" && break; done
    [ -n "$disk" ] || sleep 0.1
    tries=$((tries + 1))
done
if [ -z "$disk" ]; then
    echo "GUEST: FAILED: no virtio disk"
    poweroff -f
fi
sectors=$(cat "/sys/block/${disk##*/}/size")
echo "GUEST: found $disk, $((sectors / 2048)) MiB"

# The power button: one event of 24 octets on the input device is enough. Opened before anybody outside is told that this
# guest works: the button may be pressed at once, and what nobody has open nobody hears.
for event in /dev/input/event*; do
    [ -e "$event" ] || continue
    exec 3<"$event"
    (dd bs=24 count=1 <&3 >/dev/null 2>&1 && echo "GUEST: power button, good bye" && sync && poweroff -f) &
    exec 3<&-
done

# 1 MiB of numbers, a line each, near the end of the disk: not where anything else could have put it.
seq -w 1 200000 | head -c 1048576 >/tmp/written
offset=$((sectors / 2048 - 2))
if dd if=/tmp/written of="$disk" bs=1M seek=$offset conv=fsync 2>/dev/null; then
    echo "GUEST: wrote 1 MiB at $offset MiB"
else
    echo "GUEST: FAILED: cannot write to $disk"
fi
sync
echo 3 >/proc/sys/vm/drop_caches
if dd if="$disk" bs=1M skip=$offset count=1 2>/dev/null | cmp - /tmp/written; then
    echo "GUEST: read it back: $(md5sum </tmp/written | cut -c1-12), the same"
    echo "GUEST: DISK OK"
else
    echo "GUEST: FAILED: what was read is not what was written"
fi

second=0
while :; do
    second=$((second + 5))
    sleep 5
    [ $((second % 30)) -ne 0 ] || echo "GUEST: up ${second} s"
done
