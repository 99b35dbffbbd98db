// SPDX-License-Identifier: GPL-2.0
/*
 * The zero page in mappings of drivers
 *
 * It may be mapped where nobody can ever write to it: in mappings that can never
 * be written, in private ones, where a write makes a copy, and in shared
 * writable ones only if each write is announced to somebody who knows what to
 * do, and the page cannot be pinned meanwhile. Newer kernels check that; of older
 * ones it is said here that they do not.
 */
#include <sys/ioctl.h>

#include "devexcl_aperture_test.h"

#define PAGES	4
#define HOOKS	(DEVEXCL_CREATE_PAGE_MKWRITE | DEVEXCL_CREATE_PFN_MKWRITE)

FIXTURE(zero) {
	struct aperture ap;
	struct object obj;
	struct mem mem;
};

/* What the mapping is, and whether the zero page is allowed there. */
FIXTURE_VARIANT(zero) {
	int prot;
	int map_flags;
	uint32_t create_flags;
	bool allowed;
};

FIXTURE_VARIANT_ADD(zero, private) {
	.prot = PROT_READ | PROT_WRITE, .map_flags = MAP_PRIVATE,
	.allowed = true,
};

FIXTURE_VARIANT_ADD(zero, private_read) {
	.prot = PROT_READ, .map_flags = MAP_PRIVATE, .allowed = true,
};

FIXTURE_VARIANT_ADD(zero, private_io) {
	.prot = PROT_READ | PROT_WRITE, .map_flags = MAP_PRIVATE,
	.create_flags = DEVEXCL_CREATE_VM_IO, .allowed = true,
};

FIXTURE_VARIANT_ADD(zero, private_never_written) {
	.prot = PROT_READ, .map_flags = MAP_PRIVATE,
	.create_flags = DEVEXCL_CREATE_READ_ONLY, .allowed = true,
};

FIXTURE_VARIANT_ADD(zero, shared_never_written) {
	.prot = PROT_READ, .map_flags = MAP_SHARED,
	.create_flags = DEVEXCL_CREATE_READ_ONLY, .allowed = true,
};

FIXTURE_VARIANT_ADD(zero, shared) {
	.prot = PROT_READ | PROT_WRITE, .map_flags = MAP_SHARED,
};

/* mprotect() could make it writable. */
FIXTURE_VARIANT_ADD(zero, shared_read) {
	.prot = PROT_READ, .map_flags = MAP_SHARED,
};

FIXTURE_VARIANT_ADD(zero, shared_pfn_mkwrite) {
	.prot = PROT_READ | PROT_WRITE, .map_flags = MAP_SHARED,
	.create_flags = DEVEXCL_CREATE_PFN_MKWRITE,
};

FIXTURE_VARIANT_ADD(zero, shared_both_mkwrite) {
	.prot = PROT_READ | PROT_WRITE, .map_flags = MAP_SHARED,
	.create_flags = HOOKS,
};

FIXTURE_VARIANT_ADD(zero, shared_io) {
	.prot = PROT_READ | PROT_WRITE, .map_flags = MAP_SHARED,
	.create_flags = DEVEXCL_CREATE_VM_IO,
};

FIXTURE_VARIANT_ADD(zero, shared_io_page_mkwrite) {
	.prot = PROT_READ | PROT_WRITE, .map_flags = MAP_SHARED,
	.create_flags = DEVEXCL_CREATE_VM_IO | DEVEXCL_CREATE_PAGE_MKWRITE,
};

FIXTURE_VARIANT_ADD(zero, shared_io_pfn_mkwrite) {
	.prot = PROT_READ | PROT_WRITE, .map_flags = MAP_SHARED,
	.create_flags = DEVEXCL_CREATE_VM_IO | DEVEXCL_CREATE_PFN_MKWRITE,
	.allowed = true,
};

FIXTURE_VARIANT_ADD(zero, shared_io_both_mkwrite) {
	.prot = PROT_READ | PROT_WRITE, .map_flags = MAP_SHARED,
	.create_flags = DEVEXCL_CREATE_VM_IO | HOOKS, .allowed = true,
};

