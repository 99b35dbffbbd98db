// SPDX-License-Identifier: GPL-2.0
/*
 * A kernel's buffer in user space: by page frame number, or page by page
 *
 * Both work, and are different to all of mm: a PFN map has entries and nothing
 * else, while pages that are inserted one by one are counted, and can be found
 * from the page. What follows from that is here, and what depends on who inserts
 * when: mmap() itself does before the protection of the mapping is final.
 */
#include <sys/uio.h>

#include "devexcl_aperture_test.h"

#define PAGES	4

FIXTURE(map) {
	struct aperture ap;
	struct object obj;
	struct mem mem;
};

/* A way to map the buffer */
FIXTURE_VARIANT(map) {
	enum devexcl_map map;
	bool prepare;	/* with the newer hook */
	bool normal;	/* mm has a struct page for the entries */
	bool final;	/* it is inserted when the protection is final */
};

FIXTURE_VARIANT_ADD(map, vm_insert_page) {
	.map = DEVEXCL_MAP_INSERT_PAGE, .normal = true,
};

FIXTURE_VARIANT_ADD(map, vm_insert_pages) {
	.map = DEVEXCL_MAP_INSERT_PAGES, .normal = true,
};

FIXTURE_VARIANT_ADD(map, vm_map_pages) {
	.map = DEVEXCL_MAP_PAGES, .normal = true,
};

FIXTURE_VARIANT_ADD(map, vm_map_pages_zero) {
	.map = DEVEXCL_MAP_PAGES_ZERO, .normal = true,
};

FIXTURE_VARIANT_ADD(map, remap_pfn_range) {
	.map = DEVEXCL_MAP_REMAP_PFN,
};

FIXTURE_VARIANT_ADD(map, vm_iomap_memory) {
	.map = DEVEXCL_MAP_IOMAP,
};

FIXTURE_VARIANT_ADD(map, mmap_action_map_kernel_pages) {
	.map = DEVEXCL_MAP_INSERT_PAGES, .prepare = true, .normal = true,
	.final = true,
};

/* This one takes the protection that is known when it is asked for. */
FIXTURE_VARIANT_ADD(map, mmap_action_remap) {
	.map = DEVEXCL_MAP_REMAP_PFN, .prepare = true,
};

FIXTURE_VARIANT_ADD(map, mmap_action_ioremap) {
	.map = DEVEXCL_MAP_IOMAP, .prepare = true,
};

FIXTURE_SETUP(map)
{
	setup_aperture(_metadata, &self->ap);
	if (!variant->prepare)
		return;
	if (!aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_PREPARE))
		SKIP_SETUP("this kernel has no such hook for drivers");
	aperture_close(&self->ap);
	ASSERT_EQ(0, aperture_open(&self->ap, true));
}

FIXTURE_TEARDOWN(map)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
}

static int create_pages(FIXTURE_DATA(map) *self,
			const FIXTURE_VARIANT(map) *variant, uint32_t flags,
			uint32_t pages)
{
	const struct devexcl_aperture_create like = {
		.flags = flags,
		.pages = pages,
		.placement = DEVEXCL_PLACE_BUFFER,
		.map = variant->map,
	};

	return object_create(&self->ap, &self->obj, &like);
}

static int create(FIXTURE_DATA(map) *self, const FIXTURE_VARIANT(map) *variant,
		  uint32_t flags)
{
	return create_pages(self, variant, flags, PAGES);
}

#define RW	(PROT_READ | PROT_WRITE)

static int create_and_map(FIXTURE_DATA(map) *self,
			  const FIXTURE_VARIANT(map) *variant, uint32_t flags,
			  int map_flags)
{
	int ret = create(self, variant, flags);

	return ret ? ret : object_map(&self->obj, &self->mem, RW, map_flags);
}

static long mapped_pages(const struct mem *mem)
{
	return smaps_kb(mem, "Rss") * 1024 / (long)page_size();
}

