// SPDX-License-Identifier: GPL-2.0
/*
 * Every failure of every call
 *
 * A call is made again and again, in the manner of iommufd's selftest: first
 * the first thing fails that can fail on its way, then the second, and so on
 * until it comes to its end with nothing left to fail. What fails is chosen by
 * the kernel's fault injection (/proc/thread-self/fail-nth: allocations, copies
 * to and from the caller, and the device's own places), or by the device alone
 * (DEVEXCL_INJECT).
 *
 * After each failure, what the call told is held against what the device and mm
 * say: nothing that was acquired is lost track of, nothing leaks, the data is
 * there. Then the same call is made once more, and works in full.
 */
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "devexcl_aperture.h"
#include "devexcl_cells.h"

#define PAGES		2
#define MAX_NTH		2000	/* more than any call has places to fail at */
#define NSEC_PER_SEC	1000000000ULL

/* Switching the kernel's fault injection on, and off again */

static const struct knob {
	const char *name;
	const char *value;
} knobs[] = {
	{ "failslab/ignore-gfp-wait", "N" },
	{ "fail_page_alloc/ignore-gfp-wait", "N" },
	{ "fail_page_alloc/ignore-gfp-highmem", "N" },
	{ "fail_page_alloc/min-order", "0" },
	/* The log is looked at for complaints. */
	{ "failslab/verbose", "0" },
	{ "fail_page_alloc/verbose", "0" },
	{ "fail_usercopy/verbose", "0" },
	{ "fail_devexcl/verbose", "0" },
	/* What fails counts down. */
	{ "failslab/times", NULL },
	{ "fail_page_alloc/times", NULL },
	{ "fail_usercopy/times", NULL },
	{ "fail_devexcl/times", NULL },
};

static char knobs_before[ARRAY_SIZE(knobs)][32];

static char *knob_path(const struct knob *knob)
{
	static char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s", knob->name);
	return path;
}

static void switch_on(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(knobs); i++) {
		int fd = open(knob_path(&knobs[i]), O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			continue;
		if (read(fd, knobs_before[i], sizeof(knobs_before[i]) - 1) > 0 &&
		    knobs[i].value)
			write_file(knob_path(&knobs[i]), knobs[i].value);
		close(fd);
	}
}

static void begin(void)
{
	/* The caches of one CPU know best what is at hand, and what is not. */
	stay_on_one_cpu();
	switch_on();
}

static void switch_off(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(knobs); i++)
		if (knobs_before[i][0])
			write_file(knob_path(&knobs[i]), knobs_before[i]);
}

/* Trying a call */

enum memory {
	TOUCHED,
	UNTOUCHED,
	HUGE,		/* a part of a transparent huge page */
	SWAPPED,
	SHARED,		/* with a child, so that a write makes a copy */
};

/**
 * struct try - one time that a call is tried
 * @call: it
 * @dev: the device, which mirrors the memory
 * @mem: the memory
 * @area: what it is a part of, if it is huge
 * @spare: a page that is not mirrored
 * @child: shares the memory, if not 0
 * @fd: of the call: what was opened
 * @job: of the call: what was submitted
 * @eventfd: that a job tells of its end
 * @seq: number of the last event that was read
 * @held: pages that the device holds, by what it was told
 * @mapped: pages that it has mapped otherwise
 * @mirrors: mirrors that there are
 * @added: what operations have added to the first word of each page
 * @unsure: an answer was lost; what the call was to do is done or not
 * @ap: the other device, if the call is one of its
 * @obj: its object
 * @map: a mapping of that, if there is one
 */
struct try {
	const struct call *call;
	struct dev dev;
	struct mem mem;
	struct mem area;
	struct mem spare;
	pid_t child;
	int fd;
	long job;
	int eventfd;
	uint64_t seq;
	uint64_t held;
	uint64_t mapped;
	uint64_t mirrors;
	uint64_t added;
	bool unsure;
	struct aperture ap;
	struct object obj;
	struct mem map;
};

/* Errors that a call may fail with */
#define MAY(error)	(1ULL << (error))
#define MAY_MEMORY	(MAY(ENOMEM) | MAY(EFAULT))
#define MAY_ACQUIRE	(MAY_MEMORY | MAY(EBUSY) | MAY(EINTR))

/**
 * struct call - what is tried
 * @name: for the cell
 * @memory: kind of memory
 * @holds: the device holds it already
 * @fresh: each time in a process of its own: some things are made once for an
 *	address space
 * @untold: it does not tell which pages the device has then
 * @no_device: nothing that DEVEXCL_INJECT could have fail
 * @prepare: the aperture is the one with the newer hook
 * @object: of the aperture, has one like this; if it has pages
 * @errors: that it may fail with; MAY(0) if it must not fail at all
 * @run: makes it. 0 if it did all, > 0 if it did a part, -errno. What it was
 *	told it has noted in the try. It may be made again
 * @end: undoes what is not undone with the device, or NULL
 */
