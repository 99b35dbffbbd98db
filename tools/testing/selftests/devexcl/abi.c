// SPDX-License-Identifier: GPL-2.0
/*
 * The ABI: every call with everything that can be wrong about it
 *
 * What is refused must be refused with the documented error, and must have
 * changed nothing: the counters of the context are compared before and after.
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "devexcl_test.h"

/* More than the device handles at once, whatever that is. */
#define PAGES	160

/* How a call that was executed after exec() learns of the descriptor. */
#define EXEC_FD	"DEVEXCL_ABI_FD"

FIXTURE(abi) {
	struct dev dev;
	struct mem mem;		/* mirrored */
	struct mem spare;	/* not mirrored */
	struct mem arena;	/* where bad pointers point to */
};

FIXTURE_SETUP(abi)
{
	setup_device(_metadata, &self->dev, 0);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
	setup_memory(_metadata, &self->spare, 8);
	setup_memory(_metadata, &self->arena, 4);
}

FIXTURE_TEARDOWN(abi)
{
	mem_unmap(&self->mem);
	mem_unmap(&self->spare);
	mem_unmap(&self->arena);
	dev_close(&self->dev);
}

/* The calls */

union args {
	struct {
		__u32 size;
		__u32 flags;
	};
	struct devexcl_info info;
	struct devexcl_mirror mirror;
	struct devexcl_acquire acquire;
	struct devexcl_release release;
	struct devexcl_atomic atomic;
	struct devexcl_copy copy;
	struct devexcl_query query;
	struct devexcl_stats stats;
	struct devexcl_inject inject;
	struct devexcl_floor floor;
	struct devexcl_breakpoint breakpoint;
	struct devexcl_submit submit;
	struct devexcl_wait wait;
	struct devexcl_cancel cancel;
	char bytes[1 << 17];	/* more than a page */
};

/**
 * struct call - an ioctl
 * @name: for messages
 * @cmd: number
 * @size: of its structure
 * @flags: flags that it knows
 * @reserved: offset of a 32-bit field that must be zero, or 0
 * @any_mm: works from any address space
 * @pages: takes a range of pages of a mirror
 * @works: what it returns if it works; there may be no job
 */
struct call {
	const char *name;
	unsigned int cmd;
	size_t size;
	uint32_t flags;
	size_t reserved;
	bool any_mm;
	bool pages;
	int works;
};

/* In an order in which all of them succeed, one after the other. */
static const struct call calls[] = {
	{
		.name = "INFO",
		.cmd = DEVEXCL_INFO,
		.size = sizeof(struct devexcl_info),
		.any_mm = true,
	}, {
		.name = "STATS",
		.cmd = DEVEXCL_STATS,
		.size = sizeof(struct devexcl_stats),
		.any_mm = true,
	}, {
		.name = "MIRROR",
		.cmd = DEVEXCL_MIRROR,
		.size = sizeof(struct devexcl_mirror),
		.flags = DEVEXCL_MIRROR_QUIET,
		.reserved = offsetof(struct devexcl_mirror, reserved),
	}, {
		.name = "ACQUIRE",
		.cmd = DEVEXCL_ACQUIRE,
		.size = sizeof(struct devexcl_acquire),
		.pages = true,
	}, {
		.name = "ATOMIC",
		.cmd = DEVEXCL_ATOMIC,
		.size = sizeof(struct devexcl_atomic),
		.flags = DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP,
		.reserved = offsetof(struct devexcl_atomic, reserved),
	}, {
		.name = "COPY",
		.cmd = DEVEXCL_COPY,
		.size = sizeof(struct devexcl_copy),
		.flags = DEVEXCL_COPY_WRITE,
	}, {
		.name = "QUERY",
		.cmd = DEVEXCL_QUERY,
		.size = sizeof(struct devexcl_query),
		.pages = true,
	}, {
		.name = "RELEASE",
		.cmd = DEVEXCL_RELEASE,
		.size = sizeof(struct devexcl_release),
		.pages = true,
	}, {
		.name = "INJECT",
		.cmd = DEVEXCL_INJECT,
		.size = sizeof(struct devexcl_inject),
		.reserved = offsetof(struct devexcl_inject, reserved),
	}, {
		.name = "BREAKPOINT",
		.cmd = DEVEXCL_BREAKPOINT,
		.size = sizeof(struct devexcl_breakpoint),
		.reserved = offsetof(struct devexcl_breakpoint, reserved),
	}, {
		.name = "SUBMIT",
		.cmd = DEVEXCL_SUBMIT,
		.size = sizeof(struct devexcl_submit),
		.flags = DEVEXCL_SUBMIT_ACQUIRE | DEVEXCL_SUBMIT_GAP |
			 DEVEXCL_SUBMIT_EVENTFD,
		.reserved = offsetof(struct devexcl_submit, reserved),
	}, {
		.name = "WAIT",
		.cmd = DEVEXCL_WAIT,
		.size = sizeof(struct devexcl_wait),
		.any_mm = true,
		.works = -ENOENT,
	}, {
		.name = "CANCEL",
		.cmd = DEVEXCL_CANCEL,
		.size = sizeof(struct devexcl_cancel),
		.reserved = offsetof(struct devexcl_cancel, reserved),
		.any_mm = true,
		.works = -ENOENT,
	}, {
		.name = "FLOOR",
		.cmd = DEVEXCL_FLOOR,
		.size = sizeof(struct devexcl_floor),
		.pages = true,
	}, {
		.name = "UNMIRROR",
		.cmd = DEVEXCL_UNMIRROR,
		.size = sizeof(struct devexcl_mirror),
		.reserved = offsetof(struct devexcl_mirror, reserved),
	},
};

#define for_each_call(call)						\
	for (call = calls; call < calls + ARRAY_SIZE(calls); call++)

/* Set the range that a call is about; all have it at the same place. */
static void set_range(union args *args, const void *p, uint64_t length)
{
	args->acquire.addr = (uintptr_t)p;
	args->acquire.length = length;
}

/*
 * Arguments with which a call succeeds and changes something. UNMIRROR takes
 * @mem, MIRROR takes @spare, the others the first page of @mem.
 */
static union args *good_args(const struct call *call, const struct mem *mem,
			     const struct mem *spare)
{
	static struct devexcl_atomic_op op;
	static struct devexcl_page info;
	static uint64_t word;
	static union args args;

	memset(&args, 0, sizeof(args));
	args.size = call->size;
	op = (struct devexcl_atomic_op) {
		.addr = (uintptr_t)mem->p,
		.op = DEVEXCL_OP_ADD,
		.width = 8,
	};
	switch (call->cmd) {
	case DEVEXCL_MIRROR:
		set_range(&args, spare->p, spare->size);
		break;
	case DEVEXCL_UNMIRROR:
		set_range(&args, mem->p, mem->size);
		break;
	case DEVEXCL_ACQUIRE:
	case DEVEXCL_RELEASE:
	case DEVEXCL_FLOOR:
		set_range(&args, mem->p, page_size());
		break;
	case DEVEXCL_ATOMIC:
		args.flags = DEVEXCL_ATOMIC_ACQUIRE;
		args.atomic.ops = (uintptr_t)&op;
		args.atomic.nr_ops = 1;
		break;
	case DEVEXCL_COPY:
		set_range(&args, mem->p, sizeof(word));
		args.copy.buf = (uintptr_t)&word;
		break;
	case DEVEXCL_QUERY:
		set_range(&args, mem->p, page_size());
		args.query.pages = (uintptr_t)&info;
		break;
	case DEVEXCL_INJECT:
		args.inject.retries = 1;
		break;
	case DEVEXCL_BREAKPOINT:
		args.breakpoint.point = DEVEXCL_POINT_RELEASE;
		args.breakpoint.pass = UINT32_MAX;
		break;
	case DEVEXCL_SUBMIT:
		args.flags = DEVEXCL_SUBMIT_ACQUIRE;
		set_range(&args, mem->p, sizeof(word));
		args.submit.count = 1;
		args.submit.repeat = 1;
		args.submit.width = sizeof(word);
		break;
	}
	return &args;
}

static union args *args_of(FIXTURE_DATA(abi) *self, const struct call *call)
{
	return good_args(call, &self->mem, &self->spare);
}

/* Wait for the job that was submitted last. */
static int undo_submit(FIXTURE_DATA(abi) *self)
{
	struct devexcl_stats stats;
	struct devexcl_wait wait;

	dev_stats(&self->dev, &stats);
	return dev_wait(&self->dev, stats.jobs_submitted,
			DEVEXCL_WAIT_FOREVER, &wait) ?: wait.status;
}

/* Make as if a call that succeeded had not been made. */
static int undo_call(FIXTURE_DATA(abi) *self, const struct call *call)
{
	switch (call->cmd) {
	case DEVEXCL_MIRROR:
		return dev_unmirror(&self->dev, self->spare.p,
				    self->spare.size);
	case DEVEXCL_UNMIRROR:
		return dev_mirror(&self->dev, self->mem.p, self->mem.size);
	case DEVEXCL_ACQUIRE:
	case DEVEXCL_ATOMIC:
	case DEVEXCL_COPY:
		dev_release(&self->dev, self->mem.p, 1);
		return 0;
	case DEVEXCL_INJECT:
		return dev_inject(&self->dev, 0, 0);
	case DEVEXCL_SUBMIT:
		return undo_submit(self);
	default:
		return 0;
	}
}

/*
 * Claims: NULL or what is wrong
 */
static char why[256];

#define say_why(...)							\
	(snprintf(why, sizeof(why), __VA_ARGS__), (const char *)why)

/* A call with arguments at @p must be refused, and must not do anything. */
static const char *check_refused_at(FIXTURE_DATA(abi) *self, const char *name,
				    unsigned int cmd, void *p, int error)
{
	struct devexcl_stats before, after;
	struct devexcl_event event;
	int ret;

	dev_forget_events(&self->dev);
	dev_stats(&self->dev, &before);
	ret = dev_ioctl(self->dev.fd, cmd, p);
	dev_stats(&self->dev, &after);
	if (ret != error)
		return say_why("%s is %d, expected %d", name, ret, error);
	if (memcmp(&before, &after, sizeof(before)))
		return say_why("%s was refused and changed something", name);
	if (dev_read_events(&self->dev, &event, 1))
		return say_why("%s was refused and left an event", name);
	return NULL;
}

static const char *check_refused(FIXTURE_DATA(abi) *self,
				 const struct call *call, union args *args,
				 int error)
{
	return check_refused_at(self, call->name, call->cmd, args, error);
}

/* Nothing of what INJECT was asked for is in force. */
static const char *check_not_injected(struct dev *dev, const struct mem *mem)
{
	struct devexcl_stats before, after;
	int ret;

	dev_stats(dev, &before);
	ret = dev_acquire_one(dev, mem->p);
	dev_stats(dev, &after);
	dev_release(dev, mem->p, 1);
	if (ret || before.retries != after.retries)
		return "INJECT was refused, and is in force all the same";
	return NULL;
}

#define expect_refused(self, call, args, error)				\
	expect_claim(check_refused(self, call, args, error))

#define expect_untouched(self)						\
do {									\
	expect_claim(check_not_injected(&(self)->dev, &(self)->mem));	\
	expect_data(&(self)->mem, 0, PAGES);				\
	expect_references(&(self)->dev, &(self)->mem);			\
} while (0)

/*
 * The structure
 */