/* All is there at once, writable, and is the buffer. */
TEST_F(map, entries)
{
	uint32_t special = variant->normal ? 0 : DEVEXCL_ENTRY_SPECIAL;
	size_t page;

	ASSERT_EQ(0, create_and_map(self, variant, 0, MAP_SHARED));
	/* The function has said what the mapping is. */
	EXPECT_EQ(variant->normal, smaps_flag(&self->mem, "mm"));
	EXPECT_EQ(!variant->normal, smaps_flag(&self->mem, "pf"));
	EXPECT_EQ(!variant->normal, smaps_flag(&self->mem, "io"));
	for (page = 0; page < PAGES; page++) {
		expect_kind(&self->ap, &self->mem, page, PRESENT);
		expect_flags(&self->ap, &self->mem, page,
			     DEVEXCL_ENTRY_SPECIAL | DEVEXCL_ENTRY_WRITE,
			     special | DEVEXCL_ENTRY_WRITE);
		expect_pfn(&self->ap, &self->mem, page,
			   object_page(&self->obj, page).pfn);
		WRITE_MEM(word_of(&self->mem, page), page + 1);
		ASSERT_EQ(page + 1, object_load(&self->obj, page));
		ASSERT_EQ(0, object_page(&self->obj, page).faults);
	}
}

/* What mmap() inserts is cached as the memory is, and the mapping is to be. */
TEST_F(map, caching)
{
	const struct devexcl_aperture_create like = {
		.pages = PAGES,
		.placement = DEVEXCL_PLACE_BUFFER,
		.caching = DEVEXCL_CACHING_WC,
		.map = variant->map,
		.vma_caching = DEVEXCL_CACHING_WC,
	};
	size_t page;

	if (!aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_PAT))
		SKIP(return, "the CPU's caching modes cannot be chosen");
	ASSERT_EQ(0, object_create(&self->ap, &self->obj, &like));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW, MAP_SHARED));
	for (page = 0; page < PAGES; page++)
		expect_caching(&self->ap, &self->mem, page, like.caching);
}

/* Nothing happens to pages where one page table ends and the next begins. */
TEST_F(map, two_page_tables)
{
	const size_t before = 11, pages = 24, huge = self->ap.info.pmd_pages;
	struct mem room, *mem = &self->mem;
	size_t page;

	ASSERT_EQ(0, create_pages(self, variant, 0, pages));
	ASSERT_EQ(0, mem_map(&room, 2 * huge));
	mem->p = (char *)(((uintptr_t)room.p + huge * page_size()) &
			  -(huge * page_size())) - before * page_size();
	if (mem->p < room.p)
		mem->p += huge * page_size();
	mem->pages = pages;
	mem->size = pages * page_size();
	ASSERT_EQ(mem->p, mmap(mem->p, mem->size, RW, MAP_SHARED | MAP_FIXED,
			       self->ap.fd, self->obj.offset));
	for (page = 0; page < pages; page++) {
		expect_kind(&self->ap, mem, page, PRESENT);
		expect_pfn(&self->ap, mem, page,
			   object_page(&self->obj, page).pfn);
	}
}

/* Where /proc/self/maps says that a mapping is in its file */
static uint64_t file_offset(const struct mem *mem)
{
	unsigned long long start, offset, found = 0;
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%llx-%*x %*s %llx", &start, &offset) == 2 &&
		    start == (uintptr_t)mem->p)
			found = offset;
	if (f)
		fclose(f);
	return found;
}

