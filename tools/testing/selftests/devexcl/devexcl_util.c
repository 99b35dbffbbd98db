// SPDX-License-Identifier: GPL-2.0
/*
 * What all tests of device-exclusive memory share; see devexcl_util.h
 */
#include <linux/mempolicy.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "devexcl_util.h"

/* Times that a locked folio is tried again, before it is an error. */
#define MAX_BUSY	20000

/* Bit n is set if a swap type of n means device-exclusive. */
static uint64_t exclusive_swap_types;
static char wrong[256];

#define say_wrong(...)							\
	(snprintf(wrong, sizeof(wrong), __VA_ARGS__), (const char *)wrong)

int write_file(const char *name, const char *text)
{
	ssize_t length = strlen(text);
	int fd = open(name, O_WRONLY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, length) != length)
		ret = -errno;
	close(fd);
	return ret;
}

size_t page_size(void)
{
	static size_t size;

	if (!size)
		size = sysconf(_SC_PAGESIZE);
	return size;
}

size_t thp_size(void)
{
	const char *name = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
	size_t size = 0;
	FILE *f = fopen(name, "r");

	if (!f)
		return 0;
	if (fscanf(f, "%zu", &size) != 1)
		size = 0;
	fclose(f);
	return size;
}

/* Devices */

int dev_ioctl(int fd, unsigned long cmd, void *arg)
{
	return ioctl(fd, cmd, arg) ? -errno : 0;
}

int dev_open(struct dev *dev, unsigned int n)
{
	char name[32];
	int ret;

	memset(dev, 0, sizeof(*dev));
	dev->info.size = sizeof(dev->info);
	snprintf(name, sizeof(name), "/dev/devexcl%u", n);
	dev->fd = open(name, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (dev->fd < 0) {
		dev->fd = 0;
		return -errno;
	}
	ret = dev_ioctl(dev->fd, DEVEXCL_INFO, &dev->info);
	if (ret) {
		close(dev->fd);
		dev->fd = 0;
	}
	return ret;
}

void dev_close(struct dev *dev)
{
	if (dev->fd > 0)
		close(dev->fd);
	dev->fd = 0;
}

int dev_mirror_flags(struct dev *dev, const void *p, size_t size,
		     unsigned int flags)
{
	struct devexcl_mirror arg = {
		.size = sizeof(arg),
		.flags = flags,
		.addr = (uintptr_t)p,
		.length = size,
	};

	return dev_ioctl(dev->fd, DEVEXCL_MIRROR, &arg);
}

int dev_mirror(struct dev *dev, const void *p, size_t size)
{
	return dev_mirror_flags(dev, p, size, 0);
}

int dev_unmirror(struct dev *dev, const void *p, size_t size)
{
	struct devexcl_mirror arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)p,
		.length = size,
	};

	return dev_ioctl(dev->fd, DEVEXCL_UNMIRROR, &arg);
}

long dev_acquire(struct dev *dev, const void *p, size_t pages)
{
	return dev_acquire_status(dev, p, pages, NULL);
}

long dev_acquire_status(struct dev *dev, const void *p, size_t pages,
			int32_t *status)
{
	struct devexcl_acquire arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)p,
		.length = pages * page_size(),
		.status = (uintptr_t)status,
	};

	return dev_ioctl(dev->fd, DEVEXCL_ACQUIRE, &arg) ?: arg.acquired;
}

int dev_acquire_all(struct dev *dev, const void *p, size_t pages)
{
	const char *start = p;
	size_t done = 0;
	int busy = 0;

	while (done < pages) {
		long got = dev_acquire(dev, start + done * page_size(),
				       pages - done);

		if (got > 0) {
			done += got;
			continue;
		}
		if (got != -EBUSY || (dev->info.caps & DEVEXCL_CAP_WAITS) ||
		    ++busy == MAX_BUSY)
			return got;
		sched_yield();
	}
	return 0;
}

int dev_acquire_one(struct dev *dev, const void *p)
{
	return dev_acquire_all(dev, p, 1);
}

