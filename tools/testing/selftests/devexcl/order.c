// SPDX-License-Identifier: GPL-2.0
/*
 * Every order of what the device does and what the rest of mm does
 *
 * One of the two is stopped at a point (DEVEXCL_BREAKPOINT), the other does its
 * work, or as much of it as it can, and then the first goes on. An operation of
 * mm is a row (struct operation), a point is a column (struct point), and each
 * cell is an order of the two. What must come of it follows from what is known
 * of the row and of the column: see outcome_of(). In each cell these claims are
 * made:
 *
 * - who comes second either ends while the first is stopped, or waits for it,
 *   whichever it has to; what is stopped or waits has unmapped nothing
 * - both come to an end, and return what they must
 * - the device began anew (retries) if somebody was there in between, and only
 *   then; it never has a page that is not the right one any more
 * - pages were taken from the device for the right cause, each once
 * - nothing that was written is lost, and who looked has seen what was there
 * - device and CPU agree on who has the page, and nobody else has lost one
 * - in the end references and mappings of all pages are as at first
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "../kselftest.h"
#include "devexcl_cells.h"

/* The page that both want. The device holds those next to it. */
#define PAGES		4
#define LARGE_PAGES	16	/* of a large folio */
#define TARGET		1
#define NEIGHBOURS	2

#define DEVICE_ADDS	1
#define OTHERS_ADD	0x100
#define THIRD_ADDS	0x10000

struct order;
typedef int (*work_fn)(struct order *order);

/* What is known of an operation */

/* The notifier is called for an ordinary page, too. */
#define CALLS		(1U << 0)
/* ... unless the machine lacks something. */
#define MAY_CALL	(1U << 1)
/* It passes over an exclusive page, and nobody is told. */
#define PASSES_OVER	(1U << 2)
/* It needs the mmap_lock for writing. */
#define WANTS_MMAP	(1U << 3)
/* It touches the page: it needs the folio lock before the notifier is called. */
#define WANTS_FOLIO	(1U << 4)
/* It reaches the neighbours as well. */
#define REACHES_ALL	(1U << 5)
/* It looks at the word. */
#define LOOKS		(1U << 6)
/* It is another device, or another context, and has the page in the end. */
#define OTHER_GETS	(1U << 7)
/* It is the device itself, by another thread: no notifier is called. */
#define OWN		(1U << 8)
/* ... which lets go of the page. */
#define OWN_RELEASE	(1U << 9)
/* ... which takes the mirror down. */
#define OWN_UNMIRROR	(1U << 10)
/* ... which closes the context, that there is no asking afterwards. */
#define OWN_CLOSE	(1U << 11)
/* Who waits for it can come in between, where the page is (not) accessible. */
#define IN_BETWEEN	(1U << 12)

/* What is there afterwards is new: zeros, or what was written since. */
#define FRESH		(1U << 13)
/* The process ends, or becomes another one. */
#define ENDS_OWNER	(1U << 15)
/* If the folio is large, it concerns all of that. */
#define WHOLE_FOLIO	(1U << 16)
/* The mapping is gone when the notifier is called, and nobody kept out. */
#define GONE_FIRST	(1U << 14)

/**
 * struct operation - a row
 * @name: its name
 * @work: does it: 0 or a negative errno
 * @then: what another thread does when that has begun; may be NULL
 * @undo: makes the page accessible again where it was; may be NULL
 * @traits: see above
 * @causes: for which it takes an exclusive page
 * @adds: to the word
 * @error: that the device gets when it comes afterwards, or 0
 * @other_context: @other is a context of the same device
 */
struct operation {
	const char *name;
	work_fn work;
	work_fn then;
	work_fn undo;
	unsigned int traits;
	uint32_t causes;
	uint64_t adds;
	int error;
	bool other_context;
};

/* The causes of a CPU fault, which depend on the kernel. */
#define BY_FAULT	(1U << 31)

/* Which it is of the points that a column can be of. */
enum where {
	FAULTED,
	SAMPLED,
	MADE,
	CHECK,
	INSTALL,
	STORE,
	RELEASE,
	COPY_FAULTED,
	COPY_SAMPLED,
	COPY_CHECK,
	COPY_INSTALL,
	REVOKING,
	REVOKED,
};

/* Who tries what while mm is stopped. */
enum trial {
	NO_TRIAL,	/* it is the device that is stopped */
	BY_DEVICE,
	BY_OTHER,
	BY_COPY,
	BY_RELEASE,
	BY_UNMIRROR,
};

/**
 * struct point - a column
 * @name: its name
 * @where: enum where
 * @point: at which somebody is stopped
 * @deed: what the device does
 * @held: the device has the page at first
 * @trial: if it is mm that is stopped, what @deed is
 * @large: the page is of a large folio, as are its neighbours
 * @engine: it is an engine that is stopped, which nobody kills
 */
struct point {
	const char *name;
	enum where where;
	enum devexcl_point point;
	work_fn deed;
	bool held;
	enum trial trial;
	bool large;
	bool engine;
};

/**
 * struct worker - a thread that does one thing
 * @order: for it
 * @work: what
 * @thread: itself
 * @begin: it waits for this
 * @ready: it is there
 * @end: it has done it
 * @progress: how far it is
 * @ret: what came of it
 */
struct worker {
	struct order *order;
	work_fn work;
	pthread_t thread;
	struct gate begin;
	struct gate ready;
	struct gate end;
	struct progress progress;
	int ret;
};

/**
 * struct order - a cell at work
 * @op: the row
 * @point: the column
 * @dev: the device that is stopped, or that mm is stopped in the notifier of
 * @other: another device, or another context
 * @mem: the memory
 * @away: where mremap() moves the page
 * @word: what all work on
 * @was: what was in it
 * @pfn: of the page, if the device has it at first
 * @added: what the device, or who else tried something, has added
 * @seen: what who looked has seen
 * @before: counters of @dev
 * @stop: the breakpoint
 * @device: thread that does the deed
 * @mm: thread that does the operation
 * @second: thread that does what comes then
 */
struct order {
	const struct operation *op;
	const struct point *point;
	struct dev dev;
	struct dev other;
	struct mem mem;
	struct mem away;
	uint64_t *word;
	uint64_t was;
	uint64_t pfn;
	uint64_t added;
	uint64_t seen;
	struct devexcl_stats before;
	int stop;
	struct worker device;
	struct worker mm;
	struct worker second;
};

static char *target(struct order *order)
{
	return page_of(&order->mem, TARGET);
}

/* Threads */

static void *run_worker(void *arg)
{
	struct worker *worker = arg;

	touch_stack();
	progress_open(&worker->progress);
	gate_open(&worker->ready);
	gate_wait(&worker->begin);
	progress_begin(&worker->progress);
	worker->ret = worker->work(worker->order);
	progress_end(&worker->progress);
	syscall(SYS_write, worker->end.pipe[1], "", 1);
	return NULL;
}

static const char *hire(struct order *order, struct worker *worker,
			work_fn work)
{
	worker->order = order;
	worker->work = work;
	if (!work)
		return NULL;
	TRY(must("pipe", gate_init(&worker->begin)));
	TRY(must("pipe", gate_init(&worker->ready)));
	TRY(must("pipe", gate_init(&worker->end)));
	errno = pthread_create(&worker->thread, NULL, run_worker, worker);
	TRY(must("thread", errno ? -1 : 0));
	return must("thread", gate_wait(&worker->ready));
}

