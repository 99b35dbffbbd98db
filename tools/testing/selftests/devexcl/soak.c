// SPDX-License-Identifier: GPL-2.0
/*
 * Everything at once, for as long as one likes
 *
 * CPUs, devices and engines add to words of some memory, while threads do to it
 * whatever mm has to offer, chosen at random; devices are opened and closed, and
 * processes that use them live and die. Nothing that was added may be lost, and
 * no memory either. It is not part of the suite: see "make soak".
 *
 *	DEVEXCL_SECONDS		how long (default 10)
 *	DEVEXCL_SEED		what all choices are made from (default: the time)
 *
 * With the same seed each thread does the same things in the same order. When
 * it gets to do them is for the machine to say.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "../kselftest.h"
#include "devexcl_util.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP	4
#endif
#ifndef MPOL_MF_MOVE
#define MPOL_MF_MOVE		2
#endif

#define PAGES		32	/* of each kind of memory */
#define WORDS		8	/* of each page that are added to */
#define WORKERS		8
#define JOB_OPS		64
#define GAP_NS		2000

/* Memory that may be missing in the end: caches, and quarantine of KASAN. */
#define MISSING_KB	(128 * 1024)

struct worker;

/**
 * struct kind - something that is done at random
 * @name: its name
 * @act: does it: 0 or a negative errno, which is counted
 * @done: how often it was done
 * @failed: how often that was refused
 */
struct kind {
	const char *name;
	int (*act)(struct worker *worker);
	unsigned long done;
	unsigned long failed;
};

/**
 * struct worker - a thread
 * @thread: itself
 * @tid: its number
 * @kinds: what it chooses from, up to one without a name
 * @dev: its device, if it has one
 * @random: state of its random numbers
 * @added: what it has added
 */
struct worker {
	pthread_t thread;
	pid_t tid;
	struct kind *kinds;
	struct dev *dev;
	uint64_t random;
	uint64_t added;
};

static struct dev devices[2];
static struct mem keep;		/* nothing may be lost of this */
static struct mem scratch;	/* this may be thrown away */
static bool stop;
static long least_kb;		/* that was ever available */
static struct worker workers[WORKERS];

static bool is_over(void)
{
	return __atomic_load_n(&stop, __ATOMIC_SEQ_CST);
}

static size_t choose(struct worker *worker, size_t nr)
{
	return random_next(&worker->random) % nr;
}

static uint64_t *some_word(struct worker *worker, const struct mem *mem)
{
	return word_of(mem, choose(worker, PAGES)) + choose(worker, WORDS);
}

static char *some_page(struct worker *worker, const struct mem *mem)
{
	return page_of(mem, choose(worker, PAGES));
}

/* Some pages in a row. */
static char *some_pages(struct worker *worker, const struct mem *mem,
			size_t *size)
{
	size_t first = choose(worker, PAGES);

	*size = (1 + choose(worker, PAGES - first)) * page_size();
	return page_of(mem, first);
}

/* What adds */

static int cpu_adds(struct worker *worker)
{
	__atomic_fetch_add(some_word(worker, &keep), 1, __ATOMIC_SEQ_CST);
	worker->added++;
	/* It is quick, and others want the CPU, too. */
	if (!choose(worker, 256))
		usleep(500);
	return 0;
}

static int device_adds_to(struct worker *worker, const struct mem *mem,
			  uint64_t *added)
{
	struct devexcl_atomic_op ops[4];
	unsigned int gap = choose(worker, 2) ? DEVEXCL_ATOMIC_GAP : 0;
	size_t i;
	long ret;

	for (i = 0; i < ARRAY_SIZE(ops); i++)
		ops[i] = (struct devexcl_atomic_op) {
			.addr = (uintptr_t)some_word(worker, mem),
			.operand = 1,
			.op = DEVEXCL_OP_ADD,
			.width = sizeof(uint64_t),
		};
	ret = dev_atomic(worker->dev, ops, ARRAY_SIZE(ops),
			 DEVEXCL_ATOMIC_ACQUIRE | gap, gap ? GAP_NS : 0);
	if (ret > 0)
		*added += ret;
	return ret < 0 ? ret : 0;
}

