// SPDX-License-Identifier: GPL-2.0
/*
 * Migration of memory that a device holds: by address, by page frame, and
 * when it does not work out
 *
 * Who migrates by page frame finds exclusive pages and takes them from the
 * device. Who migrates by address may pass over them, but has to say so.
 */
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "../kselftest.h"
#include "devexcl_matrix.h"

#define MEMORY_DIR		"/sys/devices/system/memory/"
#define NODE_DIR		"/sys/devices/system/node/"
#define HWPOISON_DIR		"/sys/kernel/debug/hwpoison/"
#define SPLIT_FILE		"/sys/kernel/debug/split_huge_pages"
#define CGROUP_ROOT		"/sys/fs/cgroup/"
#define CPUSET			CGROUP_ROOT "devexcl_cpuset/"
#define BALANCING		"/proc/sys/kernel/numa_balancing"
#define BALANCING_DIR		"/sys/kernel/debug/sched/numa_balancing/"

/* A kernel that cannot offline memory tries for ever. */
#define FRUITLESS_SECONDS	3

/* Memory blocks that are looked at. */
#define MAX_BLOCKS		64
/* Each takes 4 MiB until the right memory comes. */
#define BALLAST_TRIES		60

/* Rounds of a race. */
#define RACE_ROUNDS		100

/* Where a page is */

/* The page frame; the device knows it if it holds the page. 0: nowhere. */
static uint64_t frame_of(struct cell *cell, size_t page)
{
	const char *p = page_of(&cell->mem, page);
	struct devexcl_page info;

	if (!dev_query(&cell->dev, p, 1, &info) &&
	    info.access & DEVEXCL_ACCESS_EXCLUSIVE)
		return info.pfn;
	if (entry_of(p) != ENTRY_PRESENT)
		return 0;
	return pagemap_of(p) & PAGEMAP_PFN;
}

/* Bytes of a memory block, which is what can be offlined. */
static unsigned long block_bytes(void)
{
	static unsigned long bytes;
	FILE *f;

	if (bytes)
		return bytes;
	f = fopen(MEMORY_DIR "block_size_bytes", "re");
	if (f && fscanf(f, "%lx", &bytes) != 1)
		bytes = 0;
	if (f)
		fclose(f);
	return bytes ?: 1;
}

/* The memory block that a page frame is in. */
static unsigned long block_of(uint64_t pfn)
{
	return pfn * page_size() / block_bytes();
}

/* The node that a page is on, or -1. */
static int node_of(struct cell *cell, size_t page)
{
	uint64_t pfn = frame_of(cell, page);
	char name[80];
	int node;

	for (node = 0; pfn && node < 2; node++) {
		snprintf(name, sizeof(name), NODE_DIR "node%d/memory%lu", node,
			 block_of(pfn));
		if (!access(name, F_OK))
			return node;
	}
	return -1;
}

static const char *require_nodes(struct cell *cell)
{
	(void)cell;
	if (access(NODE_DIR "node1", F_OK) ||
	    access(MEMORY_DIR "block_size_bytes", F_OK))
		return skip("one node only");
	return NULL;
}

/* The node where the target is not. */
static int other_node(struct cell *cell)
{
	return node_of(cell, cell->first) == 1 ? 0 : 1;
}

/*
 * How many pages that the device acquired in the target are not on @node. Of
 * others, shared ones may stay where they are.
 */
static size_t count_elsewhere(struct cell *cell, int node)
{
	size_t page, pages = 0;

	for (page = cell->first; page < cell->first + cell->pages; page++)
		pages += cell->held[page] && node_of(cell, page) != node;
	return pages;
}

/* By address */

static const char *act_move_pages(struct cell *cell)
{
	int node = other_node(cell), status;
	size_t page;

	for (page = cell->first; page < cell->first + cell->pages; page++) {
		void *p = page_of(&cell->mem, page);

		TRY(must("move_pages", syscall(SYS_move_pages, 0, 1UL, &p,
					       &node, &status, MPOL_MF_MOVE)));
		if (status >= 0 && node_of(cell, page) != status)
			return fail("page %zu is said to be on node %d, but is on node %d",
				    page, status, node_of(cell, page));
	}
	return NULL;
}

