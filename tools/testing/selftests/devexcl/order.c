// SPDX-License-Identifier: GPL-2.0
/*
 * Every order of what the device does and what the rest of mm does
 *
 * One of the two is stopped at a point (DEVEXCL_BREAKPOINT), the other does its
 * work, or as much of it as it can, and then the first goes on. Whatever the
 * order: both come to an end, what each wrote is there, and device and CPU
 * agree on who has the page.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "devexcl_test.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

#define PAGES		4
#define TARGET		1	/* the page that both want; the others are held */
#define SECONDS		60	/* until something should have happened */

#define DEVICE_ADDS	1
#define OTHERS_ADD	0x100

FIXTURE(order) {
	struct dev dev;
	struct dev other;
	struct mem mem;
	struct mem away;	/* where mremap() moves the page */
	uint64_t *word;
	uint64_t was;
};

typedef int (*work_fn)(FIXTURE_DATA(order) *self);

/**
 * struct worker - a thread that does one thing
 * @self: the fixture
 * @work: what
 * @thread: itself
 * @begin: it waits for this
 * @stat: its file in /proc
 * @working: it has begun
 * @done: it has done it
 * @ret: what came of it
 */
struct worker {
	FIXTURE_DATA(order) *self;
	work_fn work;
	pthread_t thread;
	struct gate begin;
	int stat;
	bool working;
	bool done;
	int ret;
};

static void *run_worker(void *arg)
{
	struct worker *worker = arg;

	__atomic_store_n(&worker->stat,
			 open("/proc/thread-self/stat", O_RDONLY | O_CLOEXEC),
			 __ATOMIC_SEQ_CST);
	gate_wait(&worker->begin);
	__atomic_store_n(&worker->working, true, __ATOMIC_SEQ_CST);
	worker->ret = worker->work(worker->self);
	__atomic_store_n(&worker->done, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/*
 * While somebody has stopped who has the mmap_lock no thread can be made, and
 * in the middle of a fork() not even a variable be written or a page of the
 * program be read for the first time. So threads are made before that, the
 * program is in memory, and system calls are made without the C library, which
 * notes something for each.
 */
extern const char __executable_start[], etext[];

static void load_program(void)
{
	const char *p;

	for (p = __executable_start; p < etext; p += page_size())
		READ_MEM(p);
}

static void hire(struct __test_metadata *_metadata, struct worker *worker)
{
	worker->stat = -1;
	ASSERT_EQ(0, gate_init(&worker->begin));
	ASSERT_EQ(0, pthread_create(&worker->thread, NULL, run_worker, worker));
	while (__atomic_load_n(&worker->stat, __ATOMIC_SEQ_CST) < 0)
		sched_yield();
}

/* Is the thread at work, and waiting for something? */
static bool is_asleep(const struct worker *worker)
{
	char line[64];	/* as far as the state, behind a name in brackets */
	ssize_t size, i;

	if (!__atomic_load_n(&worker->working, __ATOMIC_SEQ_CST))
		return false;
	size = syscall(SYS_pread64, worker->stat, line, sizeof(line), 0);
	for (i = 0; i + 2 < size; i++)
		if (line[i] == ')')
			return line[i + 2] == 'S' || line[i + 2] == 'D';
	return false;
}

/*
 * Let a thread come as far as it can: to its end, or to where it waits. It may
 * wait for something else for a moment; what is claimed later holds as well
 * then.
 */
static void let_work(struct worker *worker)
{
	syscall(SYS_write, worker->begin.pipe[1], "", 1);
	while (!__atomic_load_n(&worker->done, __ATOMIC_SEQ_CST) &&
	       !is_asleep(worker))
		syscall(SYS_sched_yield);
}

/* What the device does */

static int device_adds(FIXTURE_DATA(order) *self)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)self->word,
		.operand = DEVICE_ADDS,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(*self->word),
	};
	long ret;

	do {
		ret = dev_atomic(&self->dev, &op, 1,
				 DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP,
				 0);
	} while (ret == -EBUSY);	/* kernels that do not wait */
	return ret < 0 ? ret : 0;
}

static int device_lets_go(FIXTURE_DATA(order) *self)
{
	long ret = dev_release(&self->dev, page_of(&self->mem, TARGET), 1);

	return ret < 0 ? ret : 0;
}

/* What the rest of mm does */

static int cpu_reads(FIXTURE_DATA(order) *self)
{
	READ_MEM(self->word);
	return 0;
}

static int cpu_adds(FIXTURE_DATA(order) *self)
{
	__atomic_fetch_add(self->word, OTHERS_ADD, __ATOMIC_SEQ_CST);
	return 0;
}

static int other_device_adds(FIXTURE_DATA(order) *self)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)self->word,
		.operand = OTHERS_ADD,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(*self->word),
	};
	long ret;

	do {
		ret = dev_atomic(&self->other, &op, 1,
				 DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP,
				 0);
	} while (ret == -EBUSY);
	return ret < 0 ? ret : 0;
}

