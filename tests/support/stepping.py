# SPDX-License-Identifier: Apache-2.0
"""The test's side of `stepped_virt`: where the worker is to stand still, whether it does, and to let it go."""

import json
import uuid
from pathlib import Path

from tests.support.eventually import eventually


class Stepping:
    """run_dir: of the house (`vdsm_run_dir`)."""

    def __init__(self, run_dir: Path) -> None:
        self._run = run_dir

    def arm(self, moment: str, step: str, number: int = 1) -> None:
        """moment: "before", "in" or "after" that call."""
        for name in ("there", "go", "steps"):
            (self._run / name).unlink(missing_ok=True)
        fresh = self._run / "step.new"
        fresh.write_text(json.dumps({"moment": moment, "step": step, "number": number, "id": str(uuid.uuid4())}))
        fresh.rename(self._run / "step")

    def wait(self) -> None:
        """Until it is there. AssertionError, with the steps that went by, when it does not come."""
        try:
            eventually((self._run / "there").exists, within_s=30, every_s=0.002)
        except AssertionError:
            (self._run / "step").unlink(missing_ok=True)
            seen = (self._run / "steps").read_text() if (self._run / "steps").exists() else "nothing"
            raise AssertionError(f"it did not come to this step, but to {seen}") from None

    def go(self) -> None:
        (self._run / "go").touch()