/* All that follows refuses variants of these calls; as they are, they work. */
TEST_F(abi, calls_work)
{
	const struct call *call;

	for_each_call(call) {
		union args *args = args_of(self, call);

		ASSERT_EQ(call->works,
			  dev_ioctl(self->dev.fd, call->cmd, args))
			TH_LOG("%s", call->name);
		EXPECT_EQ(call->size, args->size);
	}
}

TEST_F(abi, size_short)
{
	const struct call *call;
	size_t size;

	for_each_call(call) {
		for (size = 0; size < call->size; size++) {
			union args *args = args_of(self, call);

			args->size = size;
			expect_refused(self, call, args, -EINVAL);
		}
	}
	expect_untouched(self);
}

/* A newer caller that does not use what is new. */
TEST_F(abi, size_long_zero_tail)
{
	const struct call *call;
	size_t i;

	for_each_call(call) {
		const size_t sizes[] = { call->size + 1, call->size + 8,
					 page_size() };

		for (i = 0; i < ARRAY_SIZE(sizes); i++) {
			union args *args = args_of(self, call);

			args->size = sizes[i];
			ASSERT_EQ(call->works,
				  dev_ioctl(self->dev.fd, call->cmd, args))
				TH_LOG("%s", call->name);
			EXPECT_EQ(sizes[i], args->size);
			ASSERT_EQ(0, undo_call(self, call));
		}
	}
	expect_untouched(self);
}

/* A newer caller that does. */
TEST_F(abi, size_long_nonzero_tail)
{
	const struct call *call;
	size_t i;

	for_each_call(call) {
		const size_t dirty[] = { call->size, call->size + 9,
					 page_size() - 1 };

		for (i = 0; i < ARRAY_SIZE(dirty); i++) {
			union args *args = args_of(self, call);

			args->size = page_size();
			args->bytes[dirty[i]] = 1;
			expect_refused(self, call, args, -E2BIG);
		}
	}
	expect_untouched(self);
}

TEST_F(abi, size_over_page)
{
	const uint32_t sizes[] = { page_size() + 1, 1 << 16 | 1, INT32_MAX,
				   1U << 31, UINT32_MAX };
	const struct call *call;
	size_t i;

	for_each_call(call) {
		for (i = 0; i < ARRAY_SIZE(sizes); i++) {
			union args *args = args_of(self, call);

			args->size = sizes[i];
			expect_refused(self, call, args, -E2BIG);
		}
	}
	expect_untouched(self);
}

TEST_F(abi, flags_unknown)
{
	const struct call *call;
	unsigned int bit;

	for_each_call(call) {
		for (bit = 0; bit < 32; bit++) {
			union args *args = args_of(self, call);

			if (call->flags & 1U << bit)
				continue;
			args->flags |= 1U << bit;
			expect_refused(self, call, args, -EINVAL);
		}
	}
	expect_untouched(self);
}

TEST_F(abi, reserved_not_zero)
{
	const struct call *call;
	unsigned int bit;

	for_each_call(call) {
		for (bit = 0; call->reserved && bit < 32; bit++) {
			union args *args = args_of(self, call);
			void *field = args->bytes + call->reserved;

			*(uint32_t *)field = 1U << bit;
			expect_refused(self, call, args, -EINVAL);
		}
	}
	expect_untouched(self);
}

/* Bad pointers, which a kernel must survive, and say EFAULT to. */
enum place {
	PLACE_NULL,
	PLACE_UNMAPPED,
	PLACE_KERNEL,		/* the highest addresses */
	PLACE_NEGATIVE,		/* the lowest that users cannot have */
	PLACE_PROT_NONE,
	PLACE_READ_ONLY,
	PLACE_HALF_UNMAPPED,	/* the second half is */
	PLACE_HALF_READ_ONLY,
	PLACE_NR,
};

/* Put @size bytes there, as far as possible, and return where that is. */
static void *place(const struct mem *arena, enum place where,
		   const void *object, size_t size)
{
	/* Writable, read-only, writable, unmapped (or without access). */
	void *read_only = page_of(arena, 1), *last = page_of(arena, 3);
	void *p;

	switch (where) {
	case PLACE_NULL:
		return NULL;
	case PLACE_KERNEL:
		return (void *)(-2 * page_size());
	case PLACE_NEGATIVE:
		return (void *)(1UL << (sizeof(long) * 8 - 1));
	case PLACE_READ_ONLY:
		p = read_only;
		break;
	case PLACE_HALF_READ_ONLY:
		p = read_only - size / 2;
		break;
	case PLACE_HALF_UNMAPPED:
		p = last - size / 2;
		break;
	default:
		p = last;
		break;
	}
	mmap(arena->p, arena->size, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	memcpy(p, object, size);
	mprotect(read_only, page_size(), PROT_READ);
	if (where == PLACE_PROT_NONE)
		mprotect(last, page_size(), PROT_NONE);
	else
		munmap(last, page_size());
	return p;
}

TEST_F(abi, struct_bad_pointer)
{
	const struct call *call;
	enum place where;

	for_each_call(call) {
		for (where = 0; where < PLACE_NR; where++) {
			void *p = place(&self->arena, where,
					args_of(self, call), call->size);

			expect_claim(check_refused_at(self, call->name,
						      call->cmd, p, -EFAULT));
		}
	}
	expect_untouched(self);
}

/* The part that this kernel does not know cannot be read. */
TEST_F(abi, struct_bad_tail)
{
	const struct call *call;

	for_each_call(call) {
		union args *args = args_of(self, call);
		void *p;

		args->size = 2 * call->size;
		p = place(&self->arena, PLACE_HALF_UNMAPPED, args, args->size);
		expect_claim(check_refused_at(self, call->name, call->cmd, p,
					      -EFAULT));
	}
	expect_untouched(self);
}

/* A structure need not be aligned. */
TEST_F(abi, struct_misaligned)
{
	const struct call *call;

	for_each_call(call) {
		char *p = self->spare.p + 1;

		memcpy(p, args_of(self, call), call->size);
		ASSERT_EQ(call->works,
			  dev_ioctl(self->dev.fd, call->cmd, p))
			TH_LOG("%s", call->name);
	}
}

static const char *check_no_ioctl(FIXTURE_DATA(abi) *self, unsigned int cmd)
{
	union args *args = args_of(self, &calls[2]);
	char name[32];

	snprintf(name, sizeof(name), "ioctl %#x", cmd);
	return check_refused_at(self, name, cmd, args, -ENOTTY);
}

TEST_F(abi, ioctl_unknown)
{
	const unsigned int types[] = { 0, DEVEXCL_IOC_TYPE - 1,
				       DEVEXCL_IOC_TYPE + 1, 0xff };
	const struct call *call;
	unsigned int nr, i;

	for (nr = ARRAY_SIZE(calls); nr < 256; nr++)
		expect_claim(check_no_ioctl(self, _IO(DEVEXCL_IOC_TYPE, nr)));

	for_each_call(call) {
		for (i = 0; i < ARRAY_SIZE(types); i++)
			expect_claim(check_no_ioctl(self, _IO(types[i],
							      _IOC_NR(call->cmd) | 0x80)));
		/* Direction and size are part of the number. */
		for (i = 16; i < 32; i++)
			expect_claim(check_no_ioctl(self,
						    call->cmd ^ 1U << i));
	}
	expect_untouched(self);
}

/* What a file may be asked and this one cannot do. */
TEST_F(abi, file_unknown)
{
	struct devexcl_event event;
	int fd = self->dev.fd;

	EXPECT_EQ(-1, write(fd, &event, sizeof(event)));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, pread(fd, &event, sizeof(event), 0));
	EXPECT_EQ(ESPIPE, errno);
	EXPECT_EQ(-1, lseek(fd, 0, SEEK_SET));
	EXPECT_EQ(ESPIPE, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, page_size(), PROT_READ, MAP_SHARED,
				   fd, 0));
	EXPECT_EQ(ENODEV, errno);
	expect_untouched(self);
}

TEST_F(abi, info)
{
	const struct devexcl_info *info = &self->dev.info;
	struct dev other;

	EXPECT_EQ(DEVEXCL_ABI_VERSION, info->abi_version);
	EXPECT_EQ(0, info->device);
	EXPECT_EQ(page_size(), info->page_size);
	EXPECT_LT(0, info->max_mirrors);
	EXPECT_LT(0, info->max_events);
	EXPECT_LT(0, info->max_gap_ns);
	EXPECT_GT(DEVEXCL_CAUSE_NR, info->restore_cause);
	EXPECT_EQ((1ULL << DEVEXCL_OP_NR) - 1, info->ops);
	EXPECT_LT(0, info->nengines);
	EXPECT_LT(0, info->max_jobs);
	EXPECT_EQ((1ULL << DEVEXCL_PATTERN_NR) - 1, info->patterns);

	/* As many devices as it says, and each knows its number. */
	EXPECT_EQ(-ENOENT, dev_open(&other, info->ndevices));
	ASSERT_EQ(0, dev_open(&other, info->ndevices - 1));
	EXPECT_EQ(info->ndevices - 1, other.info.device);
	dev_close(&other);
}

/*
 * Ranges
 */

/* Must be refused by every call that takes a range. */
static const char *check_range(FIXTURE_DATA(abi) *self, uint64_t addr,
			       uint64_t length, int error, bool mirrors)
{
	const struct call *call;
	const char *wrong = NULL;

	for_each_call(call) {
		union args *args = args_of(self, call);

		if (!call->pages && !(mirrors && (call->cmd == DEVEXCL_MIRROR ||
						  call->cmd == DEVEXCL_UNMIRROR)))
			continue;
		args->acquire.addr = addr;
		args->acquire.length = length;
		wrong = wrong ?: check_refused(self, call, args, error);
	}
	return wrong;
}

TEST_F(abi, range_bad)
{
	uint64_t size = page_size(), p = (uintptr_t)self->mem.p;
	const struct {
		uint64_t addr;
		uint64_t length;
		int error;
	} ranges[] = {
		{ p, 0, -EINVAL },
		{ 0, 0, -EINVAL },
		{ p + 1, size, -EINVAL },
		{ p + size / 2, size, -EINVAL },
		{ p + size - 1, size, -EINVAL },
		{ p, 1, -EINVAL },
		{ p, size - 1, -EINVAL },
		{ p, size + 1, -EINVAL },
		{ p, UINT64_MAX, -EINVAL },
		{ UINT64_MAX, size, -EINVAL },
		{ p, -size, -EOVERFLOW },
		{ p, -p, -EOVERFLOW },		/* ends at 2^64 exactly */
		{ -size, size, -EOVERFLOW },	/* likewise */
		{ -size, 2 * size, -EOVERFLOW },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		expect_claim(check_range(self, ranges[i].addr, ranges[i].length,
					 ranges[i].error, true));
		TH_LOG("range %zu", i);
	}
	expect_untouched(self);
}

/* Mirrors are next to the range, overlap it, or are smaller. */
TEST_F(abi, range_not_in_mirror)
{
	struct mem *mem = &self->mem;
	uint64_t size = page_size(), p = (uintptr_t)mem->p;
	uint64_t end = p + mem->size;
	const struct {
		uint64_t addr;
		uint64_t length;
	} ranges[] = {
		{ 0, size },
		{ p - size, size },
		{ p - size, 2 * size },
		{ p - size, mem->size + 2 * size },
		{ end - size, 2 * size },
		{ end, size },
		{ p, mem->size + size },
		{ p, 1ULL << 62 },
		{ -2 * size, size },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(ranges); i++)
		expect_claim(check_range(self, ranges[i].addr, ranges[i].length,
					 -ENXIO, false));
	expect_untouched(self);
}