static int device_adds(struct worker *worker)
{
	return device_adds_to(worker, &keep, &worker->added);
}

static int device_adds_to_scratch(struct worker *worker)
{
	uint64_t nobody_counts = 0;

	return device_adds_to(worker, &scratch, &nobody_counts);
}

static int device_copies(struct worker *worker)
{
	uint64_t value;

	return dev_read_word(worker->dev, some_word(worker, &keep), &value);
}

static int device_acquires(struct worker *worker)
{
	size_t size;
	char *p = some_pages(worker, &scratch, &size);
	long ret = dev_acquire(worker->dev, p, size / page_size());

	return ret < 0 ? ret : 0;
}

static int device_lets_go(struct worker *worker)
{
	size_t size;
	char *p = some_pages(worker, choose(worker, 2) ? &keep : &scratch,
			     &size);
	long ret = dev_release(worker->dev, p, size / page_size());

	return ret < 0 ? ret : 0;
}

static int device_retries(struct worker *worker)
{
	return dev_inject(worker->dev, 0, choose(worker, 3));
}

/* A breakpoint that somebody or nobody comes to, and that is let go at once. */
static int device_stops(struct worker *worker)
{
	int fd = dev_break(worker->dev, choose(worker, DEVEXCL_POINT_NR),
			   some_page(worker, &keep));

	if (fd < 0)
		return fd;
	sched_yield();
	close(fd);
	return 0;
}

static int device_is_remirrored(struct worker *worker)
{
	return dev_unmirror(worker->dev, scratch.p, scratch.size) ?:
	       dev_mirror(worker->dev, scratch.p, scratch.size);
}

static int device_events(struct worker *worker)
{
	dev_forget_events(worker->dev);
	return 0;
}

/* A job of an engine, which may be cancelled: what it says it has done counts. */
static int engine_adds(struct worker *worker)
{
	struct devexcl_submit job = {
		.flags = DEVEXCL_SUBMIT_ACQUIRE |
			 (choose(worker, 2) ? DEVEXCL_SUBMIT_GAP : 0),
		.addr = (uintptr_t)some_page(worker, &keep),
		.length = page_size(),
		.count = 1 + choose(worker, JOB_OPS),
		.repeat = 1 + choose(worker, 3),
		.seed = random_next(&worker->random),
		.operand = 1,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(uint64_t),
		.pattern = DEVEXCL_PATTERN_RANDOM,
		.engine = DEVEXCL_ENGINE_ANY,
	};
	struct devexcl_wait result = {};
	long id = dev_submit(worker->dev, &job);
	int ret;

	if (id < 0)
		return id;
	if (!choose(worker, 8))
		dev_cancel(worker->dev, id);
	do {
		ret = dev_wait(worker->dev, id, DEVEXCL_WAIT_FOREVER, &result);
	} while (ret == -EINTR);
	worker->added += result.done;
	return ret ?: result.status;
}

/* What mm does, and loses nothing */

static int advise(struct worker *worker, const struct mem *mem, int advice)
{
	size_t size;
	char *p = some_pages(worker, mem, &size);

	return madvise(p, size, advice) ? -errno : 0;
}

static int pages_out(struct worker *worker)
{
	return advise(worker, choose(worker, 2) ? &keep : &scratch,
		      MADV_PAGEOUT);
}

static int cools_down(struct worker *worker)
{
	return advise(worker, &keep, MADV_COLD);
}

static int protects(struct worker *worker)
{
	size_t size;
	char *p = some_pages(worker, &keep, &size);

	return mprotect(p, size, PROT_READ | PROT_WRITE |
			(choose(worker, 2) ? PROT_EXEC : 0)) ? -errno : 0;
}

