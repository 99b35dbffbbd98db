// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings that go away, move or change their size while a device holds pages
 */
#include <linux/falloc.h>
#include <signal.h>
#include <sys/syscall.h>

#include "../kselftest.h"
#include "devexcl_matrix.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP	4
#endif

/* Newer than some C libraries. */
#define ADVICE_DONTNEED_LOCKED	24

static const char *must_map(const char *what, const void *p)
{
	return must(what, p == MAP_FAILED ? -1 : 0);
}

/* A system call that must be refused, and with what error. */
static const char *must_fail(const char *what, long ret, int error)
{
	if (ret == -1 && errno == error)
		return NULL;
	return fail("%s: %s, expected %s", what,
		    ret == -1 ? strerror(errno) : "success", strerror(error));
}

/*
 * Addresses that nobody uses, aligned as page tables are: what is moved there
 * from the beginning of another page table can be moved as a whole.
 */
static char *find_room(size_t size)
{
	size_t align = thp_size() ?: page_size();
	char *p = mmap(NULL, size + align, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	return (char *)(((uintptr_t)p + align - 1) & ~(align - 1));
}

/* Unmapping */

static const char *act_munmap(struct cell *cell)
{
	return must("munmap", munmap(target(cell), target_size(cell)));
}

static const char *act_munmap_all(struct cell *cell)
{
	return must("munmap", munmap(cell->mem.p, cell->mem.size));
}

/* A new mapping over the old one. */
static const char *act_map_fixed(struct cell *cell)
{
	return must_map("mmap", mmap(target(cell), target_size(cell),
				     PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
				     -1, 0));
}

static const char *act_map_noreplace(struct cell *cell)
{
	void *p = mmap(target(cell), target_size(cell), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		       0);

	return must_fail("mmap", p == MAP_FAILED ? -1 : 0, EEXIST);
}

/* Behind the target there is nothing any more. */
static const char *act_brk(struct cell *cell)
{
	if (sbrk(0) != cell->mem.p + cell->mem.size)
		return fail("our pages are not the last ones of the heap");
	return must("brk", brk(target(cell)));
}

static const char *prepare_seal(struct cell *cell)
{
	if (!syscall(SYS_mseal, cell->mem.p, cell->mem.size, 0))
		return NULL;
	return skip("this kernel does not seal memory: %s", strerror(errno));
}

/* Nothing that unmaps sealed memory is permitted, and so nothing happens. */
static const char *act_unmap_sealed(struct cell *cell)
{
	size_t size = target_size(cell);
	char *room = find_room(size);
	void *p;

	TRY(must_fail("munmap", munmap(target(cell), size), EPERM));
	p = mmap(target(cell), size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	TRY(must_fail("mmap", p == MAP_FAILED ? -1 : 0, EPERM));
	p = mremap(target(cell), size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
		   room);
	return must_fail("mremap", p == MAP_FAILED ? -1 : 0, EPERM);
}

/* Moving */

/* Move some memory, with @arg as flags, and let it get a new size. */
static const char *move(struct cell *cell, char *from, size_t size,
			size_t new_size)
{
	char *to = find_room(new_size);

	if (!to)
		return must("mmap", -1);
	cell->moved_to = mremap(from, size, new_size, MREMAP_MAYMOVE |
				MREMAP_FIXED | cell->op->arg, to);
	return must("mremap", cell->moved_to == to ? 0 : -1);
}

static const char *act_mremap_move(struct cell *cell)
{
	return move(cell, target(cell), target_size(cell), target_size(cell));
}

/* What was moved counts as written, for those who look for that. */
static const char *act_mremap_clean(struct cell *cell)
{
	size_t page;

	if (!clear_soft_dirty())
		return skip("no soft-dirty bits");
	TRY(act_mremap_move(cell));
	for (page = 0; page < cell->pages; page++)
		if (!(pagemap_of(cell->moved_to + page * page_size()) &
		      PAGEMAP_SOFT_DIRTY))
			return fail("page %zu was moved, and is not soft-dirty",
				    cell->first + page);
	return NULL;
}

/* Where the memory goes to it is not registered, and so not protected. */
static const char *act_mremap_protected(struct cell *cell)
{
	TRY(uffd_protect_target(cell));
	TRY(act_mremap_move(cell));
	return check_uffd_protection(cell, false);
}

static const char *finish_unprotected(struct cell *cell)
{
	return check_uffd_protection(cell, false);
}

/* Of a huge page's size this moves the page table. */
static const char *act_mremap_move_all(struct cell *cell)
{
	return move(cell, cell->mem.p, cell->mem.size, cell->mem.size);
}

/* What was moved away is mapped still, and new; and it is memory of its own. */
static const char *finish_dontunmap(struct cell *cell)
{
	size_t n;

	for (n = 0; n < cell->pages; n++) {
		size_t page = cell->first + n;

		TRY(check_page(cell, page, page_of(&cell->mem, page), true));
		memset(page_of(&cell->mem, page), 0xee, page_size());
		TRY(check_page(cell, page, cell->moved_to + n * page_size(),
			       false));
	}
	return NULL;
}

/* There is a neighbour behind the target, so it has to move to grow. */
static const char *act_mremap_grow(struct cell *cell)
{
	size_t size = target_size(cell);

	TRY(move(cell, target(cell), size, size + page_size()));
	return check_page(cell, cell->first + cell->pages,
			  cell->moved_to + size, true);
}

/* Another mapping, of zeros, comes where the target is. */
static const char *act_mremap_onto(struct cell *cell)
{
	size_t size = target_size(cell);
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	TRY(must_map("mmap", p));
	memset(p, 0, size);
	return must_map("mremap", mremap(p, size, size,
					 MREMAP_MAYMOVE | MREMAP_FIXED,
					 target(cell)));
}

/* Getting smaller or larger in its place */

static const char *act_mremap_shrink(struct cell *cell)
{
	size_t rest = cell->first * page_size();

	return must_map("mremap", mremap(cell->mem.p, cell->mem.size, rest, 0));
}

static char *behind_the_end(struct cell *cell)
{
	return cell->mem.p + cell->mem.size;
}

/* There is room behind the memory. */
static const char *prepare_room_behind(struct cell *cell)
{
	return must("munmap", munmap(behind_the_end(cell), page_size()));
}

static const char *act_mremap_expand(struct cell *cell)
{
	char *end = behind_the_end(cell);
	char *last = end - page_size();

	TRY(must_map("mremap", mremap(last, page_size(), 2 * page_size(), 0)));
	if (cell->backing->traits & TRAIT_FILE)
		return NULL;	/* the file is no longer than that */
	return check_page(cell, cell->mem.pages, end, true);
}

static const char *finish_expand(struct cell *cell)
{
	return must("munmap", munmap(behind_the_end(cell), page_size()));
}

/* A touch below the stack makes it grow. */
static const char *act_grow_stack(struct cell *cell)
{
	char *below = cell->mem.p - page_size();

	if (entry_of(below) != ENTRY_NONE)
		return fail("there is something below the stack");
	WRITE_MEM(below, 1);
	return entry_of(below) == ENTRY_PRESENT ? NULL :
	       fail("the stack has not grown");
}

/* Files that lose pages which private mappings have copied */

static const char *act_truncate(struct cell *cell)
{
	return must("ftruncate", ftruncate(cell->fd,
					   cell->first * page_size()));
}

static const char *finish_truncate(struct cell *cell)
{
	uint64_t value;
	size_t page;

	for (page = cell->first; page < cell->mem.pages; page++)
		if (cpu_read(word_of(&cell->mem, page), &value) != BUS_ADRERR)
			return fail("page %zu can be read, but the file is too short",
				    page);
	return NULL;
}

static const char *act_punch_hole(struct cell *cell)
{
	if (!fallocate(cell->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		       cell->first * page_size(), target_size(cell)))
		return NULL;
	if (errno == EOPNOTSUPP)
		return skip("the file system cannot punch holes");
	return must("fallocate", -1);
}

/* The same, by one who has the file mapped shared. */
static const char *act_remove(struct cell *cell)
{
	char *p = mmap(NULL, cell->mem.size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       cell->fd, 0);

	TRY(must_map("mmap", p));
	if (!madvise(p + cell->first * page_size(), target_size(cell),
		     MADV_REMOVE))
		return must("munmap", munmap(p, cell->mem.size));
	if (errno == EOPNOTSUPP)
		return skip("the file system cannot punch holes");
	return must("MADV_REMOVE", -1);
}

static const struct operation ops[] = {
	{
		.name = "nothing",
		.act = act_nothing,
		.expect = DEVICE_KEEPS,
		.except = { TRAIT_MOVING, "the migrating thread does something" },
	}, {
		.name = "munmap",
		.act = act_munmap,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_GONE,
			    .splits = SPLITS_VMA },
	}, {
		.name = "munmap_all",
		.act = act_munmap_all,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_GONE,
			    .reach = REACH_ALL },
	}, {
		.name = "map_fixed",
		.act = act_map_fixed,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_FRESH,
			    .splits = SPLITS_VMA },
		.except = { TRAIT_FILE, "the new mapping is not of the file" },
	}, {
		.name = "map_fixed_noreplace",
		.act = act_map_noreplace,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "brk",
		.act = act_brk,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_GONE,
			    .reach = REACH_END },
		.needs = { TRAIT_HEAP, "only the heap ends at the break" },
	}, {
		.name = "mseal",
		.prepare = prepare_seal,
		.act = act_unmap_sealed,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "mremap_move",
		.act = act_mremap_move,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_MOVED,
			    .splits = SPLITS_VMA },
	}, {
		.name = "mremap_clean",
		.act = act_mremap_clean,
		.expect = { TAKEN, CAUSE(UNMAP) | CAUSE(SOFT_DIRTY),
			    ENTRY_IS(NONE), DATA_MOVED,
			    .neighbours_too = true, .splits = SPLITS_VMA,
			    .soft_clean = true },
	}, {
		.name = "mremap_protected",
		.prepare = prepare_uffd,
		.act = act_mremap_protected,
		.finish = finish_unprotected,
		.expect = { TAKEN, CAUSE(UNMAP) | CAUSE(PROTECTION_VMA),
			    ENTRY_IS(NONE), DATA_MOVED,
			    .splits = SPLITS_VMA },
		.needs = { TRAIT_TYPICAL, "a few kinds will do" },
	}, {
		.name = "mremap_move_all",
		.act = act_mremap_move_all,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_MOVED,
			    .reach = REACH_ALL },
	}, {
		.name = "mremap_dontunmap",
		.act = act_mremap_move, .arg = MREMAP_DONTUNMAP,
		.finish = finish_dontunmap,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_MOVED,
			    .splits = SPLITS_VMA },
		.except = { TRAIT_DRIVER, "mappings of drivers are not left empty" },
	}, {
		.name = "mremap_grow",
		.act = act_mremap_grow,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_MOVED,
			    .splits = SPLITS_VMA },
		.except = { TRAIT_DRIVER, "mappings of drivers do not grow" },
	}, {
		.name = "mremap_onto",
		.act = act_mremap_onto,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(PRESENT), DATA_FRESH,
			    .splits = SPLITS_VMA },
		.except = { TRAIT_FILE, "the new mapping is not of the file" },
	}, {
		.name = "mremap_shrink",
		.act = act_mremap_shrink,
		.expect = { TAKEN, CAUSE(UNMAP), ENTRY_IS(NONE), DATA_GONE,
			    .reach = REACH_END, .splits = SPLITS_VMA },
		.except = { TRAIT_FIRST, "a mapping cannot shrink to nothing" },
	}, {
		.name = "mremap_expand",
		.prepare = prepare_room_behind,
		.act = act_mremap_expand,
		.finish = finish_expand,
		.expect = DEVICE_KEEPS,
		.except = { TRAIT_DRIVER, "mappings of drivers do not grow" },
	}, {
		.name = "stack_growth",
		.act = act_grow_stack,
		.expect = DEVICE_KEEPS,
		.needs = { TRAIT_STACK, "only stacks grow downwards" },
	}, {
		.name = "dontneed",
		.act = act_madvise, .arg = MADV_DONTNEED,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(NONE), DATA_FRESH },
		.except = { TRAIT_MLOCK, "locked memory cannot be discarded" },
	}, {
		.name = "dontneed_locked",
		.act = act_madvise_if_known, .arg = ADVICE_DONTNEED_LOCKED,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(NONE), DATA_FRESH },
	}, {
		.name = "truncate",
		.act = act_truncate,
		.finish = finish_truncate,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(NONE), DATA_GONE,
			    .reach = REACH_END },
		.needs = { TRAIT_FILE, "there is no file" },
		.except = { TRAIT_DRIVER, "the driver's file cannot do that" },
	}, {
		/* The copies are nobody's but ours; only the device is told. */
		.name = "punch_hole",
		.act = act_punch_hole,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(EXCLUSIVE),
			    DATA_KEPT },
		.needs = { TRAIT_FILE, "there is no file" },
		.except = { TRAIT_DRIVER, "the driver's file cannot do that" },
	}, {
		.name = "remove",
		.act = act_remove,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(EXCLUSIVE),
			    DATA_KEPT },
		.needs = { TRAIT_FILE, "there is no file" },
		.except = { TRAIT_DRIVER, "the driver's file cannot do that" },
	},
};

int main(int argc, char **argv)
{
	return matrix_main("unmap", ops, ARRAY_SIZE(ops), argc, argv);
}
