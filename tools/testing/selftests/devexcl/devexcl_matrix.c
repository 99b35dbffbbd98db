// SPDX-License-Identifier: GPL-2.0
/*
 * The matrix: cells are made, run and judged here; see devexcl_matrix.h
 */
#include <glob.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "../kselftest.h"
#include "devexcl_matrix.h"

/* What the device adds to a word of each page that it holds. */
#define DEVICE_ADDS	0x0001000000000001ULL
#define DEVICE_WORD	1

static const char * const hold_suffix[NR_HOLDS] = {
	[HOLD_ALL] = "",
	[HOLD_HALF] = ".half",
	[HOLD_NEIGHBOURS] = ".neighbours",
};

long read_number(const char *name)
{
	FILE *f = fopen(name, "re");
	long number;

	if (!f)
		return -errno;
	if (fscanf(f, "%ld", &number) != 1)
		number = -EINVAL;
	fclose(f);
	return number;
}

/* Operations that many rows share */

const char *acquire_again(struct cell *cell)
{
	size_t page;
	long ret;

	for (page = 0; page < cell->mem.pages; page++) {
		if (!cell->held[page])
			continue;
		ret = dev_acquire(&cell->dev, page_of(&cell->mem, page), 1);
		if (ret != 1)
			return fail("page %zu cannot be acquired: %s", page,
				    strerror(-ret));
	}
	dev_forget_events(&cell->dev);
	return NULL;
}

/* A pipe with the page in it is somebody who reads it. */
static const char *write_while_read(struct cell *cell, size_t page, int pipe)
{
	uint64_t *word = word_of(&cell->mem, page);
	struct iovec range = { word, sizeof(*word) };
	uint64_t value = READ_MEM(word);
	uint64_t pfn = pagemap_of(word) & PAGEMAP_PFN;

	TRY(must("vmsplice", vmsplice(pipe, &range, 1, 0)));
	WRITE_MEM(word, value);
	return (pagemap_of(word) & PAGEMAP_PFN) == pfn ? NULL :
	       fail("page %zu was copied, as if it was shared", page);
}

const char *finish_unshared(struct cell *cell)
{
	const char *wrong = NULL;
	int pipe[2];
	size_t page;

	TRY(must("pipe", pipe2(pipe, O_CLOEXEC)));
	for (page = 0; page < cell->mem.pages && !wrong; page++)
		if (cell->held[page])
			wrong = write_while_read(cell, page, pipe[1]);
	close(pipe[0]);
	close(pipe[1]);
	return wrong;
}

const char *act_nothing(struct cell *cell)
{
	(void)cell;
	return NULL;
}

const char *act_madvise(struct cell *cell)
{
	return must("madvise", madvise(target(cell), target_size(cell),
				       cell->op->arg));
}

const char *act_madvise_if_known(struct cell *cell)
{
	if (!madvise(target(cell), target_size(cell), cell->op->arg))
		return NULL;
	if (errno == EINVAL)
		return skip("this kernel does not offer the advice");
	return must("madvise", -1);
}

/* Protection by userfaultfd */

const char *prepare_uffd(struct cell *cell)
{
	bool access = cell->op->arg == UFFD_ACCESS;
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = access ? UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC :
				     UFFD_FEATURE_WP_ASYNC,
	};
	struct uffdio_register all = {
		.range = { (uintptr_t)cell->mem.p, cell->mem.size },
		.mode = access ? UFFDIO_REGISTER_MODE_RWP :
				 UFFDIO_REGISTER_MODE_WP,
	};

	cell->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (cell->uffd < 0)
		return skip("no userfaultfd: %s", strerror(errno));
	if (ioctl(cell->uffd, UFFDIO_API, &api))
		return skip("userfaultfd lacks the feature");
	return must("UFFDIO_REGISTER", ioctl(cell->uffd, UFFDIO_REGISTER,
					     &all));
}

const char *uffd_protect_target(struct cell *cell)
{
	struct uffdio_range range = {
		(uintptr_t)target(cell), target_size(cell)
	};
	struct uffdio_writeprotect write = {
		range, UFFDIO_WRITEPROTECT_MODE_WP
	};
	struct uffdio_rwprotect access = {
		range, UFFDIO_RWPROTECT_MODE_RWP
	};

	if (cell->op->arg == UFFD_ACCESS)
		return must("UFFDIO_RWPROTECT",
			    ioctl(cell->uffd, UFFDIO_RWPROTECT, &access));
	return must("UFFDIO_WRITEPROTECT",
		    ioctl(cell->uffd, UFFDIO_WRITEPROTECT, &write));
}

const char *check_uffd_protection(struct cell *cell, bool on)
{
	char *p = cell->moved_to ?: target(cell);
	size_t n;

	for (n = 0; n < cell->pages; n++) {
		if (!cell->held[cell->first + n])
			continue;
		if (!!(pagemap_of(p + n * page_size()) & PAGEMAP_UFFD_WP) != on)
			return fail("page %zu is %sprotected", cell->first + n,
				    on ? "no longer " : "still ");
	}
	return NULL;
}