/* A mapping from further in on, or from the beginning all the same */
TEST_F(map, offset)
{
	size_t first = variant->map == DEVEXCL_MAP_PAGES_ZERO ? 0 : 1;
	size_t page;

	ASSERT_EQ(0, create(self, variant, 0));
	self->obj.offset += page_size();
	self->obj.pages = 2;
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW, MAP_SHARED));
	for (page = 0; page < 2; page++)
		expect_pfn(&self->ap, &self->mem, page,
			   object_page(&self->obj, first + page).pfn);
	mem_unmap(&self->mem);
	self->mem = (struct mem) {};
	EXPECT_EQ(1, object_page(&self->obj, 1).refcount);

	/* Of a private PFN map mm keeps the page frame number instead. */
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW, MAP_PRIVATE));
	EXPECT_EQ(variant->normal ? self->obj.offset :
		  object_page(&self->obj, first).pfn * page_size(),
		  file_offset(&self->mem));
	WRITE_MEM(word_of(&self->mem, 0), 7);
	expect_pfn(&self->ap, &self->mem, 1,
		   object_page(&self->obj, first + 1).pfn);
	ASSERT_EQ(0, object_load(&self->obj, first));
}

/* Is a mapping a reference of the page, and one of its mappings? */
TEST_F(map, counts)
{
	int mapped = variant->normal;
	struct mem again;

	ASSERT_EQ(0, create(self, variant, 0));
	ASSERT_EQ(1, object_page(&self->obj, 0).refcount);
	ASSERT_EQ(0, object_page(&self->obj, 0).mapcount);
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW, MAP_SHARED));
	EXPECT_EQ(1 + mapped, object_page(&self->obj, 0).refcount);
	EXPECT_EQ(mapped, object_page(&self->obj, 0).mapcount);
	EXPECT_EQ(mapped ? PAGES : 0, mapped_pages(&self->mem));
	/* Who has it mapped already does not matter. */
	ASSERT_EQ(0, object_map(&self->obj, &again, RW, MAP_SHARED));
	EXPECT_EQ(1 + 2 * mapped, object_page(&self->obj, 0).refcount);
	EXPECT_EQ(2 * mapped, object_page(&self->obj, 0).mapcount);
	mem_unmap(&again);

	ASSERT_EQ(0, munmap(page_of(&self->mem, 1), page_size()));
	EXPECT_EQ(1, object_page(&self->obj, 1).refcount);
	EXPECT_EQ(0, object_page(&self->obj, 1).mapcount);
	EXPECT_EQ(mapped, object_page(&self->obj, 2).mapcount);
	mem_unmap(&self->mem);
	self->mem = (struct mem) {};
	EXPECT_EQ(1, object_page(&self->obj, 0).refcount);
	EXPECT_EQ(0, object_page(&self->obj, 0).mapcount);
}

TEST_F(map, fork_counts)
{
	int mapped = variant->normal;
	struct gate go, done;
	pid_t child;

	ASSERT_EQ(0, gate_init(&go));
	ASSERT_EQ(0, gate_init(&done));
	ASSERT_EQ(0, create_and_map(self, variant, 0, MAP_SHARED));
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		/* Nobody could give the child the entries later. */
		bool there = !check_kind(&self->ap, &self->mem, 0,
					 DEVEXCL_ENTRY_PRESENT);

		WRITE_MEM(word_of(&self->mem, 0), 9);
		gate_open(&done);
		gate_wait(&go);
		_exit(!there);
	}
	ASSERT_EQ(0, gate_wait(&done));
	EXPECT_EQ(1 + 2 * mapped, object_page(&self->obj, 0).refcount);
	EXPECT_EQ(2 * mapped, object_page(&self->obj, 0).mapcount);
	expect_word(&self->mem, 0, 9);
	gate_open(&go);
	ASSERT_EQ(0, wait_child(child));
	EXPECT_EQ(mapped, object_page(&self->obj, 0).mapcount);
}

/* The same of who looks first whether he can do without the locks. */
TEST_F(map, gup_fast)
{
	uint64_t word;
	struct iovec iov;
	int ends[2];

	ASSERT_EQ(0, create_and_map(self, variant, 0, MAP_SHARED));
	WRITE_MEM(word_of(&self->mem, 0), 4);
	ASSERT_EQ(0, pipe2(ends, O_CLOEXEC));
	iov = (struct iovec) { self->mem.p, sizeof(word) };
	ASSERT_EQ(variant->normal ? (ssize_t)sizeof(word) : -1,
		  vmsplice(ends[1], &iov, 1, 0));
	if (variant->normal) {
		EXPECT_EQ(3, object_page(&self->obj, 0).refcount);
		ASSERT_EQ(sizeof(word), read(ends[0], &word, sizeof(word)));
		ASSERT_EQ(4, word);
	} else {
		ASSERT_EQ(EFAULT, errno);
	}
	close(ends[0]);
	close(ends[1]);
	EXPECT_EQ(1 + variant->normal, object_page(&self->obj, 0).refcount);
}

