/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The matrix: what the rest of mm does to a page that a device holds
 *
 * An operation is a row, a kind of memory (a backing) is a column, and for
 * each cell the device holds all of the target, every second page of it, or
 * its neighbours only. A program has the rows of one subject; the columns are
 * the same for all. A row is an entry of a table:
 *
 *	{
 *		.name = "dontneed",
 *		.act = act_madvise, .arg = MADV_DONTNEED,
 *		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(NONE), DATA_FRESH },
 *	},
 *
 * In each cell the device writes to all pages that it holds, before the
 * operation; what it wrote counts as data. Afterwards the same five claims
 * are made in every cell, by run_cell(); a row only says what is special.
 *
 * A cell that makes no sense is excluded by a rule (struct rule) with a
 * reason, and a cell that cannot be had on this machine is skipped with one.
 */
#ifndef _DEVEXCL_MATRIX_H
#define _DEVEXCL_MATRIX_H

#include "devexcl_cells.h"

struct cell;

/* What is special about a backing; rules speak of these. */
#define TRAIT_LARGE	(1U << 0)	/* pages of a large folio */
#define TRAIT_PMD_SIZE	(1U << 1)	/* ... that a PMD could map */
#define TRAIT_FILE	(1U << 2)	/* a private mapping of a file, after COW */
#define TRAIT_FORK	(1U << 3)	/* another process has it mapped as well */
#define TRAIT_SINGLE	(1U << 4)	/* the target is a single page */
#define TRAIT_MLOCK	(1U << 5)	/* locked */
#define TRAIT_ZERO	(1U << 6)	/* the memory held zeros at first */
#define TRAIT_SWAPPED	(1U << 7)	/* no page is mapped */
#define TRAIT_MOVING	(1U << 8)	/* a thread migrates it all the time */
#define TRAIT_FIRST	(1U << 9)	/* nothing comes before the target */
#define TRAIT_HEAP	(1U << 10)	/* the end of the heap */
#define TRAIT_STACK	(1U << 11)	/* grows downwards */
/* Rows that take long make do with the few of the first, or without the second. */
#define TRAIT_TYPICAL	(1U << 12)	/* stands for all of its kind */
#define TRAIT_ALIKE	(1U << 13)	/* a large folio much like the typical one */
#define TRAIT_DRIVER	(1U << 14)	/* the file is a driver's */

/**
 * struct backing - a column
 * @name: its name
 * @traits: TRAIT_*
 * @arg: for @make
 * @make: map @cell->mem with fill_mem()'s pattern (or zeros) in it, set the
 *	target, and bring the pages into the state that the name says
 */
struct backing {
	const char *name;
	unsigned int traits;
	unsigned long arg;
	const char *(*make)(struct cell *cell);
};

extern const struct backing backings[];
extern const size_t nr_backings;

/* What the backings need that a program does once, for all cells; or -errno. */
int prepare_backings(void);

/* What must happen to exclusive pages of the target. */
enum taken_what {
	TAKEN,		/* all are taken from the device, each once */
	NOT_TAKEN,	/* the device keeps all */
	MAY_BE_TAKEN,	/* either; what is said must agree with what is */
};

/* What must be in the target afterwards. */
enum data_what {
	DATA_KEPT,	/* what CPU and device wrote */
	DATA_FRESH,	/* what a new mapping shows: zeros, or the file */
	DATA_GONE,	/* nothing is mapped there any more */
	DATA_MOVED,	/* what was written is at @cell->moved_to, and only there */
};

/* How far an operation reaches. */
enum reach {
	REACH_TARGET,	/* the target only */
	REACH_END,	/* the target, and the neighbours behind it */
	REACH_ALL,	/* the neighbours as well */
};

#define ENTRY_IS(name)	(1U << ENTRY_##name)
#define ENTRY_ANY	(ENTRY_IS(NONE) | ENTRY_IS(PRESENT) |		\
			 ENTRY_IS(EXCLUSIVE) | ENTRY_IS(SWAP))
/* A cause of @causes that means: the one of a CPU fault on this kernel. */
#define CAUSE_FAULT	(1U << 31)
/* ... and any cause at all. */
#define CAUSE_ANY	(CAUSE_FAULT - 1)

/*
 * Splitting a VMA within what a PMD could map tells of all of that, and
 * splitting a large folio takes all of its pages.
 */
#define SPLITS_VMA		(1U << 0)
#define SPLITS_FOLIO		(1U << 1)

