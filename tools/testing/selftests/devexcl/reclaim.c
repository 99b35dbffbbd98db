// SPDX-License-Identifier: GPL-2.0
/*
 * Reclaim of memory that a device holds
 *
 * The device has to let go of a page that is reclaimed, and what it wrote has
 * to come back from swap. All runs in a memory cgroup of its own, which can be
 * reclaimed without bothering anybody else.
 */
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>

#include "../kselftest.h"
#include "devexcl_matrix.h"

#define CGROUP_ROOT		"/sys/fs/cgroup/"
#define CGROUP			CGROUP_ROOT "devexcl/"
#define NODE			1
#define NODE_RECLAIM		"/sys/devices/system/node/node1/reclaim"
#define MGLRU_ENABLED		"/sys/kernel/mm/lru_gen/enabled"

/* A word that only the CPU writes to. */
#define CPU_WORD		5

/* Rounds of a race. */
#define RACE_ROUNDS		100

/* Pages, for what cannot be seen of a few. */
#define MANY_PAGES		2048
#define SOME_PAGES		256
/* How much of those the kernel may not have counted yet. */
#define UNCOUNTED_KB		4096
#define UNCOUNTED_SLOTS		32

/* A page that was used lately gets a second chance, and a third. */
#define RECLAIM_ROUNDS		10

/* The group, with all processes of this program in it */

static int cgroup_error;

static int join(const char *procs)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", getpid());
	return write_file(procs, pid);
}

static int join_cgroup(void)
{
	if (access(CGROUP_ROOT "cgroup.procs", F_OK))
		mount("cgroup2", CGROUP_ROOT, "cgroup2", 0, NULL);
	if (write_file(CGROUP_ROOT "cgroup.subtree_control", "+memory"))
		return -ENOENT;
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		return -errno;
	return join(CGROUP "cgroup.procs");
}

static const char *prepare_cgroup(struct cell *cell)
{
	(void)cell;
	return cgroup_error ? skip("no memory cgroup: %s",
				   strerror(-cgroup_error)) : NULL;
}

static const char *choose_lru(const char *mglru)
{
	if (access(MGLRU_ENABLED, F_OK))
		return *mglru == 'y' ? skip("no multi-generational LRU") : NULL;
	return must(MGLRU_ENABLED, write_file(MGLRU_ENABLED, mglru));
}

static const char *prepare_lru(struct cell *cell)
{
	return prepare_cgroup(cell) ?: choose_lru("n");
}

static const char *prepare_mglru(struct cell *cell)
{
	return prepare_cgroup(cell) ?: choose_lru("y");
}

/* Reclaim */

/* What an entry becomes when its page is reclaimed. */
static enum entry reclaimed_entry(const struct cell *cell)
{
	if (cell->backing->traits & TRAIT_MLOCK)
		return ENTRY_EXCLUSIVE;
	return ENTRY_SWAP;
}

/* The first page that the device acquired and that is not reclaimed, or -1. */
static long page_not_reclaimed(const struct cell *cell)
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++)
		if (cell->held[page] && entry_of(page_of(&cell->mem, page)) !=
					reclaimed_entry(cell))
			return page;
	return -1;
}

/*
 * Reclaim decides by statistics whether used pages may grow old; with so few
 * pages it could go by what was true seconds ago. They are brought up to date
 * when they are read and enough has changed.
 */
static const char *refresh_statistics(void)
{
	struct mem ballast;

	TRY(must("mmap", mem_map(&ballast, 512)));
	mem_unmap(&ballast);
	read_number(CGROUP "memory.stat");
	return NULL;
}

/* Have the kernel reclaim by a file. */
static const char *reclaim_by_file(const char *file, const char *bytes)
{
	int ret;

	TRY(refresh_statistics());
	ret = write_file(file, bytes);
	if (ret == -ENOENT)
		return skip("no %s", file);
	/* That there is less to reclaim than was asked for is fine. */
	return ret == -EAGAIN ? NULL : must(file, ret);
}

static const char *check_reclaimed(const struct cell *cell)
{
	long page = page_not_reclaimed(cell);

	return page < 0 ? NULL :
	       fail("page %ld is not reclaimed: its entry is %s", page,
		    entry_name(entry_of(page_of(&cell->mem, page))));
}

