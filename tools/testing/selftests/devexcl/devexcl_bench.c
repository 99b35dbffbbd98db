// SPDX-License-Identifier: GPL-2.0
/*
 * How long things take
 *
 * Measures the device, beside it the in-tree peer test_hmm, and the floor: what
 * the kernel's own part takes, which no device can do quicker. All in one boot,
 * in rounds, each of which measures everything once, so that whatever else the
 * machine does hits all alike.
 *
 * Nothing is judged here. What is printed is for machines, a JSON object a line:
 *
 *	{"machine": {...}}
 *	{"figure": F, "series": S, "x": N, "unit": U, "round": R, "value": V}
 *	{"figure": F, "series": S, "x": N, "skip": "why"}
 *
 * tools/testing/devexcl/devexcl_bench.py makes tables and plots of that.
 */
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#include "devexcl_util.h"

#if __has_include("../../../../lib/test_hmm_uapi.h")
#include "../../../../lib/test_hmm_uapi.h"
#else
struct hmm_dmirror_cmd {
	__u64 addr;
	__u64 ptr;
	__u64 npages;
	__u64 cpages;
	__u64 faults;
};

#define HMM_DMIRROR_EXCLUSIVE	_IOWR('H', 0x05, struct hmm_dmirror_cmd)
#endif

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

#define PEER_MODULE	"/modules/test_hmm.ko"
#define PEER_NODE	"/dev/hmm_dmirror0"
/* The peer copies the pages through a buffer as large as the call. */
#define PEER_PAGES	4096UL

/* Fewer pages than that are measured several times, to have a time at all. */
#define LEAST_PAGES	512UL

static unsigned int rounds = 5;
static const char *only_series;	/* to profile one of them */
static unsigned long most_pages = 262144;
static int round_nr;		/* -1: to warm up, not printed */
static int nr_cpus;
static int nr_devices;
static struct dev device[16];

/* ---- what is printed ------------------------------------------------ */

static void say(const char *figure, const char *series, unsigned long x,
		const char *unit, double value)
{
	if (round_nr < 0)
		return;
	printf("{\"figure\": \"%s\", \"series\": \"%s\", \"x\": %lu, ",
	       figure, series, x);
	printf("\"unit\": \"%s\", \"round\": %d, \"value\": %.3f}\n", unit,
	       round_nr, value);
	fflush(stdout);
}

static void say_skip(const char *figure, const char *series, unsigned long x,
		     const char *why)
{
	if (round_nr)
		return;
	printf("{\"figure\": \"%s\", \"series\": \"%s\", \"x\": %lu, \"skip\": \"%s\"}\n",
	       figure, series, x, why);
	fflush(stdout);
}

static void die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "devexcl_bench: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	exit(1);
}

/* ---- helpers --------------------------------------------------------- */

static double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