static bool is_done(const struct worker *worker)
{
	return progress_is_done(&worker->progress);
}

static void start(struct worker *worker)
{
	syscall(SYS_write, worker->begin.pipe[1], "", 1);
}

/*
 * Let a thread work to its end, while the other is stopped. If he is not any
 * more, he has gone on because nobody let him.
 */
static const char *wait_until_done(struct order *order, struct worker *worker,
				   const char *who)
{
	struct pollfd poller[] = {
		{ .fd = worker->end.pipe[0], .events = POLLIN },
		{ .fd = order->stop },
	};

	while (!is_done(worker)) {
		syscall(SYS_ppoll, poller, 2, NULL, NULL, 0);
		if (poller[1].revents & POLLHUP)
			return fail("%s does not end while the other is stopped",
				    who);
	}
	return NULL;
}

/* What the device does */

/* Kernels that do not wait for a locked folio say so; but not for ever. */
#define MAX_BUSY	1000

static int add_with(struct dev *dev, struct order *order, uint64_t value,
		    unsigned int flags)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)order->word,
		.operand = value,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(*order->word),
	};
	bool busy_is_wrong = dev->info.caps & DEVEXCL_CAP_WAITS;
	long ret;
	int i;

	for (i = 0; i < MAX_BUSY; i++) {
		ret = dev_atomic(dev, &op, 1, flags | DEVEXCL_ATOMIC_GAP, 0);
		if (ret != -EBUSY || busy_is_wrong)
			break;
	}
	return ret < 0 ? ret : 0;
}

static int acquire_with(struct dev *dev, const void *p)
{
	bool busy_is_wrong = dev->info.caps & DEVEXCL_CAP_WAITS;
	long ret;
	int i;

	for (i = 0; i < MAX_BUSY; i++) {
		ret = dev_acquire(dev, p, 1);
		if (ret != -EBUSY || busy_is_wrong)
			break;
	}
	return ret < 0 ? ret : 0;
}

/* Get the page; and add to it, unless somebody was quicker. */
static int device_acquires(struct order *order)
{
	int ret = acquire_with(&order->dev, target(order));

	if (!ret && !add_with(&order->dev, order, DEVICE_ADDS, 0))
		order->added = DEVICE_ADDS;
	return ret;
}

static int device_adds_to_held(struct order *order)
{
	int ret = add_with(&order->dev, order, DEVICE_ADDS, 0);

	if (!ret)
		order->added = DEVICE_ADDS;
	return ret;
}

static int device_adds(struct order *order)
{
	int ret = add_with(&order->dev, order, DEVICE_ADDS,
			   DEVEXCL_ATOMIC_ACQUIRE);

	if (!ret)
		order->added = DEVICE_ADDS;
	return ret;
}

static int other_tries(struct order *order)
{
	int ret = add_with(&order->other, order, DEVICE_ADDS,
			   DEVEXCL_ATOMIC_ACQUIRE);

	if (!ret)
		order->added = DEVICE_ADDS;
	return ret;
}

/* The same by a job, for which the thread waits. */
static int engine_adds(struct order *order)
{
	struct devexcl_submit job = {
		.flags = DEVEXCL_SUBMIT_ACQUIRE | DEVEXCL_SUBMIT_GAP,
		.addr = (uintptr_t)order->word,
		.length = sizeof(*order->word),
		.count = 1,
		.repeat = 1,
		.operand = DEVICE_ADDS,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(*order->word),
		.engine = DEVEXCL_ENGINE_ANY,
	};
	struct devexcl_wait result;
	long id = dev_submit(&order->dev, &job);
	int ret;

	if (id < 0)
		return id;
	ret = dev_wait(&order->dev, id, DEVEXCL_WAIT_FOREVER, &result) ?:
	      result.status;
	if (!ret)
		order->added = DEVICE_ADDS;
	return ret;
}

/* What it writes looks as if it had added. */
static int device_copies(struct order *order)
{
	uint64_t value = order->was + DEVICE_ADDS;
	long ret = dev_copy(&order->dev, order->word, &value, sizeof(value),
			    DEVEXCL_COPY_WRITE);

	if (ret > 0)
		order->added = DEVICE_ADDS;
	return ret < 0 ? ret : 0;
}

static int device_lets_go(struct order *order)
{
	long ret = dev_release(&order->dev, target(order), 1);

	return ret < 0 ? ret : 0;
}

static int unmirrors(struct order *order)
{
	return dev_unmirror(&order->dev, order->mem.p, order->mem.size);
}

static int mirrors(struct order *order)
{
	return dev_mirror(&order->dev, order->mem.p, order->mem.size);
}

static int remirrors(struct order *order)
{
	return unmirrors(order) ?: mirrors(order);
}

static int closes(struct order *order)
{
	return close(order->dev.fd) ? -errno : 0;
}

/* What the rest of mm does */

static int cpu_reads(struct order *order)
{
	order->seen = READ_MEM(order->word);
	return 0;
}

/* The page may be taken away from who wants to read it. */
static int cpu_tries_to_read(struct order *order)
{
	int code = cpu_read(order->word, &order->seen);

	if (code)
		order->seen = 0;
	return code && code != SEGV_MAPERR ? -EIO : 0;
}

static int cpu_adds(struct order *order)
{
	__atomic_fetch_add(order->word, OTHERS_ADD, __ATOMIC_SEQ_CST);
	return 0;
}

/* The kernel reads it for us, by get_user_pages(). */
static int kernel_reads(struct order *order)
{
	struct iovec from = { order->word, sizeof(*order->word) };
	struct iovec to = { &order->seen, sizeof(order->seen) };
	ssize_t got = syscall(SYS_process_vm_readv, getpid(), &to, 1UL, &from,
			      1UL, 0UL);

	return got == sizeof(order->seen) ? 0 : -errno;
}

static int other_adds(struct order *order)
{
	return add_with(&order->other, order, OTHERS_ADD,
			DEVEXCL_ATOMIC_ACQUIRE);
}

static int other_reads(struct order *order)
{
	return dev_read_word(&order->other, order->word, &order->seen);
}

static int second_thread_adds(struct order *order)
{
	return add_with(&order->dev, order, OTHERS_ADD, DEVEXCL_ATOMIC_ACQUIRE);
}

/* What a child found, as its exit status. */
enum found {
	FOUND_OLD,
	FOUND_NEW,
	FOUND_WRONG,
};

/* The child has what the parent had, and what it writes is its own. */
static void be_child(struct order *order)
{
	uint64_t added = READ_MEM(order->word) - order->was;

	WRITE_MEM(order->word, 0x4711);
	if (READ_MEM(order->word) != 0x4711)
		_exit(FOUND_WRONG);
	_exit(!added ? FOUND_OLD : added == DEVICE_ADDS ? FOUND_NEW :
							 FOUND_WRONG);
}

static int forks(struct order *order)
{
	pid_t pid = syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0);
	int found;

	if (!pid)
		be_child(order);
	if (pid < 0)
		return -errno;
	found = wait_child(pid);
	if (found < 0 || found >= FOUND_WRONG)
		return -ECHILD;
	order->seen = order->was + found * DEVICE_ADDS;
	return 0;
}

/* A child that works in our memory. */
static int vforks(struct order *order)
{
	pid_t pid = vfork();

	if (!pid) {
		__atomic_fetch_add(order->word, OTHERS_ADD, __ATOMIC_SEQ_CST);
		_exit(0);
	}
	return pid < 0 ? -errno : wait_child(pid);
}