/* Until it has got at all pages. */
static const char *act_memory_reclaim(struct cell *cell)
{
	int round;

	for (round = 0; round < RECLAIM_ROUNDS; round++) {
		TRY(reclaim_by_file(CGROUP "memory.reclaim", "1G"));
		if (page_not_reclaimed(cell) < 0)
			return NULL;
	}
	return check_reclaimed(cell);
}

static const char *prepare_protected(struct cell *cell)
{
	TRY(prepare_mglru(cell));
	return prepare_uffd(cell);
}

/* The swap entry knows that nobody may write, as the exclusive one did. */
static const char *act_reclaim_protected(struct cell *cell)
{
	TRY(uffd_protect_target(cell));
	TRY(act_memory_reclaim(cell));
	return check_uffd_protection(cell, true);
}

/*
 * Have the memory on a node where little else is: programs and files, which are
 * on the first one, would go before. A node is not reclaimed from unless so much
 * of it (percent) is slab.
 */
static const char *prepare_node(struct cell *cell)
{
	unsigned long mask = 1UL << NODE;

	if (access(NODE_RECLAIM, F_OK))
		return skip("no " NODE_RECLAIM);
	write_file("/proc/sys/vm/min_slab_ratio", "0");
	TRY(must("mbind", syscall(SYS_mbind, cell->mem.p, cell->mem.size,
				  MPOL_BIND, &mask, 8 * sizeof(mask),
				  MPOL_MF_MOVE)));
	return prepare_mglru(cell);
}

static const char *act_node_reclaim(struct cell *cell)
{
	int round;

	for (round = 0; round < RECLAIM_ROUNDS; round++) {
		TRY(reclaim_by_file(NODE_RECLAIM, "16M swappiness=max"));
		if (page_not_reclaimed(cell) < 0)
			return NULL;
	}
	return check_reclaimed(cell);
}

/*
 * A limit that is lower than what is in use. Who is above it is slowed down,
 * so we leave our memory behind in the group.
 */
static const char *act_memory_high(struct cell *cell)
{
	int round;

	TRY(must("leave cgroup", join(CGROUP_ROOT "cgroup.procs")));
	for (round = 0; round < RECLAIM_ROUNDS; round++) {
		TRY(refresh_statistics());
		TRY(must("memory.high", write_file(CGROUP "memory.high",
						   "64K")));
		TRY(must("memory.high", write_file(CGROUP "memory.high",
						   "max")));
		if (page_not_reclaimed(cell) < 0)
			return NULL;
	}
	return fail("page %ld is not reclaimed", page_not_reclaimed(cell));
}

/* Paging out on demand */

/* Have one page in swap. */
static const char *page_out(struct cell *cell, size_t page)
{
	char *p = page_of(&cell->mem, page);
	int round;

	for (round = 0; round < RECLAIM_ROUNDS; round++) {
		drain_lru_batches();
		TRY(must("madvise", madvise(p, page_size(), MADV_PAGEOUT)));
		if (entry_of(p) == ENTRY_SWAP)
			return NULL;
	}
	return fail("page %zu was not paged out: its entry is %s", page,
		    entry_name(entry_of(p)));
}

/* The CPU takes the page back, and it goes to swap. */
static const char *act_touch_and_page_out(struct cell *cell)
{
	size_t page;

	for (page = cell->first; page < cell->first + cell->pages; page++) {
		if (!cell->held[page])
			continue;
		READ_MEM(word_of(&cell->mem, page));
		TRY(page_out(cell, page));
	}
	return NULL;
}

static const char *act_page_out_rest(struct cell *cell)
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++)
		if (!cell->held[page] &&
		    entry_of(page_of(&cell->mem, page)) == ENTRY_PRESENT)
			TRY(page_out(cell, page));
	return NULL;
}

/* Back from swap without a CPU */

/* The device itself gets the pages back from swap. */
static const char *act_acquire_swapped(struct cell *cell)
{
	TRY(act_memory_reclaim(cell));
	return acquire_again(cell);
}

