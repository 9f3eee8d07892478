# SPDX-License-Identifier: Apache-2.0
"""The demo's engine: brings a host up, makes storage, boots a VM from it, and takes it down. Through the door only.

usage: python -m demonstration.play KERNEL INITRD CMDLINE [--keep-vm] [--end]

Run with the agent's environment. Remembers in STATE what it made, so that the next run (and `--end`) can undo it.
"""

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from demonstration import sequences as engine
from provisioning import pki
from provisioning.say import say
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.common.errors import Error
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import Files, client_context

HOST, PORT = "localhost", 54321
STATE = Path("/run/vdsm-mp-demo/demo.json")
DOMAIN = Path("/var/lib/vdsm-mp-demo/storage")
CONSOLE = Path("/var/log/libvirt/qemu/vdsm-mp-demo-console.log")
AGENT_LOG = "/var/log/vdsm/vdsm.log"
#: The door says so while storage and the VMs are being recovered.
RECOVERING = 99


class Player:
    """One connection, and the times of the steps."""

    def __init__(self) -> None:
        files = Files(pki.HOST.engine_key, pki.HOST.engine_certificate, pki.HOST.ca)
        if not files.cert.exists():
            files = Files.below(pki.HOST.directory)
        self._context = client_context(files)
        self._client: Client | None = None
        self.took: list[tuple[str, float]] = []

    def connect(self, *, within_s: float = 60) -> None:
        """Until the host answers and has recovered."""
        until = time.monotonic() + within_s
        while True:
            try:
                self._client = Client(HOST, PORT, context=self._context, timeout_s=5)
                self._client.call("Host.ping2", timeout_s=10)
                self._client.call("Host.getAllVmStats", timeout_s=10)
                self._client.subscribe()
                return
            except Error as error:
                if time.monotonic() > until:
                    raise engine.TookTooLong(f"port {PORT} does not answer within {within_s:.0f} s: {error}") from error
                time.sleep(0.3)

    def ask(self, verb: str, /, **params: Any) -> Any:
        """One call, as the engine makes it."""
        assert self._client is not None
        try:
            return self._client.call(verb, params, timeout_s=180)
        except RemoteError as error:
            raise engine.Refused(verb, error.code, str(error)) from error

    def events_of(self, vm_id: str, *, within_s: float) -> list[str]:
        """Statuses in the events of a VM that have arrived, or arrive within the time."""
        assert self._client is not None
        found = []
        for event in self._client.events(timeout_s=within_s):
            if event.method.startswith("|virt|VM_status|") and vm_id in event.params:
                found.append(str(event.params[vm_id].get("status")))
        return found

    def step(self, what: str, work: Any, *args: Any, **more: Any) -> Any:
        """Run one step and tell how long it took. A failure names the step."""
        began = time.monotonic()
        try:
            result = work(*args, **more)
        except (engine.Refused, engine.TookTooLong, Error, OSError) as error:
            say(f"{what}: FAILED")
            print(f"    {error}\n    logs: {AGENT_LOG}, guest's console: {CONSOLE}", file=sys.stderr, flush=True)
            raise SystemExit(1) from error
        took = time.monotonic() - began
        self.took.append((what, took))
        say(f"{what}: done in {took:.2f} s")
        return result


def undo(player: Player) -> None:
    """Take away what an earlier run made: its VM, its pool, its domain's files. Never fails because it is gone."""
    if STATE.exists():
        made = json.loads(STATE.read_text())
        storage = engine.Storage(**made["storage"])
        steps: list[tuple[str, dict[str, Any]]] = [
            ("VM.destroy", {"vmID": made["vm_id"]}),
            ("StoragePool.spmStop", {"storagepoolID": storage.pool_id}),
            (
                "StoragePool.disconnect",
                {"storagepoolID": storage.pool_id, "hostID": storage.host_id, "scsiKey": storage.pool_id},
            ),
            (
                "StoragePool.disconnectStorageServer",
                {
                    "storagepoolID": engine.BLANK,
                    "domainType": storage.kind,
                    "connectionParams": [storage.connection()],
                },
            ),
        ]
        for verb, params in steps:
            try:
                if verb == "StoragePool.spmStop":
                    for task in player.ask("Host.getAllTasksStatuses"):
                        player.ask("Task.clear", taskID=task)
                player.ask(verb, **params)
            except engine.Refused as refused:
                # 1: no such VM · 309: pool not connected · 654: not the SPM. Anything else is worth a line.
                if refused.code not in (1, 309, 654):
                    say(f"undoing the earlier demo: {refused}")
        STATE.unlink()
    shutil.rmtree(DOMAIN, ignore_errors=True)