static int migrates(struct worker *worker)
{
	void *p = some_page(worker, &keep);
	int node = choose(worker, 2), status = 0;

	return syscall(SYS_move_pages, 0, 1UL, &p, &node, &status,
		       MPOL_MF_MOVE) < 0 ? -errno : 0;
}

static int locks(struct worker *worker)
{
	size_t size;
	char *p = some_pages(worker, &keep, &size);

	return mlock(p, size) || munlock(p, size) ? -errno : 0;
}

static int forgets_written(struct worker *worker)
{
	return write_file("/proc/self/clear_refs",
			  choose(worker, 2) ? "4" : "1");
}

static int compacts(struct worker *worker)
{
	(void)worker;
	return write_file("/proc/sys/vm/compact_memory", "1");
}

static int reads_by_kernel(struct worker *worker)
{
	uint64_t value;
	struct iovec from = { some_word(worker, &keep), sizeof(value) };
	struct iovec to = { &value, sizeof(value) };

	return syscall(SYS_process_vm_readv, getpid(), &to, 1UL, &from, 1UL,
		       0UL) < 0 ? -errno : 0;
}

/* What mm does, and throws away */

static int throws_away(struct worker *worker)
{
	return advise(worker, &scratch, MADV_DONTNEED);
}

static int frees(struct worker *worker)
{
	return advise(worker, &scratch, MADV_FREE);
}

static int makes_inaccessible(struct worker *worker)
{
	size_t size;
	char *p = some_pages(worker, &scratch, &size);

	return mprotect(p, size, choose(worker, 2) ? PROT_READ : PROT_NONE) ||
	       mprotect(p, size, PROT_READ | PROT_WRITE) ? -errno : 0;
}

static int maps_over(struct worker *worker)
{
	size_t size;
	char *p = some_pages(worker, &scratch, &size);
	void *new = mmap(p, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	return new == MAP_FAILED ? -errno : 0;
}

static int moves_mapping(struct worker *worker)
{
	char *from = some_page(worker, &scratch);
	char *to = some_page(worker, &scratch);

	if (from == to)
		return 0;
	/* A hole could become somebody else's memory. */
	return mremap(from, page_size(), page_size(), MREMAP_MAYMOVE |
		      MREMAP_FIXED | MREMAP_DONTUNMAP, to) == MAP_FAILED ?
	       -errno : 0;
}

/* Processes and contexts that come and go */

static int has_child(struct worker *worker)
{
	uint64_t *word = some_word(worker, &keep);
	pid_t pid = syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0);

	if (!pid) {
		WRITE_MEM(word, READ_MEM(word) + 1);
		_exit(0);
	}
	return pid < 0 ? -errno : wait_child(pid);
}

/* A context, with a page that it holds and perhaps a job, is closed. */
static int uses_device(struct worker *worker, const struct mem *mem)
{
	struct devexcl_submit job = {
		.flags = DEVEXCL_SUBMIT_ACQUIRE,
		.addr = (uintptr_t)mem->p,
		.length = page_size(),
		.count = 100000,
		.pattern = DEVEXCL_PATTERN_RANDOM,
		.seed = random_next(&worker->random),
		.width = sizeof(uint64_t),
		.engine = DEVEXCL_ENGINE_ANY,
	};
	struct dev dev;
	int ret = dev_open(&dev, choose(worker, 2));

	if (ret)
		return ret;
	ret = dev_mirror(&dev, mem->p, mem->size);
	if (!ret)
		dev_acquire(&dev, mem->p, PAGES);
	if (!ret && choose(worker, 2))
		dev_submit(&dev, &job);	/* adds 0 */
	dev_close(&dev);
	return ret;
}

static int opens_and_closes(struct worker *worker)
{
	return uses_device(worker, &scratch);
}

