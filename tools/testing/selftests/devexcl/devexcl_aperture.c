// SPDX-License-Identifier: GPL-2.0
/*
 * What all tests of the aperture share; see devexcl_aperture.h
 */
#include "devexcl_aperture.h"

static char wrong[256];

#define say_wrong(...)							\
	(snprintf(wrong, sizeof(wrong), __VA_ARGS__), (const char *)wrong)

int aperture_open(struct aperture *ap, bool prepare)
{
	int ret;

	ap->fd = open(prepare ? "/dev/devexcl_aperture_prepare" :
				"/dev/devexcl_aperture", O_RDWR | O_CLOEXEC);
	if (ap->fd < 0)
		return -errno;
	ap->info = (struct devexcl_aperture_info) {
		.size = sizeof(ap->info),
	};
	ret = dev_ioctl(ap->fd, DEVEXCL_APERTURE_INFO, &ap->info);
	if (ret)
		close(ap->fd);
	return ret;
}

void aperture_close(struct aperture *ap)
{
	if (ap->info.size)
		close(ap->fd);
}

int object_create(struct aperture *ap, struct object *obj,
		  const struct devexcl_aperture_create *like)
{
	struct devexcl_aperture_create arg = *like;
	int ret;

	arg.size = sizeof(arg);
	if (!arg.batch)
		arg.batch = 1;
	ret = dev_ioctl(ap->fd, DEVEXCL_APERTURE_CREATE, &arg);
	obj->ap = ap;
	obj->id = arg.id;
	obj->pages = arg.pages;
	obj->offset = arg.offset;
	obj->caching = arg.caching;
	return ret;
}

static int set_policy(struct object *obj, uint32_t first, uint32_t count,
		      enum devexcl_insert insert, uint32_t caching,
		      uint32_t flags)
{
	struct devexcl_aperture_policy arg = {
		.size = sizeof(arg),
		.flags = flags,
		.id = obj->id,
		.first = first,
		.count = count,
		.insert = insert,
		.caching = caching,
	};

	return dev_ioctl(obj->ap->fd, DEVEXCL_APERTURE_POLICY, &arg);
}

int object_policy(struct object *obj, uint32_t first, uint32_t count,
		  enum devexcl_insert insert, uint32_t flags)
{
	return set_policy(obj, first, count, insert, obj->caching, flags);
}

int object_recache(struct object *obj, uint32_t first, uint32_t count,
		   enum devexcl_insert insert, enum devexcl_caching caching)
{
	return set_policy(obj, first, count, insert, caching, 0);
}

int object_move(struct object *obj, enum devexcl_placement placement,
		enum devexcl_caching caching, uint32_t pause_ms)
{
	struct devexcl_aperture_move arg = {
		.size = sizeof(arg),
		.id = obj->id,
		.placement = placement,
		.caching = caching,
		.pause_ms = pause_ms,
	};
	int ret = dev_ioctl(obj->ap->fd, DEVEXCL_APERTURE_MOVE, &arg);

	if (!ret)
		obj->caching = caching;
	return ret;
}

static int range_ioctl(struct object *obj, unsigned long cmd, uint32_t flags,
		       struct devexcl_aperture_range *arg)
{
	*arg = (struct devexcl_aperture_range) {
		.size = sizeof(*arg),
		.flags = flags,
		.id = obj->id,
		.count = obj->pages,
	};
	return dev_ioctl(obj->ap->fd, cmd, arg);
}

int object_zap(struct object *obj, uint32_t flags)
{
	struct devexcl_aperture_range arg;

	return range_ioctl(obj, DEVEXCL_APERTURE_ZAP, flags, &arg);
}

long object_clean(struct object *obj)
{
	struct devexcl_aperture_range arg;
	int ret = range_ioctl(obj, DEVEXCL_APERTURE_CLEAN, 0, &arg);

	return ret ? ret : (long)arg.protected;
}

int object_inject(struct object *obj, uint32_t broken, uint32_t fail_after)
{
	struct devexcl_aperture_inject arg = {
		.size = sizeof(arg),
		.id = obj->id,
		.broken = broken,
		.fail_after = fail_after,
	};

	return dev_ioctl(obj->ap->fd, DEVEXCL_APERTURE_INJECT, &arg);
}

struct devexcl_aperture_page object_page(struct object *obj, uint32_t n)
{
	struct devexcl_aperture_page page = {};
	struct devexcl_aperture_pages arg = {
		.size = sizeof(arg),
		.id = obj->id,
		.first = n,
		.count = 1,
		.pages = (uintptr_t)&page,
	};

	dev_ioctl(obj->ap->fd, DEVEXCL_APERTURE_PAGES, &arg);
	return page;
}

