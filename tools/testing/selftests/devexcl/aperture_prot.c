// SPDX-License-Identifier: GPL-2.0
/*
 * Protection that single pages have, other than their mapping's
 *
 * A driver knows how a page has to be cached when it inserts it, and perhaps not
 * before. What it chose must be in the entry, whatever vm_page_prot says, and
 * stay there whatever mm does to the entry.
 */
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <linux/mempolicy.h>

#include "devexcl_aperture_test.h"

#define PAGES	4

/**
 * struct row - a way to insert a page, and how it comes to be cached
 * @name: for messages
 * @vma: what the mapping is
 * @map: what mmap() inserts
 * @insert: else how pages are inserted
 * @prepare: with the newer hook
 * @placement: where the memory is
 * @caching: how the memory is cached
 * @vma_caching: how the mapping is cached
 * @part: of REMAP_PFN: pages that are mapped at a time; 0: all
 * @of_vma: the entry gets what the mapping has, else what the memory has
 * @normal: mm has a struct page for the entry
 * @writable: it is writable from the beginning, even if nobody writes to it
 */
struct row {
	const char *name;
	enum devexcl_vma vma;
	enum devexcl_map map;
	enum devexcl_insert insert;
	bool prepare;
	enum devexcl_placement placement;
	enum devexcl_caching caching;
	enum devexcl_caching vma_caching;
	uint32_t part;
	bool of_vma;
	bool normal;
	bool writable;
};

#define PFN(_insert, _placement, _caching, _vma_caching)		\
	{								\
		.name = #_insert " " #_placement " " #_caching,		\
		.vma = DEVEXCL_VMA_PFN,					\
		.insert = DEVEXCL_INSERT_##_insert,			\
		.placement = DEVEXCL_PLACE_##_placement,		\
		.caching = DEVEXCL_CACHING_##_caching,			\
		.vma_caching = DEVEXCL_CACHING_##_vma_caching,		\
	}

#define MIXED(_insert, _placement, _caching, _vma_caching)		\
	{								\
		.name = #_insert " " #_placement " " #_caching,		\
		.vma = DEVEXCL_VMA_MIXED,				\
		.insert = DEVEXCL_INSERT_##_insert,			\
		.placement = DEVEXCL_PLACE_##_placement,		\
		.caching = DEVEXCL_CACHING_##_caching,			\
		.vma_caching = DEVEXCL_CACHING_##_vma_caching,		\
	}

#define PAGE(_insert, _caching)						\
	{								\
		.name = #_insert " " #_caching,				\
		.vma = DEVEXCL_VMA_MIXED,				\
		.insert = DEVEXCL_INSERT_##_insert,			\
		.caching = DEVEXCL_CACHING_##_caching,			\
		.vma_caching = DEVEXCL_CACHING_##_caching,		\
		.of_vma = true,						\
		.normal = true,						\
	}

#define REMAP(_map, _placement, _caching, _vma_caching, _part)		\
	{								\
		.name = #_map " " #_placement " " #_caching " " #_part,	\
		.map = DEVEXCL_MAP_##_map,				\
		.insert = DEVEXCL_INSERT_PFN,				\
		.placement = DEVEXCL_PLACE_##_placement,		\
		.caching = DEVEXCL_CACHING_##_caching,			\
		.vma_caching = DEVEXCL_CACHING_##_vma_caching,		\
		.part = _part,						\
		.writable = true,					\
	}

#define MAP(_map, _caching, _vma_caching)				\
	{								\
		.name = "mmap() " #_map " " #_caching,			\
		.vma = DEVEXCL_VMA_MIXED,				\
		.map = DEVEXCL_MAP_##_map,				\
		.insert = DEVEXCL_INSERT_PAGE,				\
		.caching = DEVEXCL_CACHING_##_caching,			\
		.vma_caching = DEVEXCL_CACHING_##_vma_caching,		\
		.of_vma = true,						\
		.normal = true,						\
		.writable = true,					\
	}

static const struct row rows[] = {
	PFN(PFN, SYSTEM, WB, UC),
	PFN(PFN, SYSTEM, WC, WB),
	PFN(PFN_PROT, SYSTEM, WB, WC),
	PFN(PFN_PROT, SYSTEM, WC, WB),
	PFN(PFN_PROT, SYSTEM, UC, WC),
	PFN(PFN_PROT, BUFFER, WC, UC),
	PFN(PFN_PROT, IO, WC, WB),
	PFN(PFN_PROT, IO, UC, WB),
	MIXED(MIXED, SYSTEM, WC, WB),
	MIXED(MIXED, SYSTEM, WB, WC),
	MIXED(MIXED, IO, UC, WB),
	MIXED(MIXED_PROT, SYSTEM, WC, WB),
	MIXED(MIXED_PROT, IO, WC, UC),
	PAGE(PAGE, WB),
	PAGE(PAGE, WC),
	PAGE(PAGES, UC),
	REMAP(REMAP_PFN, BUFFER, WC, WC, 0),
	REMAP(REMAP_PFN, BUFFER, WC, WB, 0),
	REMAP(REMAP_PFN, BUFFER, UC, WB, 1),
	REMAP(REMAP_PFN, IO, UC, UC, 0),
	REMAP(REMAP_PFN, IO, WC, UC, 0),
	REMAP(IOMAP, IO, WC, WC, 0),
	MAP(INSERT_PAGE, WC, WC),
	MAP(INSERT_PAGES, UC, UC),
	MAP(PAGES, WC, WC),
	MAP(PAGES_ZERO, UC, UC),
	{
		.name = "mmap_action_map_kernel_pages WC",
		.vma = DEVEXCL_VMA_MIXED,
		.map = DEVEXCL_MAP_INSERT_PAGES,
		.insert = DEVEXCL_INSERT_PAGE,
		.prepare = true,
		.caching = DEVEXCL_CACHING_WC,
		.vma_caching = DEVEXCL_CACHING_WC,
		.of_vma = true,
		.normal = true,
	}, {
		.name = "mmap_action_remap BUFFER WC",
		.map = DEVEXCL_MAP_REMAP_PFN,
		.insert = DEVEXCL_INSERT_PFN,
		.prepare = true,
		.placement = DEVEXCL_PLACE_BUFFER,
		.caching = DEVEXCL_CACHING_WC,
		.writable = true,
	}, {
		.name = "mmap_action_ioremap IO UC",
		.map = DEVEXCL_MAP_IOMAP,
		.insert = DEVEXCL_INSERT_PFN,
		.prepare = true,
		.placement = DEVEXCL_PLACE_IO,
		.caching = DEVEXCL_CACHING_UC,
		.vma_caching = DEVEXCL_CACHING_UC,
		.writable = true,
	}, {
		.name = "MIXED_MKWRITE SYSTEM WC",
		.vma = DEVEXCL_VMA_MIXED,
		.insert = DEVEXCL_INSERT_MIXED_MKWRITE,
		.caching = DEVEXCL_CACHING_WC,
		.writable = true,
	}, {
		.name = "PAGE_MKWRITE UC",
		.vma = DEVEXCL_VMA_MIXED,
		.insert = DEVEXCL_INSERT_PAGE_MKWRITE,
		.caching = DEVEXCL_CACHING_UC,
		.vma_caching = DEVEXCL_CACHING_UC,
		.of_vma = true,
		.normal = true,
		.writable = true,
	},
};

