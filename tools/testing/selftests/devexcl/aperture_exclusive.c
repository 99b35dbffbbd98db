// SPDX-License-Identifier: GPL-2.0
/*
 * Where the two devices meet: device-exclusive access to what drivers map
 *
 * Pages of a driver cannot be had: refused, and nothing has happened. What a
 * write to a private mapping of them made is ordinary memory, and can; but
 * nothing is looked up in a PFN map, whatever it has got.
 */
#include "devexcl_aperture_test.h"

#define PAGES	4

/**
 * struct row - a mapping, and whether its pages can be acquired
 * @name: for messages
 * @vma: what the mapping is
 * @map: what mmap() inserts
 * @insert: else how pages are inserted
 * @create_flags: DEVEXCL_CREATE_*
 * @policy_flags: DEVEXCL_POLICY_*
 * @map_flags: MAP_SHARED or MAP_PRIVATE
 * @error: of ACQUIRE
 */
struct row {
	const char *name;
	enum devexcl_vma vma;
	enum devexcl_map map;
	enum devexcl_insert insert;
	uint32_t create_flags;
	uint32_t policy_flags;
	int map_flags;
	int error;
};

static const struct row rows[] = {
	{
		.name = "PFN map",
		.vma = DEVEXCL_VMA_PFN,
		.insert = DEVEXCL_INSERT_PFN,
		.map_flags = MAP_SHARED,
		.error = -EFAULT,
	}, {
		.name = "PFN map of remap_pfn_range()",
		.map = DEVEXCL_MAP_REMAP_PFN,
		.map_flags = MAP_SHARED,
		.error = -EFAULT,
	}, {
		.name = "private PFN map",
		.map = DEVEXCL_MAP_REMAP_PFN,
		.map_flags = MAP_PRIVATE,
		.error = -EFAULT,
	}, {
		.name = "mixed map, PFN",
		.vma = DEVEXCL_VMA_MIXED,
		.insert = DEVEXCL_INSERT_MIXED,
		.map_flags = MAP_SHARED,
		.error = -EFAULT,
	}, {
		.name = "mixed map, page",
		.vma = DEVEXCL_VMA_MIXED,
		.insert = DEVEXCL_INSERT_PAGE,
		.map_flags = MAP_SHARED,
		.error = -EOPNOTSUPP,
	}, {
		.name = "pages that mmap() inserted",
		.map = DEVEXCL_MAP_INSERT_PAGES,
		.map_flags = MAP_SHARED,
		.error = -EOPNOTSUPP,
	}, {
		.name = "zero page in a shared map",
		.vma = DEVEXCL_VMA_MIXED,
		.insert = DEVEXCL_INSERT_MIXED,
		.create_flags = DEVEXCL_CREATE_VM_IO |
				DEVEXCL_CREATE_PAGE_MKWRITE |
				DEVEXCL_CREATE_PFN_MKWRITE,
		.policy_flags = DEVEXCL_POLICY_ZERO,
		.map_flags = MAP_SHARED,
		.error = -EFAULT,
	}, {
		.name = "private mixed map of IO",
		.vma = DEVEXCL_VMA_MIXED,
		.insert = DEVEXCL_INSERT_MIXED,
		.create_flags = DEVEXCL_CREATE_VM_IO,
		.map_flags = MAP_PRIVATE,
		.error = -EFAULT,
	}, {
		.name = "private mixed map, PFN",
		.vma = DEVEXCL_VMA_MIXED,
		.insert = DEVEXCL_INSERT_MIXED,
		.map_flags = MAP_PRIVATE,
	}, {
		.name = "private mixed map, page",
		.vma = DEVEXCL_VMA_MIXED,
		.insert = DEVEXCL_INSERT_PAGE,
		.map_flags = MAP_PRIVATE,
	}, {
		.name = "private pages that mmap() inserted",
		.map = DEVEXCL_MAP_INSERT_PAGES,
		.map_flags = MAP_PRIVATE,
	}, {
		.name = "private map of the zero page",
		.vma = DEVEXCL_VMA_MIXED,
		.insert = DEVEXCL_INSERT_MIXED,
		.policy_flags = DEVEXCL_POLICY_ZERO,
		.map_flags = MAP_PRIVATE,
	}, {
		.name = "private map of the zero page, page",
		.vma = DEVEXCL_VMA_MIXED,
		.insert = DEVEXCL_INSERT_PAGE,
		.policy_flags = DEVEXCL_POLICY_ZERO,
		.map_flags = MAP_PRIVATE,
	},
};