/* Two mirrors side by side are two mirrors. */
TEST_F(abi, range_spans_mirrors)
{
	struct mem *spare = &self->spare;
	size_t half = spare->size / 2;

	ASSERT_EQ(0, dev_mirror(&self->dev, spare->p, half));
	ASSERT_EQ(0, dev_mirror(&self->dev, spare->p + half, half));
	expect_claim(check_range(self, (uintptr_t)spare->p, spare->size,
				 -ENXIO, false));
	expect_claim(check_range(self, (uintptr_t)spare->p + half - page_size(),
				 2 * page_size(), -ENXIO, false));
	acquire_pages(&self->dev, spare, 0, spare->pages / 2);
	acquire_pages(&self->dev, spare, spare->pages / 2, spare->pages / 2);
	expect_untouched(self);
}

/* COPY takes bytes, so its ranges are its own. */
TEST_F(abi, copy_range_bad)
{
	const struct call *copy = &calls[5];
	uint64_t p = (uintptr_t)self->mem.p, end = p + self->mem.size;
	const struct {
		uint64_t addr;
		uint64_t length;
		int error;
	} ranges[] = {
		{ p, 0, -EINVAL },
		{ UINT64_MAX, 0, -EINVAL },
		{ p, UINT64_MAX, -EOVERFLOW },
		{ UINT64_MAX, 1, -EOVERFLOW },
		{ p - 1, 1, -ENXIO },
		{ p - 1, 2, -ENXIO },
		{ end, 1, -ENXIO },
		{ end - 1, 2, -ENXIO },
		{ p, 1ULL << 62, -ENXIO },
	};
	size_t i;

	ASSERT_EQ(DEVEXCL_COPY, copy->cmd);
	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		union args *args = args_of(self, copy);

		args->copy.addr = ranges[i].addr;
		args->copy.length = ranges[i].length;
		expect_refused(self, copy, args, ranges[i].error);
		args->flags = DEVEXCL_COPY_WRITE;
		expect_refused(self, copy, args, ranges[i].error);
	}
	expect_untouched(self);
}

/* First and last bytes, any alignment, across pages. */
TEST_F(abi, copy_any_alignment)
{
	size_t size = page_size(), last = self->mem.size - 1;
	const struct {
		size_t offset;
		size_t length;
	} parts[] = {
		{ 0, 1 }, { 1, 1 }, { 3, 8 }, { size - 1, 1 }, { size - 1, 2 },
		{ size - 3, 2 * size + 6 }, { last, 1 }, { last - 6, 7 },
	};
	char *was = malloc(self->mem.size), *is = malloc(self->mem.size);
	size_t i;

	memcpy(was, self->mem.p, self->mem.size);
	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		char *p = self->mem.p + parts[i].offset;
		size_t length = parts[i].length;

		memset(is, 0, length);
		ASSERT_EQ(length, dev_copy(&self->dev, p, is, length, 0));
		ASSERT_EQ(0, memcmp(is, was + parts[i].offset, length));

		/* Write something else, and look that it is this only. */
		memset(was + parts[i].offset, i, length);
		ASSERT_EQ(length, dev_copy(&self->dev, p,
					   was + parts[i].offset, length,
					   DEVEXCL_COPY_WRITE));
		ASSERT_EQ(0, memcmp(self->mem.p, was, self->mem.size));
	}
	free(was);
	free(is);
}

/*
 * Mirrors
 */

TEST_F(abi, mirror_overlap)
{
	struct mem *spare = &self->spare;
	/* Pages 2 to 5 are mirrored. */
	const struct {
		size_t first;
		size_t pages;
		int error;
	} shapes[] = {
		{ 2, 4, -EEXIST },	/* the same */
		{ 2, 1, -EEXIST },	/* its head */
		{ 3, 2, -EEXIST },	/* its middle */
		{ 5, 1, -EEXIST },	/* its tail */
		{ 1, 2, -EEXIST },	/* over the start */
		{ 5, 2, -EEXIST },	/* over the end */
		{ 1, 5, -EEXIST },	/* more before */
		{ 2, 5, -EEXIST },	/* more behind */
		{ 0, 8, -EEXIST },	/* more on both sides */
		{ 0, 2, 0 },		/* side by side */
		{ 6, 2, 0 },
	};
	const struct call *mirror = &calls[2];
	size_t i;

	ASSERT_EQ(DEVEXCL_MIRROR, mirror->cmd);
	ASSERT_EQ(0, dev_mirror(&self->dev, page_of(spare, 2),
				4 * page_size()));
	for (i = 0; i < ARRAY_SIZE(shapes); i++) {
		union args *args = args_of(self, mirror);
		char *p = page_of(spare, shapes[i].first);

		set_range(args, p, shapes[i].pages * page_size());
		if (shapes[i].error)
			expect_refused(self, mirror, args, shapes[i].error);
		else
			EXPECT_EQ(0, dev_ioctl(self->dev.fd, mirror->cmd,
					       args));
	}
	acquire_pages(&self->dev, spare, 0, 2);
	acquire_pages(&self->dev, spare, 2, 4);
	acquire_pages(&self->dev, spare, 6, 2);
}

/* As many as INFO says, and no more. */
TEST_F(abi, mirror_max)
{
	size_t max = self->dev.info.max_mirrors, i;
	struct devexcl_stats stats;
	struct mem many;
	int ret = 0;

	/* Every other page, so that they are not neighbours. */
	many.size = 2 * max * page_size();
	many.p = mmap(NULL, many.size, PROT_NONE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, many.p);
	/* One is there already. */
	for (i = 1; i < max && !ret; i++)
		ret = dev_mirror(&self->dev, page_of(&many, 2 * i),
				 page_size());
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, dev_stats(&self->dev, &stats));
	EXPECT_EQ(max, stats.mirrors);
	expect_refused(self, &calls[2], args_of(self, &calls[2]), -ENOSPC);

	ASSERT_EQ(0, dev_unmirror(&self->dev, page_of(&many, 2),
				  page_size()));
	EXPECT_EQ(0, dev_mirror(&self->dev, self->spare.p, self->spare.size));
	acquire_pages(&self->dev, &self->spare, 0, self->spare.pages);
	munmap(many.p, many.size);
	expect_untouched(self);
}

/* Addresses can be mirrored before there is anything. */
TEST_F(abi, mirror_unmapped)
{
	struct mem *spare = &self->spare;

	ASSERT_EQ(0, munmap(spare->p, spare->size));
	ASSERT_EQ(0, dev_mirror(&self->dev, spare->p, spare->size));
	EXPECT_EQ(-EFAULT, dev_acquire(&self->dev, spare->p, 1));

	ASSERT_EQ(spare->p, mmap(spare->p, spare->size, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
				 0));
	fill_mem(spare);
	acquire_pages(&self->dev, spare, 0, spare->pages);
	expect_data(spare, 0, spare->pages);
}

/* All that the user can have is a mirror; a page more is not. */
TEST_F(abi, mirror_all)
{
	uint64_t size = page_size(), end = 1ULL << 62, step = end / 2;
	struct dev other;

	/* Find the end of the user's addresses. */
	ASSERT_EQ(0, dev_open(&other, 0));
	for (; step >= size; step /= 2) {
		int ret = dev_mirror(&other, NULL, end);

		if (!ret)
			dev_unmirror(&other, NULL, end);
		end += ret ? -step : step;
	}
	while (dev_mirror(&other, NULL, end))
		end -= size;
	EXPECT_LT((uintptr_t)&other, end);

	acquire_pages(&other, &self->mem, 0, PAGES);
	ASSERT_EQ(0, dev_unmirror(&other, NULL, end));
	EXPECT_EQ(-EFAULT, dev_mirror(&other, NULL, end + size));
	EXPECT_EQ(-EFAULT, dev_mirror(&other, (void *)end, size));
	EXPECT_EQ(-EFAULT, dev_mirror(&other, (void *)(end - size), 2 * size));
	EXPECT_EQ(0, dev_mirror(&other, (void *)(end - size), size));
	dev_close(&other);
	expect_untouched(self);
}

/* A mirror goes as a whole. */
TEST_F(abi, unmirror_part)
{
	struct mem *mem = &self->mem;
	const struct call *unmirror = &calls[ARRAY_SIZE(calls) - 1];
	size_t size = page_size();
	const struct {
		char *p;
		size_t length;
	} parts[] = {
		{ mem->p, size },
		{ mem->p, mem->size - size },
		{ mem->p + size, size },
		{ mem->p + size, mem->size - size },
		{ mem->p, mem->size + size },
		{ mem->p - size, mem->size + size },
		{ self->spare.p, self->spare.size },
	};
	size_t i;

	ASSERT_EQ(DEVEXCL_UNMIRROR, unmirror->cmd);
	acquire_pages(&self->dev, mem, 0, PAGES);
	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		union args *args = args_of(self, unmirror);

		set_range(args, parts[i].p, parts[i].length);
		expect_refused(self, unmirror, args, -ENXIO);
	}
	expect_held(&self->dev, mem, 0, PAGES);
	expect_untouched(self);
}

/* Nothing is held any more, and an event says what was let go. */
TEST_F(abi, unmirror_lets_go)
{
	struct devexcl_stats stats;
	struct taken taken;

	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, dev_unmirror(&self->dev, self->mem.p, self->mem.size));
	ASSERT_EQ(0, dev_taken(&self->dev, &taken));
	EXPECT_EQ(PAGES, taken.released);
	EXPECT_EQ(0, taken.exclusive);
	ASSERT_EQ(0, dev_stats(&self->dev, &stats));
	EXPECT_EQ(0, stats.held);
	EXPECT_EQ(0, stats.mirrors);
	EXPECT_EQ(0, stats.table_bytes);
	expect_data(&self->mem, 0, PAGES);

	ASSERT_EQ(0, dev_mirror(&self->dev, self->mem.p, self->mem.size));
	expect_untouched(self);
}

/* Events carry the number of the mirror that MIRROR and UNMIRROR tell. */
TEST_F(abi, mirror_id)
{
	struct devexcl_mirror arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)self->spare.p,
		.length = self->spare.size,
	};
	struct devexcl_event event = {};
	uint32_t id;

	ASSERT_EQ(0, dev_ioctl(self->dev.fd, DEVEXCL_MIRROR, &arg));
	id = arg.id;
	ASSERT_EQ(0, dev_release(&self->dev, self->mem.p, 1));
	ASSERT_EQ(1, dev_read_events(&self->dev, &event, 1));
	EXPECT_NE(id, event.mirror);
	ASSERT_EQ(0, dev_release(&self->dev, self->spare.p, 1));
	ASSERT_EQ(1, dev_read_events(&self->dev, &event, 1));
	EXPECT_EQ(id, event.mirror);

	arg.id = ~id;
	ASSERT_EQ(0, dev_ioctl(self->dev.fd, DEVEXCL_UNMIRROR, &arg));
	EXPECT_EQ(id, arg.id);
	/* Numbers are not used again, so that old events stay unambiguous. */
	ASSERT_EQ(0, dev_ioctl(self->dev.fd, DEVEXCL_MIRROR, &arg));
	EXPECT_NE(id, arg.id);
}