FIXTURE_VARIANT_ADD(zero, shared_read_io_both_mkwrite) {
	.prot = PROT_READ, .map_flags = MAP_SHARED,
	.create_flags = DEVEXCL_CREATE_VM_IO | HOOKS, .allowed = true,
};

FIXTURE_SETUP(zero)
{
	setup_aperture(_metadata, &self->ap);
}

FIXTURE_TEARDOWN(zero)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
}

/*
 * The zero page is mapped, reads as zeros, cannot be written through this entry,
 * and is nobody's mapping if the kernel says that it does not count it.
 */
static void expect_zero(struct __test_metadata *_metadata,
			FIXTURE_DATA(zero) *self, size_t page, bool special)
{
	uint32_t want = DEVEXCL_ENTRY_ZERO;
	uint64_t value = 1;

	if (special)
		want |= DEVEXCL_ENTRY_SPECIAL;
	ASSERT_EQ(0, cpu_read(word_of(&self->mem, page), &value));
	ASSERT_EQ(0, value);
	expect_kind(&self->ap, &self->mem, page, PRESENT);
	expect_flags(&self->ap, &self->mem, page,
		     DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_SPECIAL |
		     DEVEXCL_ENTRY_WRITE, want);
}

/*
 * A write gives a private page in a private mapping; in all others it is
 * refused, and the zero page stays zero.
 */
static void expect_write(struct __test_metadata *_metadata,
			 FIXTURE_DATA(zero) *self,
			 const FIXTURE_VARIANT(zero) *variant, size_t page)
{
	bool private = variant->map_flags == MAP_PRIVATE;
	bool writable = variant->prot & PROT_WRITE;
	int code = cpu_write(word_of(&self->mem, page), 7);

	if (!writable) {
		ASSERT_EQ(SEGV_ACCERR, code);
	} else if (!private) {
		ASSERT_EQ(BUS_ADRERR, code);
	} else {
		ASSERT_EQ(0, code);
		expect_word(&self->mem, page, 7);
		expect_flags(&self->ap, &self->mem, page,
			     DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_SPECIAL |
			     DEVEXCL_ENTRY_ANON, DEVEXCL_ENTRY_ANON);
	}
	if (!private || !writable)
		expect_flags(&self->ap, &self->mem, page,
			     DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_WRITE,
			     DEVEXCL_ENTRY_ZERO);
}

/**
 * struct function - what inserts the zero page
 * @name: for messages
 * @insert: when it is touched, or DEVEXCL_INSERT_NONE
 * @map: else by mmap() itself
 * @refusal: how it refuses
 * @special: it marks what it does not count, on all kernels
 * @mkwrite: it is for pages that are going to be written to
 */
struct function {
	const char *name;
	enum devexcl_insert insert;
	enum devexcl_map map;
	int refusal;
	bool special;
	bool mkwrite;
};

static const struct function functions[] = {
	{
		.name = "vm_insert_page",
		.insert = DEVEXCL_INSERT_PAGE,
		.refusal = EINVAL,
	}, {
		.name = "vm_insert_pages",
		.insert = DEVEXCL_INSERT_PAGES,
		.refusal = EINVAL,
	}, {
		.name = "vmf_insert_mixed",
		.insert = DEVEXCL_INSERT_MIXED,
		.refusal = EFAULT,
		.special = true,
	}, {
		.name = "vmf_insert_mixed_prot",
		.insert = DEVEXCL_INSERT_MIXED_PROT,
		.refusal = EFAULT,
		.special = true,
	}, {
		.name = "vmf_insert_mixed_mkwrite",
		.insert = DEVEXCL_INSERT_MIXED_MKWRITE,
		.special = true,
		.mkwrite = true,
	}, {
		.name = "vmf_insert_page_mkwrite",
		.insert = DEVEXCL_INSERT_PAGE_MKWRITE,
		.mkwrite = true,
	}, {
		.name = "vm_insert_page in mmap()",
		.map = DEVEXCL_MAP_INSERT_PAGE,
		.refusal = EINVAL,
	}, {
		.name = "vm_insert_pages in mmap()",
		.map = DEVEXCL_MAP_INSERT_PAGES,
		.refusal = EINVAL,
	}, {
		.name = "vm_map_pages",
		.map = DEVEXCL_MAP_PAGES,
		.refusal = EINVAL,
	}, {
		.name = "vm_map_pages_zero",
		.map = DEVEXCL_MAP_PAGES_ZERO,
		.refusal = EINVAL,
	},
};