#define for_each_row(row)						\
	for (row = rows; row < rows + ARRAY_SIZE(rows); row++)

FIXTURE(exclusive) {
	struct dev dev;
	struct aperture ap;
	struct object obj;
	struct mem mem;
};

FIXTURE_SETUP(exclusive)
{
	setup_device(_metadata, &self->dev, 0);
	setup_aperture(_metadata, &self->ap);
}

FIXTURE_TEARDOWN(exclusive)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
	dev_close(&self->dev);
}

/* A new object, mapped anew, and mirrored by the other device. */
static int map_row(FIXTURE_DATA(exclusive) *self, const struct row *row)
{
	const struct devexcl_aperture_create like = {
		.flags = row->create_flags,
		.pages = PAGES,
		.placement = DEVEXCL_PLACE_BUFFER,
		.vma = row->vma,
		.map = row->map,
	};
	int ret = 0;

	if (self->mem.p)
		ret = dev_unmirror(&self->dev, self->mem.p, self->mem.size);
	mem_unmap(&self->mem);
	self->mem = (struct mem) {};
	if (!ret)
		ret = object_create(&self->ap, &self->obj, &like);
	if (!ret)
		ret = object_policy(&self->obj, 0, PAGES, row->insert,
				    row->policy_flags);
	if (!ret)
		ret = object_map(&self->obj, &self->mem,
				 PROT_READ | PROT_WRITE, row->map_flags);
	return ret ? ret : dev_mirror(&self->dev, self->mem.p, self->mem.size);
}

#define map_this(row)							\
do {									\
	TH_LOG("%s", (row)->name);					\
	ASSERT_EQ(0, map_row(self, row));				\
} while (0)

/* As it was, and nothing but. */
static const char *check_same(FIXTURE_DATA(exclusive) *self, size_t page,
			      const struct devexcl_entry *before,
			      const struct devexcl_aperture_page *of)
{
	/* It was looked up for writing. */
	const uint32_t touched = DEVEXCL_ENTRY_YOUNG | DEVEXCL_ENTRY_DIRTY |
				 DEVEXCL_ENTRY_SOFT_DIRTY;
	struct devexcl_entry now = entry_at(&self->ap, page_of(&self->mem,
							       page));
	struct devexcl_aperture_page is = object_page(&self->obj, page);

	if (now.kind != before->kind || now.pfn != before->pfn ||
	    (now.flags | touched) != (before->flags | touched))
		return "the entry has changed";
	if (is.refcount != of->refcount || is.mapcount != of->mapcount)
		return "the counts of the page have changed";
	return NULL;
}

TEST_F(exclusive, refused)
{
	struct devexcl_aperture_page page;
	struct devexcl_entry entry;
	const struct row *row;

	for_each_row(row) {
		map_this(row);
		if (!row->error)
			continue;
		READ_MEM(word_of(&self->mem, 1));
		entry = entry_at(&self->ap, page_of(&self->mem, 1));
		page = object_page(&self->obj, 1);
		ASSERT_EQ(row->error, dev_acquire_one(&self->dev,
						      page_of(&self->mem, 1)));
		expect_not_held(&self->dev, &self->mem, 0, PAGES);
		expect_claim(check_same(self, 1, &entry, &page));
		expect_word(&self->mem, 1, 0);
		ASSERT_EQ(0, object_load(&self->obj, 1));
	}
}

/* Its copies are not looked up either, though they are ordinary. */
TEST_F(exclusive, copies_of_pfn_map)
{
	const struct row *row;

	for_each_row(row) {
		map_this(row);
		if (row->map_flags != MAP_PRIVATE || !row->error)
			continue;
		WRITE_MEM(word_of(&self->mem, 1), 5);
		expect_flags(&self->ap, &self->mem, 1, DEVEXCL_ENTRY_ANON,
			     DEVEXCL_ENTRY_ANON);
		ASSERT_EQ(row->error, dev_acquire_one(&self->dev,
						      page_of(&self->mem, 1)));
		expect_word(&self->mem, 1, 5);
	}
}