/* A quiet mirror counts its own notifier calls, and does not tell them. */
TEST_F(abi, mirror_quiet)
{
	struct devexcl_stats before, after;
	struct mem *spare = &self->spare;
	struct taken taken;

	ASSERT_EQ(0, dev_mirror_flags(&self->dev, spare->p, spare->size,
				      DEVEXCL_MIRROR_QUIET));
	ASSERT_EQ(0, dev_stats(&self->dev, &before));
	ASSERT_EQ(0, dev_acquire_one(&self->dev, spare->p));
	ASSERT_EQ(0, dev_stats(&self->dev, &after));
	EXPECT_LT(before.own, after.own);
	ASSERT_EQ(0, dev_taken(&self->dev, &taken));
	EXPECT_EQ(0, taken.own);
	EXPECT_EQ(1, taken.acquired);

	ASSERT_EQ(0, dev_acquire_one(&self->dev, self->mem.p));
	ASSERT_EQ(0, dev_taken(&self->dev, &taken));
	EXPECT_LT(0, taken.own);
	expect_untouched(self);
}

/*
 * Arrays that a structure points to
 */

/**
 * struct array - an array that a call takes
 * @name: for messages
 * @element: bytes for each page, operation or byte
 * @optional: may be NULL
 * @only_read: the kernel does not write to it
 * @run: does a call for @nr elements of memory; elements done or -errno
 */
struct array {
	const char *name;
	size_t element;
	bool optional;
	bool only_read;
	long (*run)(struct dev *dev, const struct mem *mem, size_t first,
		    size_t nr, void *array);
};

static long run_ops(struct dev *dev, const struct mem *mem, size_t first,
		    size_t nr, void *array)
{
	return dev_atomic(dev, array, nr, DEVEXCL_ATOMIC_ACQUIRE, 0);
}

static long run_status(struct dev *dev, const struct mem *mem, size_t first,
		       size_t nr, void *array)
{
	return dev_acquire_status(dev, page_of(mem, first), nr, array);
}

static long run_infos(struct dev *dev, const struct mem *mem, size_t first,
		      size_t nr, void *array)
{
	struct devexcl_query arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)page_of(mem, first),
		.length = nr * page_size(),
		.pages = (uintptr_t)array,
	};

	return dev_ioctl(dev->fd, DEVEXCL_QUERY, &arg) ?: arg.done;
}

/* In units of 64 bytes. */
#define COPY_UNIT	64

static long run_copy(struct dev *dev, const struct mem *mem, size_t first,
		     size_t nr, void *array)
{
	long copied = dev_copy(dev, mem->p + first * COPY_UNIT, array,
			       nr * COPY_UNIT, 0);

	return copied < 0 ? copied : copied / COPY_UNIT;
}

static long run_copy_write(struct dev *dev, const struct mem *mem, size_t first,
			   size_t nr, void *array)
{
	long copied = dev_copy(dev, mem->p + first * COPY_UNIT, array,
			       nr * COPY_UNIT, DEVEXCL_COPY_WRITE);

	return copied < 0 ? copied : copied / COPY_UNIT;
}

static const struct array arrays[] = {
	{ "ops", sizeof(struct devexcl_atomic_op), false, false, run_ops },
	{ "status", sizeof(int32_t), true, false, run_status },
	{ "pages", sizeof(struct devexcl_page), false, false, run_infos },
	{ "buf to read into", COPY_UNIT, false, false, run_copy },
	{ "buf to write from", COPY_UNIT, false, true, run_copy_write },
};

/*
 * What an array begins with: operations that add 1 to a page each, or words of
 * the memory, so that COPY changes nothing.
 */
static void fill_array(const struct array *array, const struct mem *mem,
		       size_t nr, void *p)
{
	struct devexcl_atomic_op *ops = p;
	size_t i;

	if (array->run != run_ops) {
		memcpy(p, mem->p, nr * array->element);
		return;
	}
	memset(ops, 0, nr * sizeof(*ops));
	for (i = 0; i < nr; i++) {
		ops[i].addr = (uintptr_t)page_of(mem, i);
		ops[i].operand = 1;
		ops[i].width = 8;
	}
}

/* What the device did that can be seen. */
static uint64_t work_done(struct dev *dev)
{
	struct devexcl_stats stats;

	dev_stats(dev, &stats);
	return stats.acquired + stats.held + stats.ops + stats.bytes_copied;
}

static bool is_place_good(const struct array *array, enum place where)
{
	if (where == PLACE_NULL)
		return array->optional;
	if (where == PLACE_READ_ONLY || where == PLACE_HALF_READ_ONLY)
		return array->only_read;
	return false;
}

TEST_F(abi, array_bad_pointer)
{
	const struct array *array;
	char good[256];
	enum place where;

	for (array = arrays; array < arrays + ARRAY_SIZE(arrays); array++) {
		fill_array(array, &self->mem, 2, good);
		for (where = 0; where < PLACE_NR; where++) {
			uint64_t before = work_done(&self->dev);
			void *p = place(&self->arena, where, good,
					2 * array->element);

			if (is_place_good(array, where))
				continue;
			EXPECT_EQ(-EFAULT, array->run(&self->dev, &self->mem, 0,
						      2, p))
				TH_LOG("%s, place %d", array->name, where);
			EXPECT_EQ(before, work_done(&self->dev))
				TH_LOG("%s, place %d", array->name, where);
		}
	}
	expect_untouched(self);
}

TEST_F(abi, array_read_only_is_enough)
{
	const struct array *array = &arrays[4];
	char good[256];
	void *p;

	fill_array(array, &self->mem, 2, good);
	p = place(&self->arena, PLACE_READ_ONLY, good, 2 * array->element);
	EXPECT_EQ(2, array->run(&self->dev, &self->mem, 0, 2, p));
	expect_untouched(self);
}

/*
 * The array ends after @fit elements, and the call is for more: it may do some
 * of them, and must tell how many; and when called for the rest, it may not
 * get further than to the end.
 */
static const char *check_array_ends(struct dev *dev, const struct mem *mem,
				    const struct array *array, char *end,
				    size_t fit, size_t nr)
{
	char *p = end - fit * array->element;
	size_t done = 0;
	long got;

	while ((got = array->run(dev, mem, done, nr - done,
				 p + done * array->element)) > 0)
		done += got;
	if (got != -EFAULT)
		return say_why("%s ends, and the call says %ld", array->name,
			       got);
	if (done > fit)
		return say_why("%s: %zu done, and only %zu fit", array->name,
			       done, fit);
	if (!done)
		return say_why("%s: nothing was done", array->name);
	if (array->run == run_status && work_done(dev) != 2 * done)
		return say_why("%zu acquired was told, not all are held", done);
	return NULL;
}

TEST_F(abi, array_ends)
{
	struct mem *mem = &self->mem, room;
	const struct array *array;
	struct dev other;
	size_t pages, fit = 100;

	for (array = arrays; array < arrays + ARRAY_SIZE(arrays); array++) {
		ASSERT_EQ(0, dev_open(&other, 0));
		ASSERT_EQ(0, dev_mirror(&other, mem->p, mem->size));
		pages = PAGES * array->element / page_size() + 1;
		ASSERT_EQ(0, mem_map(&room, pages + 1));
		ASSERT_EQ(0, munmap(page_of(&room, pages), page_size()));
		fill_array(array, mem, fit, page_of(&room, pages) -
					    fit * array->element);
		expect_claim(check_array_ends(&other, mem, array,
					      page_of(&room, pages), fit,
					      PAGES));
		munmap(room.p, pages * page_size());
		dev_close(&other);
	}
}

/* Operations that were told of are exactly those that happened. */
TEST_F(abi, array_ends_ops_done)
{
	struct mem *mem = &self->mem;
	struct devexcl_atomic_op *end = (void *)page_of(&self->arena, 3);
	size_t i, fit = 100;
	long done;

	ASSERT_EQ(0, munmap(end, page_size()));
	fill_array(&arrays[0], mem, fit, end - fit);
	done = run_ops(&self->dev, mem, 0, PAGES, end - fit);
	ASSERT_LT(0, done);
	for (i = 0; i < PAGES; i++)
		ASSERT_EQ(pattern_of(mem, i) + (i < done),
			  READ_MEM(word_of(mem, i)));
}

/* Nobody's memory is proportional to the length of an array. */
TEST_F(abi, array_huge)
{
	struct devexcl_atomic_op op = {};
	struct devexcl_atomic arg = {
		.size = sizeof(arg),
		.flags = DEVEXCL_ATOMIC_ACQUIRE,
	};
	const uint64_t lengths[] = { 1ULL << 31, 1ULL << 32, 1ULL << 40,
				     UINT64_MAX / sizeof(op),
				     UINT64_MAX / sizeof(op) + 1, UINT64_MAX };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		arg.ops = (uintptr_t)place(&self->arena, PLACE_HALF_UNMAPPED,
					   &op, sizeof(op));
		arg.nr_ops = lengths[i];
		EXPECT_EQ(-EFAULT, dev_ioctl(self->dev.fd, DEVEXCL_ATOMIC,
					     &arg));
	}
	expect_untouched(self);
}

/*
 * Operations
 */

TEST_F(abi, op_bad)
{
	uint64_t p = (uintptr_t)self->mem.p, end = p + self->mem.size;
	const struct {
		struct devexcl_atomic_op op;
		int error;
	} ops[] = {
		{ { .addr = p, .width = 0 }, -EINVAL },
		{ { .addr = p, .width = 3 }, -EINVAL },
		{ { .addr = p, .width = 16 }, -EINVAL },
		{ { .addr = p, .width = 255 }, -EINVAL },
		{ { .addr = p, .width = 8, .op = DEVEXCL_OP_NR }, -EINVAL },
		{ { .addr = p, .width = 8, .op = 255 }, -EINVAL },
		{ { .addr = p, .width = 8, .reserved = 1 }, -EINVAL },
		{ { .addr = p, .width = 8, .reserved = 1 << 15 }, -EINVAL },
		{ { .addr = p + 1, .width = 2 }, -EINVAL },
		{ { .addr = p + 2, .width = 4 }, -EINVAL },
		{ { .addr = p + 4, .width = 8 }, -EINVAL },
		{ { .addr = p + page_size() - 4, .width = 8 }, -EINVAL },
		{ { .addr = 0, .width = 8 }, -ENXIO },
		{ { .addr = p - 8, .width = 8 }, -ENXIO },
		{ { .addr = end, .width = 8 }, -ENXIO },
		{ { .addr = -8ULL, .width = 8 }, -ENXIO },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		struct devexcl_atomic_op batch[3] = {
			{ .addr = p, .operand = 1, .width = 8 },
			ops[i].op,
			{ .addr = p, .operand = 1, .width = 8 },
		};

		/* The one before it is done, the one after it is not. */
		EXPECT_EQ(1, dev_atomic(&self->dev, batch, 3,
					DEVEXCL_ATOMIC_ACQUIRE, 0));
		EXPECT_EQ(ops[i].error, batch[1].error)
			TH_LOG("operation %zu", i);
		EXPECT_EQ(ops[i].error, dev_atomic(&self->dev, batch + 1, 2,
						   DEVEXCL_ATOMIC_ACQUIRE, 0));
	}
	EXPECT_EQ(pattern_of(&self->mem, 0) + i, READ_MEM(word_of(&self->mem, 0)));
	fill_mem(&self->mem);
	expect_untouched(self);
}