#define for_each_function(f)						\
	for (f = functions; f < functions + ARRAY_SIZE(functions); f++)

/*
 * What is to happen: 0 if the zero page gets mapped, else the error of who
 * refuses it.
 *
 * A kernel that checks nothing would map it anywhere. Where it would be writable
 * then, the device says EACCES; and it does not ask for a page to be made
 * writable unless that cannot be.
 */
static int verdict(const struct aperture *ap, const struct function *f,
		   const FIXTURE_VARIANT(zero) *variant)
{
	bool never = variant->create_flags & DEVEXCL_CREATE_READ_ONLY;
	bool private = variant->map_flags == MAP_PRIVATE;

	if (f->mkwrite && !never)
		return private ? EINVAL : EACCES;
	if (aperture_can(ap, DEVEXCL_APERTURE_CAP_ZERO_CHECKED))
		return variant->allowed ? 0 : f->refusal;
	if (private || never)
		return 0;
	return (variant->create_flags & HOOKS) == HOOKS ? 0 : EACCES;
}

/* Functions that count mappings mark what they do not count. */
static bool counts_not(const struct aperture *ap)
{
	return aperture_can(ap, DEVEXCL_APERTURE_CAP_ZERO_UNCOUNTED);
}

static bool is_special(const struct aperture *ap, const struct function *f)
{
	return f->special || counts_not(ap);
}

/* A new object; the mapping of the one before goes. */
static int create_zero(FIXTURE_DATA(zero) *self, const struct function *f,
		       const FIXTURE_VARIANT(zero) *variant)
{
	const struct devexcl_aperture_create like = {
		.flags = variant->create_flags,
		.pages = PAGES,
		.vma = f->insert ? DEVEXCL_VMA_MIXED : DEVEXCL_VMA_PLAIN,
		.map = f->map,
	};
	int ret;

	mem_unmap(&self->mem);
	self->mem = (struct mem) {};
	ret = object_create(&self->ap, &self->obj, &like);
	return ret ? ret : object_policy(&self->obj, 0, PAGES, f->insert,
					 DEVEXCL_POLICY_ZERO);
}

static int map_zero(FIXTURE_DATA(zero) *self, const struct function *f,
		    const FIXTURE_VARIANT(zero) *variant)
{
	int ret = create_zero(self, f, variant);

	return ret ? ret : object_map(&self->obj, &self->mem, variant->prot,
				      variant->map_flags);
}

/* Touch page 1: it alone is mapped, or refused with this error. */
static void expect_answer(struct __test_metadata *_metadata,
			  FIXTURE_DATA(zero) *self,
			  const FIXTURE_VARIANT(zero) *variant,
			  const struct function *f, int want)
{
	uint64_t value;
	int code;

	TH_LOG("%s", f->name);
	code = cpu_read(word_of(&self->mem, 1), &value);
	ASSERT_EQ(-want, object_page(&self->obj, 1).error);
	ASSERT_EQ(want ? BUS_ADRERR : 0, code);
	expect_none(&self->ap, &self->mem, 0);
	expect_none(&self->ap, &self->mem, 2);
	if (want) {
		expect_none(&self->ap, &self->mem, 1);
		return;
	}
	expect_zero(_metadata, self, 1, is_special(&self->ap, f));
	expect_write(_metadata, self, variant, 1);
}

/* Which functions that insert pages when they are touched map it, and how? */
TEST_F(zero, fault)
{
	const struct function *f;

	for_each_function(f) {
		if (!f->insert || !aperture_can_insert(&self->ap, f->insert))
			continue;
		ASSERT_EQ(0, map_zero(self, f, variant));
		expect_answer(_metadata, self, variant, f,
			      verdict(&self->ap, f, variant));
	}
}