/*
 * What the CPU wrote right before the device acquires, and only the entry
 * knows, while swap has something older.
 */
static const char *act_acquire_dirty(struct cell *cell)
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++) {
		uint64_t *word = word_of(&cell->mem, page) + CPU_WORD;

		if (!cell->held[page])
			continue;
		WRITE_MEM(word, ~expected_word(cell, page, CPU_WORD));
		TRY(page_out(cell, page));
		READ_MEM(word);
		WRITE_MEM(word, expected_word(cell, page, CPU_WORD));
	}
	TRY(acquire_again(cell));
	return act_memory_reclaim(cell);
}

/* The device writes, without being exclusive, to what swap has as well. */
static const char *act_copy_to_swap_cache(struct cell *cell)
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++) {
		char *p = page_of(&cell->mem, page);
		uint64_t *word = (uint64_t *)p + CPU_WORD;

		if (!cell->held[page])
			continue;
		WRITE_MEM(word, ~expected_word(cell, page, CPU_WORD));
		TRY(page_out(cell, page));
		TRY(must("madvise", madvise(p, page_size(), MADV_WILLNEED)));
		READ_MEM(word);
		TRY(must("copy", dev_write_word(&cell->dev, word,
						expected_word(cell, page,
							      CPU_WORD))));
	}
	return act_memory_reclaim(cell);
}

/* Memory that is given up */

static void *free_memory(void *arg)
{
	struct mem *mem = arg;

	go_to_other_cpus();
	madvise(mem->p, mem->size, MADV_FREE);
	return NULL;
}

/*
 * A device maps a page while it is being given up: it finds the page when it is
 * still dirty, has to wait, and maps it when it is clean. Nobody but the device
 * can tell then that somebody has written to it.
 */
static const char *act_copy_while_freed(struct cell *cell)
{
	struct mem mem;
	pthread_t thread;
	uint64_t pfn, *word;

	TRY(must("mmap", mem_map(&mem, MANY_PAGES)));
	TRY(must("mirror", dev_mirror(&cell->dev, mem.p, mem.size)));
	word = word_of(&mem, mem.pages - 1);
	/* Unless pages have been in swap, only entries know that. */
	TRY(must("copy", dev_write_word(&cell->dev, word_of(&mem, 0), 1)));
	drain_lru_batches();
	pfn = pagemap_of(mem.p) & PAGEMAP_PFN;
	TRY(must("pthread_create", -pthread_create(&thread, NULL, free_memory,
						   &mem)));
	while (frame_flags(pfn) & KPF_DIRTY)
		sched_yield();
	TRY(must("copy", dev_write_word(&cell->dev, word, 0x5ca1ab1e)));
	pthread_join(thread, NULL);
	TRY(act_memory_reclaim(cell));
	if (READ_MEM(word) != 0x5ca1ab1e)
		return fail("what the device wrote to memory that was given up is lost");
	return NULL;
}

static const char *prepare_freed(struct cell *cell)
{
	TRY(prepare_cgroup(cell));
	drain_lru_batches();
	return must("madvise", madvise(cell->mem.p, cell->mem.size, MADV_FREE));
}

/* Of what was given up, only what was written to since then must be there. */
static const char *act_reclaim_freed(struct cell *cell)
{
	size_t page, i;

	if (!cell->held[0])
		READ_MEM(word_of(&cell->mem, 0));
	else
		READ_MEM(word_of(&cell->mem, cell->mem.pages / 2));
	TRY(act_memory_reclaim(cell));
	for (page = 0; page < cell->mem.pages; page++) {
		uint64_t *words = word_of(&cell->mem, page);

		for (i = 0; !cell->held[page] && !READ_MEM(words) &&
		     i < page_size() / sizeof(*words); i++)
			words[i] = expected_word(cell, page, i);
	}
	return NULL;
}