const char *finish_uffd_protected(struct cell *cell)
{
	return check_uffd_protection(cell, cell->op->arg == UFFD_WRITE);
}

/* The model */

/* What the target holds before the device writes. */
static uint64_t model_word(const struct cell *cell, size_t page, size_t word)
{
	if (cell->backing->traits & TRAIT_ZERO)
		return 0;
	return pattern_word(page, word);
}

uint64_t expected_word(const struct cell *cell, size_t page, size_t word)
{
	uint64_t value = model_word(cell, page, word);

	if (word == DEVICE_WORD)
		value += cell->held[page] * DEVICE_ADDS;
	return value;
}

/* What a fresh mapping of the target would show. */
static uint64_t fresh_word(const struct cell *cell, size_t page, size_t word)
{
	return cell->backing->traits & TRAIT_FILE ? ~pattern_word(page, word) :
						    0;
}

static bool in_target(const struct cell *cell, size_t page)
{
	return page >= cell->first && page < cell->first + cell->pages;
}

/* Does the operation work on this page? */
static bool is_reached(const struct cell *cell, const struct expect *expect,
		       size_t page)
{
	switch (expect->reach) {
	case REACH_ALL:
		return true;
	case REACH_END:
		return page >= cell->first;
	default:
		return in_target(cell, page);
	}
}

static size_t first_reached(const struct cell *cell,
			    const struct expect *expect)
{
	return expect->reach == REACH_ALL ? 0 : cell->first;
}

/* Where a page is after the operation; NULL if it is nowhere. */
static char *place_of(const struct cell *cell, const struct expect *expect,
		      size_t page)
{
	if (is_reached(cell, expect, page) && expect->data == DATA_GONE)
		return NULL;
	if (is_reached(cell, expect, page) && expect->data == DATA_MOVED)
		return cell->moved_to +
		       (page - first_reached(cell, expect)) * page_size();
	return page_of(&cell->mem, page);
}

static bool is_near(const struct cell *cell, size_t page)
{
	return page + cell->near >= cell->first &&
	       page < cell->first + cell->pages + cell->near;
}

const char *check_page(const struct cell *cell, size_t page, const char *p,
		       bool fresh)
{
	/* Of the many pages of a large folio that are far away, one word. */
	size_t i, nr = is_near(cell, page) ? page_size() / sizeof(uint64_t) : 1;
	const uint64_t *words = (const uint64_t *)p;

	for (i = 0; i < nr; i++) {
		uint64_t want = fresh ? fresh_word(cell, page, i) :
				expected_word(cell, page, i);
		uint64_t is = READ_MEM(&words[i]);

		if (is != want)
			return fail("page %zu word %zu is %#llx, expected %#llx%s",
				    page, i, (unsigned long long)is,
				    (unsigned long long)want,
				    !fresh && cell->held[page] ?
				    " (device wrote)" : "");
	}
	return NULL;
}

/* Setting up a cell */

/* Should the device hold this page? */
static bool wants_page(const struct cell *cell, size_t page)
{
	if (!is_near(cell, page))
		return false;
	switch (cell->hold) {
	case HOLD_ALL:
		return true;
	case HOLD_HALF:
		return page % 2;
	case HOLD_NEIGHBOURS:
		return !in_target(cell, page);
	default:
		return false;
	}
}

/* The device writes to a page that it holds, and that is at @p. */
static const char *device_writes(struct cell *cell, size_t page, char *p)
{
	uint64_t *word = (uint64_t *)p + DEVICE_WORD;
	int ret = dev_add(&cell->dev, word, DEVICE_ADDS, NULL);

	/* A page that moves may be gone already. */
	if (ret == -EACCES && cell->rounds)
		return NULL;
	TRY(must("atomic operation", ret));
	cell->held[page]++;
	return NULL;
}

/* Acquire a page that is at @p, and write to it. */
static const char *acquire_page_at(struct cell *cell, size_t page, char *p)
{
	bool tail_is_refused = cell->backing->traits & TRAIT_LARGE &&
			       !(cell->dev.info.caps & DEVEXCL_CAP_LARGE_FOLIO);
	int ret;

	ret = dev_acquire_one(&cell->dev, p);
	if (ret == -EOPNOTSUPP && tail_is_refused) {
		if (!in_target(cell, page))
			return NULL;
		return skip("this kernel takes the first page of a large folio only");
	}
	return must("acquire", ret) ?: device_writes(cell, page, p);
}

static const char *acquire_page(struct cell *cell, size_t page)
{
	return acquire_page_at(cell, page, page_of(&cell->mem, page));
}

