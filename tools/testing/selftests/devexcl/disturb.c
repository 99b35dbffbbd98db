// SPDX-License-Identifier: GPL-2.0
/*
 * Pages that a device and a CPU work on while something else works on them,
 * too: no operation is lost, and nobody gets more than he asked for
 *
 * The matrix has each of these operations once, and at rest. Here they meet
 * the device at any point of what it does, again and again.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "devexcl_test.h"

#ifndef MPOL_MF_MOVE
#define MPOL_MF_MOVE	2
#endif

#define PAGES		6
#define TARGET		1	/* the first page that is worked on */
#define TARGETS		4
#define TIMEOUT		240	/* a kernel full of checks is slow */

/* Of each page: the device's word, and the CPU's. */
#define DEVICE_WORD	8
#define CPU_WORD	16

FIXTURE(disturb) {
	struct dev dev;
	struct mem mem;
	struct mem twin;	/* for ksmd to merge with */
	int error;		/* of a disturbance that must work */
};

/**
 * struct worker - a thread that adds 1 to words of the targets in turn
 * @self: the fixture
 * @thread: itself
 * @add: what does it: 0, or a negative errno
 * @word: which word of a page
 * @by: what to add; 0 leaves the page as it was, but for having been written
 * @added: how often, for each target
 * @stop: time to end
 * @error: what ended it
 */
struct worker {
	FIXTURE_DATA(disturb) *self;
	pthread_t thread;
	int (*add)(struct worker *worker, uint64_t *word);
	size_t word;
	uint64_t by;
	uint64_t added[TARGETS];
	bool stop;
	int error;
};

static int device_adds(struct worker *worker, uint64_t *word)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)word,
		.operand = worker->by,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(*word),
	};
	long ret;

	do {
		ret = dev_atomic(&worker->self->dev, &op, 1,
				 DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP,
				 1000);
	} while (ret == -EBUSY || ret == -EINTR);
	return ret < 0 ? ret : 0;
}

static int cpu_adds(struct worker *worker, uint64_t *word)
{
	__atomic_fetch_add(word, worker->by, __ATOMIC_SEQ_CST);
	return 0;
}

static uint64_t *word_of_worker(const struct worker *worker, size_t n)
{
	return word_of(&worker->self->mem, TARGET + n) + worker->word;
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	size_t n = 0;

	while (!__atomic_load_n(&worker->stop, __ATOMIC_SEQ_CST)) {
		worker->error = worker->add(worker, word_of_worker(worker, n));
		if (worker->error)
			break;
		__atomic_fetch_add(&worker->added[n], 1, __ATOMIC_SEQ_CST);
		n = (n + 1) % TARGETS;
	}
	return NULL;
}

/* Has the worker been to each page so often? Or will it never? */
static bool has_worked(const struct worker *worker, uint64_t times)
{
	return __atomic_load_n(&worker->error, __ATOMIC_SEQ_CST) ||
	       __atomic_load_n(&worker->added[TARGETS - 1],
			       __ATOMIC_SEQ_CST) >= times;
}

/*
 * The disturbances: a round of each; NULL, or why it is impossible here. The
 * number of the round is for those that do not do the same each time.
 */
typedef const char *(*round_fn)(FIXTURE_DATA(disturb) *self, unsigned long n);

static char *first_target(FIXTURE_DATA(disturb) *self)
{
	return page_of(&self->mem, TARGET);
}

static const char *advise(FIXTURE_DATA(disturb) *self, int advice)
{
	return madvise(first_target(self), TARGETS * page_size(), advice) ?
	       "the advice is not offered" : NULL;
}

static const char *page_out(FIXTURE_DATA(disturb) *self, unsigned long n)
{
	return advise(self, MADV_PAGEOUT);
}

static const char *cool_down(FIXTURE_DATA(disturb) *self, unsigned long n)
{
	return advise(self, MADV_COLD);
}

/* Page after page to one node, and then to the other. */
static const char *move(FIXTURE_DATA(disturb) *self, unsigned long n)
{
	void *p = first_target(self) + n % TARGETS * page_size();
	int node = n / TARGETS % 2, status;

	return syscall(SYS_move_pages, 0, 1UL, &p, &node, &status,
		       MPOL_MF_MOVE) < 0 ? "there is no second node" : NULL;
}

static const char *write_once(const char *name, const char *text)
{
	return write_file(name, text) ? name : NULL;
}

static const char *clear_soft_dirty_bits(FIXTURE_DATA(disturb) *self,
					 unsigned long n)
{
	return write_once("/proc/self/clear_refs", "4");
}

static const char *clear_references(FIXTURE_DATA(disturb) *self,
				    unsigned long n)
{
	return write_once("/proc/self/clear_refs", "1");
}

static const char *compact(FIXTURE_DATA(disturb) *self, unsigned long n)
{
	return write_once("/proc/sys/vm/compact_memory", "1");
}

static const char *have_a_child(FIXTURE_DATA(disturb) *self, unsigned long n)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	if (pid < 0)
		self->error = errno;
	else
		waitpid(pid, NULL, 0);
	return NULL;
}

static const char *lock_and_unlock(FIXTURE_DATA(disturb) *self, unsigned long n)
{
	size_t size = TARGETS * page_size();

	return mlock(first_target(self), size) ||
	       munlock(first_target(self), size) ? "no memory to lock" : NULL;
}

