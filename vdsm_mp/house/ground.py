# SPDX-License-Identifier: Apache-2.0
"""What every start of a worker stands on: the directories of the agent, and the program that the house runs."""

from vdsm_mp.common import program


class Ground:
    """See the module. `build`: which program the house and its workers run."""

    def __init__(self, build: str) -> None:
        self.build = build
        #: Without it no worker is started, which could only fail.
        self.stands = True
        #: What somebody took away that the agent needs and cannot make again; "" = nothing.
        self.problem = ""
        self._program_gone = False

    def other_program(self) -> bool:
        """Is the program on the disk not the one that runs?"""
        return program.build_id() != self.build

    def lost_program(self) -> bool:
        """A worker could not start for want of the program that runs: is there none at all? Then nothing stands."""
        if not program.missing():
            return False
        self._program_gone, self.stands = True, False
        return True

    def program_missing(self) -> list[str]:
        """In words, once it was lost; not before, a disk may hang who asks it."""
        found = program.missing() if self._program_gone else []
        self._program_gone = bool(found)
        return found
