// SPDX-License-Identifier: GPL-2.0
/*
 * The ABI of the aperture: every call with what can be wrong about it
 */
#include <sys/wait.h>

#include "devexcl_aperture_test.h"

#define PAGES	4

FIXTURE(aperture_abi) {
	struct aperture ap;
	struct object obj;
	struct mem mem;
};

FIXTURE_SETUP(aperture_abi)
{
	const struct devexcl_aperture_create like = {
		.pages = PAGES,
		.vma = DEVEXCL_VMA_PFN,
	};

	setup_aperture(_metadata, &self->ap);
	ASSERT_EQ(0, object_create(&self->ap, &self->obj, &like));
	ASSERT_EQ(0, object_policy(&self->obj, 0, PAGES, DEVEXCL_INSERT_PFN,
				   0));
	ASSERT_EQ(0, object_map(&self->obj, &self->mem,
				PROT_READ | PROT_WRITE, MAP_SHARED));
	WRITE_MEM(word_of(&self->mem, 0), 1);
}

FIXTURE_TEARDOWN(aperture_abi)
{
	mem_unmap(&self->mem);
	aperture_close(&self->ap);
}

union args {
	struct {
		__u32 size;
		__u32 flags;
	};
	struct devexcl_aperture_info info;
	struct devexcl_aperture_create create;
	struct devexcl_aperture_policy policy;
	struct devexcl_aperture_move move;
	struct devexcl_aperture_range range;
	struct devexcl_aperture_pages pages;
	struct devexcl_aperture_copy copy;
	struct devexcl_aperture_inject inject;
	struct devexcl_aperture_inspect inspect;
	char bytes[1 << 13];
	uint32_t words[(1 << 13) / 4];
};

/**
 * struct call - an ioctl
 * @name: for messages
 * @cmd: number
 * @size: of its structure
 * @flags: flags that it knows
 * @id: offset of the object's number, or 0
 * @reserved: offset of a field that must be zero, or 0
 */
struct call {
	const char *name;
	unsigned int cmd;
	size_t size;
	uint32_t flags;
	size_t id;
	size_t reserved;
};

#define CALL(_name, _type, _flags)					\
	.name = #_name,							\
	.cmd = DEVEXCL_APERTURE_##_name,				\
	.size = sizeof(struct devexcl_aperture_##_type),		\
	.flags = _flags

static const struct call calls[] = {
	{
		CALL(INFO, info, 0),
	}, {
		CALL(CREATE, create,
		     DEVEXCL_CREATE_VM_IO | DEVEXCL_CREATE_PAGE_MKWRITE |
		     DEVEXCL_CREATE_PFN_MKWRITE | DEVEXCL_CREATE_READ_ONLY |
		     DEVEXCL_CREATE_MAP_READ_ONLY),
		.reserved = offsetof(struct devexcl_aperture_create, reserved),
	}, {
		CALL(POLICY, policy,
		     DEVEXCL_POLICY_ZERO | DEVEXCL_POLICY_READ_ONLY |
		     DEVEXCL_POLICY_REFUSE_WRITE),
		.id = offsetof(struct devexcl_aperture_policy, id),
		.reserved = offsetof(struct devexcl_aperture_policy, reserved),
	}, {
		CALL(MOVE, move, DEVEXCL_MOVE_COPIES),
		.id = offsetof(struct devexcl_aperture_move, id),
	}, {
		CALL(ZAP, range, DEVEXCL_MOVE_COPIES),
		.id = offsetof(struct devexcl_aperture_range, id),
		.reserved = offsetof(struct devexcl_aperture_range, reserved),
	}, {
		CALL(CLEAN, range, 0),
		.id = offsetof(struct devexcl_aperture_range, id),
		.reserved = offsetof(struct devexcl_aperture_range, reserved),
	}, {
		CALL(PAGES, pages, 0),
		.id = offsetof(struct devexcl_aperture_pages, id),
	}, {
		CALL(COPY, copy, DEVEXCL_COPY_WRITE),
		.id = offsetof(struct devexcl_aperture_copy, id),
		.reserved = offsetof(struct devexcl_aperture_copy, reserved),
	}, {
		CALL(INJECT, inject, 0),
		.id = offsetof(struct devexcl_aperture_inject, id),
		.reserved = offsetof(struct devexcl_aperture_inject, reserved),
	}, {
		CALL(INSPECT, inspect, 0),
	},
};

#define for_each_call(call)						\
	for (call = calls; call < calls + ARRAY_SIZE(calls); call++)

/* Arguments with which a call succeeds. */
static union args *good_args(FIXTURE_DATA(aperture_abi) *self,
			     const struct call *call)
{
	static struct devexcl_aperture_page page;
	static struct devexcl_entry entry;
	static union args args;
	static uint64_t word;

	memset(&args, 0, sizeof(args));
	args.size = call->size;
	if (call->id)
		args.words[call->id / 4] = self->obj.id;
	switch (call->cmd) {
	case DEVEXCL_APERTURE_CREATE:
		args.create.pages = 1;
		args.create.batch = 1;
		break;
	case DEVEXCL_APERTURE_POLICY:
		args.policy.count = 1;
		args.policy.insert = DEVEXCL_INSERT_PFN;
		break;
	case DEVEXCL_APERTURE_ZAP:
	case DEVEXCL_APERTURE_CLEAN:
		args.range.count = 1;
		break;
	case DEVEXCL_APERTURE_PAGES:
		args.pages.count = 1;
		args.pages.pages = (uintptr_t)&page;
		break;
	case DEVEXCL_APERTURE_COPY:
		args.copy.length = sizeof(word);
		args.copy.buf = (uintptr_t)&word;
		break;
	case DEVEXCL_APERTURE_INSPECT:
		args.inspect.addr = (uintptr_t)self->mem.p;
		args.inspect.length = page_size();
		args.inspect.entries = (uintptr_t)&entry;
		break;
	}
	return &args;
}

/* The object is as it was. */
static const char *check_untouched(FIXTURE_DATA(aperture_abi) *self)
{
	struct devexcl_aperture_page page = object_page(&self->obj, 0);
	const char *wrong;

	wrong = check_kind(&self->ap, &self->mem, 0, DEVEXCL_ENTRY_PRESENT);
	if (!wrong)
		wrong = check_pfn(&self->ap, &self->mem, 0, page.pfn);
	if (!wrong && (page.faults != 1 || object_load(&self->obj, 0) != 1))
		wrong = "a call that was refused has changed something";
	return wrong;
}

static int call_it(FIXTURE_DATA(aperture_abi) *self, const struct call *call,
		   union args *args)
{
	int ret = dev_ioctl(self->ap.fd, call->cmd, args);

	/* The one that depends on the kernel */
	if (ret == -EOPNOTSUPP && call->cmd == DEVEXCL_APERTURE_CLEAN &&
	    !aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_CLEAN))
		return 0;
	return ret;
}