struct call {
	const char *name;
	enum memory memory;
	bool holds;
	bool fresh;
	bool untold;
	bool no_device;
	bool prepare;
	struct devexcl_aperture_create object;
	uint64_t errors;
	long (*run)(struct try *try);
	void (*end)(struct try *try);
};

/* Who chooses what fails */
enum source {
	KERNEL,
	DEVICE,
	SOURCES,
};

static const char * const source_names[SOURCES] = {
	[KERNEL] = "kernel",
	[DEVICE] = "device",
};

static int fail_nth_fd(void)
{
	return open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
}

static int arm_kernel(int fd, unsigned int nth)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%u", nth);

	return pwrite(fd, text, length, 0) == length ? 0 : -errno;
}

/* Has it failed? To ask, and to switch it off, may fail itself. */
static bool disarm_kernel(int fd)
{
	char text[16] = "";
	bool fired = pread(fd, text, sizeof(text) - 1, 0) > 0 &&
		     !strcmp(text, "0\n");

	while (arm_kernel(fd, 0) == -EFAULT)
		;
	return fired;
}

static bool disarm_device(struct dev *dev)
{
	struct devexcl_inject inject;

	return !dev_fail_nth(dev, 0, &inject) && !inject.left &&
	       inject.failed != DEVEXCL_FAULT_NONE;
}

/* What a call did that was told to fail at the @nth place. */
static const char *run_armed(struct try *try, enum source source,
			     unsigned int nth, long *ret, bool *fired)
{
	int fd;

	if (source == DEVICE) {
		TRY(must("inject", dev_fail_nth(&try->dev, nth, NULL)));
		*ret = try->call->run(try);
		*fired = disarm_device(&try->dev);
		return NULL;
	}
	fd = fail_nth_fd();
	TRY(must("open fail-nth", fd));
	TRY(must("write fail-nth", arm_kernel(fd, nth)));
	*ret = try->call->run(try);
	*fired = disarm_kernel(fd);
	close(fd);
	return NULL;
}

/* The calls */

static struct devexcl_atomic_op ops[PAGES];
static struct devexcl_page infos[PAGES];
static int32_t status[PAGES];
static uint64_t buffer[PAGES];

/* An answer that did not arrive leaves it open what was done. */
static long lose(struct try *try, long ret)
{
	if (ret == -EFAULT)
		try->unsure = true;
	return ret;
}

static long run_open(struct try *try)
{
	if (try->fd >= 0)
		close(try->fd);
	try->fd = open("/dev/devexcl0", O_RDWR | O_CLOEXEC);
	return try->fd < 0 ? -errno : 0;
}

static void end_file(struct try *try)
{
	if (try->fd >= 0)
		close(try->fd);
	try->fd = -1;
}

/* Closing it makes the device let go of everything. It cannot fail. */
static long run_close(struct try *try)
{
	int ret = 0;

	if (try->dev.fd >= 0)
		ret = close(try->dev.fd) ? -errno : 0;
	try->dev.fd = -1;
	try->held = 0;
	try->mirrors = 0;
	return ret;
}

static long run_info(struct try *try)
{
	struct devexcl_info info = { .size = sizeof(info) };

	return dev_ioctl(try->dev.fd, DEVEXCL_INFO, &info);
}

static long run_stats(struct try *try)
{
	struct devexcl_stats stats;

	return dev_stats(&try->dev, &stats);
}

static long run_query(struct try *try)
{
	return dev_query(&try->dev, try->mem.p, PAGES, infos);
}

static long run_inject(struct try *try)
{
	return dev_inject(&try->dev, 0, 0);
}

/* A second mirror, beside the first. */
static long run_mirror(struct try *try)
{
	uint64_t others = try->call->fresh ? 0 : 1;
	int ret;

	if (try->mirrors > others)
		dev_unmirror(&try->dev, try->spare.p, page_size());
	try->mirrors = others;
	ret = dev_mirror(&try->dev, try->spare.p, page_size());
	if (!ret)
		try->mirrors++;
	return ret;
}

static long run_unmirror(struct try *try)
{
	int ret = dev_unmirror(&try->dev, try->mem.p, try->mem.size);

	if (ret == -ENXIO && (try->unsure || !try->mirrors))
		ret = 0;	/* it has been done */
	if (!ret) {
		try->unsure = false;
		try->mirrors = 0;
		try->held = 0;
	}
	return lose(try, ret);
}

static long run_acquire_some(struct try *try, int32_t *errors)
{
	long ret = dev_acquire_status(&try->dev, try->mem.p, PAGES, errors);

	if (ret > 0) {
		try->held = ret;
		try->unsure = false;
	}
	return ret < 0 ? lose(try, ret) : PAGES - ret;
}

static long run_acquire(struct try *try)
{
	return run_acquire_some(try, NULL);
}

