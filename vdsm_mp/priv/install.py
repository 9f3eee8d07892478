# SPDX-License-Identifier: Apache-2.0
"""Put the helpers where sudo finds them, and write the sudo rules. Run by an installer as root; not used at run time.

    python -m vdsm_mp.priv.install --libexec /usr/libexec/vdsm-mp --repository /rhev/data-center --user vdsm
    python -m vdsm_mp.priv.install --print-sudoers

The root side is copied, not linked: what root runs must not lie where a developer or a package index may write.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from vdsm_mp.priv.sudoers import rules
from vdsm_mp.priv.table import CLASSES

#: What runs as root: exactly these files of this package, and one that the agent uses as well.
COMMON = "family.py"
ROOT_SIDE = (
    "beneath.py",
    "brick.py",
    "child.py",
    "confine.py",
    "context.py",
    "devices.py",
    "dhcp.py",
    "fields.py",
    "gluster.py",
    "hardware.py",
    "helper.py",
    "linkoptions.py",
    "lldp.py",
    "managed.py",
    "mirror.py",
    "mount.py",
    "net.py",
    "qemu.py",
    "resolver.py",
    "shape.py",
    "systemlog.py",
    "table.py",
    "vmdata.py",
)


def install(
    libexec: Path,
    *,
    user: str = "vdsm",
    repository: str = "/rhev/data-center",
    nvram_dir: str = "/var/lib/libvirt/qemu/nvram",
    tpm_dir: str = "/var/lib/libvirt/swtpm",
    python: str = "/usr/bin/python3",
) -> None:
    """Write `helper-CLASS`, `helper.json` and the root side below `libexec`. Safe to repeat; replaces by renaming."""
    root = libexec / "root" / "vdsm_mp"
    packages = (root, root / "common", root / "priv")
    for folder in packages:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "__init__.py", "", 0o644)
    for folder in (libexec, root.parent, *packages):
        folder.chmod(0o755)
    here = Path(__file__).parent.parent
    for name in (f"common/{COMMON}", *(f"priv/{name}" for name in ROOT_SIDE)):
        _write(root / name, (here / name).read_text(encoding="utf-8"), 0o644)
    settings = {"user": user, "repository": repository, "nvram_dir": nvram_dir, "tpm_dir": tpm_dir}
    config = libexec / "helper.json"
    _write(config, json.dumps(settings, indent=2) + "\n", 0o644)
    for helper in CLASSES:
        text = (
            f"#!{python} -IB\nimport sys\n\nsys.path.insert(0, {str(libexec / 'root')!r})\n"
            f"from vdsm_mp.priv.helper import main\n\nsys.exit(main({helper!r}, {str(config)!r}))\n"
        )
        _write(libexec / f"helper-{helper}", text, 0o755)
    for folder in packages:
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)


def _write(path: Path, text: str, mode: int) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(mode)
    if os.geteuid() == 0:
        os.chown(fresh, 0, 0)
    fresh.replace(path)


def main() -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(prog="python -m vdsm_mp.priv.install")
    parser.add_argument("--libexec", type=Path, default=Path("/usr/libexec/vdsm-mp"))
    parser.add_argument("--user", default="vdsm")
    parser.add_argument("--repository", default="/rhev/data-center")
    parser.add_argument("--nvram-dir", default="/var/lib/libvirt/qemu/nvram")
    parser.add_argument("--tpm-dir", default="/var/lib/libvirt/swtpm")
    parser.add_argument("--print-sudoers", action="store_true", help="print the rules for this user and libexec only")
    asked = parser.parse_args()
    if asked.print_sudoers:
        sys.stdout.write(rules(str(asked.libexec), asked.user))
        return 0
    install(
        asked.libexec,
        user=asked.user,
        repository=asked.repository,
        nvram_dir=asked.nvram_dir,
        tpm_dir=asked.tpm_dir,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