/* Page 1 was written to, page 2 only read, page 3 not touched. */
static void touch(FIXTURE_DATA(exclusive) *self)
{
	WRITE_MEM(word_of(&self->mem, 0), 4);
	WRITE_MEM(word_of(&self->mem, 1), 5);
	READ_MEM(word_of(&self->mem, 2));
}

TEST_F(exclusive, copies)
{
	const struct row *row;
	size_t page;

	for_each_row(row) {
		map_this(row);
		if (row->error)
			continue;
		touch(self);
		dev_forget_events(&self->dev);
		ASSERT_EQ(PAGES, dev_acquire(&self->dev, self->mem.p, PAGES));
		expect_held(&self->dev, &self->mem, 0, PAGES);
		for (page = 0; page < PAGES; page++)
			ASSERT_EQ(0, dev_add(&self->dev,
					     word_of(&self->mem, page), 10,
					     NULL));
		expect_word(&self->mem, 1, 15);
		expect_word(&self->mem, 2, 10);
		expect_word(&self->mem, 3, 10);
		expect_flags(&self->ap, &self->mem, 2,
			     DEVEXCL_ENTRY_ANON | DEVEXCL_ENTRY_SPECIAL,
			     DEVEXCL_ENTRY_ANON);
		/* The device's memory has not seen any of that. */
		ASSERT_EQ(0, object_load(&self->obj, 1));
		ASSERT_EQ(0, object_load(&self->obj, 3));
		ASSERT_EQ(0, object_page(&self->obj, 3).mapcount);
		expect_references(&self->dev, &self->mem);
	}
}

/* Who mirrors the mapping is told when a copy takes the place of a page. */
TEST_F(exclusive, told_of_copies)
{
	struct devexcl_stats before, now;
	const struct row *row;

	for_each_row(row) {
		map_this(row);
		if (row->map_flags != MAP_PRIVATE)
			continue;
		READ_MEM(word_of(&self->mem, 1));
		ASSERT_EQ(0, dev_stats(&self->dev, &before));
		WRITE_MEM(word_of(&self->mem, 1), 5);
		ASSERT_EQ(0, dev_stats(&self->dev, &now));
		ASSERT_EQ(before.calls[DEVEXCL_CAUSE_CLEAR] + 1,
			  now.calls[DEVEXCL_CAUSE_CLEAR]);
	}
}

/* The object goes elsewhere while the other device holds copies of it. */
TEST_F(exclusive, moved)
{
	const struct row *row;

	for_each_row(row) {
		map_this(row);
		if (row->error || row->map != DEVEXCL_MAP_FAULT)
			continue;
		touch(self);
		ASSERT_EQ(2, dev_acquire(&self->dev, self->mem.p, 2));
		ASSERT_EQ(0, dev_add(&self->dev, word_of(&self->mem, 1), 10,
				     NULL));
		ASSERT_EQ(0, object_move(&self->obj, DEVEXCL_PLACE_IO,
					 DEVEXCL_CACHING_WB, 0));
		expect_word(&self->mem, 1, 15);
		expect_word(&self->mem, 0, 4);
		expect_not_held(&self->dev, &self->mem, 0, 2);
	}
}

/* All of it is dropped, also what the other device holds. */
TEST_F(exclusive, dropped)
{
	const struct row *row;

	for_each_row(row) {
		map_this(row);
		if (row->error || row->map != DEVEXCL_MAP_FAULT)
			continue;
		touch(self);
		acquire_pages(&self->dev, &self->mem, 0, 2);
		ASSERT_EQ(0, dev_add(&self->dev, word_of(&self->mem, 1), 10,
				     NULL));
		ASSERT_EQ(0, object_zap(&self->obj, DEVEXCL_MOVE_COPIES));
		expect_taken(&self->dev, &self->mem, 0, 2, CAUSE(CLEAR));
		expect_none(&self->ap, &self->mem, 1);
		expect_word(&self->mem, 1, 0);
	}
}

DEVEXCL_TEST_MAIN
