# SPDX-License-Identifier: Apache-2.0
# Two commands to begin with: `make demo` and `make check`. `make` alone tells the others.
PYTHON := /usr/bin/python3

.PHONY: help docs check

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check:  ## install what is missing and run every check and test
	@$(PYTHON) scripts/check

docs:  ## write docs/api.md and the other generated files from the declarations
	@$(PYTHON) scripts/check --write