/* Have a page moved that the device does not hold, and with it its folio. */
static const char *act_move_rest(struct cell *cell)
{
	int node = other_node(cell), status = -1;
	size_t page = 0;
	void *p;

	while (page < cell->mem.pages &&
	       (cell->held[page] ||
		entry_of(page_of(&cell->mem, page)) != ENTRY_PRESENT))
		page++;
	if (page == cell->mem.pages)
		return fail("all pages are exclusive");
	p = page_of(&cell->mem, page);
	TRY(must("move_pages", syscall(SYS_move_pages, 0, 1UL, &p, &node,
				       &status, MPOL_MF_MOVE)));
	if (status != node)
		return fail("page %zu was not moved: %s", page,
			    status < 0 ? strerror(-status) : "wrong node");
	return NULL;
}

static const char *act_mbind(struct cell *cell)
{
	int node = other_node(cell);
	unsigned long mask = 1UL << node;
	size_t elsewhere;

	/* An error says that not all could be moved, and that is fine. */
	if (syscall(SYS_mbind, target(cell), target_size(cell), MPOL_BIND,
		    &mask, 8 * sizeof(mask), MPOL_MF_MOVE | MPOL_MF_STRICT))
		return errno == EIO ? NULL : must("mbind", -1);
	elsewhere = count_elsewhere(cell, node);
	if (elsewhere)
		return fail("mbind() has moved all, but %zu pages are elsewhere",
			    elsewhere);
	return NULL;
}

static const char *act_migrate_pages(struct cell *cell)
{
	int node = other_node(cell);
	unsigned long from = 3, to = 1UL << node;
	long left = syscall(SYS_migrate_pages, 0, 8 * sizeof(from), &from, &to);
	size_t elsewhere = count_elsewhere(cell, node);

	TRY(must("migrate_pages", left));
	if (elsewhere > (size_t)left)
		return fail("migrate_pages() has left %ld pages, but %zu are elsewhere",
			    left, elsewhere);
	return NULL;
}

static int join_cgroup(const char *procs)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", getpid());
	return write_file(procs, pid);
}

static const char *prepare_cpuset(struct cell *cell)
{
	TRY(require_nodes(cell));
	if (write_file(CGROUP_ROOT "cgroup.subtree_control", "+cpuset"))
		return skip("no cpusets");
	mkdir(CPUSET, 0755);
	TRY(must("cpuset.mems", write_file(CPUSET "cpuset.mems", "0-1")));
	return must("cpuset", join_cgroup(CPUSET "cgroup.procs"));
}

/* What is on the node that we must not use any more should leave it. */
static const char *act_cpuset(struct cell *cell)
{
	const char *node = other_node(cell) ? "1" : "0";

	return must("cpuset.mems", write_file(CPUSET "cpuset.mems", node));
}

static const char *finish_cpuset(struct cell *cell)
{
	(void)cell;
	TRY(must("root cpuset", join_cgroup(CGROUP_ROOT "cgroup.procs")));
	rmdir(CPUSET);
	return NULL;
}

static const char *act_compact(struct cell *cell)
{
	(void)cell;
	drain_lru_batches();
	if (write_file("/proc/sys/vm/compact_memory", "1"))
		return skip("no compaction");
	write_file(NODE_DIR "node0/compact", "1");
	write_file(NODE_DIR "node1/compact", "1");
	return NULL;
}

/* By page frame */

static const char *prepare_offline(struct cell *cell)
{
	(void)cell;
	if (access(MEMORY_DIR "soft_offline_page", W_OK) ||
	    access(HWPOISON_DIR "unpoison-pfn", W_OK))
		return skip("pages cannot be offlined here");
	return NULL;
}

static void heal_frame(uint64_t pfn)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)pfn);
	write_file(HWPOISON_DIR "unpoison-pfn", text);
}

