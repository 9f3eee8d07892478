# SPDX-License-Identifier: Apache-2.0
import sys

# Before anything else of ours is read: a traceback about `|` would be all that Debian 11 and Enterprise Linux 9 say.
if sys.version_info < (3, 11):  # noqa: UP036 (who runs it is not asked for its version before)
    sys.exit(
        f"\nFAILED: {sys.executable} is Python {sys.version.split()[0]}, and 3.11 is needed: Debian 12 has it; "
        "'Other distributions' in docs/operations.md tells what others need"
    )
