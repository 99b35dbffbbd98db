// SPDX-License-Identifier: GPL-2.0
/*
 * Limits: of memory, of patience, of devices
 *
 * What the device does when memory is not to be had, when a signal comes while
 * it waits, when its module is to go away while it is in use, and with as few
 * and as many devices as there can be.
 */
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "devexcl_cells.h"

#define PAGES		4
#define MODULE		"test_devexcl"
#define MODULE_FILE	"/modules/" MODULE ".ko"
#define MODULE_SYSFS	"/sys/module/" MODULE
#define MAX_DEVICES	16

#define CGROUPS		"/sys/fs/cgroup"
#define CGROUP		CGROUPS "/devexcl-limits"
/* More than this process needs; little for those who want a lot. */
#define CGROUP_ROOM	(2UL << 20)
#define MAX_FILES	64

static struct dev dev;
static struct mem mem;

static const char *open_device(void)
{
	TRY(must("open device", dev_open(&dev, 0)));
	avoid_numa_balancing();
	TRY(must("calibrate", calibrate_exclusive_entry(&dev)));
	TRY(break_driver_of(&dev));
	TRY(must("mmap", mem_map(&mem, PAGES)));
	return must("mirror", dev_mirror(&dev, mem.p, mem.size));
}

/* A text that is in a file, without the newline; "" if there is none. */
static const char *read_text(const char *name)
{
	static char text[4096];
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	close(fd);
	text[size > 0 ? size : 0] = 0;
	text[strcspn(text, "\n")] = 0;
	return text;
}

/*
 * Patience
 *
 * A thread waits for something in the device. A signal ends the wait with EINTR
 * if it is one of those that may take for ever; where mm waits, only SIGKILL
 * does, which ends all of them.
 */

enum obstacle {
	NOTHING,
	USERFAULT,	/* a page is missing, and nobody supplies it */
	LOCKED_FOLIO,	/* by another context that has stopped */
	MMAP_LOCK,	/* by an mprotect() that has stopped */
	BREAKPOINT,	/* a point at which the thread itself stops */
};

/**
 * struct wait - a place where the device waits
 * @name: for the cell
 * @obstacle: what it waits for
 * @interruptible: a signal ends it
 * @looks: it looks for signals when the wait is over, with nothing done yet
 * @run: the call that comes there; 0 or -errno
 */
struct wait {
	const char *name;
	enum obstacle obstacle;
	bool interruptible;
	bool looks;
	long (*run)(void);
};

static long wait_read(void)
{
	struct devexcl_event event;

	return read(dev.fd, &event, sizeof(event)) < 0 ? -errno : 0;
}

static long wait_acquire(void)
{
	long ret;

	do {
		ret = dev_acquire(&dev, mem.p, 1);
	} while (ret == -EBUSY);	/* kernels that do not wait */
	return ret < 0 ? ret : 0;
}

static long wait_atomic(void)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)mem.p,
		.op = DEVEXCL_OP_OR,
		.width = sizeof(uint64_t),
	};
	long ret = dev_atomic(&dev, &op, 1, DEVEXCL_ATOMIC_ACQUIRE, 0);

	return ret < 0 ? ret : 0;
}

static long wait_copy(void)
{
	uint64_t word;

	return dev_read_word(&dev, word_of(&mem, 0), &word);
}

static long wait_release(void)
{
	long ret = dev_release(&dev, mem.p, 1);

	return ret < 0 ? ret : 0;
}

static const struct wait waits[] = {
	{ .name = "read", .run = wait_read, .interruptible = true },
	{ .name = "acquire_missing", .run = wait_acquire,
	  .obstacle = USERFAULT },
	{ .name = "atomic_missing", .run = wait_atomic, .obstacle = USERFAULT },
	{ .name = "copy_missing", .run = wait_copy, .obstacle = USERFAULT,
	  .looks = true },
	{ .name = "acquire_locked_folio", .run = wait_acquire,
	  .obstacle = LOCKED_FOLIO },
	{ .name = "acquire_mmap_lock", .run = wait_acquire,
	  .obstacle = MMAP_LOCK },
	{ .name = "copy_mmap_lock", .run = wait_copy, .obstacle = MMAP_LOCK,
	  .looks = true },
	{ .name = "breakpoint", .run = wait_release, .obstacle = BREAKPOINT },
};

