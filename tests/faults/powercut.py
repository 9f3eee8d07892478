# SPDX-License-Identifier: Apache-2.0
"""Where a run of one operation happens, and what is left of it afterwards: all files, or what a power cut leaves.

A power cut is real in what it takes: the host's files are a file system of their own (ext4 on a loop device) whose
image is taken as the device has it, without what its kernel still kept in memory, and mounted again. It is mounted so
that it forgives nothing: the journal is written only when somebody syncs, data is not written before names, and a
rename does not imply a sync. Needs root and loop devices.
"""

import itertools
import shutil
import subprocess
import tempfile
from pathlib import Path

#: Room for a few volumes; the image is sparse and in memory, so that copies are quick.
_SIZE = 96 * 2**20
_OPTIONS = "loop,commit=300,data=writeback,noauto_da_alloc"
_SHM = Path("/dev/shm")


class Stage:
    """root: the host's files, `template` at the beginning of each run. notes: of who watches; nothing takes them."""

    def __init__(self, directory: Path) -> None:
        self.template, self.root, self.notes = directory / "template", directory / "run", directory / "notes"
        #: Takes all room, when a fault makes it; gone with the run.
        self.balloon = self.root / "balloon"
        for one in (self.template, self.root, self.notes):
            one.mkdir()

    def keep(self) -> None:
        """What is in `template` is where runs begin."""

    def begin(self) -> None:
        shutil.rmtree(self.root)
        shutil.rmtree(self.notes)
        self.notes.mkdir()
        subprocess.run(["cp", "-a", self.template, self.root], check=True)

    def over(self) -> None:
        """The run is dead; what it left is looked at next."""

    def mark(self) -> None:
        """What was left now is where `again` begins. On an image only: files that are copied are other inodes."""
        raise NotImplementedError

    def again(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """After the last run."""


class ImageStage(Stage):
    """A file system of its own. cuts: its power goes whenever a run is over, which was killed or had just answered."""

    def __init__(self, directory: Path, *, cuts: bool) -> None:
        super().__init__(directory)
        self._cuts = cuts
        self._images = Path(tempfile.mkdtemp(prefix="cut-", dir=_SHM if _SHM.is_dir() else directory))
        self._numbers = itertools.count()
        self._first = self._kept = self._new()
        with self._first.open("wb") as image:
            image.truncate(_SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", self._first], check=True)
        self._mounted: dict[Path, Path] = {}
        self._mount(self._first, self.template)

    def keep(self) -> None:
        # An unmount alone does not write: another mount namespace may have a copy of the mount.
        subprocess.run(["sync", "-f", self.template], check=True)
        self._unmount(self.template)

    def begin(self) -> None:
        self._drop()
        shutil.rmtree(self.notes)
        self.notes.mkdir()
        self._mount(self._copy(self._first), self.root)

    def over(self) -> None:
        if not self._cuts:
            self.balloon.unlink(missing_ok=True)
            return
        left = self._copy(self._mounted[self.root])
        self._drop()
        self._start_from(left)

    def mark(self) -> None:
        self._keep_notes()
        subprocess.run(["sync", "-f", self.root], check=True)
        left = self._copy(self._mounted[self.root])
        if self._kept != self._first:
            self._kept.unlink()
        self._kept = left

    def again(self) -> None:
        self._notes_again()
        self._drop()
        self._start_from(self._copy(self._kept))

    def close(self) -> None:
        for one in (self.root, self.template):
            self._unmount(one)
        shutil.rmtree(self._images)

    def _start_from(self, image: Path) -> None:
        self._mount(image, self.root)
        for name in ("data-center", "run") if self._cuts else ():  # a host keeps these in memory
            shutil.rmtree(self.root / name, ignore_errors=True)

    def _keep_notes(self) -> None:
        self._noted = {one.name: one.read_bytes() for one in self.notes.iterdir()}

    def _notes_again(self) -> None:
        shutil.rmtree(self.notes)
        self.notes.mkdir()
        for name, data in self._noted.items():
            (self.notes / name).write_bytes(data)

    def _new(self) -> Path:
        """Never a name again: a loop device may hold the file of an earlier one for a moment after its unmount."""
        return self._images / f"{next(self._numbers)}.img"

    def _copy(self, image: Path) -> Path:
        to = self._new()
        subprocess.run(["cp", "--sparse=always", image, to], check=True)
        return to

    def _mount(self, image: Path, where: Path) -> None:
        subprocess.run(["mount", "-o", _OPTIONS, image, where], check=True)
        self._mounted[where] = image

    def _unmount(self, where: Path) -> None:
        if where in self._mounted:
            subprocess.run(["umount", where], check=True)
            del self._mounted[where]

    def _drop(self) -> None:
        image = self._mounted.get(self.root)
        self._unmount(self.root)
        if image is not None:
            image.unlink()


def stage(directory: Path, *, cuts: bool, image: bool) -> Stage:
    return ImageStage(directory, cuts=cuts) if image else Stage(directory)
