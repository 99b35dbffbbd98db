// SPDX-License-Identifier: GPL-2.0
/*
 * Whoever looks at page tables, or changes the protection in them, while a
 * device holds pages: what is seen must be right, and looking takes nothing
 */
#include <limits.h>
#include <sched.h>
#include <sys/syscall.h>

#include "../kselftest.h"
#include "devexcl_matrix.h"
#include "devexcl_scan.h"

/* In the pagemap's word of a swap entry: its type, and the offset above. */
#define SWAP_TYPE_BITS		5
#define PAGEMAP_RESERVED	(7ULL << 58)

#define PAGE_IDLE_BITMAP	"/sys/kernel/mm/page_idle/bitmap"

static uint64_t word_of_page(const struct cell *cell, size_t page)
{
	return pagemap_of(page_of(&cell->mem, page));
}

/* The frame of a page, be it present or exclusive. */
static uint64_t frame_of(const struct cell *cell, size_t page)
{
	uint64_t word = word_of_page(cell, page);

	return (word & PAGEMAP_PFN) >>
	       (word & PAGEMAP_PRESENT ? 0 : SWAP_TYPE_BITS);
}

/* Let somebody look at each page that the device holds. */
static const char *look_at_held(struct cell *cell,
				const char *(*look)(struct cell *cell,
						    size_t page))
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++)
		if (cell->held[page])
			TRY(look(cell, page));
	return NULL;
}

/* Remember the words of exclusive entries, to see that nobody changes them. */
static const char *remember_entries(struct cell *cell)
{
	uint64_t *words = calloc(cell->mem.pages, sizeof(*words));
	size_t page;

	cell->private = words;
	for (page = 0; page < cell->mem.pages; page++)
		if (cell->held[page])
			words[page] = word_of_page(cell, page);
	return NULL;
}

static const char *look_for_change(struct cell *cell, size_t page)
{
	const uint64_t *words = cell->private;
	uint64_t word = word_of_page(cell, page);

	if (word == words[page])
		return NULL;
	return fail("the exclusive entry of page %zu has changed from %#llx to %#llx",
		    page, (unsigned long long)words[page],
		    (unsigned long long)word);
}

/* Soft-dirty bits */

/* Pages that the device holds are (not) written to since the last look. */
static const char *held_are_soft_dirty(const struct cell *cell, bool dirty)
{
	const char *wrong;
	size_t page;

	for (page = 0; page < cell->mem.pages; page++) {
		if (!cell->held[page])
			continue;
		wrong = check_soft_dirty(&cell->mem, page, 1, dirty);
		if (wrong)
			return fail("%s", wrong);
	}
	return NULL;
}

static const char *look_for_refusal(struct cell *cell, size_t page)
{
	int ret = dev_add(&cell->dev, word_of(&cell->mem, page), 0, NULL);

	return ret == -EACCES ? NULL :
	       fail("the device may write to page %zu unnoticed", page);
}

/* Whoever writes from now on shall be noticed, the device as well. */
static const char *act_soft_dirty(struct cell *cell)
{
	TRY(held_are_soft_dirty(cell, true));
	if (!clear_soft_dirty())
		return skip("the kernel does not track soft-dirty pages");
	TRY(held_are_soft_dirty(cell, false));
	return look_at_held(cell, look_for_refusal);
}

static const char *write_with_cpu(struct cell *cell, size_t page)
{
	uint64_t *word = word_of(&cell->mem, page);

	WRITE_MEM(word, READ_MEM(word));
	return NULL;
}

/* All pages have been read since, which is no write; but the next one is. */
static const char *finish_soft_dirty_read(struct cell *cell)
{
	TRY(held_are_soft_dirty(cell, false));
	TRY(look_at_held(cell, write_with_cpu));
	return held_are_soft_dirty(cell, true);
}

static const char *look_at_next_write(struct cell *cell, size_t page)
{
	const struct mem *mem = &cell->mem;
	const char *wrong;

	TRY(must("acquire", dev_acquire_one(&cell->dev, page_of(mem, page))));
	wrong = check_soft_dirty(mem, page, 1, true);
	READ_MEM(word_of(mem, page));
	wrong = wrong ?: check_soft_dirty(mem, page, 1, true);
	return wrong ? fail("acquired again, %s", wrong) : NULL;
}

/* What the device writes counts, before and after the CPU has the page. */
static const char *finish_soft_dirty_write(struct cell *cell)
{
	return look_at_held(cell, look_at_next_write);
}