/*
 * A page that is moved may have been taken for that before it was acquired,
 * and be unmapped afterwards. What the device still has when the next move was
 * tried, it keeps: an exclusive entry is nothing that move_pages() looks at.
 */
static const char *acquire_moving_page(struct cell *cell, size_t page)
{
	unsigned long rounds;

	while (cell->held[page] < UCHAR_MAX) {
		TRY(acquire_page(cell, page));
		rounds = READ_MEM(cell->rounds);
		while (READ_MEM(cell->rounds) - rounds < 2)
			sched_yield();
		if (!check_held(&cell->dev, &cell->mem, page, 1, true))
			return NULL;
	}
	return fail("the device never gets page %zu for good", page);
}

static const char *acquire_cell(struct cell *cell)
{
	size_t page, held = 0;

	for (page = 0; page < cell->mem.pages; page++) {
		if (!wants_page(cell, page))
			continue;
		if (cell->rounds && in_target(cell, page))
			TRY(acquire_moving_page(cell, page));
		else
			TRY(acquire_page(cell, page));
		held += !!cell->held[page];
	}
	if (!held && cell->hold != HOLD_NOTHING)
		return skip("this kernel takes the first page of a large folio only");
	for (page = 0; page < cell->mem.pages; page++)
		if (cell->held[page])
			TRY(claim(check_held(&cell->dev, &cell->mem, page, 1,
					     true) ?:
				  check_entries(&cell->mem, page, 1,
						ENTRY_EXCLUSIVE)));
	dev_forget_events(&cell->dev);
	return NULL;
}

/* Judging a cell */

static struct expect expect_of(const struct cell *cell)
{
	struct expect expect = cell->op->expect_for ?
			       cell->op->expect_for(cell) : cell->op->expect;

	if (expect.causes & CAUSE_FAULT) {
		expect.causes &= ~CAUSE_FAULT;
		expect.causes |= cause_of_fault(&cell->dev);
	}
	/* A page that moves may be found on its way. */
	if (cell->backing->traits & TRAIT_MOVING)
		expect.entries |= ENTRY_IS(SWAP);
	if ((expect.splits & SPLITS_VMA &&
	     cell->backing->traits & TRAIT_PMD_SIZE) ||
	    (expect.splits & SPLITS_FOLIO &&
	     cell->backing->traits & TRAIT_LARGE)) {
		expect.neighbours_too = true;
		expect.causes |= CAUSE(CLEAR);
		if (expect.taken == NOT_TAKEN)
			expect.taken = MAY_BE_TAKEN;
	}
	return expect;
}

/*
 * The device holds what it should, and whatever it holds the CPU does not
 * have. Return through @lost how many pages it has lost.
 */
static const char *check_ownership(struct cell *cell,
				   const struct expect *expect,
				   const struct taken *taken, uint64_t *lost)
{
	size_t page;

	*lost = 0;
	for (page = 0; page < cell->mem.pages; page++) {
		bool reached = is_reached(cell, expect, page);
		enum entry entry;
		bool holds;

		if (!cell->held[page])
			continue;
		entry = entry_of(page_of(&cell->mem, page));
		holds = !check_held(&cell->dev, &cell->mem, page, 1, true);
		*lost += !holds;
		if (holds && entry != ENTRY_EXCLUSIVE)
			return fail("the device holds page %zu, but its entry is %s",
				    page, entry_name(entry));
		if (!reached && !holds && !expect->neighbours_too)
			return fail("page %zu, a neighbour, was taken (causes %#x)",
				    page, taken->causes);
		if (reached && holds && expect->taken == TAKEN)
			return fail("page %zu was not taken", page);
		if (reached && !holds && expect->taken == NOT_TAKEN)
			return fail("page %zu was taken (causes %#x)", page,
				    taken->causes);
		if (reached && !(expect->entries & (1U << entry)))
			return fail("entry of page %zu is %s", page,
				    entry_name(entry));
	}
	return NULL;
}

static const char *check_events(const struct expect *expect,
				const struct taken *taken, uint64_t lost)
{
	if (taken->lost)
		return fail("event records are missing");
	if (taken->exclusive != lost)
		return fail("the device was told of %llu pages (causes %#x), but lost %llu",
			    (unsigned long long)taken->exclusive, taken->causes,
			    (unsigned long long)lost);
	if (taken->causes & ~expect->causes)
		return fail("pages were taken for causes %#x, expected %#x",
			    taken->causes, expect->causes);
	return NULL;
}

/* What moves is moved as it is; and the device may have it there as well. */
static const char *check_moved(struct cell *cell, const struct expect *expect)
{
	size_t page, pages = 0;

	if (expect->data != DATA_MOVED)
		return NULL;
	for (page = 0; page < cell->mem.pages; page++) {
		enum entry entry;

		if (!is_reached(cell, expect, page))
			continue;
		pages++;
		if (!cell->held[page])
			continue;
		entry = entry_of(place_of(cell, expect, page));
		if (entry != ENTRY_EXCLUSIVE)
			return fail("entry of page %zu is %s after the move",
				    page, entry_name(entry));
	}
	return must("mirror", dev_mirror(&cell->dev, cell->moved_to,
					 pages * page_size()));
}