/**
 * struct expect - what must hold after an operation
 * @taken: whether exclusive pages of the target (or what else @reach says) are
 *	taken from the device
 * @causes: CAUSE() bits, and CAUSE_FAULT, that they may be taken for
 * @entries: ENTRY_IS() bits that the entries of those pages may be
 * @data: what must be in the target
 * @neighbours_too: the operation may take neighbours as well, because it works
 *	on more than it was told
 * @reach: what is worked on, if not the target: what is said of the target
 *	holds for all of that
 * @splits: SPLITS_*: what the operation splits, if it is large enough; that
 *	takes neighbours as well
 * @soft_clean: the operation forgets, or need not know, which pages were
 *	written; else those that the device wrote are soft-dirty
 */
struct expect {
	enum taken_what taken;
	uint32_t causes;
	uint32_t entries;
	enum data_what data;
	bool neighbours_too;
	enum reach reach;
	unsigned int splits;
	bool soft_clean;
};

/**
 * struct rule - cells that make no sense, and why
 * @traits: of backings
 * @why: the reason
 */
struct rule {
	unsigned int traits;
	const char *why;
};

/**
 * struct operation - a row
 * @name: its name
 * @arg: for the functions
 * @prepare: before the device acquires anything; may be NULL
 * @act: the operation
 * @watch: of an operation that ends the process which owns the memory: what
 *	another process does meanwhile; else NULL. See below
 * @finish: after all claims but the references, to undo what would stand in
 *	the way of those; may be NULL
 * @except: backings with any of these traits make no sense
 * @needs: backings without any of these traits make no sense
 * @all_held: why cells in which the device does not hold all are left out;
 *	NULL if they are not
 * @expect: what must hold afterwards
 * @expect_for: instead of @expect, for what depends on the backing or the
 *	kernel; may be NULL
 */
struct operation {
	const char *name;
	unsigned long arg;
	const char *(*prepare)(struct cell *cell);
	const char *(*act)(struct cell *cell);
	const char *(*watch)(struct cell *cell);
	const char *(*finish)(struct cell *cell);
	struct rule except;
	struct rule needs;
	const char *all_held;
	struct expect expect;
	struct expect (*expect_for)(const struct cell *cell);
};

/*
 * If an operation ends the owner of the memory, the claims are made by another
 * process, which has a duplicate of the owner's device:
 *
 *	owner			watcher
 *	-----			-------
 *	make, open, mirror
 *	@prepare, acquire
 *				duplicates the device
 *	@act			@watch
 *				claims
 *				@finish
 *
 * When @act returns the owner waits to be killed. @watch returns when the owner
 * is gone. The cell that it gets is a copy of the owner's, where @private,
 * @rounds and the memory point to what it does not have.
 *
 * The claims: all that the device had was taken from it, if that is expected
 * each page once and for the cause that is; the device has nothing left and
 * gets nothing more; and the pages were given back.
 */
#define OWNER_ENDS							\
	{ TAKEN, CAUSE(RELEASE), ENTRY_ANY, DATA_GONE }
/* The same, while somebody acquires pages and takes them. */
#define OWNER_ENDS_AT_WORK						\
	{ MAY_BE_TAKEN, CAUSE_ANY, ENTRY_ANY, DATA_GONE }

/* Which pages the device holds. */
enum hold {
	HOLD_ALL,		/* target and neighbours */
	HOLD_HALF,		/* every second page */
	HOLD_NEIGHBOURS,	/* all but the target */
	NR_HOLDS,
	/* What is wrong with nothing held is not the device's doing. */
	HOLD_NOTHING = NR_HOLDS,
};

/**
 * struct cell - an operation on a backing
 * @op: the row
 * @backing: the column
 * @hold: what the device holds
 * @dev: the device
 * @mem: the memory; all of it is mirrored
 * @first: first page of the target
 * @pages: pages of the target
 * @near: pages on each side of the target that count as neighbours
 * @held: which pages the device acquired; one byte for each of @mem
 * @soft_dirty: soft-dirty bits are there, and were clear before that
 * @moved_to: where the operation moved the target, or what else it reached
 * @fd: of the file, for a backing of a file; else -1
 * @child: a process that the backing made; ended with the cell
 * @rounds: how often @child has moved the target; NULL if it does not
 * @private: the operation's own
 * @owner: the process that owns the memory, if that is another one
 * @owner_child: our child that is the owner, or its parent
 * @uffd: see prepare_uffd()
 * @pfns: of the pages that the device holds
 */