/* The child has what the parent had, with what the device did or without. */
static int forks(FIXTURE_DATA(order) *self)
{
	pid_t pid = fork();

	if (!pid) {
		uint64_t added = READ_MEM(self->word) - self->was;

		_exit(added > DEVICE_ADDS);
	}
	return pid < 0 ? -errno : wait_child(pid);
}

static int protects(FIXTURE_DATA(order) *self)
{
	char *p = page_of(&self->mem, TARGET);

	return mprotect(p, page_size(), PROT_READ) ||
	       mprotect(p, page_size(), PROT_READ | PROT_WRITE) ? -errno : 0;
}

static int unmaps(FIXTURE_DATA(order) *self)
{
	return munmap(page_of(&self->mem, TARGET), page_size()) ? -errno : 0;
}

static int throws_away(FIXTURE_DATA(order) *self)
{
	return madvise(page_of(&self->mem, TARGET), page_size(),
		       MADV_DONTNEED) ? -errno : 0;
}

static int moves_mapping(FIXTURE_DATA(order) *self)
{
	return mremap(page_of(&self->mem, TARGET), page_size(), page_size(),
		      MREMAP_MAYMOVE | MREMAP_FIXED, self->away.p) ==
	       MAP_FAILED ? -errno : 0;
}

static int migrates(FIXTURE_DATA(order) *self)
{
	void *p = page_of(&self->mem, TARGET);
	int node, status;

	for (node = 1; node >= 0; node--)
		syscall(SYS_move_pages, 0, 1UL, &p, &node, &status, 2);
	return 0;
}

static int reclaims(FIXTURE_DATA(order) *self)
{
	return madvise(page_of(&self->mem, TARGET), page_size(),
		       MADV_PAGEOUT) ? -errno : 0;
}

static int unmirrors(FIXTURE_DATA(order) *self)
{
	return dev_unmirror(&self->dev, self->mem.p, self->mem.size);
}

/* What becomes of the page's contents */
enum fate {
	KEPT,
	THROWN_AWAY,	/* zeros, or what was written since */
	UNMAPPED,
	MOVED,
};

FIXTURE_VARIANT(order) {
	work_fn work;
	enum fate fate;
	uint64_t adds;
	int error;	/* that the device may get instead of having added */
	bool all_pages;	/* it is about all pages, not only the target */
};

FIXTURE_VARIANT_ADD(order, cpu_read) { .work = cpu_reads };

FIXTURE_VARIANT_ADD(order, cpu_write) { .work = cpu_adds, .adds = OTHERS_ADD };

FIXTURE_VARIANT_ADD(order, other_device) {
	.work = other_device_adds, .adds = OTHERS_ADD,
};

FIXTURE_VARIANT_ADD(order, fork) { .work = forks, .all_pages = true };

/* The page may be read-only at the moment at which the device wants it. */
FIXTURE_VARIANT_ADD(order, mprotect) { .work = protects, .error = -EFAULT };

FIXTURE_VARIANT_ADD(order, munmap) {
	.work = unmaps, .fate = UNMAPPED, .error = -EFAULT,
};

FIXTURE_VARIANT_ADD(order, dontneed) {
	.work = throws_away, .fate = THROWN_AWAY,
};

FIXTURE_VARIANT_ADD(order, mremap) {
	.work = moves_mapping, .fate = MOVED, .error = -EFAULT,
};

FIXTURE_VARIANT_ADD(order, migration) { .work = migrates };

FIXTURE_VARIANT_ADD(order, reclaim) { .work = reclaims };

FIXTURE_VARIANT_ADD(order, unmirror) {
	.work = unmirrors, .error = -ENXIO, .all_pages = true,
};

FIXTURE_SETUP(order)
{
	setup_device(_metadata, &self->dev, 0);
	setup_device(_metadata, &self->other, 1);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
	setup_memory(_metadata, &self->away, 1);
	ASSERT_EQ(0, dev_mirror(&self->other, page_of(&self->mem, TARGET),
				page_size()));
	load_program();
	self->word = word_of(&self->mem, TARGET);
	self->was = *self->word;
}

FIXTURE_TEARDOWN(order)
{
	dev_close(&self->other);
	dev_close(&self->dev);
	mem_unmap(&self->mem);
}

/* Who has the page? Not both, and whoever has it knows. */
static const char *check_owner(FIXTURE_DATA(order) *self)
{
	char *p = page_of(&self->mem, TARGET);
	struct devexcl_page info = { 0 }, other = { 0 };
	bool held, others;

	dev_query(&self->dev, p, 1, &info);	/* ENXIO after UNMIRROR */
	dev_query(&self->other, p, 1, &other);
	held = info.access & DEVEXCL_ACCESS_EXCLUSIVE;
	others = other.access & DEVEXCL_ACCESS_EXCLUSIVE;
	if (held && others)
		return "two devices have the page";
	if ((held || others) && entry_of(p) != ENTRY_EXCLUSIVE)
		return "a device and the CPU have the page";
	return NULL;
}