static bool can_row(const struct aperture *ap, const struct row *row)
{
	return aperture_can_insert(ap, row->insert) &&
	       (!row->prepare ||
		aperture_can(ap, DEVEXCL_APERTURE_CAP_PREPARE));
}

/* This row or the first one after it whose function this kernel has, or NULL */
static const struct row *row_from(const struct aperture *ap,
				  const struct row *row)
{
	for (; row < rows + ARRAY_SIZE(rows); row++)
		if (can_row(ap, row))
			return row;
	return NULL;
}

#define for_each_row(ap, row)						\
	for (row = row_from(ap, rows); row; row = row_from(ap, (row) + 1))

FIXTURE(prot) {
	struct aperture ap;
	struct object obj;
	struct mem mem;
};

FIXTURE_SETUP(prot)
{
	setup_aperture(_metadata, &self->ap);
	if (!aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_PAT))
		SKIP_SETUP("the CPU's caching modes cannot be chosen");
}

FIXTURE_TEARDOWN(prot)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
}

static enum devexcl_caching caching_of(const struct row *row)
{
	return row->of_vma ? row->vma_caching : row->caching;
}

/* A context has room for so many objects only: take a new one for each row. */
static int map_row(FIXTURE_DATA(prot) *self, const struct row *row,
		   uint32_t create_flags, int prot, int flags)
{
	const struct devexcl_aperture_create like = {
		.flags = create_flags,
		.pages = PAGES,
		.placement = row->placement,
		.caching = row->caching,
		.vma = row->vma,
		.map = row->map,
		.vma_caching = row->vma_caching,
		.part = row->part,
	};
	int ret;

	mem_unmap(&self->mem);
	self->mem = (struct mem) {};
	aperture_close(&self->ap);
	ret = aperture_open(&self->ap, row->prepare);
	if (!ret)
		ret = object_create(&self->ap, &self->obj, &like);
	if (!ret)
		ret = object_policy(&self->obj, 0, PAGES, row->insert, 0);
	return ret ? ret : object_map(&self->obj, &self->mem, prot, flags);
}

/*
 * The entry of a page is what the driver chose. Written as a claim, as a child
 * makes it as well.
 */
static const char *check_chosen(FIXTURE_DATA(prot) *self, const struct row *row,
				size_t page)
{
	uint64_t pfn = object_page(&self->obj, page).pfn;
	const char *wrong;

	wrong = check_kind(&self->ap, &self->mem, page, DEVEXCL_ENTRY_PRESENT);
	if (!wrong)
		wrong = check_pfn(&self->ap, &self->mem, page, pfn);
	if (!wrong)
		wrong = check_caching(&self->ap, &self->mem, page,
				      caching_of(row));
	if (!wrong)
		wrong = check_flags(&self->ap, &self->mem, page,
				    DEVEXCL_ENTRY_SPECIAL,
				    row->normal ? 0 : DEVEXCL_ENTRY_SPECIAL);
	return wrong;
}

#define expect_chosen(row)						\
do {									\
	size_t _page;							\
									\
	for (_page = 0; _page < PAGES; _page++)				\
		expect_claim(check_chosen(self, row, _page));		\
} while (0)

static void write_all(const struct mem *mem, uint64_t value)
{
	size_t page;

	for (page = 0; page < mem->pages; page++)
		WRITE_MEM(word_of(mem, page), value + page);
}

#define map_this(row, create_flags, prot, flags)			\
do {									\
	TH_LOG("%s", (row)->name);					\
	ASSERT_EQ(0, map_row(self, row, create_flags, prot, flags));	\
} while (0)

#define RW	(PROT_READ | PROT_WRITE)

/* All others run the rows that the kernel can do; this says which it cannot. */
TEST_F(prot, functions)
{
	const struct row *row;
	char lacking[512] = "";

	for (row = rows; row < rows + ARRAY_SIZE(rows); row++) {
		size_t len = strlen(lacking);

		if (!can_row(&self->ap, row))
			snprintf(lacking + len, sizeof(lacking) - len, "%s%s",
				 len ? ", " : "", row->name);
	}
	if (lacking[0])
		SKIP(return, "this kernel has not: %s", lacking);
}

TEST_F(prot, chosen)
{
	const struct row *row;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		write_all(&self->mem, 10);
		expect_chosen(row);
		/* It is the memory that the device has. */
		ASSERT_EQ(10, object_load(&self->obj, 0));
		ASSERT_EQ(0, object_store(&self->obj, PAGES - 1, 5));
		expect_word(&self->mem, PAGES - 1, 5);
	}
}

/* The CPU goes by it at once, whatever it had in its TLB. */
#define expect_access(mem, prot)					\
do {									\
	uint64_t _value;						\
									\
	ASSERT_EQ((prot) & PROT_READ ? 0 : SEGV_ACCERR,		\
		  cpu_read(word_of(mem, 1), &_value));			\
	ASSERT_EQ((prot) & PROT_WRITE ? 0 : SEGV_ACCERR,		\
		  cpu_write(word_of(mem, 1), 10));			\
} while (0)