struct cell {
	const struct operation *op;
	const struct backing *backing;
	enum hold hold;
	struct dev dev;
	struct mem mem;
	size_t first;
	size_t pages;
	size_t near;
	unsigned char *held;
	bool soft_dirty;
	char *moved_to;
	int fd;
	pid_t child;
	unsigned long *rounds;
	void *private;
	pid_t owner;
	pid_t owner_child;
	int uffd;
	uint64_t *pfns;
};

/* The target: where it is, and its bytes. */
static inline char *target(const struct cell *cell)
{
	return page_of(&cell->mem, cell->first);
}

static inline size_t target_size(const struct cell *cell)
{
	return cell->pages * page_size();
}

/* What the memory holds: what it did at first, and what the device added. */
uint64_t expected_word(const struct cell *cell, size_t page, size_t word);

/*
 * Is in @p what @page of the memory holds, or would hold if it had just been
 * mapped?
 */
const char *check_page(const struct cell *cell, size_t page, const char *p,
		       bool fresh);

/* Fork a child, which makes claims that are ours as well. */
const char *claim_in_child(struct cell *cell,
			   const char *(*fn)(struct cell *cell));

/* For @watch: wait until the owner has ended, and how: see wait_child(). */
const char *wait_owner(struct cell *cell, int status);
/* The device has lost all its pages, for these causes. */
const char *check_all_taken(struct cell *cell, uint32_t causes);

/* Have the device acquire all again that it did at first, without any retry. */
const char *acquire_again(struct cell *cell);

/*
 * Memory whose target userfaultfd protects: from writing, or with @arg
 * UFFD_ACCESS from reading as well. Who does that nevertheless is permitted to,
 * and the page is no longer protected.
 */
#define UFFD_WRITE	0
#define UFFD_ACCESS	1
/* For @prepare, and for @act. */
const char *prepare_uffd(struct cell *cell);
const char *uffd_protect_target(struct cell *cell);
/* Are pages of the target that the device had, wherever they are now? */
const char *check_uffd_protection(struct cell *cell, bool on);
/* For @finish: all have been read since then. */
const char *finish_uffd_protected(struct cell *cell);

/*
 * For @finish: the pages that the device had belong to this process alone, and
 * mm knows: it does not copy one that is written to while somebody reads it.
 */
const char *finish_unshared(struct cell *cell);

/* Operations that many rows share. */
const char *act_nothing(struct cell *cell);
/* madvise(target, @arg) */
const char *act_madvise(struct cell *cell);
/* The same, SKIP if the kernel does not know the advice. */
const char *act_madvise_if_known(struct cell *cell);

/*
 * A row with an operation that concerns the VMA, or entries of another kind:
 * the device keeps its pages.
 */
#define DEVICE_KEEPS							\
	{ NOT_TAKEN, 0, ENTRY_IS(EXCLUSIVE), DATA_KEPT }
/* The same, if the operation splits the VMA. */
#define DEVICE_KEEPS_SPLIT						\
	{ NOT_TAKEN, 0, ENTRY_IS(EXCLUSIVE), DATA_KEPT, .splits = SPLITS_VMA }
/* The same, if the operation splits a large folio. */
#define DEVICE_KEEPS_FOLIO						\
	{ NOT_TAKEN, 0, ENTRY_IS(EXCLUSIVE), DATA_KEPT, .splits = SPLITS_FOLIO }
/* The operation touches the pages, as a CPU fault does. */
#define DEVICE_LOSES_AS_BY_FAULT					\
	{ TAKEN, CAUSE_FAULT, ENTRY_IS(PRESENT), DATA_KEPT }

/*
 * Have khugepaged sleep for an hour; when this returns it does, and what it
 * was at is done.
 */
void put_khugepaged_to_sleep(void);

/* Have ksmd scan all the time; @how is what to write to "run". */
const char *start_ksmd(const char *how);
void stop_ksmd(void);

/* Read a number from a file; -errno if that is not possible. */
long read_number(const char *name);

/**
 * matrix_main() - run the cells of a program
 * @subject: name of the program
 * @ops: rows
 * @nr_ops: how many
 * @argc: of main()
 * @argv: of main(); -l lists the cells, -r name runs one and may be repeated
 *
 * Return: exit status
 */
int matrix_main(const char *subject, const struct operation *ops,
		size_t nr_ops, int argc, char **argv);

#endif /* _DEVEXCL_MATRIX_H */