/* The same memory, but the kernel may drop it; and the advice @arg, if any. */
static const char *prepare_droppable(struct cell *cell)
{
	struct mem *mem = &cell->mem;

	TRY(prepare_cgroup(cell));
	if (mmap(mem->p, mem->size, PROT_READ | PROT_WRITE, MAP_DROPPABLE |
		 MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return errno == EINVAL ? skip("no droppable memory") :
					 must("mmap", -1);
	if (cell->backing->traits & TRAIT_LARGE)
		TRY(must("madvise", madvise(mem->p, mem->size,
					    MADV_HUGEPAGE)));
	fill_mem(mem);
	drain_lru_batches();
	return cell->op->arg ? must("madvise", madvise(mem->p, mem->size,
						       cell->op->arg)) : NULL;
}

static bool all_dropped(const struct cell *cell)
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++)
		if (entry_of(page_of(&cell->mem, page)) != ENTRY_NONE)
			return false;
	return true;
}

static const char *act_drop(struct cell *cell)
{
	int round;

	for (round = 0; round < RECLAIM_ROUNDS; round++) {
		TRY(refresh_statistics());
		write_file(CGROUP "memory.reclaim", "1G");
		if (all_dropped(cell))
			return NULL;
	}
	return fail("droppable memory was not dropped");
}

/* Swap */

static const char *act_swapoff(struct cell *cell)
{
	char device[80];
	FILE *f = fopen("/proc/swaps", "re");
	int found = f ? fscanf(f, "%*[^\n] %79s", device) : 0;

	(void)cell;
	if (f)
		fclose(f);
	if (found != 1)
		return skip("no swap");
	TRY(must("swapoff", swapoff(device)));
	return must("swapon", swapon(device, 0));
}

/* Races */

struct pager {
	pthread_t thread;
	void *page;
	bool stop;
};

static void *keep_paging_out(void *arg)
{
	struct pager *pager = arg;

	go_to_other_cpus();
	while (!__atomic_load_n(&pager->stop, __ATOMIC_RELAXED))
		madvise(pager->page, page_size(), MADV_PAGEOUT);
	return NULL;
}

/* Somebody pages it out all the time, and still it can be acquired. */
static const char *act_acquire_paged_out(struct cell *cell)
{
	struct pager pager = { .page = target(cell) };
	const char *ret = NULL;
	int round;

	TRY(must("pthread_create", -pthread_create(&pager.thread, NULL,
						   keep_paging_out, &pager)));
	for (round = 0; !ret && round < RACE_ROUNDS; round++) {
		READ_MEM((uint64_t *)target(cell));
		ret = acquire_again(cell);
	}
	__atomic_store_n(&pager.stop, true, __ATOMIC_RELAXED);
	pthread_join(pager.thread, NULL);
	return ret ?: acquire_again(cell);
}

/* What is counted */

/* A number behind a word, in a file of lines of these; -1 if there is none. */
static long number_of(const char *file, const char *word)
{
	size_t length = strlen(word);
	FILE *f = fopen(file, "re");
	char line[120];
	long number = -1;

	while (f && number < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, word, length))
			number = atol(line + length);
	if (f)
		fclose(f);
	return number;
}

/* More exclusive pages, of a device that is not looked at. */
static const char *map_more(struct mem *mem, size_t pages, struct dev *dev)
{
	TRY(must("mmap", mem_map(mem, pages)));
	TRY(must("open device", dev_open(dev, 0)));
	return must("mirror", dev_mirror(dev, mem->p, mem->size));
}

/* An exclusive page is memory in use like any other. */
static const char *act_count(struct cell *cell)
{
	static const struct {
		const char *file, *word;
		long unit;
	} counts[] = {
		{ CGROUP "memory.stat", "anon ", 1024 },
		{ "/proc/meminfo", "AnonPages:", 1 },
		{ "/proc/self/status", "VmRSS:", 1 },
		{ "/proc/self/status", "RssAnon:", 1 },
	};
	long before[ARRAY_SIZE(counts)], now;
	struct mem mem;
	struct dev dev;
	size_t i;

	(void)cell;
	TRY(map_more(&mem, MANY_PAGES, &dev));
	for (i = 0; i < ARRAY_SIZE(counts); i++)
		before[i] = number_of(counts[i].file, counts[i].word);
	TRY(must("acquire", dev_acquire_all(&dev, mem.p, mem.pages)));
	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		now = number_of(counts[i].file, counts[i].word);
		if (labs(now - before[i]) / counts[i].unit > UNCOUNTED_KB)
			return fail("%s %s was %ld, and is %ld now that %d pages are exclusive",
				    counts[i].file, counts[i].word, before[i],
				    now, MANY_PAGES);
	}
	return NULL;
}

