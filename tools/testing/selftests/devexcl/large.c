// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios: a device can have any page of one, and gets no more than that
 *
 * What the rest of mm does to such pages is a matter of the matrix.
 */
#include "devexcl_test.h"

#define TRIES	10

FIXTURE(large) {
	struct dev dev;
	struct dev other;
	struct mem mem;
	size_t last;		/* the last page of the folio */
};

/* A range as large and as aligned as a huge page. */
static int map_aligned(struct mem *mem, size_t size)
{
	char *p = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *start;

	if (p == MAP_FAILED)
		return -errno;
	start = (char *)(((uintptr_t)p + size - 1) & ~(size - 1));
	if (start > p)
		munmap(p, start - p);
	if (start < p + size)
		munmap(start + size, p + size - start);
	*mem = (struct mem){ .p = start, .pages = size / page_size(),
			     .size = size };
	return 0;
}

/*
 * Fill the memory until it is one huge page; what is free may have to be
 * compacted first.
 */
static bool fill_huge(const struct mem *mem)
{
	int tries;

	for (tries = 0; tries < TRIES; tries++) {
		fill_mem(mem);
		if (smaps_kb(mem, "AnonHugePages") > 0)
			return true;
		madvise(mem->p, mem->size, MADV_DONTNEED);
		defragment_memory();
	}
	return false;
}

FIXTURE_SETUP(large)
{
	if (!thp_size())
		SKIP_SETUP("no transparent huge pages");
	setup_device(_metadata, &self->dev, 0);
	setup_device(_metadata, &self->other, 1);
	ASSERT_EQ(0, map_aligned(&self->mem, thp_size()));
	ASSERT_EQ(0, madvise(self->mem.p, self->mem.size, MADV_HUGEPAGE));
	if (!fill_huge(&self->mem))
		SKIP_SETUP("no huge page was to be had");
	/* khugepaged would take exclusive pages for what is in swap. */
	ASSERT_EQ(0, madvise(self->mem.p, self->mem.size, MADV_NOHUGEPAGE));
	self->last = self->mem.pages - 1;
	ASSERT_EQ(0, dev_mirror(&self->dev, self->mem.p, self->mem.size));
	ASSERT_EQ(0, dev_mirror(&self->other, self->mem.p, self->mem.size));
	dev_forget_events(&self->dev);
	dev_forget_events(&self->other);
}

FIXTURE_TEARDOWN(large)
{
	mem_unmap(&self->mem);
	dev_close(&self->other);
	dev_close(&self->dev);
}

/* The device has this page, and the CPU still has all others. */
static const char *check_only(struct dev *dev, const struct mem *mem,
			      size_t page)
{
	return check_held(dev, mem, page, 1, true) ?:
	       check_entries(mem, page, 1, ENTRY_EXCLUSIVE) ?:
	       check_entries(mem, 0, page, ENTRY_PRESENT) ?:
	       check_entries(mem, page + 1, mem->pages - page - 1,
			     ENTRY_PRESENT);
}

/* The order of the folio that the device has a page of, or -errno. */
static int order_of(struct dev *dev, const struct mem *mem, size_t page)
{
	struct devexcl_page info;
	int ret = dev_query(dev, page_of(mem, page), 1, &info);

	return ret ?: info.order;
}

FIXTURE_VARIANT(large) {
	unsigned int hundredths;	/* of the folio before the page */
};

FIXTURE_VARIANT_ADD(large, first) { .hundredths = 0 };
FIXTURE_VARIANT_ADD(large, middle) { .hundredths = 50 };
FIXTURE_VARIANT_ADD(large, last) { .hundredths = 100 };

#define page_of_variant(self, variant)	\
	((self)->last * (variant)->hundredths / 100)

/* The device asks for one page; the CPU keeps those around it. */
TEST_F(large, only_that_page)
{
	size_t page = page_of_variant(self, variant);

	ASSERT_EQ(0, dev_acquire_one(&self->dev, page_of(&self->mem, page)));
	expect_claim(check_only(&self->dev, &self->mem, page));
	expect_data(&self->mem, 0, self->mem.pages);
	expect_entries(&self->mem, page, 1, ENTRY_PRESENT);
}

/* The huge page is mapped page by page then, but stays one folio. */
TEST_F(large, folio_stays)
{
	size_t page = page_of_variant(self, variant);

	ASSERT_EQ(0, dev_acquire_one(&self->dev, page_of(&self->mem, page)));
	EXPECT_EQ(0, smaps_kb(&self->mem, "AnonHugePages"));
	EXPECT_EQ(1UL << order_of(&self->dev, &self->mem, page),
		  self->mem.pages);
}

/*
 * Where the huge page is mapped page by page, each entry says what the huge one
 * did: that the page was written to, and that it is ours to write to.
 */
TEST_F(large, soft_dirty_kept)
{
	size_t page;

	if (!clear_soft_dirty())
		SKIP(return, "no soft-dirty bits");
	for (page = 0; page < self->mem.pages; page++)
		WRITE_MEM(word_of(&self->mem, page),
			  pattern_of(&self->mem, page));
	ASSERT_EQ(0, dev_acquire_one(&self->dev,
				     page_of(&self->mem,
					     page_of_variant(self, variant))));
	for (page = 0; page < self->mem.pages; page++)
		EXPECT_TRUE(pagemap_of(page_of(&self->mem, page)) &
			    PAGEMAP_SOFT_DIRTY)
			TH_LOG("page %zu is not soft-dirty", page);
}