/* A process whose device holds its pages ends in one way or another. */
static int lives_and_dies(struct worker *worker)
{
	bool killed = choose(worker, 2);
	pid_t pid = syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0);
	struct dev dev;

	if (!pid) {
		if (!dev_open(&dev, choose(worker, 2)) &&
		    !dev_mirror(&dev, keep.p, keep.size))
			dev_acquire(&dev, keep.p, PAGES);
		if (killed)
			kill(getpid(), SIGKILL);
		_exit(0);
	}
	if (pid < 0)
		return -errno;
	return wait_child(pid) == (killed ? -SIGKILL : 0) ? 0 : -ECHILD;
}

static int interrupts(struct worker *worker)
{
	pid_t tid = workers[choose(worker, WORKERS)].tid;

	return tid && syscall(SYS_tgkill, getpid(), tid, SIGUSR1) ? -errno : 0;
}

static struct kind cpu_kinds[] = {
	{ "CPU adds", cpu_adds },
	{}
};

static struct kind device_kinds[] = {
	{ "device adds", device_adds },
	{ "device adds to what is thrown away", device_adds_to_scratch },
	{ "device copies", device_copies },
	{ "device acquires", device_acquires },
	{ "device lets go", device_lets_go },
	{ "device begins anew", device_retries },
	{ "device is stopped", device_stops },
	{ "device is mirrored anew", device_is_remirrored },
	{ "device tells events", device_events },
	{}
};

static struct kind engine_kinds[] = {
	{ "engine adds", engine_adds },
	{}
};

static struct kind mm_kinds[] = {
	{ "MADV_PAGEOUT", pages_out },
	{ "MADV_COLD", cools_down },
	{ "mprotect", protects },
	{ "migration", migrates },
	{ "mlock", locks },
	{ "clear_refs", forgets_written },
	{ "compaction", compacts },
	{ "process_vm_readv", reads_by_kernel },
	{ "MADV_DONTNEED", throws_away },
	{ "MADV_FREE", frees },
	{ "mprotect, no access", makes_inaccessible },
	{ "mmap over it", maps_over },
	{ "mremap", moves_mapping },
	{ "fork", has_child },
	{ "context opened and closed", opens_and_closes },
	{ "process lives and dies", lives_and_dies },
	{ "signal", interrupts },
	{}
};

static struct kind *const all_kinds[] = {
	cpu_kinds, device_kinds, engine_kinds, mm_kinds,
};