/* In all directions; the entry may be written to or not, all else stays. */
TEST_F(prot, mprotect)
{
	static const int prots[] = {
		PROT_READ, RW, PROT_NONE, RW, PROT_READ, PROT_NONE, PROT_READ,
		PROT_READ | PROT_EXEC, RW,
	};
	const uint32_t written = DEVEXCL_ENTRY_YOUNG | DEVEXCL_ENTRY_DIRTY;
	const struct row *row;
	uint32_t before;
	size_t i;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		write_all(&self->mem, 10);
		before = entry_at(&self->ap, page_of(&self->mem, 1)).flags &
			 DEVEXCL_ENTRY_SOFT_DIRTY;
		before |= written;
		for (i = 0; i < ARRAY_SIZE(prots); i++) {
			ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size,
					      prots[i]));
			expect_chosen(row);
			if (!(prots[i] & PROT_WRITE))
				expect_flags(&self->ap, &self->mem, 0,
					     DEVEXCL_ENTRY_WRITE, 0);
			expect_flags(&self->ap, &self->mem, 1, before, before);
			expect_access(&self->mem, prots[i]);
		}
		write_all(&self->mem, 20);
		expect_chosen(row);
		ASSERT_EQ(20, object_load(&self->obj, 0));
		/* What is inserted from now on is cached like that as well. */
		ASSERT_EQ(0, object_zap(&self->obj, 0));
		write_all(&self->mem, 30);
		expect_chosen(row);
	}
}

/* mprotect() makes a new vm_page_prot: entries made after it are the same. */
TEST_F(prot, fault_after_mprotect)
{
	const struct row *row;
	struct mem *mem = &self->mem;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		if (row->map != DEVEXCL_MAP_FAULT)
			ASSERT_EQ(0, object_zap(&self->obj, 0));
		ASSERT_EQ(0, mprotect(mem->p, mem->size, PROT_NONE));
		ASSERT_EQ(0, mprotect(mem->p, mem->size, PROT_READ));
		expect_none(&self->ap, mem, 0);
		READ_MEM(word_of(mem, 0));
		expect_claim(check_chosen(self, row, 0));
		expect_flags(&self->ap, mem, 0, DEVEXCL_ENTRY_WRITE, 0);
		/* Of one page, which splits the mapping */
		ASSERT_EQ(0, mprotect(page_of(mem, 1), page_size(), RW));
		WRITE_MEM(word_of(mem, 1), 3);
		expect_claim(check_chosen(self, row, 1));
		ASSERT_EQ(0, mprotect(mem->p, mem->size, RW));
		write_all(mem, 20);
		expect_chosen(row);
	}
}

/*
 * A child has the entries at once, without a fault, and they are the same, but
 * that the child has not used them.
 */
TEST_F(prot, fork)
{
	const struct row *row;
	const char *wrong;
	uint32_t faults;
	pid_t child;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		write_all(&self->mem, 10);
		faults = object_page(&self->obj, 1).faults;
		child = fork();
		ASSERT_GE(child, 0);
		if (!child) {
			wrong = check_chosen(self, row, 1);
			if (!wrong)
				wrong = check_flags(&self->ap, &self->mem, 1,
						    DEVEXCL_ENTRY_YOUNG |
						    DEVEXCL_ENTRY_DIRTY, 0);
			if (wrong)
				TH_LOG("child: %s", wrong);
			WRITE_MEM(word_of(&self->mem, 1), 30);
			_exit(wrong || check_chosen(self, row, 1));
		}
		ASSERT_EQ(0, wait_child(child));
		expect_chosen(row);
		expect_word(&self->mem, 1, 30);
		ASSERT_EQ(faults, object_page(&self->obj, 1).faults);
	}
}

/*
 * In whose private mapping it is, he gets a copy when he writes; a copy of his
 * parent's stays what it was, for each of them.
 */
static int write_in_child(struct __test_metadata *_metadata,
			  FIXTURE_DATA(prot) *self, const struct row *row)
{
	const char *wrong = check_chosen(self, row, 1);

	if (!wrong && READ_MEM(word_of(&self->mem, 2)) != 5)
		wrong = "the parent's copy is not what it was at fork()";
	WRITE_MEM(word_of(&self->mem, 1), 30);
	WRITE_MEM(word_of(&self->mem, 2), 30);
	if (!wrong)
		wrong = check_flags(&self->ap, &self->mem, 1,
				    DEVEXCL_ENTRY_ANON | DEVEXCL_ENTRY_SPECIAL,
				    DEVEXCL_ENTRY_ANON);
	if (!wrong)
		wrong = check_caching(&self->ap, &self->mem, 1,
				      row->vma_caching);
	if (wrong)
		TH_LOG("child: %s", wrong);
	return !!wrong;
}

/* Can it be mapped privately, so that it could be written to? */
static bool can_be_private(const struct row *row)
{
	if (row->vma == DEVEXCL_VMA_PFN || row->part)
		return false;
	return !row->writable || row->map != DEVEXCL_MAP_FAULT;
}

TEST_F(prot, private_fork)
{
	const struct row *row;
	struct gate written;
	pid_t child;

	ASSERT_EQ(0, gate_init(&written));
	for_each_row(&self->ap, row) {
		if (!can_be_private(row))
			continue;
		map_this(row, 0, RW, MAP_PRIVATE);
		READ_MEM(word_of(&self->mem, 1));
		WRITE_MEM(word_of(&self->mem, 2), 5);
		child = fork();
		ASSERT_GE(child, 0);
		if (!child) {
			gate_wait(&written);
			_exit(write_in_child(_metadata, self, row));
		}
		WRITE_MEM(word_of(&self->mem, 2), 6);
		gate_open(&written);
		ASSERT_EQ(0, wait_child(child));
		expect_claim(check_chosen(self, row, 1));
		expect_word(&self->mem, 1, 0);
		expect_word(&self->mem, 2, 6);
		ASSERT_EQ(0, object_load(&self->obj, 1));
	}
}

/*
 * Entries are moved as they are, but whoever tracks writes is told; the old place
 * is empty, also to the CPU.
 */
