/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a test program of the aperture includes: the harness, and the claims of
 * devexcl_aperture.h in a form that fails the test at the line that makes them
 *
 * To be included once in a program.
 */
#ifndef _DEVEXCL_APERTURE_TEST_H
#define _DEVEXCL_APERTURE_TEST_H

#include "devexcl_test.h"
#include "devexcl_aperture.h"

/* For a fixture's setup: open the device. Skips the test if there is none. */
static inline void setup_aperture(struct __test_metadata *_metadata,
				  struct aperture *ap)
{
	int ret = aperture_open(ap, false);

	if (ret == -ENOENT || ret == -ENXIO)
		SKIP_SETUP("no /dev/devexcl_aperture: is test_devexcl_aperture loaded?");
	if (ret == -EACCES)
		SKIP_SETUP("/dev/devexcl_aperture is for root only");
	ASSERT_EQ(0, ret);
}

#define expect_kind(ap, mem, page, kind)				\
	expect_claim(check_kind(ap, mem, page, DEVEXCL_ENTRY_##kind))

#define expect_flags(ap, mem, page, flags, set)				\
	expect_claim(check_flags(ap, mem, page, flags, set))

#define expect_caching(ap, mem, page, caching)				\
	expect_claim(check_caching(ap, mem, page, caching))

#define expect_pfn(ap, mem, page, pfn)					\
	expect_claim(check_pfn(ap, mem, page, pfn))

/* Nothing is mapped at a page. */
#define expect_none(ap, mem, page)	expect_kind(ap, mem, page, NONE)

/* A word of the object is mapped and holds this. */
#define expect_word(mem, page, value)					\
	ASSERT_EQ(value, READ_MEM(word_of(mem, page)))

#endif /* _DEVEXCL_APERTURE_TEST_H */
