# SPDX-License-Identifier: Apache-2.0
"""OVAs for tests: a description as VMware writes it, small disks, packed in the ways that are met."""

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

_OVF = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
<References><File ovf:href="{href}" ovf:id="file1" ovf:size="{size}"/></References>
<DiskSection><Info>Disks</Info><Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="{units}"
 ovf:diskId="vmdisk1" ovf:fileRef="file1"
 ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
<NetworkSection><Info>Networks</Info>
<Network ovf:name="VM Network"><Description>d</Description></Network></NetworkSection>
<VirtualSystem ovf:id="small"><Info>A VM</Info><Name>{name}</Name>
<OperatingSystemSection ovf:id="96"><Info>Debian</Info></OperatingSystemSection>
<VirtualHardwareSection><Info>Hardware</Info><System><vssd:ElementName>Family</vssd:ElementName>
<vssd:InstanceID>0</vssd:InstanceID><vssd:VirtualSystemType>vmx-10</vssd:VirtualSystemType></System>
<Item><rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits><rasd:ElementName>2 CPUs</rasd:ElementName>
<rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
<rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>512MB</rasd:ElementName>
<rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType>
<rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>
<Item><rasd:Address>0</rasd:Address><rasd:ElementName>SCSI controller 0</rasd:ElementName>
<rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>lsilogic</rasd:ResourceSubType>
<rasd:ResourceType>6</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>disk0</rasd:ElementName>
<rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource><rasd:InstanceID>4</rasd:InstanceID>
<rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>1</rasd:AddressOnParent><rasd:Connection>VM Network</rasd:Connection>
<rasd:ElementName>ethernet0</rasd:ElementName><rasd:InstanceID>5</rasd:InstanceID>
<rasd:ResourceSubType>E1000</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>
"""


def ovf(*, name: str = "small", href: str = "disk1.vmdk", capacity: int = 64, units: str = "byte * 2^20") -> str:
    """A VM with two CPUs, 512 MiB, one disk and one network card."""
    return _OVF.format(name=name, href=href, capacity=capacity, units=units, size=4096)


def vmdk(source: Path, target: Path) -> Path:
    """A disk as exported: compressed in the file, nothing beside it."""
    words = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", source, target]
    subprocess.run(words, check=True, timeout=60)
    return target


def tar(path: Path, members: Mapping[str, bytes], *, mode: str = "w") -> Path:
    """mode: "w", "w:gz" …, as tarfile has it."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