TEST_F(prot, mremap)
{
	const struct row *row;
	struct mem old;
	bool tracked;
	char *p;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		write_all(&self->mem, 10);
		old = self->mem;
		p = mmap(NULL, old.size, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, p);
		tracked = clear_soft_dirty();
		write_all(&self->mem, 10);
		ASSERT_EQ(p, mremap(old.p, old.size, old.size,
				    MREMAP_MAYMOVE | MREMAP_FIXED, p));
		self->mem.p = p;
		expect_chosen(row);
		if (tracked)
			expect_flags(&self->ap, &self->mem, 1,
				     DEVEXCL_ENTRY_SOFT_DIRTY,
				     DEVEXCL_ENTRY_SOFT_DIRTY);
		expect_none(&self->ap, &old, 0);
		ASSERT_EQ(SEGV_MAPERR, cpu_write(word_of(&old, 1), 12));
		expect_word(&self->mem, 1, 11);
		/* The driver is asked again for what is there now. */
		ASSERT_EQ(0, object_zap(&self->obj, 0));
		expect_none(&self->ap, &self->mem, 1);
		write_all(&self->mem, 20);
		expect_chosen(row);
		ASSERT_EQ(21, object_load(&self->obj, 1));
	}
}

/*
 * Some pages are moved: they are still these pages of the object. Up to 6.15 the
 * kernel loses track of the caching mode of a device's memory if a PFN map of
 * it is taken apart, until it is booted again. Others want that memory.
 */
TEST_F(prot, mremap_some)
{
	const struct row *row;
	struct mem moved;
	void *p;

	for_each_row(&self->ap, row) {
		if (row->map != DEVEXCL_MAP_FAULT &&
		    row->placement == DEVEXCL_PLACE_IO)
			continue;
		map_this(row, 0, RW, MAP_SHARED);
		write_all(&self->mem, 10);
		ASSERT_EQ(0, mem_map(&moved, PAGES));
		p = mremap(page_of(&self->mem, 2), page_size(), page_size(),
			   MREMAP_MAYMOVE | MREMAP_FIXED, page_of(&moved, 2));
		ASSERT_EQ(page_of(&moved, 2), p);
		expect_none(&self->ap, &self->mem, 2);
		mem_unmap(&self->mem);
		self->mem = moved;
		expect_claim(check_chosen(self, row, 2));
		ASSERT_EQ(0, object_zap(&self->obj, 0));
		expect_word(&self->mem, 2, 12);
		expect_claim(check_chosen(self, row, 2));
	}
}

/* They cannot grow: there is nothing to be mapped there. */
TEST_F(prot, mremap_refused)
{
	const struct row *row;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		write_all(&self->mem, 10);
		ASSERT_EQ(MAP_FAILED,
			  mremap(self->mem.p, self->mem.size,
				 self->mem.size + page_size(), MREMAP_MAYMOVE));
		ASSERT_EQ(EFAULT, errno);
		expect_chosen(row);
	}
}

/* What was mapped is forgotten, and the driver asked again. */
TEST_F(prot, refault)
{
	const struct row *row;
	struct row changed;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		write_all(&self->mem, 10);
		ASSERT_EQ(0, object_zap(&self->obj, 0));
		expect_none(&self->ap, &self->mem, 0);
		write_all(&self->mem, 20);
		expect_chosen(row);
		if (row->placement == DEVEXCL_PLACE_IO || row->of_vma)
			continue;
		changed = *row;
		changed.caching = row->caching == DEVEXCL_CACHING_UC ?
				  DEVEXCL_CACHING_WC : DEVEXCL_CACHING_UC;
		ASSERT_EQ(0, object_recache(&self->obj, 0, PAGES, row->insert,
					    changed.caching));
		expect_none(&self->ap, &self->mem, 0);
		write_all(&self->mem, 30);
		expect_chosen(&changed);
	}
}

/* One call maps what is cached in one way, or nothing. */
TEST_F(prot, one_call_one_mode)
{
	static const struct row row = REMAP(REMAP_PFN, BUFFER, WB, WB, 2);
	uint32_t page;

	ASSERT_EQ(0, map_row(self, &row, 0, RW, MAP_SHARED));
	for (page = 0; page < PAGES; page++) {
		mem_unmap(&self->mem);
		self->mem = (struct mem) {};
		ASSERT_EQ(0, object_recache(&self->obj, page, 1, row.insert,
					    DEVEXCL_CACHING_WC));
		ASSERT_EQ(page % 2 ? 0 : -EINVAL,
			  object_map(&self->obj, &self->mem, RW, MAP_SHARED));
	}
}

/* How often the kernel has noted how memory of a device is cached */
static int notes(uint64_t pfn)
{
	FILE *f = fopen("/sys/kernel/debug/x86/pat_memtype_list", "re");
	unsigned long long start;
	char line[128];
	int count = 0;

	while (f && fgets(line, sizeof(line), f))
		count += sscanf(line, "PAT: [mem %llx", &start) == 1 &&
			 start == pfn * page_size();
	if (f)
		fclose(f);
	return f ? count : -1;
}

/*
 * Nobody may map memory of a device otherwise while it is mapped, by whomever, and
 * be it a part of it.
 */
TEST_F(prot, noted_while_mapped)
{
	static const struct row row = REMAP(REMAP_PFN, IO, WC, WC, 0);
	struct gate go, done;
	uint64_t pfn;
	int before;
	pid_t child;

	if (self->ap.info.io != DEVEXCL_IO_BAR)
		SKIP(return, "there is no memory of a device");
	ASSERT_EQ(0, gate_init(&go));
	ASSERT_EQ(0, gate_init(&done));
	ASSERT_EQ(0, map_row(self, &row, 0, RW, MAP_SHARED));
	pfn = object_page(&self->obj, 0).pfn;
	mem_unmap(&self->mem);
	before = notes(pfn);
	if (before < 0)
		SKIP(return, "the kernel does not show its list");
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW, MAP_SHARED));
	ASSERT_EQ(before + 1, notes(pfn));
	ASSERT_EQ(0, munmap(page_of(&self->mem, 2), 2 * page_size()));
	ASSERT_EQ(before + 1, notes(pfn));
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		gate_open(&done);
		gate_wait(&go);
		_exit(0);
	}
	ASSERT_EQ(0, gate_wait(&done));
	mem_unmap(&self->mem);
	self->mem = (struct mem) {};
	ASSERT_EQ(before + 1, notes(pfn));
	gate_open(&go);
	ASSERT_EQ(0, wait_child(child));
	ASSERT_EQ(before, notes(pfn));
}