static int copy_word(struct object *obj, uint32_t n, uint64_t *word,
		     uint32_t flags)
{
	struct devexcl_aperture_copy arg = {
		.size = sizeof(arg),
		.flags = flags,
		.id = obj->id,
		.offset = n * page_size(),
		.length = sizeof(*word),
		.buf = (uintptr_t)word,
	};

	return dev_ioctl(obj->ap->fd, DEVEXCL_APERTURE_COPY, &arg);
}

int object_store(struct object *obj, uint32_t n, uint64_t value)
{
	return copy_word(obj, n, &value, DEVEXCL_COPY_WRITE);
}

uint64_t object_load(struct object *obj, uint32_t n)
{
	uint64_t value = ~0ULL;

	copy_word(obj, n, &value, 0);
	return value;
}

int object_map(struct object *obj, struct mem *mem, int prot, int flags)
{
	size_t size = obj->pages * page_size();
	void *p = mmap(NULL, size, prot, flags, obj->ap->fd, obj->offset);

	if (p == MAP_FAILED)
		return -errno;
	*mem = (struct mem) { .p = p, .pages = obj->pages, .size = size };
	return 0;
}

struct devexcl_entry entry_at(const struct aperture *ap, const void *p)
{
	struct devexcl_entry entry = { .kind = ~0U };
	struct devexcl_aperture_inspect arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)p & -page_size(),
		.length = page_size(),
		.entries = (uintptr_t)&entry,
	};

	dev_ioctl(ap->fd, DEVEXCL_APERTURE_INSPECT, &arg);
	return entry;
}

const char *check_kind(const struct aperture *ap, const struct mem *mem,
		       size_t page, enum devexcl_entry_kind kind)
{
	static const char * const names[] = {
		[DEVEXCL_ENTRY_NONE] = "none",
		[DEVEXCL_ENTRY_PRESENT] = "present",
		[DEVEXCL_ENTRY_HUGE] = "huge",
		[DEVEXCL_ENTRY_OTHER] = "another",
	};
	struct devexcl_entry entry = entry_at(ap, page_of(mem, page));

	if (entry.kind == kind)
		return NULL;
	if (entry.kind > DEVEXCL_ENTRY_OTHER)
		return "INSPECT fails";
	return say_wrong("the entry of page %zu is %s, expected %s: %#llx",
			 page, names[entry.kind], names[kind],
			 (unsigned long long)entry.raw);
}

const char *check_flags(const struct aperture *ap, const struct mem *mem,
			size_t page, uint32_t flags, uint32_t set)
{
	struct devexcl_entry entry = entry_at(ap, page_of(mem, page));

	if ((entry.flags & flags) == set)
		return NULL;
	return say_wrong("the entry of page %zu has flags %#x, expected %#x of %#x: %#llx",
			 page, entry.flags, set, flags,
			 (unsigned long long)entry.raw);
}

const char *check_caching(const struct aperture *ap, const struct mem *mem,
			  size_t page, enum devexcl_caching caching)
{
	struct devexcl_entry entry = entry_at(ap, page_of(mem, page));

	if (entry.caching == caching)
		return NULL;
	return say_wrong("the entry of page %zu has caching mode %u, expected %u: %#llx",
			 page, entry.caching, caching,
			 (unsigned long long)entry.raw);
}

const char *check_pfn(const struct aperture *ap, const struct mem *mem,
		      size_t page, uint64_t pfn)
{
	struct devexcl_entry entry = entry_at(ap, page_of(mem, page));

	if (entry.pfn == pfn)
		return NULL;
	return say_wrong("the entry of page %zu maps %#llx, expected %#llx",
			 page, (unsigned long long)entry.pfn,
			 (unsigned long long)pfn);
}

/* Of the kernel's mm/gup_test.h, which is not for user space */
#define GUP_TEST_FILE		"/sys/kernel/debug/gup_test"
#define PIN_LONGTERM_TEST_START	_IOW('g', 7, struct pin_longterm_test)
#define PIN_LONGTERM_TEST_READ	_IOW('g', 9, __u64)

struct pin_longterm_test {
	__u64 addr;
	__u64 size;
	__u32 flags;
};

int pin_longterm(const void *p, size_t size)
{
	struct pin_longterm_test arg = { .addr = (uintptr_t)p, .size = size };
	int fd = open(GUP_TEST_FILE, O_RDWR | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = dev_ioctl(fd, PIN_LONGTERM_TEST_START, &arg);
	if (!ret)
		return fd;
	close(fd);
	return ret;
}

int pin_read(int pin, void *buffer)
{
	__u64 where = (uintptr_t)buffer;

	return dev_ioctl(pin, PIN_LONGTERM_TEST_READ, &where);
}