static const struct wait *the_wait;

static struct {
	pthread_t thread;
	pthread_t blocker;
	struct dev other;
	int uffd;
	int stop;
	int stat;
	bool begun;
	bool done;
	long ret;
} waiter = { .uffd = -1, .stop = -1, .stat = -1 };

static volatile sig_atomic_t signals;

static void count_signal(int sig)
{
	signals++;
}

static void *run_waiter(void *arg)
{
	__atomic_store_n(&waiter.stat,
			 open("/proc/thread-self/stat", O_RDONLY | O_CLOEXEC),
			 __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&waiter.begun, __ATOMIC_SEQ_CST))
		sched_yield();
	waiter.ret = the_wait->run();
	__atomic_store_n(&waiter.done, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Has it come to where it waits? It has nothing else to sleep for. */
static bool is_waiting(void)
{
	char line[64];
	ssize_t size, i;

	size = syscall(SYS_pread64, waiter.stat, line, sizeof(line), 0);
	for (i = 0; i + 2 < size; i++)
		if (line[i] == ')')
			return line[i + 2] == 'S' || line[i + 2] == 'D';
	return false;
}

static const char *make_page_missing(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = {
		.range = { .start = (uintptr_t)mem.p, .len = page_size() },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	waiter.uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (waiter.uffd < 0)
		return skip("no userfaultfd: %s", strerror(errno));
	TRY(must("UFFDIO_API", ioctl(waiter.uffd, UFFDIO_API, &api)));
	TRY(must("UFFDIO_REGISTER", ioctl(waiter.uffd, UFFDIO_REGISTER,
					  &range)));
	return must("madvise", madvise(mem.p, page_size(), MADV_DONTNEED));
}

static void *lock_folio(void *arg)
{
	dev_acquire_one(&waiter.other, mem.p);
	return NULL;
}

static void *lock_mmap(void *arg)
{
	mprotect(page_of(&mem, 1), page_size(), PROT_READ);
	return NULL;
}

static const char *start_blocker(struct dev *whose, unsigned int point,
				 void *p, void *(*run)(void *))
{
	waiter.stop = dev_break(whose, point, p);
	TRY(must("breakpoint", waiter.stop));
	TRY(must("thread", -pthread_create(&waiter.blocker, NULL, run, NULL)));
	return must("the obstacle", wait_for_break(waiter.stop, 60));
}

static const char *put_obstacle(void)
{
	switch (the_wait->obstacle) {
	case USERFAULT:
		return make_page_missing();
	case LOCKED_FOLIO:
		TRY(must("open device", dev_open(&waiter.other, 0)));
		TRY(must("mirror", dev_mirror(&waiter.other, mem.p,
					      page_size())));
		return start_blocker(&waiter.other, DEVEXCL_POINT_CHECK, mem.p,
				     lock_folio);
	case MMAP_LOCK:
		return start_blocker(&dev, DEVEXCL_POINT_INVALIDATE,
				     page_of(&mem, 1), lock_mmap);
	case BREAKPOINT:
		waiter.stop = dev_break(&dev, DEVEXCL_POINT_RELEASE, mem.p);
		return must("breakpoint", waiter.stop);
	default:
		return NULL;
	}
}

static const char *remove_obstacle(void)
{
	struct uffdio_zeropage page = {
		.range = { .start = (uintptr_t)mem.p, .len = page_size() },
	};

	if (the_wait->obstacle == USERFAULT)
		return must("UFFDIO_ZEROPAGE",
			    ioctl(waiter.uffd, UFFDIO_ZEROPAGE, &page));
	if (waiter.stop >= 0)
		close(waiter.stop);
	if (waiter.blocker)
		pthread_join(waiter.blocker, NULL);
	return NULL;
}

/* dev_forget_events(), if reading waits. */
static const char *forget_events(void)
{
	fcntl(dev.fd, F_SETFL, O_NONBLOCK);
	dev_forget_events(&dev);
	return must("fcntl", fcntl(dev.fd, F_SETFL, 0));
}

/* The thread is where it waits, and a signal would be caught. */
static const char *come_to_wait(void)
{
	struct sigaction action = { .sa_handler = count_signal };

	TRY(open_device());
	sigaction(SIGUSR1, &action, NULL);
	TRY(must("thread", -pthread_create(&waiter.thread, NULL, run_waiter,
					   NULL)));
	while (__atomic_load_n(&waiter.stat, __ATOMIC_SEQ_CST) < 0)
		sched_yield();
	if (the_wait->obstacle == NOTHING)
		TRY(forget_events());
	TRY(put_obstacle());
	__atomic_store_n(&waiter.begun, true, __ATOMIC_SEQ_CST);
	while (!is_waiting())
		if (__atomic_load_n(&waiter.done, __ATOMIC_SEQ_CST))
			return fail("it does not wait: %ld", waiter.ret);
	return NULL;
}

static const char *check_usable(void)
{
	int ret;

	mprotect(mem.p, mem.size, PROT_READ | PROT_WRITE);
	ret = dev_acquire_all(&dev, mem.p, PAGES);
	if (ret)
		return fail("the device does not work any more: %d", ret);
	return claim(check_held(&dev, &mem, 0, PAGES, true));
}

static const char *test_signal(void)
{
	TRY(come_to_wait());
	TRY(must("kill", -pthread_kill(waiter.thread, SIGUSR1)));
	if (!the_wait->interruptible)
		TRY(remove_obstacle());
	pthread_join(waiter.thread, NULL);
	if (signals != 1)
		return fail("it has got %d signals", (int)signals);
	if (waiter.ret != (the_wait->interruptible || the_wait->looks ?
			   -EINTR : 0))
		return fail("it returned %ld", waiter.ret);
	return check_usable();
}

/* Who is killed is gone at once, and so is what he had. */
static const char *test_kill(void)
{
	pid_t pid = fork();
	int ret;

	TRY(must("fork", pid));
	if (!pid) {
		leave_verdict(come_to_wait());
		kill(getpid(), SIGKILL);
	}
	ret = wait_child(pid);
	TRY(take_verdict());
	if (ret != -SIGKILL)
		return fail("it ended with %d", ret);
	TRY(open_device());
	return check_usable();
}

/*
 * Memory
 */

static int join_cgroup(const char *cgroup)
{
	char name[128];

	snprintf(name, sizeof(name), "%s/cgroup.procs", cgroup);
	return write_file(name, "0");
}

/* Opened before there is a limit: that needs memory as well. */
static int limit_fd = -1;

static int set_limit(const char *text)
{
	if (limit_fd < 0)
		limit_fd = open(CGROUP "/memory.max", O_WRONLY | O_CLOEXEC);
	return pwrite(limit_fd, text, strlen(text), 0) < 0 ? -errno : 0;
}

static const char *limit_memory(void)
{
	char text[32];

	if (write_file(CGROUPS "/cgroup.subtree_control", "+memory"))
		return skip("no memory cgroups");
	mkdir(CGROUP, 0700);
	TRY(must("memory.swap.max", write_file(CGROUP "/memory.swap.max",
					       "0")));
	TRY(must("memory.max", set_limit("max")));
	TRY(must("join cgroup", join_cgroup(CGROUP)));
	TRY(open_device());
	TRY(must("acquire", dev_acquire_all(&dev, mem.p, PAGES)));
	/*
	 * A page fault for which there is no memory is tried again for ever:
	 * have all that we need.
	 */
	mlockall(MCL_CURRENT);
	munlockall();
	TRY(must("acquire", dev_acquire_all(&dev, mem.p, PAGES)));
	snprintf(text, sizeof(text), "%lu",
		 strtoul(read_text(CGROUP "/memory.current"), NULL, 10) +
		 CGROUP_ROOM);
	return must("memory.max", set_limit(text));
}

static const char *unlimit_memory(void)
{
	TRY(must("memory.max", set_limit("max")));
	return must("leave cgroup", join_cgroup(CGROUPS));
}

/* Until no more is to be had, or there are so many; the last error, or 0. */

static struct dev files[MAX_FILES];
static int nr_files;

static int open_many(void)
{
	int ret = 0;

	while (!ret && nr_files < MAX_FILES) {
		ret = dev_open(&files[nr_files], 0);
		nr_files += !ret;
	}
	return ret;
}

static void close_many(void)
{
	while (nr_files)
		dev_close(&files[--nr_files]);
}

static char *spare;
static unsigned int nr_mirrors;

static int mirror_many(void)
{
	int ret = 0;

	while (!ret && nr_mirrors + 1 < dev.info.max_mirrors) {
		ret = dev_mirror(&dev, spare + 2 * nr_mirrors * page_size(),
				 page_size());
		nr_mirrors += !ret;
	}
	return ret;
}

static const char *unmirror_many(void)
{
	while (nr_mirrors--)
		TRY(must("unmirror",
			 dev_unmirror(&dev, spare + 2 * nr_mirrors * page_size(),
				      page_size())));
	nr_mirrors = 0;
	return NULL;
}

static const char *expect_no_memory(const char *what, int ret)
{
	if (ret == -ENOMEM)
		return NULL;
	return fail("%s, with no memory left: %s", what,
		    ret ? strerror(-ret) : "it works");
}

/* What needs memory fails with ENOMEM; what the device has it keeps. */
static const char *use_up_memory(void)
{
	size_t size = 8 * CGROUP_ROOM;
	struct dev many;
	struct mem big;
	long ret;

	spare = mmap(NULL, 2 * dev.info.max_mirrors * page_size(), PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	big.p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	big.pages = size / page_size();
	TRY(must("open device", dev_open(&many, 0)));
	TRY(must("mirror", dev_mirror(&many, big.p, size)));

	TRY(expect_no_memory("open", open_many()));
	close_many();
	/* Pages of the process, and the device's own for them. */
	ret = dev_acquire_all(&many, big.p, big.pages);
	TRY(expect_no_memory("acquire", ret));
	TRY(expect_no_memory("open", open_many()));
	/* These need little; perhaps that much is there. */
	ret = mirror_many();
	if (ret)
		TRY(expect_no_memory("mirror", ret));
	ret = dev_break(&dev, DEVEXCL_POINT_RELEASE, spare);
	if (ret < 0)
		TRY(expect_no_memory("breakpoint", ret));
	else
		close(ret);
	TRY(claim(check_held(&dev, &mem, 0, PAGES, true)));

	TRY(unlimit_memory());
	if (ret < 0)
		close(dev_break(&dev, DEVEXCL_POINT_RELEASE, spare));
	TRY(must("open", open_many()));
	TRY(must("mirror", mirror_many()));
	TRY(must("acquire", dev_acquire_all(&many, big.p, big.pages)));
	TRY(unmirror_many());
	close_many();
	dev_close(&many);
	munmap(big.p, size);
	TRY(claim(check_data(&mem, 0, PAGES)));
	return claim(check_references(&dev, &mem));
}

static const char *test_cgroup(void)
{
	const char *verdict;

	/* Nobody can be killed for it, so it fails. */
	TRY(must("oom_score_adj", write_file("/proc/self/oom_score_adj",
					     "-1000")));
	verdict = limit_memory() ?: use_up_memory();
	set_limit("max");
	join_cgroup(CGROUPS);
	TRY(verdict);
	return NULL;
}

/* Who may be killed for it is, in the middle of a call, and leaves nothing. */
static const char *test_cgroup_oom(void)
{
	pid_t pid = fork();
	int ret;

	TRY(must("fork", pid));
	if (!pid) {
		const char *verdict = limit_memory();

		leave_verdict(verdict);
		if (!verdict)
			open_many();
		_exit(!verdict);
	}
	ret = wait_child(pid);
	TRY(take_verdict());
	set_limit("max");
	if (ret != -SIGKILL && ret != 1)
		return fail("it ended with %d", ret);
	TRY(open_device());
	return check_usable();
}

static long status_kb(const char *field)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[256];
	long kb = -1;

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, field, strlen(field)))
			kb = strtol(line + strlen(field) + 1, NULL, 10);
	if (file)
		fclose(file);
	return kb;
}