/* Pages of one object and one mapping may be different. */
TEST_F(prot, each_its_own)
{
	static const struct row row = PFN(PFN_PROT, SYSTEM, WB, WB);
	size_t page;

	ASSERT_EQ(0, map_row(self, &row, 0, RW, MAP_SHARED));
	for (page = 0; page < PAGES; page++)
		ASSERT_EQ(0, object_recache(&self->obj, page, 1, row.insert,
					    page % DEVEXCL_CACHING_OTHER));
	write_all(&self->mem, 10);
	for (page = 0; page < PAGES; page++)
		expect_caching(&self->ap, &self->mem, page,
			       page % DEVEXCL_CACHING_OTHER);
}

/* And each may be inserted by another function. */
TEST_F(prot, each_another_function)
{
	static const struct row row = MIXED(MIXED, SYSTEM, WB, WB);
	static const enum devexcl_insert inserts[PAGES] = {
		DEVEXCL_INSERT_MIXED, DEVEXCL_INSERT_PAGE,
		DEVEXCL_INSERT_PAGES, DEVEXCL_INSERT_NONE,
	};
	static const bool special[PAGES] = { true };
	uint32_t page;

	ASSERT_EQ(0, map_row(self, &row, 0, RW, MAP_SHARED));
	for (page = 0; page < PAGES; page++)
		ASSERT_EQ(0, object_policy(&self->obj, page, 1, inserts[page],
					   0));
	for (page = 0; page < PAGES - 1; page++) {
		WRITE_MEM(word_of(&self->mem, page), page + 1);
		expect_flags(&self->ap, &self->mem, page,
			     DEVEXCL_ENTRY_SPECIAL,
			     special[page] ? DEVEXCL_ENTRY_SPECIAL : 0);
		ASSERT_EQ(!special[page],
			  object_page(&self->obj, page).mapcount);
		ASSERT_EQ(page + 1, object_load(&self->obj, page));
	}
	ASSERT_EQ(BUS_ADRERR, cpu_write(word_of(&self->mem, page), 9));
	expect_none(&self->ap, &self->mem, page);
}

TEST_F(prot, dontneed)
{
	const struct row *row;
	int ret;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		write_all(&self->mem, 10);
		ret = madvise(self->mem.p, self->mem.size, MADV_DONTNEED);
		if (row->vma != DEVEXCL_VMA_MIXED) {
			/* Nobody could give them back. */
			ASSERT_EQ(-1, ret);
			ASSERT_EQ(EINVAL, errno);
		} else {
			ASSERT_EQ(0, ret);
			expect_none(&self->ap, &self->mem, 0);
			expect_word(&self->mem, 0, 10);
			write_all(&self->mem, 20);
		}
		expect_chosen(row);
	}
}

TEST_F(prot, mlock)
{
	const struct row *row;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		write_all(&self->mem, 10);
		/* There is nothing to lock, and mm does not mind. */
		ASSERT_EQ(0, mlock(self->mem.p, self->mem.size));
		ASSERT_FALSE(smaps_flag(&self->mem, "lo"));
		expect_chosen(row);
		ASSERT_EQ(0, munlock(self->mem.p, self->mem.size));
		expect_chosen(row);
	}
}

/*
 * What else user space can ask of memory: it may be refused, and whatever it
 * does, the entry stays as the driver made it.
 */
static const struct {
	const char *name;
	int advice;
} advices[] = {
	{ "NORMAL", MADV_NORMAL }, { "RANDOM", MADV_RANDOM },
	{ "SEQUENTIAL", MADV_SEQUENTIAL }, { "WILLNEED", MADV_WILLNEED },
	{ "COLD", MADV_COLD }, { "PAGEOUT", MADV_PAGEOUT },
	{ "FREE", MADV_FREE }, { "MERGEABLE", MADV_MERGEABLE },
	{ "HUGEPAGE", MADV_HUGEPAGE }, { "NOHUGEPAGE", MADV_NOHUGEPAGE },
	{ "DONTFORK", MADV_DONTFORK }, { "DODUMP", MADV_DODUMP },
	{ "POPULATE_READ", MADV_POPULATE_READ },
	{ "POPULATE_WRITE", MADV_POPULATE_WRITE },
	{ "COLLAPSE", MADV_COLLAPSE },
};

TEST_F(prot, advice)
{
	unsigned char vec[PAGES];
	const struct row *row;
	size_t i;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		write_all(&self->mem, 10);
		for (i = 0; i < ARRAY_SIZE(advices); i++) {
			TH_LOG("%s: %s", row->name, advices[i].name);
			madvise(self->mem.p, self->mem.size,
				advices[i].advice);
			expect_chosen(row);
			expect_flags(&self->ap, &self->mem, 1,
				     DEVEXCL_ENTRY_WRITE, DEVEXCL_ENTRY_WRITE);
			expect_word(&self->mem, 1, 11);
		}
		msync(self->mem.p, self->mem.size, MS_SYNC);
		ASSERT_EQ(0, mincore(self->mem.p, self->mem.size, vec));
		expect_chosen(row);
	}
}

/* PFN maps are not tracked: their entries are left alone altogether. */
TEST_F(prot, soft_dirty)
{
	const uint32_t soft_dirty = DEVEXCL_ENTRY_SOFT_DIRTY;
	const struct row *row;
	uint32_t before, clean;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		write_all(&self->mem, 10);
		before = entry_at(&self->ap, self->mem.p).flags & soft_dirty;
		clean = row->vma == DEVEXCL_VMA_MIXED ? 0 : before;
		if (!clear_soft_dirty())
			SKIP(return, "writes are not tracked");
		expect_chosen(row);
		expect_flags(&self->ap, &self->mem, 0, soft_dirty, clean);
		write_all(&self->mem, 20);
		expect_chosen(row);
		if (row->vma == DEVEXCL_VMA_MIXED)
			clean = soft_dirty;
		expect_flags(&self->ap, &self->mem, 0, soft_dirty, clean);
	}
}

