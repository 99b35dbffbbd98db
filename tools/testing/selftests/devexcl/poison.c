// SPDX-License-Identifier: GPL-2.0
/*
 * Memory errors in pages that a device holds
 *
 * A poisoned page is taken from the device, and unmapped: who touches it gets
 * a signal, and the device an error. Nothing happens to its neighbours.
 */
#include <signal.h>
#include <sys/prctl.h>

#include "../kselftest.h"
#include "devexcl_matrix.h"

#define HWPOISON_DIR		"/sys/kernel/debug/hwpoison/"

/* The largest target. */
#define MAX_POISONED		8

/* Page frames that were poisoned, to be healed in any case. */
static uint64_t poisoned[MAX_POISONED];
static size_t nr_poisoned;

/* The signal that told of an error. */
static volatile sig_atomic_t told_code;
static void * volatile told_of;

static void note_signal(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	told_code = info->si_code;
	told_of = info->si_addr;
}

static const char *prepare_poison(struct cell *cell)
{
	struct sigaction action = {
		.sa_sigaction = note_signal,
		.sa_flags = SA_SIGINFO,
	};

	(void)cell;
	if (access(HWPOISON_DIR "corrupt-pfn", W_OK))
		return skip("no memory errors can be injected here");
	sigaction(SIGBUS, &action, NULL);
	return NULL;
}

/* We want to know of an error at once, not when we touch the page. */
static const char *prepare_early_kill(struct cell *cell)
{
	TRY(must("prctl", prctl(PR_MCE_KILL, PR_MCE_KILL_SET,
				PR_MCE_KILL_EARLY, 0, 0)));
	return prepare_poison(cell);
}

/* Where the page is in memory; the device knows it if it holds the page. */
static const char *find_frame(struct cell *cell, size_t page, uint64_t *pfn)
{
	struct devexcl_page info;

	if (!cell->held[page]) {
		/* Written to, lest it be the zero page. */
		WRITE_MEM(word_of(&cell->mem, page), pattern_word(page, 0));
		*pfn = pagemap_of(page_of(&cell->mem, page)) & PAGEMAP_PFN;
		return NULL;
	}
	TRY(must("query", dev_query(&cell->dev, page_of(&cell->mem, page), 1,
				    &info)));
	*pfn = info.pfn;
	return NULL;
}

static int write_frame(const char *file, uint64_t pfn)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)pfn);
	return write_file(file, text);
}

static void heal_memory(void)
{
	size_t i;

	for (i = 0; i < nr_poisoned; i++)
		write_frame(HWPOISON_DIR "unpoison-pfn", poisoned[i]);
}

/* Nobody gets at a poisoned page any more. */
static const char *check_poisoned(struct cell *cell, size_t page)
{
	uint64_t *word = word_of(&cell->mem, page);
	uint64_t value;
	int code, ret;

	code = cpu_read(word, &value);
	if (code != BUS_MCEERR_AR)
		return fail("page %zu, poisoned, can be read: code %d, expected %d",
			    page, code, BUS_MCEERR_AR);
	code = cpu_write(word, 0);
	if (code != BUS_MCEERR_AR)
		return fail("page %zu, poisoned, can be written: code %d, expected %d",
			    page, code, BUS_MCEERR_AR);
	ret = dev_acquire_one(&cell->dev, word);
	if (ret != -EHWPOISON)
		return fail("page %zu, poisoned, is acquired: %s", page,
			    ret ? strerror(-ret) : "no error");
	return NULL;
}

/* By address with the advice @arg; or by page frame, as machines do it. */
static const char *poison_page(struct cell *cell, size_t page)
{
	char *p = page_of(&cell->mem, page);
	uint64_t pfn;

	TRY(find_frame(cell, page, &pfn));
	poisoned[nr_poisoned++] = pfn;
	if (cell->op->arg)
		return must("madvise", madvise(p, page_size(), cell->op->arg));
	drain_lru_batches();
	return must("corrupt-pfn", write_frame(HWPOISON_DIR "corrupt-pfn",
					       pfn));
}

static const char *poison_target(struct cell *cell, int want_code)
{
	size_t page;

	for (page = cell->first; page < cell->first + cell->pages; page++) {
		char *p = page_of(&cell->mem, page);

		told_code = 0;
		told_of = NULL;
		TRY(poison_page(cell, page));
		/* Splitting a large folio unmaps it before anybody is told. */
		if (want_code && !(cell->backing->traits & TRAIT_LARGE) &&
		    (told_code != want_code || told_of != p))
			return fail("page %zu: signal of code %d at %p, expected %d at %p",
				    page, told_code, told_of, want_code, p);
		TRY(check_poisoned(cell, page));
	}
	return NULL;
}

static const char *act_poison(struct cell *cell)
{
	const char *ret = poison_target(cell, 0);

	heal_memory();
	return ret;
}

static const char *act_poison_early(struct cell *cell)
{
	const char *ret = poison_target(cell, BUS_MCEERR_AO);

	heal_memory();
	return ret;
}

static const struct operation ops[] = {
	{
		.name = "madv_hwpoison",
		.arg = MADV_HWPOISON,
		.prepare = prepare_poison,
		.act = act_poison,
		.expect = { TAKEN, CAUSE_FAULT | CAUSE(CLEAR), ENTRY_IS(SWAP),
			    DATA_GONE, .splits = SPLITS_FOLIO },
		.except = { TRAIT_MOVING | TRAIT_ALIKE,
			    "it takes long, and others are like it" },
	}, {
		.name = "hwpoison_frame",
		.prepare = prepare_poison,
		.act = act_poison,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(SWAP), DATA_GONE,
			    .splits = SPLITS_FOLIO },
		.except = { TRAIT_MOVING | TRAIT_ALIKE,
			    "it takes long, and others are like it" },
	}, {
		.name = "hwpoison_frame_early",
		.prepare = prepare_early_kill,
		.act = act_poison_early,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(SWAP), DATA_GONE,
			    .splits = SPLITS_FOLIO },
		.except = { TRAIT_MOVING | TRAIT_LARGE,
			    "of a large folio that is split nobody is told" },
	},
};

int main(int argc, char **argv)
{
	return matrix_main("poison", ops, ARRAY_SIZE(ops), argc, argv);
}