/* Who wants the page of an address gets it, or gets EFAULT. */
TEST_F(map, gup)
{
	uint64_t value = 0;
	struct iovec local = { &value, sizeof(value) };
	struct iovec remote;
	int pin;

	ASSERT_EQ(0, create_and_map(self, variant, 0, MAP_SHARED));
	WRITE_MEM(word_of(&self->mem, 0), 4);
	remote = (struct iovec) { self->mem.p, sizeof(value) };
	ASSERT_EQ(variant->normal ? (ssize_t)sizeof(value) : -1,
		  process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	if (!variant->normal)
		ASSERT_EQ(EFAULT, errno);
	ASSERT_EQ(variant->normal ? 4 : 0, value);

	pin = pin_longterm(self->mem.p, page_size());
	if (pin == -ENOENT || pin == -EINVAL)
		SKIP(return, "no gup_test that keeps pages pinned");
	if (!variant->normal) {
		ASSERT_EQ(-EFAULT, pin);
		return;
	}
	ASSERT_GE(pin, 0);
	/* A pin of a small page is many references. */
	EXPECT_LT(2, object_page(&self->obj, 0).refcount);
	close(pin);
	EXPECT_EQ(2, object_page(&self->obj, 0).refcount);
}

/*
 * Pages that are mapped are in core. Of PFN maps mincore() says one thing for
 * all: yes, or on older kernels no, as if nothing was in them.
 */
TEST_F(map, mincore)
{
	unsigned char vec[PAGES] = {};
	size_t page;

	ASSERT_EQ(0, create_and_map(self, variant, 0, MAP_SHARED));
	ASSERT_EQ(0, mincore(self->mem.p, self->mem.size, vec));
	for (page = 0; page < PAGES; page++)
		EXPECT_EQ(variant->normal ? 1 : vec[0] & 1, vec[page] & 1);
}

/*
 * With hooks, mm makes the mapping read-only when mmap() is done, so that writes
 * are announced. What mmap() had inserted stays writable, and no write to it is.
 */
TEST_F(map, protection_is_not_final)
{
	const uint32_t hooks = DEVEXCL_CREATE_PAGE_MKWRITE |
			       DEVEXCL_CREATE_PFN_MKWRITE;
	uint32_t write = variant->final ? 0 : DEVEXCL_ENTRY_WRITE;
	struct devexcl_aperture_page page;

	ASSERT_EQ(0, create_and_map(self, variant, hooks, MAP_SHARED));
	expect_flags(&self->ap, &self->mem, 0, DEVEXCL_ENTRY_WRITE, write);
	WRITE_MEM(word_of(&self->mem, 0), 1);
	page = object_page(&self->obj, 0);
	EXPECT_EQ(variant->final, page.page_mkwrites + page.pfn_mkwrites);
	/* mprotect() makes it what the mapping is. */
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size, PROT_READ));
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size, RW));
	WRITE_MEM(word_of(&self->mem, 1), 1);
	page = object_page(&self->obj, 1);
	EXPECT_EQ(1, page.page_mkwrites + page.pfn_mkwrites);
}

/*
 * Without hooks a write to an entry that is read-only in a writable mapping
 * makes it writable, and nobody is asked. Here cleaning made it read-only.
 */