static int offline_frame(uint64_t pfn)
{
	char text[24];

	snprintf(text, sizeof(text), "%#llx",
		 (unsigned long long)pfn * page_size());
	return write_file(MEMORY_DIR "soft_offline_page", text);
}

/* By address with the advice @arg, or by page frame. */
static const char *offline_page(struct cell *cell, size_t page)
{
	char *p = page_of(&cell->mem, page);
	uint64_t pfn;
	int ret;

	if (!cell->held[page])
		WRITE_MEM(word_of(&cell->mem, page),
			  expected_word(cell, page, 0));
	pfn = frame_of(cell, page);
	drain_lru_batches();
	if (cell->op->arg)
		ret = madvise(p, page_size(), cell->op->arg) ? -errno : 0;
	else
		ret = offline_frame(pfn);
	if (!ret)
		heal_frame(pfn);
	TRY(must("soft offline", ret));
	if (frame_of(cell, page) == pfn)
		return fail("page %zu is where it was", page);
	return NULL;
}

static const char *act_soft_offline(struct cell *cell)
{
	size_t page;

	for (page = cell->first; page < cell->first + cell->pages; page++)
		TRY(offline_page(cell, page));
	return NULL;
}

static const char *prepare_protected(struct cell *cell)
{
	TRY(prepare_offline(cell));
	return prepare_uffd(cell);
}

/*
 * What is not to be written to is not where it moves to either. The device had
 * to let go before that, but the entries stay as they are.
 */
static const char *act_move_protected(struct cell *cell)
{
	size_t page;
	int ret;

	TRY(uffd_protect_target(cell));
	drain_lru_batches();
	for (page = cell->first; page < cell->first + cell->pages; page++) {
		if (!cell->held[page])
			continue;
		ret = offline_frame(cell->pfns[page]);
		if (!ret)
			heal_frame(cell->pfns[page]);
		TRY(must("soft offline", ret));
	}
	return check_uffd_protection(cell, true);
}

/* A pipe that holds references of the target's pages. */
static int pinning_pipe[2];

static const char *prepare_pin(struct cell *cell)
{
	struct iovec range = { target(cell), target_size(cell) };
	size_t page;

	TRY(prepare_offline(cell));
	/* What is shared would be copied when it is acquired. */
	for (page = cell->first; page < cell->first + cell->pages; page++)
		WRITE_MEM(word_of(&cell->mem, page),
			  expected_word(cell, page, 0));
	TRY(must("pipe", pipe2(pinning_pipe, O_CLOEXEC)));
	return must("vmsplice", vmsplice(pinning_pipe[1], &range, 1, 0));
}

/* The migration of a pinned page fails and is rolled back. */
static const char *act_fail_to_migrate(struct cell *cell)
{
	size_t page;

	for (page = cell->first; page < cell->first + cell->pages; page++) {
		uint64_t pfn = frame_of(cell, page);

		drain_lru_batches();
		if (!offline_frame(pfn)) {
			heal_frame(pfn);
			return fail("page %zu, pinned, was moved", page);
		}
		if (frame_of(cell, page) != pfn)
			return fail("page %zu, pinned, is not where it was",
				    page);
	}
	return NULL;
}

static const char *finish_pin(struct cell *cell)
{
	(void)cell;
	close(pinning_pipe[0]);
	close(pinning_pipe[1]);
	return NULL;
}

/* Memory blocks */

static int write_block(unsigned long block, const char *state)
{
	char name[80];

	snprintf(name, sizeof(name), MEMORY_DIR "memory%lu/state", block);
	return write_file(name, state);
}

static bool is_in_movable_zone(unsigned long block)
{
	char name[80], zones[64] = "";
	FILE *f;

	snprintf(name, sizeof(name), MEMORY_DIR "memory%lu/valid_zones", block);
	f = fopen(name, "re");
	if (f && !fgets(zones, sizeof(zones), f))
		zones[0] = 0;
	if (f)
		fclose(f);
	return !strncmp(zones, "Movable", 7);
}

