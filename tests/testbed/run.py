# SPDX-License-Identifier: Apache-2.0
"""Run a command as root inside a throw-away host that has a full kernel.

usage: python -m tests.testbed.run [options] -- COMMAND [ARG...]

The command's output and exit status come back; with more hosts than one it runs on all
at once, its lines marked with the host, and the status is the worst. In it:
  /project            the folder given by --project (default: the current one)
  /testbed            shared by all hosts of this run, writable; tb-barrier NAME waits for all
  /dev/testbed/diskN  empty disks (--disk), /dev/testbed/sharedN ones that all hosts see
  10.77.L.H           address of host H on LAN L (from 0); hostH by name
  /testbed/cutL       lines `A B`: hosts that do not hear each other on LAN L now
  TESTBED_INDEX, TESTBED_HOSTS, TESTBED_BACKEND
124: its time ran out. 125: no host could be started. 128+N: signal N.
"""

import argparse
import signal
import sys
import threading
import time

from tests.testbed import testbed


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--backend", choices=["uml", "qemu"], default="uml")
    p.add_argument("--hosts", type=int, default=1)
    p.add_argument("--memory", type=int, default=1024, metavar="MIB", help="of each host (1024)")
    p.add_argument("--cpus", type=int, default=2, help="qemu only: user-mode Linux has one")
    p.add_argument(
        "--disk",
        action="append",
        default=[],
        metavar="SIZE",
        help="an empty disk on every host, e.g. 1G; may be repeated",
    )
    p.add_argument("--shared-disk", action="append", default=[], metavar="SIZE", help="one disk that all hosts see")
    p.add_argument("--nics", type=int, default=1)
    p.add_argument("--project", default=".", help="folder seen as /project")
    p.add_argument(
        "--project-mode",
        choices=["ro", "rw", "overlay"],
        default="ro",
        help="overlay: writes stay in the host's memory",
    )
    p.add_argument("--init", choices=["tiny", "systemd"], default="tiny")
    p.add_argument("--timeout", type=float, default=300, metavar="S", help="for the command")
    p.add_argument("--start-timeout", type=float, default=180, metavar="S")
    p.add_argument("--no-resume", action="store_true", help="qemu only: boot instead of resuming the saved state")
    p.add_argument("--keep", action="store_true", help="keep consoles and disks")
    p.add_argument("--verbose", action="store_true", help="kernel messages in console.log; timings on stderr")
    p.add_argument("command", nargs=argparse.REMAINDER)
    a = p.parse_args()
    command = a.command[1:] if a.command[:1] == ["--"] else a.command
    if not command:
        p.error("no command")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the hosts end with us
    started = time.monotonic()
    bed = testbed.Testbed(
        a.hosts,
        a.backend,
        a.memory,
        a.cpus,
        a.disk,
        a.shared_disk,
        a.nics,
        a.project,
        a.project_mode,
        a.init,
        not a.no_resume,
        a.verbose,
        a.keep,
        a.start_timeout,
    )
    try:
        bed.__enter__()
    except (testbed.TestbedError, OSError, testbed.subprocess.CalledProcessError) as e:
        print(f"run: {e}", file=sys.stderr)
        return 125
    try:
        up = time.monotonic() - started
        statuses = [125] * a.hosts
        lock = threading.Lock()

        def one(host):
            pending = bytearray()

            def show(data: bytes):
                with lock:
                    if a.hosts == 1:
                        sys.stdout.buffer.write(data)
                    else:
                        pending.extend(data)
                        *lines, rest = bytes(pending).split(b"\n")
                        pending[:] = rest
                        for line in lines:
                            sys.stdout.buffer.write(f"{host.name}| ".encode() + line + b"\n")
                    sys.stdout.flush()

            try:
                statuses[host.index - 1] = host.run(command, a.timeout, cwd="/project", on_output=show).status
            except testbed.TestbedError as e:
                print(f"run: {host.name}: {e}", file=sys.stderr)
            if pending:
                show(b"\n")

        threads = [threading.Thread(target=one, args=(h,)) for h in bed.hosts]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if a.verbose:
            print(
                f"run: up in {up:.2f} s (hosts {bed.start_seconds:.2f}), all {time.monotonic() - started:.2f} s",
                file=sys.stderr,
            )
        if a.keep:
            print(f"run: kept {bed.folder}", file=sys.stderr)
        return max(statuses)
    finally:
        bed.stop()


if __name__ == "__main__":
    sys.exit(main())