/* Referenced bits: of all pages, of anonymous and of mapped ones; and a peak. */
static const char *act_referenced(struct cell *cell)
{
	static const char * const hows[] = { "1", "2", "3", "5" };
	size_t i;

	TRY(remember_entries(cell));
	for (i = 0; i < ARRAY_SIZE(hows); i++)
		TRY(must("clear_refs", write_file("/proc/self/clear_refs",
						  hows[i])));
	return look_at_held(cell, look_for_change);
}

/* The pagemap, and what hangs on the frames that it names */

static const char *look_at_pagemap(struct cell *cell, size_t page)
{
	uint64_t word = word_of_page(cell, page);

	if ((word & (PAGEMAP_PRESENT | PAGEMAP_SWAP)) == PAGEMAP_SWAP &&
	    !(word & (PAGEMAP_FILE | PAGEMAP_UFFD_WP | PAGEMAP_RESERVED |
		      PAGEMAP_MMAP_EXCLUSIVE)))
		return NULL;
	return fail("the pagemap says %#llx of page %zu",
		    (unsigned long long)word, page);
}

static const char *act_pagemap(struct cell *cell)
{
	TRY(remember_entries(cell));
	TRY(look_at_held(cell, look_at_pagemap));
	return look_at_held(cell, look_for_change);
}

static const char *look_at_frame(struct cell *cell, size_t page)
{
	const uint64_t *words = cell->private;
	uint64_t frame = (words[page] & PAGEMAP_PFN) >> SWAP_TYPE_BITS;

	if (frame_of(cell, page) == frame)
		return NULL;
	return fail("page %zu is frame %#llx, but its exclusive entry was of %#llx",
		    page, (unsigned long long)frame_of(cell, page),
		    (unsigned long long)frame);
}

/* The CPU has the pages again: they are the ones that the entries named. */
static const char *finish_pagemap(struct cell *cell)
{
	if (cell->backing->traits & TRAIT_MOVING)
		return NULL;
	return look_at_held(cell, look_at_frame);
}

static const char *look_at_kernel_page(struct cell *cell, size_t page)
{
	bool counted = cell->dev.info.caps & DEVEXCL_CAP_MAPCOUNT;
	uint64_t must_be = KPF_ANON | (counted ? KPF_MMAP : 0);
	uint64_t must_not_be = KPF_BUDDY | KPF_NOPAGE | KPF_ZERO_PAGE;
	uint64_t flags = frame_flags(frame_of(cell, page));
	long count = frame_mapcount(frame_of(cell, page));

	if ((flags & must_be) != must_be || flags & must_not_be)
		return fail("page %zu, exclusive, has flags %#llx", page,
			    (unsigned long long)flags);
	if (count != counted)
		return fail("page %zu, exclusive, has %ld mappings, expected %d",
			    page, count, counted);
	return NULL;
}

static const char *act_kernel_page(struct cell *cell)
{
	return look_at_held(cell, look_at_kernel_page);
}

static const char *look_with_scan(struct cell *cell, size_t page)
{
	uint64_t soft_dirty = word_of_page(cell, page) & PAGEMAP_SOFT_DIRTY;
	struct page_region region = {};
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)page_of(&cell->mem, page),
		.end = (uintptr_t)page_of(&cell->mem, page + 1),
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_FILE | PAGE_IS_PRESENT |
			       PAGE_IS_SWAPPED | PAGE_IS_PFNZERO |
			       PAGE_IS_HUGE | PAGE_IS_SOFT_DIRTY,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int ret;

	ret = ioctl(fd, PAGEMAP_SCAN, &arg);
	close(fd);
	if (ret < 0 && errno == ENOTTY)
		return skip("no PAGEMAP_SCAN");
	TRY(must("PAGEMAP_SCAN", ret));
	if (ret != 1 || arg.walk_end != arg.end || region.start != arg.start)
		return fail("PAGEMAP_SCAN does not find page %zu", page);
	if ((region.categories & ~PAGE_IS_SOFT_DIRTY) != PAGE_IS_SWAPPED ||
	    !(region.categories & PAGE_IS_SOFT_DIRTY) != !soft_dirty)
		return fail("PAGEMAP_SCAN says %#llx of page %zu",
			    (unsigned long long)region.categories, page);
	return NULL;
}

static const char *act_scan(struct cell *cell)
{
	TRY(remember_entries(cell));
	TRY(look_at_held(cell, look_with_scan));
	return look_at_held(cell, look_for_change);
}

