# SPDX-License-Identifier: GPL-2.0
#
# Thin: the work is in tools/testing/devexcl/devexcl.py. "make help" tells more.

DEVEXCL := tools/testing/devexcl/devexcl.py

# What to run on, and how; see "make help".
KERNEL ?= 6.12
KSRC ?=
TESTS ?=
ROUNDS ?=
FIGURES ?=
DEBUG ?=
BUILTIN ?=
V ?=
export J

on = $(filter-out 0,$($(1)))
COMMON := $(if $(call on,V),--verbose) $(if $(call on,DEBUG),--debug)
KERNEL_ARGS := $(if $(KSRC),--ksrc '$(KSRC)',--kernel '$(KERNEL)') \
	       $(if $(call on,BUILTIN),--builtin) $(COMMON)

# "make run" is the main job.
.DEFAULT_GOAL := run

run:
	@$(DEVEXCL) run $(KERNEL_ARGS) $(if $(TESTS),--tests '$(TESTS)')

check:
	@$(DEVEXCL) check $(if $(call on,V),--verbose)

selfcheck:
	@$(DEVEXCL) selfcheck $(KERNEL_ARGS) $(if $(TESTS),--tests '$(TESTS)')

bench:
	@$(DEVEXCL) bench $(KERNEL_ARGS) $(if $(ROUNDS),--rounds '$(ROUNDS)') $(if $(FIGURES),--figures '$(FIGURES)')

# The kernel that checks everything is the one to soak, unless DEBUG=0; and a new
# one, unless told otherwise: a known bug of an old one would be the end of it.
soak: soak_on = $(if $(filter file,$(origin KERNEL)),$(subst '$(KERNEL)','7.3',$(KERNEL_ARGS)),$(KERNEL_ARGS))
soak:
	@$(DEVEXCL) soak $(soak_on) $(if $(filter-out 0,$(or $(DEBUG),1)),--debug) \
		--minutes '$(or $(MINUTES),10)' $(if $(SEED),--seed '$(SEED)')

shell:
	@$(DEVEXCL) shell $(KERNEL_ARGS)

list:
	@$(DEVEXCL) list $(KERNEL_ARGS)

# The module alone, against a kernel's build folder
KDIR ?= /lib/modules/$(shell uname -r)/build

modules:
	@$(MAKE) -C '$(KDIR)' M='$(CURDIR)' modules

clean:
	@rm -rf results
	@if [ -f modules.order ]; then $(MAKE) -C '$(KDIR)' M='$(CURDIR)' clean; fi

help:
	@echo 'make run      build a kernel with the module, boot it, run all tests (the default)'
	@echo 'make check    the checks of the project itself, and the tests on all kernels'
	@echo 'make selfcheck  do the tests notice a broken driver?'
	@echo 'make bench    how quick the device is, beside test_hmm and the kernel alone'
	@echo 'make soak     everything at once on the debug kernel: MINUTES=10 SEED=<to have it again>'
	@echo 'make shell    a shell in the guest, with the module loaded'
	@echo 'make list     the names of all tests'
	@echo 'make modules  the module alone: KDIR=<build folder of a kernel>'
	@echo 'make clean    remove what was made in this folder'
	@echo
	@echo 'KERNEL=6.12   6.1, 6.12, 7.3, ... or latest, as the distribution offers it'
	@echo 'KSRC=dir      a kernel tree of your own; it is only read'
	@echo "TESTS='glob'  only tests that match, such as 'fork*' or 'abi.* atomic.add'"
	@echo 'ROUNDS=n      of make bench: measure everything so often (5)'
	@echo "FIGURES='..'  of make bench: only these"
	@echo 'BUILTIN=1     the device built in instead of as a module'
	@echo 'DEBUG=1       with KASAN, lockdep, kmemleak and more'
	@echo 'V=1           show everything'
	@echo 'J=n           that many jobs at once'
	@echo
	@echo 'Each stage by itself: $(DEVEXCL) --help'

.PHONY: run check bench selfcheck soak shell list modules clean help