long dev_release(struct dev *dev, const void *p, size_t pages)
{
	struct devexcl_release arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)p,
		.length = pages * page_size(),
	};

	return dev_ioctl(dev->fd, DEVEXCL_RELEASE, &arg) ?: arg.released;
}

long dev_atomic(struct dev *dev, struct devexcl_atomic_op *ops, size_t nr,
		unsigned int flags, unsigned int gap_ns)
{
	struct devexcl_atomic arg = {
		.size = sizeof(arg),
		.flags = flags,
		.ops = (uintptr_t)ops,
		.nr_ops = nr,
		.gap_ns = gap_ns,
	};

	return dev_ioctl(dev->fd, DEVEXCL_ATOMIC, &arg) ?: arg.done;
}

int dev_add(struct dev *dev, uint64_t *p, uint64_t value, uint64_t *old)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)p,
		.operand = value,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(*p),
	};
	long done = dev_atomic(dev, &op, 1, 0, 0);

	if (old)
		*old = op.old;
	return done < 0 ? done : 0;
}

long dev_copy(struct dev *dev, void *p, void *buf, size_t size,
	      unsigned int flags)
{
	struct devexcl_copy arg = {
		.size = sizeof(arg),
		.flags = flags,
		.addr = (uintptr_t)p,
		.length = size,
		.buf = (uintptr_t)buf,
	};

	return dev_ioctl(dev->fd, DEVEXCL_COPY, &arg) ?: arg.copied;
}

int dev_read_word(struct dev *dev, const uint64_t *p, uint64_t *value)
{
	long copied = dev_copy(dev, (void *)p, value, sizeof(*value), 0);

	return copied < 0 ? copied : 0;
}

int dev_write_word(struct dev *dev, uint64_t *p, uint64_t value)
{
	long copied = dev_copy(dev, p, &value, sizeof(value),
			       DEVEXCL_COPY_WRITE);

	return copied < 0 ? copied : 0;
}

int dev_query(struct dev *dev, const void *p, size_t pages,
	      struct devexcl_page *infos)
{
	struct devexcl_query arg = {
		.size = sizeof(arg),
		.addr = (uintptr_t)p,
		.length = pages * page_size(),
		.pages = (uintptr_t)infos,
	};

	return dev_ioctl(dev->fd, DEVEXCL_QUERY, &arg);
}

int dev_stats(struct dev *dev, struct devexcl_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	stats->size = sizeof(*stats);
	return dev_ioctl(dev->fd, DEVEXCL_STATS, stats);
}

int dev_inject(struct dev *dev, unsigned int broken, unsigned int retries)
{
	struct devexcl_inject arg = {
		.size = sizeof(arg),
		.broken = broken,
		.retries = retries,
	};

	return dev_ioctl(dev->fd, DEVEXCL_INJECT, &arg);
}

int dev_fail_nth(struct dev *dev, unsigned int nth,
		 struct devexcl_inject *inject)
{
	struct devexcl_inject arg;

	if (!inject)
		inject = &arg;
	*inject = (struct devexcl_inject) {
		.size = sizeof(*inject),
		.fail_nth = nth,
	};
	return dev_ioctl(dev->fd, DEVEXCL_INJECT, inject);
}

long dev_submit(struct dev *dev, const struct devexcl_submit *job)
{
	struct devexcl_submit arg = *job;
	int ret;

	arg.size = sizeof(arg);
	if (!arg.width)
		arg.width = sizeof(uint64_t);
	if (!arg.length)
		arg.length = arg.width;
	if (!arg.count)
		arg.count = 1;
	if (!arg.repeat)
		arg.repeat = 1;
	ret = dev_ioctl(dev->fd, DEVEXCL_SUBMIT, &arg);
	return ret ?: (long)arg.id;
}

int dev_wait(struct dev *dev, uint32_t job, uint64_t timeout_ns,
	     struct devexcl_wait *result)
{
	memset(result, 0, sizeof(*result));
	result->size = sizeof(*result);
	result->id = job;
	result->timeout_ns = timeout_ns;
	return dev_ioctl(dev->fd, DEVEXCL_WAIT, result);
}