TEST_F(map, silently_writable)
{
	ASSERT_EQ(0, create_and_map(self, variant, 0, MAP_SHARED));
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size, PROT_READ));
	expect_flags(&self->ap, &self->mem, 0, DEVEXCL_ENTRY_WRITE, 0);
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size, RW));
	WRITE_MEM(word_of(&self->mem, 0), 6);
	expect_flags(&self->ap, &self->mem, 0, DEVEXCL_ENTRY_WRITE,
		     DEVEXCL_ENTRY_WRITE);
	ASSERT_EQ(6, object_load(&self->obj, 0));
	if (object_clean(&self->obj) < 0)
		SKIP(return, "the device cannot clean pages");
	expect_flags(&self->ap, &self->mem, 0, DEVEXCL_ENTRY_WRITE, 0);
	ASSERT_EQ(0, cpu_write(word_of(&self->mem, 0), 7));
	expect_flags(&self->ap, &self->mem, 0, DEVEXCL_ENTRY_WRITE,
		     DEVEXCL_ENTRY_WRITE);
	ASSERT_EQ(7, object_load(&self->obj, 0));
	EXPECT_EQ(0, object_page(&self->obj, 0).faults);
}

/* A write to page 0, which was not made yet, is announced once, to this hook. */
static void expect_announced(struct __test_metadata *_metadata,
			     FIXTURE_DATA(map) *self, bool normal)
{
	const uint32_t written = DEVEXCL_ENTRY_WRITE | DEVEXCL_ENTRY_DIRTY;
	struct devexcl_aperture_page page;

	expect_flags(&self->ap, &self->mem, 0, DEVEXCL_ENTRY_WRITE, 0);
	WRITE_MEM(word_of(&self->mem, 0), 6);
	WRITE_MEM(word_of(&self->mem, 0) + 1, 7);
	page = object_page(&self->obj, 0);
	ASSERT_EQ(normal, page.page_mkwrites);
	ASSERT_EQ(!normal, page.pfn_mkwrites);
	ASSERT_EQ(0, page.faults);
	expect_flags(&self->ap, &self->mem, 0, written, written);
	expect_pfn(&self->ap, &self->mem, 0, page.pfn);
	ASSERT_EQ(6, object_load(&self->obj, 0));
}

/* This page may not be written to, and others are not concerned. */
static void expect_refused(struct __test_metadata *_metadata,
			   FIXTURE_DATA(map) *self, size_t page)
{
	ASSERT_EQ(BUS_ADRERR, cpu_write(word_of(&self->mem, page), 9));
	expect_word(&self->mem, page, 0);
	expect_kind(&self->ap, &self->mem, page, PRESENT);
	expect_flags(&self->ap, &self->mem, page, DEVEXCL_ENTRY_WRITE, 0);
	ASSERT_EQ(0, object_load(&self->obj, page));
}

/*
 * Who inserts with a protection of his own is asked about each page, even if he
 * inserts before the mapping's is final: the ring buffer of perf. There is no
 * vm_insert_pages_prot(), but this is what it would do: the same to
 * user space as remap_pfn_range(), and as the newer hook, which comes later.
 */
TEST_F(map, inserted_read_only)
{
	const uint32_t flags = DEVEXCL_CREATE_MAP_READ_ONLY |
			       DEVEXCL_CREATE_PAGE_MKWRITE |
			       DEVEXCL_CREATE_PFN_MKWRITE;
	size_t page;

	ASSERT_EQ(0, create(self, variant, flags));
	ASSERT_EQ(0, object_policy(&self->obj, 1, PAGES - 1,
				   DEVEXCL_INSERT_NONE,
				   DEVEXCL_POLICY_REFUSE_WRITE));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW, MAP_SHARED));
	expect_announced(_metadata, self, variant->normal);
	for (page = 1; page < PAGES; page++)
		expect_refused(_metadata, self, page);
	/* mprotect() has nobody forget it. */
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size, PROT_READ));
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size, RW));
	expect_refused(_metadata, self, 1);
	ASSERT_EQ(0, cpu_write(word_of(&self->mem, 0), 8));
}

/*
 * Without a hook it was in vain: nobody is asked. The newer hook for pages has
 * no protection to choose, and takes the mapping's, which is writable then.
 */