/* The array says the same as the sums; not of pages that were not dealt with. */
static long run_acquire_status(struct try *try)
{
	long ret, page, good = 0;

	memset(status, 0x55, sizeof(status));
	ret = run_acquire_some(try, status);
	if (ret < 0)
		return ret;
	for (page = 0; page < PAGES; page++)
		good += !status[page];
	/* Pages that were not come to have been cleared, perhaps. */
	return good < PAGES - ret ? -EPROTO : ret;
}

static long run_release(struct try *try)
{
	long ret = dev_release(&try->dev, try->mem.p, PAGES);

	if (ret >= 0) {
		try->held = 0;
		try->mapped = 0;
		try->unsure = false;
	}
	return ret < 0 ? lose(try, ret) : 0;
}

/* Add 1 to the first word of each page. */
static long run_ops(struct try *try, unsigned int flags)
{
	size_t page;
	long ret;

	for (page = 0; page < PAGES; page++)
		ops[page] = (struct devexcl_atomic_op) {
			.addr = (uintptr_t)word_of(&try->mem, page),
			.operand = 1,
			.op = DEVEXCL_OP_ADD,
			.width = sizeof(uint64_t),
		};
	ret = dev_atomic(&try->dev, ops, PAGES, flags, 0);
	if (ret > 0)
		try->added += ret;
	return ret < 0 ? lose(try, ret) : PAGES - ret;
}

static long run_atomic(struct try *try)
{
	return run_ops(try, 0);
}

static long run_atomic_acquire(struct try *try)
{
	return run_ops(try, DEVEXCL_ATOMIC_ACQUIRE);
}

/* Copy some words of two pages; if to the device, what is there already. */
static long run_copy(struct try *try, unsigned int flags)
{
	char *p = page_of(&try->mem, 1) - sizeof(buffer) / 2;
	size_t size = sizeof(buffer);
	long ret;

	if (flags)
		memcpy(buffer, p, size);
	ret = dev_copy(&try->dev, p, buffer, size, flags);
	return ret < 0 ? ret : (long)size - ret;
}

static long run_copy_read(struct try *try)
{
	return run_copy(try, 0);
}

static long run_copy_write(struct try *try)
{
	return run_copy(try, DEVEXCL_COPY_WRITE);
}

static long run_breakpoint(struct try *try)
{
	end_file(try);
	try->fd = dev_break(&try->dev, DEVEXCL_POINT_RELEASE,
			    try->spare.p);
	return try->fd < 0 ? try->fd : 0;
}

/* All events, one after the other: none is missing, whatever failed. */
static long run_read(struct try *try)
{
	struct devexcl_event events[2];
	long nr, i;

	for (;;) {
		nr = read(try->dev.fd, events, sizeof(events));
		if (nr < 0)
			return errno == EAGAIN ? 0 : -errno;
		for (i = 0; i < nr / (long)sizeof(events[0]); i++)
			if (events[i].seq != ++try->seq ||
			    events[i].type == DEVEXCL_EVENT_LOST)
				return -EPROTO;
	}
}

static long run_poll(struct try *try)
{
	struct pollfd pollfd = { .fd = try->dev.fd, .events = POLLIN };
	int ret = poll(&pollfd, 1, 0);

	return ret < 0 ? -errno : 0;
}

static void end_job(struct try *try)
{
	struct devexcl_wait result;

	if (try->job > 0)
		dev_wait(&try->dev, try->job, 60 * NSEC_PER_SEC, &result);
	try->job = 0;
}

/* Each job adds 1 to the first word of the first page. */
static long run_submit(struct try *try)
{
	struct devexcl_submit job = {
		.flags = DEVEXCL_SUBMIT_EVENTFD,
		.addr = (uintptr_t)try->mem.p,
		.operand = 1,
		.op = DEVEXCL_OP_ADD,
		.eventfd = try->eventfd,
	};

	end_job(try);
	try->job = dev_submit(&try->dev, &job);
	if (try->job == -EFAULT)	/* it may have run before it was undone */
		try->unsure = true;
	return try->job < 0 ? try->job : 0;
}

static long run_wait(struct try *try)
{
	struct devexcl_wait result;
	int ret;

	if (!try->job && run_submit(try))
		return try->job;
	ret = dev_wait(&try->dev, try->job, 60 * NSEC_PER_SEC, &result);
	if (!ret)
		try->job = 0;
	return ret;
}

static long run_cancel(struct try *try)
{
	int ret;

	ret = dev_cancel(&try->dev, try->job);
	return ret == -EALREADY ? 0 : ret;	/* it was quicker */
}

/* The aperture */

static long run_aperture_open(struct try *try)
{
	struct aperture ap;
	int ret = aperture_open(&ap, false);

	if (!ret)
		aperture_close(&ap);
	return ret;
}

static long run_aperture_info(struct try *try)
{
	struct devexcl_aperture_info info = { .size = sizeof(info) };

	return dev_ioctl(try->ap.fd, DEVEXCL_APERTURE_INFO, &info);
}