int dev_cancel(struct dev *dev, uint32_t job)
{
	struct devexcl_cancel arg = {
		.size = sizeof(arg),
		.id = job,
	};

	return dev_ioctl(dev->fd, DEVEXCL_CANCEL, &arg);
}

int dev_break(struct dev *dev, unsigned int point, const void *p)
{
	struct devexcl_breakpoint arg = {
		.size = sizeof(arg),
		.point = point,
		.addr = (uintptr_t)p,
		.length = p ? page_size() : 0,
	};
	int ret = dev_ioctl(dev->fd, DEVEXCL_BREAKPOINT, &arg);

	return ret ?: arg.fd;
}

int wait_for_break(int fd, unsigned int seconds)
{
	struct pollfd poller = { .fd = fd, .events = POLLIN };

	if (poll(&poller, 1, seconds * 1000) < 0)
		return -errno;
	return poller.revents & POLLIN ? 0 : -ETIME;
}

/* The kernel log */

/* Write to a file that is opened once, and kept open. */
static void write_again(int *fd, const char *name, const char *text)
{
	if (!*fd)
		*fd = open(name, O_WRONLY | O_CLOEXEC);
	if (*fd > 0 && write(*fd, text, strlen(text)) < 0)
		perror(name);
}

void mark_kernel_log(const char *name)
{
	static int log, once;
	char text[200];

	snprintf(text, sizeof(text), "devexcl-test: cell %s\n", name);
	write_again(&log, "/dev/kmsg", text);
	/* What the kernel warns of once a boot it shall warn of in each test. */
	write_again(&once, "/sys/kernel/debug/clear_warn_once", "1");
}

/* Bits of /proc/sys/kernel/tainted: bad page, oops, warning */
#define TAINT_COMPLAINTS	(1L << 5 | 1L << 7 | 1L << 9)

long kernel_complaints(void)
{
	static int fd;
	char text[32] = "";

	if (!fd)
		fd = open("/proc/sys/kernel/tainted", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, text, sizeof(text) - 1, 0) < 0)
		return 0;
	return strtol(text, NULL, 10) & TAINT_COMPLAINTS;
}

/* Setting up */

/*
 * Look at an exclusive entry of a page that nobody else knows, and at what
 * mprotect() makes of it: up to Linux 6.14 writable and read-only entries have
 * different types. Both words have the page's number above the type.
 */
static int look_at_exclusive_entry(struct dev *dev, char *p, uint64_t words[2])
{
	int ret;

	*p = 1;
	ret = dev_mirror(dev, p, page_size()) ?: dev_acquire_one(dev, p);
	if (ret)
		return ret;
	words[0] = pagemap_of(p);
	if (mprotect(p, page_size(), PROT_READ))
		return -errno;
	words[1] = pagemap_of(p);
	return dev_unmirror(dev, p, page_size());
}

static bool is_swap_word(uint64_t word)
{
	return (word & PAGEMAP_SWAP) && !(word & PAGEMAP_PRESENT);
}

void avoid_numa_balancing(void)
{
	/* Memory with a policy of its own is left alone. Without NUMA: fine. */
	syscall(SYS_set_mempolicy, MPOL_LOCAL, NULL, 0);
}

