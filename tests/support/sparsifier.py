# SPDX-License-Identifier: Apache-2.0
"""A stand-in for virt-sparsify --in-place: steps of discarding in a disk that is open for writing, and nothing else.

The real one needs a kernel for a machine of its own, and a minute of it where there is no KVM.
"""

from pathlib import Path

#: Behind what clients of `diskwork` write.
_AT, _BYTES = "1536k", "64k"
_PROGRAM = f"""#!/bin/sh
set -e
[ "$1" = --machine-readable ] && [ "$2" = --in-place ] && [ "$3" = --format ]
for step in 1 2 3; do
    qemu-io -f "$4" -d unmap -c "discard {_AT} {_BYTES}" -c "sleep 150" -c flush "$5" > /dev/null
    echo "$step/3"
done
"""


def slow_sparsifier(directory: Path) -> Path:
    """A directory for the front of PATH."""
    directory.mkdir(exist_ok=True)
    program = directory / "virt-sparsify"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    return directory