/* Which functions that mmap() calls? */
TEST_F(zero, mmap)
{
	const struct function *f;
	int want;

	for_each_function(f) {
		if (f->insert)
			continue;
		TH_LOG("%s", f->name);
		want = verdict(&self->ap, f, variant);
		ASSERT_EQ(-want, map_zero(self, f, variant));
		if (want)
			continue;
		expect_zero(_metadata, self, PAGES - 1,
			    is_special(&self->ap, f));
		expect_write(_metadata, self, variant, PAGES - 1);
		expect_zero(_metadata, self, 0, is_special(&self->ap, f));
	}
}

/*
 * Where the device does not see to it itself, the kernel does: what it should
 * refuse it refuses, and what it maps cannot be written to.
 */
static bool trusts_kernel(FIXTURE_DATA(zero) *self)
{
	return self->ap.info.broken & DEVEXCL_APERTURE_BROKEN_TRUST_ZERO;
}

static int map_trusting(FIXTURE_DATA(zero) *self, const struct function *f,
			const FIXTURE_VARIANT(zero) *variant)
{
	int ret = create_zero(self, f, variant);

	if (!ret)
		ret = object_inject(&self->obj,
				    DEVEXCL_APERTURE_BROKEN_TRUST_ZERO, 0);
	return ret ? ret : object_map(&self->obj, &self->mem, variant->prot,
				      variant->map_flags);
}

static void expect_trusted(struct __test_metadata *_metadata,
			   FIXTURE_DATA(zero) *self,
			   const FIXTURE_VARIANT(zero) *variant,
			   const struct function *f, int want)
{
	ASSERT_EQ(0, map_trusting(self, f, variant));
	expect_answer(_metadata, self, variant, f, want);
}

TEST_F(zero, trusted_fault)
{
	const struct function *f;

	if (!trusts_kernel(self))
		SKIP(return, "this kernel leaves it to the driver");
	for_each_function(f)
		if (f->insert && !f->mkwrite &&
		    aperture_can_insert(&self->ap, f->insert))
			expect_trusted(_metadata, self, variant, f,
				       variant->allowed ? 0 : f->refusal);
}

/* Who is to make it writable has nothing to do with the zero page. */
TEST_F(zero, trusted_mkwrite)
{
	const struct function *f;

	if (!trusts_kernel(self))
		SKIP(return, "this kernel leaves it to the driver");
	if (variant->map_flags == MAP_PRIVATE)
		SKIP(return, "not for private mappings");
	if (variant->create_flags & DEVEXCL_CREATE_READ_ONLY)
		SKIP(return, "nothing can be made writable there");
	if (!aperture_can_insert(&self->ap, DEVEXCL_INSERT_PAGE_MKWRITE))
		SKIP(return, "this kernel has no such function");
	for_each_function(f)
		if (f->mkwrite && aperture_can_insert(&self->ap, f->insert))
			expect_trusted(_metadata, self, variant, f, EFAULT);
}

TEST_F(zero, trusted_mmap)
{
	const struct function *f;

	if (!trusts_kernel(self))
		SKIP(return, "this kernel leaves it to the driver");
	for_each_function(f) {
		if (f->insert)
			continue;
		TH_LOG("%s", f->name);
		ASSERT_EQ(variant->allowed ? 0 : -f->refusal,
			  map_trusting(self, f, variant));
		if (!variant->allowed)
			continue;
		expect_zero(_metadata, self, 1, is_special(&self->ap, f));
		expect_write(_metadata, self, variant, 1);
	}
}

/* Pages of a mapping that mm counts, as far as smaps knows them */
static long mapped_pages(const struct mem *mem)
{
	return smaps_kb(mem, "Rss") * 1024 / (long)page_size();
}

/*
 * Its references and mappings are not counted, so nobody can have them run over.
 * Up to Linux 6.10 they were, by functions that count pages.
 */