/* Who looks for written pages is told of those that the device wrote. */
static const char *check_written(struct cell *cell, const struct expect *expect)
{
	size_t page;

	if (!cell->soft_dirty || expect->soft_clean)
		return NULL;
	for (page = 0; page < cell->mem.pages; page++) {
		const char *p = place_of(cell, expect, page);

		if (!cell->held[page] || !p ||
		    (is_reached(cell, expect, page) &&
		     expect->data == DATA_FRESH))
			continue;
		if (!(pagemap_of(p) & PAGEMAP_SOFT_DIRTY))
			return fail("page %zu, which the device wrote, is not soft-dirty",
				    page);
	}
	return NULL;
}

static const char *check_contents(struct cell *cell, const struct expect *expect)
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++) {
		const char *p = place_of(cell, expect, page);

		if (p)
			TRY(check_page(cell, page, p,
				       is_reached(cell, expect, page) &&
				       expect->data == DATA_FRESH));
	}
	return NULL;
}

/* The device can have the pages again, and works on them. */
static const char *check_again(struct cell *cell, const struct expect *expect)
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++) {
		char *p = place_of(cell, expect, page);
		uint64_t *word = (uint64_t *)p + DEVICE_WORD;
		uint64_t was;

		if (!cell->held[page] || !p)
			continue;
		was = READ_MEM(word);
		TRY(acquire_page_at(cell, page, p));
		if (READ_MEM(word) != was + DEVICE_ADDS)
			return fail("page %zu: the device's second write is lost",
				    page);
	}
	return NULL;
}

/*
 * Each reference of a page's folio is one of a mapping, and an exclusive entry
 * is or is not counted as a mapping.
 */
static const char *check_page_counts(struct cell *cell, size_t page,
				     const char *p)
{
	bool counted = cell->dev.info.caps & DEVEXCL_CAP_MAPCOUNT;
	struct devexcl_page info;

	TRY(must("query", dev_query(&cell->dev, p, 1, &info)));
	if (info.order && !counted)
		return NULL;	/* how many entries are exclusive is not known */
	info.refcount -= swap_cache_references(&info);
	if (info.refcount != info.mapcount + !counted)
		return fail("page %zu, exclusive, has %d references and %d mappings",
			    page, info.refcount, info.mapcount);
	if (!info.order && info.refcount != 1)
		return fail("page %zu, exclusive, has %d references, expected 1",
			    page, info.refcount);
	return NULL;
}

static const char *check_all_counts(struct cell *cell,
				    const struct expect *expect)
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++) {
		char *p = place_of(cell, expect, page);

		if (cell->held[page] && p)
			TRY(check_page_counts(cell, page, p));
	}
	return NULL;
}

/* The counts of the pages that the device had, and that are left. */
static const char *check_counts(struct cell *cell, const struct expect *expect)
{
	size_t page;
	char *p;

	for (page = 0; page < cell->mem.pages; page++) {
		p = place_of(cell, expect, page);
		if (cell->held[page] && p)
			TRY(must("acquire", dev_acquire_one(&cell->dev, p)));
	}
	/*
	 * Acquiring may put pages into batches, too: of mlock, for one. Batches
	 * of other CPUs have what somebody else did.
	 */
	drain_own_lru_batches();
	if (check_all_counts(cell, expect)) {
		drain_lru_batches();
		TRY(check_all_counts(cell, expect));
	}
	for (page = 0; page < cell->mem.pages; page++) {
		p = place_of(cell, expect, page);
		if (!cell->held[page] || !p)
			continue;
		READ_MEM(p);
		if (entry_of(p) != ENTRY_PRESENT)
			return fail("entry of page %zu, touched, is %s", page,
				    entry_name(entry_of(p)));
	}
	return NULL;
}

static void end_child(struct cell *cell)
{
	if (cell->child <= 0)
		return;
	kill(cell->child, SIGKILL);
	waitpid(cell->child, NULL, 0);
	cell->child = 0;
}

/* A large folio's pages got one word each so far. */
static void fill_near(struct cell *cell)
{
	size_t words = page_size() / sizeof(uint64_t);
	size_t page, i;

	for (page = 0; page < cell->mem.pages; page++) {
		uint64_t *word = word_of(&cell->mem, page);

		if (!is_near(cell, page))
			continue;
		for (i = 0; i < words; i++)
			WRITE_MEM(&word[i], pattern_word(page, i));
	}
}

/* Page frames */

/* Longer than anything takes that somebody else may have to finish. */
#define LATE_SECONDS	10

