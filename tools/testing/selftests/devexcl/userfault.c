// SPDX-License-Identifier: GPL-2.0
/*
 * userfaultfd: another thread decides about faults of memory that a device
 * holds, puts pages there, or moves them away
 */
#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "devexcl_matrix.h"
#include "devexcl_scan.h"

#define MODE_MISSING	UFFDIO_REGISTER_MODE_MISSING
#define MODE_WP		UFFDIO_REGISTER_MODE_WP

/**
 * struct manager - who has the userfaultfd; one for the process of a cell
 * @fd: the userfaultfd
 * @features: what it can do
 * @rwp: it protects from reading, too
 * @stop: its thread waits here for the end
 * @thread: permits each access, and keeps the userfaultfds of children
 * @asked: times that it was asked for permission
 * @page: for which page the last time
 * @flags: and what for
 */
static struct manager {
	int fd;
	uint64_t features;
	bool rwp;
	struct gate stop;
	pthread_t thread;
	unsigned long asked;
	char *page;
	uint64_t flags;
} manager;

/* Opening and registering */

static const char *open_uffd(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	manager.fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (manager.fd < 0)
		return skip("no userfaultfd: %s", strerror(errno));
	if (ioctl(manager.fd, UFFDIO_API, &api))
		return skip("userfaultfd lacks the feature");
	manager.features = api.features;
	return NULL;
}

static int register_range(const void *p, size_t size, uint64_t mode)
{
	struct uffdio_register arg = {
		.range = { .start = (uintptr_t)p, .len = size },
		.mode = mode,
	};

	return ioctl(manager.fd, UFFDIO_REGISTER, &arg);
}

static int unregister_range(const void *p, size_t size)
{
	struct uffdio_range range = { .start = (uintptr_t)p, .len = size };

	return ioctl(manager.fd, UFFDIO_UNREGISTER, &range);
}

/* All of the memory, so that no VMA is split. */
static const char *register_memory(struct cell *cell, uint64_t mode)
{
	int ret = register_range(cell->mem.p, cell->mem.size, mode);

	if (ret && errno == EINVAL && cell->backing->traits & TRAIT_FILE)
		return skip("userfaultfd does not work for this file");
	return must("UFFDIO_REGISTER", ret);
}

static const char *prepare_missing(struct cell *cell)
{
	TRY(open_uffd(0));
	return register_memory(cell, MODE_MISSING);
}

static const char *prepare_wp(struct cell *cell)
{
	TRY(open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP));
	return register_memory(cell, MODE_WP);
}

static const char *prepare_async(struct cell *cell)
{
	TRY(open_uffd(UFFD_FEATURE_WP_ASYNC));
	return register_memory(cell, MODE_WP);
}

/* What is registered is so no longer. */
static const char *finish_close(struct cell *cell)
{
	(void)cell;
	return must("close", close(manager.fd));
}

/* Write protection */

static int write_protect(const void *p, size_t size, bool on)
{
	struct uffdio_writeprotect arg = {
		.range = { .start = (uintptr_t)p, .len = size },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(manager.fd, UFFDIO_WRITEPROTECT, &arg);
}

static int rw_protect(const void *p, size_t size, bool on)
{
	struct uffdio_rwprotect arg = {
		.range = { .start = (uintptr_t)p, .len = size },
		.mode = on ? UFFDIO_RWPROTECT_MODE_RWP : 0,
	};

	return ioctl(manager.fd, UFFDIO_RWPROTECT, &arg);
}

/* Protection is (not) in the entries of the target, and in no others. */
static const char *check_protected(const struct cell *cell, bool on)
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++) {
		bool is = pagemap_of(page_of(&cell->mem, page)) &
			  PAGEMAP_UFFD_WP;
		bool target = page >= cell->first &&
			      page < cell->first + cell->pages;

		if (is != (on && target))
			return fail("page %zu is %sprotected", page,
				    is ? "" : "not ");
	}
	return NULL;
}

static const char *protect_target(struct cell *cell, bool on)
{
	TRY(must("UFFDIO_WRITEPROTECT",
		 write_protect(target(cell), target_size(cell), on)));
	return check_protected(cell, on);
}

/* The thread */