/* A block with holes, or with memory that is reserved, cannot be offlined. */
static bool has_movable_pages_only(unsigned long block)
{
	size_t pages = block_bytes() / page_size(), i;
	uint64_t *flags = calloc(pages, sizeof(*flags));
	int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	ssize_t size = pages * sizeof(*flags);
	bool ret = flags && pread(fd, flags, size, block * size) == size;

	for (i = 0; ret && i < pages; i++)
		ret = !(flags[i] & (KPF_NOPAGE | KPF_RESERVED));
	free(flags);
	close(fd);
	return ret;
}

static bool can_be_offlined(unsigned long block)
{
	static signed char known[MAX_BLOCKS];

	if (block >= MAX_BLOCKS)
		return false;
	if (!known[block])
		known[block] = is_in_movable_zone(block) &&
			       has_movable_pages_only(block) ? 1 : -1;
	return known[block] > 0;
}

static bool is_compound(uint64_t pfn)
{
	return frame_flags(pfn) & (KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL);
}

/* A node with a block that can be offlined, or -1. */
static int node_to_offline(void)
{
	unsigned long block;
	char name[80];
	int node;

	for (block = 0; block < MAX_BLOCKS; block++) {
		for (node = 0; node < 2 && can_be_offlined(block); node++) {
			snprintf(name, sizeof(name), NODE_DIR
				 "node%d/memory%lu", node, block);
			if (!access(name, F_OK))
				return node;
		}
	}
	return -1;
}

static const char *bind_to(const struct mem *mem, int node)
{
	unsigned long mask = 1UL << node;

	return must("mbind", syscall(SYS_mbind, mem->p, mem->size, MPOL_BIND,
				     &mask, 8 * sizeof(mask), 0));
}

