# SPDX-License-Identifier: Apache-2.0
"""A Python of its own with a stand-in for os-brick: the surface that `priv/brick.py` uses, and a note of every call."""

import subprocess
from pathlib import Path

from tests.support.house import RunningHouse

#: `data.hang` and `data.fail` are its orders; while NOTES.busy is there nothing is detached.
_CONNECTOR = """
import json, os, time
def get_connector_properties(root_helper, my_ip, multipath, enforce_multipath, host=None, execute=None):
    return {"multipath": multipath, "initiator": "iqn.test", "uid": os.geteuid()}
class InitiatorConnector:
    @staticmethod
    def factory(protocol, root_helper, **more):
        return Connector(protocol)
class Connector:
    def __init__(self, protocol):
        self.protocol = protocol
    def note(self, what, *args):
        with open(NOTES, "a") as file:
            file.write(json.dumps([what, *args]) + "\\n")
    def connect_volume(self, data):
        print("a library that talks")
        self.note("connect", data)
        if data.get("hang"):
            time.sleep(600)
        if data.get("fail"):
            raise RuntimeError("the target said no")
        return {"type": "block", "path": data["device_path"]}
    def disconnect_volume(self, data, info, force=False, ignore_errors=False):
        self.note("disconnect", data, info)
        if os.path.exists(NOTES + ".busy"):
            raise RuntimeError("the device is busy")
"""


def python_with_brick(venv: Path, notes: Path | None) -> str:
    """Its path. notes: where calls are noted; None: without os-brick."""
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", venv], check=True)
    if notes is not None:
        package = next(venv.glob("lib/python3*/site-packages")) / "os_brick"
        (package / "initiator").mkdir(parents=True)
        for name in ("__init__", "privileged", "initiator/__init__"):
            (package / f"{name}.py").touch()
        (package / "initiator/connector.py").write_text(f"NOTES = {str(notes)!r}\n{_CONNECTOR}")
    return str(venv / "bin/python3")


def give_brick(house: RunningHouse) -> None:
    """Root's helper for storage has os-brick from now on; calls are noted in `notes` below the house's root."""
    python = python_with_brick(house.root / "venv", house.root / "notes")
    program = house.root / "libexec/helper-storage"
    program.write_text(program.read_text().replace("#!/usr/bin/python3", f"#!{python}"))
    house.kill_worker("storage")  # with its helper, which runs without os-brick