/* Operations behind the one that failed are as they were, to be tried again. */
TEST_F(abi, op_behind_bad)
{
	struct devexcl_atomic_op ops[4], *p;
	size_t offset;

	memset(ops, 0x5a, sizeof(ops));
	ops[0] = (struct devexcl_atomic_op) { .width = 3 };
	/* Wherever a page of the array begins. */
	for (offset = 0; offset <= sizeof(ops); offset += 8) {
		p = (void *)(page_of(&self->arena, 1) - offset);
		memcpy(p, ops, sizeof(ops));
		ASSERT_EQ(-EINVAL, dev_atomic(&self->dev, p, 4, 0, 0));
		ASSERT_EQ(0, memcmp(&p[1], &ops[1], 3 * sizeof(*ops)));
	}
	expect_untouched(self);
}

TEST_F(abi, atomic_limits)
{
	uint32_t max = self->dev.info.max_gap_ns;
	const struct {
		uint64_t nr_ops;
		uint32_t flags;
		uint32_t gap_ns;
		int error;
	} cases[] = {
		{ 0, DEVEXCL_ATOMIC_ACQUIRE, 0, -EINVAL },
		{ 1, DEVEXCL_ATOMIC_ACQUIRE, 1, -EINVAL },
		{ 1, 0, 1, -EINVAL },
		{ 1, DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP, max + 1,
		  -EINVAL },
		{ 1, DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP, UINT32_MAX,
		  -EINVAL },
		{ 1, DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP, max, 0 },
		{ 1, DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP, 1, 0 },
		{ 1, DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP, 0, 0 },
	};
	const struct call *atomic = &calls[4];
	size_t i;

	ASSERT_EQ(DEVEXCL_ATOMIC, atomic->cmd);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		union args *args = args_of(self, atomic);

		args->flags = cases[i].flags;
		args->atomic.nr_ops = cases[i].nr_ops;
		args->atomic.gap_ns = cases[i].gap_ns;
		if (cases[i].error)
			expect_refused(self, atomic, args, cases[i].error);
		else
			EXPECT_EQ(0, dev_ioctl(self->dev.fd, atomic->cmd,
					       args));
	}
	expect_untouched(self);
}

/*
 * Who may use a context
 */

/* Each call through @fd is refused, but for those that anybody may make. */
static const char *check_elsewhere(int fd, const struct mem *mem,
				   const struct mem *spare, int error)
{
	const struct call *call;

	for_each_call(call) {
		union args *args = good_args(call, mem, spare);
		int ret = dev_ioctl(fd, call->cmd, args);

		if (ret != (call->any_mm ? call->works : error))
			return say_why("%s is %d", call->name, ret);
	}
	return NULL;
}

/* For a child's exit status. */
static int tell(const char *wrong)
{
	if (wrong)
		fprintf(stderr, "# %s\n", wrong);
	return wrong ? 1 : 0;
}

TEST_F(abi, other_mm_fork)
{
	struct devexcl_stats before, after;
	pid_t pid;

	ASSERT_EQ(0, dev_stats(&self->dev, &before));
	ASSERT_EQ(0, madvise(self->mem.p, self->mem.size, MADV_DONTFORK));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(tell(check_elsewhere(self->dev.fd, &self->mem,
					   &self->spare, -EPERM)));
	EXPECT_EQ(0, wait_child(pid));
	ASSERT_EQ(0, dev_stats(&self->dev, &after));
	EXPECT_EQ(before.acquired, after.acquired);
	EXPECT_EQ(before.mirrors, after.mirrors);
	expect_untouched(self);
}

/* What this program does when it was executed by the test below. */
static void __attribute__((constructor)) run_after_exec(void)
{
	const char *fd = getenv(EXEC_FD);
	struct mem mem = { .p = (char *)(16 * page_size()) };

	mem.size = page_size();
	if (fd)
		_exit(tell(check_elsewhere(atoi(fd), &mem, &mem, -EPERM)));
}

/* A new program in the same process is another address space. */
TEST_F(abi, other_mm_exec)
{
	char number[16];
	pid_t pid;

	snprintf(number, sizeof(number), "%d", dup(self->dev.fd));
	ASSERT_EQ(0, setenv(EXEC_FD, number, 1));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		execl("/proc/self/exe", "abi", NULL);
		_exit(127);
	}
	EXPECT_EQ(0, wait_child(pid));
	ASSERT_EQ(0, unsetenv(EXEC_FD));
	expect_untouched(self);
}

/* Somebody who was there before the device was opened. */
TEST_F(abi, other_mm_socket)
{
	int sock[2];
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		/* What was inherited is not what is used. */
		close(self->dev.fd);
		_exit(tell(check_elsewhere(receive_fd(sock[0]), &self->mem,
					   &self->spare, -EPERM)));
	}
	dev_close(&self->dev);
	ASSERT_EQ(0, dev_open(&self->dev, 0));
	ASSERT_EQ(0, dev_mirror(&self->dev, self->mem.p, self->mem.size));
	ASSERT_EQ(0, send_fd(sock[1], self->dev.fd));
	EXPECT_EQ(0, wait_child(pid));
	expect_untouched(self);
}

/* Acquire pages, give the device away, and die with the pages held. */
static void die_holding(int sock)
{
	struct mem mem;
	struct dev dev;

	if (dev_open(&dev, 0) || mem_map(&mem, PAGES) ||
	    dev_mirror(&dev, mem.p, mem.size) ||
	    dev_acquire_all(&dev, mem.p, PAGES))
		_exit(1);
	dev_forget_events(&dev);
	_exit(send_fd(sock, dev.fd) ? 2 : 0);
}

/* The context outlives its address space. */
TEST_F(abi, owner_died)
{
	struct devexcl_stats stats;
	struct taken taken;
	struct dev dev = {};
	int sock[2];
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		die_holding(sock[0]);
	dev.fd = receive_fd(sock[1]);
	ASSERT_LT(0, dev.fd);
	ASSERT_EQ(0, wait_child(pid));

	expect_claim(check_elsewhere(dev.fd, &self->mem, &self->spare,
				     -ESRCH));
	ASSERT_EQ(0, dev_stats(&dev, &stats));
	EXPECT_EQ(0, stats.held);
	EXPECT_EQ(1, stats.mirrors);

	/* The pages were taken, and the events are still there. */
	ASSERT_EQ(0, dev_wait_event(&dev, 0));
	ASSERT_EQ(0, dev_taken(&dev, &taken));
	EXPECT_EQ(PAGES, taken.exclusive);
	EXPECT_EQ(0, close(dev.fd));
	expect_untouched(self);
}

/* Another descriptor of the same file is the same context. */
TEST_F(abi, dup_is_same)
{
	struct dev twin = self->dev;

	twin.fd = dup(self->dev.fd);
	ASSERT_LE(0, twin.fd);
	ASSERT_EQ(0, dev_acquire_all(&twin, self->mem.p, PAGES));
	expect_held(&self->dev, &self->mem, 0, PAGES);
	dev_close(&twin);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	expect_untouched(self);
}

/* Two files are two contexts, of one device as of two. */
TEST_F(abi, open_is_new)
{
	struct devexcl_event event;
	struct devexcl_stats stats;
	struct dev other;
	unsigned int n;

	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	for (n = 0; n < self->dev.info.ndevices; n++) {
		ASSERT_EQ(0, dev_open(&other, n));
		EXPECT_EQ(-ENXIO, dev_acquire(&other, self->mem.p, 1));
		ASSERT_EQ(0, dev_mirror(&other, self->mem.p, self->mem.size));
		EXPECT_EQ(0, dev_release(&other, self->mem.p, PAGES));
		ASSERT_EQ(0, dev_stats(&other, &stats));
		EXPECT_EQ(0, stats.held);
		EXPECT_EQ(0, stats.acquired);
		EXPECT_EQ(0, dev_read_events(&self->dev, &event, 1));
		dev_close(&other);
	}
	expect_held(&self->dev, &self->mem, 0, PAGES);
	expect_untouched(self);
}

struct sharer {
	struct dev *dev;
	const struct mem *mem;
	int ret;
};

static void *run_thread(void *data)
{
	struct sharer *sharer = data;

	sharer->ret = dev_acquire_all(sharer->dev, sharer->mem->p, PAGES);
	return NULL;
}

TEST_F(abi, thread_is_same_mm)
{
	struct sharer sharer = { &self->dev, &self->mem, -1 };
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, run_thread, &sharer));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, sharer.ret);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	expect_untouched(self);
}

static int run_clone(void *data)
{
	run_thread(data);
	return 0;
}

/* A process that shares the address space, but neither files nor signals. */
TEST_F(abi, clone_vm_is_same_mm)
{
	struct sharer sharer = { &self->dev, &self->mem, -1 };
	size_t size = 64 * page_size();
	char *stack = malloc(size);
	pid_t pid;

	ASSERT_NE(NULL, stack);
	pid = clone(run_clone, stack + size, CLONE_VM | SIGCHLD, &sharer);
	ASSERT_LT(0, pid);
	ASSERT_EQ(0, wait_child(pid));
	EXPECT_EQ(0, sharer.ret);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	free(stack);
	expect_untouched(self);
}

/*
 * read() and poll()
 */

/* Each is a record of its own. */
static void make_events(struct dev *dev, const struct mem *mem, size_t nr)
{
	while (nr--)
		dev_release(dev, mem->p, 1);
}

TEST_F(abi, read_short)
{
	struct devexcl_event event;
	size_t size;

	make_events(&self->dev, &self->mem, 1);
	for (size = 0; size < sizeof(event); size++) {
		EXPECT_EQ(-1, read(self->dev.fd, &event, size));
		EXPECT_EQ(EINVAL, errno);
	}
	/* It is still there; and only whole records are given. */
	make_events(&self->dev, &self->mem, 1);
	EXPECT_EQ(sizeof(event), read(self->dev.fd, &event,
				      sizeof(event)));
	make_events(&self->dev, &self->mem, 1);
	EXPECT_EQ(1, dev_read_events(&self->dev, &event, 1));
	EXPECT_EQ(1, dev_read_events(&self->dev, &event, 1));
	EXPECT_EQ(0, dev_read_events(&self->dev, &event, 1));
}

TEST_F(abi, read_empty)
{
	struct devexcl_event events[3], untouched;

	memset(&untouched, 0x5a, sizeof(untouched));
	memset(events, 0x5a, sizeof(events));
	EXPECT_EQ(-1, read(self->dev.fd, events, sizeof(events)));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ(0, memcmp(&events[0], &untouched, sizeof(untouched)));

	/* Nor is the buffer touched behind what there is. */
	make_events(&self->dev, &self->mem, 1);
	EXPECT_EQ(1, dev_read_events(&self->dev, events, 3));
	EXPECT_EQ(0, memcmp(&events[1], &untouched, sizeof(untouched)));
}

TEST_F(abi, read_bad_buffer)
{
	struct devexcl_event events[8], good[2] = {};
	uint64_t seq;
	enum place where;
	long i, nr;

	make_events(&self->dev, &self->mem, 1);
	ASSERT_EQ(1, dev_read_events(&self->dev, events, 1));
	seq = events[0].seq;
	make_events(&self->dev, &self->mem, 5);
	for (where = 0; where < PLACE_NR; where++) {
		void *p = place(&self->arena, where, good, sizeof(good[0]));

		EXPECT_EQ(-1, read(self->dev.fd, p, sizeof(good)));
		EXPECT_EQ(EFAULT, errno);
	}
	/* Nothing was lost by that. */
	nr = dev_read_events(&self->dev, events, 8);
	ASSERT_EQ(5, nr);
	for (i = 0; i < nr; i++)
		EXPECT_EQ(seq + 1 + i, events[i].seq);
}

