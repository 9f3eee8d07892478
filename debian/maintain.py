# SPDX-License-Identifier: Apache-2.0
"""What maintainer scripts run: python3 -IB /usr/share/vdsm-mp configure [OLD-VERSION] | remove."""

import sys
from functools import partial

from provisioning import package
from provisioning.say import main

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["configure", *old]:
            work = partial(package.configure, "".join(old))
        case ["remove"]:
            work = package.remove
        case _:
            sys.exit(__doc__)
    sys.exit(main(work))