static void keep_manager(const struct uffd_msg *msg)
{
	char *page = (char *)(uintptr_t)(msg->arg.pagefault.address &
					 ~(page_size() - 1ULL));

	if (msg->event != UFFD_EVENT_PAGEFAULT)
		return;
	manager.page = page;
	manager.flags = msg->arg.pagefault.flags;
	__atomic_fetch_add(&manager.asked, 1, __ATOMIC_SEQ_CST);
	if (manager.rwp)
		rw_protect(page, page_size(), false);
	else
		write_protect(page, page_size(), false);
}

static void *manage(void *unused)
{
	struct pollfd fds[] = {
		{ .fd = manager.fd, .events = POLLIN },
		{ .fd = manager.stop.pipe[0], .events = POLLIN },
	};
	struct uffd_msg msg;

	(void)unused;
	while (poll(fds, 2, -1) > 0 && !fds[1].revents)
		if (read(manager.fd, &msg, sizeof(msg)) == sizeof(msg))
			keep_manager(&msg);
	return NULL;
}

static const char *start_manager(void)
{
	TRY(must("gate", gate_init(&manager.stop)));
	return must("thread", -pthread_create(&manager.thread, NULL, manage,
					      NULL));
}

static void stop_manager(void)
{
	gate_open(&manager.stop);
	pthread_join(manager.thread, NULL);
}

/* It was asked for permission that often since the last time. */
static const char *check_asked(unsigned long times)
{
	unsigned long asked = __atomic_exchange_n(&manager.asked, 0,
						  __ATOMIC_SEQ_CST);

	if (asked == times)
		return NULL;
	return fail("the manager was asked %lu times, expected %lu", asked,
		    times);
}

/* Each page of the target that the device had is acquired again. */
static const char *acquire_target(struct cell *cell, unsigned long asks)
{
	size_t page;

	for (page = cell->first; page < cell->first + cell->pages; page++) {
		char *p = page_of(&cell->mem, page);

		if (!cell->held[page])
			continue;
		TRY(must("acquire", dev_acquire_one(&cell->dev, p)));
		TRY(check_asked(asks));
		if (asks && manager.page != p)
			return fail("the manager was asked for another page");
		if (asks && !(manager.flags & UFFD_PAGEFAULT_FLAG_WP))
			return fail("the manager was asked for something else");
		if (pagemap_of(p) & PAGEMAP_UFFD_WP)
			return fail("page %zu, acquired, is protected", page);
	}
	return NULL;
}

/* Rows: registering */

/* The target only, and twice, as the second time has other VMAs. */
static const char *act_register(struct cell *cell)
{
	int i, ret;

	TRY(open_uffd(0));
	for (i = 0; i < 2; i++) {
		ret = register_range(target(cell), target_size(cell),
				     MODE_MISSING);
		if (ret && errno == EINVAL &&
		    cell->backing->traits & TRAIT_FILE)
			return skip("userfaultfd does not work for this file");
		TRY(must("UFFDIO_REGISTER", ret));
		TRY(must("UFFDIO_UNREGISTER",
			 unregister_range(target(cell), target_size(cell))));
	}
	return NULL;
}

/* With memory no longer registered there is nobody who could permit writes. */
static const char *act_unregister(struct cell *cell)
{
	TRY(protect_target(cell, true));
	TRY(must("UFFDIO_UNREGISTER",
		 unregister_range(cell->mem.p, cell->mem.size)));
	return check_protected(cell, false);
}

/* Rows: pages are put where the device has one */

static const char *must_exist(const char *what, int ret)
{
	if (ret && errno == EEXIST)
		return NULL;
	return fail("%s onto a page: %s", what,
		    ret ? strerror(errno) : "done");
}

static const char *fill_page(char *p, const void *other)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)p, .src = (uintptr_t)other,
		.len = page_size(),
	};
	struct uffdio_zeropage zero = {
		.range = { .start = (uintptr_t)p, .len = page_size() },
	};
	struct uffdio_poison poison = { .range = zero.range };

	TRY(must_exist("UFFDIO_COPY", ioctl(manager.fd, UFFDIO_COPY, &copy)));
	TRY(must_exist("UFFDIO_ZEROPAGE",
		       ioctl(manager.fd, UFFDIO_ZEROPAGE, &zero)));
	if (!(manager.features & UFFD_FEATURE_POISON))
		return NULL;
	return must_exist("UFFDIO_POISON",
			  ioctl(manager.fd, UFFDIO_POISON, &poison));
}