static const char *act_mincore(struct cell *cell)
{
	unsigned char *in_core = calloc(cell->mem.pages, 1);
	size_t page;

	TRY(must("mincore", mincore(cell->mem.p, cell->mem.size, in_core)));
	for (page = 0; page < cell->mem.pages; page++)
		if (cell->held[page] && !(in_core[page] & 1))
			return fail("mincore says that page %zu is not there",
				    page);
	free(in_core);
	return NULL;
}

/* Sums */

/**
 * struct pages - pages of the memory, as their entries say
 * @anon: in memory
 * @only_ours: of these, mapped by nobody else
 * @swapped: swapped out
 */
struct pages {
	long anon;
	long only_ours;
	long swapped;
};

static void count_pages(const struct cell *cell, struct pages *pages)
{
	bool zero = cell->backing->traits & TRAIT_ZERO;
	size_t page;

	memset(pages, 0, sizeof(*pages));
	for (page = 0; page < cell->mem.pages; page++) {
		uint64_t word = word_of_page(cell, page);

		if (entry_of(page_of(&cell->mem, page)) == ENTRY_EXCLUSIVE) {
			pages->anon++;
			pages->only_ours++;
		} else if (word & PAGEMAP_SWAP) {
			pages->swapped++;
		} else if (word & PAGEMAP_PRESENT && !zero) {
			pages->anon++;
			pages->only_ours += !!(word & PAGEMAP_MMAP_EXCLUSIVE);
		}
	}
}

/* A line of smaps, or the sum of two, is of so many pages. */
static const char *smaps_says(const struct cell *cell, const char *field,
			      const char *other, long pages)
{
	long kb = smaps_kb(&cell->mem, field);

	if (other)
		kb += smaps_kb(&cell->mem, other);
	if (kb == pages * (long)page_size() / 1024)
		return NULL;
	return fail("smaps says %s%s%s: %ld kB of %ld pages", field,
		    other ? " and " : "", other ?: "", kb, pages);
}

/* A field summed over a whole file of /proc, without using more memory. */
static long sum_of_field(const char *name, const char *field)
{
	static char text[1 << 16];
	ssize_t got = 0, size = 0;
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	long sum = 0;
	char *line;

	if (fd < 0)
		return -errno;
	memset(text, 0, sizeof(text));
	while (size < (ssize_t)sizeof(text) - 1 && got >= 0) {
		got = read(fd, text + size, sizeof(text) - 1 - size);
		if (got <= 0)
			break;
		size += got;
	}
	close(fd);
	for (line = text; (line = strstr(line, field)); line++)
		if (line > text && line[-1] == '\n')
			sum += strtol(line + strlen(field), NULL, 10);
	return sum;
}

/* The sum that the kernel makes is ours. */
static const char *rollup_agrees(const char *field)
{
	long sum, rollup;

	/* The first time may need memory. */
	sum_of_field("/proc/self/smaps", field);
	sum = sum_of_field("/proc/self/smaps", field);
	rollup = sum_of_field("/proc/self/smaps_rollup", field);
	if (sum == rollup)
		return NULL;
	return fail("smaps says %s %ld kB, but smaps_rollup %ld kB", field, sum,
		    rollup);
}

/* An exclusive page is resident, and anonymous, and not swapped out. */
static const char *act_smaps(struct cell *cell)
{
	struct pages pages;

	count_pages(cell, &pages);
	TRY(smaps_says(cell, "Rss", NULL, pages.anon));
	TRY(smaps_says(cell, "Anonymous", NULL, pages.anon));
	TRY(smaps_says(cell, "Swap", NULL, pages.swapped));
	TRY(rollup_agrees("Anonymous:"));
	return rollup_agrees("Swap:");
}

/* ... and a private one, because else no device could have it. */
static const char *act_smaps_private(struct cell *cell)
{
	struct pages pages;

	count_pages(cell, &pages);
	TRY(smaps_says(cell, "Private_Clean", "Private_Dirty",
		       pages.only_ours));
	return smaps_says(cell, "Shared_Clean", "Shared_Dirty",
			  pages.anon - pages.only_ours);
}

/* The number behind a word in the line of numa_maps that begins so. */
static long numa_maps_number(const void *p, const char *field)
{
	char line[1024], *at = NULL;
	FILE *f = fopen("/proc/self/numa_maps", "re");
	long number = 0;

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (strtoull(line, NULL, 16) != (uintptr_t)p)
			continue;
		at = strstr(line, field);
		if (at)
			number = strtol(at + strlen(field), NULL, 10);
	}
	fclose(f);
	return number;
}