def play(player: Player, guest: list[str], *, keep_vm: bool) -> None:
    kernel, initrd, cmdline = guest
    player.step("the host answers on port 54321", player.connect)
    undo(player)
    storage = engine.Storage(str(DOMAIN))
    disk = engine.Disk(storage)
    vm = engine.Vm(
        f"demo-{storage.pool_id[:8]}",
        disk,
        boot=f"<kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{cmdline}</cmdline>",
        console=CONSOLE,
    )
    STATE.parent.mkdir(exist_ok=True)  # on a host where no daemon had to be started, nobody has made it
    STATE.write_text(json.dumps({"storage": asdict(storage), "vm_id": vm.vm_id}))
    seen = player.step("the host's capabilities, hardware and statistics", engine.activate_host, player.ask)
    tell_host(seen)
    DOMAIN.mkdir(parents=True)
    shutil.chown(DOMAIN, "vdsm", "kvm")
    player.step(f"local storage server {DOMAIN} connected", engine.connect_server, player.ask, storage)
    player.step(f"V5 local domain {storage.sd_id} created", engine.create_domain, player.ask, storage, "demo-domain")
    player.step(f"pool {storage.pool_id} created and connected", engine.create_pool, player.ask, storage, "demo-pool")
    player.step("this host is SPM", engine.start_spm, player.ask, storage)
    player.step("domain activated", engine.activate_domain, player.ask, storage)
    info = player.step("qcow2 volume of 1 GiB created", engine.create_disk, player.ask, disk, "demo disk")
    say(f"    {info['format']} {info['type']} {disk.volume_id}, {int(info['truesize']) // 1024} KiB on disk")
    CONSOLE.unlink(missing_ok=True)
    answer = player.step(f"VM {vm.name} created", engine.create_vm, player.ask, vm)
    say(f"    answered with status {answer['status']} before QEMU runs")
    player.step("QEMU runs", engine.wait_for_status, player.ask, vm.vm_id, "Powering up", "Up", within_s=60)
    player.step("the guest found its disk, wrote to it and read it back", wait_for_guest)
    tell_console()
    stats = engine.vm_stats(player.ask, vm.vm_id)
    say(f"    statistics: status {stats['status']}, {stats.get('elapsedTime')} s up, cpuUser {stats.get('cpuUser')} %, "
        f"displays {', '.join(d['type'] + ' ' + d['port'] for d in stats.get('displayInfo', []))}")  # fmt: skip
    if keep_vm:
        say(f"    events so far: {', '.join(player.events_of(vm.vm_id, within_s=1)) or 'none'}")
        say("KEEP_VM: the VM is left running")
    else:
        player.step("VM asked to shut down", player.ask, "VM.shutdown", vmID=vm.vm_id, delay="0", message="end of demo")
        down = player.step("the guest powered off", engine.wait_for_status, player.ask, vm.vm_id, "Down", within_s=90)
        say(f"    exitCode {down['exitCode']}, exitReason {down['exitReason']}: {down.get('exitMessage', '')}")
        player.step("VM removed from the host's list", player.ask, "VM.destroy", vmID=vm.vm_id)
        say(f"    VM_status events received: {', '.join(player.events_of(vm.vm_id, within_s=1)) or 'none'}")
    tell_end(player, vm, storage, keep_vm=keep_vm)


def tell_host(seen: dict[str, Any]) -> None:
    caps, stats = seen["Host.getCapabilities"], seen["Host.getStats"]
    system = caps.get("operatingSystem", {})
    say(f"    {caps['cpuCores']} cores of {caps['cpuModel'].strip()}, {int(caps['memSize'])} MiB, "
        f"{system.get('pretty_name', system.get('name'))}, cpuIdle {stats['cpuIdle']} %")  # fmt: skip


def wait_for_guest(within_s: float = 120) -> None:
    """The serial console is the guest's own word."""

    def said() -> bool:
        text = CONSOLE.read_text(errors="replace") if CONSOLE.exists() else ""
        if "FAILED" in text or "panic" in text:
            raise engine.Refused("the guest", -1, text[-500:])
        return "GUEST: DISK OK" in text

    engine.wait_for("the guest's word on its console", said, within_s=within_s, every_s=0.2)


def tell_console() -> None:
    for line in CONSOLE.read_text(errors="replace").splitlines():
        if line.startswith("GUEST:"):
            say(f"    console: {line.strip()}")


def tell_end(player: Player, vm: engine.Vm, storage: engine.Storage, *, keep_vm: bool) -> None:
    print("\nWhat was done, all of it through port 54321 over TLS:")
    for what, took in player.took:
        print(f"  {took:7.2f} s  {what}")
    where = f"/rhev/data-center/{storage.pool_id}"
    commands = [
        ("vdsm-mp status", "workers, VMs, domains, tasks"),
        ("vdsm-mp call Host.getStats", "any verb; `vdsm-mp verbs` lists them"),
        ("vdsm-mp events", "follow the events"),
        ("vdsm-mp restart virt", "restart one worker; guests go on"),
        (f"{sys.prefix}/bin/supervisorctl status vdsm", "as supervisord sees the agent"),
        (f"tail -f {AGENT_LOG}", "the log"),
        (f"ls -l {where}/mastersd/", "the storage domain"),
        (f"cat {CONSOLE}", "the guest's serial console"),
        ("make down", "stop everything that the demo started"),
    ]
    if keep_vm:
        commands.insert(0, (f"virsh -c qemu:///system dominfo {vm.name}", "the VM, as libvirt sees it"))
    print("\nThe agent is running. To look further:")
    width = max(len(command) for command, _ in commands)
    for command, meaning in commands:
        print(f"  {command:<{width}}  {meaning}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("guest", nargs="*", metavar="KERNEL INITRD CMDLINE")
    parser.add_argument("--keep-vm", action="store_true")
    parser.add_argument("--end", action="store_true", help="only undo what an earlier run made")
    asked = parser.parse_args()
    os.umask(0o022)
    player = Player()
    if asked.end:
        if STATE.exists():
            player.step("the host answers on port 54321", player.connect, within_s=10)
            player.step("the demo's VM and storage taken away", undo, player)
        return 0
    play(player, asked.guest, keep_vm=asked.keep_vm)
    return 0


if __name__ == "__main__":
    sys.exit(main())