/*
 * Pages that a device has are neither locked nor pinned: who may not lock any
 * memory may have as many of them as he likes.
 */
static const char *test_memlock(void)
{
	struct rlimit none = { 0, 0 };

	TRY(open_device());
	TRY(must("setrlimit", setrlimit(RLIMIT_MEMLOCK, &none)));
	TRY(must("setresuid", setresuid(65534, 65534, 65534)));
	if (!mlock(mem.p, page_size()))
		return fail("memory can be locked all the same");
	TRY(must("acquire", dev_acquire_all(&dev, mem.p, PAGES)));
	TRY(must("add", dev_add(&dev, word_of(&mem, 0), 0, NULL)));
	if (status_kb("VmLck:") || status_kb("VmPin:"))
		return fail("memory is locked or pinned");
	return claim(check_held(&dev, &mem, 0, PAGES, true));
}

/*
 * The module, and how many devices there are
 */

static char devices_before[32];

static const char *check_removable(void)
{
	if (access(MODULE_SYSFS "/refcnt", F_OK))
		return skip("the device is built in");
	if (access(MODULE_FILE, R_OK))
		return skip("there is no " MODULE_FILE);
	return NULL;
}

/* 0 or -errno */
static int unload(void)
{
	return syscall(SYS_delete_module, MODULE, O_NONBLOCK) ? -errno : 0;
}

