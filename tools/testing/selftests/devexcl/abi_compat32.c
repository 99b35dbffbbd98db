// SPDX-License-Identifier: GPL-2.0
/*
 * A caller of the other word size: each call once, on real memory
 *
 * Run by the tests abi.compat32 and, with an argument, aperture_abi.compat32: the
 * other device. Exit status 0, or the number of the check that
 * failed, which is printed. Without the harness, as 32-bit programs may have
 * to be built with a minimal toolchain.
 */
#define _FILE_OFFSET_BITS 64

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/test_devexcl_uapi.h>

#define PAGES	4

static unsigned int number;

static void check(int ok, const char *what)
{
	number++;
	if (ok)
		return;
	fprintf(stderr, "# no. %u failed: %s (errno %d)\n", number, what,
		errno);
	exit(number);
}

/* The layout must be that of 64-bit callers. */
static void check_layout(void)
{
	check(sizeof(struct devexcl_info) == 96, "size of devexcl_info");
	check(sizeof(struct devexcl_mirror) == 32, "size of devexcl_mirror");
	check(sizeof(struct devexcl_acquire) == 48, "size of devexcl_acquire");
	check(sizeof(struct devexcl_release) == 32, "size of devexcl_release");
	check(sizeof(struct devexcl_atomic_op) == 40, "size of an operation");
	check(sizeof(struct devexcl_atomic) == 40, "size of devexcl_atomic");
	check(sizeof(struct devexcl_copy) == 40, "size of devexcl_copy");
	check(sizeof(struct devexcl_page) == 32, "size of devexcl_page");
	check(sizeof(struct devexcl_query) == 40, "size of devexcl_query");
	check(sizeof(struct devexcl_inject) == 32, "size of devexcl_inject");
	check(sizeof(struct devexcl_breakpoint) == 40,
	      "size of devexcl_breakpoint");
	check(sizeof(struct devexcl_floor) == 40, "size of devexcl_floor");
	check(sizeof(struct devexcl_submit) == 96, "size of devexcl_submit");
	check(sizeof(struct devexcl_wait) == 88, "size of devexcl_wait");
	check(sizeof(struct devexcl_cancel) == 16, "size of devexcl_cancel");
	check(sizeof(struct devexcl_event) == 64, "size of devexcl_event");
}

static void mirror(int fd, unsigned long cmd, const char *p, size_t size)
{
	struct devexcl_mirror arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)p,
		.length = size,
	};

	check(!ioctl(fd, cmd, &arg), "MIRROR or UNMIRROR");
}

/* A mirror ends where a 32-bit caller's addresses end. */
static void mirror_too_much(int fd, size_t page)
{
	struct devexcl_mirror arg = {
		.size = sizeof(arg),
		.addr = 1ULL << 32,
		.length = page,
	};

	check(ioctl(fd, DEVEXCL_MIRROR, &arg) && errno == EFAULT,
	      "MIRROR above 4 GiB");
}

static void acquire(int fd, const char *p, size_t size)
{
	int32_t status[PAGES] = { 1, 1, 1, 1 };
	struct devexcl_acquire arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)p,
		.length = size,
		.status = (uintptr_t)status,
	};
	int i;

	/* Kernels that do not wait for a locked folio may be busy. */
	do {
		check(!ioctl(fd, DEVEXCL_ACQUIRE, &arg), "ACQUIRE");
		check(arg.done == PAGES, "pages dealt with");
		for (i = 0; i < PAGES; i++)
			check(!status[i] || status[i] == -EBUSY, "status");
	} while (arg.acquired != PAGES);
}

static void query(int fd, const char *p, size_t size)
{
	struct devexcl_page pages[PAGES] = {};
	struct devexcl_query arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)p,
		.length = size,
		.pages = (uintptr_t)pages,
	};
	int i;

	check(!ioctl(fd, DEVEXCL_QUERY, &arg), "QUERY");
	check(arg.done == PAGES, "entries written");
	for (i = 0; i < PAGES; i++)
		check(pages[i].access & DEVEXCL_ACCESS_EXCLUSIVE &&
		      pages[i].pfn, "page is held");
}

static void add(int fd, uint64_t *word)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)word,
		.operand = 1ULL << 40,
		.op = DEVEXCL_OP_ADD,
		.width = 8,
	};
	struct devexcl_atomic arg = {
		.size = sizeof(arg),
		.ops = (uintptr_t)&op,
		.nr_ops = 1,
	};

	check(!ioctl(fd, DEVEXCL_ATOMIC, &arg), "ATOMIC");
	check(arg.done == 1 && !op.error, "operation done");
	check(op.old == 42, "old value");
}