/* Take what the kernel would give us next. */
static const char *map_ballast(int node, bool huge)
{
	struct mem ballast = { .size = 4UL << 20 };
	size_t i;

	ballast.p = mmap(NULL, ballast.size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ballast.p == MAP_FAILED)
		return must("mmap", -1);
	madvise(ballast.p, ballast.size,
		huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	TRY(bind_to(&ballast, node));
	for (i = 0; i < ballast.size; i += page_size())
		WRITE_MEM(ballast.p + i, 1);
	return NULL;
}

/* Is all of the memory in one block, and can that be offlined? */
static bool is_in_good_block(struct cell *cell)
{
	unsigned long block = block_of(frame_of(cell, 0));
	size_t page;

	for (page = 1; page < cell->mem.pages; page++)
		if (block_of(frame_of(cell, page)) != block)
			return false;
	return can_be_offlined(block);
}

/* Have the memory in a block that can be offlined. */
static const char *prepare_block(struct cell *cell)
{
	bool huge = cell->backing->traits & TRAIT_PMD_SIZE;
	bool large = cell->backing->traits & TRAIT_LARGE;
	const struct mem *mem = &cell->mem;
	int node, tries;

	TRY(require_nodes(cell));
	node = node_to_offline();
	if (node < 0)
		return skip("no memory could be offlined");
	TRY(bind_to(mem, node));
	for (tries = 0; tries < BALLAST_TRIES; tries++) {
		if (is_in_good_block(cell) &&
		    is_compound(frame_of(cell, cell->first)) == large)
			return NULL;
		TRY(must("madvise", madvise(mem->p, mem->size,
					    MADV_DONTNEED)));
		TRY(map_ballast(node, huge));
		fill_mem(mem);
	}
	return skip("got no memory that could be offlined");
}

static long vm_event(const char *name)
{
	FILE *f = fopen("/proc/vmstat", "re");
	char line[80];
	long count = 0;

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			count = atol(line + strlen(name));
	if (f)
		fclose(f);
	return count;
}

static void interrupt(int signal)
{
	(void)signal;
}

/*
 * 0 or -errno; -EINTR if it would take for ever. Nobody knows how long it may
 * take: it is interrupted each second to see whether pages migrate, which leaves
 * fewer of them to the next attempt.
 */
static int offline_block(unsigned long block)
{
	struct sigaction action = { .sa_handler = interrupt };
	struct itimerval second = { .it_value.tv_sec = 1 };
	struct itimerval none = {};
	int fruitless = 0;
	int ret;

	sigaction(SIGALRM, &action, NULL);
	do {
		long moved = vm_event("pgmigrate_success ");

		setitimer(ITIMER_REAL, &second, NULL);
		ret = write_block(block, "offline");
		setitimer(ITIMER_REAL, &none, NULL);
		fruitless += vm_event("pgmigrate_success ") == moved;
	} while (ret == -EINTR && fruitless < FRUITLESS_SECONDS);
	return ret;
}

static const char *act_offline_block(struct cell *cell)
{
	unsigned long block = block_of(frame_of(cell, cell->first));
	size_t page;
	int ret;

	drain_lru_batches();
	ret = offline_block(block);
	if (!ret)
		TRY(must("online", write_block(block, "online_movable")));
	TRY(must("offline", ret));
	for (page = cell->first; page < cell->first + cell->pages; page++)
		if (block_of(frame_of(cell, page)) == block)
			return fail("page %zu is in offlined memory", page);
	return NULL;
}

/* Splitting */

static const char *act_split(struct cell *cell)
{
	const struct mem *mem = &cell->mem;
	char range[80];

	snprintf(range, sizeof(range), "%d,0x%lx,0x%lx,0", getpid(),
		 (unsigned long)mem->p, (unsigned long)mem->p + mem->size);
	if (access(SPLIT_FILE, W_OK))
		return skip("no " SPLIT_FILE);
	drain_lru_batches();
	TRY(must("split", write_file(SPLIT_FILE, range)));
	if (is_compound(frame_of(cell, cell->first)))
		return fail("the folio is not split");
	return NULL;
}

/* Races */

struct mover {
	pthread_t thread;
	void *page;
	bool stop;
};

static void *keep_moving(void *arg)
{
	struct mover *mover = arg;
	int node = 0, status;

	go_to_other_cpus();
	while (!__atomic_load_n(&mover->stop, __ATOMIC_RELAXED)) {
		node = !node;
		syscall(SYS_move_pages, 0, 1UL, &mover->page, &node, &status,
			MPOL_MF_MOVE);
	}
	return NULL;
}

static const char *start_moving(struct mover *mover, void *page)
{
	mover->page = page;
	mover->stop = false;
	return must("pthread_create", -pthread_create(&mover->thread, NULL,
						      keep_moving, mover));
}

static void stop_moving(struct mover *mover)
{
	__atomic_store_n(&mover->stop, true, __ATOMIC_RELAXED);
	pthread_join(mover->thread, NULL);
}

/* Somebody moves a page all the time, and still it can be acquired. */
static const char *act_acquire_moving(struct cell *cell)
{
	const char *ret = NULL;
	struct mover mover;
	int round;

	TRY(start_moving(&mover, target(cell)));
	for (round = 0; !ret && round < RACE_ROUNDS; round++) {
		READ_MEM((uint64_t *)target(cell));
		ret = acquire_again(cell);
	}
	stop_moving(&mover);
	TRY(ret);
	return acquire_again(cell);
}

/* The page is acquired by whichever device has something to add. */
static const char *add_by(struct dev *dev, uint64_t *word, uint64_t value)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)word,
		.operand = value,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(*word),
	};
	long done;

	do
		done = dev_atomic(dev, &op, 1, DEVEXCL_ATOMIC_ACQUIRE |
				  DEVEXCL_ATOMIC_GAP, 1000);
	while (done == -EBUSY);
	return must("atomic operation", done);
}

/* What one device adds the other takes away, while the page moves. */
static const char *act_two_devices(struct cell *cell)
{
	uint64_t *word = (uint64_t *)target(cell) + 3;
	const char *ret = NULL;
	struct mover mover;
	struct dev other;
	int round;

	if (cell->dev.info.ndevices < 2)
		return skip("one device only");
	TRY(must("open", dev_open(&other, 1)));
	TRY(must("mirror", dev_mirror(&other, cell->mem.p, cell->mem.size)));
	TRY(start_moving(&mover, target(cell)));
	for (round = 0; !ret && round < RACE_ROUNDS; round++)
		ret = add_by(&cell->dev, word, 12345) ?:
		      add_by(&other, word, -12345ULL);
	stop_moving(&mover);
	dev_close(&other);
	TRY(ret);
	return acquire_again(cell);
}