/* An exclusive page lies on a node, and is counted there. */
static const char *act_numa_maps(struct cell *cell)
{
	struct pages pages;
	long says;

	if (access("/proc/self/numa_maps", R_OK))
		return skip("no numa_maps");
	count_pages(cell, &pages);
	says = numa_maps_number(cell->mem.p, " anon=");
	if (says != pages.anon)
		return fail("numa_maps says anon=%ld of %ld pages", says,
			    pages.anon);
	says = numa_maps_number(cell->mem.p, " N0=") +
	       numa_maps_number(cell->mem.p, " N1=");
	if (says != pages.anon)
		return fail("numa_maps has %ld pages on nodes of %ld", says,
			    pages.anon);
	return NULL;
}

/* Idle pages */

/* The frame whose bit speaks of this page: the first one of its folio. */
static const char *idle_frame(struct cell *cell, size_t page, uint64_t *frame)
{
	struct devexcl_page info;

	TRY(must("query", dev_query(&cell->dev, page_of(&cell->mem, page), 1,
				    &info)));
	*frame = frame_of(cell, page) & ~((1ULL << info.order) - 1);
	return NULL;
}

/*
 * Is that frame idle? If memory does not end with a word of the bitmap, the
 * last word cannot be read, and nobody knows.
 */
static bool has_idle_state(uint64_t frame, bool idle)
{
	uint64_t bits;
	ssize_t got;
	int fd;

	fd = open(PAGE_IDLE_BITMAP, O_RDONLY | O_CLOEXEC);
	got = pread(fd, &bits, sizeof(bits), frame / 64 * sizeof(bits));
	close(fd);
	return !got || (got == sizeof(bits) && (bits >> (frame % 64) & 1) == idle);
}

static const char *look_make_idle(struct cell *cell, size_t page)
{
	int fd = open(PAGE_IDLE_BITMAP, O_WRONLY | O_CLOEXEC);
	uint64_t frame, bits;
	ssize_t done;

	TRY(must(PAGE_IDLE_BITMAP, fd));
	TRY(idle_frame(cell, page, &frame));
	bits = 1ULL << (frame % 64);
	done = pwrite(fd, &bits, sizeof(bits), frame / 64 * sizeof(bits));
	close(fd);
	return must("make page idle", done);
}

static const char *look_if_idle(struct cell *cell, size_t page)
{
	uint64_t frame;

	TRY(idle_frame(cell, page, &frame));
	return has_idle_state(frame, true) ? NULL :
	       fail("page %zu is exclusive, and not idle", page);
}

/* With a device having the page the CPU does not use it. */
static const char *act_page_idle(struct cell *cell)
{
	if (access(PAGE_IDLE_BITMAP, W_OK))
		return skip("idle pages are not tracked");
	/* Only pages on an LRU list are. */
	drain_lru_batches();
	TRY(remember_entries(cell));
	TRY(look_at_held(cell, look_make_idle));
	TRY(look_at_held(cell, look_if_idle));
	return look_at_held(cell, look_for_change);
}

static const char *look_if_used(struct cell *cell, size_t page)
{
	READ_MEM(word_of(&cell->mem, page));
	return has_idle_state(frame_of(cell, page), false) ? NULL :
	       fail("page %zu was read, and is idle", page);
}

/* With the CPU having read it, it does. */
static const char *finish_page_idle(struct cell *cell)
{
	return look_at_held(cell, look_if_used);
}

/* DAMON: a thread of the kernel looks all the time which pages are used */

#define DAMON		"/sys/kernel/mm/damon/admin/kdamonds/"
#define DAMON_CONTEXT	"0/contexts/0/"
#define DAMON_TARGET	DAMON_CONTEXT "targets/0/"
#define DAMON_SCHEME	DAMON_CONTEXT "schemes/0/"
#define DAMON_PATTERN	DAMON_SCHEME "access_pattern/"
/* Times that it has to look, and that we ask how often it has. */
#define DAMON_LOOKS	8
#define DAMON_QUERIES	2000

/* Write a number, or the text that stands before it, to a file of DAMON. */
static const char *tell_damon(const char *file, const char *text,
			      unsigned long number)
{
	char name[160], value[32];

	snprintf(name, sizeof(name), DAMON "%s", file);
	snprintf(value, sizeof(value), "%lu", number);
	return must(file, write_file(name, text ?: value));
}

