# SPDX-License-Identifier: Apache-2.0
"""A whole VM as a 4.5 engine describes it to a host: every element that it writes for a usual server with cloud-init.

Nothing in it is ours: names, paths and placeholders are the engine's, and it expects that the host copes with them.
"""

import base64
import uuid
from pathlib import Path

MAC = "56:6f:aa:00:00:01"
CARD = "ua-11111111-1111-4111-8111-111111111111"
FILES = {
    "openstack/latest/meta_data.json": b'{"hostname": "guest.example"}',
    "openstack/latest/user_data": b"#cloud-config\n",
}
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"


def engine_xml(vm_id: str, *, disk: Path, serial: Path, filtered: bool = True) -> str:
    """disk: a bootable raw file. serial: what the guest writes there; engines do not ask for that. filtered: the card
    has the filter that engines give to every card.
    """
    one = _alias
    files = "".join(
        f'<ovirt-vm:file path="{path}">{base64.b64encode(content).decode()}</ovirt-vm:file>'
        for path, content in FILES.items()
    )
    channel = f"/var/lib/libvirt/qemu/channels/{vm_id}.org.qemu.guest_agent.0"
    console = f'<source path="/var/run/ovirt-vmconsole-console/{vm_id}.sock" mode="bind"/>'
    ports = '<controller type="pci" model="pcie-root-port"/>' * 8
    mac_filter = '<filterref filter="vdsm-no-mac-spoofing"/>' if filtered else ""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<domain type="kvm" xmlns:ovirt-tune="http://ovirt.org/vm/tune/1.0" xmlns:ovirt-vm="http://ovirt.org/vm/1.0"
 xmlns:qemu="{_QEMU}"><name>engine-{vm_id[:8]}</name><uuid>{vm_id}</uuid><memory>65536</memory>
<currentMemory>65536</currentMemory><iothreads>1</iothreads><maxMemory slots="16">262144</maxMemory>
<vcpu current="1">16</vcpu><sysinfo type="smbios"><system><entry name="manufacturer">oVirt</entry>
<entry name="product">OS-NAME:</entry><entry name="version">OS-VERSION:</entry><entry name="family">oVirt</entry>
<entry name="serial">HOST-SERIAL:</entry><entry name="uuid">{vm_id}</entry></system></sysinfo>
<clock offset="variable" adjustment="3600"><timer name="rtc" tickpolicy="catchup"/>
<timer name="pit" tickpolicy="delay"/><timer name="hpet" present="no"/></clock>
<features><acpi/><hyperv><relaxed state="on"/><vapic state="on"/><spinlocks state="on" retries="8191"/></hyperv>
<vmcoreinfo/></features><cpu match="exact"><model>Cascadelake-Server</model><feature name="md-clear" policy="require"/>
<topology cores="1" threads="1" sockets="16"/><numa><cell id="0" cpus="0-15" memory="65536"/></numa></cpu><cputune/>
<devices><input type="tablet" bus="usb"/><channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/>
<source mode="bind" path="{channel}"/></channel>
<console type="unix">{console}<target type="serial" port="0"/>{one()}</console>
<serial type="unix">{console}<target port="0"/></serial>
<serial type="file"><source path="{serial}" append="on"/><target port="1"/></serial>
<controller type="usb" model="qemu-xhci" index="0" ports="8"/>
<controller type="virtio-serial" index="0" ports="16">{one()}</controller>
<controller type="scsi" model="virtio-scsi" index="0"><driver iothread="1"/>{one()}</controller>
<graphics type="vnc" port="-1" autoport="yes" passwd="*****" passwdValidTo="1970-01-01T00:00:01" keymap="en-us">
<listen type="network" network="vdsm-lo"/></graphics>
<sound model="ich6">{one()}</sound>
<rng model="virtio"><backend model="random">/dev/urandom</backend>{one()}</rng>
<memballoon model="virtio"><stats period="5"/>{one()}</memballoon>
<watchdog model="i6300esb" action="reset">{one()}</watchdog>
<video><model type="vga" vram="16384" heads="1"/>{one()}</video><controller type="pci" model="pcie-root"/>{ports}
<interface type="bridge"><model type="virtio"/><link state="down"/><source bridge=";vdsmdummy;"/>
<alias name="{CARD}"/><mac address="{MAC}"/>{mac_filter}<bandwidth/></interface>
<disk type="file" device="cdrom" snapshot="no"><driver name="qemu" type="raw" error_policy="report"/>
<source file="PAYLOAD:" startupPolicy="optional"/><target dev="sdd" bus="sata"/><readonly/>{one()}</disk>
<disk type="file" device="cdrom" snapshot="no"><driver name="qemu" type="raw" error_policy="report"/>
<source file="" startupPolicy="optional"/><target dev="sdc" bus="sata"/><readonly/>{one()}<boot order="2"/></disk>
<disk snapshot="no" type="file" device="disk"><target dev="vda" bus="virtio"/><source file="{disk}"/>
<driver name="qemu" io="threads" type="raw" error_policy="stop" cache="none" discard="unmap" iothread="1"/>{one()}
<boot order="1"/><serial>{uuid.uuid4()}</serial></disk></devices>
<pm><suspend-to-disk enabled="no"/><suspend-to-mem enabled="no"/></pm>
<os><type arch="x86_64" machine="q35">hvm</type><smbios mode="sysinfo"/><bootmenu enable="yes" timeout="10"/>
<bios useserial="yes"/></os>
<metadata><ovirt-tune:qos/><ovirt-vm:vm>
<ovirt-vm:minGuaranteedMemoryMb type="int">32</ovirt-vm:minGuaranteedMemoryMb>
<ovirt-vm:clusterVersion>4.7</ovirt-vm:clusterVersion><ovirt-vm:custom/>
<ovirt-vm:device alias="{CARD}" mac_address="{MAC}"><ovirt-vm:custom/></ovirt-vm:device>
<ovirt-vm:launchPaused>false</ovirt-vm:launchPaused><ovirt-vm:device devtype="disk" name="sdd"><ovirt-vm:payload>
<ovirt-vm:volId>config-2</ovirt-vm:volId>{files}</ovirt-vm:payload></ovirt-vm:device>
<ovirt-vm:resumeBehavior>auto_resume</ovirt-vm:resumeBehavior>
<ovirt-vm:ballooningEnabled>true</ovirt-vm:ballooningEnabled><ovirt-vm:cpuPolicy>none</ovirt-vm:cpuPolicy>
</ovirt-vm:vm></metadata><qemu:capabilities><qemu:add capability="blockdev"/>
<qemu:add capability="incremental-backup"/></qemu:capabilities></domain>"""


def _alias() -> str:
    return f'<alias name="ua-{uuid.uuid4()}"/>'
