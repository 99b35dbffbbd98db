// SPDX-License-Identifier: GPL-2.0
/*
 * Advice about pages that a device holds: madvise(), process_madvise() and
 * mlock()
 */
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "devexcl_matrix.h"

/* Newer than some C libraries. */
#define ADVICE_COLD		20
#define ADVICE_PAGEOUT		21
#define ADVICE_POPULATE_READ	22
#define ADVICE_POPULATE_WRITE	23
#define ADVICE_COLLAPSE		25
#define ADVICE_GUARD_INSTALL	102
#define ADVICE_GUARD_REMOVE	103

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT		1
#endif

/* Another process advises us. */
static const char *act_process_madvise(struct cell *cell)
{
	struct iovec range = { target(cell), target_size(cell) };
	int pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	int status;
	pid_t pid;

	TRY(must("pidfd_open", pidfd));
	/* A fork() would take the pages; vfork() has no memory of its own. */
	pid = vfork();
	if (!pid)
		_exit(syscall(SYS_process_madvise, pidfd, &range, 1,
			      cell->op->arg, 0) < 0);
	TRY(must("vfork", pid));
	waitpid(pid, &status, 0);
	close(pidfd);
	return status ? skip("process_madvise() does not offer the advice") :
			NULL;
}

/* All of the memory, which is as large as a PMD maps. */
static const char *act_collapse(struct cell *cell)
{
	if (!madvise(cell->mem.p, cell->mem.size, ADVICE_COLLAPSE))
		return NULL;
	if (errno == EINVAL)
		return skip("this kernel does not offer the advice");
	return must("MADV_COLLAPSE", -1);
}

/* A PMD cannot protect a few of its pages only, so nothing is to happen. */
static const char *act_collapse_protected(struct cell *cell)
{
	TRY(uffd_protect_target(cell));
	if (!madvise(cell->mem.p, cell->mem.size, ADVICE_COLLAPSE))
		return fail("protected memory was collapsed");
	return check_uffd_protection(cell, true);
}

static const char *finish_guard(struct cell *cell)
{
	return must("MADV_GUARD_REMOVE", madvise(target(cell),
						 target_size(cell),
						 ADVICE_GUARD_REMOVE));
}

static const char *act_mlock(struct cell *cell)
{
	return must("mlock2", syscall(SYS_mlock2, target(cell),
				      target_size(cell), cell->op->arg));
}

static const char *act_munlock(struct cell *cell)
{
	return must("munlock", munlock(target(cell), target_size(cell)));
}

static const char *act_mlockall(struct cell *cell)
{
	const char *ret = must("mlockall", mlockall(MCL_CURRENT));

	munlockall();
	return ret;
}

static const struct operation ops[] = {
	{
		.name = "cold",
		.act = act_madvise, .arg = ADVICE_COLD,
		.expect = DEVICE_KEEPS_FOLIO,
		.except = { TRAIT_MLOCK | TRAIT_MOVING,
			    "locked or moving memory is not given up" },
	}, {
		.name = "pageout",
		.act = act_madvise, .arg = ADVICE_PAGEOUT,
		.expect = DEVICE_KEEPS_FOLIO,
		.except = { TRAIT_MLOCK | TRAIT_MOVING,
			    "locked or moving memory is not given up" },
	}, {
		.name = "process_cold",
		.act = act_process_madvise, .arg = ADVICE_COLD,
		.expect = DEVICE_KEEPS_FOLIO,
		.except = { TRAIT_MLOCK | TRAIT_MOVING,
			    "locked or moving memory is not given up" },
	}, {
		.name = "process_pageout",
		.act = act_process_madvise, .arg = ADVICE_PAGEOUT,
		.expect = DEVICE_KEEPS_FOLIO,
		.except = { TRAIT_MLOCK | TRAIT_MOVING,
			    "locked or moving memory is not given up" },
	}, {
		/* The entry stays: what a device wrote is not free. */
		.name = "free",
		.act = act_madvise, .arg = MADV_FREE,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(EXCLUSIVE),
			    DATA_KEPT, .splits = SPLITS_FOLIO },
		.except = { TRAIT_MLOCK | TRAIT_FILE | TRAIT_SWAPPED,
			    "only unlocked anonymous memory in memory" },
	}, {
		.name = "willneed",
		.act = act_madvise, .arg = MADV_WILLNEED,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "populate_read",
		.act = act_madvise_if_known, .arg = ADVICE_POPULATE_READ,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "populate_write",
		.act = act_madvise_if_known, .arg = ADVICE_POPULATE_WRITE,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "collapse",
		.act = act_collapse,
		.expect = { TAKEN, CAUSE_FAULT | CAUSE(CLEAR),
			    ENTRY_IS(PRESENT), DATA_KEPT,
			    .neighbours_too = true },
		.needs = { TRAIT_PMD_SIZE, "smaller than a PMD maps" },
	}, {
		.name = "collapse_protected",
		.prepare = prepare_uffd,
		.act = act_collapse_protected,
		.finish = finish_uffd_protected,
		.expect = { TAKEN, CAUSE(PROTECTION_VMA), ENTRY_IS(EXCLUSIVE),
			    DATA_KEPT },
		.needs = { TRAIT_PMD_SIZE, "smaller than a PMD maps" },
	}, {
		.name = "mergeable",
		.act = act_madvise_if_known, .arg = MADV_MERGEABLE,
		.expect = DEVICE_KEEPS_SPLIT,
	}, {
		.name = "unmergeable",
		.act = act_madvise_if_known, .arg = MADV_UNMERGEABLE,
		.expect = DEVICE_KEEPS_SPLIT,
	}, {
		.name = "hugepage",
		.act = act_madvise_if_known, .arg = MADV_HUGEPAGE,
		.expect = DEVICE_KEEPS_SPLIT,
	}, {
		.name = "nohugepage",
		.act = act_madvise_if_known, .arg = MADV_NOHUGEPAGE,
		.expect = DEVICE_KEEPS_SPLIT,
	}, {
		.name = "dontdump",
		.act = act_madvise, .arg = MADV_DONTDUMP,
		.expect = DEVICE_KEEPS_SPLIT,
	}, {
		.name = "guard_install",
		.act = act_madvise_if_known, .arg = ADVICE_GUARD_INSTALL,
		.finish = finish_guard,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(NONE) |
			    ENTRY_IS(SWAP), DATA_GONE },
		.except = { TRAIT_MLOCK, "locked memory cannot be guarded" },
	}, {
		.name = "mlock",
		.act = act_mlock,
		.expect = { TAKEN, CAUSE_FAULT, ENTRY_IS(PRESENT), DATA_KEPT,
			    .splits = SPLITS_VMA },
	}, {
		.name = "mlock_onfault",
		.act = act_mlock, .arg = MLOCK_ONFAULT,
		.expect = DEVICE_KEEPS_SPLIT,
		.except = { TRAIT_DRIVER, "mappings of drivers are not locked" },
	}, {
		.name = "munlock",
		.act = act_munlock,
		.expect = DEVICE_KEEPS_SPLIT,
	}, {
		.name = "mlockall",
		.act = act_mlockall,
		.expect = { TAKEN, CAUSE_FAULT, ENTRY_IS(PRESENT), DATA_KEPT,
			    .neighbours_too = true },
	},
};

int main(int argc, char **argv)
{
	return matrix_main("advise", ops, ARRAY_SIZE(ops), argc, argv);
}