/* What to look at: all is to be reported, and nothing to be done. */
static const char *set_up_damon(const char *how, unsigned long start,
				unsigned long end)
{
	TRY(tell_damon("nr_kdamonds", NULL, 1));
	TRY(tell_damon("0/contexts/nr_contexts", NULL, 1));
	TRY(tell_damon(DAMON_CONTEXT "operations", how, 0));
	TRY(tell_damon(DAMON_CONTEXT "monitoring_attrs/intervals/sample_us",
		       NULL, 2000));
	TRY(tell_damon(DAMON_CONTEXT "monitoring_attrs/intervals/aggr_us",
		       NULL, 4000));
	TRY(tell_damon(DAMON_CONTEXT "targets/nr_targets", NULL, 1));
	if (!strcmp(how, "vaddr"))
		TRY(tell_damon(DAMON_TARGET "pid_target", NULL, getpid()));
	TRY(tell_damon(DAMON_TARGET "regions/nr_regions", NULL, 1));
	TRY(tell_damon(DAMON_TARGET "regions/0/end", NULL, end));
	TRY(tell_damon(DAMON_TARGET "regions/0/start", NULL, start));
	TRY(tell_damon(DAMON_CONTEXT "schemes/nr_schemes", NULL, 1));
	TRY(tell_damon(DAMON_SCHEME "action", "stat", 0));
	TRY(tell_damon(DAMON_PATTERN "sz/max", NULL, ULONG_MAX));
	TRY(tell_damon(DAMON_PATTERN "nr_accesses/max", NULL, UINT_MAX));
	return tell_damon(DAMON_PATTERN "age/max", NULL, UINT_MAX);
}

static const char *wait_for_damon(void)
{
	int i;

	for (i = 0; i < DAMON_QUERIES; i++) {
		TRY(tell_damon("0/state", "update_schemes_stats", 0));
		if (read_number(DAMON DAMON_SCHEME "stats/nr_tried") >=
		    DAMON_LOOKS)
			return NULL;
		sched_yield();
	}
	return fail("DAMON does not look");
}

static const char *run_damon(const char *how, unsigned long start,
			     unsigned long end)
{
	const char *ret = set_up_damon(how, start, end);

	if (!ret) {
		ret = tell_damon("0/state", "on", 0) ?: wait_for_damon();
		write_file(DAMON "0/state", "off");
	}
	write_file(DAMON "nr_kdamonds", "0");
	return ret;
}

/* By addresses: what is not present is not looked at. */
static const char *act_damon_vaddr(struct cell *cell)
{
	if (access(DAMON "nr_kdamonds", W_OK))
		return skip("no DAMON");
	TRY(remember_entries(cell));
	TRY(run_damon("vaddr", (uintptr_t)cell->mem.p,
		      (uintptr_t)cell->mem.p + cell->mem.size));
	return look_at_held(cell, look_for_change);
}

/*
 * By frames, one of which the device holds: that is found to be idle. Its
 * exclusive entry, taken for a present one, would be of quite another frame.
 */
static const char *look_with_damon(struct cell *cell, size_t page)
{
	uint64_t frame = frame_of(cell, page);
	uint64_t other = frame >> 3;
	uint64_t before = frame_flags(other);

	TRY(run_damon("paddr", frame * page_size(),
		      (frame + 1) * page_size()));
	if (!(frame_flags(frame) & KPF_IDLE))
		return fail("DAMON has not made page %zu idle", page);
	return (before ^ frame_flags(other)) & KPF_IDLE ?
	       fail("DAMON has changed frame %#llx instead of %#llx",
		    (unsigned long long)other, (unsigned long long)frame) :
	       NULL;
}

static const char *act_damon_paddr(struct cell *cell)
{
	size_t page;

	if (access(DAMON "nr_kdamonds", W_OK))
		return skip("no DAMON");
	drain_lru_batches();
	TRY(remember_entries(cell));
	for (page = 0; page < cell->mem.pages; page++)
		if (cell->held[page])
			break;
	TRY(look_with_damon(cell, page));
	return look_at_held(cell, look_for_change);
}

/* Protection: as the device may write, it has to go each time. */