static size_t nr_kinds(const struct kind *kinds)
{
	size_t nr = 0;

	while (kinds[nr].name)
		nr++;
	return nr;
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	size_t nr = nr_kinds(worker->kinds);

	worker->tid = syscall(SYS_gettid);
	while (!is_over()) {
		struct kind *kind = &worker->kinds[choose(worker, nr)];

		if (kind->act(worker))
			__atomic_add_fetch(&kind->failed, 1, __ATOMIC_RELAXED);
		__atomic_add_fetch(&kind->done, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Memory */

static long number_in(const char *file, const char *key)
{
	size_t length = strlen(key);
	char line[256];
	long number = -1;
	FILE *f = fopen(file, "re");

	if (!f)
		return -1;
	while (number < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, length))
			number = strtol(line + length, NULL, 10);
	fclose(f);
	return number;
}

static long available_kb(void)
{
	return number_in("/proc/meminfo", "MemAvailable:");
}

static long slab_kb(void)
{
	return number_in("/proc/meminfo", "Slab:");
}

/* Pieces of device page tables. */
static long leaves(void)
{
	return number_in("/proc/slabinfo", "devexcl_leaf ");
}

/* Say in the kernel log how it goes: who waits for the end can look there. */
static void tell(long second, long seconds)
{
	char text[200];

	snprintf(text, sizeof(text),
		 "devexcl soak: second %ld of %ld, %ld kB available, %ld kB of slab, %ld leaves of device page tables\n",
		 second, seconds, available_kb(), slab_kb(), leaves());
	write_file("/dev/kmsg", text);
}

/* Setting up, and judging */

static void ignore_signal(int signal)
{
	(void)signal;
}

static void hire(size_t n, struct kind *kinds, struct dev *dev, uint64_t random)
{
	workers[n].kinds = kinds;
	workers[n].dev = dev;
	workers[n].random = random;
	if (pthread_create(&workers[n].thread, NULL, work, &workers[n]))
		ksft_exit_fail_msg("cannot create a thread\n");
}

static void set_up(void)
{
	struct sigaction action = { .sa_handler = ignore_signal };
	size_t i;

	sigaction(SIGUSR1, &action, NULL);
	if (mem_map(&keep, PAGES) || mem_map(&scratch, PAGES))
		ksft_exit_fail_msg("no memory\n");
	memset(keep.p, 0, keep.size);
	for (i = 0; i < 2; i++) {
		int ret = dev_open(&devices[i], i);

		if (ret == -ENOENT || ret == -EACCES)
			ksft_exit_skip("no /dev/devexcl%zu for us\n", i);
		if (ret || dev_mirror(&devices[i], keep.p, keep.size) ||
		    dev_mirror(&devices[i], scratch.p, scratch.size))
			ksft_exit_fail_msg("the device does not work\n");
	}
}

static void work_for(long seconds, uint64_t *random)
{
	time_t begin = time(NULL);
	size_t i;

	hire(0, cpu_kinds, NULL, random_next(random));
	hire(1, cpu_kinds, NULL, random_next(random));
	for (i = 0; i < 2; i++) {
		hire(2 + i, device_kinds, &devices[i], random_next(random));
		hire(4 + i, engine_kinds, &devices[i], random_next(random));
		hire(6 + i, mm_kinds, NULL, random_next(random));
	}
	least_kb = available_kb();
	while (time(NULL) - begin < seconds) {
		if (available_kb() < least_kb)
			least_kb = available_kb();
		if (!((time(NULL) - begin) % 60))
			tell(time(NULL) - begin, seconds);
		sleep(1);
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	for (i = 0; i < WORKERS; i++)
		pthread_join(workers[i].thread, NULL);
}

/* The sum of all words is what all have added. */
static bool judge_sum(void)
{
	uint64_t sum = 0, added = 0;
	size_t page, word, i;

	for (page = 0; page < PAGES; page++)
		for (word = 0; word < page_size() / sizeof(uint64_t); word++)
			sum += READ_MEM(word_of(&keep, page) + word);
	for (i = 0; i < WORKERS; i++)
		added += workers[i].added;
	ksft_print_msg("added %llu, found %llu\n", (unsigned long long)added,
		       (unsigned long long)sum);
	return sum == added;
}

static bool judge_memory(long before)
{
	long now;

	dev_close(&devices[0]);
	dev_close(&devices[1]);
	mem_unmap(&keep);
	mem_unmap(&scratch);
	write_file("/proc/sys/vm/drop_caches", "3");
	now = available_kb();
	ksft_print_msg("%ld kB available, %ld at first, %ld at least\n", now,
		       before, least_kb);
	return now > before - MISSING_KB;
}

static void print_kinds(void)
{
	const struct kind *kind;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(all_kinds); i++)
		for (kind = all_kinds[i]; kind->name; kind++)
			ksft_print_msg("%10lu %s, %lu of them refused\n",
				       kind->done, kind->name, kind->failed);
}

int main(int argc, char **argv)
{
	const char *given = getenv("DEVEXCL_SECONDS");
	long seconds = given ? atol(given) : 10;
	uint64_t random;
	long before;

	if (argc != 1) {
		fprintf(stderr, "Usage: %s, with DEVEXCL_SECONDS and DEVEXCL_SEED\n",
			argv[0]);
		return KSFT_FAIL;
	}
	ksft_print_header();
	ksft_set_plan(2);
	write_file("/proc/sys/vm/drop_caches", "3");
	before = available_kb();
	random = random_seed();
	set_up();
	work_for(seconds, &random);
	print_kinds();
	ksft_test_result(judge_sum(), "nothing was lost\n");
	ksft_test_result(judge_memory(before), "memory was given back\n");
	ksft_finished();
	return KSFT_FAIL;
}