/*
 * NUMA balancing makes entries inaccessible for a moment, to see which node
 * uses a page; not those of drivers.
 */
#define BALANCING	"/proc/sys/kernel/numa_balancing"
#define BALANCING_DIR	"/sys/kernel/debug/sched/numa_balancing/"

static struct knob {
	const char *path;
	const char *value;
	char before[16];
} knobs[] = {
	{ BALANCING_DIR "scan_delay_ms", "10" },
	{ BALANCING_DIR "scan_period_min_ms", "10" },
	{ BALANCING_DIR "scan_period_max_ms", "20" },
	{ BALANCING, "1" },
};

static bool switch_on(struct knob *knob)
{
	int fd = open(knob->path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	if (read(fd, knob->before, sizeof(knob->before) - 1) < 0)
		knob->before[0] = 0;
	close(fd);
	return !write_file(knob->path, knob->value);
}

static void switch_off(struct knob *knob)
{
	if (knob->before[0])
		write_file(knob->path, knob->before);
}

static void *sleep_for_ever(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return NULL;
}

/* So many that mm is done with having made the first one */
#define BALLAST		64

/*
 * Use the CPU until that was found out, which changes the entry: false if it
 * does not, for long. Events are not counted by all kernels.
 */
static bool wait_for_hinting(const struct aperture *ap,
			     const struct mem *ballast)
{
	time_t end = time(NULL) + 5;
	uint64_t raw;
	size_t i;

	WRITE_MEM(word_of(ballast, 0), 1);
	raw = entry_at(ap, ballast->p).raw;
	while (time(NULL) < end) {
		if (entry_at(ap, ballast->p).raw != raw)
			return true;
		for (i = 0; i < 100000; i++)
			READ_MEM(word_of(ballast, 1));
	}
	return false;
}

/* Each row in a mapping of its own, so that all are there at once */
static FIXTURE_DATA(prot) all[ARRAY_SIZE(rows)];

/*
 * Memory is looked at in turn: when it is some memory's turn for the second
 * time, then all has been looked at. 0, or 1 if something has changed, or 2 if
 * nobody looks.
 */
static int hinted(struct __test_metadata *_metadata,
		  const struct aperture *ap)
{
	uint64_t before[ARRAY_SIZE(rows)];
	const struct row *row;
	struct mem ballast;
	pthread_t other;
	int ret = 0;

	/* Memory of a process with one thread may be left alone. */
	if (pthread_create(&other, NULL, sleep_for_ever, NULL) ||
	    mem_map(&ballast, BALLAST))
		return 1;
	write_all(&ballast, 1);
	syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
	for_each_row(ap, row) {
		FIXTURE_DATA(prot) *self = &all[row - rows];

		if (map_row(self, row, 0, RW, MAP_SHARED))
			return 1;
		write_all(&self->mem, 10);
		before[row - rows] = entry_at(&self->ap, self->mem.p).raw;
	}
	if (!wait_for_hinting(ap, &ballast) || !wait_for_hinting(ap, &ballast))
		return 2;
	for_each_row(ap, row) {
		FIXTURE_DATA(prot) *self = &all[row - rows];
		const char *wrong = check_chosen(self, row, 0);

		if (!wrong &&
		    entry_at(&self->ap, self->mem.p).raw != before[row - rows])
			wrong = "the entry has changed";
		if (wrong)
			TH_LOG("%s: %s", row->name, wrong);
		if (wrong)
			ret = 1;
	}
	return ret;
}

TEST_F(prot, numa_hinting)
{
	bool on = true;
	pid_t child;
	size_t i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(knobs); i++)
		on &= switch_on(&knobs[i]);
	child = on ? fork() : -1;
	if (!child)
		_exit(hinted(_metadata, &self->ap));
	ret = child > 0 ? wait_child(child) : 2;
	for (i = ARRAY_SIZE(knobs); i-- > 0; )
		switch_off(&knobs[i]);
	if (ret == 2)
		SKIP(return, "no NUMA balancing, or it does not come to it");
	ASSERT_EQ(0, ret);
}

/*
 * If the CPU encrypts memory, then that of the system, and not that of devices.
 * The bit is where a page frame number would be.
 */
static uint64_t encryption_of(const struct aperture *ap, const void *p)
{
	return entry_at(ap, p).prot & 0x000ffffffffff000ULL;
}

static bool cpu_encrypts(void)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[4096];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = !strncmp(line, "flags", 5) && strstr(line, " sme");
	if (f)
		fclose(f);
	return found;
}

TEST_F(prot, encryption)
{
	static const struct row row = PFN(PFN_PROT, SYSTEM, WB, WB);
	uint64_t system;
	struct mem mem;

	ASSERT_EQ(0, mem_map(&mem, 1));
	system = encryption_of(&self->ap, mem.p);
	mem_unmap(&mem);
	if (!cpu_encrypts() || !system)
		SKIP(return, "the CPU does not encrypt memory");
	ASSERT_EQ(0, map_row(self, &row, 0, RW, MAP_SHARED));
	write_all(&self->mem, 10);
	ASSERT_EQ(system, encryption_of(&self->ap, self->mem.p));
	if (self->ap.info.io != DEVEXCL_IO_BAR)
		SKIP(return, "there is no memory of a device");
	ASSERT_EQ(0, object_move(&self->obj, DEVEXCL_PLACE_IO,
				 DEVEXCL_CACHING_UC, 0));
	write_all(&self->mem, 20);
	ASSERT_EQ(0, encryption_of(&self->ap, self->mem.p));
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size, PROT_READ));
	ASSERT_EQ(0, encryption_of(&self->ap, self->mem.p));
}

/* The sum of what the mkwrite hooks were called for page 1 */
static uint32_t announced(struct object *obj, const struct row *row)
{
	struct devexcl_aperture_page page = object_page(obj, 1);

	/* The other hook is not for this kind of page. */
	if (row->normal ? page.pfn_mkwrites : page.page_mkwrites)
		return ~0U;
	return page.pfn_mkwrites + page.page_mkwrites;
}

