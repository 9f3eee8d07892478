# SPDX-License-Identifier: Apache-2.0
"""vdsm-mp: a KVM host agent made of isolated worker processes."""

__version__ = "0.1.0"

#: What `Host.getCapabilities` reports as the version of package "vdsm"; engines accept only 4.20 to 4.50.
VDSM_VERSION = "4.50.7"

#: One number for the layout of bus frames and control notes. A worker of another build is refused.
BUS_VERSION = 1