static long run_aperture_create(struct try *try)
{
	struct object obj;

	return object_create(&try->ap, &obj, &try->call->object);
}

/* Each time another caching mode, as the way there may fail, too. */
static long run_aperture_policy(struct try *try)
{
	enum devexcl_caching caching = DEVEXCL_CACHING_WC;
	int ret;

	ret = object_recache(&try->obj, 0, PAGES, DEVEXCL_INSERT_PFN, caching);
	if (!ret)
		try->obj.caching = caching;
	return ret;
}

static long run_aperture_move(struct try *try)
{
	return object_move(&try->obj, DEVEXCL_PLACE_BUFFER, DEVEXCL_CACHING_UC,
			   0);
}

static long run_aperture_zap(struct try *try)
{
	return object_zap(&try->obj, 0);
}

static long run_aperture_clean(struct try *try)
{
	long ret = object_clean(&try->obj);

	return ret < 0 ? ret : 0;
}

static long run_aperture_pages(struct try *try)
{
	struct devexcl_aperture_page pages[PAGES];
	struct devexcl_aperture_pages arg = {
		.size = sizeof(arg),
		.id = try->obj.id,
		.count = PAGES,
		.pages = (uintptr_t)pages,
	};
	int ret = dev_ioctl(try->ap.fd, DEVEXCL_APERTURE_PAGES, &arg);

	return ret ? ret : PAGES - arg.done;
}

static long run_aperture_copy(struct try *try)
{
	return object_store(&try->obj, 1, 1);
}

static long run_aperture_inject(struct try *try)
{
	return object_inject(&try->obj, 0, 0);
}

static long run_aperture_inspect(struct try *try)
{
	struct devexcl_entry entries[PAGES];
	struct devexcl_aperture_inspect arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)try->mem.p,
		.length = PAGES * page_size(),
		.entries = (uintptr_t)entries,
	};
	int ret = dev_ioctl(try->ap.fd, DEVEXCL_APERTURE_INSPECT, &arg);

	return ret ? ret : PAGES - (long)arg.done;
}

static void end_map(struct try *try)
{
	mem_unmap(&try->map);
	try->map = (struct mem) {};
}

/* Where nothing else is: so mmap() needs page tables, too, each time. */
#define ALONE	((void *)(1UL << 40))

static int map_alone(struct try *try)
{
	size_t size = PAGES * page_size();

	if (mmap(ALONE, size, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE,
		 try->ap.fd, try->obj.offset) != ALONE)
		return -errno;
	try->map = (struct mem) { .p = ALONE, .pages = PAGES, .size = size };
	return 0;
}

/* What mmap() inserts is all there then, or nothing is. */
static long run_aperture_mmap(struct try *try)
{
	int ret;

	end_map(try);
	ret = map_alone(try);
	if (ret)
		try->map = (struct mem) {};
	return ret;
}

/* The kernel touches it for us: who is out of memory then is told so. */
static long run_aperture_fault(struct try *try)
{
	if (!try->map.p && run_aperture_mmap(try))
		return -errno;
	return madvise(try->map.p, try->map.size, MADV_POPULATE_READ) ?
	       -errno : 0;
}

#define OBJECT(_vma, _map)						\
	.object = {							\
		.pages = PAGES,						\
		.placement = DEVEXCL_PLACE_BUFFER,			\
		.vma = DEVEXCL_VMA_##_vma,				\
		.map = DEVEXCL_MAP_##_map,				\
	}

#define APERTURE(_name, _vma, _map, _errors)				\
	{ .name = "aperture_" #_name, .run = run_aperture_##_name,	\
	  .no_device = true, .errors = _errors, OBJECT(_vma, _map) }

#define MAPPING(_name, _vma, _map, _errors)				\
	{ .name = "aperture_" #_name, .run = run_aperture_mmap,		\
	  .end = end_map, .no_device = true,				\
	  .errors = (_errors) | MAY(EINTR), OBJECT(_vma, _map) }

/* With the newer hook, after which mm inserts the pages */
#define PREPARED(_name, _map)						\
	{ .name = "aperture_" #_name, .run = run_aperture_mmap,		\
	  .end = end_map, .no_device = true, .prepare = true,		\
	  .errors = MAY_MEMORY | MAY(EINVAL) | MAY(EINTR),		\
	  OBJECT(PLAIN, _map) }