/* NUMA balancing */

static const char *prepare_balancing(struct cell *cell)
{
	TRY(require_nodes(cell));
	if (access(BALANCING, W_OK) ||
	    access(BALANCING_DIR "scan_delay_ms", W_OK))
		return skip("no NUMA balancing");
	write_file(BALANCING_DIR "scan_period_min_ms", "10");
	write_file(BALANCING_DIR "scan_period_max_ms", "20");
	TRY(must(BALANCING, write_file(BALANCING, "1")));
	return NULL;
}

static void *sleep_for_ever(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return NULL;
}

/* Use pages that the device does not hold, until that was found out. */
static const char *act_balance(struct cell *cell)
{
	long faults = vm_event("numa_hint_faults ");
	struct mem ballast;
	pthread_t other;
	int tries;
	size_t i;

	/* Of a process with one thread only remote pages are looked at. */
	TRY(must("pthread_create", -pthread_create(&other, NULL, sleep_for_ever,
						   NULL)));
	/* Memory of this program has a policy, and is exempt. */
	TRY(must("set_mempolicy", syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL,
					  0)));
	TRY(must("mmap", mem_map(&ballast, 64)));
	for (tries = 0; vm_event("numa_hint_faults ") < faults + 8; tries++) {
		for (i = 0; i < ballast.pages * 1000; i++)
			READ_MEM(word_of(&ballast, i % ballast.pages));
		for (i = 0; i < cell->mem.pages; i++)
			if (!cell->held[i])
				READ_MEM(word_of(&cell->mem, i));
		if (tries == 300)
			return skip("no hinting faults");
	}
	write_file(BALANCING, "0");
	return NULL;
}

/* Whoever migrates by address may pass over exclusive pages. */
#define MAY_MOVE							\
	{ MAY_BE_TAKEN, CAUSE(CLEAR) | CAUSE_FAULT,			\
	  ENTRY_IS(EXCLUSIVE) | ENTRY_IS(PRESENT), DATA_KEPT,		\
	  .neighbours_too = true, .splits = SPLITS_VMA }
#define MUST_MOVE							\
	{ TAKEN, CAUSE(CLEAR), ENTRY_IS(PRESENT), DATA_KEPT,		\
	  .splits = SPLITS_FOLIO }
/* The device lets go when they are protected, before they move. */
#define MOVE_PROTECTED							\
	{ TAKEN, CAUSE(PROTECTION_VMA) | CAUSE(CLEAR),			\
	  ENTRY_IS(PRESENT), DATA_KEPT, .splits = SPLITS_FOLIO }
#define NO_MOVING_TARGET						\
	{ TRAIT_MOVING, "somebody else moves it already" }
#define NOT_ALL_ALIKE							\
	{ TRAIT_MOVING | TRAIT_ALIKE, "it takes long; others are like it" }
#define TYPICAL_ONLY	{ TRAIT_TYPICAL, "it takes long; others are like these" }

/* A large folio may be moved for the sake of pages that are present. */
static struct expect expect_balanced(const struct cell *cell)
{
	struct expect expect = { MAY_BE_TAKEN, CAUSE(PROTECTION_VMA),
				 ENTRY_IS(EXCLUSIVE), DATA_KEPT,
				 .neighbours_too = true };

	if (cell->backing->traits & TRAIT_LARGE) {
		expect.causes |= CAUSE(CLEAR);
		expect.entries |= ENTRY_IS(PRESENT);
	}
	return expect;
}