/* A word of the file is for 64 pages. */
static const char *mark_idle(FIXTURE_DATA(disturb) *self, unsigned long n)
{
	int fd = open("/sys/kernel/mm/page_idle/bitmap", O_WRONLY | O_CLOEXEC);
	uint64_t pfn, all = ~0ULL;

	if (fd < 0)
		return "idle pages are not tracked";
	pfn = pagemap_of(first_target(self) + n % TARGETS * page_size()) &
	      PAGEMAP_PFN;
	/* A page on its way has no such number: nothing is written then. */
	if (pwrite(fd, &all, sizeof(all), pfn / 64 * 8) < 0)
		errno = 0;
	close(fd);
	return NULL;
}

/* ksmd, with another region of the same contents: see the fixture's setup. */
#define KSM_DIR	"/sys/kernel/mm/ksm/"

static long ksm_scans(void)
{
	char text[24] = "";
	int fd = open(KSM_DIR "full_scans", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	return atol(text);
}

static const char *merge(FIXTURE_DATA(disturb) *self, unsigned long n)
{
	long begin = ksm_scans();

	if (begin < 0)
		return "no KSM";
	if (!n && (mem_map(&self->twin, PAGES) ||
		   madvise(self->twin.p, self->twin.size, MADV_MERGEABLE) ||
		   madvise(self->mem.p, self->mem.size, MADV_MERGEABLE) ||
		   write_file(KSM_DIR "sleep_millisecs", "0") ||
		   write_file(KSM_DIR "pages_to_scan", "1000") ||
		   write_file(KSM_DIR "run", "1")))
		return "cannot start ksmd";
	while (ksm_scans() == begin)
		sched_yield();
	return NULL;
}

FIXTURE_VARIANT(disturb) {
	round_fn round;
	unsigned int rounds;
	bool same_contents;	/* what is added is 0 */
};

FIXTURE_VARIANT_ADD(disturb, pageout) {
	.round = page_out, .rounds = 60,
};

FIXTURE_VARIANT_ADD(disturb, cold) {
	.round = cool_down, .rounds = 120,
};

FIXTURE_VARIANT_ADD(disturb, migration) {
	.round = move, .rounds = 120,
};

FIXTURE_VARIANT_ADD(disturb, compaction) {
	.round = compact, .rounds = 8,
};

FIXTURE_VARIANT_ADD(disturb, soft_dirty) {
	.round = clear_soft_dirty_bits, .rounds = 120,
};

FIXTURE_VARIANT_ADD(disturb, references) {
	.round = clear_references, .rounds = 120,
};

FIXTURE_VARIANT_ADD(disturb, idle) {
	.round = mark_idle, .rounds = 120,
};

FIXTURE_VARIANT_ADD(disturb, mlock) {
	.round = lock_and_unlock, .rounds = 120,
};

FIXTURE_VARIANT_ADD(disturb, fork) {
	.round = have_a_child, .rounds = 40,
};

FIXTURE_VARIANT_ADD(disturb, ksm) {
	.round = merge, .rounds = 60, .same_contents = true,
};

FIXTURE_SETUP(disturb)
{
	setup_device(_metadata, &self->dev, 0);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
}

FIXTURE_TEARDOWN(disturb)
{
	write_file(KSM_DIR "run", "0");
	mem_unmap(&self->twin);
	mem_unmap(&self->mem);
	dev_close(&self->dev);
}

static void start(struct __test_metadata *_metadata, struct worker *worker)
{
	ASSERT_EQ(0, pthread_create(&worker->thread, NULL, work, worker));
}

/* What the worker has added is there; take it away again. */
static void settle(struct __test_metadata *_metadata, struct worker *worker)
{
	size_t n;

	ASSERT_EQ(0, pthread_join(worker->thread, NULL));
	EXPECT_EQ(0, worker->error);
	for (n = 0; n < TARGETS; n++)
		*word_of_worker(worker, n) -= worker->added[n] * worker->by;
}

TEST_F_TIMEOUT(disturb, sum, TIMEOUT)
{
	struct worker device = { .self = self, .add = device_adds,
				 .word = DEVICE_WORD,
				 .by = !variant->same_contents };
	struct worker cpu = { .self = self, .add = cpu_adds, .word = CPU_WORD,
			      .by = !variant->same_contents };
	const char *impossible = NULL;
	unsigned long n;

	start(_metadata, &device);
	start(_metadata, &cpu);
	for (n = 0; !impossible && (n < variant->rounds ||
				    !has_worked(&device, variant->rounds) ||
				    !has_worked(&cpu, variant->rounds)); n++)
		impossible = variant->round(self, n);
	__atomic_store_n(&device.stop, true, __ATOMIC_SEQ_CST);
	__atomic_store_n(&cpu.stop, true, __ATOMIC_SEQ_CST);
	settle(_metadata, &device);
	settle(_metadata, &cpu);
	write_file(KSM_DIR "run", "0");

	expect_data(&self->mem, 0, PAGES);
	EXPECT_EQ(0, self->error);
	if (impossible)
		SKIP(return, "%s", impossible);
	TH_LOG("%lu rounds, the device added %llu times", n,
	       (unsigned long long)device.added[0] * TARGETS);
	madvise(self->mem.p, self->mem.size, MADV_UNMERGEABLE);
	expect_references(&self->dev, &self->mem);
}

DEVEXCL_TEST_MAIN