/* An engine adds what add() did once more, and takes it away again. */
static void run_job(int fd, uint64_t *word, unsigned int op)
{
	struct devexcl_submit job = {
		.size = sizeof(job),
		.addr = (uintptr_t)word,
		.length = sizeof(*word),
		.count = 1ULL << 10,
		.repeat = 1,
		.operand = 1ULL << 30,
		.op = op,
		.width = sizeof(*word),
		.engine = DEVEXCL_ENGINE_ANY,
	};
	struct devexcl_wait wait = {
		.size = sizeof(wait),
		.timeout_ns = DEVEXCL_WAIT_FOREVER,
	};

	check(!ioctl(fd, DEVEXCL_SUBMIT, &job), "SUBMIT");
	wait.id = job.id;
	check(!ioctl(fd, DEVEXCL_WAIT, &wait), "WAIT");
	check(!wait.status && wait.done == job.count, "job done");
	wait.id = job.id;
	check(ioctl(fd, DEVEXCL_WAIT, &wait) && errno == ENOENT,
	      "WAIT once more");
}

static void cancel(int fd)
{
	struct devexcl_cancel arg = {
		.size = sizeof(arg),
		.id = 4711,
	};

	check(ioctl(fd, DEVEXCL_CANCEL, &arg) && errno == ENOENT, "CANCEL");
}

static void copy(int fd, const uint64_t *word)
{
	uint64_t value = 0;
	struct devexcl_copy arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)word,
		.length = sizeof(value),
		.buf = (uintptr_t)&value,
	};

	check(!ioctl(fd, DEVEXCL_COPY, &arg), "COPY");
	check(arg.copied == sizeof(value), "bytes copied");
	check(value == 42 + (1ULL << 40), "value copied");
}

static void release(int fd, const char *p, size_t size)
{
	struct devexcl_release arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)p,
		.length = size,
	};

	check(!ioctl(fd, DEVEXCL_RELEASE, &arg), "RELEASE");
	check(arg.released == PAGES, "pages released");
}

static void inject(int fd)
{
	struct devexcl_inject arg = { .size = sizeof(arg) };

	check(!ioctl(fd, DEVEXCL_INJECT, &arg), "INJECT");
}

static void arm_breakpoint(int fd, const char *p, size_t size)
{
	struct devexcl_breakpoint arg = {
		.size = sizeof(arg),
		.point = DEVEXCL_POINT_RELEASE,
		.addr = (uintptr_t)p,
		.length = size,
	};

	check(!ioctl(fd, DEVEXCL_BREAKPOINT, &arg), "BREAKPOINT");
	check(!close(arg.fd), "close breakpoint");
}

static void stats(int fd)
{
	struct devexcl_stats arg = { .size = sizeof(arg) };

	check(!ioctl(fd, DEVEXCL_STATS, &arg), "STATS");
	check(arg.acquired == PAGES, "STATS: pages acquired");
	check(arg.ops == 1 + (2 << 10), "STATS: operations");
	check(arg.jobs_completed == 2, "STATS: jobs");
	check(!arg.held, "STATS: pages held");
}

static void events(int fd)
{
	struct devexcl_event event;

	check(read(fd, &event, sizeof(event)) == sizeof(event), "read");
	check(event.seq == 1, "number of the first event");
}

/* The other device */

static void check_aperture_layout(void)
{
	check(sizeof(struct devexcl_aperture_info) == 64, "size of info");
	check(sizeof(struct devexcl_aperture_create) == 56, "size of create");
	check(sizeof(struct devexcl_aperture_policy) == 32, "size of policy");
	check(sizeof(struct devexcl_aperture_move) == 24, "size of move");
	check(sizeof(struct devexcl_aperture_range) == 40, "size of range");
	check(sizeof(struct devexcl_aperture_page) == 32, "size of page");
	check(sizeof(struct devexcl_aperture_pages) == 40, "size of pages");
	check(sizeof(struct devexcl_aperture_copy) == 48, "size of copy");
	check(sizeof(struct devexcl_aperture_inject) == 24, "size of inject");
	check(sizeof(struct devexcl_entry) == 48, "size of entry");
	check(sizeof(struct devexcl_aperture_inspect) == 40, "size of inspect");
}

static uint32_t create_object(int fd, uint64_t *offset)
{
	struct devexcl_aperture_create arg = {
		.size = sizeof(arg),
		.pages = PAGES,
		.vma = DEVEXCL_VMA_PFN,
		.batch = 1,
	};
	struct devexcl_aperture_policy policy = {
		.size = sizeof(policy),
		.count = PAGES,
		.insert = DEVEXCL_INSERT_PFN,
	};

	check(!ioctl(fd, DEVEXCL_APERTURE_CREATE, &arg), "CREATE");
	check(arg.offset, "offset");
	*offset = arg.offset;
	policy.id = arg.id;
	check(!ioctl(fd, DEVEXCL_APERTURE_POLICY, &policy), "POLICY");
	return arg.id;
}