/* With @arg, and with all rights again. */
static const char *act_mprotect(struct cell *cell)
{
	TRY(must("mprotect", mprotect(target(cell), target_size(cell),
				      cell->op->arg)));
	return must("mprotect", mprotect(target(cell), target_size(cell),
					 PROT_READ | PROT_WRITE));
}

/* Locked memory that becomes writable is faulted in at once. */
static struct expect expect_mprotect(const struct cell *cell)
{
	struct expect expect = {
		TAKEN, CAUSE(PROTECTION_VMA), ENTRY_IS(EXCLUSIVE), DATA_KEPT,
		.splits = SPLITS_VMA
	};

	if (cell->backing->traits & TRAIT_MLOCK)
		expect.entries = ENTRY_IS(PRESENT);
	return expect;
}

/* Another key, and none again. */
static const char *act_pkey_mprotect(struct cell *cell)
{
	int key = syscall(SYS_pkey_alloc, 0, 0);

	if (key < 0)
		return skip("no memory protection keys");
	TRY(must("pkey_mprotect",
		 syscall(SYS_pkey_mprotect, target(cell), target_size(cell),
			 PROT_READ | PROT_WRITE, key)));
	TRY(must("pkey_mprotect",
		 syscall(SYS_pkey_mprotect, target(cell), target_size(cell),
			 PROT_READ | PROT_WRITE, 0)));
	return must("pkey_free", syscall(SYS_pkey_free, key));
}

/* Soft-dirty bits are cleared in all of an address space. */
#define REVOKED_BY_SOFT_DIRTY						\
	{ TAKEN, CAUSE(SOFT_DIRTY), ENTRY_IS(EXCLUSIVE), DATA_KEPT,	\
	  .reach = REACH_ALL, .soft_clean = true }

#define A_FEW_WILL_DO							\
	.needs = { TRAIT_TYPICAL | TRAIT_FORK | TRAIT_MLOCK,		\
		   "a few will do: DAMON takes its time" }

#define NOTHING_MOVES							\
	.except = { TRAIT_MOVING, "what moves is on its way at times" }

static const struct operation ops[] = {
	{
		.name = "soft_dirty",
		.act = act_soft_dirty,
		.expect = REVOKED_BY_SOFT_DIRTY,
	}, {
		.name = "soft_dirty_read",
		.act = act_soft_dirty, .finish = finish_soft_dirty_read,
		.expect = REVOKED_BY_SOFT_DIRTY,
	}, {
		.name = "soft_dirty_write",
		.act = act_soft_dirty, .finish = finish_soft_dirty_write,
		.expect = REVOKED_BY_SOFT_DIRTY,
	}, {
		.name = "referenced",
		.act = act_referenced,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "pagemap",
		.act = act_pagemap, .finish = finish_pagemap,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "pagemap_scan",
		.act = act_scan,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "kernel_page",
		.act = act_kernel_page,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "mincore",
		.act = act_mincore,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "smaps",
		.act = act_smaps,
		.expect = DEVICE_KEEPS,
		NOTHING_MOVES,
	}, {
		.name = "smaps_private",
		.act = act_smaps_private,
		.expect = DEVICE_KEEPS,
		NOTHING_MOVES,
	}, {
		.name = "numa_maps",
		.act = act_numa_maps,
		.expect = DEVICE_KEEPS,
		NOTHING_MOVES,
	}, {
		.name = "page_idle",
		.act = act_page_idle, .finish = finish_page_idle,
		.expect = DEVICE_KEEPS,
		NOTHING_MOVES,
	}, {
		.name = "damon_vaddr",
		.act = act_damon_vaddr,
		.expect = DEVICE_KEEPS,
		A_FEW_WILL_DO,
	}, {
		.name = "damon_paddr",
		.act = act_damon_paddr,
		.expect = DEVICE_KEEPS,
		A_FEW_WILL_DO,
	}, {
		.name = "mprotect_none",
		.act = act_mprotect, .arg = PROT_NONE,
		.expect_for = expect_mprotect,
	}, {
		.name = "mprotect_read",
		.act = act_mprotect, .arg = PROT_READ,
		.expect_for = expect_mprotect,
	}, {
		.name = "pkey_mprotect",
		.act = act_pkey_mprotect,
		.expect = { TAKEN, CAUSE(PROTECTION_VMA), ENTRY_IS(EXCLUSIVE),
			    DATA_KEPT, .splits = SPLITS_VMA },
	},
};

int main(int argc, char **argv)
{
	return matrix_main("watch", ops, ARRAY_SIZE(ops), argc, argv);
}