static int protect(struct order *order, int prot)
{
	return mprotect(target(order), page_size(), prot) ? -errno : 0;
}

static int makes_accessible(struct order *order)
{
	return protect(order, PROT_READ | PROT_WRITE);
}

static int makes_readonly(struct order *order)
{
	return protect(order, PROT_READ);
}

static int makes_inaccessible(struct order *order)
{
	return protect(order, PROT_NONE);
}

static int makes_readonly_and_back(struct order *order)
{
	return makes_readonly(order) ?: makes_accessible(order);
}

static int maps_over(struct order *order)
{
	void *p = mmap(target(order), page_size(), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	return p == MAP_FAILED ? -errno : 0;
}

static int unmaps(struct order *order)
{
	return munmap(target(order), page_size()) ? -errno : 0;
}

static int advise(struct order *order, int advice)
{
	return madvise(target(order), page_size(), advice) ? -errno : 0;
}

static int throws_away(struct order *order)
{
	return advise(order, MADV_DONTNEED);
}

static int frees(struct order *order)
{
	return advise(order, MADV_FREE);
}

static int guards(struct order *order)
{
	return advise(order, MADV_GUARD_INSTALL);
}

static int unguards(struct order *order)
{
	return advise(order, MADV_GUARD_REMOVE);
}

static int cools_down(struct order *order)
{
	return advise(order, MADV_COLD);
}

static int reclaims(struct order *order)
{
	return advise(order, MADV_PAGEOUT);
}

static int move_mapping(void *to, void *from, int flags)
{
	return mremap(from, page_size(), page_size(),
		      MREMAP_MAYMOVE | MREMAP_FIXED | flags, to) ==
	       MAP_FAILED ? -errno : 0;
}

static int moves_mapping(struct order *order)
{
	return move_mapping(order->away.p, target(order), 0);
}

static int moves_back(struct order *order)
{
	return move_mapping(target(order), order->away.p, 0);
}

static int migrates(struct order *order)
{
	void *p = target(order);
	int node, status;

	for (node = 1; node >= 0; node--)
		syscall(SYS_move_pages, 0, 1UL, &p, &node, &status, 2);
	return 0;
}

static int locks(struct order *order)
{
	return mlock(target(order), page_size()) ||
	       munlock(target(order), page_size()) ? -errno : 0;
}

static int forgets_written(struct order *order)
{
	(void)order;
	return write_file("/proc/self/clear_refs", "4");
}

static int exits(struct order *order)
{
	(void)order;
	return syscall(SYS_exit_group, 0);
}

static int is_killed(struct order *order)
{
	(void)order;
	return kill(getpid(), SIGKILL);
}

/* Asks main() to return. */
#define NOTHING_TO_DO	"--nothing"

static int executes(struct order *order)
{
	char *const argv[] = { "order", NOTHING_TO_DO, NULL };

	(void)order;
	return execv("/proc/self/exe", argv);
}

static const struct operation operations[] = {
	{
		.name = "cpu_read", .work = cpu_reads,
		.traits = WANTS_FOLIO | LOOKS, .causes = BY_FAULT,
	}, {
		.name = "cpu_write", .work = cpu_adds, .adds = OTHERS_ADD,
		.traits = WANTS_FOLIO, .causes = BY_FAULT,
	}, {
		.name = "two_cpus", .work = cpu_reads, .then = cpu_adds,
		.adds = OTHERS_ADD,
		.traits = WANTS_FOLIO, .causes = BY_FAULT,
	}, {
		.name = "vfork", .work = vforks, .adds = OTHERS_ADD,
		.traits = WANTS_FOLIO, .causes = BY_FAULT,
	}, {
		.name = "gup", .work = kernel_reads,
		.traits = WANTS_FOLIO | LOOKS, .causes = BY_FAULT,
	}, {
		.name = "mlock", .work = locks,
		.traits = WANTS_MMAP | WANTS_FOLIO, .causes = BY_FAULT,
	}, {
		.name = "other_device", .work = other_adds, .adds = OTHERS_ADD,
		.traits = CALLS | WANTS_FOLIO | OTHER_GETS,
		.causes = BY_FAULT | CAUSE(EXCLUSIVE),
	}, {
		.name = "other_context", .work = other_adds,
		.adds = OTHERS_ADD, .other_context = true,
		.traits = CALLS | WANTS_FOLIO | OTHER_GETS,
		.causes = BY_FAULT | CAUSE(EXCLUSIVE),
	}, {
		.name = "other_reads", .work = other_reads,
		.traits = WANTS_FOLIO | LOOKS, .causes = BY_FAULT,
	}, {
		.name = "fork", .work = forks,
		.traits = CALLS | WANTS_MMAP | REACHES_ALL | LOOKS,
		.causes = CAUSE(PROTECTION_PAGE),
	}, {
		.name = "mprotect", .work = makes_readonly_and_back,
		.traits = CALLS | WANTS_MMAP | IN_BETWEEN,
		.causes = CAUSE(PROTECTION_VMA),
	}, {
		.name = "mprotect_ro", .work = makes_readonly,
		.undo = makes_accessible,
		.traits = CALLS | WANTS_MMAP,
		.causes = CAUSE(PROTECTION_VMA), .error = -EFAULT,
	}, {
		.name = "mprotect_none", .work = makes_inaccessible,
		.undo = makes_accessible,
		.traits = CALLS | WANTS_MMAP,
		.causes = CAUSE(PROTECTION_VMA), .error = -EFAULT,
	}, {
		.name = "munmap", .work = unmaps, .undo = maps_over,
		.traits = CALLS | WANTS_MMAP | FRESH | GONE_FIRST,
		.causes = CAUSE(UNMAP), .error = -EFAULT,
	}, {
		.name = "map_fixed", .work = maps_over,
		.traits = CALLS | WANTS_MMAP | FRESH,
		.causes = CAUSE(UNMAP),
	}, {
		.name = "mremap", .work = moves_mapping, .undo = moves_back,
		.traits = CALLS | WANTS_MMAP,
		.causes = CAUSE(UNMAP), .error = -EFAULT,
	}, {
		.name = "dontneed", .work = throws_away,
		.traits = CALLS | FRESH, .causes = CAUSE(CLEAR),
	}, {
		.name = "guard", .work = guards, .undo = unguards,
		.traits = CALLS | FRESH | IN_BETWEEN, .causes = CAUSE(CLEAR),
		.error = -EFAULT,
	}, {
		.name = "free", .work = frees,
		.traits = CALLS | WHOLE_FOLIO, .causes = CAUSE(CLEAR),
	}, {
		.name = "soft_dirty", .work = forgets_written,
		.traits = CALLS | WANTS_MMAP | REACHES_ALL,
		.causes = CAUSE(SOFT_DIRTY),
	}, {
		.name = "cold", .work = cools_down,
		.traits = PASSES_OVER | WHOLE_FOLIO,
	}, {
		.name = "reclaim", .work = reclaims,
		.traits = MAY_CALL | PASSES_OVER | WHOLE_FOLIO,
	}, {
		.name = "migration", .work = migrates,
		.traits = MAY_CALL | PASSES_OVER | WHOLE_FOLIO,
	}, {
		.name = "read_and_dontneed", .work = cpu_reads,
		.then = throws_away,
		.traits = CALLS | WANTS_FOLIO | FRESH,
		.causes = BY_FAULT | CAUSE(CLEAR),
	}, {
		.name = "read_and_munmap", .work = cpu_tries_to_read,
		.then = unmaps, .undo = maps_over,
		.traits = CALLS | WANTS_MMAP | WANTS_FOLIO | FRESH,
		.causes = BY_FAULT | CAUSE(UNMAP), .error = -EFAULT,
	}, {
		.name = "read_and_mremap", .work = cpu_tries_to_read,
		.then = moves_mapping, .undo = moves_back,
		.traits = CALLS | WANTS_MMAP | WANTS_FOLIO,
		.causes = BY_FAULT | CAUSE(UNMAP), .error = -EFAULT,
	}, {
		.name = "second_thread", .work = second_thread_adds,
		.adds = OTHERS_ADD, .traits = OWN,
	}, {
		.name = "release", .work = device_lets_go,
		.traits = OWN | OWN_RELEASE,
	}, {
		.name = "unmirror", .work = unmirrors, .undo = mirrors,
		.traits = OWN | OWN_UNMIRROR | REACHES_ALL, .error = -ENXIO,
	}, {
		.name = "remirror", .work = remirrors,
		.traits = OWN | OWN_UNMIRROR | REACHES_ALL, .error = -ENXIO,
	}, {
		.name = "close", .work = closes,
		.traits = OWN | OWN_CLOSE | REACHES_ALL,
	}, {
		.name = "exit", .work = exits, .traits = ENDS_OWNER,
	}, {
		.name = "sigkill", .work = is_killed, .traits = ENDS_OWNER,
	}, {
		.name = "exec", .work = executes, .traits = ENDS_OWNER,
	},
};

static const struct point points[] = {
	{ "faulted", FAULTED, DEVEXCL_POINT_FAULTED, device_acquires },
	{ "sampled", SAMPLED, DEVEXCL_POINT_SAMPLED, device_acquires },
	{ "made", MADE, DEVEXCL_POINT_MADE, device_acquires },
	{ "check", CHECK, DEVEXCL_POINT_CHECK, device_acquires },
	{ "install", INSTALL, DEVEXCL_POINT_INSTALL, device_acquires },
	{ "store", STORE, DEVEXCL_POINT_STORE, device_adds_to_held, true },
	{ "release", RELEASE, DEVEXCL_POINT_RELEASE, device_lets_go, true },
	{ "copy_faulted", COPY_FAULTED, DEVEXCL_POINT_FAULTED, device_copies },
	{ "copy_sampled", COPY_SAMPLED, DEVEXCL_POINT_SAMPLED, device_copies },
	{ "copy_check", COPY_CHECK, DEVEXCL_POINT_CHECK, device_copies },
	{ "copy_install", COPY_INSTALL, DEVEXCL_POINT_INSTALL, device_copies },
	{ "revoking", REVOKING, DEVEXCL_POINT_INVALIDATE, device_adds_to_held,
	  true, BY_DEVICE },
	{ "revoking_other", REVOKING, DEVEXCL_POINT_INVALIDATE, other_tries,
	  true, BY_OTHER },
	{ "revoking_release", REVOKING, DEVEXCL_POINT_INVALIDATE,
	  device_lets_go, true, BY_RELEASE },
	{ "revoking_unmirror", REVOKING, DEVEXCL_POINT_INVALIDATE, unmirrors,
	  true, BY_UNMIRROR },
	{ "revoked", REVOKED, DEVEXCL_POINT_INVALIDATED, device_adds, true,
	  BY_DEVICE },
	{ "revoked_copy", REVOKED, DEVEXCL_POINT_INVALIDATED, device_copies,
	  true, BY_COPY },
	{ "revoked_other", REVOKED, DEVEXCL_POINT_INVALIDATED, other_tries,
	  true, BY_OTHER },
	{ "revoked_unmirror", REVOKED, DEVEXCL_POINT_INVALIDATED, unmirrors,
	  true, BY_UNMIRROR },
	{ "sampled_large", SAMPLED, DEVEXCL_POINT_SAMPLED, device_acquires,
	  .large = true },
	{ "check_large", CHECK, DEVEXCL_POINT_CHECK, device_acquires,
	  .large = true },
	{ "store_large", STORE, DEVEXCL_POINT_STORE, device_adds_to_held, true,
	  .large = true },
	{ "revoked_large", REVOKED, DEVEXCL_POINT_INVALIDATED, device_adds,
	  true, BY_DEVICE, .large = true },
	{ "sampled_engine", SAMPLED, DEVEXCL_POINT_SAMPLED, engine_adds,
	  .engine = true },
	{ "made_engine", MADE, DEVEXCL_POINT_MADE, engine_adds,
	  .engine = true },
	{ "check_engine", CHECK, DEVEXCL_POINT_CHECK, engine_adds,
	  .engine = true },
	{ "install_engine", INSTALL, DEVEXCL_POINT_INSTALL, engine_adds,
	  .engine = true },
	{ "store_engine", STORE, DEVEXCL_POINT_STORE, engine_adds, true,
	  .engine = true },
};

/* What must come of an order */

/**
 * struct outcome - what must come of it
 * @waits: the operation waits while the device is stopped; else it ends
 * @then_waits: so does what another thread does then
 * @either: perhaps, because what it does depends on the machine
 * @trial_waits: the deed waits while mm is stopped; else it ends
 * @error: what the deed returns
 * @may_fail: or 0, or -EFAULT, because it is not certain who comes first
 * @retries: times that the device begins anew, at least
 * @retries_most: and at most
 * @lost: times that the page is taken from the device, at least
 * @lost_most: and at most
 * @held: the device has the page in the end; else it has not
 * @who_knows: it depends
 * @sees_old: who looks finds what was there at first ...
 * @sees_new: ... or what the device has written; if neither, only zeros
 * @add_stays: what the device adds is there in the end, if what is there is
 *	new; else it is thrown away
 */
struct outcome {
	bool waits;
	bool then_waits;
	bool either;
	bool trial_waits;
	int error;
	bool may_fail;
	unsigned int retries;
	unsigned int retries_most;
	unsigned int lost;
	unsigned int lost_most;
	bool held;
	bool who_knows;
	bool sees_old;
	bool sees_new;
	bool add_stays;
};

#define ANY_NUMBER	1000000

static bool is_copy(const struct point *point)
{
	return point->deed == device_copies;
}

/*
 * The page is an ordinary one, and nothing is locked: the operation does its
 * work, and then the device finds what has come of it.
 */
static void outcome_present(const struct operation *op,
			    const struct point *point, struct outcome *outcome)
{
	bool sampled = point->where != FAULTED && point->where != COPY_FAULTED;

	outcome->sees_old = true;
	outcome->add_stays = true;
	outcome->error = op->error;
	outcome->held = !is_copy(point) && !outcome->error;
	/* What is done before the sequence is sampled need not move it. */
	if (op->traits & CALLS && sampled)
		outcome->retries = 1;
	outcome->retries_most = ANY_NUMBER;
	if (sampled && !(op->traits & (CALLS | MAY_CALL | OWN)))
		outcome->retries_most = 0;
	/* The page is exclusive then, and is taken back to be acquired. */
	if (op->work == second_thread_adds) {
		outcome->lost_most = 1;
		outcome->who_knows = is_copy(point);
	}
}

/* The folio is locked. What does not need that can work. */
static void outcome_locked(const struct operation *op,
			   const struct point *point, struct outcome *outcome)
{
	bool mmap_waits = op->traits & WANTS_MMAP && point->where == MADE;
	bool folio_waits = op->traits & WANTS_FOLIO ||
			   op->work == second_thread_adds;

	outcome->waits = mmap_waits || folio_waits;
	outcome->then_waits = mmap_waits || op->then == cpu_adds;
	outcome->sees_old = true;
	outcome->sees_new = outcome->waits;
	outcome->add_stays = true;
	if (folio_waits && (!op->then || op->then == cpu_adds)) {
		/* So it comes after the device, and takes the page. */
		outcome->lost = 1;
		outcome->lost_most = 1;
		outcome->held = op->work == second_thread_adds;
	} else if (mmap_waits) {
		outcome->error = op->error;
		outcome->may_fail = op->error || op->traits & IN_BETWEEN;
		outcome->lost_most = 1;
		outcome->retries_most = ANY_NUMBER;
		outcome->who_knows = true;
		outcome->add_stays = false;
	} else {
		outcome->error = op->error;
		outcome->held = !outcome->error;
		outcome->retries = !!(op->traits & CALLS);
		outcome->retries_most = op->traits & CALLS ? ANY_NUMBER : 0;
		/* Who was waiting takes it, or what is there now. */
		outcome->lost_most = !!op->then;
		outcome->who_knows = op->then;
		if (op->then)
			outcome->sees_old = false;
	}
}

/*
 * The device's page table is locked: who has to tell the device waits, and the
 * device gets, or has, the page.
 */
static void outcome_installed(const struct operation *op,
			      const struct point *point,
			      struct outcome *outcome)
{
	bool takes = !(op->traits & (PASSES_OVER | OWN));

	outcome->waits = (takes || op->traits & OWN) &&
			 !(op->traits & OWN_CLOSE);
	outcome->then_waits = true;
	outcome->lost = takes;
	outcome->lost_most = takes;
	outcome->held = !takes && !(op->traits & (OWN_RELEASE | OWN_UNMIRROR));
	outcome->sees_new = true;
	outcome->sees_old = point->where != STORE;
}

/* The same, of a page that is not exclusive. */
static void outcome_copy_installed(const struct operation *op,
				   struct outcome *outcome)
{
	outcome->waits = (op->traits & CALLS || op->traits & OWN) &&
			 !(op->traits & OWN_CLOSE);
	outcome->either = op->traits & MAY_CALL;
	outcome->error = op->error;
	outcome->may_fail = op->error || op->traits & IN_BETWEEN;
	outcome->retries_most = ANY_NUMBER;
	outcome->who_knows = op->traits & OWN;
	outcome->sees_old = true;
	outcome->sees_new = outcome->waits;
	outcome->add_stays = true;
}

static void outcome_release(const struct operation *op,
			    struct outcome *outcome)
{
	bool takes = !(op->traits & (PASSES_OVER | OWN));

	outcome->lost = takes;
	outcome->lost_most = takes;
	outcome->sees_old = true;
}

/* The notifier is called, and the device has the page still. */
static void outcome_revoking(const struct operation *op,
			     const struct point *point,
			     struct outcome *outcome)
{
	if (op->traits & PASSES_OVER) {
		outcome->held = true;
		return;
	}
	outcome->then_waits = op->then != throws_away;
	outcome->lost = point->trial == BY_DEVICE || point->trial == BY_OTHER;
	outcome->lost_most = outcome->lost;
	outcome->sees_new = point->trial == BY_DEVICE;
	outcome->sees_old = point->trial != BY_DEVICE;
	/* Who waits for the end of all calls; and who wants the page. */
	outcome->trial_waits = point->trial == BY_UNMIRROR ||
			       (point->trial == BY_OTHER &&
				!(op->traits & GONE_FIRST));
	if (point->trial == BY_OTHER) {
		outcome->error = op->error;
		outcome->may_fail = op->traits & IN_BETWEEN;
		outcome->sees_new = op->traits & WANTS_FOLIO;
		outcome->add_stays = true;
	}
	/* It is gone before the device wants to add. */
	if (op->then == throws_away) {
		outcome->error = -EACCES;
		outcome->sees_new = false;
	}
}

/* The notifier is called, and the device has let go. */
static void outcome_revoked(const struct operation *op,
			    const struct point *point,
			    struct outcome *outcome)
{
	bool gets = point->trial == BY_DEVICE;

	outcome->then_waits = op->then != throws_away;
	outcome->trial_waits = point->trial == BY_UNMIRROR ||
			       !(op->traits & GONE_FIRST);
	outcome->lost = 1;
	outcome->lost_most = 1;
	outcome->retries_most = ANY_NUMBER;
	outcome->sees_old = op->then != throws_away;
	outcome->add_stays = true;
	if (point->trial == BY_UNMIRROR)
		return;
	outcome->error = op->error;
	outcome->held = gets && !op->error;
	outcome->may_fail = op->traits & IN_BETWEEN || op->then;
	if (outcome->may_fail || op->traits & WANTS_FOLIO) {
		/* Who has waited may be quicker than who has stopped. */
		outcome->who_knows = gets;
		outcome->lost_most = gets ? ANY_NUMBER : 1;
		outcome->sees_new = true;
	}
}

static struct outcome outcome_of(const struct operation *op,
				 const struct point *point)
{
	struct outcome outcome = {};

	switch (point->where) {
	case FAULTED:
	case SAMPLED:
	case COPY_FAULTED:
	case COPY_SAMPLED:
	case COPY_CHECK:
		outcome_present(op, point, &outcome);
		break;
	case MADE:
	case CHECK:
		outcome_locked(op, point, &outcome);
		break;
	case INSTALL:
	case STORE:
		outcome_installed(op, point, &outcome);
		break;
	case COPY_INSTALL:
		outcome_copy_installed(op, &outcome);
		break;
	case RELEASE:
		outcome_release(op, &outcome);
		break;
	case REVOKING:
		outcome_revoking(op, point, &outcome);
		break;
	case REVOKED:
		outcome_revoked(op, point, &outcome);
		break;
	}
	/* What is taken from an engine before it has added it acquires anew. */
	if (point->engine && outcome.lost_most) {
		outcome.lost_most = ANY_NUMBER;
		outcome.retries_most = ANY_NUMBER;
		outcome.who_knows = true;
	}
	return outcome;
}

/* Cells that make no sense. */
static const char *why_not(const struct operation *op,
			   const struct point *point)
{
	if (op->traits & OWN && point->trial)
		return "it calls no notifier";
	if (point->large && op->traits & WHOLE_FOLIO)
		return "it is about the folio, and not the page";
	if (point->large && op->traits & (OWN | ENDS_OWNER))
		return "it does not care for folios";
	if (op->traits & PASSES_OVER && point->trial &&
	    (point->where != REVOKING || point->trial != BY_DEVICE))
		return "it passes over an exclusive page: one point will do";
	if (point->engine && op->traits & OWN)
		return "engines and ioctls of a device: see engine.c";
	if (point->engine && !(op->traits & ENDS_OWNER) &&
	    point->where != CHECK)
		return "an engine does as an ioctl does: one point will do";
	if (!op->then)
		return NULL;
	if (point->trial && point->trial != BY_DEVICE)
		return "two at once: it is enough that the device is the third";
	switch (point->where) {
	case MADE:
	case CHECK:
	case INSTALL:
	case STORE:
	case REVOKING:
	case REVOKED:
		return NULL;
	default:
		return "two at once: only where the first one waits";
	}
}

/* Claims */

/* Mappings of the page, by its number: whoever is stopped, this can be read. */
static long mappings_of(uint64_t pfn)
{
	uint64_t count;
	int fd = syscall(SYS_openat, AT_FDCWD, "/proc/kpagecount", O_RDONLY);
	ssize_t got = syscall(SYS_pread64, fd, &count, sizeof(count),
			      pfn * sizeof(count));

	syscall(SYS_close, fd);
	return got == sizeof(count) ? (long)count : -EIO;
}

/* Nobody has taken the page away before the device had let go of it. */
static const char *check_still_mapped(const struct order *order)
{
	long mappings = mappings_of(order->pfn);

	if (!(order->dev.info.caps & DEVEXCL_CAP_MAPCOUNT) || mappings == 1)
		return NULL;
	return fail("the page has %ld mappings before the device let go",
		    mappings);
}

static const char *check_ended(struct order *order,
			       const struct outcome *outcome)
{
	int mm = order->mm.ret, device = order->device.ret;

	if (mm)
		return fail("the operation failed: %s", strerror(-mm));
	if (order->second.ret)
		return fail("the second one failed: %s",
			    strerror(-order->second.ret));
	if (outcome->may_fail && (!device || device == -EFAULT))
		return NULL;
	if (device != outcome->error)
		return fail("the device got %d, expected %d", device,
			    outcome->error);
	return NULL;
}

static const char *check_counters(struct order *order,
				  const struct outcome *outcome)
{
	bool busy = !(order->dev.info.caps & DEVEXCL_CAP_WAITS);
	struct devexcl_stats now;
	uint64_t retries;

	TRY(must("stats", dev_stats(&order->dev, &now)));
	retries = now.retries - order->before.retries;
	if (retries < outcome->retries ||
	    (retries > outcome->retries_most && !busy))
		return fail("the device began anew %llu times, expected %u to %u",
			    (unsigned long long)retries, outcome->retries,
			    outcome->retries_most);
	return NULL;
}

static uint32_t causes_of(const struct order *order)
{
	uint32_t causes = order->op->causes;

	/* What is taken to be given to another device. */
	if (order->point->trial == BY_OTHER)
		causes |= BY_FAULT | CAUSE(EXCLUSIVE);
	if (order->op->traits & OWN || order->op->then)
		causes |= BY_FAULT | CAUSE(EXCLUSIVE);
	if (causes & BY_FAULT)
		causes |= cause_of_fault(&order->dev);
	return causes & ~BY_FAULT;
}

static const char *check_events(struct order *order,
				const struct outcome *outcome)
{
	unsigned int near = order->op->traits & REACHES_ALL ? NEIGHBOURS : 0;
	struct taken taken;

	if (order->op->traits & OWN || (order->point->where == REVOKING &&
					order->point->trial == BY_UNMIRROR))
		near = 0;
	TRY(must("events", dev_taken(&order->dev, &taken)));
	if (taken.lost)
		return fail("event records are missing");
	if (taken.exclusive < outcome->lost + near ||
	    taken.exclusive > (uint64_t)outcome->lost_most + near)
		return fail("%llu exclusive pages were taken (causes %#x), expected %u to %u",
			    (unsigned long long)taken.exclusive, taken.causes,
			    outcome->lost + near, outcome->lost_most + near);
	if (taken.causes & ~causes_of(order))
		return fail("pages were taken for causes %#x, expected %#x",
			    taken.causes, causes_of(order));
	return NULL;
}

static bool has_page(struct dev *dev, const void *p)
{
	struct devexcl_page info = {};

	/* ENXIO if nothing is mirrored any more. */
	return dev->fd && !dev_query(dev, p, 1, &info) &&
	       info.access & DEVEXCL_ACCESS_EXCLUSIVE;
}

/* Who has the page? Not both, and whoever has it knows. */
static const char *check_owner(struct order *order,
			       const struct outcome *outcome)
{
	bool held = has_page(&order->dev, target(order));
	bool others = has_page(&order->other, target(order));

	if (held && others)
		return fail("two devices have the page");
	if ((held || others) && entry_of(target(order)) != ENTRY_EXCLUSIVE)
		return fail("a device has the page, and its entry is %s",
			    entry_name(entry_of(target(order))));
	if (!outcome->who_knows && held != outcome->held)
		return fail("the device has%s the page", held ? "" : " not");
	return NULL;
}

static const char *check_neighbours(struct order *order)
{
	bool held = !(order->op->traits & REACHES_ALL) &&
		    order->point->trial != BY_UNMIRROR;

	if (order->op->traits & (OWN_CLOSE | OWN_UNMIRROR) ||
	    order->point->trial == BY_UNMIRROR)
		return NULL;
	return claim(check_held(&order->dev, &order->mem, TARGET - 1, 1, held) ?:
		     check_held(&order->dev, &order->mem, TARGET + 1, 1, held));
}

static const char *check_seen(struct order *order,
			      const struct outcome *outcome)
{
	bool looked = order->op->traits & LOOKS || order->op->work == cpu_reads ||
		      order->op->work == cpu_tries_to_read;
	uint64_t seen = order->seen, was = order->was;

	if (!looked || (outcome->sees_old && seen == was) ||
	    (outcome->sees_new && seen == was + DEVICE_ADDS))
		return NULL;
	/* Who reads what is thrown away may also find what is there then. */
	if (order->op->then &&
	    (!seen || seen == order->op->adds || seen == order->added ||
	     seen == was + order->op->adds ||
	     seen == was + order->op->adds + order->added))
		return NULL;
	return fail("who looked has seen %#llx, where %#llx was",
		    (unsigned long long)seen, (unsigned long long)was);
}

/* What the word may be now, of at most three values. */
static size_t possible_values(const struct order *order,
			      const struct outcome *outcome, uint64_t *values)
{
	uint64_t adds = order->op->adds, added = order->added;
	size_t nr = 0;

	if (order->op->traits & FRESH) {
		/* Where nothing is now we have put a page of our own. */
		bool gone = order->op->error;

		if (!gone && (outcome->add_stays || outcome->who_knows))
			values[nr++] = is_copy(order->point) && added ?
				       order->was + added : added;
		if (gone || !outcome->add_stays || outcome->waits ||
		    outcome->either)
			values[nr++] = 0;
	} else {
		values[nr++] = order->was + added + adds;
		/* A copy is no addition: what is added before is lost. */
		if (is_copy(order->point) && added)
			values[nr++] = order->was + added;
	}
	return nr;
}

static const char *check_word(struct order *order,
			      const struct outcome *outcome)
{
	uint64_t values[3], is = READ_MEM(order->word);
	size_t nr = possible_values(order, outcome, values);
	size_t i;

	for (i = 0; i < nr; i++)
		if (is == values[i])
			return NULL;
	return fail("the word is %#llx, expected %#llx (was %#llx)",
		    (unsigned long long)is, (unsigned long long)values[0],
		    (unsigned long long)order->was);
}

/*
 * Each reference is one of a mapping, and a page of its own has one. (If there
 * were more or less pages than are counted, the kernel would say so when the
 * cell ends.)
 */
static const char *check_counts(struct order *order, size_t page)
{
	bool counted = order->dev.info.caps & DEVEXCL_CAP_MAPCOUNT;
	struct devexcl_page info;

	TRY(must("query", dev_query(&order->dev, page_of(&order->mem, page), 1,
				    &info)));
	info.refcount -= swap_cache_references(&info);
	if (info.refcount == info.mapcount + !counted &&
	    (info.order || info.refcount == 1))
		return NULL;
	return fail("page %zu has %d references and %d mappings", page,
		    info.refcount, info.mapcount);
}

static const char *check_all_counts(struct order *order)
{
	size_t page;

	for (page = 0; page < PAGES; page++)
		TRY(must("acquire", acquire_with(&order->dev,
						 page_of(&order->mem, page))));
	drain_lru_batches();
	for (page = 0; page < PAGES; page++)
		TRY(check_counts(order, page));
	return NULL;
}

/* All is again as it was, and the rest has never been anything else. */
static const char *check_rest(struct order *order)
{
	if (order->op->traits & OWN_CLOSE)
		TRY(must("open", dev_open(&order->dev, 0)));
	if (order->op->traits & OWN_CLOSE ||
	    order->point->trial == BY_UNMIRROR)
		TRY(must("mirror", mirrors(order)));
	if (order->op->traits & FRESH)
		memset(target(order), 0, page_size());
	else
		WRITE_MEM(order->word, order->was);
	TRY(claim(check_data(&order->mem, 0, TARGET) ?:
		  check_data(&order->mem, TARGET + 1,
			     order->mem.pages - TARGET - 1)));
	if (!(order->op->traits & FRESH))
		TRY(claim(check_data(&order->mem, TARGET, 1)));
	return check_all_counts(order);
}

static const char *check_all(struct order *order,
			     const struct outcome *outcome)
{
	TRY(check_ended(order, outcome));
	if (!(order->op->traits & OWN_CLOSE)) {
		TRY(check_counters(order, outcome));
		TRY(check_events(order, outcome));
		TRY(check_owner(order, outcome));
		TRY(check_neighbours(order));
	}
	TRY(check_seen(order, outcome));
	if (order->op->undo)
		TRY(must("undo", order->op->undo(order)));
	TRY(check_word(order, outcome));
	return check_rest(order);
}

/* Running an order */

/*
 * fork() copies mappings in the order of their addresses, and what has been
 * copied cannot be written without the mmap_lock, not even a stack. So that
 * others can work while it has stopped at our memory, that has to come first.
 */
#define LOWEST		0x100000UL
#define LARGE_DIR	"/sys/kernel/mm/transparent_hugepage/hugepages-64kB/"

static const char *map_memory(struct order *order)
{
	struct mem *mem = &order->mem;

	mem->pages = order->point->large ? LARGE_PAGES : PAGES;
	mem->size = mem->pages * page_size();
	mem->p = mmap((void *)LOWEST, mem->size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (mem->p == MAP_FAILED)
		return must("mmap", -1);
	madvise(mem->p, mem->size,
		order->point->large ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	fill_mem(mem);
	return must("mmap", mem_map(&order->away, 1));
}

static bool needs_other(const struct order *order)
{
	return order->op->work == other_adds ||
	       order->op->work == other_reads ||
	       order->point->trial == BY_OTHER;
}

static const char *open_devices(struct order *order)
{
	TRY(must("open", dev_open(&order->dev, 0)));
	TRY(break_driver_of(&order->dev));
	TRY(must("mirror", mirrors(order)));
	if (!needs_other(order))
		return NULL;
	if (order->dev.info.ndevices < 2 && !order->op->other_context)
		return skip("there is one device only");
	TRY(must("open", dev_open(&order->other, !order->op->other_context)));
	TRY(break_driver_of(&order->other));
	return must("mirror", dev_mirror(&order->other, target(order),
					 page_size()));
}

static const char *acquire(struct order *order, size_t page)
{
	TRY(must("acquire",
		 acquire_with(&order->dev, page_of(&order->mem, page))));
	return claim(check_held(&order->dev, &order->mem, page, 1, true) ?:
		     check_entries(&order->mem, page, 1, ENTRY_EXCLUSIVE));
}

/* Is the folio large, and can any page of it be acquired? */
static const char *check_large(struct order *order)
{
	struct devexcl_page info;

	if (!(order->dev.info.caps & DEVEXCL_CAP_LARGE_FOLIO))
		return skip("this kernel takes the first page of a large folio only");
	TRY(acquire(order, TARGET - 1));
	TRY(must("query", dev_query(&order->dev, order->mem.p, 1, &info)));
	return info.order ? NULL : skip("no large folios of 64 kB");
}

static const char *set_up(struct order *order)
{
	TRY(map_memory(order));
	TRY(open_devices(order));
	TRY(must("populate", load_program()));
	if (order->point->large)
		TRY(check_large(order));
	order->word = word_of(&order->mem, TARGET);
	order->was = *order->word;
	order->pfn = pagemap_of(target(order)) & PAGEMAP_PFN;
	TRY(acquire(order, TARGET - 1));
	TRY(acquire(order, TARGET + 1));
	if (order->point->held)
		TRY(acquire(order, TARGET));
	dev_forget_events(&order->dev);
	TRY(must("stats", dev_stats(&order->dev, &order->before)));
	order->stop = dev_break(&order->dev, order->point->point,
				target(order));
	TRY(must("breakpoint", order->stop));
	TRY(hire(order, &order->device, order->point->deed));
	/* An end is not the work of a thread; but somebody has to be stopped. */
	TRY(hire(order, &order->mm, order->op->traits & ENDS_OWNER ?
				    cpu_reads : order->op->work));
	return hire(order, &order->second, order->op->then);
}

/* Let a thread come to the point at which it is to stop. */
static const char *wait_for_stop(struct order *order, struct worker *worker,
				 const char *who)
{
	struct pollfd poller[] = {
		{ .fd = order->stop, .events = POLLIN },
		{ .fd = worker->end.pipe[0], .events = POLLIN },
	};

	syscall(SYS_ppoll, poller, 2, NULL, NULL, 0);
	if (poller[0].revents & POLLIN)
		return NULL;
	return fail("%s has never come to the point, and returned %d", who,
		    worker->ret);
}

/* Somebody is to work while the other is stopped; does he wait or end? */
static const char *work_meanwhile(struct order *order, struct worker *worker,
				  bool waits, bool either, const char *who)
{
	start(worker);
	if (!waits && !either)
		return wait_until_done(order, worker, who);
	progress_wait(&worker->progress);
	if (is_done(worker) && !either)
		return fail("%s has not waited for the other, which is stopped",
			    who);
	return NULL;
}

/* The device is stopped, and mm works. */
static const char *stop_device(struct order *order,
			       const struct outcome *outcome)
{
	enum where where = order->point->where;

	start(&order->device);
	TRY(wait_for_stop(order, &order->device, "the device"));
	TRY(work_meanwhile(order, &order->mm, outcome->waits, outcome->either,
			   "the operation"));
	if (order->op->then)
		TRY(work_meanwhile(order, &order->second, outcome->then_waits,
				   false, "the second one"));
	if (outcome->waits && (where == INSTALL || where == STORE))
		TRY(check_still_mapped(order));
	return NULL;
}

/* mm is stopped in the notifier, and the device works. */
static const char *stop_mm(struct order *order, const struct outcome *outcome)
{
	start(&order->mm);
	if (order->op->traits & PASSES_OVER)
		TRY(wait_until_done(order, &order->mm, "the operation"));
	else
		TRY(wait_for_stop(order, &order->mm, "the operation"));
	TRY(check_still_mapped(order));
	if (order->op->then)
		TRY(work_meanwhile(order, &order->second, outcome->then_waits,
				   false, "the second one"));
	return work_meanwhile(order, &order->device, outcome->trial_waits,
			      false, "the device");
}

static const char *join(struct worker *worker)
{
	if (!worker->work)
		return NULL;
	errno = pthread_join(worker->thread, NULL);
	return must("join", errno ? -1 : 0);
}

/*
 * Orders in which the process ends: in another process, the owner, of whose
 * device we have a duplicate.
 */

static void be_owner(struct order *order, struct gate *ready, struct gate *go)
{
	const char *wrong = set_up(order);

	if (!wrong && order->point->trial) {
		start(&order->mm);
		wrong = wait_for_stop(order, &order->mm, "the operation");
		start(&order->device);
		progress_wait(&order->device.progress);
	} else if (!wrong) {
		start(&order->device);
		wrong = wait_for_stop(order, &order->device, "the device");
	}
	if (!wrong) {
		gate_open(ready);
		gate_wait(go);
		order->op->work(order);
		wrong = fail("the process is still there");
	}
	leave_verdict(wrong);
	syscall(SYS_exit_group, 1);
}

/* Longer than anything takes that has to end by itself. */
#define LATE_SECONDS	20

/* A duplicate of the owner's device, for when it has ended. */
static const char *take_device(struct order *order, pid_t owner, struct dev *dev)
{
	int pidfd = syscall(SYS_pidfd_open, owner, 0);

	TRY(must("pidfd_open", pidfd));
	*dev = order->dev;
	dev->fd = syscall(SYS_pidfd_getfd, pidfd, order->dev.fd, 0);
	close(pidfd);
	return must("pidfd_getfd", dev->fd);
}

/* What the device had and has not any more, as far as it has counted that */
static uint64_t pages_gone(const struct devexcl_stats *stats)
{
	uint64_t gone = stats->released;
	int i;

	for (i = 0; i < DEVEXCL_CAUSE_NR; i++)
		gone += stats->lost[i];
	return gone;
}

/*
 * An engine that has stopped keeps the address space a little longer; and it is
 * that engine then which takes it down, when nobody can use it any more. What is
 * lost is counted after it is gone.
 */
static const char *wait_address_space(struct order *order, struct dev *dev)
{
	struct devexcl_page info;
	struct devexcl_stats stats;
	time_t begin = time(NULL);
	int ret;

	do {
		ret = dev_query(dev, target(order), 1, &info);
		TRY(must("stats", dev_stats(dev, &stats)));
		if (ret == -ESRCH && !stats.held && !stats.mapped &&
		    stats.acquired == pages_gone(&stats))
			return NULL;
		sched_yield();
	} while (time(NULL) - begin < LATE_SECONDS);
	if (ret == -ESRCH)
		return NULL;
	return fail("who asks a device whose owner is gone gets %d", ret);
}

/* The device has no page any more, gets none, and knows where they went. */
static const char *check_nothing_left(struct order *order, struct dev *dev)
{
	struct devexcl_stats stats;
	uint64_t gone;

	TRY(wait_address_space(order, dev));
	TRY(must("stats", dev_stats(dev, &stats)));
	gone = pages_gone(&stats);
	if (stats.held || stats.mapped || stats.acquired != gone)
		return fail("the device has %llu pages left; acquired %llu, lost %llu",
			    (unsigned long long)(stats.held + stats.mapped),
			    (unsigned long long)stats.acquired,
			    (unsigned long long)gone);
	return NULL;
}

static const char *run_end(struct order *order)
{
	bool killed = order->op->work == is_killed;
	struct gate ready, go;
	struct dev dev;
	int status;
	pid_t pid;

	TRY(must("pipe", gate_init(&ready)));
	TRY(must("pipe", gate_init(&go)));
	pid = fork();
	if (!pid)
		be_owner(order, &ready, &go);
	TRY(must("fork", pid));
	close(ready.pipe[1]);
	if (!gate_wait(&ready)) {
		TRY(take_device(order, pid, &dev));
		gate_open(&go);
	}
	status = wait_child(pid);
	TRY(take_verdict());
	if (status != (killed ? -SIGKILL : 0))
		return fail("the process has ended with %d", status);
	TRY(check_nothing_left(order, &dev));
	dev_close(&dev);
	return NULL;
}

static const char *run_order(struct order *order)
{
	struct outcome outcome = outcome_of(order->op, order->point);
	const char *wrong;

	TRY(set_up(order));
	wrong = order->point->trial ? stop_mm(order, &outcome) :
				      stop_device(order, &outcome);
	syscall(SYS_close, order->stop);
	if (order->mm.work == guards && is_done(&order->mm) &&
	    order->mm.ret == -EINVAL)
		return skip("this kernel has no guard regions");
	TRY(wrong);
	TRY(join(&order->device));
	TRY(join(&order->mm));
	TRY(join(&order->second));
	return check_all(order, &outcome);
}

/* Cells */

static const struct operation *operation_of(size_t cell)
{
	return &operations[cell / ARRAY_SIZE(points)];
}

static const struct point *point_of(size_t cell)
{
	return &points[cell % ARRAY_SIZE(points)];
}

static const char *cell_name(size_t cell)
{
	static char name[100];

	snprintf(name, sizeof(name), "order.%s.%s", operation_of(cell)->name,
		 point_of(cell)->name);
	return name;
}

static const char *cell_excluded(size_t cell)
{
	return why_not(operation_of(cell), point_of(cell));
}

static const char *cell_run(size_t cell)
{
	/* The owner of a device, if it is another process, tells what it has. */
	struct order *order = mmap(NULL, sizeof(*order), PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (order == MAP_FAILED)
		return must("mmap", -1);
	order->op = operation_of(cell);
	order->point = point_of(cell);
	return order->op->traits & ENDS_OWNER ? run_end(order) :
						run_order(order);
}

/* Large folios, for who asks for them; and whether there were before. */
static bool large_was_off;

static void allow_large(void)
{
	char text[64] = "";
	int fd = open(LARGE_DIR "enabled", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (read(fd, text, sizeof(text) - 1) > 0)
		large_was_off = strstr(text, "[never]");
	close(fd);
	if (large_was_off)
		write_file(LARGE_DIR "enabled", "madvise");
}

static void forbid_large(void)
{
	if (large_was_off)
		write_file(LARGE_DIR "enabled", "never");
}

static void begin_cells(void)
{
	/* Who waits for the others leaves the CPU to them, instead of spinning. */
	stay_on_one_cpu();
	allow_large();
}

int main(int argc, char **argv)
{
	static const struct cells cells = {
		.subject = "order",
		.own_table = true,
		.nr = ARRAY_SIZE(operations) * ARRAY_SIZE(points),
		.name = cell_name,
		.excluded = cell_excluded,
		.run = cell_run,
		.begin = begin_cells,
		.end = forbid_large,
	};

	if (argc == 2 && !strcmp(argv[1], NOTHING_TO_DO))
		return 0;
	return cells_main(&cells, argc, argv);
}