static int load(const char *devices)
{
	int fd = open(MODULE_FILE, O_RDONLY | O_CLOEXEC);
	char parameters[64];
	int ret;

	snprintf(parameters, sizeof(parameters), "ndevices=%s", devices);
	ret = syscall(SYS_finit_module, fd, parameters, 0) ? -errno : 0;
	close(fd);
	return ret;
}

/* As many as there were, whatever has happened. */
static void restore_module(void)
{
	if (!devices_before[0])
		return;
	if (!strcmp(read_text(MODULE_SYSFS "/parameters/ndevices"),
		    devices_before))
		return;
	unload();
	load(devices_before);
}

static const char *take_module_out(void)
{
	TRY(check_removable());
	return must("unload", unload());
}

static const char *check_device(unsigned int n, unsigned int devices)
{
	struct dev one;

	TRY(must("open device", dev_open(&one, n)));
	if (one.info.device != n || one.info.ndevices != devices)
		return fail("device %u says that it is %u of %u", n,
			    one.info.device, one.info.ndevices);
	TRY(must("mirror", dev_mirror(&one, mem.p, mem.size)));
	TRY(must("acquire", dev_acquire_all(&one, mem.p, PAGES)));
	return must("add", dev_add(&one, word_of(&mem, 0), 1, NULL));
}