static const struct call calls[] = {
	APERTURE(open, PFN, FAULT, MAY_MEMORY | MAY(ENFILE)),
	APERTURE(info, PFN, FAULT, MAY(EFAULT)),
	APERTURE(create, PFN, FAULT, MAY_MEMORY),
	APERTURE(policy, PFN, FAULT, MAY_MEMORY),
	APERTURE(move, PFN, FAULT, MAY_MEMORY),
	APERTURE(zap, PFN, FAULT, MAY(EFAULT)),
	APERTURE(clean, PFN, FAULT, MAY_MEMORY),
	APERTURE(pages, PFN, FAULT, MAY(EFAULT)),
	APERTURE(copy, PFN, FAULT, MAY_MEMORY),
	APERTURE(inject, PFN, FAULT, MAY(EFAULT)),
	APERTURE(inspect, PFN, FAULT, MAY(EFAULT)),
	MAPPING(vm_insert_page, PLAIN, INSERT_PAGE, MAY(ENOMEM)),
	MAPPING(vm_insert_pages, PLAIN, INSERT_PAGES, MAY_MEMORY),
	MAPPING(remap_pfn_range, PLAIN, REMAP_PFN, MAY(ENOMEM) | MAY(EINVAL)),
	PREPARED(mmap_action_map_kernel_pages, INSERT_PAGES),
	PREPARED(mmap_action_remap, REMAP_PFN),
	{ .name = "aperture_fault", .run = run_aperture_fault,
	  .end = end_map, .no_device = true,
	  .errors = MAY_MEMORY | MAY(EINTR), OBJECT(MIXED, FAULT) },
	{ .name = "open", .run = run_open, .end = end_file,
	  .no_device = true, .errors = MAY_MEMORY | MAY(ENFILE) },
	{ .name = "close", .run = run_close, .holds = true,
	  .no_device = true, .errors = MAY(0) },
	{ .name = "info", .run = run_info,
	  .no_device = true, .errors = MAY(EFAULT) },
	{ .name = "stats", .run = run_stats, .holds = true,
	  .no_device = true, .errors = MAY(EFAULT) },
	{ .name = "query", .run = run_query, .holds = true,
	  .errors = MAY(EFAULT) },
	{ .name = "inject", .run = run_inject,
	  .no_device = true, .errors = MAY(EFAULT) },
	{ .name = "mirror", .run = run_mirror,
	  .errors = MAY_MEMORY | MAY(EINTR) },
	{ .name = "mirror_first", .run = run_mirror, .fresh = true,
	  .errors = MAY_MEMORY | MAY(EINTR) },
	{ .name = "unmirror", .run = run_unmirror, .holds = true,
	  .errors = MAY_MEMORY | MAY(EINTR) },
	{ .name = "acquire", .run = run_acquire, .errors = MAY_ACQUIRE },
	{ .name = "acquire_status", .run = run_acquire_status,
	  .errors = MAY_ACQUIRE },
	{ .name = "acquire_held", .run = run_acquire, .holds = true,
	  .errors = MAY_ACQUIRE },
	{ .name = "acquire_untouched", .run = run_acquire, .memory = UNTOUCHED,
	  .errors = MAY_ACQUIRE },
	{ .name = "acquire_huge", .run = run_acquire, .memory = HUGE,
	  .errors = MAY_ACQUIRE },
	{ .name = "acquire_swapped", .run = run_acquire, .memory = SWAPPED,
	  .errors = MAY_ACQUIRE },
	{ .name = "acquire_shared", .run = run_acquire, .memory = SHARED,
	  .errors = MAY_ACQUIRE },
	{ .name = "release", .run = run_release, .holds = true,
	  .errors = MAY(EFAULT) },
	{ .name = "atomic", .run = run_atomic, .holds = true,
	  .errors = MAY_MEMORY },
	{ .name = "atomic_acquire", .run = run_atomic_acquire,
	  .untold = true, .errors = MAY_ACQUIRE },
	{ .name = "copy_read", .run = run_copy_read, .untold = true,
	  .errors = MAY_ACQUIRE },
	{ .name = "copy_write", .run = run_copy_write, .untold = true,
	  .errors = MAY_ACQUIRE },
	{ .name = "copy_held", .run = run_copy_read, .holds = true,
	  .errors = MAY_MEMORY },
	{ .name = "copy_untouched", .run = run_copy_read, .memory = UNTOUCHED,
	  .untold = true, .errors = MAY_ACQUIRE },
	{ .name = "breakpoint", .run = run_breakpoint, .end = end_file,
	  .errors = MAY_MEMORY | MAY(ENFILE) },
	{ .name = "read", .run = run_read, .holds = true,
	  .errors = MAY(EFAULT) },
	{ .name = "poll", .run = run_poll,
	  .no_device = true, .errors = MAY_MEMORY },
	{ .name = "submit", .run = run_submit, .end = end_job, .holds = true,
	  .errors = MAY_MEMORY | MAY(EINTR) },
	{ .name = "wait", .run = run_wait, .end = end_job, .holds = true,
	  .errors = MAY_MEMORY | MAY(EINTR) },
	{ .name = "cancel", .run = run_cancel, .end = end_job, .holds = true,
	  .errors = MAY_MEMORY | MAY(EINTR) },
};

/* Memory */

