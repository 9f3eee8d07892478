# SPDX-License-Identifier: Apache-2.0
# Two commands to begin with: `make demo` and `make check`. `make` alone tells the others.
PYTHON := /usr/bin/python3

.PHONY: help demo down deb uninstall check docs bench faults fuzz testbed

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo:  ## from a bare machine to a VM on a volume, through the public door (KEEP_VM=1 leaves the VM running)
	@KEEP_VM=$(KEEP_VM) $(PYTHON) scripts/demo

down:  ## undo everything that make demo started
	@$(PYTHON) scripts/down

deb:  ## the Debian package of the agent, in dist/ (VERSION=X: its version, instead of the program's)
	@$(PYTHON) scripts/deb $(if $(VERSION),--version $(VERSION))

uninstall:  ## undo scripts/provision and make demo; guests go on (PURGE=1: configuration, state and logs go, too)
	@$(PYTHON) scripts/uninstall $(if $(PURGE),--purge)

check:  ## install what is missing and run every check and test
	@$(PYTHON) scripts/check

docs:  ## write docs/api.md and the other generated files from the declarations
	@$(PYTHON) scripts/check --write

bench:  ## measure against bare ZeroMQ, TLS, files and libvirt on this machine (ONLY=vms,rpc: only these parts)
	@$(PYTHON) scripts/check --run bench $(if $(ONLY),--parts $(ONLY))

testbed:  ## tests in throw-away hosts with a full kernel; builds the hosts the first time
	@$(PYTHON) scripts/check --run testbed

faults:  ## kill, hang and starve a whole house under load (FULL=1, REPORT=DIR, ONLY="A1 B1", TIME=MINUTES: docs/reliability.md)
	@$(PYTHON) scripts/check --run faults $(if $(FULL),--full) $(if $(REPORT),--report $(REPORT)) \
		$(if $(ONLY),--only "$(ONLY)") $(if $(TIME),--minutes $(TIME))

fuzz:  ## mutants for every reader and for a live door (N=10000000: so many inputs; TOTALS=FILE: goes on where it ended)
	@$(PYTHON) scripts/check --run fuzz $(if $(N),--inputs $(N)) $(if $(TOTALS),--totals $(TOTALS))