/* All of them work, hand pages over, and there are no more. */
static const char *test_devices(unsigned int devices)
{
	char text[16];
	struct dev one;
	unsigned int n;

	TRY(take_module_out());
	snprintf(text, sizeof(text), "%u", devices);
	TRY(must("load", load(text)));
	TRY(must("mmap", mem_map(&mem, PAGES)));
	for (n = 0; n < devices; n++)
		TRY(check_device(n, devices));
	if (READ_MEM(word_of(&mem, 0)) != pattern_word(0, 0) + devices)
		return fail("updates are lost");
	if (dev_open(&one, devices) != -ENOENT)
		return fail("there are more than %u devices", devices);
	return NULL;
}

static const char *test_one_device(void)
{
	return test_devices(1);
}

static const char *test_all_devices(void)
{
	return test_devices(MAX_DEVICES);
}

static const char *test_bad_devices(void)
{
	static const char * const bad[] = { "0", "17", "4294967295" };
	size_t i;
	int ret;

	TRY(take_module_out());
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		ret = load(bad[i]);
		if (ret != -EINVAL)
			return fail("with ndevices=%s it is %d", bad[i], ret);
	}
	/* Nor such that are no numbers. */
	ret = load("-1");
	if (ret != -EINVAL && ret != -ERANGE)
		return fail("with ndevices=-1 it is %d", ret);
	TRY(must("load", load(devices_before)));
	return open_device();
}

