# SPDX-License-Identifier: Apache-2.0
"""Our corner of the domain XML: `ovirt-vm:vm`, where everything lives that must survive us.

The element is kept as it came, so what we do not know is written back unchanged. A `Metadata` is never edited: each
`with_…` gives a new one. Values carry an optional type hint (bool, int, float, str); devices are told apart by their
attributes, and their data are nested children.
"""

import copy
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from typing import Any

from vdsm_mp.common import xml

VM_URI = "http://ovirt.org/vm/1.0"
TUNE_URI = "http://ovirt.org/vm/tune/1.0"
VM_PREFIX = "ovirt-vm"
TUNE_PREFIX = "ovirt-tune"
ET.register_namespace(VM_PREFIX, VM_URI)
ET.register_namespace(TUNE_PREFIX, TUNE_URI)
ET.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")

Scalar = bool | int | float | str
Data = Mapping[str, Any]

#: Children of a device that hold named values themselves.
_MAPS = {
    "address", "auth", "change", "custom", "diskReplicate", "specParams", "vm_custom", "ioTune", "volumeInfo",
}  # fmt: skip
#: Children of a device that hold a list, and the name of its items.
_LISTS = {"volumeChain": "volumeChainNode", "hosts": "hostInfo", "portMirroring": "network"}


def _vm(tag: str) -> str:
    return f"{{{VM_URI}}}{tag}"


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


class Metadata:
    """One `ovirt-vm:vm` element."""

    def __init__(self, element: ET.Element | None = None) -> None:
        self._element = ET.Element(_vm("vm")) if element is None else element

    @classmethod
    def of_domain(cls, domain: ET.Element) -> "Metadata | None":
        """From a whole domain; None when it has none (then the VM is not ours)."""
        element = domain.find(f"metadata/{_vm('vm')}")
        return None if element is None else cls(copy.deepcopy(element))

    def put_into(self, domain: ET.Element) -> None:
        """Replace the element in a whole domain."""
        home = domain.find("metadata")
        if home is None:
            home = ET.SubElement(domain, "metadata")
        old = home.find(_vm("vm"))
        if old is not None:
            home.remove(old)
        home.append(copy.deepcopy(self._element))

    def dump(self) -> str:
        """As a document of its own."""
        return xml.dump(self._element)

    def dump_bare(self) -> str:
        """For virDomainSetMetadata, which puts the namespace in by itself and fails where it stands already."""
        bare = copy.deepcopy(self._element)
        for element in bare.iter():
            if element.tag.startswith(f"{{{VM_URI}}}"):
                element.tag = _local(element.tag)
        return xml.dump(bare)

    def element(self) -> ET.Element:
        """A copy of the element."""
        return copy.deepcopy(self._element)

    # -- values

    def get(self, key: str, default: Scalar | None = None) -> Any:
        """One flat value by its type hint; a value that does not fit its hint counts as absent."""
        found = self._element.find(_vm(key))
        if found is None:
            return default
        value = _typed(found)
        return default if value is None else value

    def flag(self, key: str, *, default: bool = False) -> bool:
        """A value that means yes or no, with or without its hint."""
        value = self.get(key)
        return default if value is None else str(value).lower() == "true"

    def number(self, key: str) -> float | None:
        """A value that must be a number, whatever its hint; None when it is not one."""
        try:
            return float(self.get(key, ""))
        except (TypeError, ValueError):
            return None

    def guaranteed_kib(self) -> int:
        """The memory that the guest keeps: as the engine says, else as VDSM has noted it; 0 when nobody did."""
        mib = self.number("minGuaranteedMemoryMb")
        if mib is None:
            mib = self.number("memGuaranteedSize")
        return int(mib * 1024) if mib else 0

    def custom(self) -> dict[str, str]:
        """The VM's custom properties."""
        found = self._element.find(_vm("custom"))
        return {} if found is None else {_local(child.tag): child.text or "" for child in found}

    def with_values(self, **values: Scalar | None) -> "Metadata":
        """The same with these flat values set; None removes one."""
        element = copy.deepcopy(self._element)
        for key, value in values.items():
            old = element.find(_vm(key))
            if old is not None:
                element.remove(old)
            if value is not None:
                _append(element, key, value)
        return Metadata(element)

    # -- devices

    def device(self, **identity: str) -> dict[str, Any]:
        """Data of the device that has all these attributes; {} when there is none."""
        for element in self._devices(identity):
            return _read(element)
        return {}

    def devices(self, devtype: str) -> list[dict[str, Any]]:
        """Data of every device of a type."""
        return [_read(element) for element in self._devices({"devtype": devtype})]

    def all_devices(self) -> list[tuple[dict[str, str], dict[str, Any]]]:
        """(attributes, data) of every device."""
        return [(dict(element.attrib), _read(element)) for element in self._devices({})]

    def with_device(self, identity: Mapping[str, str], data: Data | None) -> "Metadata":
        """The same with the device's data replaced; None forgets the device."""
        element = copy.deepcopy(self._element)
        mine = Metadata(element)
        attributes = dict(identity)
        for old in list(mine._devices(identity)):
            attributes = {**old.attrib, **attributes}
            element.remove(old)
        if data is not None:
            device = ET.SubElement(element, _vm("device"), attributes)
            for key, value in data.items():
                _append(device, key, value)
        return Metadata(element)

    def _devices(self, identity: Mapping[str, str]) -> Iterator[ET.Element]:
        for element in self._element.findall(_vm("device")):
            if all(element.get(name) == value for name, value in identity.items()):
                yield element


def _typed(element: ET.Element) -> Scalar | None:
    text = (element.text or "").strip()
    hint = element.get("type", "str")
    try:
        if hint == "bool":
            return text.lower() == "true"
        if hint == "int":
            return int(text)
        if hint == "float":
            return float(text)
    except ValueError:
        return None
    return text


def _read(parent: ET.Element) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for child in parent:
        name = _local(child.tag)
        if name == "file" and "path" in child.attrib:
            # Of a payload: {"file": {path: content}}.
            data.setdefault(name, {})[child.get("path", "")] = (child.text or "").strip()
        elif name in _LISTS:
            data[name] = [_read(item) if len(item) else _typed(item) for item in child]
        elif name in _MAPS or len(child):
            data[name] = _read(child)
        else:
            data[name] = _typed(child)
    return data


def _append(parent: ET.Element, key: str, value: Any) -> None:
    if key == "file" and isinstance(value, Mapping):
        for path, content in value.items():
            ET.SubElement(parent, _vm(key), path=path).text = content
        return
    child = ET.SubElement(parent, _vm(key))
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _append(child, name, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _append(child, _LISTS.get(key, "item"), inner)
    elif isinstance(value, bool):
        child.set("type", "bool")
        child.text = "True" if value else "False"
    elif isinstance(value, int | float):
        child.set("type", type(value).__name__)
        child.text = repr(value)
    elif value is not None:
        child.text = str(value)