struct reader {
	struct dev *dev;
	pthread_t thread;
	struct progress progress;
	ssize_t ret;
	int error;
};

static void *run_reader(void *data)
{
	struct reader *reader = data;
	struct devexcl_event event;

	progress_begin(&reader->progress);
	reader->ret = read(reader->dev->fd, &event, sizeof(event));
	reader->error = errno;
	progress_end(&reader->progress);
	return NULL;
}

/* A thread that is blocked in read(). */
static int start_reader(struct reader *reader, struct dev *dev)
{
	reader->dev = dev;
	reader->progress = (struct progress){};
	if (fcntl(dev->fd, F_SETFL, 0) ||
	    pthread_create(&reader->thread, NULL, run_reader, reader))
		return -errno;
	progress_wait(&reader->progress);
	return 0;
}

static void join_reader(struct reader *reader)
{
	pthread_join(reader->thread, NULL);
	progress_close(&reader->progress);
	fcntl(reader->dev->fd, F_SETFL, O_NONBLOCK);
}

static void on_signal(int signal)
{
}

static int catch_signal(int signal, int flags)
{
	struct sigaction action = {
		.sa_handler = on_signal,
		.sa_flags = flags,
	};

	return sigaction(signal, &action, NULL);
}

TEST_F(abi, read_blocks)
{
	struct reader reader;

	ASSERT_EQ(0, start_reader(&reader, &self->dev));
	make_events(&self->dev, &self->mem, 1);
	join_reader(&reader);
	EXPECT_EQ(sizeof(struct devexcl_event), reader.ret);
}

TEST_F(abi, read_interrupted)
{
	struct reader reader;

	ASSERT_EQ(0, catch_signal(SIGUSR1, 0));
	ASSERT_EQ(0, start_reader(&reader, &self->dev));
	ASSERT_EQ(0, pthread_kill(reader.thread, SIGUSR1));
	join_reader(&reader);
	EXPECT_EQ(-1, reader.ret);
	EXPECT_EQ(EINTR, reader.error);
}

/* With SA_RESTART, the reader does not notice. */
TEST_F(abi, read_restarted)
{
	struct reader reader;

	ASSERT_EQ(0, catch_signal(SIGUSR1, SA_RESTART));
	ASSERT_EQ(0, start_reader(&reader, &self->dev));
	ASSERT_EQ(0, pthread_kill(reader.thread, SIGUSR1));
	make_events(&self->dev, &self->mem, 1);
	join_reader(&reader);
	EXPECT_EQ(sizeof(struct devexcl_event), reader.ret);
}

TEST_F(abi, poll)
{
	struct pollfd pollfd = { .fd = self->dev.fd, .events = ~0 };
	struct devexcl_event event;

	EXPECT_EQ(0, poll(&pollfd, 1, 0));
	make_events(&self->dev, &self->mem, 2);
	EXPECT_EQ(1, poll(&pollfd, 1, -1));
	EXPECT_EQ(POLLIN | POLLRDNORM, pollfd.revents);
	ASSERT_EQ(1, dev_read_events(&self->dev, &event, 1));
	EXPECT_EQ(1, poll(&pollfd, 1, -1));
	ASSERT_EQ(1, dev_read_events(&self->dev, &event, 1));
	EXPECT_EQ(0, poll(&pollfd, 1, 0));
}

/* What a record says, from the first one of a context on. */
TEST_F(abi, event_records)
{
	struct devexcl_event events[8] = {}, *event = events;
	struct dev other;
	uint64_t p = (uintptr_t)self->mem.p, size = page_size();
	long i, nr;

	ASSERT_EQ(0, dev_open(&other, 0));
	ASSERT_EQ(0, dev_mirror_flags(&other, self->mem.p, self->mem.size,
				      DEVEXCL_MIRROR_QUIET));
	ASSERT_EQ(0, dev_acquire_all(&other, self->mem.p + size, 3));
	ASSERT_EQ(3, dev_release(&other, self->mem.p, PAGES));
	nr = dev_read_events(&other, events, 8);
	ASSERT_LE(2, nr);
	for (i = 0; i < nr; i++) {
		EXPECT_EQ(i + 1, events[i].seq);
		EXPECT_EQ(0, events[i].lost);
		if (i)
			EXPECT_LE(events[i - 1].time_ns, events[i].time_ns);
	}
	/* Getting the pages in may have been an event of its own. */
	while (event->type == DEVEXCL_EVENT_INVALIDATE)
		event++;
	EXPECT_EQ(DEVEXCL_EVENT_ACQUIRE, event->type);
	EXPECT_EQ(p + size, event->start);
	EXPECT_EQ(p + 4 * size, event->end);
	EXPECT_EQ(3, event->exclusive);
	EXPECT_EQ(0, event->shared);

	event = &events[nr - 1];
	EXPECT_EQ(DEVEXCL_EVENT_RELEASE, event->type);
	EXPECT_EQ(p, event->start);
	EXPECT_EQ(p + self->mem.size, event->end);
	EXPECT_EQ(3, event->exclusive);
	dev_close(&other);
}

/* Read @nr events one by one; their numbers must follow on @seq. */
static const char *check_consecutive(struct dev *dev, uint64_t *seq, size_t nr)
{
	struct devexcl_event event;

	while (nr--) {
		if (dev_read_events(dev, &event, 1) != 1)
			return "an event is missing";
		if (event.seq != *seq + 1)
			return "numbers of events are not consecutive";
		if (event.type != DEVEXCL_EVENT_RELEASE)
			return "this is not the event that was made";
		++*seq;
	}
	return NULL;
}

/* Nobody reads: the old ones stay, and it is told where others are missing. */
TEST_F(abi, event_overflow)
{
	size_t max = self->dev.info.max_events, more = 7;
	struct devexcl_event event;
	struct devexcl_stats stats;
	uint64_t seq;

	make_events(&self->dev, &self->mem, 1);
	ASSERT_EQ(1, dev_read_events(&self->dev, &event, 1));
	seq = event.seq;
	make_events(&self->dev, &self->mem, max + more);
	ASSERT_EQ(0, dev_stats(&self->dev, &stats));
	EXPECT_EQ(more, stats.events_lost);

	/* There is room again for a new one behind those that are missing. */
	expect_claim(check_consecutive(&self->dev, &seq, max / 2));
	make_events(&self->dev, &self->mem, 1);
	expect_claim(check_consecutive(&self->dev, &seq, max - max / 2));
	ASSERT_EQ(1, dev_read_events(&self->dev, &event, 1));
	EXPECT_EQ(DEVEXCL_EVENT_LOST, event.type);
	EXPECT_EQ(more, event.lost);
	EXPECT_EQ(++seq, event.seq);
	expect_claim(check_consecutive(&self->dev, &seq, 1));
	EXPECT_EQ(0, dev_read_events(&self->dev, &event, 1));
}

/* The last ones are missing, and nothing comes after them. */
TEST_F(abi, event_overflow_at_end)
{
	size_t max = self->dev.info.max_events;
	struct devexcl_event event;
	uint64_t seq;

	make_events(&self->dev, &self->mem, 1);
	ASSERT_EQ(1, dev_read_events(&self->dev, &event, 1));
	seq = event.seq;
	make_events(&self->dev, &self->mem, max + 1);
	expect_claim(check_consecutive(&self->dev, &seq, max));
	EXPECT_EQ(0, dev_wait_event(&self->dev, 0));
	ASSERT_EQ(1, dev_read_events(&self->dev, &event, 1));
	EXPECT_EQ(DEVEXCL_EVENT_LOST, event.type);
	EXPECT_EQ(1, event.lost);
	EXPECT_EQ(-ETIME, dev_wait_event(&self->dev, 0));
}

/*
 * Signals
 */

/* Wait until a counter of STATS is more than @value. */
static void wait_stat(int fd, size_t offset, uint64_t value)
{
	struct dev dev = { .fd = fd };
	struct devexcl_stats stats;

	do {
		if (dev_stats(&dev, &stats))
			return;
	} while (*(uint64_t *)((char *)&stats + offset) <= value &&
		 !sched_yield());
}

#define wait_counter(dev, counter, value)				\
	wait_stat((dev)->fd, offsetof(struct devexcl_stats, counter), value)

/* Sends a signal to a thread as soon as a counter moves. */
struct interrupter {
	struct dev *dev;
	size_t offset;
	uint64_t value;
	pthread_t victim;
	pthread_t thread;
};

static void *run_interrupter(void *data)
{
	struct interrupter *interrupter = data;

	wait_stat(interrupter->dev->fd, interrupter->offset,
		  interrupter->value);
	pthread_kill(interrupter->victim, SIGUSR1);
	return NULL;
}

static int start_interrupter(struct interrupter *interrupter, struct dev *dev,
			     size_t offset)
{
	struct devexcl_stats stats;
	int ret = dev_stats(dev, &stats);

	interrupter->dev = dev;
	interrupter->offset = offset;
	interrupter->value = *(uint64_t *)((char *)&stats + offset);
	interrupter->victim = pthread_self();
	return ret ?: pthread_create(&interrupter->thread, NULL,
				     run_interrupter, interrupter);
}

#define interrupt_when_moved(interrupter, dev, counter)			\
	start_interrupter(interrupter, dev,				\
			  offsetof(struct devexcl_stats, counter))

#define LONG_OPS	4000

/* Takes seconds, if nobody stops it. */
static long do_long_atomic(struct dev *dev, const struct mem *mem)
{
	static struct devexcl_atomic_op ops[LONG_OPS];
	size_t i;

	for (i = 0; i < LONG_OPS; i++)
		ops[i] = (struct devexcl_atomic_op) {
			.addr = (uintptr_t)mem->p,
			.operand = 1,
			.width = 8,
		};
	return dev_atomic(dev, ops, LONG_OPS,
			  DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP,
			  dev->info.max_gap_ns);
}

/* What was done is told; what was not, is not done. */
TEST_F(abi, atomic_interrupted)
{
	struct interrupter interrupter;
	long done;

	ASSERT_EQ(0, catch_signal(SIGUSR1, 0));
	ASSERT_EQ(0, interrupt_when_moved(&interrupter, &self->dev, ops));
	done = do_long_atomic(&self->dev, &self->mem);
	ASSERT_EQ(0, pthread_join(interrupter.thread, NULL));
	EXPECT_LT(0, done);
	EXPECT_GT(LONG_OPS, done);
	EXPECT_EQ(pattern_of(&self->mem, 0) + done,
		  READ_MEM(word_of(&self->mem, 0)));
	fill_mem(&self->mem);
	expect_untouched(self);
}

/* No progress was made, as work had to begin anew time and again. */
TEST_F(abi, retry_interrupted)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)self->mem.p,
		.operand = 1,
		.width = 8,
	};
	struct interrupter interrupter;

	ASSERT_EQ(0, catch_signal(SIGUSR1, 0));
	ASSERT_EQ(0, dev_inject(&self->dev, 0, INT32_MAX));
	ASSERT_EQ(0, interrupt_when_moved(&interrupter, &self->dev, retries));
	EXPECT_EQ(-EINTR, dev_atomic(&self->dev, &op, 1,
				     DEVEXCL_ATOMIC_ACQUIRE, 0));
	ASSERT_EQ(0, pthread_join(interrupter.thread, NULL));
	EXPECT_EQ(-EINTR, op.error);
	ASSERT_EQ(0, dev_inject(&self->dev, 0, 0));
	expect_not_held(&self->dev, &self->mem, 0, PAGES);
	expect_untouched(self);
}