/* As long as there is a file, of whatever kind, the module stays. */
static const char *test_unload_busy(void)
{
	int stop, ret;

	TRY(check_removable());
	TRY(open_device());
	TRY(must("acquire", dev_acquire_all(&dev, mem.p, PAGES)));
	ret = unload();
	if (ret != -EWOULDBLOCK)
		return fail("unloaded with an open file: %d", ret);
	stop = dev_break(&dev, DEVEXCL_POINT_RELEASE, NULL);
	TRY(must("breakpoint", stop));
	TRY(claim(check_held(&dev, &mem, 0, PAGES, true)));
	dev_close(&dev);
	ret = unload();
	if (ret != -EWOULDBLOCK)
		return fail("unloaded with an open breakpoint: %d", ret);
	close(stop);
	/* The last file is given up when the call that closes it returns. */
	TRY(must("unload", unload()));
	TRY(claim(check_data(&mem, 0, PAGES)));
	TRY(must("load", load(devices_before)));
	return open_device();
}

/* Cells */

static const struct {
	const char *name;
	const char *(*run)(void);
} tests[] = {
	{ "memory_cgroup", test_cgroup },
	{ "memory_cgroup_oom", test_cgroup_oom },
	{ "memlock", test_memlock },
	{ "one_device", test_one_device },
	{ "all_devices", test_all_devices },
	{ "bad_devices", test_bad_devices },
	{ "unload_busy", test_unload_busy },
};

static const char *cell_name(size_t cell)
{
	static char name[64];

	if (cell < ARRAY_SIZE(tests))
		snprintf(name, sizeof(name), "limits.%s", tests[cell].name);
	else
		snprintf(name, sizeof(name), "limits.%s.%s",
			 (cell - ARRAY_SIZE(tests)) % 2 ? "kill" : "signal",
			 waits[(cell - ARRAY_SIZE(tests)) / 2].name);
	return name;
}

static const char *cell_excluded(size_t cell)
{
	return NULL;
}

static const char *cell_run(size_t cell)
{
	if (cell < ARRAY_SIZE(tests))
		return tests[cell].run();
	the_wait = &waits[(cell - ARRAY_SIZE(tests)) / 2];
	return (cell - ARRAY_SIZE(tests)) % 2 ? test_kill() : test_signal();
}

static void begin(void)
{
	snprintf(devices_before, sizeof(devices_before), "%s",
		 read_text(MODULE_SYSFS "/parameters/ndevices"));
}

static void end(void)
{
	restore_module();
	rmdir(CGROUP);
}

int main(int argc, char **argv)
{
	static const struct cells cells = {
		.subject = "limits",
		.own_table = true,
		.nr = ARRAY_SIZE(tests) + 2 * ARRAY_SIZE(waits),
		.name = cell_name,
		.excluded = cell_excluded,
		.run = cell_run,
		.begin = begin,
		.end = end,
	};

	return cells_main(&cells, argc, argv);
}