TEST_F(zero, counts)
{
	struct devexcl_aperture_page before, now;
	const struct function *f;
	pid_t child;
	int want;

	for_each_function(f) {
		if (!f->insert || !aperture_can_insert(&self->ap, f->insert) ||
		    verdict(&self->ap, f, variant))
			continue;
		TH_LOG("%s", f->name);
		ASSERT_EQ(0, map_zero(self, f, variant));
		object_zap(&self->obj, 0);
		before = object_page(&self->obj, 0);
		READ_MEM(word_of(&self->mem, 0));
		READ_MEM(word_of(&self->mem, 1));
		want = is_special(&self->ap, f) ? 0 : 2;
		now = object_page(&self->obj, 0);
		EXPECT_EQ(want, now.refcount - before.refcount);
		EXPECT_EQ(want, now.mapcount - before.mapcount);
		EXPECT_EQ(want, mapped_pages(&self->mem));
		/* Nor of a child, which goes again. */
		child = fork();
		ASSERT_GE(child, 0);
		if (!child) {
			now = object_page(&self->obj, 0);
			_exit(now.mapcount - before.mapcount != 2 * want);
		}
		EXPECT_EQ(0, wait_child(child));
		object_zap(&self->obj, 0);
		now = object_page(&self->obj, 0);
		EXPECT_EQ(before.refcount, now.refcount);
		EXPECT_EQ(before.mapcount, now.mapcount);
		EXPECT_EQ(0, mapped_pages(&self->mem));
		/* munmap() is the other way to be rid of it. */
		READ_MEM(word_of(&self->mem, 1));
		mem_unmap(&self->mem);
		self->mem = (struct mem) {};
		now = object_page(&self->obj, 0);
		EXPECT_EQ(before.refcount, now.refcount);
		EXPECT_EQ(before.mapcount, now.mapcount);
	}
}

FIXTURE(zero_page) {
	struct aperture ap;
	struct object obj;
	struct mem mem;
};

FIXTURE_SETUP(zero_page)
{
	setup_aperture(_metadata, &self->ap);
}

FIXTURE_TEARDOWN(zero_page)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
}

/* Pages 0 and 2 are the zero page, the others have their number in them. */
static int create_mixture(FIXTURE_DATA(zero_page) *self,
			  const struct devexcl_aperture_create *like)
{
	int ret = object_create(&self->ap, &self->obj, like);
	uint32_t page;

	for (page = 0; !ret && page < like->pages; page++) {
		ret = object_policy(&self->obj, page, 1, DEVEXCL_INSERT_PAGES,
				    page % 2 ? 0 : DEVEXCL_POLICY_ZERO);
		if (!ret)
			ret = object_store(&self->obj, page, page);
	}
	return ret;
}

static void expect_mixture(struct __test_metadata *_metadata,
			   FIXTURE_DATA(zero_page) *self)
{
	size_t page;

	for (page = 0; page < self->mem.pages; page++) {
		expect_kind(&self->ap, &self->mem, page, PRESENT);
		expect_flags(&self->ap, &self->mem, page, DEVEXCL_ENTRY_ZERO,
			     page % 2 ? 0 : DEVEXCL_ENTRY_ZERO);
		expect_word(&self->mem, page, page % 2 ? page : 0);
	}
}

/* A batch may have the zero page in it, anywhere. */
TEST_F(zero_page, batch)
{
	const struct devexcl_aperture_create like = {
		.pages = PAGES,
		.vma = DEVEXCL_VMA_MIXED,
		.batch = PAGES,
	};

	ASSERT_EQ(0, create_mixture(self, &like));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, PROT_READ,
				MAP_PRIVATE));
	expect_word(&self->mem, 0, 0);
	EXPECT_EQ(1, object_page(&self->obj, 0).faults);
	expect_mixture(_metadata, self);
	EXPECT_EQ(0, object_page(&self->obj, 1).faults);
	if (counts_not(&self->ap))
		EXPECT_EQ(PAGES / 2, mapped_pages(&self->mem));
	ASSERT_EQ(0, object_zap(&self->obj, 0));
	EXPECT_EQ(0, mapped_pages(&self->mem));
}