static const char *act_fill(struct cell *cell)
{
	struct mem other;
	size_t page;

	TRY(must("mmap", mem_map(&other, 1)));
	for (page = cell->first; page < cell->first + cell->pages; page++)
		TRY(fill_page(page_of(&cell->mem, page), other.p));
	return NULL;
}

static const char *prepare_minor(struct cell *cell)
{
	TRY(open_uffd(UFFD_FEATURE_MINOR_SHMEM));
	return register_memory(cell, UFFDIO_REGISTER_MODE_MINOR);
}

/* The page of the file is put where its copy is. */
static const char *act_continue(struct cell *cell)
{
	struct uffdio_continue arg = { .range.len = page_size() };
	size_t page;

	for (page = cell->first; page < cell->first + cell->pages; page++) {
		arg.range.start = (uintptr_t)page_of(&cell->mem, page);
		TRY(must_exist("UFFDIO_CONTINUE",
			       ioctl(manager.fd, UFFDIO_CONTINUE, &arg)));
	}
	return NULL;
}

/* Rows: moving */

/* Memory that has no page yet, and ours, are both registered. */
static const char *prepare_move(struct cell *cell)
{
	static struct mem other;

	TRY(open_uffd(UFFD_FEATURE_MOVE));
	TRY(register_memory(cell, MODE_MISSING));
	TRY(must("mmap", mem_map(&other, 1)));
	TRY(must("UFFDIO_REGISTER",
		 register_range(other.p, other.size, MODE_MISSING)));
	cell->private = other.p;
	return NULL;
}

static int move_page(void *to, const void *from)
{
	struct uffdio_move arg = {
		.dst = (uintptr_t)to,
		.src = (uintptr_t)from,
		.len = page_size(),
	};
	int ret;

	do
		ret = ioctl(manager.fd, UFFDIO_MOVE, &arg);
	while (ret && errno == EAGAIN);
	return ret;
}

/* There and back; a page that is shared with others is busy. */
static const char *move_there_and_back(char *p, char *other)
{
	if (move_page(other, p))
		return errno == EBUSY ? NULL : must("UFFDIO_MOVE", -1);
	return must("UFFDIO_MOVE", move_page(p, other));
}

/* Exclusive entries are refused; only the device has learnt that we tried. */
static const char *act_move_from(struct cell *cell)
{
	size_t page;
	int ret;

	TRY(must("madvise", madvise(cell->private, page_size(),
				    MADV_DONTNEED)));
	for (page = cell->first; page < cell->first + cell->pages; page++) {
		char *p = page_of(&cell->mem, page);

		if (!cell->held[page]) {
			TRY(move_there_and_back(p, cell->private));
			continue;
		}
		ret = move_page(cell->private, p);
		if (!ret || errno != EFAULT)
			return fail("UFFDIO_MOVE of an exclusive page: %s",
				    ret ? strerror(errno) : "done");
		if (entry_of(cell->private) != ENTRY_NONE)
			return fail("UFFDIO_MOVE failed, but has moved a page");
	}
	return NULL;
}

static const char *act_move_onto(struct cell *cell)
{
	size_t page;

	for (page = cell->first; page < cell->first + cell->pages; page++)
		TRY(must_exist("UFFDIO_MOVE",
			       move_page(page_of(&cell->mem, page),
					 cell->private)));
	if (READ_MEM((uint64_t *)cell->private) != pattern_word(0, 0))
		return fail("UFFDIO_MOVE failed, but what was to move has changed");
	return NULL;
}

/* Rows: protecting */

static const char *act_protect(struct cell *cell)
{
	return protect_target(cell, true);
}

/* All was read since, and nothing may be written to yet. */
static const char *finish_protect(struct cell *cell)
{
	const char *ret;

	TRY(check_protected(cell, true));
	TRY(start_manager());
	ret = acquire_target(cell, 1);
	stop_manager();
	TRY(ret);
	/* Where nobody acquired anything the protection is still there. */
	TRY(protect_target(cell, false));
	return finish_close(cell);
}