/* Stay on one CPU. The last one: the first has the interrupts. */
static void pin_to_cpu(int n)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(nr_cpus - 1 - n % nr_cpus, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* Threads inherit it. */
static void unpin(void)
{
	cpu_set_t set;
	int i;

	CPU_ZERO(&set);
	for (i = 0; i < nr_cpus; i++)
		CPU_SET(i, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* Have all pages present and writable: the first touch, or revocation. */
static double touch(const struct mem *mem)
{
	double start = now_ns();
	size_t i;

	for (i = 0; i < mem->pages; i++)
		WRITE_MEM(word_of(mem, i), i);
	return now_ns() - start;
}

/* Memory of base pages or of large folios, all there. */
static void map(struct mem *mem, size_t pages, bool huge)
{
	size_t align = thp_size() ?: page_size();
	size_t size = pages * page_size();
	char *p, *end;

	if (huge)
		size = (size + align - 1) & ~(align - 1);
	p = mmap(NULL, size + align, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		die("no memory for %zu pages: %s", pages, strerror(errno));
	end = p + size + align;
	mem->p = (char *)(((uintptr_t)p + align - 1) & ~(align - 1));
	mem->pages = pages;
	mem->size = pages * page_size();
	if (mem->p > p)
		munmap(p, mem->p - p);
	if (end > mem->p + size)
		munmap(mem->p + size, end - mem->p - size);
	madvise(mem->p, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	touch(mem);
	/*
	 * The second time that a page is found to be in use it moves between
	 * LRU lists, which takes its time. Have that behind us.
	 */
	madvise(mem->p, size, MADV_POPULATE_WRITE);
	madvise(mem->p, size, MADV_POPULATE_WRITE);
}

static void unmap(struct mem *mem)
{
	munmap(mem->p, mem->size);
}

static void mirror(struct dev *dev, const struct mem *mem)
{
	int ret = dev_mirror_flags(dev, mem->p, mem->size,
				   DEVEXCL_MIRROR_QUIET);

	if (ret)
		die("MIRROR failed: %s", strerror(-ret));
}

static void unmirror(struct dev *dev, const struct mem *mem)
{
	dev_unmirror(dev, mem->p, mem->size);
	dev_forget_events(dev);
}

/* ---- acquire --------------------------------------------------------- */

/* Each of these makes pages exclusive; 0 or -errno. */
typedef int (*acquire_fn)(char *p, size_t pages);

static int acquire_ours(char *p, size_t pages)
{
	return dev_acquire_all(&device[0], p, pages);
}

static int acquire_floor(char *p, size_t pages)
{
	struct devexcl_floor arg;
	unsigned int busy = 0;
	size_t done = 0;
	int ret;

	while (done < pages) {
		memset(&arg, 0, sizeof(arg));
		arg.size = sizeof(arg);
		arg.addr = (uintptr_t)p + done * page_size();
		arg.length = (pages - done) * page_size();
		ret = dev_ioctl(device[0].fd, DEVEXCL_FLOOR, &arg);
		/* Some kernels do not wait for a locked folio. */
		if (ret && (ret != -EBUSY || ++busy > 1000))
			return ret;
		done += arg.done;
	}
	return 0;
}

static int peer = -1;
static char *peer_buffer;

static int acquire_peer(char *p, size_t pages)
{
	struct hmm_dmirror_cmd cmd;
	size_t done, nr;

	for (done = 0; done < pages; done += nr) {
		nr = pages - done < PEER_PAGES ? pages - done : PEER_PAGES;
		memset(&cmd, 0, sizeof(cmd));
		cmd.addr = (uintptr_t)p + done * page_size();
		cmd.ptr = (uintptr_t)peer_buffer;
		cmd.npages = nr;
		if (ioctl(peer, HMM_DMIRROR_EXCLUSIVE, &cmd))
			return -errno;
	}
	return 0;
}

/* Nanoseconds a page, in calls of so many pages each; or -errno. */
static double time_acquire(acquire_fn acquire, const struct mem *mem,
			   size_t pages)
{
	double start = now_ns();
	size_t done;
	int ret;

	for (done = 0; done + pages <= mem->pages; done += pages) {
		ret = acquire(page_of(mem, done), pages);
		if (ret)
			return ret;
	}
	return (now_ns() - start) / done;
}

/*
 * The peer's notifier is for all addresses, for as long as it is open: it must
 * not be called when others are measured.
 */
static double acquire_by_peer(const struct mem *mem, size_t pages)
{
	double ns;

	peer = open(PEER_NODE, O_RDWR | O_CLOEXEC);
	if (peer < 0)
		return -errno;
	ns = time_acquire(acquire_peer, mem, pages);
	close(peer);
	return ns;
}

static double acquire_by_us(acquire_fn acquire, const struct mem *mem,
			    size_t pages)
{
	double ns;

	mirror(&device[0], mem);
	ns = time_acquire(acquire, mem, pages);
	unmirror(&device[0], mem);
	return ns;
}

static const char *const acquirers[] = { "ours", "floor", "test_hmm" };

static double acquire_by(int who, const struct mem *mem, size_t pages)
{
	switch (who) {
	case 0:
		return acquire_by_us(acquire_ours, mem, pages);
	case 1:
		return acquire_by_us(acquire_floor, mem, pages);
	default:
		return acquire_by_peer(mem, pages);
	}
}

static void acquire(const char *figure, size_t pages, bool huge)
{
	size_t region = pages < LEAST_PAGES ? LEAST_PAGES : pages;
	struct mem mem;
	double ns;
	int i, who;

	if (pages > most_pages)
		return;
	if (!huge)
		map(&mem, region, false);
	for (i = 0; i < 3; i++) {
		/* Each of them is the first one at times. */
		who = (i + round_nr + 1) % 3;
		if (who == 2 && pages > 65536)
			continue;
		if (only_series && strcmp(only_series, acquirers[who]))
			continue;
		/* Large folios are mapped as such but once. */
		if (huge)
			map(&mem, region, true);
		ns = acquire_by(who, &mem, pages);
		if (ns < 0)
			say_skip(figure, acquirers[who], pages,
				 strerror(-(int)ns));
		else
			say(figure, acquirers[who], pages, "ns/page", ns);
		if (huge)
			unmap(&mem);
		else
			touch(&mem);
	}
	if (!huge)
		unmap(&mem);
}

static void figure_acquire_base(void)
{
	static const size_t sizes[] = {
		1, 16, 512, 4096, 32768, 65536, 262144
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		acquire("acquire-base", sizes[i], false);
}

static void figure_acquire_thp(void)
{
	static const size_t sizes[] = { 1, 16, 512, 4096, 65536 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		acquire("acquire-thp", sizes[i], true);
}

/* ---- revoke, and other things that need the page -------------------- */

static const size_t medium[] = { 512, 4096, 32768 };

static void acquire_all(struct dev *dev, const struct mem *mem)
{
	int ret = dev_acquire_all(dev, mem->p, mem->pages);

	if (ret)
		die("cannot acquire: %s", strerror(-ret));
}

/* Time what is done to pages that the device holds, or that it does not. */
static void time_both(const char *figure, size_t pages, bool exclusive,
		      double (*what)(struct mem *mem))
{
	struct mem mem;

	map(&mem, pages, false);
	mirror(&device[0], &mem);
	if (exclusive)
		acquire_all(&device[0], &mem);
	say(figure, exclusive ? "exclusive" : "ordinary", pages, "ns/page",
	    what(&mem) / pages);
	unmirror(&device[0], &mem);
	unmap(&mem);
}

static void compare(const char *figure, double (*what)(struct mem *mem))
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(medium); i++) {
		if (medium[i] > most_pages)
			break;
		time_both(figure, medium[i], round_nr % 2, what);
		time_both(figure, medium[i], !(round_nr % 2), what);
	}
}

/* A minor fault that finds the page in the page cache, and only maps it. */
static void fault_in_shared(size_t pages)
{
	struct mem mem = { .pages = pages, .size = pages * page_size() };
	int fd = memfd_create("devexcl-bench", MFD_CLOEXEC);
	size_t i;

	if (fd < 0 || ftruncate(fd, mem.size))
		die("cannot make a file: %s", strerror(errno));
	for (i = 0; i < 2; i++) {
		mem.p = mmap(NULL, mem.size, PROT_READ | PROT_WRITE, MAP_SHARED,
			     fd, 0);
		if (mem.p == MAP_FAILED)
			die("cannot map a file: %s", strerror(errno));
		if (!i)
			touch(&mem);
		else
			say("revoke", "fault-map", pages, "ns/page",
			    touch(&mem) / pages);
		munmap(mem.p, mem.size);
	}
	close(fd);
}

static void figure_revoke(void)
{
	struct mem mem;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(medium); i++) {
		if (medium[i] > most_pages)
			break;
		map(&mem, medium[i], false);
		mirror(&device[0], &mem);
		acquire_all(&device[0], &mem);
		say("revoke", "exclusive", medium[i], "ns/page",
		    touch(&mem) / mem.pages);
		unmirror(&device[0], &mem);
		/* A minor fault that gets a new page, and clears it. */
		madvise(mem.p, mem.size, MADV_DONTNEED);
		say("revoke", "fault-new", medium[i], "ns/page",
		    touch(&mem) / mem.pages);
		unmap(&mem);
		fault_in_shared(medium[i]);
	}
}

static double time_munmap(struct mem *mem)
{
	double start = now_ns();

	unmap(mem);
	return now_ns() - start;
}

static double time_fork(struct mem *mem)
{
	double start = now_ns();
	pid_t pid = fork();
	double ns = now_ns() - start;

	if (!pid)
		_exit(0);
	if (pid < 0)
		die("cannot fork: %s", strerror(errno));
	waitpid(pid, NULL, 0);
	return ns;
}

static void figure_munmap(void)
{
	compare("munmap", time_munmap);
}

static void figure_fork(void)
{
	compare("fork", time_fork);
}

/* ---- operations ------------------------------------------------------ */

#define OP_PAGES	16
#define OPS		8192

static void fill_ops(struct devexcl_atomic_op *ops, size_t nr,
		     const struct mem *mem)
{
	size_t i;

	for (i = 0; i < nr; i++) {
		ops[i] = (struct devexcl_atomic_op) {
			.addr = (uintptr_t)mem->p + i * sizeof(uint64_t) %
				mem->size,
			.operand = 1,
			.op = DEVEXCL_OP_ADD,
			.width = 8,
		};
	}
}

/* Operations a second, in calls of so many each. */
static double op_rate(struct dev *dev, struct devexcl_atomic_op *ops,
		      size_t nr, size_t call)
{
	double start = now_ns();
	size_t done;
	long ret;

	for (done = 0; done < nr; done += call) {
		ret = dev_atomic(dev, ops + done, call, 0, 0);
		if (ret != (long)call)
			die("operations failed: %ld", ret);
	}
	return nr / (now_ns() - start) * 1e9;
}

static void submit(struct dev *dev, const struct mem *mem, size_t engine,
		   uint64_t count, long *job)
{
	struct devexcl_submit arg = {
		.addr = (uintptr_t)mem->p,
		.length = mem->size,
		.count = count,
		.repeat = 1,
		.stride = sizeof(uint64_t),
		.operand = 1,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(uint64_t),
		.pattern = DEVEXCL_PATTERN_STRIDE,
		.engine = engine,
	};

	*job = dev_submit(dev, &arg);
	if (*job < 0)
		die("SUBMIT failed: %s", strerror(-*job));
}

/* Operations a second of some engines, each on pages of its own. */
static double engine_rate(struct dev *dev, size_t engines, uint64_t count)
{
	struct devexcl_wait result;
	struct mem mem[8];
	double start, ns;
	long job[8];
	size_t i;
	int ret;

	for (i = 0; i < engines; i++) {
		map(&mem[i], OP_PAGES, false);
		mirror(dev, &mem[i]);
		acquire_all(dev, &mem[i]);
	}
	start = now_ns();
	for (i = 0; i < engines; i++)
		submit(dev, &mem[i], i, count, &job[i]);
	for (i = 0; i < engines; i++) {
		ret = dev_wait(dev, job[i], 100ULL * 1000000000, &result);
		if (ret || result.done != count)
			die("a job failed: %d", ret ?: result.status);
	}
	ns = now_ns() - start;
	for (i = 0; i < engines; i++) {
		unmirror(dev, &mem[i]);
		unmap(&mem[i]);
	}
	return engines * count / ns * 1e9;
}

static void figure_atomics(void)
{
	static struct devexcl_atomic_op ops[OPS];
	struct mem mem;

	map(&mem, OP_PAGES, false);
	mirror(&device[0], &mem);
	acquire_all(&device[0], &mem);
	fill_ops(ops, OPS, &mem);
	say("atomics", "ioctl", 1, "ops/s", op_rate(&device[0], ops, OPS / 4, 1));
	say("atomics", "ioctl", 64, "ops/s", op_rate(&device[0], ops, OPS, 64));
	say("atomics", "ioctl", OPS, "ops/s",
	    op_rate(&device[0], ops, OPS, OPS));
	unmirror(&device[0], &mem);
	unmap(&mem);
	if (device[0].info.nengines)
		say("atomics", "engine", OPS, "ops/s",
		    engine_rate(&device[0], 1, OPS * 4));
	else
		say_skip("atomics", "engine", OPS, "there are no engines");
}

#define HAND_OVERS	256

/* One word goes to and fro: hand-overs a second. */
static double hand_over(struct dev *one, struct dev *other, uint64_t *word)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)word,
		.operand = 1,
		.op = DEVEXCL_OP_ADD,
		.width = 8,
	};
	double start = now_ns();
	int i;

	for (i = 0; i < HAND_OVERS; i++) {
		if (dev_atomic(one, &op, 1, DEVEXCL_ATOMIC_ACQUIRE, 0) != 1)
			die("a hand-over failed");
		if (!other)
			WRITE_MEM(word, READ_MEM(word) + 1);
		else if (dev_atomic(other, &op, 1, DEVEXCL_ATOMIC_ACQUIRE,
				    0) != 1)
			die("a hand-over failed");
	}
	return 2 * HAND_OVERS / (now_ns() - start) * 1e9;
}

static void figure_handover(void)
{
	struct mem mem;

	map(&mem, 1, false);
	mirror(&device[0], &mem);
	say("handover", "cpu-device", 1, "hand-overs/s",
	    hand_over(&device[0], NULL, word_of(&mem, 0)));
	if (nr_devices > 1) {
		mirror(&device[1], &mem);
		say("handover", "device-device", 1, "hand-overs/s",
		    hand_over(&device[0], &device[1], word_of(&mem, 0)));
		unmirror(&device[1], &mem);
	} else {
		say_skip("handover", "device-device", 1,
			 "there is one device only");
	}
	unmirror(&device[0], &mem);
	unmap(&mem);
}

/* ---- scaling --------------------------------------------------------- */

/* A thread that does by itself what an engine does, on memory of its own. */
struct worker {
	pthread_t thread;
	pthread_barrier_t *start;
	struct mem mem;
	uint64_t count;
};

static void *work(void *p)
{
	struct worker *worker = p;
	size_t words = worker->mem.size / sizeof(uint64_t);
	uint64_t *word = (uint64_t *)worker->mem.p;
	uint64_t i;

	pthread_barrier_wait(worker->start);
	for (i = 0; i < worker->count; i++)
		__atomic_fetch_add(&word[i % words], 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Operations a second of some threads: whether there are CPUs for them. */
static double thread_rate(size_t threads, uint64_t count)
{
	struct worker workers[4];
	pthread_barrier_t start;
	double begin, ns;
	size_t i;

	pthread_barrier_init(&start, NULL, threads + 1);
	for (i = 0; i < threads; i++) {
		workers[i].start = &start;
		workers[i].count = count;
		map(&workers[i].mem, OP_PAGES, false);
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			die("cannot make a thread");
	}
	begin = now_ns();
	pthread_barrier_wait(&start);
	for (i = 0; i < threads; i++)
		pthread_join(workers[i].thread, NULL);
	ns = now_ns() - begin;
	for (i = 0; i < threads; i++)
		unmap(&workers[i].mem);
	pthread_barrier_destroy(&start);
	return threads * count / ns * 1e9;
}

/*
 * Long enough for the scheduler to have found out, at the begin of it, that one
 * CPU has two threads and another one has none: a few ticks.
 */
#define ENGINE_OPS	(OPS * 128)
#define THREAD_OPS	(ENGINE_OPS * 8ULL)

static void figure_engines(void)
{
	size_t n;

	unpin();
	for (n = 1; n <= 4; n *= 2) {
		if (n > device[0].info.nengines)
			say_skip("engines", "ops", n, "there are fewer engines");
		else
			say("engines", "ops", n, "ops/s",
			    engine_rate(&device[0], n, ENGINE_OPS));
		say("engines", "threads", n, "ops/s",
		    thread_rate(n, THREAD_OPS));
	}
	pin_to_cpu(0);
}

/* A thread that drives a device of its own, on memory of its own. */
struct driver {
	pthread_t thread;
	pthread_barrier_t *start;
	struct dev *dev;
	struct mem mem;
	int cpu;
	int ret;
};

static void *drive(void *p)
{
	struct driver *driver = p;

	pin_to_cpu(driver->cpu);
	pthread_barrier_wait(driver->start);
	driver->ret = dev_acquire_all(driver->dev, driver->mem.p,
				      driver->mem.pages);
	return NULL;
}

#define DEVICE_PAGES	8192

static void acquire_with_devices(size_t n)
{
	struct driver drivers[4] = { };
	pthread_barrier_t start;
	double begin, ns;
	size_t i;

	pthread_barrier_init(&start, NULL, n + 1);
	for (i = 0; i < n; i++) {
		struct driver *driver = &drivers[i];

		driver->start = &start;
		driver->dev = &device[i];
		driver->cpu = i;
		map(&driver->mem, DEVICE_PAGES, false);
		mirror(driver->dev, &driver->mem);
		if (pthread_create(&driver->thread, NULL, drive, driver))
			die("cannot make a thread");
	}
	pthread_barrier_wait(&start);
	begin = now_ns();
	for (i = 0; i < n; i++)
		pthread_join(drivers[i].thread, NULL);
	ns = now_ns() - begin;
	for (i = 0; i < n; i++) {
		if (drivers[i].ret)
			die("cannot acquire: %s", strerror(-drivers[i].ret));
		unmirror(drivers[i].dev, &drivers[i].mem);
		unmap(&drivers[i].mem);
	}
	pthread_barrier_destroy(&start);
	say("devices", "acquire", n, "pages/s", n * DEVICE_PAGES / ns * 1e9);
}

static void figure_devices(void)
{
	int n;

	for (n = 1; n <= 4; n *= 2) {
		if (n > nr_devices)
			say_skip("devices", "acquire", n,
				 "there are fewer devices");
		else
			acquire_with_devices(n);
	}
}

#define MIRROR_PAGES	4096

/* Acquire in one mirror, while there are others, a page each. */
static void acquire_among_mirrors(size_t n)
{
	struct mem mem, others, one;
	size_t i;

	map(&mem, MIRROR_PAGES, false);
	map(&others, n, false);
	one = others;
	one.size = page_size();
	for (i = 0; i < n - 1; i++) {
		one.p = page_of(&others, i);
		mirror(&device[0], &one);
	}
	say("mirrors", "acquire", n, "ns/page",
	    acquire_by_us(acquire_ours, &mem, MIRROR_PAGES));
	for (i = 0; i < n - 1; i++) {
		one.p = page_of(&others, i);
		unmirror(&device[0], &one);
	}
	unmap(&others);
	unmap(&mem);
}

static void figure_mirrors(void)
{
	size_t n;

	for (n = 1; n <= device[0].info.max_mirrors; n *= 4)
		acquire_among_mirrors(n);
}

static void figure_memory(void)
{
	struct devexcl_stats stats;
	struct mem mem;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(medium); i++) {
		if (medium[i] > most_pages)
			break;
		map(&mem, medium[i], false);
		mirror(&device[0], &mem);
		acquire_all(&device[0], &mem);
		dev_stats(&device[0], &stats);
		say("memory", "table", medium[i], "bytes/page",
		    (double)stats.table_bytes / mem.pages);
		unmirror(&device[0], &mem);
		unmap(&mem);
	}
}

/* ---- main ------------------------------------------------------------ */

static const struct figure {
	const char *name;
	void (*measure)(void);
} figures[] = {
	{ "acquire-base", figure_acquire_base },
	{ "acquire-thp", figure_acquire_thp },
	{ "revoke", figure_revoke },
	{ "munmap", figure_munmap },
	{ "fork", figure_fork },
	{ "atomics", figure_atomics },
	{ "handover", figure_handover },
	{ "engines", figure_engines },
	{ "devices", figure_devices },
	{ "mirrors", figure_mirrors },
	{ "memory", figure_memory },
};

static bool wanted(const char *name, char **names)
{
	if (!*names)
		return true;
	for (; *names; names++)
		if (!strcmp(name, *names))
			return true;
	return false;
}

static void load_peer(void)
{
	int fd;

	if (!access(PEER_NODE, F_OK))
		return;
	fd = open(PEER_MODULE, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
		fprintf(stderr, "cannot load %s: %s\n", PEER_MODULE,
			strerror(errno));
	close(fd);
}

static void prepare(void)
{
	struct utsname uts;
	int ret;

	uname(&uts);
	nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	write_file("/proc/sys/kernel/numa_balancing", "0");
	write_file("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	write_file("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
		   "3600000");
	do {
		ret = dev_open(&device[nr_devices], nr_devices);
	} while (!ret && ++nr_devices < (int)ARRAY_SIZE(device));
	if (!nr_devices)
		die("cannot open a device: %s", strerror(-ret));
	load_peer();
	peer_buffer = malloc(PEER_PAGES * page_size());
	if (!peer_buffer)
		die("out of memory");
	memset(peer_buffer, 1, PEER_PAGES * page_size());
	pin_to_cpu(0);
	printf("{\"machine\": {\"release\": \"%s\", \"cpus\": %d, ",
	       uts.release, nr_cpus);
	printf("\"page_size\": %zu, \"devices\": %d, \"rounds\": %u}}\n",
	       page_size(), nr_devices, rounds);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	size_t i;
	int opt;

	while ((opt = getopt(argc, argv, "r:p:s:")) != -1) {
		switch (opt) {
		case 'r':
			rounds = strtoul(optarg, NULL, 0);
			break;
		case 'p':
			most_pages = strtoul(optarg, NULL, 0);
			break;
		case 's':
			only_series = optarg;
			break;
		default:
			fprintf(stderr,
				"Usage: %s [-r rounds] [-p most-pages] [-s series] [figure...]\n",
				argv[0]);
			return 2;
		}
	}
	prepare();
	for (round_nr = 0; round_nr < (int)rounds; round_nr++)
		for (i = 0; i < ARRAY_SIZE(figures); i++)
			if (wanted(figures[i].name, argv + optind))
				figures[i].measure();
	return 0;
}