static void copy_object(int fd, uint32_t id, uint64_t expected)
{
	uint64_t value = 0;
	struct devexcl_aperture_copy arg = {
		.size = sizeof(arg),
		.id = id,
		.length = sizeof(value),
		.buf = (uintptr_t)&value,
	};

	check(!ioctl(fd, DEVEXCL_APERTURE_COPY, &arg), "COPY");
	check(arg.copied == sizeof(value) && value == expected, "value");
}

/* The device knows the same page as the page table has. */
static void look_at_page(int fd, uint32_t id, const char *p, size_t size)
{
	struct devexcl_aperture_page page = {};
	struct devexcl_entry entry = {};
	struct devexcl_aperture_pages pages = {
		.size = sizeof(pages),
		.id = id,
		.pages = (uintptr_t)&page,
		.count = 1,
	};
	struct devexcl_aperture_inspect inspect = {
		.size = sizeof(inspect),
		.addr = (uintptr_t)p,
		.length = size,
		.entries = (uintptr_t)&entry,
	};

	check(!ioctl(fd, DEVEXCL_APERTURE_PAGES, &pages), "PAGES");
	check(!ioctl(fd, DEVEXCL_APERTURE_INSPECT, &inspect), "INSPECT");
	check(inspect.done == 1 && entry.kind == DEVEXCL_ENTRY_PRESENT &&
	      entry.pfn == page.pfn, "entry");
}

static void change_object(int fd, uint32_t id)
{
	struct devexcl_aperture_range range = {
		.size = sizeof(range),
		.id = id,
		.count = PAGES,
	};
	struct devexcl_aperture_move move = {
		.size = sizeof(move),
		.id = id,
		.placement = DEVEXCL_PLACE_BUFFER,
	};
	struct devexcl_aperture_inject inject = {
		.size = sizeof(inject),
		.id = id,
	};

	check(!ioctl(fd, DEVEXCL_APERTURE_CLEAN, &range) ||
	      errno == EOPNOTSUPP, "CLEAN");
	check(!ioctl(fd, DEVEXCL_APERTURE_ZAP, &range), "ZAP");
	check(!ioctl(fd, DEVEXCL_APERTURE_MOVE, &move), "MOVE");
	check(!ioctl(fd, DEVEXCL_APERTURE_INJECT, &inject), "INJECT");
}

static int aperture(size_t page)
{
	struct devexcl_aperture_info info = { .size = sizeof(info) };
	int fd = open("/dev/devexcl_aperture", O_RDWR);
	uint64_t offset, *word;
	uint32_t id;
	char *p;

	check_aperture_layout();
	check(fd >= 0, "open");
	check(!ioctl(fd, DEVEXCL_APERTURE_INFO, &info), "INFO");
	check(info.page_size == page, "INFO: page size");
	id = create_object(fd, &offset);
	p = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		 offset);
	check(p != MAP_FAILED, "mmap");
	word = (uint64_t *)p;
	*word = 1ULL << 40;
	look_at_page(fd, id, p, page);
	copy_object(fd, id, 1ULL << 40);
	change_object(fd, id);
	check(__atomic_load_n(word, __ATOMIC_RELAXED) == 1ULL << 40, "data");
	look_at_page(fd, id, p, page);
	check(!close(fd), "close");
	return 0;
}

int main(int argc, char **argv)
{
	struct devexcl_info info = { .size = sizeof(info) };
	size_t page = sysconf(_SC_PAGESIZE);
	int fd = open("/dev/devexcl0", O_RDWR | O_NONBLOCK);
	uint64_t *word;
	char *p;

	(void)argv;
	if (argc > 1)
		return aperture(page);
	check_layout();
	check(fd >= 0, "open");
	check(!ioctl(fd, DEVEXCL_INFO, &info), "INFO");
	check(info.page_size == page, "INFO: page size");
	p = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(p != MAP_FAILED, "mmap");
	memset(p, 0, PAGES * page);
	word = (uint64_t *)(p + page);
	*word = 42;

	mirror_too_much(fd, page);
	mirror(fd, DEVEXCL_MIRROR, p, PAGES * page);
	acquire(fd, p, PAGES * page);
	query(fd, p, PAGES * page);
	add(fd, word);
	run_job(fd, word, DEVEXCL_OP_ADD);
	run_job(fd, word, DEVEXCL_OP_SUB);
	cancel(fd);
	copy(fd, word);
	release(fd, p, PAGES * page);
	check(__atomic_load_n(word, __ATOMIC_RELAXED) == 42 + (1ULL << 40),
	      "data");
	inject(fd);
	arm_breakpoint(fd, p, page);
	stats(fd);
	events(fd);
	mirror(fd, DEVEXCL_UNMIRROR, p, PAGES * page);
	check(!close(fd), "close");
	return 0;
}