/* vmf_insert_mixed() takes it for mappings that are nothing special otherwise. */
TEST_F(zero_page, in_plain_mapping)
{
	const struct devexcl_aperture_create like = {
		.pages = PAGES,
		.vma = DEVEXCL_VMA_PLAIN,
	};

	ASSERT_EQ(0, object_create(&self->ap, &self->obj, &like));
	ASSERT_EQ(0, object_policy(&self->obj, 0, PAGES, DEVEXCL_INSERT_MIXED,
				   DEVEXCL_POLICY_ZERO));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, PROT_READ | PROT_WRITE,
				MAP_PRIVATE));
	expect_word(&self->mem, 1, 0);
	expect_flags(&self->ap, &self->mem, 1,
		     DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_SPECIAL |
		     DEVEXCL_ENTRY_WRITE,
		     DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_SPECIAL);
	EXPECT_EQ(0, mapped_pages(&self->mem));
	WRITE_MEM(word_of(&self->mem, 1), 7);
	expect_flags(&self->ap, &self->mem, 1,
		     DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_ANON,
		     DEVEXCL_ENTRY_ANON);
	EXPECT_EQ(1, mapped_pages(&self->mem));
}

/* It ends where something is mapped; what was inserted before that stays. */
TEST_F(zero_page, batch_meets_entry)
{
	const struct devexcl_aperture_create like = {
		.pages = PAGES,
		.vma = DEVEXCL_VMA_MIXED,
		.batch = PAGES,
	};

	ASSERT_EQ(0, create_mixture(self, &like));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, PROT_READ,
				MAP_PRIVATE));
	READ_MEM(word_of(&self->mem, PAGES - 1));
	expect_none(&self->ap, &self->mem, PAGES - 2);
	READ_MEM(word_of(&self->mem, 0));
	EXPECT_EQ(0, object_page(&self->obj, 0).error);
	EXPECT_EQ(0, object_page(&self->obj, 1).faults);
	expect_mixture(_metadata, self);
}

TEST_F(zero_page, batch_in_mmap)
{
	const struct devexcl_aperture_create like = {
		.pages = PAGES,
		.map = DEVEXCL_MAP_INSERT_PAGES,
	};

	ASSERT_EQ(0, create_mixture(self, &like));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, PROT_READ,
				MAP_PRIVATE));
	expect_mixture(_metadata, self);
}

/* If it is refused in the middle, then what was inserted before goes, too. */
TEST_F(zero_page, batch_refused)
{
	struct devexcl_aperture_create like = { .pages = PAGES };

	if (!aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_ZERO_CHECKED))
		SKIP(return, "this kernel does not refuse it");
	for (like.map = DEVEXCL_MAP_INSERT_PAGE;
	     like.map <= DEVEXCL_MAP_PAGES_ZERO; like.map++) {
		TH_LOG("map %u", like.map);
		ASSERT_EQ(0, create_mixture(self, &like));
		ASSERT_EQ(0, object_policy(&self->obj, 0, 1,
					   DEVEXCL_INSERT_PAGES, 0));
		ASSERT_EQ(-EINVAL, object_map(&self->obj, &self->mem,
					      PROT_READ | PROT_WRITE,
					      MAP_SHARED));
		EXPECT_EQ(0, object_page(&self->obj, 0).mapcount);
		EXPECT_EQ(1, object_page(&self->obj, 0).refcount);
	}
}

/*
 * Who pins it for long gets a page of his own instead, which is mapped then: the
 * CPU's writes are seen through the pin.
 */
FIXTURE(pinned) {
	struct aperture ap;
	struct object obj;
	struct mem mem;
	uint64_t *words;
};

FIXTURE_VARIANT(pinned) {
	enum devexcl_insert insert;
};

FIXTURE_VARIANT_ADD(pinned, vmf_insert_mixed) {
	.insert = DEVEXCL_INSERT_MIXED,
};

FIXTURE_VARIANT_ADD(pinned, vm_insert_page) {
	.insert = DEVEXCL_INSERT_PAGE,
};

FIXTURE_VARIANT_ADD(pinned, vm_insert_pages) {
	.insert = DEVEXCL_INSERT_PAGES,
};

FIXTURE_SETUP(pinned)
{
	const struct devexcl_aperture_create like = {
		.pages = 1,
		.vma = DEVEXCL_VMA_MIXED,
	};

	self->words = malloc(page_size());
	setup_aperture(_metadata, &self->ap);
	ASSERT_EQ(0, object_create(&self->ap, &self->obj, &like));
	ASSERT_EQ(0, object_policy(&self->obj, 0, 1, variant->insert,
				   DEVEXCL_POLICY_ZERO));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, PROT_READ | PROT_WRITE,
				MAP_PRIVATE));
}