static const struct operation ops[] = {
	{
		.name = "move_pages",
		.prepare = require_nodes,
		.act = act_move_pages,
		.expect = MAY_MOVE,
		.except = NO_MOVING_TARGET,
	}, {
		.name = "move_rest_of_folio",
		.prepare = require_nodes,
		.act = act_move_rest,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(PRESENT), DATA_KEPT,
			    .reach = REACH_ALL },
		.needs = { TRAIT_LARGE, "only a large folio has a rest" },
	}, {
		.name = "mbind",
		.prepare = require_nodes,
		.act = act_mbind,
		.expect = MAY_MOVE,
		.needs = TYPICAL_ONLY,
	}, {
		.name = "migrate_pages",
		.prepare = require_nodes,
		.act = act_migrate_pages,
		.expect = MAY_MOVE,
		.needs = TYPICAL_ONLY,
	}, {
		.name = "cpuset",
		.prepare = prepare_cpuset,
		.act = act_cpuset,
		.finish = finish_cpuset,
		.expect = MAY_MOVE,
		.needs = TYPICAL_ONLY,
	}, {
		.name = "compact",
		.act = act_compact,
		.expect = MAY_MOVE,
		.needs = TYPICAL_ONLY,
	}, {
		.name = "madv_soft_offline",
		.arg = MADV_SOFT_OFFLINE,
		.prepare = prepare_offline,
		.act = act_soft_offline,
		.expect = { TAKEN, CAUSE(CLEAR) | CAUSE_FAULT,
			    ENTRY_IS(PRESENT), DATA_KEPT,
			    .splits = SPLITS_FOLIO },
		.needs = TYPICAL_ONLY,
	}, {
		.name = "soft_offline_frame",
		.prepare = prepare_offline,
		.act = act_soft_offline,
		.finish = finish_unshared,
		.expect = MUST_MOVE,
		.except = NOT_ALL_ALIKE,
	}, {
		.name = "write_protected",
		.prepare = prepare_protected,
		.act = act_move_protected,
		.finish = finish_uffd_protected,
		.expect = MOVE_PROTECTED,
		.needs = TYPICAL_ONLY,
	}, {
		.name = "access_protected",
		.prepare = prepare_protected,
		.arg = UFFD_ACCESS,
		.act = act_move_protected,
		.finish = finish_uffd_protected,
		.expect = MOVE_PROTECTED,
		.needs = TYPICAL_ONLY,
	}, {
		.name = "rolled_back",
		.prepare = prepare_pin,
		.act = act_fail_to_migrate,
		.finish = finish_pin,
		.expect = MAY_MOVE,
		.needs = TYPICAL_ONLY,
	}, {
		.name = "offline_block",
		.prepare = prepare_block,
		.act = act_offline_block,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(PRESENT), DATA_KEPT,
			    .neighbours_too = true },
		.needs = TYPICAL_ONLY,
	}, {
		.name = "split",
		.act = act_split,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(PRESENT), DATA_KEPT,
			    .reach = REACH_ALL },
		.needs = { TRAIT_LARGE, "only a large folio can be split" },
	}, {
		.name = "acquire_moving",
		.prepare = require_nodes,
		.act = act_acquire_moving,
		.expect = DEVICE_KEEPS,
		.needs = TYPICAL_ONLY,
	}, {
		.name = "two_devices",
		.prepare = require_nodes,
		.act = act_two_devices,
		.expect = DEVICE_KEEPS,
		.needs = TYPICAL_ONLY,
	}, {
		.name = "numa_balancing",
		.prepare = prepare_balancing,
		.act = act_balance,
		.expect_for = expect_balanced,
		.needs = TYPICAL_ONLY,
	},
};

/* NUMA balancing looks at a process only that long after its beginning. */
static long scan_delay;

static void restore_scan_delay(void)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", scan_delay);
	write_file(BALANCING_DIR "scan_delay_ms", text);
}

int main(int argc, char **argv)
{
	scan_delay = read_number(BALANCING_DIR "scan_delay_ms");
	if (scan_delay > 0 && !write_file(BALANCING_DIR "scan_delay_ms", "1"))
		atexit(restore_scan_delay);
	return matrix_main("migrate", ops, ARRAY_SIZE(ops), argc, argv);
}
