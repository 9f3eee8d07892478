#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# What the guest agent calls to shut down (-P), halt (-H) or reboot (-r): there is no init system to ask.
echo "GUEST: shutdown $*" >/dev/ttyS0
sync
case " $* " in
*" -r "*) reboot -f ;;
*) poweroff -f ;;
esac