/*
 * The first write to a page is announced, and after each cleaning the next
 * one; others are not. What is inserted by mmap() is writable from the
 * beginning, as the mapping's protection is not final then; and so is what is
 * inserted for being written to.
 */
TEST_F(prot, announced)
{
	const uint32_t hooks = DEVEXCL_CREATE_PAGE_MKWRITE |
			       DEVEXCL_CREATE_PFN_MKWRITE;
	const struct row *row;
	uint32_t first, i;
	int references;

	if (!aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_CLEAN))
		SKIP(return, "the device cannot clean pages");
	for_each_row(&self->ap, row) {
		map_this(row, hooks, RW, MAP_SHARED);
		READ_MEM(word_of(&self->mem, 1));
		first = !row->writable;
		references = object_page(&self->obj, 1).refcount;
		expect_flags(&self->ap, &self->mem, 1, DEVEXCL_ENTRY_WRITE,
			     first ? 0 : DEVEXCL_ENTRY_WRITE);
		ASSERT_EQ(0, announced(&self->obj, row));
		for (i = first; i < first + 3; i++) {
			WRITE_MEM(word_of(&self->mem, 1), i);
			WRITE_MEM(word_of(&self->mem, 1), i + 1);
			ASSERT_EQ(i, announced(&self->obj, row));
			expect_flags(&self->ap, &self->mem, 1,
				     DEVEXCL_ENTRY_WRITE | DEVEXCL_ENTRY_DIRTY,
				     DEVEXCL_ENTRY_WRITE | DEVEXCL_ENTRY_DIRTY);
			ASSERT_LT(0, object_clean(&self->obj));
			expect_flags(&self->ap, &self->mem, 1,
				     DEVEXCL_ENTRY_WRITE | DEVEXCL_ENTRY_DIRTY,
				     0);
			expect_claim(check_chosen(self, row, 1));
		}
		/* None was taken for good by those who announced it. */
		ASSERT_EQ(references, object_page(&self->obj, 1).refcount);
	}
}

/* The kernel does what a write would do, and the CPU has no part in it. */
TEST_F(prot, populated)
{
	const uint32_t flags = DEVEXCL_ENTRY_WRITE | DEVEXCL_ENTRY_DIRTY;
	const struct row *row;

	for_each_row(&self->ap, row) {
		if (!row->normal || row->map != DEVEXCL_MAP_FAULT)
			continue;
		map_this(row, DEVEXCL_CREATE_PAGE_MKWRITE, RW, MAP_SHARED);
		if (!row->writable)
			READ_MEM(word_of(&self->mem, 1));
		ASSERT_EQ(0, madvise(self->mem.p, self->mem.size,
				     MADV_POPULATE_WRITE));
		ASSERT_EQ(!row->writable, announced(&self->obj, row));
		expect_flags(&self->ap, &self->mem, 1, flags, flags);
		expect_claim(check_chosen(self, row, 1));
	}
}

static bool is_dirty(struct object *obj, uint32_t page)
{
	return frame_flags(object_page(obj, page).pfn) & KPF_DIRTY;
}

/*
 * Of a page that mm knows it knows that it was written to: at once, if the
 * write is announced, else when the entry goes.
 */
TEST_F(prot, dirty_pages)
{
	const struct row *row;

	for_each_row(&self->ap, row) {
		if (!row->normal)
			continue;
		map_this(row, 0, RW, MAP_SHARED);
		WRITE_MEM(word_of(&self->mem, 1), 3);
		ASSERT_FALSE(is_dirty(&self->obj, 1));
		ASSERT_EQ(0, object_zap(&self->obj, 0));
		ASSERT_TRUE(is_dirty(&self->obj, 1));
		if (row->writable)
			continue;
		map_this(row, DEVEXCL_CREATE_PAGE_MKWRITE, RW, MAP_SHARED);
		READ_MEM(word_of(&self->mem, 1));
		ASSERT_FALSE(is_dirty(&self->obj, 1));
		WRITE_MEM(word_of(&self->mem, 1), 3);
		ASSERT_TRUE(is_dirty(&self->obj, 1));
	}
}

/*
 * One of the hooks is enough for the entry to be read-only at first, and the one
 * that is for this kind of page for the write to be announced.
 */
TEST_F(prot, announced_to_one)
{
	static const uint32_t hooks[] = {
		DEVEXCL_CREATE_PAGE_MKWRITE, DEVEXCL_CREATE_PFN_MKWRITE,
	};
	struct devexcl_aperture_page page;
	const struct row *row;
	size_t i;

	for_each_row(&self->ap, row) {
		for (i = 0; !row->writable && i < ARRAY_SIZE(hooks); i++) {
			map_this(row, hooks[i], RW, MAP_SHARED);
			READ_MEM(word_of(&self->mem, 1));
			expect_flags(&self->ap, &self->mem, 1,
				     DEVEXCL_ENTRY_WRITE, 0);
			WRITE_MEM(word_of(&self->mem, 1), 3);
			page = object_page(&self->obj, 1);
			ASSERT_EQ(i == 0 && row->normal, page.page_mkwrites);
			ASSERT_EQ(i == 1 && !row->normal, page.pfn_mkwrites);
			expect_claim(check_chosen(self, row, 1));
		}
	}
}

/* A write that the driver refuses is SIGBUS, and the entry stays what it is. */
TEST_F(prot, refused)
{
	const uint32_t hooks = DEVEXCL_CREATE_PAGE_MKWRITE |
			       DEVEXCL_CREATE_PFN_MKWRITE;
	const struct row *row;
	int references;

	for_each_row(&self->ap, row) {
		map_this(row, hooks, RW, MAP_SHARED);
		if (row->writable)
			continue;
		ASSERT_EQ(0, object_policy(&self->obj, 1, 1, row->insert,
					   DEVEXCL_POLICY_REFUSE_WRITE));
		ASSERT_EQ(BUS_ADRERR, cpu_write(word_of(&self->mem, 1), 9));
		references = object_page(&self->obj, 1).refcount;
		ASSERT_EQ(BUS_ADRERR, cpu_write(word_of(&self->mem, 1), 9));
		ASSERT_EQ(2, announced(&self->obj, row));
		expect_word(&self->mem, 1, 0);
		expect_flags(&self->ap, &self->mem, 1, DEVEXCL_ENTRY_WRITE, 0);
		expect_claim(check_chosen(self, row, 1));
		ASSERT_EQ(references, object_page(&self->obj, 1).refcount);
		ASSERT_EQ(0, cpu_write(word_of(&self->mem, 0), 9));
	}
}