/* Swap is taken by what is swapped out, and by nothing else. */
static const char *act_count_slots(struct cell *cell)
{
	long slots, swapped;
	struct mem mem;
	struct dev dev;

	TRY(map_more(&mem, SOME_PAGES, &dev));
	TRY(must("acquire", dev_acquire_all(&dev, mem.p, mem.pages)));
	slots = read_number(CGROUP "memory.swap.current") / page_size();
	swapped = number_of("/proc/self/status", "VmSwap:") * 1024 / page_size();
	act_memory_reclaim(cell);
	act_memory_reclaim(cell);
	slots = read_number(CGROUP "memory.swap.current") / page_size() - slots;
	swapped = number_of("/proc/self/status", "VmSwap:") * 1024 /
		  page_size() - swapped;
	if (slots > swapped + UNCOUNTED_SLOTS)
		return fail("%ld pages of swap were taken for %ld pages that were swapped out",
			    slots, swapped);
	return NULL;
}

static struct expect expect_reclaimed(const struct cell *cell)
{
	struct expect reclaimed = { TAKEN, CAUSE(CLEAR), ENTRY_IS(SWAP),
				    DATA_KEPT, .neighbours_too = true };
	struct expect locked = DEVICE_KEEPS;

	return cell->backing->traits & TRAIT_MLOCK ? locked : reclaimed;
}

#define MAY_BE_RECLAIMED						\
	{ MAY_BE_TAKEN, CAUSE(CLEAR), ENTRY_IS(EXCLUSIVE) |		\
	  ENTRY_IS(SWAP), DATA_KEPT, .neighbours_too = true }
#define DROPPED								\
	{ TAKEN, CAUSE(CLEAR), ENTRY_IS(NONE), DATA_FRESH,		\
	  .reach = REACH_ALL }
#define NOT_ALL_ALIKE							\
	{ TRAIT_MOVING | TRAIT_ALIKE, "it takes long; others are like it" }
#define SMALL_UNLOCKED							\
	{ TRAIT_MOVING | TRAIT_LARGE | TRAIT_MLOCK,			\
	  "not about large, locked, or moving pages" }
#define TYPICAL_ONLY	{ TRAIT_TYPICAL, "it takes long; others are like these" }
#define SMALL_ONLY	{ TRAIT_LARGE, "not about large folios" }

/* The device lets go when they are protected, before they go to swap. */
#define SWAP_PROTECTED							\
	{ TAKEN, CAUSE(PROTECTION_VMA) | CAUSE(CLEAR),			\
	  ENTRY_IS(SWAP), DATA_KEPT, .neighbours_too = true }