FIXTURE_TEARDOWN(pinned)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
	free(self->words);
}

TEST_F(pinned, private)
{
	int32_t refcount = object_page(&self->obj, 0).refcount;
	uint64_t pfn;
	int pin;

	expect_word(&self->mem, 0, 0);
	expect_flags(&self->ap, &self->mem, 0, DEVEXCL_ENTRY_ZERO,
		     DEVEXCL_ENTRY_ZERO);
	pin = pin_longterm(self->mem.p, page_size());
	if (pin == -ENOENT || pin == -EINVAL)
		SKIP(return, "no gup_test that keeps pages pinned");
	ASSERT_GE(pin, 0);
	expect_flags(&self->ap, &self->mem, 0,
		     DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_ANON,
		     DEVEXCL_ENTRY_ANON);
	pfn = entry_at(&self->ap, self->mem.p).pfn;
	WRITE_MEM(word_of(&self->mem, 0), 5);
	expect_pfn(&self->ap, &self->mem, 0, pfn);
	ASSERT_EQ(0, pin_read(pin, self->words));
	EXPECT_EQ(5, self->words[0]);
	EXPECT_EQ(refcount, object_page(&self->obj, 0).refcount);
	close(pin);
	EXPECT_EQ(refcount, object_page(&self->obj, 0).refcount);
}

/* Whoever tracks writes still knows what he knew of the zero page. */
TEST_F(zero_page, pinned_soft_dirty)
{
	const struct devexcl_aperture_create like = {
		.pages = 1,
		.vma = DEVEXCL_VMA_MIXED,
	};
	char *p;
	int pin;

	ASSERT_EQ(0, object_create(&self->ap, &self->obj, &like));
	ASSERT_EQ(0, object_policy(&self->obj, 0, 1, DEVEXCL_INSERT_MIXED,
				   DEVEXCL_POLICY_ZERO));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, PROT_READ | PROT_WRITE,
				MAP_PRIVATE));
	expect_word(&self->mem, 0, 0);
	if (!clear_soft_dirty())
		SKIP(return, "writes are not tracked");
	/* What is moved counts as written to. */
	p = mmap(NULL, self->mem.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		 -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(p, mremap(self->mem.p, self->mem.size, self->mem.size,
			    MREMAP_MAYMOVE | MREMAP_FIXED, p));
	self->mem.p = p;
	expect_flags(&self->ap, &self->mem, 0,
		     DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_SOFT_DIRTY,
		     DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_SOFT_DIRTY);
	pin = pin_longterm(self->mem.p, page_size());
	if (pin == -ENOENT || pin == -EINVAL)
		SKIP(return, "no gup_test that keeps pages pinned");
	ASSERT_GE(pin, 0);
	expect_flags(&self->ap, &self->mem, 0,
		     DEVEXCL_ENTRY_ANON | DEVEXCL_ENTRY_SOFT_DIRTY,
		     DEVEXCL_ENTRY_ANON | DEVEXCL_ENTRY_SOFT_DIRTY);
	close(pin);
}

/* Where it may be mapped though somebody may write, it cannot be pinned. */
TEST_F(zero_page, not_pinned)
{
	const struct devexcl_aperture_create like = {
		.flags = DEVEXCL_CREATE_VM_IO | HOOKS,
		.pages = 1,
		.vma = DEVEXCL_VMA_MIXED,
	};
	int pin;

	ASSERT_EQ(0, object_create(&self->ap, &self->obj, &like));
	ASSERT_EQ(0, object_policy(&self->obj, 0, 1, DEVEXCL_INSERT_MIXED,
				   DEVEXCL_POLICY_ZERO));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem, PROT_READ | PROT_WRITE,
				MAP_SHARED));
	expect_word(&self->mem, 0, 0);
	pin = pin_longterm(self->mem.p, page_size());
	if (pin == -ENOENT || pin == -EINVAL)
		SKIP(return, "no gup_test that keeps pages pinned");
	ASSERT_EQ(-EFAULT, pin);
	expect_flags(&self->ap, &self->mem, 0, DEVEXCL_ENTRY_ZERO,
		     DEVEXCL_ENTRY_ZERO);
}

DEVEXCL_TEST_MAIN