static bool is_late(const struct timespec *since)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec - since->tv_sec > LATE_SECONDS;
}

/* Which page frames the device holds. */
static const char *note_frames(struct cell *cell)
{
	struct devexcl_page info;
	size_t page;

	for (page = 0; page < cell->mem.pages; page++) {
		if (!cell->held[page])
			continue;
		TRY(must("query", dev_query(&cell->dev,
					    page_of(&cell->mem, page), 1,
					    &info)));
		cell->pfns[page] = info.pfn;
	}
	return NULL;
}

/* Memory that nobody has mapped, but that was not given back. */
static bool is_left_behind(const struct cell *cell, size_t page)
{
	uint64_t pfn = cell->pfns[page];

	return frame_flags(pfn) & KPF_ANON && !frame_mapcount(pfn);
}

/*
 * What is not mapped any more was given back, even though a device had it. Of
 * a large folio the rest may be mapped still. Who has just looked at a page may
 * keep it for a moment.
 */
static const char *check_given_back(struct cell *cell,
				    const struct expect *expect)
{
	struct timespec start;
	size_t page;

	if ((expect->data != DATA_GONE && expect->data != DATA_FRESH) ||
	    (cell->backing->traits & TRAIT_LARGE && expect->reach != REACH_ALL))
		return NULL;
	clock_gettime(CLOCK_MONOTONIC, &start);
	drain_own_lru_batches();
	for (page = 0; page < cell->mem.pages; page++) {
		if (!cell->held[page] || !is_reached(cell, expect, page))
			continue;
		while (is_left_behind(cell, page)) {
			if (is_late(&start))
				return fail("page %zu was not given back", page);
			drain_lru_batches();
		}
	}
	return NULL;
}

/* Everything up to the operation. */
static const char *set_up_cell(struct cell *cell)
{
	TRY(cell->backing->make(cell));
	if (cell->backing->traits & TRAIT_LARGE)
		fill_near(cell);
	if (!cell->held) {
		cell->held = calloc(cell->mem.pages, 1);
		cell->pfns = calloc(cell->mem.pages, sizeof(*cell->pfns));
	}
	TRY(must("open device", dev_open(&cell->dev, 0)));
	TRY(break_driver_of(&cell->dev));
	TRY(must("mirror", dev_mirror(&cell->dev, cell->mem.p,
				      cell->mem.size)));
	if (cell->op->prepare)
		TRY(cell->op->prepare(cell));
	cell->soft_dirty = clear_soft_dirty();
	TRY(acquire_cell(cell));
	return note_frames(cell);
}

static const char *run_cell(struct cell *cell)
{
	const struct operation *op = cell->op;
	struct expect expect;
	struct taken taken;
	uint64_t lost;

	TRY(set_up_cell(cell));
	TRY(op->act(cell));

	expect = expect_of(cell);
	TRY(must("event stream", dev_taken(&cell->dev, &taken)));
	TRY(check_ownership(cell, &expect, &taken, &lost));
	TRY(check_events(&expect, &taken, lost));
	TRY(check_moved(cell, &expect));
	TRY(check_written(cell, &expect));
	TRY(check_contents(cell, &expect));
	TRY(check_given_back(cell, &expect));
	if (op->finish)
		TRY(op->finish(cell));
	end_child(cell);
	TRY(check_again(cell, &expect));
	return check_counts(cell, &expect);
}

const char *claim_in_child(struct cell *cell,
			   const char *(*fn)(struct cell *cell))
{
	pid_t pid = fork();
	int status;

	TRY(must("fork", pid));
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		leave_verdict(fn(cell));
		_exit(0);
	}
	status = wait_child(pid);
	TRY(take_verdict());
	return status ? fail("the child ended with %d", status) : NULL;
}

/* Cells whose owner ends */

static void *map_shared(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static const char *check_frame_used(const struct cell *cell, size_t page)
{
	uint64_t pfn = cell->pfns[page];

	if (!(frame_flags(pfn) & KPF_ANON))
		return fail("page %zu is not anonymous", page);
	/* Who asks later shall not need memory for it then. */
	frame_mapcount(pfn);
	return NULL;
}

static const char *check_frame_free(const struct cell *cell, size_t page)
{
	uint64_t pfn = cell->pfns[page];

	if (frame_flags(pfn) & KPF_ANON)
		return fail("page %zu is still there, with %ld mappings", page,
			    frame_mapcount(pfn));
	return NULL;
}

static const char *each_frame(const struct cell *cell,
			      const char *(*check)(const struct cell *cell,
						   size_t page))
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++)
		if (cell->held[page])
			TRY(check(cell, page));
	return NULL;
}