#define expect_refused(call, args, error)				\
do {									\
	ASSERT_EQ(error, dev_ioctl(self->ap.fd, (call)->cmd, args))	\
		TH_LOG("%s", (call)->name);				\
	expect_claim(check_untouched(self));				\
} while (0)

/* All that follows refuses variants of these calls; as they are, they work. */
TEST_F(aperture_abi, calls_work)
{
	const struct call *call;

	for_each_call(call) {
		union args *args = good_args(self, call);

		ASSERT_EQ(0, call_it(self, call, args))
			TH_LOG("%s", call->name);
		EXPECT_EQ(call->size, args->size);
	}
}

TEST_F(aperture_abi, sizes)
{
	const struct call *call;

	for_each_call(call) {
		union args *args = good_args(self, call);

		args->size = 0;
		expect_refused(call, args, -EINVAL);
		args->size = call->size - 1;
		expect_refused(call, args, -EINVAL);
		args->size = call->size + 8;
		args->bytes[call->size + 3] = 1;
		expect_refused(call, args, -E2BIG);
		args->bytes[call->size + 3] = 0;
		args->size = page_size() + 1;
		expect_refused(call, args, -E2BIG);
		args->size = UINT32_MAX;
		expect_refused(call, args, -E2BIG);
	}
	for_each_call(call) {
		union args *args = good_args(self, call);

		args->size = page_size();
		ASSERT_EQ(0, call_it(self, call, args))
			TH_LOG("%s", call->name);
		EXPECT_EQ(page_size(), args->size);
	}
}

TEST_F(aperture_abi, flags_and_reserved)
{
	const struct call *call;
	unsigned int bit;

	for_each_call(call) {
		for (bit = 0; bit < 32; bit++) {
			union args *args = good_args(self, call);

			if (!(call->flags & 1U << bit)) {
				args->flags = 1U << bit;
				expect_refused(call, args, -EINVAL);
			}
			args = good_args(self, call);
			if (call->reserved) {
				args->words[call->reserved / 4] = 1U << bit;
				expect_refused(call, args, -EINVAL);
			}
		}
	}
}