#define LONG_PAGES	4096

/* Pages that are told to be acquired are held, and no others. */
TEST_F(abi, acquire_interrupted)
{
	struct interrupter interrupter;
	struct devexcl_stats stats;
	struct mem mem;
	long got;

	ASSERT_EQ(0, catch_signal(SIGUSR1, 0));
	setup_mirrored(_metadata, &self->dev, &mem, LONG_PAGES);
	/* It may be done before the signal comes; then once more. */
	do {
		dev_release(&self->dev, mem.p, LONG_PAGES);
		dev_forget_events(&self->dev);
		ASSERT_EQ(0, interrupt_when_moved(&interrupter, &self->dev,
						  acquired));
		got = dev_acquire(&self->dev, mem.p, LONG_PAGES);
		ASSERT_EQ(0, pthread_join(interrupter.thread, NULL));
		ASSERT_LT(0, got);
	} while (got == LONG_PAGES);
	ASSERT_EQ(0, dev_stats(&self->dev, &stats));
	EXPECT_EQ(got, stats.held);
	expect_held(&self->dev, &mem, 0, got);
	expect_not_held(&self->dev, &mem, got, LONG_PAGES - got);
	expect_data(&mem, 0, LONG_PAGES);
	mem_unmap(&mem);
}

/* A killed process dies, whatever it was at, and leaves nothing behind. */
TEST_F(abi, atomic_killed)
{
	struct devexcl_stats stats;
	int sock[2], fd;
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct dev dev;

		if (dev_open(&dev, 0) || send_fd(sock[0], dev.fd) ||
		    dev_mirror(&dev, self->mem.p, self->mem.size))
			_exit(1);
		_exit(do_long_atomic(&dev, &self->mem) ? 2 : 3);
	}
	fd = receive_fd(sock[1]);
	ASSERT_LE(0, fd);
	wait_stat(fd, offsetof(struct devexcl_stats, ops), 0);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(-SIGKILL, wait_child(pid));
	ASSERT_EQ(0, dev_stats(&(struct dev){ .fd = fd }, &stats));
	EXPECT_EQ(0, stats.held);
	EXPECT_GT(LONG_OPS, stats.ops);
	close(fd);
	expect_untouched(self);
}

/* Likewise where forced retries let it never get anywhere. */
TEST_F(abi, retry_killed)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)self->mem.p,
		.operand = 1,
		.width = 8,
	};
	int sock[2], fd;
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct dev dev;

		if (dev_open(&dev, 0) || send_fd(sock[0], dev.fd) ||
		    dev_mirror(&dev, self->mem.p, self->mem.size) ||
		    dev_inject(&dev, 0, INT32_MAX))
			_exit(1);
		dev_atomic(&dev, &op, 1, DEVEXCL_ATOMIC_ACQUIRE, 0);
		_exit(2);
	}
	fd = receive_fd(sock[1]);
	ASSERT_LE(0, fd);
	wait_stat(fd, offsetof(struct devexcl_stats, retries), 0);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(-SIGKILL, wait_child(pid));
	close(fd);
	expect_untouched(self);
}

/*
 * Module and node
 */

/* The module stays as long as anybody has a context. */
TEST_F(abi, module_in_use)
{
	const char *name = "test_devexcl";

	if (access("/sys/module/test_devexcl/refcnt", F_OK))
		SKIP(return, "test_devexcl is built in, or cannot be unloaded");
	if (geteuid())
		SKIP(return, "only root may unload modules");
	EXPECT_EQ(-1, syscall(SYS_delete_module, name, O_NONBLOCK));
	EXPECT_EQ(EWOULDBLOCK, errno);
	expect_untouched(self);
}

/* Physical memory is at stake: the device is not for everybody. */
TEST_F(abi, node_mode)
{
	struct stat st;
	pid_t pid;

	ASSERT_EQ(0, fstat(self->dev.fd, &st));
	EXPECT_EQ(S_IFCHR | 0600, st.st_mode);
	EXPECT_EQ(0, st.st_uid);
	if (geteuid())
		SKIP(return, "only root can become somebody else");
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct dev dev;

		if (setuid(65534))
			_exit(1);
		_exit(dev_open(&dev, 0) == -EACCES ? 0 : 2);
	}
	EXPECT_EQ(0, wait_child(pid));
}

/*
 * STATS and QUERY
 */

#define expect_moved(before, after, counter, by)			\
	EXPECT_EQ((by), (after).counter - (before).counter)

/* Stats before and after something is done. */
#define watch_stats(self, before, after, action)			\
do {									\
	ASSERT_EQ(0, dev_stats(&(self)->dev, &(before)));		\
	action;								\
	ASSERT_EQ(0, dev_stats(&(self)->dev, &(after)));		\
} while (0)

TEST_F(abi, stats_pages)
{
	struct devexcl_stats a, b;
	struct dev *dev = &self->dev;
	struct mem *mem = &self->mem;
	int cause = dev->info.restore_cause;

	watch_stats(self, a, b, ASSERT_EQ(0, dev_acquire_all(dev, mem->p, 4)));
	expect_moved(a, b, acquired, 4);
	expect_moved(a, b, held, 4);
	EXPECT_LT(a.own, b.own);
	EXPECT_LE(a.table_bytes, b.table_bytes);

	/* A page that is held already is not acquired again. */
	watch_stats(self, a, b, ASSERT_EQ(4, dev_acquire(dev, mem->p, 4)));
	expect_moved(a, b, acquired, 0);
	expect_moved(a, b, held, 0);

	watch_stats(self, a, b, ASSERT_EQ(1, dev_release(dev, mem->p, 1)));
	expect_moved(a, b, released, 1);
	expect_moved(a, b, held, -1ULL);

	watch_stats(self, a, b, READ_MEM(word_of(mem, 1)));
	expect_moved(a, b, lost[cause], 1);
	expect_moved(a, b, calls[cause], 1);
	expect_moved(a, b, held, -1ULL);

	watch_stats(self, a, b, ASSERT_EQ(0, madvise(page_of(mem, 2),
						     page_size(),
						     MADV_DONTNEED)));
	expect_moved(a, b, lost[DEVEXCL_CAUSE_CLEAR], 1);
	expect_moved(a, b, held, -1ULL);
	fill_mem(mem);
	expect_untouched(self);
}

TEST_F(abi, stats_work)
{
	struct devexcl_stats a, b;
	struct dev *dev = &self->dev;
	struct mem *mem = &self->mem;
	char buf[100];

	watch_stats(self, a, b, ASSERT_EQ(100, dev_copy(dev, mem->p, buf, 100,
							0)));
	expect_moved(a, b, bytes_copied, 100);
	expect_moved(a, b, mapped, 1);
	expect_moved(a, b, held, 0);

	/* To be exclusive takes the place of the ordinary mapping. */
	watch_stats(self, a, b, ASSERT_EQ(0, dev_acquire_one(dev, mem->p)));
	expect_moved(a, b, mapped, -1ULL);
	expect_moved(a, b, held, 1);

	watch_stats(self, a, b, ASSERT_EQ(0, dev_add(dev, word_of(mem, 0), 0,
						     NULL)));
	expect_moved(a, b, ops, 1);

	watch_stats(self, a, b, ASSERT_EQ(0, dev_mirror(dev, self->spare.p,
							self->spare.size)));
	expect_moved(a, b, mirrors, 1);
	watch_stats(self, a, b, ASSERT_EQ(0, dev_unmirror(dev, self->spare.p,
							  self->spare.size)));
	expect_moved(a, b, mirrors, -1ULL);
	expect_untouched(self);
}

/* Only errors of pages, operations and copies are counted, once each. */
TEST_F(abi, stats_errors)
{
	struct devexcl_atomic_op op = { .width = 3 };
	struct devexcl_stats a, b;
	struct dev *dev = &self->dev;
	struct mem *mem = &self->mem;
	uint64_t word;

	watch_stats(self, a, b, dev_atomic(dev, &op, 1, 0, 0));
	expect_moved(a, b, errors[DEVEXCL_ERROR_EINVAL], 1);
	op.width = 8;
	watch_stats(self, a, b, dev_atomic(dev, &op, 1, 0, 0));
	expect_moved(a, b, errors[DEVEXCL_ERROR_ENXIO], 1);
	op.addr = (uintptr_t)mem->p;
	watch_stats(self, a, b, dev_atomic(dev, &op, 1, 0, 0));
	expect_moved(a, b, errors[DEVEXCL_ERROR_EACCES], 1);

	ASSERT_EQ(0, mprotect(mem->p, page_size(), PROT_NONE));
	watch_stats(self, a, b, dev_acquire(dev, mem->p, 1));
	expect_moved(a, b, errors[DEVEXCL_ERROR_EFAULT], 1);
	watch_stats(self, a, b, dev_read_word(dev, word_of(mem, 0), &word));
	expect_moved(a, b, errors[DEVEXCL_ERROR_EFAULT], 1);
	ASSERT_EQ(0, mprotect(mem->p, page_size(), PROT_READ | PROT_WRITE));
	expect_untouched(self);
}

/* The access that the device has got, by what it did. */
TEST_F(abi, query_access)
{
	const uint32_t ordinary = DEVEXCL_ACCESS_READ | DEVEXCL_ACCESS_WRITE;
	const uint32_t exclusive = ordinary | DEVEXCL_ACCESS_EXCLUSIVE;
	struct devexcl_page infos[5];
	struct dev *dev = &self->dev;
	struct mem *mem = &self->mem;
	uint64_t word;

	ASSERT_EQ(0, dev_read_word(dev, word_of(mem, 1), &word));
	ASSERT_EQ(0, dev_write_word(dev, word_of(mem, 2), word_of(mem, 2)[0]));
	ASSERT_EQ(0, dev_acquire_all(dev, page_of(mem, 3), 2));
	ASSERT_EQ(0, dev_add(dev, word_of(mem, 4), 0, NULL));
	ASSERT_EQ(0, dev_query(dev, mem->p, 5, infos));
	EXPECT_EQ(0, infos[0].access);
	EXPECT_EQ(DEVEXCL_ACCESS_READ, infos[1].access);
	EXPECT_EQ(ordinary | DEVEXCL_ACCESS_DIRTY, infos[2].access);
	EXPECT_EQ(exclusive, infos[3].access);
	EXPECT_EQ(exclusive | DEVEXCL_ACCESS_DIRTY, infos[4].access);
	expect_untouched(self);
}

/* Nothing is said about a page that is not mapped. */
TEST_F(abi, query_nothing)
{
	static struct devexcl_page infos[PAGES], zero;
	size_t i;

	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(PAGES, dev_release(&self->dev, self->mem.p, PAGES));
	memset(infos, 0x5a, sizeof(infos));
	ASSERT_EQ(0, dev_query(&self->dev, self->mem.p, PAGES, infos));
	for (i = 0; i < PAGES; i++)
		ASSERT_EQ(0, memcmp(&zero, &infos[i], sizeof(zero)));
	expect_untouched(self);
}