/* Nothing of what was written is lost, nor is there anything else. */
static const char *check_word(FIXTURE_DATA(order) *self, enum fate fate,
			      uint64_t added, uint64_t adds)
{
	static char why[128];
	uint64_t value;

	if (fate == UNMAPPED)
		return NULL;
	value = fate == MOVED ? *(uint64_t *)self->away.p : READ_MEM(self->word);
	if (value == self->was + added + adds ||
	    (fate == THROWN_AWAY && (value == added || !value)))
		return NULL;
	snprintf(why, sizeof(why), "the word is %#llx, was %#llx, added %#llx",
		 (unsigned long long)value, (unsigned long long)self->was,
		 (unsigned long long)(added + adds));
	return why;
}

/* Both have come to an end. */
#define expect_order(self, variant, device, other, adds_of_device)	\
do {									\
	ASSERT_EQ(0, pthread_join((device)->thread, NULL));		\
	ASSERT_EQ(0, pthread_join((other)->thread, NULL));		\
	EXPECT_EQ(0, (other)->ret);					\
	if ((device)->ret)						\
		EXPECT_EQ((variant)->error, (device)->ret);		\
	expect_claim(check_owner(self));				\
	expect_claim(check_word(self, (variant)->fate,			\
				(device)->ret ? 0 : (adds_of_device),	\
				(variant)->adds));			\
	if (!(variant)->all_pages)					\
		expect_held(&(self)->dev, &(self)->mem, 0, TARGET);	\
} while (0)

/* The device is stopped at @point of what it does, and the rest of mm works. */
static void stop_device(struct __test_metadata *_metadata,
			FIXTURE_DATA(order) *self,
			const FIXTURE_VARIANT(order) *variant,
			work_fn device_does, enum devexcl_point point)
{
	struct worker device = { .self = self, .work = device_does };
	struct worker other = { .self = self, .work = variant->work };
	int stop;

	acquire_pages(&self->dev, &self->mem, 0, TARGET);
	stop = dev_break(&self->dev, point, page_of(&self->mem, TARGET));
	ASSERT_LE(0, stop);
	hire(_metadata, &device);
	hire(_metadata, &other);
	gate_open(&device.begin);
	ASSERT_EQ(0, wait_for_break(stop, SECONDS));
	let_work(&other);
	syscall(SYS_close, stop);
	expect_order(self, variant, &device, &other,
		     device_does == device_adds ? DEVICE_ADDS : 0);
}

TEST_F(order, device_has_sampled)
{
	stop_device(_metadata, self, variant, device_adds,
		    DEVEXCL_POINT_SAMPLED);
}

TEST_F(order, device_has_made_it_exclusive)
{
	stop_device(_metadata, self, variant, device_adds, DEVEXCL_POINT_MADE);
}

TEST_F(order, device_is_going_to_check)
{
	stop_device(_metadata, self, variant, device_adds, DEVEXCL_POINT_CHECK);
}

TEST_F(order, device_is_going_to_install)
{
	stop_device(_metadata, self, variant, device_adds,
		    DEVEXCL_POINT_INSTALL);
}

TEST_F(order, device_is_between_load_and_store)
{
	stop_device(_metadata, self, variant, device_adds, DEVEXCL_POINT_STORE);
}

TEST_F(order, device_is_going_to_release)
{
	acquire_pages(&self->dev, &self->mem, TARGET, 1);
	stop_device(_metadata, self, variant, device_lets_go,
		    DEVEXCL_POINT_RELEASE);
}

/* The device has the page, mm wants it and is stopped in the notifier. */
static void stop_notifier(struct __test_metadata *_metadata,
			  FIXTURE_DATA(order) *self,
			  const FIXTURE_VARIANT(order) *variant,
			  enum devexcl_point point)
{
	struct worker device = { .self = self, .work = device_adds };
	struct worker other = { .self = self, .work = variant->work };
	int stop;

	acquire_pages(&self->dev, &self->mem, 0, TARGET + 1);
	stop = dev_break(&self->dev, point, page_of(&self->mem, TARGET));
	ASSERT_LE(0, stop);
	hire(_metadata, &device);
	hire(_metadata, &other);
	/* Not everybody wants a page that is exclusive. */
	let_work(&other);
	let_work(&device);
	syscall(SYS_close, stop);
	expect_order(self, variant, &device, &other, DEVICE_ADDS);
}

TEST_F(order, notifier_is_going_to_revoke)
{
	stop_notifier(_metadata, self, variant, DEVEXCL_POINT_INVALIDATE);
}

TEST_F(order, notifier_has_revoked)
{
	stop_notifier(_metadata, self, variant, DEVEXCL_POINT_INVALIDATED);
}

DEVEXCL_TEST_MAIN