TEST_F(aperture_abi, no_such_object)
{
	static const uint32_t ids[] = { 1, 15, 16, INT32_MAX, UINT32_MAX };
	const struct call *call;
	size_t i;

	for_each_call(call) {
		for (i = 0; call->id && i < ARRAY_SIZE(ids); i++) {
			union args *args = good_args(self, call);

			args->words[call->id / 4] = ids[i];
			expect_refused(call, args, -ENOENT);
		}
	}
}

TEST_F(aperture_abi, unknown_ioctl)
{
	unsigned int nr;

	for (nr = 0; nr < 256; nr++) {
		if (nr >= _IOC_NR(DEVEXCL_APERTURE_INFO) &&
		    nr <= _IOC_NR(DEVEXCL_APERTURE_INSPECT))
			continue;
		ASSERT_EQ(-ENOTTY, dev_ioctl(self->ap.fd,
					     _IO(DEVEXCL_IOC_TYPE, nr), NULL));
	}
	ASSERT_EQ(-ENOTTY, dev_ioctl(self->ap.fd,
				     _IOR(DEVEXCL_IOC_TYPE, 0x40, int), NULL));
}

TEST_F(aperture_abi, bad_pointers)
{
	const struct call *call;

	for_each_call(call)
		expect_refused(call, NULL, -EFAULT);
	for_each_call(call) {
		union args *args = good_args(self, call);

		switch (call->cmd) {
		case DEVEXCL_APERTURE_PAGES:
			args->pages.pages = 0;
			break;
		case DEVEXCL_APERTURE_COPY:
			args->copy.buf = -page_size();
			break;
		case DEVEXCL_APERTURE_INSPECT:
			args->inspect.entries = 1ULL << 63;
			break;
		default:
			continue;
		}
		expect_refused(call, args, -EFAULT);
	}
}

/**
 * struct bad - a field of a call with a value that is refused
 */
struct bad {
	unsigned int cmd;
	size_t field;
	uint32_t value;
	int error;
};

