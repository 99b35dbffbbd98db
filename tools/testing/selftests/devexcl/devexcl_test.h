/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a test program includes: the harness, and the claims of
 * devexcl_util.h in a form that fails the test at the line that makes them
 *
 * To be included once in a program, as kselftest_harness.h is.
 */
#ifndef _DEVEXCL_TEST_H
#define _DEVEXCL_TEST_H

#include "devexcl_harness.h"
#include "devexcl_util.h"

/*
 * A test that finds nothing wrong must have been able to: with the environment
 * variable DEVEXCL_BROKEN, a mask of DEVEXCL_BROKEN_* modes, every test works
 * with a driver that makes these mistakes. (But a test that calls dev_inject()
 * says itself which ones.)
 */
static inline int break_driver(struct dev *dev)
{
	const char *broken = getenv("DEVEXCL_BROKEN");

	return broken ? dev_inject(dev, strtoul(broken, NULL, 0), 0) : 0;
}

/*
 * For a fixture's setup: open device @n. Skips the test if there is none.
 */
static inline void setup_device(struct __test_metadata *_metadata,
				struct dev *dev, unsigned int n)
{
	int ret = dev_open(dev, n);

	if (ret == -ENOENT || ret == -ENXIO)
		SKIP_SETUP("no /dev/devexcl%u: is test_devexcl loaded?", n);
	if (ret == -EACCES)
		SKIP_SETUP("/dev/devexcl%u is for root only", n);
	ASSERT_EQ(0, ret);
	avoid_numa_balancing();
	ASSERT_EQ(0, calibrate_exclusive_entry(dev));
	ASSERT_EQ(0, break_driver(dev));
}

/* Private anonymous base pages, filled, not mirrored. */
static inline void setup_memory(struct __test_metadata *_metadata,
				struct mem *mem, size_t pages)
{
	ASSERT_EQ(0, mem_map(mem, pages));
}

/* The same, mirrored by @dev. */
static inline void setup_mirrored(struct __test_metadata *_metadata,
				  struct dev *dev, struct mem *mem,
				  size_t pages)
{
	setup_memory(_metadata, mem, pages);
	ASSERT_EQ(0, dev_mirror(dev, mem->p, mem->size));
	dev_forget_events(dev);
}

#define expect_claim(claim)						\
do {									\
	const char *_wrong = (claim);					\
									\
	ASSERT_EQ(NULL, _wrong)						\
		TH_LOG("%s", _wrong);					\
} while (0)

/* The pages hold the pattern that fill_mem() put there. */
#define expect_data(mem, first, pages)					\
	expect_claim(check_data(mem, first, pages))

/* The page table entries are of this kind. */
#define expect_entries(mem, first, pages, entry)			\
	expect_claim(check_entries(mem, first, pages, entry))

/* The device holds the pages, and the CPU does not have them. */
#define expect_held(dev, mem, first, pages)				\
do {									\
	expect_claim(check_held(dev, mem, first, pages, true));		\
	expect_entries(mem, first, pages, ENTRY_EXCLUSIVE);		\
} while (0)

/* The device does not hold the pages. */
#define expect_not_held(dev, mem, first, pages)				\
	expect_claim(check_held(dev, mem, first, pages, false))

/*
 * Since the last look exactly these pages were taken from the device, each
 * once and for one of these causes (bits), and no others.
 */
#define expect_taken(dev, mem, first, pages, causes)			\
	expect_claim(check_taken(dev, mem, first, pages, causes))

/* Nothing was taken. */
#define expect_nothing_taken(dev, mem)	expect_taken(dev, mem, 0, 0, 0)

/*
 * The end of a test: nothing in the memory is exclusive, and each page is
 * mapped once, by us, and referenced by that mapping only. Private memory of
 * one process only; the pages are acquired and touched on the way.
 */
#define expect_references(dev, mem)					\
	expect_claim(check_references(dev, mem))

/* Acquire pages, and see that it worked. */
#define acquire_pages(dev, mem, first, pages)				\
do {									\
	ASSERT_EQ(0, dev_acquire_all(dev, page_of(mem, first), pages));	\
	expect_held(dev, mem, first, pages);				\
	dev_forget_events(dev);						\
} while (0)

#endif /* _DEVEXCL_TEST_H */