/* It is the page that the CPU had before, and has again afterwards. */
TEST_F(abi, query_pfn)
{
	static struct devexcl_page infos[PAGES];
	static uint64_t pfns[PAGES];
	size_t i;

	for (i = 0; i < PAGES; i++)
		pfns[i] = pagemap_of(page_of(&self->mem, i)) & PAGEMAP_PFN;
	if (!pfns[0])
		SKIP(return, "may not see page frame numbers");
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, dev_query(&self->dev, self->mem.p, PAGES, infos));
	for (i = 0; i < PAGES; i++) {
		ASSERT_EQ(0, infos[i].order);
		ASSERT_EQ(pfns[i], infos[i].pfn);
		READ_MEM(word_of(&self->mem, i));
		ASSERT_EQ(pfns[i], pagemap_of(page_of(&self->mem, i)) &
				   PAGEMAP_PFN);
	}
	expect_untouched(self);
}

/* Number of the newest event. */
static uint64_t newest_event(struct dev *dev)
{
	struct devexcl_event event = {};

	while (dev_read_events(dev, &event, 1) == 1)
		;
	return event.seq;
}

/* When the device got a page: events up to there are from before. */
TEST_F(abi, query_since)
{
	struct devexcl_page infos[2];
	struct dev *dev = &self->dev;
	uint64_t first, second;

	ASSERT_EQ(0, dev_acquire_one(dev, page_of(&self->mem, 0)));
	first = newest_event(dev);
	make_events(dev, &(struct mem){ .p = page_of(&self->mem, 9) }, 3);
	ASSERT_EQ(0, dev_acquire_one(dev, page_of(&self->mem, 1)));
	second = newest_event(dev);
	ASSERT_EQ(0, dev_query(dev, self->mem.p, 2, infos));
	EXPECT_EQ(first, infos[0].since);
	EXPECT_EQ(second, infos[1].since);
	EXPECT_LT(first + 3, second);
	expect_untouched(self);
}

/*
 * INJECT
 */

TEST_F(abi, inject_limits)
{
	const struct call *inject = &calls[8];
	unsigned int bit;

	ASSERT_EQ(DEVEXCL_INJECT, inject->cmd);
	for (bit = 0; bit < 32; bit++) {
		union args *args = args_of(self, inject);

		args->inject.broken = 1U << bit;
		if (!(self->dev.info.broken & args->inject.broken))
			expect_refused(self, inject, args, -EINVAL);
		else
			EXPECT_EQ(0, dev_inject(&self->dev, 1U << bit, 0));
	}
	EXPECT_EQ(0, dev_inject(&self->dev, 0, INT32_MAX));
	EXPECT_EQ(0, dev_inject(&self->dev, 0, 0));
	EXPECT_EQ(-EINVAL, dev_inject(&self->dev, 0, 1U << 31));
	EXPECT_EQ(-EINVAL, dev_inject(&self->dev, 0, UINT32_MAX));
	EXPECT_EQ(-EINVAL, dev_fail_nth(&self->dev, 1U << 31, NULL));
	EXPECT_EQ(-EINVAL, dev_fail_nth(&self->dev, UINT32_MAX, NULL));
	expect_untouched(self);
}

/* The device fails once, where it was told to, and says where that was. */
TEST_F(abi, inject_fail_nth)
{
	struct devexcl_inject inject;
	struct dev *dev = &self->dev;

	ASSERT_EQ((1ULL << DEVEXCL_FAULT_NR) - 1, dev->info.faults);
	ASSERT_EQ(0, dev_fail_nth(dev, INT32_MAX, &inject));
	EXPECT_EQ(0, inject.left);
	EXPECT_EQ(DEVEXCL_FAULT_NONE, inject.failed);

	/* The first thing that it does is to lock the mmap_lock. */
	ASSERT_EQ(0, dev_fail_nth(dev, 1, &inject));
	EXPECT_EQ(INT32_MAX, inject.left);
	EXPECT_EQ(-EINTR, dev_acquire(dev, self->mem.p, 1));
	EXPECT_EQ(1, dev_acquire(dev, self->mem.p, 1));
	ASSERT_EQ(0, dev_fail_nth(dev, 2, &inject));
	EXPECT_EQ(0, inject.left);
	EXPECT_EQ(DEVEXCL_FAULT_LOCK, inject.failed);

	/* Then it faults the page in. */
	EXPECT_EQ(-EFAULT, dev_acquire(dev, page_of(&self->mem, 1), 1));
	ASSERT_EQ(0, dev_fail_nth(dev, 0, &inject));
	EXPECT_EQ(DEVEXCL_FAULT_GUP, inject.failed);
	ASSERT_EQ(0, dev_fail_nth(dev, 0, &inject));
	EXPECT_EQ(DEVEXCL_FAULT_NONE, inject.failed);
	dev_release(dev, self->mem.p, PAGES);
	expect_untouched(self);
}

/*
 * BREAKPOINT
 */

#define MAX_BREAKPOINTS	64

TEST_F(abi, breakpoint_limits)
{
	struct devexcl_breakpoint *arg;
	const struct call *call;
	int stop[MAX_BREAKPOINTS], i;

	for_each_call(call)
		if (call->cmd == DEVEXCL_BREAKPOINT)
			break;
	arg = &args_of(self, call)->breakpoint;
	arg->point = DEVEXCL_POINT_NR;
	expect_refused(self, call, (union args *)arg, -EINVAL);
	arg->point = UINT32_MAX;
	expect_refused(self, call, (union args *)arg, -EINVAL);
	arg->point = 0;
	arg->addr = 1;
	arg->length = page_size();
	expect_refused(self, call, (union args *)arg, -EINVAL);
	arg->addr = -page_size();
	arg->length = 2 * page_size();
	expect_refused(self, call, (union args *)arg, -EOVERFLOW);

	for (i = 0; i < MAX_BREAKPOINTS; i++) {
		stop[i] = dev_break(&self->dev, i % DEVEXCL_POINT_NR,
				    self->mem.p);
		ASSERT_LE(0, stop[i]);
	}
	EXPECT_EQ(-ENOSPC, dev_break(&self->dev, 0, NULL));
	close(stop[0]);
	stop[0] = dev_break(&self->dev, 0, NULL);
	EXPECT_LE(0, stop[0]);
	/* Or the unmapping at the end would stop. */
	for (i = 0; i < MAX_BREAKPOINTS; i++)
		close(stop[i]);
}

static void *release_first_page(void *arg)
{
	FIXTURE_DATA(abi) *self = arg;

	dev_release(&self->dev, self->mem.p, 1);
	return NULL;
}

/* Who comes to the point for these pages stops there, and goes on later. */
TEST_F(abi, breakpoint_stops)
{
	pthread_t thread;
	int stop;

	ASSERT_EQ(2, dev_acquire(&self->dev, self->mem.p, 2));
	stop = dev_break(&self->dev, DEVEXCL_POINT_RELEASE, self->mem.p);
	ASSERT_LE(0, stop);
	/* Another page, and another point */
	ASSERT_EQ(1, dev_release(&self->dev, page_of(&self->mem, 1), 1));
	ASSERT_EQ(0, dev_acquire_one(&self->dev, page_of(&self->mem, 1)));
	EXPECT_EQ(-ETIME, wait_for_break(stop, 0));

	ASSERT_EQ(0, pthread_create(&thread, NULL, release_first_page, self));
	ASSERT_EQ(0, wait_for_break(stop, 60));
	expect_held(&self->dev, &self->mem, 0, 1);
	close(stop);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	expect_not_held(&self->dev, &self->mem, 0, 1);
}

/* Closing it before anybody has come takes it away. */
TEST_F(abi, breakpoint_closed)
{
	int stop = dev_break(&self->dev, DEVEXCL_POINT_RELEASE, NULL);

	ASSERT_LE(0, stop);
	close(stop);
	ASSERT_EQ(1, dev_acquire(&self->dev, self->mem.p, 1));
	EXPECT_EQ(1, dev_release(&self->dev, self->mem.p, 1));
}

/* Who has stopped can be killed. */
TEST_F(abi, breakpoint_killed)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		pthread_t thread;
		int stop;

		/* A context of our own: see inherited files. */
		if (dev_open(&self->dev, 0) ||
		    dev_mirror(&self->dev, self->mem.p, self->mem.size))
			_exit(1);
		stop = dev_break(&self->dev, DEVEXCL_POINT_RELEASE, NULL);
		if (stop < 0 || pthread_create(&thread, NULL,
					       release_first_page, self) ||
		    wait_for_break(stop, 60))
			_exit(2);
		kill(getpid(), SIGKILL);
	}
	EXPECT_EQ(-SIGKILL, wait_child(pid));
}

/* Work that is begun anew some times is done in the end, and counted. */
TEST_F(abi, retries_converge)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)page_of(&self->mem, 1),
		.width = 8,
	};
	struct devexcl_stats a, b;
	struct dev *dev = &self->dev;
	uint64_t word;

	watch_stats(self, a, b,
		    ASSERT_EQ(0, dev_inject(dev, 0, 5));
		    ASSERT_EQ(0, dev_acquire_one(dev, self->mem.p)));
	expect_moved(a, b, retries, 5);
	expect_held(dev, &self->mem, 0, 1);

	watch_stats(self, a, b,
		    ASSERT_EQ(0, dev_inject(dev, 0, 6));
		    ASSERT_EQ(1, dev_atomic(dev, &op, 1, DEVEXCL_ATOMIC_ACQUIRE,
					    0)));
	expect_moved(a, b, retries, 6);

	watch_stats(self, a, b,
		    ASSERT_EQ(0, dev_inject(dev, 0, 7));
		    ASSERT_EQ(0, dev_read_word(dev, word_of(&self->mem, 2),
					       &word)));
	expect_moved(a, b, retries, 7);
	EXPECT_EQ(pattern_of(&self->mem, 2), word);
	expect_untouched(self);
}

/* What never settles is given up. */
TEST_F(abi, retries_for_ever)
{
	struct dev *dev = &self->dev;
	struct devexcl_stats a, b;
	uint64_t word;

	watch_stats(self, a, b,
		    ASSERT_EQ(0, dev_inject(dev, 0, INT32_MAX));
		    EXPECT_EQ(-EBUSY, dev_acquire(dev, self->mem.p, PAGES));
		    EXPECT_EQ(-EBUSY, dev_read_word(dev, word_of(&self->mem, 0),
						    &word)));
	expect_moved(a, b, errors[DEVEXCL_ERROR_EBUSY], 2);
	expect_moved(a, b, held, 0);
	expect_moved(a, b, mapped, 0);
	expect_moved(a, b, acquired, 0);
	EXPECT_LT(a.retries, b.retries);
	ASSERT_EQ(0, dev_inject(dev, 0, 0));
	expect_untouched(self);
}

/* Other contexts do not suffer. */
TEST_F(abi, inject_is_own)
{
	struct dev other;

	ASSERT_EQ(0, dev_open(&other, 0));
	ASSERT_EQ(0, dev_inject(&other, other.info.broken, INT32_MAX));
	expect_untouched(self);
	dev_close(&other);
}

/*
 * Callers of the other word size
 */

TEST_F(abi, compat32)
{
	int ret = run_compat32(NULL);

	if (ret == -ENOENT)
		SKIP(return, "abi_compat32 was not built");
	if (ret == -ENOEXEC)
		SKIP(return, "the kernel cannot run 32-bit programs");
	EXPECT_EQ(0, ret);
	expect_untouched(self);
}

DEVEXCL_TEST_MAIN