/* Somebody who has just looked at the owner may keep it for a moment. */
static const char *check_frames_free(const struct cell *cell)
{
	struct timespec start;
	const char *ret;

	/* A page that was moved has left its frame to others. */
	if (cell->backing->traits & TRAIT_MOVING)
		return NULL;
	clock_gettime(CLOCK_MONOTONIC, &start);
	drain_own_lru_batches();
	while ((ret = each_frame(cell, check_frame_free))) {
		if (is_late(&start))
			return ret;
		sched_yield();
		drain_lru_batches();
	}
	return NULL;
}

/* Nobody but the owner may use the device; @error tells whether it lives. */
static const char *check_owner(struct cell *cell, int error)
{
	struct devexcl_page info;
	int ret = dev_query(&cell->dev, cell->mem.p, 1, &info);

	if (ret == error)
		return NULL;
	return fail("another process that uses the device gets %d, expected %d",
		    ret, error);
}

static const char *check_nothing_left(struct cell *cell)
{
	struct devexcl_stats stats;
	uint64_t gone;
	int i;

	TRY(must("stats", dev_stats(&cell->dev, &stats)));
	if (stats.held || stats.mapped)
		return fail("the device has %llu pages left",
			    (unsigned long long)(stats.held + stats.mapped));
	gone = stats.released;
	for (i = 0; i < DEVEXCL_CAUSE_NR; i++)
		gone += stats.lost[i];
	if (stats.acquired != gone)
		return fail("the device acquired %llu pages, but lost %llu",
			    (unsigned long long)stats.acquired,
			    (unsigned long long)gone);
	return NULL;
}

/* All pages that the device had were taken, each once. */
const char *check_all_taken(struct cell *cell, uint32_t causes)
{
	struct expect expect = { .causes = causes };
	struct taken taken;
	uint64_t held = 0;
	size_t page;

	if (causes & CAUSE_FAULT)
		expect.causes = (causes & ~CAUSE_FAULT) |
				cause_of_fault(&cell->dev);
	for (page = 0; page < cell->mem.pages; page++)
		held += !!cell->held[page];
	TRY(must("event stream", dev_taken(&cell->dev, &taken)));
	TRY(check_events(&expect, &taken, held));
	return check_nothing_left(cell);
}

/* The address space may be left for a moment to one who was looking at it. */
static void wait_address_space(struct cell *cell)
{
	struct devexcl_stats stats;
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	while (!is_late(&start)) {
		if (!check_owner(cell, -ESRCH) &&
		    !dev_stats(&cell->dev, &stats) && !stats.held)
			break;
		sched_yield();
	}
}

const char *wait_owner(struct cell *cell, int status)
{
	int is = wait_child(cell->owner_child);

	cell->owner_child = 0;
	TRY(take_verdict());
	/* A process between us and the owner cannot end in just the same way. */
	if (is != status && is != 128 - status)
		return fail("the owner ended with %d, expected %d", is, status);
	return NULL;
}

static void owner_process(struct cell *cell, struct gate *ready,
			  struct gate *go)
{
	const char *ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ret = set_up_cell(cell);
	if (!ret) {
		cell->owner = getpid();
		gate_open(ready);
		ret = gate_wait(go) ? NULL : cell->op->act(cell);
	}
	if (!ret)
		for (;;)
			pause();
	leave_verdict(ret);
	_exit(1);
}

/*
 * What the owner frees must not become ours, or its pages would seem to be
 * still there: have all the memory that we are going to need, and have it for
 * ourselves.
 */
static void touch_memory(void)
{
	/* All data, as the linker lays it out; nobody here uses the heap. */
	extern char data_start[], end[];
	char deep[16384], *p;
	size_t i;

	for (i = 0; i < sizeof(deep); i += 1024)
		WRITE_MEM(&deep[i], 0);
	for (p = data_start; p < end; p += page_size())
		WRITE_MEM(p, READ_MEM(p));
}

/* Start the owner, and wait until the device has its pages. */
static const char *start_owner(struct cell *owners, struct cell *cell,
			       struct gate *go)
{
	struct gate ready;
	int pidfd;
	pid_t pid;

	TRY(must("pipe", gate_init(&ready)));
	TRY(must("pipe", gate_init(go)));
	pid = fork();
	if (!pid)
		owner_process(owners, &ready, go);
	TRY(must("fork", pid));
	close(ready.pipe[1]);
	if (gate_wait(&ready))
		return take_verdict() ?: fail("the owner died too early");
	touch_memory();
	*cell = *owners;
	cell->owner_child = pid;

	pidfd = syscall(SYS_pidfd_open, cell->owner, 0);
	TRY(must("pidfd_open", pidfd));
	cell->dev.fd = syscall(SYS_pidfd_getfd, pidfd, cell->dev.fd, 0);
	close(pidfd);
	TRY(must("pidfd_getfd", cell->dev.fd));
	TRY(check_owner(cell, -EPERM));
	return each_frame(cell, check_frame_used);
}