TEST_F(large, writable_again)
{
	size_t page = page_of_variant(self, variant);
	bool no_fault = false;
	int round;

	/*
	 * Now and then there is a fault for something else. After a fault a
	 * page can be written to, so it has to be another one.
	 */
	for (round = 0; round < TRIES && !no_fault; round++) {
		ASSERT_EQ(0, dev_acquire_one(&self->dev,
					     page_of(&self->mem, page)));
		no_fault = is_writable_when_read(word_of(&self->mem, page));
		page = page ? page - 1 : self->last;
	}
	EXPECT_TRUE(no_fault);
	expect_data(&self->mem, 0, self->mem.pages);
}

/* Others hear that one page is converted, not of the folio around it. */
TEST_F(large, other_device_keeps)
{
	size_t page = page_of_variant(self, variant);
	size_t theirs = page ? page - 1 : page + 1;

	ASSERT_EQ(0, dev_acquire_one(&self->other,
				     page_of(&self->mem, theirs)));
	dev_forget_events(&self->other);
	ASSERT_EQ(0, dev_acquire_one(&self->dev, page_of(&self->mem, page)));
	expect_held(&self->other, &self->mem, theirs, 1);
	expect_held(&self->dev, &self->mem, page, 1);
	expect_nothing_taken(&self->other, &self->mem);
}

/* The CPU takes its page back; the device keeps the one beside it. */
TEST_F(large, cpu_takes_one)
{
	size_t page = page_of_variant(self, variant);
	size_t beside = page ? page - 1 : page + 1;

	ASSERT_EQ(0, dev_acquire_one(&self->dev, page_of(&self->mem, page)));
	ASSERT_EQ(0, dev_acquire_one(&self->dev, page_of(&self->mem, beside)));
	dev_forget_events(&self->dev);
	EXPECT_EQ(pattern_of(&self->mem, page),
		  READ_MEM(word_of(&self->mem, page)));
	expect_taken(&self->dev, &self->mem, page, 1,
		     cause_of_fault(&self->dev));
	expect_held(&self->dev, &self->mem, beside, 1);
}

/* One call for pages in the middle of a folio, and for all of it. */
TEST_F(large, range)
{
	size_t page = page_of_variant(self, variant);
	size_t nr = 8;

	if (page + nr > self->mem.pages)
		page = self->mem.pages - nr;
	EXPECT_EQ(nr, dev_acquire(&self->dev, page_of(&self->mem, page), nr));
	expect_held(&self->dev, &self->mem, page, nr);
	EXPECT_EQ(self->mem.pages, dev_acquire(&self->dev, self->mem.p,
					       self->mem.pages));
	expect_held(&self->dev, &self->mem, 0, self->mem.pages);
	expect_data(&self->mem, 0, self->mem.pages);
}

/* What is not yet one */
FIXTURE(small) {
	struct dev dev;
	struct mem mem;
};

FIXTURE_SETUP(small)
{
	if (!thp_size())
		SKIP_SETUP("no transparent huge pages");
	setup_device(_metadata, &self->dev, 0);
	ASSERT_EQ(0, map_aligned(&self->mem, thp_size()));
	ASSERT_EQ(0, madvise(self->mem.p, self->mem.size, MADV_NOHUGEPAGE));
	fill_mem(&self->mem);
	ASSERT_EQ(0, dev_mirror(&self->dev, self->mem.p, self->mem.size));
	drain_lru_batches();
}

FIXTURE_TEARDOWN(small)
{
	mem_unmap(&self->mem);
	dev_close(&self->dev);
}

/* 0, or a negative errno; memory for the huge page may have to be made. */
static int collapse(const struct mem *mem)
{
	int tries;

	madvise(mem->p, mem->size, MADV_HUGEPAGE);
	for (tries = 0; tries < TRIES; tries++) {
		if (!madvise(mem->p, mem->size, MADV_COLLAPSE))
			return 0;
		if (errno == EINVAL)
			break;
		defragment_memory();
	}
	return -errno;
}

/*
 * The device has a page that is ordinary, and moves into a huge one: it is
 * told, or it goes on writing to where the page was.
 */
TEST_F(small, told_of_collapse)
{
	uint64_t *word = word_of(&self->mem, self->mem.pages / 2);
	int ret;

	ASSERT_EQ(0, dev_write_word(&self->dev, word, 0x1234));
	ret = collapse(&self->mem);
	if (ret == -EINVAL)
		SKIP(return, "no MADV_COLLAPSE");
	ASSERT_EQ(0, ret);
	ASSERT_LT(0, smaps_kb(&self->mem, "AnonHugePages"));
	EXPECT_EQ(0x1234, READ_MEM(word));
	ASSERT_EQ(0, dev_write_word(&self->dev, word, 0x5678));
	EXPECT_EQ(0x5678, READ_MEM(word));
}

DEVEXCL_TEST_MAIN