static const struct operation ops[] = {
	{
		.name = "memory_reclaim_lru",
		.prepare = prepare_lru,
		.act = act_memory_reclaim,
		.finish = finish_unshared,
		.expect_for = expect_reclaimed,
		.except = { TRAIT_MOVING | TRAIT_ALIKE | TRAIT_PMD_SIZE,
			    "it takes long; others are like it" },
	}, {
		.name = "memory_reclaim_mglru",
		.prepare = prepare_mglru,
		.act = act_memory_reclaim,
		.expect_for = expect_reclaimed,
		.except = { TRAIT_MOVING | TRAIT_LARGE,
			    "large folios are treated as on the other LRU" },
	}, {
		.name = "node_reclaim",
		.prepare = prepare_node,
		.act = act_node_reclaim,
		.expect_for = expect_reclaimed,
		.needs = TYPICAL_ONLY,
		.all_held = "it takes long, and memory_reclaim is like it",
	}, {
		.name = "write_protected",
		.prepare = prepare_protected,
		.act = act_reclaim_protected,
		.finish = finish_uffd_protected,
		.expect = SWAP_PROTECTED,
		.needs = TYPICAL_ONLY,
		.except = SMALL_ONLY,
	}, {
		.name = "access_protected",
		.prepare = prepare_protected,
		.arg = UFFD_ACCESS,
		.act = act_reclaim_protected,
		.finish = finish_uffd_protected,
		.expect = SWAP_PROTECTED,
		.needs = TYPICAL_ONLY,
		.except = SMALL_ONLY,
	}, {
		.name = "memory_high",
		.prepare = prepare_lru,
		.act = act_memory_high,
		.expect_for = expect_reclaimed,
		.needs = TYPICAL_ONLY,
		.except = SMALL_ONLY,
	}, {
		.name = "touch_and_page_out",
		.act = act_touch_and_page_out,
		.expect = { TAKEN, CAUSE_FAULT, ENTRY_IS(SWAP), DATA_KEPT,
			    .splits = SPLITS_FOLIO },
		.except = { TRAIT_MOVING | TRAIT_MLOCK | TRAIT_ALIKE,
			    "locked or moving memory is not given up" },
	}, {
		.name = "page_out_rest",
		.act = act_page_out_rest,
		.expect = { NOT_TAKEN, 0, ENTRY_IS(EXCLUSIVE) |
			    ENTRY_IS(PRESENT), DATA_KEPT,
			    .splits = SPLITS_FOLIO },
		.needs = TYPICAL_ONLY,
		.except = { TRAIT_PMD_SIZE, "not about huge pages" },
	}, {
		.name = "acquire_swapped",
		.prepare = prepare_mglru,
		.act = act_acquire_swapped,
		.expect = DEVICE_KEEPS,
		.except = SMALL_UNLOCKED,
	}, {
		.name = "acquire_dirty",
		.prepare = prepare_mglru,
		.act = act_acquire_dirty,
		.expect_for = expect_reclaimed,
		.except = SMALL_UNLOCKED,
	}, {
		.name = "copy_to_swap_cache",
		.prepare = prepare_mglru,
		.act = act_copy_to_swap_cache,
		.expect = { TAKEN, CAUSE_FAULT, ENTRY_IS(SWAP), DATA_KEPT,
			    .neighbours_too = true },
		.except = { TRAIT_MOVING | TRAIT_LARGE | TRAIT_MLOCK |
			    TRAIT_FORK, "not about pages of that kind" },
	}, {
		.name = "copy_while_freed",
		.prepare = prepare_mglru,
		.act = act_copy_while_freed,
		.expect_for = expect_reclaimed,
		.needs = TYPICAL_ONLY,
		.except = SMALL_ONLY,
	}, {
		.name = "reclaim_freed",
		.prepare = prepare_freed,
		.act = act_reclaim_freed,
		.expect_for = expect_reclaimed,
		.needs = { TRAIT_FIRST, "it takes long; others are like these" },
	}, {
		.name = "droppable",
		.prepare = prepare_droppable,
		.act = act_drop,
		.expect = DROPPED,
		.needs = TYPICAL_ONLY,
		.except = SMALL_ONLY,
	}, {
		.name = "droppable_freed",
		.arg = MADV_FREE,
		.prepare = prepare_droppable,
		.act = act_drop,
		.expect = DROPPED,
		.needs = TYPICAL_ONLY,
		.except = { TRAIT_PMD_SIZE, "not about huge pages" },
	}, {
		.name = "swapoff",
		.act = act_swapoff,
		.expect = DEVICE_KEEPS,
		.except = NOT_ALL_ALIKE,
	}, {
		.name = "acquire_paged_out",
		.act = act_acquire_paged_out,
		.expect = DEVICE_KEEPS,
		.needs = TYPICAL_ONLY,
		.except = SMALL_ONLY,
	}, {
		.name = "count",
		.prepare = prepare_cgroup,
		.act = act_count,
		.expect = DEVICE_KEEPS,
		.needs = TYPICAL_ONLY,
		.except = SMALL_ONLY,
	}, {
		.name = "count_slots",
		.prepare = prepare_lru,
		.act = act_count_slots,
		.expect = MAY_BE_RECLAIMED,
		.needs = TYPICAL_ONLY,
		.except = SMALL_ONLY,
	},
};

int main(int argc, char **argv)
{
	cgroup_error = join_cgroup();
	return matrix_main("reclaim", ops, ARRAY_SIZE(ops), argc, argv);
}