static const char *finish_async(struct cell *cell)
{
	TRY(check_protected(cell, true));
	TRY(acquire_target(cell, 0));
	TRY(protect_target(cell, false));
	return finish_close(cell);
}

static const char *act_protect_and_lift(struct cell *cell)
{
	TRY(protect_target(cell, true));
	return protect_target(cell, false);
}

/* Nobody has to be asked. */
static const char *finish_lifted(struct cell *cell)
{
	const char *ret;
	size_t page;

	TRY(start_manager());
	for (page = cell->first; page < cell->first + cell->pages; page++) {
		uint64_t *word = word_of(&cell->mem, page);

		WRITE_MEM(word, READ_MEM(word));
	}
	ret = check_asked(0);
	stop_manager();
	TRY(ret);
	return finish_close(cell);
}

static const char *prepare_rwp(struct cell *cell)
{
	TRY(open_uffd(UFFD_FEATURE_RWP));
	manager.rwp = true;
	return register_memory(cell, UFFDIO_REGISTER_MODE_RWP);
}

/* From here on the manager is asked for each page that is looked at. */
static const char *act_rw_protect(struct cell *cell)
{
	TRY(must("UFFDIO_RWPROTECT",
		 rw_protect(target(cell), target_size(cell), true)));
	TRY(check_protected(cell, true));
	return start_manager();
}

static const char *finish_rw_protect(struct cell *cell)
{
	TRY(check_asked(cell->pages));
	TRY(check_protected(cell, false));
	stop_manager();
	return finish_close(cell);
}

/*
 * Pages of a range that were written to; those are protected, if asked for. The
 * kernel has a short way for who asks for nothing but that.
 */
static const char *scan_for(const void *p, size_t size, uint64_t flags,
			    uint64_t what, size_t pages)
{
	struct page_region regions[16];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = flags,
		.start = (uintptr_t)p,
		.end = (uintptr_t)p + size,
		.vec = (uintptr_t)regions,
		.vec_len = ARRAY_SIZE(regions),
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = what,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int i, ret = ioctl(fd, PAGEMAP_SCAN, &arg);
	size_t found = 0;

	close(fd);
	if (ret < 0 && errno == ENOTTY)
		return skip("no PAGEMAP_SCAN");
	TRY(must("PAGEMAP_SCAN", ret));
	for (i = 0; i < ret; i++)
		found += (regions[i].end - regions[i].start) / page_size();
	if (found == pages)
		return NULL;
	return fail("PAGEMAP_SCAN finds %zu written pages, expected %zu", found,
		    pages);
}

static const char *scan_written(const void *p, size_t size, uint64_t flags,
				size_t pages)
{
	return scan_for(p, size, flags, PAGE_IS_WRITTEN, pages);
}

static const char *act_scan(struct cell *cell)
{
	TRY(scan_for(target(cell), target_size(cell), 0,
		     PAGE_IS_WRITTEN | PAGE_IS_PFNZERO, cell->pages));
	TRY(scan_written(target(cell), target_size(cell),
			 PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
			 cell->pages));
	TRY(scan_written(target(cell), target_size(cell), 0, 0));
	return check_protected(cell, true);
}

/* Being read is not being written; being acquired is. */
static const char *finish_scan(struct cell *cell)
{
	size_t page, held = 0;

	TRY(scan_written(target(cell), target_size(cell), 0, 0));
	TRY(acquire_target(cell, 0));
	for (page = cell->first; page < cell->first + cell->pages; page++)
		held += !!cell->held[page];
	TRY(scan_written(target(cell), target_size(cell), 0, held));
	return finish_close(cell);
}

/* Fork */

static const char *prepare_fork(struct cell *cell)
{
	TRY(open_uffd(UFFD_FEATURE_EVENT_FORK |
		      UFFD_FEATURE_PAGEFAULT_FLAG_WP));
	return register_memory(cell, MODE_WP);
}

/* The child's pages are protected like ours, and have what ours have. */
static int child_looks(const struct cell *cell)
{
	size_t page;

	if (check_protected(cell, true))
		return 1;
	for (page = cell->first; page < cell->first + cell->pages; page++)
		if (check_page(cell, page, page_of(&cell->mem, page), false))
			return 2;
	return 0;
}