int calibrate_exclusive_entry(struct dev *dev)
{
	uint64_t words[2] = {};
	char *p;
	int ret;

	if (exclusive_swap_types)
		return 0;
	p = mmap(NULL, page_size(), PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	ret = look_at_exclusive_entry(dev, p, words);
	munmap(p, page_size());
	if (ret)
		return ret;
	if (!is_swap_word(words[0]))
		return -EBADMSG;
	exclusive_swap_types = 1ULL << (words[0] & 0x1f);
	/* Else mprotect() has lost the page, which others shall find out. */
	if (is_swap_word(words[1]) &&
	    !((words[0] ^ words[1]) & PAGEMAP_PFN & ~0x1fULL))
		exclusive_swap_types |= 1ULL << (words[1] & 0x1f);
	dev_forget_events(dev);
	return 0;
}

int mem_map(struct mem *mem, size_t pages)
{
	mem->pages = pages;
	mem->size = pages * page_size();
	/* Pages on both sides that stay, or mm would merge it with others. */
	mem->p = mmap(NULL, mem->size + 2 * page_size(), PROT_NONE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem->p == MAP_FAILED) {
		mem->p = NULL;
		return -errno;
	}
	mem->p += page_size();
	if (mprotect(mem->p, mem->size, PROT_READ | PROT_WRITE))
		return -errno;
	/* Not offered by a kernel without THP; then there is no need. */
	madvise(mem->p, mem->size, MADV_NOHUGEPAGE);
	fill_mem(mem);
	return 0;
}

void mem_unmap(struct mem *mem)
{
	if (mem->p)
		munmap(mem->p, mem->size);
	mem->p = NULL;
}

/* Data */

uint64_t pattern_of(const struct mem *mem, size_t page)
{
	(void)mem;
	return pattern_word(page, 0);
}

void fill_mem(const struct mem *mem)
{
	size_t words = page_size() / sizeof(uint64_t);
	size_t page, i;

	for (page = 0; page < mem->pages; page++) {
		uint64_t *word = word_of(mem, page);

		for (i = 0; i < words; i++)
			word[i] = pattern_word(page, i);
	}
}

const char *check_data(const struct mem *mem, size_t first, size_t pages)
{
	size_t words = page_size() / sizeof(uint64_t);
	size_t page, i;

	for (page = first; page < first + pages; page++) {
		const uint64_t *word = word_of(mem, page);

		for (i = 0; i < words; i++) {
			uint64_t is = READ_MEM(&word[i]);
			uint64_t want = pattern_word(page, i);

			if (is != want)
				return say_wrong("page %zu word %zu is %#llx, expected %#llx",
						 page, i,
						 (unsigned long long)is,
						 (unsigned long long)want);
		}
	}
	return NULL;
}

/* Events */

long dev_read_events(struct dev *dev, struct devexcl_event *events, size_t nr)
{
	ssize_t got = read(dev->fd, events, nr * sizeof(*events));

	if (got < 0)
		return errno == EAGAIN ? 0 : -errno;
	return got / sizeof(*events);
}

static void add_event(struct taken *taken, const struct devexcl_event *event)
{
	taken->records++;
	taken->lost += event->lost;
	switch (event->type) {
	case DEVEXCL_EVENT_ACQUIRE:
		taken->acquired += event->exclusive;
		break;
	case DEVEXCL_EVENT_RELEASE:
		taken->released += event->exclusive;
		break;
	case DEVEXCL_EVENT_INVALIDATE:
		if (event->owner == DEVEXCL_OWNER_OWN)
			taken->own++;
		if (!event->exclusive)
			break;
		taken->calls++;
		taken->exclusive += event->exclusive;
		taken->causes |= 1U << event->cause;
		taken->owners |= 1U << event->owner;
		if (!taken->first || event->start < taken->first)
			taken->first = event->start;
		if (event->end > taken->last)
			taken->last = event->end;
		break;
	}
}

int dev_taken(struct dev *dev, struct taken *taken)
{
	struct devexcl_event events[64];
	long i, nr;

	memset(taken, 0, sizeof(*taken));
	while ((nr = dev_read_events(dev, events, 64)) > 0)
		for (i = 0; i < nr; i++)
			add_event(taken, &events[i]);
	return nr;
}

void dev_forget_events(struct dev *dev)
{
	struct taken taken;

	dev_taken(dev, &taken);
}

int dev_wait_event(struct dev *dev, unsigned int seconds)
{
	struct pollfd pollfd = { .fd = dev->fd, .events = POLLIN };
	int ret = poll(&pollfd, 1, seconds * 1000);

	if (ret < 0)
		return -errno;
	return ret ? 0 : -ETIME;
}

const char *check_taken(struct dev *dev, const struct mem *mem, size_t first,
			size_t pages, uint32_t causes)
{
	struct taken taken;
	int ret = dev_taken(dev, &taken);

	if (ret)
		return say_wrong("cannot read events: %s", strerror(-ret));
	if (taken.lost)
		return say_wrong("%llu event records are missing",
				 (unsigned long long)taken.lost);
	if (taken.exclusive != pages)
		return say_wrong("%llu exclusive pages were taken (causes %#x), expected %zu",
				 (unsigned long long)taken.exclusive,
				 taken.causes, pages);
	if (taken.causes & ~causes)
		return say_wrong("pages were taken for causes %#x, expected %#x",
				 taken.causes, causes);
	return check_held(dev, mem, first, pages, false);
}

/* Files of /proc with a word for each page; opened once, and kept open */

struct word_file {
	const char *name;
	int fd;
};

static struct word_file pagemap = { "/proc/self/pagemap", -1 };
static struct word_file kpageflags = { "/proc/kpageflags", -1 };
static struct word_file kpagecount = { "/proc/kpagecount", -1 };

/* Word @n of a file; -errno if it cannot be read. */
static int read_word(struct word_file *file, uint64_t n, uint64_t *word)
{
	if (file->fd < 0)
		file->fd = open(file->name, O_RDONLY | O_CLOEXEC);
	if (file->fd < 0)
		return -errno;
	if (pread(file->fd, word, sizeof(*word), n * sizeof(*word)) !=
	    sizeof(*word))
		return -EIO;
	return 0;
}

uint64_t frame_flags(uint64_t pfn)
{
	uint64_t flags;

	return read_word(&kpageflags, pfn, &flags) ? 0 : flags;
}

long frame_mapcount(uint64_t pfn)
{
	uint64_t count;

	return read_word(&kpagecount, pfn, &count) ?: (long)count;
}

/* Entries */

uint64_t pagemap_of(const void *p)
{
	static pid_t opener;
	pid_t self = getpid();
	uint64_t word;

	/* What our parent has opened shows our parent's memory. */
	if (opener != self && pagemap.fd >= 0) {
		close(pagemap.fd);
		pagemap.fd = -1;
	}
	opener = self;
	return read_word(&pagemap, (uintptr_t)p / page_size(), &word) ? 0 :
								       word;
}

enum entry entry_of(const void *p)
{
	uint64_t word = pagemap_of(p);

	if (word & PAGEMAP_PRESENT)
		return ENTRY_PRESENT;
	if (!(word & PAGEMAP_SWAP))
		return ENTRY_NONE;
	if (!exclusive_swap_types)
		return ENTRY_ERROR;
	if (exclusive_swap_types & (1ULL << (word & 0x1f)))
		return ENTRY_EXCLUSIVE;
	return ENTRY_SWAP;
}

const char *entry_name(enum entry entry)
{
	static const char * const names[] = {
		[ENTRY_NONE] = "none",
		[ENTRY_PRESENT] = "present",
		[ENTRY_EXCLUSIVE] = "exclusive",
		[ENTRY_SWAP] = "swap",
		[ENTRY_ERROR] = "unreadable",
	};

	return names[entry];
}

const char *check_entries(const struct mem *mem, size_t first, size_t pages,
			  enum entry entry)
{
	size_t page;

	for (page = first; page < first + pages; page++) {
		enum entry is = entry_of(page_of(mem, page));

		if (is != entry)
			return say_wrong("entry of page %zu is %s, expected %s (pagemap %#llx)",
					 page, entry_name(is), entry_name(entry),
					 (unsigned long long)pagemap_of(page_of(mem, page)));
	}
	return NULL;
}

const char *check_held(struct dev *dev, const struct mem *mem, size_t first,
		       size_t pages, bool held)
{
	struct devexcl_page info;
	size_t page;
	int ret;

	for (page = first; page < first + pages; page++) {
		bool is;

		ret = dev_query(dev, page_of(mem, page), 1, &info);
		if (ret)
			return say_wrong("cannot query page %zu: %s", page,
					 strerror(-ret));
		is = info.access & DEVEXCL_ACCESS_EXCLUSIVE;
		if (is != held)
			return say_wrong("page %zu is %sheld by the device", page,
					 held ? "not " : "");
	}
	return NULL;
}

static long faults_so_far(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

bool is_writable_when_read(uint64_t *word)
{
	uint64_t value;
	long faults;

	/* The first time this itself may need pages. */
	faults_so_far();
	value = READ_MEM(word);
	faults = faults_so_far();
	WRITE_MEM(word, value);
	return faults_so_far() == faults;
}

bool clear_soft_dirty(void)
{
	static bool supported;
	volatile char page_on_stack = 1;

	/* Whether bits are there has to be seen before they are cleared. */
	if (!supported)
		supported = pagemap_of((void *)&page_on_stack) &
			    PAGEMAP_SOFT_DIRTY;
	return !write_file("/proc/self/clear_refs", "4") && supported;
}

const char *check_soft_dirty(const struct mem *mem, size_t first, size_t pages,
			     bool dirty)
{
	size_t page;

	for (page = first; page < first + pages; page++) {
		uint64_t word = pagemap_of(page_of(mem, page));

		if (!!(word & PAGEMAP_SOFT_DIRTY) != dirty)
			return say_wrong("page %zu is %ssoft-dirty (pagemap %#llx)",
					 page, dirty ? "not " : "",
					 (unsigned long long)word);
	}
	return NULL;
}

/* Does this line of smaps begin a VMA? */
static bool is_smaps_vma(const char *line, uintptr_t *start, uintptr_t *end)
{
	unsigned long long from, to;

	if (sscanf(line, "%llx-%llx ", &from, &to) != 2)
		return false;
	*start = from;
	*end = to;
	return true;
}

long smaps_kb(const struct mem *mem, const char *field)
{
	uintptr_t start = 0, end = 0, p = (uintptr_t)mem->p;
	size_t length = strlen(field);
	char line[512];
	long sum = 0;
	FILE *f;

	f = fopen("/proc/self/smaps", "r");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (is_smaps_vma(line, &start, &end))
			continue;
		if (start < p || end > p + mem->size)
			continue;
		if (!strncmp(line, field, length) && line[length] == ':')
			sum += strtol(line + length + 1, NULL, 10);
	}
	fclose(f);
	return sum;
}

bool smaps_flag(const struct mem *mem, const char *flag)
{
	uintptr_t start = 0, end = 0, p = (uintptr_t)mem->p;
	char line[512], word[8];
	bool found = false;
	FILE *f;

	f = fopen("/proc/self/smaps", "r");
	if (!f)
		return false;
	snprintf(word, sizeof(word), " %s ", flag);
	while (fgets(line, sizeof(line), f))
		if (!is_smaps_vma(line, &start, &end) && start == p &&
		    end == p + mem->size && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, word);
	fclose(f);
	return found;
}

long mapcount_of(const void *p)
{
	uint64_t word = pagemap_of(p);

	if (!(word & PAGEMAP_PRESENT))
		return -ENOENT;
	return frame_mapcount(word & PAGEMAP_PFN);
}

void drain_lru_batches(void)
{
	int node = 0, status;
	void *nothing = NULL;

	/* Whoever migrates pages, if only none, drains them first. */
	if (syscall(SYS_move_pages, 0, 1UL, &nothing, &node, &status,
		    MPOL_MF_MOVE) < 0)
		write_file("/proc/sys/vm/drop_caches", "1");
}

void drain_own_lru_batches(void)
{
	static char *nothing;

	/* Advice that concerns reclaim begins with that, on this CPU. */
	if (!nothing)
		nothing = mmap(NULL, page_size(), PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (nothing == MAP_FAILED || madvise(nothing, page_size(), MADV_COLD))
		drain_lru_batches();
}

void defragment_memory(void)
{
	write_file("/proc/sys/vm/compact_memory", "1");
}

int swap_cache_references(const struct devexcl_page *info)
{
	return frame_flags(info->pfn) & KPF_SWAPCACHE ? 1 << info->order : 0;
}

static const char *check_page_references(struct dev *dev,
					 const struct mem *mem, size_t page)
{
	int mapcount = dev->info.caps & DEVEXCL_CAP_MAPCOUNT ? 1 : 0;
	struct devexcl_page info;
	int ret;

	ret = dev_query(dev, page_of(mem, page), 1, &info);
	if (ret)
		return say_wrong("cannot query page %zu: %s", page,
				 strerror(-ret));
	info.refcount -= swap_cache_references(&info);
	if (info.refcount != 1 || info.mapcount != mapcount)
		return say_wrong("page %zu has %d references and %d mappings, expected 1 and %d",
				 page, info.refcount, info.mapcount, mapcount);
	return NULL;
}

const char *check_references(struct dev *dev, const struct mem *mem)
{
	const char *ret = NULL;
	long kb = mem->size / 1024;
	size_t page;
	int err;

	/* Get everything in, as an ordinary page. */
	for (page = 0; page < mem->pages; page++)
		WRITE_MEM(word_of(mem, page), READ_MEM(word_of(mem, page)));
	for (page = 0; page < mem->pages; page++) {
		err = dev_acquire_one(dev, page_of(mem, page));
		if (err)
			return say_wrong("cannot acquire page %zu: %s", page,
					 strerror(-err));
	}
	/* Being acquired is an access, which puts pages into batches too. */
	drain_lru_batches();
	for (page = 0; page < mem->pages && !ret; page++)
		ret = check_page_references(dev, mem, page);
	if (ret)
		return ret;
	if (smaps_kb(mem, "Rss") != kb)
		return say_wrong("Rss of exclusive memory is %ld kB, expected %ld",
				 smaps_kb(mem, "Rss"), kb);

	for (page = 0; page < mem->pages; page++) {
		long count;

		READ_MEM(word_of(mem, page));
		count = mapcount_of(page_of(mem, page));
		if (count != 1)
			return say_wrong("page %zu, restored, has %ld mappings, expected 1",
					 page, count);
	}
	if (smaps_kb(mem, "Rss") != kb)
		return say_wrong("Rss of restored memory is %ld kB, expected %ld",
				 smaps_kb(mem, "Rss"), kb);
	dev_forget_events(dev);
	return check_entries(mem, 0, mem->pages, ENTRY_PRESENT);
}

/* Randomness that can be had again */

uint64_t random_seed(void)
{
	const char *given = getenv("DEVEXCL_SEED");
	struct timespec now;
	uint64_t seed;

	clock_gettime(CLOCK_MONOTONIC, &now);
	seed = now.tv_sec * 1000000000ULL + now.tv_nsec;
	if (given)
		seed = strtoull(given, NULL, 0);
	fprintf(stderr, "# DEVEXCL_SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

/* splitmix64 */
uint64_t random_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/* Access that may be refused */

static sigjmp_buf refused;
static volatile sig_atomic_t refused_code;

static void note_refusal(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	refused_code = info->si_code;
	siglongjmp(refused, 1);
}

/* Write *@write to @p, or read @p into *@read. */
static int cpu_access(uint64_t *p, uint64_t *read, const uint64_t *write)
{
	struct sigaction action = {
		.sa_sigaction = note_refusal,
		.sa_flags = SA_SIGINFO,
	};
	struct sigaction old_segv, old_bus;

	sigaction(SIGSEGV, &action, &old_segv);
	sigaction(SIGBUS, &action, &old_bus);
	refused_code = 0;
	if (!sigsetjmp(refused, 1)) {
		if (write)
			WRITE_MEM(p, *write);
		else
			*read = READ_MEM(p);
	}
	sigaction(SIGSEGV, &old_segv, NULL);
	sigaction(SIGBUS, &old_bus, NULL);
	return refused_code;
}

int cpu_read(const uint64_t *p, uint64_t *value)
{
	return cpu_access((uint64_t *)p, value, NULL);
}

int cpu_write(uint64_t *p, uint64_t value)
{
	return cpu_access(p, NULL, &value);
}

/* CPUs */

void stay_on_one_cpu(void)
{
	int cpu = CPU_SETSIZE - 1;
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus))
		return;
	while (cpu > 0 && !CPU_ISSET(cpu, &cpus))
		cpu--;
	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
}

void go_to_other_cpus(void)
{
	int cpu = sched_getcpu();
	cpu_set_t cpus;

	/* Those that are not there the kernel leaves out by itself. */
	memset(&cpus, 0xff, sizeof(cpus));
	CPU_CLR(cpu, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
}

void nap(void)
{
	const struct timespec time = { .tv_nsec = 200000 };

	nanosleep(&time, NULL);
}

/* Processes */

int wait_child(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

extern const char __executable_start[], etext[];

int load_program(void)
{
	uintptr_t start = (uintptr_t)__executable_start & -page_size();

	return madvise((void *)start, (uintptr_t)etext - start,
		       MADV_POPULATE_READ) ? -errno : 0;
}

void touch_stack(void)
{
	char deep[32768];
	size_t i;

	for (i = 0; i < sizeof(deep); i += 1024)
		WRITE_MEM(&deep[i], 0);
}

int run_compat32(const char *argument)
{
	char name[4096];
	ssize_t length = readlink("/proc/self/exe", name, sizeof(name) - 64);
	pid_t pid;
	int ret;

	if (length < 0)
		return -errno;
	name[length] = 0;
	snprintf(strrchr(name, '/'), 64, "/abi_compat32");
	if (access(name, X_OK))
		return -ENOENT;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		execl(name, name, argument, NULL);
		_exit(errno == ENOEXEC ? 255 : 254);
	}
	ret = wait_child(pid);
	return ret == 255 ? -ENOEXEC : ret;
}

void progress_open(struct progress *progress)
{
	progress->state = open("/proc/thread-self/stat", O_RDONLY | O_CLOEXEC);
}

void progress_begin(struct progress *progress)
{
	if (!progress->state)
		progress_open(progress);
	__atomic_store_n(&progress->begun, true, __ATOMIC_SEQ_CST);
}

void progress_end(struct progress *progress)
{
	__atomic_store_n(&progress->done, true, __ATOMIC_SEQ_CST);
}

bool progress_is_done(const struct progress *progress)
{
	return __atomic_load_n(&progress->done, __ATOMIC_SEQ_CST);
}

static bool state_is_asleep(int state)
{
	char line[64];	/* as far as the state, behind a name in brackets */
	ssize_t size, i;

	size = syscall(SYS_pread64, state, line, sizeof(line), 0);
	for (i = 0; i + 2 < size; i++)
		if (line[i] == ')')
			return line[i + 2] == 'S' || line[i + 2] == 'D';
	return false;
}

/*
 * A thread may wait for something else for a moment, so it has to be found
 * waiting a few times. Who really waits for who has stopped is found waiting
 * for ever.
 */
bool progress_wait(const struct progress *progress)
{
	unsigned int asleep = 0;

	while (!progress_is_done(progress) && asleep < 4) {
		if (__atomic_load_n(&progress->begun, __ATOMIC_SEQ_CST) &&
		    state_is_asleep(progress->state))
			asleep++;
		else
			asleep = 0;
		syscall(SYS_sched_yield);
	}
	return progress_is_done(progress);
}

void progress_close(struct progress *progress)
{
	close(progress->state);
	progress->state = 0;
}

int send_fd(int sock, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = {}, byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	return sendmsg(sock, &msg, 0) == 1 ? 0 : -errno;
}

int receive_fd(int sock)
{
	int fd = -1;
	char control[CMSG_SPACE(sizeof(fd))], byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};

	if (recvmsg(sock, &msg, 0) == 1 && CMSG_FIRSTHDR(&msg))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

int gate_init(struct gate *gate)
{
	return pipe2(gate->pipe, O_CLOEXEC) ? -errno : 0;
}

void gate_open(struct gate *gate)
{
	if (write(gate->pipe[1], "", 1) != 1)
		perror("gate");
}

int gate_wait(struct gate *gate)
{
	char byte;

	return read(gate->pipe[0], &byte, 1) == 1 ? 0 : -EPIPE;
}