static const char *judge_end(struct cell *cell)
{
	struct expect expect = expect_of(cell);

	wait_address_space(cell);
	TRY(check_owner(cell, -ESRCH));
	if (expect.taken == TAKEN)
		TRY(check_all_taken(cell, expect.causes));
	TRY(check_nothing_left(cell));
	TRY(check_frames_free(cell));
	return must("close", close(cell->dev.fd));
}

static const char *watch_cell(struct cell *cell)
{
	size_t pages = thp_size() / page_size() + 64;
	struct cell *owners = map_shared(sizeof(*owners));
	struct gate go;

	if (!owners)
		return must("mmap", -1);
	cell->held = map_shared(pages);
	cell->pfns = map_shared(pages * sizeof(*cell->pfns));
	*owners = *cell;
	TRY(start_owner(owners, cell, &go));
	gate_open(&go);
	TRY(cell->op->watch(cell));
	TRY(judge_end(cell));
	return cell->op->finish ? cell->op->finish(cell) : NULL;
}

/* Cells: holds are the innermost loop, operations the outermost. */

static const char *matrix_subject;
static const struct operation *matrix_ops;

static struct cell cell_of(size_t n)
{
	return (struct cell) {
		.op = &matrix_ops[n / NR_HOLDS / nr_backings],
		.backing = &backings[n / NR_HOLDS % nr_backings],
		.hold = n % NR_HOLDS,
		.near = 2,
		.fd = -1,
	};
}

static const char *cell_name(size_t n)
{
	struct cell cell = cell_of(n);
	static char name[160];

	snprintf(name, sizeof(name), "%s.%s.%s%s", matrix_subject,
		 cell.op->name, cell.backing->name, hold_suffix[cell.hold]);
	return name;
}

static const char *run_any_cell(struct cell *cell)
{
	const char *ret;

	ret = cell->op->watch ? watch_cell(cell) : run_cell(cell);
	end_child(cell);
	return ret;
}

static const char *cell_run(size_t n)
{
	struct cell cell = cell_of(n);

	return run_any_cell(&cell);
}

static const char *cell_control(size_t n)
{
	struct cell cell = cell_of(n);

	cell.hold = HOLD_NOTHING;
	return run_any_cell(&cell);
}

/* Why a cell makes no sense, or NULL. */
static const char *excluded(const struct cell *cell)
{
	if (cell->hold == HOLD_HALF && cell->backing->traits & TRAIT_SINGLE)
		return "a single page has no half";
	if (cell->hold == HOLD_NEIGHBOURS && cell->op->watch)
		return "what ends the owner has no target";
	if (cell->hold != HOLD_ALL && cell->op->all_held)
		return cell->op->all_held;
	if (cell->hold == HOLD_NEIGHBOURS && cell->backing->traits & TRAIT_ALIKE)
		return "neighbours in large folios: thp_last_pte and mthp_64k will do";
	if (cell->op->except.traits & cell->backing->traits)
		return cell->op->except.why;
	if (cell->op->needs.why &&
	    !(cell->op->needs.traits & cell->backing->traits))
		return cell->op->needs.why;
	return NULL;
}

static const char *cell_excluded(size_t n)
{
	struct cell cell = cell_of(n);

	return excluded(&cell);
}

/* If one hold makes no sense, none does, or others do. */
static bool cell_stands_for_all(size_t n)
{
	return cell_of(n).hold == HOLD_ALL;
}

/* Settings of the machine that cells may change. */
static const char * const settings[] = {
	"/proc/sys/kernel/core_pattern",
	"/proc/sys/kernel/numa_balancing",
	"/proc/sys/vm/compaction_proactiveness",
	"/proc/sys/vm/min_slab_ratio",
	"/proc/sys/vm/min_slab_ratio",
	"/sys/kernel/debug/sched/numa_balancing/scan_period_m*_ms",
	"/sys/kernel/mm/transparent_hugepage/enabled",
	"/sys/kernel/mm/transparent_hugepage/hugepages-*/enabled",
	"/sys/kernel/mm/transparent_hugepage/khugepaged/alloc_sleep_millisecs",
	"/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_swap",
	"/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan",
	"/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
	"/sys/kernel/mm/lru_gen/enabled",
	"/sys/kernel/mm/ksm/run",
	"/sys/kernel/mm/ksm/pages_to_scan",
	"/sys/kernel/mm/ksm/sleep_millisecs",
	"/sys/kernel/mm/ksm/smart_scan",
};

struct setting {
	char *name;
	char value[32];
};

static struct setting saved[64];

/* The value in force: all of it, or the word in brackets. */
static void read_setting(const char *name, char *value, size_t size)
{
	char line[128] = "", *word;
	FILE *f = fopen(name, "re");

	if (!f)
		return;
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	word = strchr(line, '[');
	word = word ? word + 1 : line;
	word[strcspn(word, "]\n")] = 0;
	snprintf(value, size, "%s", word);
}