static const char *act_fork(struct cell *cell)
{
	int status;
	pid_t pid;

	TRY(protect_target(cell, true));
	/* Our manager learns of the child; before that fork() does not end. */
	TRY(start_manager());
	pid = fork();
	if (!pid)
		_exit(child_looks(cell));
	TRY(must("fork", pid));
	status = wait_child(pid);
	stop_manager();
	if (status)
		return fail(status == 1 ? "the child's pages are not protected" :
			    "the child has other data");
	return check_protected(cell, true);
}

static const char *finish_fork(struct cell *cell)
{
	TRY(protect_target(cell, false));
	return finish_close(cell);
}

#define REVOKED_BY_PROTECTION						\
	{ TAKEN, CAUSE(PROTECTION_VMA), ENTRY_IS(EXCLUSIVE), DATA_KEPT }

#define ANONYMOUS_ONLY							\
	.except = { TRAIT_FILE | TRAIT_MLOCK | TRAIT_MOVING,		\
		    "only unlocked anonymous memory that stays can be moved" }

static const struct operation ops[] = {
	{
		.name = "register",
		.act = act_register, .finish = finish_close,
		.expect = DEVICE_KEEPS_SPLIT,
	}, {
		.name = "unregister",
		.prepare = prepare_wp, .act = act_unregister,
		.finish = finish_close,
		.expect = { TAKEN, CAUSE(PROTECTION_VMA), ENTRY_IS(EXCLUSIVE),
			    DATA_KEPT, .reach = REACH_ALL },
	}, {
		.name = "fill",
		.prepare = prepare_missing, .act = act_fill,
		.finish = finish_close,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "continue",
		.prepare = prepare_minor, .act = act_continue,
		.finish = finish_close,
		.expect = DEVICE_KEEPS,
		.needs = { TRAIT_FILE, "no file whose page could be there" },
		.except = { TRAIT_DRIVER, "no page of the file is there" },
	}, {
		.name = "move_from",
		.prepare = prepare_move, .act = act_move_from,
		.finish = finish_close,
		.expect = { TAKEN, CAUSE(CLEAR), ENTRY_IS(EXCLUSIVE),
			    DATA_KEPT, .splits = SPLITS_FOLIO },
		ANONYMOUS_ONLY,
	}, {
		.name = "move_onto",
		.prepare = prepare_move, .act = act_move_onto,
		.finish = finish_close,
		.expect = DEVICE_KEEPS,
		ANONYMOUS_ONLY,
	}, {
		.name = "write_protect",
		.prepare = prepare_wp, .act = act_protect,
		.finish = finish_protect,
		.expect = REVOKED_BY_PROTECTION,
	}, {
		.name = "write_protect_lifted",
		.prepare = prepare_wp, .act = act_protect_and_lift,
		.finish = finish_lifted,
		.expect = REVOKED_BY_PROTECTION,
	}, {
		.name = "write_protect_async",
		.prepare = prepare_async, .act = act_protect,
		.finish = finish_async,
		.expect = REVOKED_BY_PROTECTION,
	}, {
		.name = "write_protect_by_scan",
		.prepare = prepare_async, .act = act_scan,
		.finish = finish_scan,
		.expect = REVOKED_BY_PROTECTION,
		.needs = { TRAIT_TYPICAL | TRAIT_SWAPPED,
			   "a few will do: where the kernel warns each needs a boot" },
	}, {
		.name = "rw_protect",
		.prepare = prepare_rwp, .act = act_rw_protect,
		.finish = finish_rw_protect,
		.expect = REVOKED_BY_PROTECTION,
	}, {
		.name = "fork",
		.prepare = prepare_fork, .act = act_fork,
		.finish = finish_fork,
		.expect = { TAKEN, CAUSE(PROTECTION_VMA) |
			    CAUSE(PROTECTION_PAGE), ENTRY_IS(PRESENT),
			    DATA_KEPT, .reach = REACH_ALL },
	},
};

int main(int argc, char **argv)
{
	return matrix_main("userfault", ops, ARRAY_SIZE(ops), argc, argv);
}