/*
 * The copy that a write to a private mapping makes is ordinary memory: of the
 * page it has the contents, but not the caching mode.
 */
TEST_F(prot, private_copy)
{
	const struct row *row;

	for_each_row(&self->ap, row) {
		map_this(row, 0, RW, MAP_SHARED);
		if (!can_be_private(row))
			continue;
		ASSERT_EQ(0, object_store(&self->obj, 1, 77));
		WRITE_MEM(word_of(&self->mem, 2) - 1, 78);
		mem_unmap(&self->mem);
		ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW,
					MAP_PRIVATE));
		expect_word(&self->mem, 1, 77);
		expect_claim(check_chosen(self, row, 1));
		WRITE_MEM(word_of(&self->mem, 1) + 1, 5);
		expect_word(&self->mem, 1, 77);
		ASSERT_EQ(78, READ_MEM(word_of(&self->mem, 2) - 1));
		expect_flags(&self->ap, &self->mem, 1,
			     DEVEXCL_ENTRY_ANON | DEVEXCL_ENTRY_SPECIAL |
			     DEVEXCL_ENTRY_WRITE,
			     DEVEXCL_ENTRY_ANON | DEVEXCL_ENTRY_WRITE);
		expect_caching(&self->ap, &self->mem, 1, row->vma_caching);
		ASSERT_EQ(77, object_load(&self->obj, 1));
		/* Cleaning is about the pages of the object. */
		if (aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_CLEAN))
			ASSERT_EQ(0, object_clean(&self->obj));
		expect_flags(&self->ap, &self->mem, 1,
			     DEVEXCL_ENTRY_DIRTY | DEVEXCL_ENTRY_WRITE,
			     DEVEXCL_ENTRY_DIRTY | DEVEXCL_ENTRY_WRITE);
		/* What was not written to is still the device's. */
		READ_MEM(word_of(&self->mem, 2));
		expect_claim(check_chosen(self, row, 2));
	}
}

/**
 * struct reader - a thread that reads a word on another CPU, now and once more
 * @word: which
 * @has_read: the first time is over, and the CPU knows the entry
 * @again: do it the second time
 * @value: what it was then
 */
struct reader {
	uint64_t *word;
	bool has_read;
	bool again;
	uint64_t value;
};

/* Between the two nothing is called that could make the CPU forget. */
static void *read_twice(void *arg)
{
	struct reader *reader = arg;

	go_to_other_cpus();
	READ_MEM(reader->word);
	WRITE_MEM(&reader->has_read, true);
	while (!READ_MEM(&reader->again))
		;
	reader->value = READ_MEM(reader->word);
	return NULL;
}

/* A CPU that has used the entry of the page sees the copy as well. */
TEST_F(prot, private_copy_on_other_cpus)
{
	const struct row *row;
	pthread_t thread;

	stay_on_one_cpu();
	for_each_row(&self->ap, row) {
		struct reader reader = { .has_read = false };

		if (!can_be_private(row))
			continue;
		map_this(row, 0, RW, MAP_PRIVATE);
		reader.word = word_of(&self->mem, 1);
		ASSERT_EQ(0, pthread_create(&thread, NULL, read_twice,
					    &reader));
		while (!READ_MEM(&reader.has_read))
			sched_yield();
		WRITE_MEM(reader.word, 5);
		WRITE_MEM(&reader.again, true);
		ASSERT_EQ(0, pthread_join(thread, NULL));
		ASSERT_EQ(5, reader.value);
	}
}

/* Read-only in a writable mapping, as the driver wanted it */
TEST_F(prot, read_only_entry)
{
	static const struct row row = PFN(PFN_PROT, SYSTEM, WC, WB);

	ASSERT_EQ(0, map_row(self, &row, DEVEXCL_CREATE_PFN_MKWRITE, RW,
			     MAP_SHARED));
	ASSERT_EQ(0, object_policy(&self->obj, 0, PAGES, row.insert,
				   DEVEXCL_POLICY_READ_ONLY |
				   DEVEXCL_POLICY_REFUSE_WRITE));
	ASSERT_EQ(0, object_policy(&self->obj, 0, 1, row.insert, 0));
	WRITE_MEM(word_of(&self->mem, 0), 1);
	expect_word(&self->mem, 1, 0);
	expect_flags(&self->ap, &self->mem, 1, DEVEXCL_ENTRY_WRITE, 0);
	expect_caching(&self->ap, &self->mem, 1, row.caching);
	ASSERT_EQ(BUS_ADRERR, cpu_write(word_of(&self->mem, 1), 1));
	WRITE_MEM(word_of(&self->mem, 0), 2);
}

/* The same, but it forgot the hook: mm makes the entry writable by itself. */
TEST_F(prot, read_only_entry_without_hook)
{
	static const struct row row = PFN(PFN_PROT, SYSTEM, WC, WB);

	ASSERT_EQ(0, map_row(self, &row, 0, RW, MAP_SHARED));
	ASSERT_EQ(0, object_policy(&self->obj, 0, PAGES, row.insert,
				   DEVEXCL_POLICY_READ_ONLY |
				   DEVEXCL_POLICY_REFUSE_WRITE));
	expect_word(&self->mem, 1, 0);
	expect_flags(&self->ap, &self->mem, 1, DEVEXCL_ENTRY_WRITE, 0);
	ASSERT_EQ(0, cpu_write(word_of(&self->mem, 1), 1));
	expect_flags(&self->ap, &self->mem, 1, DEVEXCL_ENTRY_WRITE,
		     DEVEXCL_ENTRY_WRITE);
	expect_claim(check_chosen(self, &row, 1));
	ASSERT_EQ(1, object_page(&self->obj, 1).faults);
	ASSERT_EQ(1, object_load(&self->obj, 1));
}

DEVEXCL_TEST_MAIN