TEST_F(map, inserted_read_only_without_hook)
{
	uint32_t write = variant->final ? DEVEXCL_ENTRY_WRITE : 0;

	ASSERT_EQ(0, create(self, variant, DEVEXCL_CREATE_MAP_READ_ONLY));
	ASSERT_EQ(0, object_policy(&self->obj, 0, PAGES, DEVEXCL_INSERT_NONE,
				   DEVEXCL_POLICY_REFUSE_WRITE));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW, MAP_SHARED));
	expect_flags(&self->ap, &self->mem, 1, DEVEXCL_ENTRY_WRITE, write);
	ASSERT_EQ(0, cpu_write(word_of(&self->mem, 1), 6));
	expect_flags(&self->ap, &self->mem, 1, DEVEXCL_ENTRY_WRITE,
		     DEVEXCL_ENTRY_WRITE);
	ASSERT_EQ(6, object_load(&self->obj, 1));
	ASSERT_EQ(0, object_page(&self->obj, 1).faults);
	expect_flags(&self->ap, &self->mem, 2, DEVEXCL_ENTRY_WRITE, write);
}

/* A copy of a page of a private mapping is ordinary memory. */
TEST_F(map, private_copy)
{
	uint32_t special = variant->normal ? 0 : DEVEXCL_ENTRY_SPECIAL;

	ASSERT_EQ(0, create(self, variant, 0));
	ASSERT_EQ(0, object_store(&self->obj, 1, 8));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW, MAP_PRIVATE));
	expect_flags(&self->ap, &self->mem, 1,
		     DEVEXCL_ENTRY_SPECIAL | DEVEXCL_ENTRY_WRITE, special);
	expect_word(&self->mem, 1, 8);
	WRITE_MEM(word_of(&self->mem, 1), 9);
	expect_flags(&self->ap, &self->mem, 1,
		     DEVEXCL_ENTRY_SPECIAL | DEVEXCL_ENTRY_ANON,
		     DEVEXCL_ENTRY_ANON);
	ASSERT_EQ(8, object_load(&self->obj, 1));
	expect_flags(&self->ap, &self->mem, 2, DEVEXCL_ENTRY_SPECIAL, special);
	EXPECT_EQ(0, object_page(&self->obj, 1).mapcount);
	EXPECT_EQ(1, object_page(&self->obj, 1).refcount);
}

/* If mmap() fails half way, then nothing of it stays. */
FIXTURE(fail) {
	struct aperture ap;
	struct object obj;
	struct mem mem;
};

FIXTURE_VARIANT(fail) {
	enum devexcl_map map;
	uint32_t part;
};

FIXTURE_VARIANT_ADD(fail, vm_insert_page) {
	.map = DEVEXCL_MAP_INSERT_PAGE,
};

FIXTURE_VARIANT_ADD(fail, remap_pfn_range) {
	.map = DEVEXCL_MAP_REMAP_PFN, .part = 1,
};

FIXTURE_SETUP(fail)
{
	const struct devexcl_aperture_create like = {
		.pages = PAGES,
		.placement = DEVEXCL_PLACE_BUFFER,
		.map = variant->map,
		.part = variant->part,
	};

	setup_aperture(_metadata, &self->ap);
	ASSERT_EQ(0, object_create(&self->ap, &self->obj, &like));
}

FIXTURE_TEARDOWN(fail)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
}

TEST_F(fail, in_the_middle)
{
	struct mem hole;
	size_t page;
	uint32_t n;

	ASSERT_EQ(0, mem_map(&hole, PAGES));
	for (n = 1; n < PAGES; n++) {
		ASSERT_EQ(0, object_inject(&self->obj, 0, n));
		/* Where something was mapped, and is not any more. */
		ASSERT_EQ(MAP_FAILED,
			  mmap(hole.p, hole.size, RW, MAP_SHARED | MAP_FIXED,
			       self->ap.fd, self->obj.offset));
		ASSERT_EQ(EIO, errno);
		for (page = 0; page < PAGES; page++) {
			EXPECT_EQ(1, object_page(&self->obj, page).refcount);
			EXPECT_EQ(0, object_page(&self->obj, page).mapcount);
			expect_none(&self->ap, &hole, page);
		}
	}
	/* And then it works. */
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW, MAP_SHARED));
	expect_kind(&self->ap, &self->mem, PAGES - 1, PRESENT);
}