static void save_settings(void)
{
	size_t i, j, nr = 0;
	glob_t paths;

	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		if (glob(settings[i], 0, NULL, &paths))
			continue;
		for (j = 0; j < paths.gl_pathc && nr < ARRAY_SIZE(saved); j++) {
			saved[nr].name = strdup(paths.gl_pathv[j]);
			read_setting(saved[nr].name, saved[nr].value,
				     sizeof(saved[nr].value));
			nr++;
		}
		globfree(&paths);
	}
}

static void restore_settings(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(saved) && saved[i].name; i++)
		write_file(saved[i].name, saved[i].value);
}

#define KHUGEPAGED_DIR	"/sys/kernel/mm/transparent_hugepage/khugepaged/"

/* A thread of the kernel whose name begins like that (and that is awake), or 0. */
static pid_t find_thread(const char *name, bool awake)
{
	char line[128], thread[32], state;
	pid_t pid, found = 0;
	glob_t paths;
	size_t i;

	if (glob("/proc/[0-9]*/stat", 0, NULL, &paths))
		return 0;
	for (i = 0; i < paths.gl_pathc && !found; i++) {
		FILE *f = fopen(paths.gl_pathv[i], "re");

		if (f && fgets(line, sizeof(line), f) &&
		    sscanf(line, "%d (%31[^)]) %c", &pid, thread, &state) == 3 &&
		    !strncmp(thread, name, strlen(name)) &&
		    (!awake || state != 'S'))
			found = pid;
		if (f)
			fclose(f);
	}
	globfree(&paths);
	return found;
}

/* Threads of the kernel that work for cells, and where they may run. */
static struct worker {
	const char *name;
	pid_t pid;
	cpu_set_t cpus;
} workers[] = {
	{ "ksmd" },
	{ "khugepaged" },
};

/*
 * They run when we wait for them: on our CPU that costs no calls from one to
 * the other, of which there is one for each page that is merged.
 */
static void take_workers_along(void)
{
	struct worker *worker;
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus))
		return;
	for (worker = workers; worker < workers + ARRAY_SIZE(workers); worker++) {
		worker->pid = find_thread(worker->name, false);
		if (!worker->pid ||
		    sched_getaffinity(worker->pid, sizeof(worker->cpus),
				      &worker->cpus) ||
		    sched_setaffinity(worker->pid, sizeof(cpus), &cpus))
			worker->pid = 0;
	}
}

static void let_workers_go(void)
{
	struct worker *worker;

	for (worker = workers; worker < workers + ARRAY_SIZE(workers); worker++)
		if (worker->pid)
			sched_setaffinity(worker->pid, sizeof(worker->cpus),
					  &worker->cpus);
}

static void wait_until_asleep(const char *name)
{
	while (find_thread(name, true))
		nap();
}

void put_khugepaged_to_sleep(void)
{
	/* That wakes it, for one more time. */
	write_file(KHUGEPAGED_DIR "scan_sleep_millisecs", "3600000");
	wait_until_asleep("khugepaged");
}

/*
 * khugepaged sleeps as long as it is told to, unless there was nothing to scan:
 * then the first who asks for huge pages wakes it. So be that one.
 */
static void ask_for_huge_page(void)
{
	size_t size = 2 * thp_size();
	char *p;

	if (!size)
		return;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p != MAP_FAILED)
		madvise(p, size, MADV_HUGEPAGE);
}

/* Nobody shall move or merge pages but those whom a cell asks to. */
static void keep_the_kernel_calm(void)
{
	take_workers_along();
	write_file("/proc/sys/vm/compaction_proactiveness", "0");
	wait_until_asleep("kcompactd");
	ask_for_huge_page();
	put_khugepaged_to_sleep();
}

static void end_cells(void)
{
	restore_settings();
	let_workers_go();
	/* They have been woken by that; let them not disturb the next program. */
	wait_until_asleep("kcompactd");
	wait_until_asleep("khugepaged");
}

static void begin_cells(void)
{
	int ret;

	stay_on_one_cpu();
	save_settings();
	ret = prepare_backings();
	if (ret)
		ksft_exit_fail_msg("no memory to begin with: %s\n",
				   strerror(-ret));
	keep_the_kernel_calm();
}

int matrix_main(const char *subject, const struct operation *ops,
		size_t nr_ops, int argc, char **argv)
{
	const struct cells cells = {
		.subject = subject,
		.nr = nr_ops * nr_backings * NR_HOLDS,
		.name = cell_name,
		.excluded = cell_excluded,
		.tell_excluded = cell_stands_for_all,
		.run = cell_run,
		.control = cell_control,
		.begin = begin_cells,
		.end = end_cells,
	};

	matrix_subject = subject;
	matrix_ops = ops;
	return cells_main(&cells, argc, argv);
}