#define BAD(_name, _type, _field, _value, _error)			\
	{								\
		.cmd = DEVEXCL_APERTURE_##_name,			\
		.field = offsetof(struct devexcl_aperture_##_type, _field), \
		.value = _value,					\
		.error = _error,					\
	}

static const struct bad bads[] = {
	BAD(CREATE, create, pages, 0, -EINVAL),
	BAD(CREATE, create, pages, 1025, -EINVAL),
	BAD(CREATE, create, pages, UINT32_MAX, -EINVAL),
	BAD(CREATE, create, placement, DEVEXCL_PLACE_NR, -EINVAL),
	BAD(CREATE, create, placement, DEVEXCL_PLACE_FOLIO, -EINVAL),
	BAD(CREATE, create, caching, DEVEXCL_CACHING_OTHER, -EINVAL),
	BAD(CREATE, create, caching, UINT32_MAX, -EINVAL),
	BAD(CREATE, create, vma, DEVEXCL_VMA_NR, -EINVAL),
	BAD(CREATE, create, map, DEVEXCL_MAP_NR, -EINVAL),
	BAD(CREATE, create, vma_caching, DEVEXCL_CACHING_OTHER, -EINVAL),
	BAD(CREATE, create, batch, 0, -EINVAL),
	BAD(CREATE, create, batch, 17, -EINVAL),
	BAD(CREATE, create, part, 1, -EINVAL),
	BAD(POLICY, policy, first, PAGES, -EINVAL),
	BAD(POLICY, policy, first, UINT32_MAX, -EINVAL),
	BAD(POLICY, policy, count, 0, -EINVAL),
	BAD(POLICY, policy, count, PAGES + 1, -EINVAL),
	BAD(POLICY, policy, count, UINT32_MAX, -EINVAL),
	BAD(POLICY, policy, insert, DEVEXCL_INSERT_NR, -EINVAL),
	BAD(POLICY, policy, insert, UINT32_MAX, -EINVAL),
	BAD(POLICY, policy, caching, DEVEXCL_CACHING_OTHER, -EINVAL),
	BAD(POLICY, policy, flags, DEVEXCL_POLICY_READ_ONLY, -EINVAL),
	BAD(MOVE, move, placement, DEVEXCL_PLACE_NR, -EINVAL),
	BAD(MOVE, move, placement, DEVEXCL_PLACE_FOLIO, -EINVAL),
	BAD(MOVE, move, caching, DEVEXCL_CACHING_OTHER, -EINVAL),
	BAD(MOVE, move, pause_ms, 1001, -EINVAL),
	BAD(ZAP, range, first, PAGES, -EINVAL),
	BAD(ZAP, range, count, 0, -EINVAL),
	BAD(ZAP, range, count, PAGES + 1, -EINVAL),
	BAD(CLEAN, range, first, PAGES, -EINVAL),
	BAD(CLEAN, range, count, UINT32_MAX, -EINVAL),
	BAD(PAGES, pages, first, PAGES, -EINVAL),
	BAD(PAGES, pages, count, 0, -EINVAL),
	BAD(PAGES, pages, count, PAGES + 1, -EINVAL),
	BAD(COPY, copy, length, 0, -EINVAL),
	BAD(COPY, copy, length, PAGES << 12 | 1, -EINVAL),
	BAD(COPY, copy, offset, PAGES << 12, -EINVAL),
	BAD(COPY, copy, offset, UINT32_MAX, -EINVAL),
	BAD(INJECT, inject, broken, 16, -EINVAL),
	BAD(INJECT, inject, broken, 1U << 31, -EINVAL),
	BAD(INJECT, inject, fail_after, 1025, -EINVAL),
	BAD(INSPECT, inspect, addr, 1, -EINVAL),
	BAD(INSPECT, inspect, length, 0, -EINVAL),
	BAD(INSPECT, inspect, length, 5000, -EINVAL),
};

static const struct call *call_of(unsigned int cmd)
{
	return &calls[_IOC_NR(cmd) - _IOC_NR(DEVEXCL_APERTURE_INFO)];
}

TEST_F(aperture_abi, bad_values)
{
	const struct bad *bad;

	for (bad = bads; bad < bads + ARRAY_SIZE(bads); bad++) {
		const struct call *call = call_of(bad->cmd);
		union args *args = good_args(self, call);

		TH_LOG("%s, %#x at %zu", call->name, bad->value, bad->field);
		args->words[bad->field / 4] = bad->value;
		expect_refused(call, args, bad->error);
	}
}

TEST_F(aperture_abi, wrapping_ranges)
{
	const struct call *inspect = call_of(DEVEXCL_APERTURE_INSPECT);
	const struct call *copy = call_of(DEVEXCL_APERTURE_COPY);
	union args *args = good_args(self, inspect);

	args->inspect.addr = -page_size();
	args->inspect.length = 2 * page_size();
	expect_refused(inspect, args, -EOVERFLOW);
	args->inspect.addr = 1ULL << 63;
	expect_refused(inspect, args, -EFAULT);
	args = good_args(self, copy);
	args->copy.offset = 8;
	args->copy.length = UINT64_MAX;
	expect_refused(copy, args, -EINVAL);
}

/* What the kernel lacks is known by name. */
TEST_F(aperture_abi, lacking_functions)
{
	uint32_t insert;

	for (insert = 0; insert < DEVEXCL_INSERT_NR; insert++)
		ASSERT_EQ(aperture_can_insert(&self->ap, insert) ?
			  0 : -EOPNOTSUPP,
			  object_policy(&self->obj, 0, 1, insert, 0));
}

/* A way to map goes with a kind of mapping, and what it maps does not move. */
static void try_maps(struct __test_metadata *_metadata, struct aperture *ap)
{
	uint32_t map, vma;
	struct object obj;

	for (map = 0; map < DEVEXCL_MAP_NR; map++) {
		for (vma = 0; vma < DEVEXCL_VMA_NR; vma++) {
			const struct devexcl_aperture_create like = {
				.pages = 1,
				.vma = vma,
				.map = map,
			};
			bool pfn = map == DEVEXCL_MAP_REMAP_PFN ||
				   map == DEVEXCL_MAP_IOMAP;
			int error = 0;

			if (map && vma == (pfn ? DEVEXCL_VMA_MIXED :
						 DEVEXCL_VMA_PFN))
				error = -EINVAL;
			else if (!(ap->info.maps & 1U << map))
				error = -EOPNOTSUPP;
			ASSERT_EQ(error, object_create(ap, &obj, &like))
				TH_LOG("map %u, vma %u", map, vma);
			if (error)
				continue;
			ASSERT_EQ(map ? -EOPNOTSUPP : 0,
				  object_move(&obj, DEVEXCL_PLACE_BUFFER,
					      DEVEXCL_CACHING_WB, 0));
		}
	}
}

TEST_F(aperture_abi, maps)
{
	struct aperture other;

	ASSERT_EQ(0, aperture_open(&other, false));
	try_maps(_metadata, &other);
	aperture_close(&other);
	if (!aperture_can(&self->ap, DEVEXCL_APERTURE_CAP_PREPARE)) {
		ASSERT_EQ(-ENOENT, aperture_open(&other, true));
		return;
	}
	ASSERT_EQ(0, aperture_open(&other, true));
	try_maps(_metadata, &other);
	aperture_close(&other);
}

TEST_F(aperture_abi, objects_are_bounded)
{
	const struct devexcl_aperture_create like = { .pages = 1 };
	struct object obj;
	uint32_t n;

	for (n = 1; n < self->ap.info.max_objects; n++)
		ASSERT_EQ(0, object_create(&self->ap, &obj, &like));
	ASSERT_EQ(-ENOSPC, object_create(&self->ap, &obj, &like));
	expect_claim(check_untouched(self));
}

TEST_F(aperture_abi, io_memory_is_bounded)
{
	const struct devexcl_aperture_create like = {
		.pages = self->ap.info.max_pages,
		.placement = DEVEXCL_PLACE_IO,
	};
	struct object obj;
	uint32_t n = 0;
	int ret;

	if (self->ap.info.io != DEVEXCL_IO_BAR)
		SKIP(return, "reserved pages stand in for IO memory");
	do {
		ret = object_create(&self->ap, &obj, &like);
	} while (!ret && ++n < 64);
	ASSERT_EQ(-ENOSPC, ret);
	ASSERT_EQ(self->ap.info.io_pages / self->ap.info.max_pages, n);
	/* It comes back with the file. */
	mem_unmap(&self->mem);
	self->mem = (struct mem) {};
	aperture_close(&self->ap);
	ASSERT_EQ(0, aperture_open(&self->ap, false));
	ASSERT_EQ(0, object_create(&self->ap, &obj, &like));
}

#define RW	(PROT_READ | PROT_WRITE)

static int try_mmap(FIXTURE_DATA(aperture_abi) *self, uint64_t offset,
		    size_t pages, int prot, int flags)
{
	void *p = mmap(NULL, pages * page_size(), prot, flags, self->ap.fd,
		       offset);

	if (p == MAP_FAILED)
		return -errno;
	munmap(p, pages * page_size());
	return 0;
}

TEST_F(aperture_abi, mmap)
{
	const struct devexcl_aperture_create like = {
		.flags = DEVEXCL_CREATE_READ_ONLY,
		.pages = PAGES,
	};
	uint64_t offset = self->obj.offset, page = page_size();
	struct object obj;

	ASSERT_EQ(0, try_mmap(self, offset, PAGES, RW, MAP_SHARED));
	ASSERT_EQ(0, try_mmap(self, offset + page, 1, RW, MAP_SHARED));
	ASSERT_EQ(-ENXIO, try_mmap(self, 0, 1, RW, MAP_SHARED));
	ASSERT_EQ(-ENXIO, try_mmap(self, offset - page, 1, RW, MAP_SHARED));
	ASSERT_EQ(-ENXIO, try_mmap(self, offset, PAGES + 1, RW, MAP_SHARED));
	ASSERT_EQ(-ENXIO, try_mmap(self, offset + PAGES * page, 1, RW,
				   MAP_SHARED));
	/* A PFN map cannot be private, unless it is made at once. */
	ASSERT_EQ(-EINVAL, try_mmap(self, offset, PAGES, RW, MAP_PRIVATE));

	ASSERT_EQ(0, object_create(&self->ap, &obj, &like));
	ASSERT_EQ(0, try_mmap(self, obj.offset, PAGES, PROT_READ, MAP_SHARED));
	ASSERT_EQ(-EPERM, try_mmap(self, obj.offset, PAGES, RW, MAP_SHARED));
	ASSERT_EQ(-EPERM, try_mmap(self, obj.offset, PAGES, RW, MAP_PRIVATE));
}

/* Another file has other objects. */
TEST_F(aperture_abi, files)
{
	struct aperture other;

	ASSERT_EQ(0, aperture_open(&other, false));
	ASSERT_EQ(MAP_FAILED, mmap(NULL, page_size(), RW, MAP_SHARED, other.fd,
				   self->obj.offset));
	ASSERT_EQ(ENXIO, errno);
	aperture_close(&other);
	expect_claim(check_untouched(self));
}

/* A mapping keeps the object; who inherited the file may go on to use it. */
TEST_F(aperture_abi, closed_while_mapped)
{
	struct aperture other;
	pid_t child = fork();

	ASSERT_GE(child, 0);
	if (!child) {
		/* Parts of it go, one after the other. */
		munmap(page_of(&self->mem, 2), page_size());
		aperture_close(&self->ap);
		WRITE_MEM(word_of(&self->mem, 1), 4);
		munmap(page_of(&self->mem, 1), page_size());
		_exit(READ_MEM(word_of(&self->mem, 0)) != 1);
	}
	ASSERT_EQ(0, wait_child(child));
	close(self->ap.fd);
	ASSERT_EQ(0, aperture_open(&other, false));
	self->ap = other;
	expect_word(&self->mem, 1, 4);
	WRITE_MEM(word_of(&self->mem, 3), 7);
	expect_kind(&self->ap, &self->mem, 3, PRESENT);
}

/* Combinations for which the kernel has a BUG_ON() are SIGBUS. */
TEST_F(aperture_abi, misfits)
{
	uint32_t vma, insert;
	struct aperture ap;
	uint64_t value;

	for (vma = 0; vma < DEVEXCL_VMA_NR; vma++) {
		for (insert = 0; insert < DEVEXCL_INSERT_NR; insert++) {
			const struct devexcl_aperture_create like = {
				.pages = 1,
				.vma = vma,
			};
			bool fits;

			ASSERT_EQ(0, aperture_open(&ap, false));
			mem_unmap(&self->mem);
			ASSERT_EQ(0, object_create(&ap, &self->obj, &like));
			if (object_policy(&self->obj, 0, 1, insert, 0) ==
			    -EOPNOTSUPP)
				continue;
			ASSERT_EQ(0, object_map(&self->obj, &self->mem, RW,
						MAP_SHARED));
			TH_LOG("insert %u, vma %u", insert, vma);
			switch (insert) {
			case DEVEXCL_INSERT_NONE:
				fits = false;
				break;
			case DEVEXCL_INSERT_PFN:
			case DEVEXCL_INSERT_PFN_PROT:
			case DEVEXCL_INSERT_PFN_PMD:
				fits = vma == DEVEXCL_VMA_PFN;
				break;
			case DEVEXCL_INSERT_PAGE_MKWRITE:
				fits = vma != DEVEXCL_VMA_PFN;
				break;
			default:
				fits = vma == DEVEXCL_VMA_MIXED;
				break;
			}
			ASSERT_EQ(fits ? 0 : BUS_ADRERR,
				  cpu_read(word_of(&self->mem, 0), &value));
			ASSERT_EQ(fits ? 0 : -EINVAL,
				  object_page(&self->obj, 0).error);
			close(ap.fd);
		}
	}
}

/*
 * Functions that make entries writable warn of entries that lead elsewhere: a
 * broken driver does not get them to.
 */
TEST_F(aperture_abi, stale_entries_are_refused)
{
	static const enum devexcl_insert inserts[] = {
		DEVEXCL_INSERT_MIXED_MKWRITE, DEVEXCL_INSERT_PAGE_MKWRITE,
	};
	const struct devexcl_aperture_create like = {
		.pages = PAGES,
		.vma = DEVEXCL_VMA_MIXED,
	};
	struct object obj;
	size_t i;

	ASSERT_EQ(0, object_create(&self->ap, &obj, &like));
	ASSERT_EQ(0, object_inject(&obj, DEVEXCL_APERTURE_BROKEN_NO_ZAP, 0));
	for (i = 0; i < ARRAY_SIZE(inserts); i++) {
		if (!aperture_can_insert(&self->ap, inserts[i]))
			continue;
		ASSERT_EQ(0, object_policy(&obj, PAGES - 1, 1, inserts[i], 0));
		ASSERT_EQ(-EBUSY, object_move(&obj, DEVEXCL_PLACE_BUFFER,
					      DEVEXCL_CACHING_WB, 0));
	}
	ASSERT_EQ(0, object_policy(&obj, PAGES - 1, 1, DEVEXCL_INSERT_MIXED,
				   0));
	ASSERT_EQ(0, object_move(&obj, DEVEXCL_PLACE_BUFFER,
				 DEVEXCL_CACHING_WB, 0));
}

/* A caching mode that cannot be had leaves the pages as they are, and mapped. */
TEST_F(aperture_abi, refused_caching)
{
	const struct devexcl_aperture_create like = {
		.pages = self->ap.info.pmd_pages,
		.placement = DEVEXCL_PLACE_FOLIO,
		.vma = DEVEXCL_VMA_PFN,
	};
	struct object obj;
	struct mem mem;

	ASSERT_EQ(0, object_create(&self->ap, &obj, &like));
	ASSERT_EQ(0, object_policy(&obj, 0, obj.pages, DEVEXCL_INSERT_PFN, 0));
	ASSERT_EQ(0, object_map(&obj, &mem, PROT_READ, MAP_SHARED));
	READ_MEM(word_of(&mem, 1));
	ASSERT_EQ(-EINVAL, object_recache(&obj, 1, 1, DEVEXCL_INSERT_NONE,
					  DEVEXCL_CACHING_WC));
	expect_kind(&self->ap, &mem, 1, PRESENT);
	ASSERT_EQ(0, object_zap(&obj, 0));
	expect_word(&mem, 1, 0);
	mem_unmap(&mem);
}

/* An object that has page frame @pfn for an offset, if there is one; else -ENOENT */
static int object_with_offset(struct object *obj, struct aperture *ap,
			      uint64_t pfn)
{
	const uint64_t most = ap->info.max_pages, page = page_size();
	int ret;

	do {
		struct devexcl_aperture_create like = { .pages = 1 };

		/* The next object comes after this one. */
		if (obj->offset / page + most <= pfn &&
		    obj->offset / page + 2 * most > pfn)
			like.pages = most;
		ret = object_create(ap, obj, &like);
		if (ret == -ENOSPC) {
			aperture_close(ap);
			ret = aperture_open(ap, false);
		}
		if (!ret && obj->offset / page > pfn)
			ret = -ENOENT;
	} while (!ret && (obj->offset / page + obj->pages <= pfn));
	return ret;
}

/*
 * A private mapping of remap_pfn_range() has a page frame number for an offset.
 * Nobody takes it for the offset of an object.
 */
TEST_F(aperture_abi, offsets_are_no_page_frames)
{
	const struct devexcl_aperture_create like = {
		.pages = PAGES,
		.placement = DEVEXCL_PLACE_BUFFER,
		.map = DEVEXCL_MAP_REMAP_PFN,
	};
	struct object obj, other;
	struct aperture ap;
	struct mem mem;
	uint64_t pfn;

	ASSERT_EQ(0, object_create(&self->ap, &obj, &like));
	ASSERT_EQ(0, object_map(&obj, &mem, RW, MAP_PRIVATE));
	pfn = object_page(&obj, 0).pfn;
	expect_pfn(&self->ap, &mem, 0, pfn);
	ASSERT_EQ(0, aperture_open(&ap, false));
	other = obj;
	if (!object_with_offset(&other, &ap, pfn))
		ASSERT_EQ(0, object_zap(&other, DEVEXCL_MOVE_COPIES));
	expect_pfn(&self->ap, &mem, 0, pfn);
	ASSERT_LT(pfn, obj.offset / page_size());
	aperture_close(&ap);
	mem_unmap(&mem);
}

/* What has no meaning must do no harm: whatever is asked for, in any order. */

#define RANDOM_CALLS	1000

static uint32_t random_below(uint64_t *state, uint32_t limit)
{
	return random_next(state) % limit;
}

/* A field that is mostly good, and sometimes anything */
static uint32_t random_value(uint64_t *state, uint32_t limit)
{
	return random_below(state, 16) ? random_below(state, limit) :
					 (uint32_t)random_next(state);
}

static void random_create(struct aperture *ap, uint64_t *state)
{
	const struct devexcl_aperture_create like = {
		.flags = random_value(state, 32),
		.pages = random_below(state, 32) ? random_value(state, 8) : 512,
		.placement = random_value(state, DEVEXCL_PLACE_NR),
		.caching = random_value(state, DEVEXCL_CACHING_OTHER),
		.vma = random_value(state, DEVEXCL_VMA_NR),
		.map = random_below(state, 2) ?
		       random_value(state, DEVEXCL_MAP_NR) : 0,
		.vma_caching = random_value(state, DEVEXCL_CACHING_OTHER),
		.batch = random_value(state, 17),
		.part = random_below(state, 4) ? 0 : random_value(state, 4),
	};
	struct object obj;

	/*
	 * Up to 6.15 the kernel loses track of the caching mode of a device's
	 * memory if a PFN map of it is unmapped in parts, until it is booted
	 * again. Others want that memory.
	 */
	if (like.map && like.placement == DEVEXCL_PLACE_IO)
		return;
	object_create(ap, &obj, &like);
}

static void random_change(struct aperture *ap, uint64_t *state, uint32_t id)
{
	struct object obj = { .ap = ap, .id = id, .pages = 1 };

	switch (random_below(state, 8)) {
	case 0:
		object_move(&obj, random_value(state, DEVEXCL_PLACE_NR),
			    random_value(state, DEVEXCL_CACHING_OTHER), 0);
		break;
	case 1:
		object_zap(&obj, random_below(state, 2));
		break;
	case 2:
		object_clean(&obj);
		break;
	case 3:
		object_inject(&obj, random_value(state, 16),
			      random_value(state, 4));
		break;
	default:
		obj.caching = random_value(state, DEVEXCL_CACHING_OTHER);
		object_policy(&obj, random_value(state, 4),
			      random_value(state, 4) + 1,
			      random_value(state, DEVEXCL_INSERT_NR),
			      random_value(state, 8));
		break;
	}
}

/* Map some of an object over what was there, and do something to that. */
static void random_map(struct aperture *ap, uint64_t *state, struct mem *mem,
		       uint64_t offset)
{
	static const int prots[] = { PROT_NONE, PROT_READ, RW, RW };
	const uint32_t places = mem->pages - 4;
	char *p = page_of(mem, random_below(state, places));
	size_t size = (random_below(state, 4) + 1) * page_size();
	uint64_t value = 0;

	switch (random_below(state, 8)) {
	case 0:
	case 1:
		mmap(p, size, prots[random_below(state, 4)], MAP_FIXED |
		     (random_below(state, 2) ? MAP_SHARED : MAP_PRIVATE),
		     ap->fd, offset + random_below(state, 4) * page_size());
		break;
	case 2:
		mprotect(p, size, prots[random_below(state, 4)]);
		break;
	case 3:
		mremap(p, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
		       page_of(mem, random_below(state, places)));
		break;
	case 4:
		madvise(p, size, random_below(state, 2) ? MADV_DONTNEED :
							  MADV_HUGEPAGE);
		break;
	case 5:
		entry_at(ap, p);
		break;
	default:
		cpu_read((uint64_t *)p, &value);
		cpu_write((uint64_t *)p, value);
		break;
	}
}

TEST_F(aperture_abi, random)
{
	struct devexcl_aperture_info info = { .size = sizeof(info) };
	uint64_t state = random_seed();
	uint64_t first = self->obj.offset;
	struct mem mem;
	uint32_t i;

	ASSERT_EQ(0, mem_map(&mem, 64));
	for (i = 0; i < RANDOM_CALLS; i++) {
		uint32_t id = random_below(&state, 16);

		/* Objects follow each other in the file, mostly. */
		if (random_below(&state, 8) == 0)
			random_create(&self->ap, &state);
		else if (random_below(&state, 2))
			random_change(&self->ap, &state, id);
		else
			random_map(&self->ap, &state, &mem, first +
				   id * self->ap.info.max_pages * page_size());
	}
	mem_unmap(&mem);
	ASSERT_EQ(0, dev_ioctl(self->ap.fd, DEVEXCL_APERTURE_INFO, &info));
}

/* The inspector looks at what is there, and makes nothing. */
TEST_F(aperture_abi, inspect)
{
	struct mem mem;

	ASSERT_EQ(0, mem_map(&mem, 2));
	expect_flags(&self->ap, &mem, 0,
		     DEVEXCL_ENTRY_ANON | DEVEXCL_ENTRY_WRITE |
		     DEVEXCL_ENTRY_HAS_PAGE | DEVEXCL_ENTRY_SPECIAL,
		     DEVEXCL_ENTRY_ANON | DEVEXCL_ENTRY_WRITE |
		     DEVEXCL_ENTRY_HAS_PAGE);
	ASSERT_EQ(1, entry_at(&self->ap, mem.p).mapcount);
	expect_pfn(&self->ap, &mem, 0, pagemap_of(mem.p) & PAGEMAP_PFN);
	ASSERT_EQ(0, madvise(mem.p, mem.size, MADV_DONTNEED));
	expect_none(&self->ap, &mem, 0);
	READ_MEM(word_of(&mem, 0));
	expect_flags(&self->ap, &mem, 0,
		     DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_SPECIAL |
		     DEVEXCL_ENTRY_WRITE,
		     DEVEXCL_ENTRY_ZERO | DEVEXCL_ENTRY_SPECIAL);
	expect_none(&self->ap, &mem, 1);
	mem_unmap(&mem);
	expect_none(&self->ap, &mem, 0);
}

TEST_F(aperture_abi, compat32)
{
	int ret = run_compat32("aperture");

	if (ret == -ENOENT)
		SKIP(return, "abi_compat32 was not built");
	if (ret == -ENOEXEC)
		SKIP(return, "the kernel cannot run 32-bit programs");
	EXPECT_EQ(0, ret);
	ASSERT_EQ(1, object_load(&self->obj, 0));
}

DEVEXCL_TEST_MAIN