/*
 * A private PFN map is made in one piece or not at all: its only page frame
 * number is how mm tells copies.
 */
TEST_F(fail, private_in_parts)
{
	int ret = object_map(&self->obj, &self->mem, RW, MAP_PRIVATE);

	ASSERT_EQ(variant->map == DEVEXCL_MAP_REMAP_PFN ? -EINVAL : 0, ret);
}

/* The ring buffer: the first page may be written to, the others may not. */
FIXTURE(ring) {
	struct aperture ap;
	struct object obj;
	struct mem mem;
};

FIXTURE_VARIANT(ring) {
	enum devexcl_vma vma;
	enum devexcl_insert insert;
};

FIXTURE_VARIANT_ADD(ring, vmf_insert_pfn) {
	.vma = DEVEXCL_VMA_PFN, .insert = DEVEXCL_INSERT_PFN,
};

FIXTURE_VARIANT_ADD(ring, vm_insert_page) {
	.vma = DEVEXCL_VMA_MIXED, .insert = DEVEXCL_INSERT_PAGE,
};

FIXTURE_VARIANT_ADD(ring, vmf_insert_mixed) {
	.vma = DEVEXCL_VMA_MIXED, .insert = DEVEXCL_INSERT_MIXED,
};

FIXTURE_SETUP(ring)
{
	const struct devexcl_aperture_create like = {
		.flags = DEVEXCL_CREATE_PAGE_MKWRITE |
			 DEVEXCL_CREATE_PFN_MKWRITE,
		.pages = PAGES,
		.placement = DEVEXCL_PLACE_BUFFER,
		.vma = variant->vma,
	};

	setup_aperture(_metadata, &self->ap);
	ASSERT_EQ(0, object_create(&self->ap, &self->obj, &like));
	ASSERT_EQ(0, object_policy(&self->obj, 0, PAGES, variant->insert,
				   DEVEXCL_POLICY_REFUSE_WRITE));
	ASSERT_EQ(0, object_policy(&self->obj, 0, 1, variant->insert, 0));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW, MAP_SHARED));
}

FIXTURE_TEARDOWN(ring)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
}

TEST_F(ring, first_page_only)
{
	size_t page;

	ASSERT_EQ(0, cpu_write(word_of(&self->mem, 0), 1));
	for (page = 1; page < PAGES; page++) {
		ASSERT_EQ(0, object_store(&self->obj, page, page));
		expect_word(&self->mem, page, page);
		ASSERT_EQ(BUS_ADRERR, cpu_write(word_of(&self->mem, page), 9));
		expect_word(&self->mem, page, page);
		expect_flags(&self->ap, &self->mem, page, DEVEXCL_ENTRY_WRITE,
			     0);
	}
	/* Also after mprotect() has had all of it in its hands. */
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size, PROT_READ));
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size, RW));
	ASSERT_EQ(0, cpu_write(word_of(&self->mem, 0), 2));
	ASSERT_EQ(BUS_ADRERR, cpu_write(word_of(&self->mem, 1), 9));
	expect_word(&self->mem, 1, 1);
}

/* A driver whose hook forgot to refuse would be noticed. */
TEST_F(ring, notices_a_write)
{
	ASSERT_EQ(0, object_inject(&self->obj,
				   DEVEXCL_APERTURE_BROKEN_ALLOW_WRITE, 0));
	ASSERT_EQ(0, cpu_write(word_of(&self->mem, 1), 9));
	ASSERT_EQ(9, object_load(&self->obj, 1));
}

DEVEXCL_TEST_MAIN
