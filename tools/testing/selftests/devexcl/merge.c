// SPDX-License-Identifier: GPL-2.0
/*
 * Whoever merges pages, by contents or into huge pages, while a device holds
 * some of them
 */

#include "../kselftest.h"
#include "devexcl_matrix.h"

#define KSM_DIR		"/sys/kernel/mm/ksm/"
#define KHUGEPAGED_DIR	"/sys/kernel/mm/transparent_hugepage/khugepaged/"

/* Wait until a daemon has been through all of memory so many times. */
static const char *wait_for_scans(const char *counter, long scans)
{
	long begin = read_number(counter);

	TRY(must(counter, begin));
	while (read_number(counter) < begin + scans)
		nap();
	return NULL;
}

/* Another region with the very contents of ours, the device's among them. */
static const char *make_twin(struct cell *cell, struct mem *twin)
{
	size_t page, word;

	TRY(must("mmap", mem_map(twin, cell->mem.pages)));
	for (page = 0; page < cell->mem.pages; page++)
		for (word = 0; word < page_size() / sizeof(uint64_t); word++)
			word_of(twin, page)[word] =
				expected_word(cell, page, word);
	return must("madvise", madvise(twin->p, twin->size, MADV_MERGEABLE));
}

static const char *ksmd_scans(const char *how)
{
	const char *ret;

	write_file(KSM_DIR "pages_to_scan", "10000");
	TRY(start_ksmd(how));
	/* Once to see the contents, once to see that they stay, and once more. */
	ret = wait_for_scans(KSM_DIR "full_scans", 4);
	stop_ksmd();
	return ret;
}

/* ksmd finds pages with the contents of ours, and merges what it may. */
static const char *act_ksm(struct cell *cell)
{
	struct mem twin;

	if (access(KSM_DIR "run", W_OK))
		return skip("no KSM");
	TRY(make_twin(cell, &twin));
	TRY(must("madvise", madvise(cell->mem.p, cell->mem.size,
				    MADV_MERGEABLE)));
	TRY(ksmd_scans("1"));
	/* From here on everybody has his own again. */
	munmap(twin.p, twin.size);
	return NULL;
}

/* Everything that was ever merged is to be taken apart. */
static const char *act_ksm_unmerge_all(struct cell *cell)
{
	const char *ret = must("unmerge", write_file(KSM_DIR "run", "2"));

	(void)cell;
	write_file(KSM_DIR "run", "0");
	return ret;
}

/* khugepaged, which may find @arg swapped-out pages in a huge page. */
static const char *act_khugepaged(struct cell *cell)
{
	char most[16];
	const char *ret;

	snprintf(most, sizeof(most), "%lu", cell->op->arg);
	TRY(must("max_ptes_swap", write_file(KHUGEPAGED_DIR "max_ptes_swap",
					     most)));
	write_file(KHUGEPAGED_DIR "pages_to_scan", "100000");
	write_file(KHUGEPAGED_DIR "alloc_sleep_millisecs", "0");
	write_file(KHUGEPAGED_DIR "scan_sleep_millisecs", "0");
	/* The first time may have begun before us. */
	ret = wait_for_scans(KHUGEPAGED_DIR "full_scans", 3);
	put_khugepaged_to_sleep();
	return ret;
}

#define LIKE_A_HUGE_PAGE						\
	.needs = { TRAIT_PMD_SIZE, "smaller than a PMD maps" }

static const struct operation ops[] = {
	{
		.name = "ksm",
		.act = act_ksm,
		.expect = DEVICE_KEEPS,
		.except = { TRAIT_LARGE | TRAIT_MOVING,
			    "a large folio is split first; what moves does not settle" },
	}, {
		.name = "ksm_unmerge_all",
		.act = act_ksm_unmerge_all,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "khugepaged",
		.act = act_khugepaged, .arg = 64,
		.expect = { TAKEN, CAUSE_FAULT | CAUSE(CLEAR),
			    ENTRY_IS(PRESENT), DATA_KEPT,
			    .neighbours_too = true },
		LIKE_A_HUGE_PAGE,
	}, {
		.name = "khugepaged_told_not_to",
		.act = act_khugepaged, .arg = 0,
		.expect = DEVICE_KEEPS,
		LIKE_A_HUGE_PAGE,
	},
};

int main(int argc, char **argv)
{
	return matrix_main("merge", ops, ARRAY_SIZE(ops), argc, argv);
}
