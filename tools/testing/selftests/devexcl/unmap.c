// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings that go away, move or change their size while a device holds pages
 */
#include "../kselftest.h"
#include "devexcl_matrix.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP	4
#endif

static const char *act_munmap(struct cell *cell)
{
	return must("munmap", munmap(target(cell), target_size(cell)));
}

/* A new mapping over the old one. */
static const char *act_map_fixed(struct cell *cell)
{
	char *p = mmap(target(cell), target_size(cell), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	return must("mmap", p == MAP_FAILED ? -1 : 0);
}

/* Somewhere else, with @arg as flags. */
static const char *act_mremap_move(struct cell *cell)
{
	size_t size = target_size(cell);
	char *to;

	to = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (to == MAP_FAILED)
		return must("mmap", -1);
	cell->moved_to = mremap(target(cell), size, size,
				MREMAP_MAYMOVE | MREMAP_FIXED | cell->op->arg,
				to);
	if (cell->moved_to != to)
		return must("mremap", -1);
	return NULL;
}

static const struct operation ops[] = {
	{
		.name = "nothing",
		.act = act_nothing,
		.expect = { NOT_TAKEN, 0, ENTRY_IS(EXCLUSIVE), DATA_KEPT },
		.except = { TRAIT_MOVING, "the migrating thread does something" },
	}, {
		.name = "munmap",
		.act = act_munmap,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_GONE,
			    .splits = SPLITS_VMA },
	}, {
		.name = "map_fixed",
		.act = act_map_fixed,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_FRESH,
			    .splits = SPLITS_VMA },
		.except = { TRAIT_FILE, "the new mapping is not of the file" },
	}, {
		.name = "mremap_move",
		.act = act_mremap_move,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_MOVED,
			    .splits = SPLITS_VMA },
	}, {
		.name = "dontneed",
		.act = act_madvise, .arg = MADV_DONTNEED,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(NONE), DATA_FRESH },
		.except = { TRAIT_MLOCK, "locked memory cannot be discarded" },
	},
};

int main(int argc, char **argv)
{
	return matrix_main("unmap", ops, ARRAY_SIZE(ops), argc, argv);
}
