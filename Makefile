# SPDX-License-Identifier: Apache-2.0
# Two commands to begin with: `make demo` and `make check`. `make` alone tells the others.
PYTHON := /usr/bin/python3

.PHONY: help docs check

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check:  ## install what is missing and run every check and test
	@$(PYTHON) scripts/check

docs:  ## write docs/api.md from the declarations
	@$(PYTHON) -c "import sys; sys.path.insert(0, 'scripts'); from provisioning import packages; from pathlib import Path; print(packages.check_environment(Path('/tmp/vdsm-mp-provision.log')))" | PYTHONPATH=. xargs -I{} {}/bin/python -m vdsm_mp.tool.schema --write
