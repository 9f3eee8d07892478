#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Init of the tests' Linux guest (tests/support/linuxguest.py): a network card, a file system, qemu-guest-agent.
PATH=/bin:/sbin:/usr/sbin
export PATH
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp /run /var/run /var/log /var/lock /mnt/data /sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1 </dev/null
for module in $(cat /modules.order); do
    [ "$module" != efivarfs.ko ] || [ -d /sys/firmware/efi ] || continue
    insmod "/modules/$module" || echo "GUEST: module $module did not load"
done
hostname linux-guest
ip link set lo up
mdev -s
mkdir -p /dev/virtio-ports

tries=0
until [ -e /dev/vda ] || [ $tries -ge 50 ]; do sleep 0.1; tries=$((tries + 1)); done
mount -t ext4 /dev/vda /mnt/data || echo "GUEST: no file system on /dev/vda"
for card in /sys/class/net/e*; do
    [ -e "$card" ] || continue
    ip link set "${card##*/}" up && ip addr add 10.0.2.15/24 dev "${card##*/}"
    break
done
for port in /sys/class/virtio-ports/*; do
    [ -e "$port/name" ] || continue
    read -r name <"$port/name"
    [ -z "$name" ] || ln -sf "/dev/${port##*/}" "/dev/virtio-ports/$name"
done
# What a guest with udev knows of its disks, and where its agent looks for the program that sets the hardware clock.
mkdir -p /run/udev/data
for disk in /sys/block/vd*; do
    echo "E:ID_SERIAL=$(cat "$disk/serial")" >"/run/udev/data/b$(cat "$disk/dev")"
done
ln -sf /bin/hwclock /sbin/hwclock
echo "GUEST: ready"
# An agent that ends is started again, as a service manager does, unless a test holds it back.
while :; do
    [ -e /tmp/no-agent ] || TZ=UTC /usr/sbin/qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run
    sleep 0.2
done