/* A child that has the memory as well, until it is killed. */
static const char *share_memory(struct try *try)
{
	struct gate gate;

	TRY(must("gate", gate_init(&gate)));
	try->child = fork();
	TRY(must("fork", try->child));
	if (!try->child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		gate_open(&gate);
		for (;;)
			pause();
	}
	TRY(must("gate", gate_wait(&gate)));
	close(gate.pipe[0]);
	close(gate.pipe[1]);
	return NULL;
}

static void unshare_memory(struct try *try)
{
	if (try->child) {
		kill(try->child, SIGKILL);
		waitpid(try->child, NULL, 0);
	}
	try->child = 0;
}

/* Some pages from the middle of a transparent huge page. */
static const char *make_huge(struct try *try)
{
	size_t size = thp_size();
	char *p;

	if (!size)
		return skip("there are no transparent huge pages");
	try->area.size = 2 * size;
	p = mmap(NULL, try->area.size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TRY(must("mmap", p == MAP_FAILED ? -errno : 0));
	try->area.p = p;
	madvise(p, try->area.size, MADV_HUGEPAGE);
	try->mem.p = (char *)(((uintptr_t)p + size - 1) & -size) + page_size();
	try->mem.pages = PAGES;
	try->mem.size = PAGES * page_size();
	fill_mem(&try->mem);
	/* khugepaged would take exclusive pages for what is in swap. */
	madvise(p, try->area.size, MADV_NOHUGEPAGE);
	if (!smaps_kb(&try->area, "AnonHugePages"))
		return skip("no huge page was to be had");
	return NULL;
}

static const char *make_memory(struct try *try)
{
	TRY(must("mmap", mem_map(&try->spare, 1)));
	if (try->call->memory == HUGE)
		return make_huge(try);

	TRY(must("mmap", mem_map(&try->mem, PAGES)));
	switch (try->call->memory) {
	case UNTOUCHED:
		return must("madvise", madvise(try->mem.p, try->mem.size,
					       MADV_DONTNEED));
	case SWAPPED:
		drain_lru_batches();
		TRY(must("pageout", madvise(try->mem.p, try->mem.size,
					    MADV_PAGEOUT)));
		if (entry_of(try->mem.p) != ENTRY_SWAP)
			return skip("the memory is not swapped out");
		return NULL;
	case SHARED:
		return share_memory(try);
	default:
		return NULL;
	}
}

static void unmake_memory(struct try *try)
{
	unshare_memory(try);
	mem_unmap(&try->spare);
	if (try->area.p)
		mem_unmap(&try->area);
	else
		mem_unmap(&try->mem);
}

/* Each page has its number in it. */
static const char *make_object(struct try *try)
{
	enum devexcl_insert insert = DEVEXCL_INSERT_PFN;
	uint32_t page;
	int ret;

	ret = aperture_open(&try->ap, try->call->prepare);
	if (ret == -ENOENT)
		return skip("there is no such aperture");
	TRY(must("open", ret));
	if (try->call->run == run_aperture_clean &&
	    !aperture_can(&try->ap, DEVEXCL_APERTURE_CAP_CLEAN))
		return skip("the device cannot clean pages");
	TRY(must("CREATE", object_create(&try->ap, &try->obj,
					 &try->call->object)));
	if (try->call->object.vma == DEVEXCL_VMA_MIXED)
		insert = DEVEXCL_INSERT_PAGE;
	TRY(must("POLICY", object_policy(&try->obj, 0, PAGES, insert, 0)));
	for (page = 0; page < PAGES; page++)
		TRY(must("COPY", object_store(&try->obj, page, page)));
	return NULL;
}

/* What is mapped is counted, if it is, and nothing else; the data is there. */
static const char *check_object(struct try *try)
{
	uint32_t page;

	if (!try->ap.info.size)
		return NULL;
	for (page = 0; page < PAGES; page++) {
		struct devexcl_aperture_page is = object_page(&try->obj, page);
		bool may = try->map.p &&
			   try->call->object.map != DEVEXCL_MAP_REMAP_PFN;
		bool must = may && try->call->object.map != DEVEXCL_MAP_FAULT;

		if (is.mapcount < must || is.mapcount > may)
			return fail("page %u of the object has %d mappings",
				    page, is.mapcount);
		if (is.refcount != 1 + is.mapcount)
			return fail("page %u of the object has %d references",
				    page, is.refcount);
		if (try->map.p && try->call->object.map)
			TRY(claim(check_kind(&try->ap, &try->map, page,
					     DEVEXCL_ENTRY_PRESENT)));
		if (object_load(&try->obj, page) != page ||
		    (try->map.p && READ_MEM(word_of(&try->map, page)) != page))
			return fail("page %u of the object has lost its data",
				    page);
	}
	return NULL;
}

/* Before and after */

static const char *begin_try(struct try *try, const struct call *call)
{
	*try = (struct try) { .call = call, .fd = -1, .eventfd = -1 };
	try->dev.fd = -1;
	if (call->object.pages)
		TRY(make_object(try));
	TRY(make_memory(try));
	TRY(must("open device", dev_open(&try->dev, 0)));
	if (call->memory == HUGE &&
	    !(try->dev.info.caps & DEVEXCL_CAP_LARGE_FOLIO))
		return skip("this kernel does not take pages of large folios");
	if (call->run == run_submit || call->run == run_wait ||
	    call->run == run_cancel) {
		try->eventfd = eventfd(0, EFD_CLOEXEC);
		TRY(must("eventfd", try->eventfd));
	}
	fcntl(try->dev.fd, F_SETFL, O_NONBLOCK);
	if (!call->fresh) {
		TRY(must("mirror", dev_mirror(&try->dev, try->mem.p,
					      try->mem.size)));
		try->mirrors = 1;
	}
	if (call->holds) {
		TRY(must("acquire", dev_acquire_all(&try->dev, try->mem.p,
						    PAGES)));
		try->held = PAGES;
	}
	if (call->run == run_wait || call->run == run_cancel)
		TRY(must("submit", run_submit(try)));
	return NULL;
}

static void end_try(struct try *try)
{
	if (try->call->end)
		try->call->end(try);
	if (try->eventfd >= 0)
		close(try->eventfd);
	if (try->dev.fd >= 0)
		close(try->dev.fd);
	aperture_close(&try->ap);
	unmake_memory(try);
}

static int count_files(void)
{
	int fd, nr = 0;

	for (fd = 0; fd < 64; fd++)
		nr += fcntl(fd, F_GETFD) >= 0;
	return nr;
}

/* What the device was told to hold it holds, and mm has the same in its books. */
static const char *check_pages(struct try *try, uint64_t *held, uint64_t *mapped)
{
	size_t page;

	*held = 0;
	*mapped = 0;
	if (dev_query(&try->dev, try->mem.p, PAGES, infos))
		return NULL;	/* there is no mirror */
	for (page = 0; page < PAGES; page++) {
		enum entry entry = entry_of(page_of(&try->mem, page));

		if (infos[page].access & DEVEXCL_ACCESS_EXCLUSIVE) {
			++*held;
			if (entry != ENTRY_EXCLUSIVE)
				return fail("page %zu is held, its entry is %s",
					    page, entry_name(entry));
		} else if (infos[page].access) {
			++*mapped;
			if (entry != ENTRY_PRESENT)
				return fail("page %zu is mapped, its entry is %s",
					    page, entry_name(entry));
		}
	}
	return NULL;
}

static const char *check_state(struct try *try)
{
	struct devexcl_stats stats;
	uint64_t held, mapped;

	if (try->dev.fd < 0)
		return NULL;
	TRY(must("stats", dev_stats(&try->dev, &stats)));
	TRY(check_pages(try, &held, &mapped));
	if (stats.held != held || stats.mapped != mapped)
		return fail("the device counts %llu + %llu pages, and has %llu + %llu",
			    (unsigned long long)stats.held,
			    (unsigned long long)stats.mapped,
			    (unsigned long long)held,
			    (unsigned long long)mapped);
	if (stats.events_lost)
		return fail("events are lost");
	if (try->unsure)
		return NULL;
	if (try->call->untold)
		return NULL;
	if (held != try->held || mapped != try->mapped)
		return fail("the device has %llu + %llu pages, and was told of %llu + %llu",
			    (unsigned long long)held,
			    (unsigned long long)mapped,
			    (unsigned long long)try->held,
			    (unsigned long long)try->mapped);
	if (stats.mirrors != try->mirrors)
		return fail("there are %llu mirrors, not %llu",
			    (unsigned long long)stats.mirrors,
			    (unsigned long long)try->mirrors);
	return NULL;
}

/* The memory holds what it should, and nobody has kept a reference. */
static const char *check_memory(struct try *try)
{
	bool ran = try->call->run == run_submit ||
		   try->call->run == run_wait || try->call->run == run_cancel;
	uint64_t added = 0;
	size_t page;

	unshare_memory(try);
	for (page = 0; page < PAGES; page++) {
		uint64_t *word = word_of(&try->mem, page);
		uint64_t was = try->call->memory == UNTOUCHED ? 0 :
			       pattern_of(&try->mem, page);

		added += READ_MEM(word) - was;
		WRITE_MEM(word, was);
	}
	if (!ran && (added < try->added ||
		     (!try->unsure && added != try->added)))
		return fail("operations have added %llu, not %llu",
			    (unsigned long long)added,
			    (unsigned long long)try->added);
	if (try->call->memory == UNTOUCHED)
		fill_mem(&try->mem);
	TRY(claim(check_data(&try->mem, 0, PAGES)));
	if (try->call->memory == HUGE || try->dev.fd < 0)
		return NULL;
	if (!try->mirrors || try->call->fresh)
		TRY(must("mirror", dev_mirror(&try->dev, try->mem.p,
					      try->mem.size)));
	return claim(check_references(&try->dev, &try->mem));
}

static const char *check_error(const struct try *try, long ret)
{
	if (ret >= 0 || (try->call->errors & MAY(-ret)))
		return NULL;
	return fail("it failed: %s", strerror(-ret));
}

/* What came of it */
enum outcome {
	DONE,		/* there was nothing left to fail */
	FAILED,
	BORNE,		/* something failed, and the call did all the same */
};

/* The call with a failure, and then without. */
static const char *try_once(struct try *try, const struct call *call,
			    enum source source, unsigned int nth,
			    enum outcome *outcome)
{
	bool fired;
	int files;
	long ret;

	TRY(begin_try(try, call));
	files = count_files();
	TRY(run_armed(try, source, nth, &ret, &fired));
	*outcome = !fired ? DONE : ret ? FAILED : BORNE;
	if (!fired && ret)
		return fail("nothing failed, and it did: %ld", ret);
	TRY(check_error(try, ret));
	TRY(check_state(try));
	TRY(check_object(try));
	if (ret && count_files() != files)
		return fail("it failed, and left a file open");

	ret = call->run(try);
	if (ret)
		return fail("once more, it failed: %ld", ret);
	try->unsure &= call->run == run_atomic ||
		       call->run == run_atomic_acquire;
	TRY(check_state(try));
	TRY(check_object(try));
	if (call->end)
		call->end(try);
	return check_memory(try);
}

static const char *try_and_end(const struct call *call, enum source source,
			       unsigned int nth, enum outcome *outcome)
{
	static struct try try;
	const char *verdict = try_once(&try, call, source, nth, outcome);

	end_try(&try);
	return verdict;
}

/* What came of it the parent learns by the exit status. */
static const char *try_in_child(const struct call *call, enum source source,
				unsigned int nth, enum outcome *outcome)
{
	pid_t pid = fork();
	int ret;

	TRY(must("fork", pid));
	if (!pid) {
		leave_verdict(try_and_end(call, source, nth, outcome));
		_exit(*outcome);
	}
	ret = wait_child(pid);
	if (ret < 0)
		return fail("it died of signal %d", -ret);
	*outcome = ret;
	return take_verdict();
}

static const char *try_nth(const struct call *call, enum source source,
			   unsigned int nth, enum outcome *outcome)
{
	const char *verdict = call->fresh ?
			      try_in_child(call, source, nth, outcome) :
			      try_and_end(call, source, nth, outcome);

	if (verdict)
		printf("# when failure no. %u was tried\n", nth);
	return verdict;
}

/* How many things may have come earlier, the last time */
#define STOCK	3

/*
 * The 1st, the 2nd, ... thing fails, until there is none.
 *
 * Allocators fill their stocks now and then, which may fail and does no harm,
 * but moves the number of what comes after it. So a failure that was borne is
 * tried again; and in the end the last few are, since what comes last of all may
 * have the number of one of these as long as no stock is filled.
 */
static const char *sweep(const struct call *call, enum source source)
{
	enum outcome outcome = FAILED;
	unsigned int nth, again, end;

	for (nth = 1; outcome != DONE; nth++) {
		if (nth == MAX_NTH)
			return fail("there is no end of things that fail");
		outcome = BORNE;
		for (again = 0; again < 3 && outcome == BORNE; again++)
			TRY(try_nth(call, source, nth, &outcome));
	}
	end = nth - 1;
	for (nth = end > STOCK ? end - STOCK : 1; nth < end; nth++)
		TRY(try_nth(call, source, nth, &outcome));
	printf("# %u failures\n", end - 1);
	return NULL;
}

/* Cells */

static const struct call *call_of(size_t cell)
{
	return &calls[cell / SOURCES];
}

static const char *cell_name(size_t cell)
{
	static char name[64];

	snprintf(name, sizeof(name), "failnth.%s.%s", call_of(cell)->name,
		 source_names[cell % SOURCES]);
	return name;
}

static const char *cell_excluded(size_t cell)
{
	if (cell % SOURCES == DEVICE && call_of(cell)->no_device)
		return "nothing that the device could have fail";
	return NULL;
}

static const char *cell_run(size_t cell)
{
	int fd = fail_nth_fd();
	struct dev dev;

	if (fd < 0 && cell % SOURCES == KERNEL)
		return skip("the kernel has no fault injection");
	close(fd);
	avoid_numa_balancing();
	if (!call_of(cell)->fresh) {
		TRY(must("open device", dev_open(&dev, 0)));
		TRY(must("calibrate", calibrate_exclusive_entry(&dev)));
		dev_close(&dev);
	}
	return sweep(call_of(cell), cell % SOURCES);
}

int main(int argc, char **argv)
{
	static const struct cells cells = {
		.subject = "failnth",
		.own_table = true,
		.nr = ARRAY_SIZE(calls) * SOURCES,
		.name = cell_name,
		.excluded = cell_excluded,
		.run = cell_run,
		.begin = begin,
		.end = switch_off,
	};

	return cells_main(&cells, argc, argv);
}
