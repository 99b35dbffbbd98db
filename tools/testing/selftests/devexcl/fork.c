// SPDX-License-Identifier: GPL-2.0
/*
 * A process forks while a device holds its pages: the device is told, parent
 * and child share the pages until one of them writes, and no update, of a CPU
 * or of a device, is lost on its own side or seen on the other one
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <linux/io_uring.h>

#include "devexcl_test.h"

#define PAGES		4
#define MANY_PAGES	(512 + 88)	/* more than one page table */
#define REPEATS		100
#define STACK_SIZE	(256 * 1024)

/* Exit codes of children. A claim that did not hold has been printed. */
enum {
	CHILD_FINE,
	CHILD_CLAIM,		/* a claim did not hold */
	CHILD_ABANDONED,	/* the parent is gone, and should not be */
	CHILD_DEVICE,		/* the child's own device failed */
	CHILD_CONTEXT,		/* the parent's device served the child */
	CHILD_ACCESS,		/* an access should (not) have been refused */
	CHILD_OTHER,		/* a system call failed */
};

/**
 * struct child - a child, which moves only when its parent lets it
 * @pid: its number
 * @go: the child waits here
 * @ready: the parent waits here until the child has come to its next pause
 */
struct child {
	pid_t pid;
	struct gate go;
	struct gate ready;
};

/**
 * struct notes - what processes tell each other, in shared memory
 * @pid: of a grandchild
 * @pfn: pages that the child's device holds
 * @low: rounds of counting that were done before the fork
 * @high: rounds that can have been begun before the fork was over
 * @counted: rounds of counting that are done now
 * @stop: the thread that does them shall end
 */
struct notes {
	pid_t pid;
	uint64_t pfn[PAGES];
	uint64_t low;
	uint64_t high;
	uint64_t counted;
	bool stop;
};

FIXTURE(fork) {
	struct dev dev;
	struct mem mem;
	struct child child;
	struct notes *notes;
};

FIXTURE_SETUP(fork)
{
	setup_device(_metadata, &self->dev, 0);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	self->notes = mmap(NULL, sizeof(*self->notes), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->notes);
	/* A child that is dead already is found by its exit code. */
	signal(SIGPIPE, SIG_IGN);
}

FIXTURE_TEARDOWN(fork)
{
	munmap(self->notes, sizeof(*self->notes));
	mem_unmap(&self->mem);
	dev_close(&self->dev);
}

/* In a child: say that a claim does not hold. */
static int child_claim(const char *wrong)
{
	if (!wrong)
		return CHILD_FINE;
	fprintf(stderr, "# child: %s\n", wrong);
	return CHILD_CLAIM;
}

/* In a child: let the parent go on, and wait until it wants us to. */
static int child_pause(FIXTURE_DATA(fork) *self)
{
	gate_open(&self->child.ready);
	return gate_wait(&self->child.go) ? CHILD_ABANDONED : CHILD_FINE;
}

typedef int (*child_fn)(FIXTURE_DATA(fork) *self);

/* Fork a child, which pauses before anything else. */
static void start_child(struct __test_metadata *_metadata,
			FIXTURE_DATA(fork) *self, child_fn fn)
{
	struct child *child = &self->child;

	ASSERT_EQ(0, gate_init(&child->go));
	ASSERT_EQ(0, gate_init(&child->ready));
	child->pid = fork();
	ASSERT_LE(0, child->pid)
		TH_LOG("fork: %s", strerror(errno));
	if (!child->pid) {
		close(child->go.pipe[1]);
		close(child->ready.pipe[0]);
		_exit(child_pause(self) ?: fn(self));
	}
	/* Who waits for the other must see when the other is gone. */
	close(child->go.pipe[0]);
	close(child->ready.pipe[1]);
	ASSERT_EQ(0, gate_wait(&child->ready));
}

/* Let the child go on to its next pause. */
#define child_step(self)						\
do {									\
	gate_open(&(self)->child.go);					\
	ASSERT_EQ(0, gate_wait(&(self)->child.ready))			\
		TH_LOG("the child ended with %d",			\
		       wait_child((self)->child.pid));			\
} while (0)

/* Let the child do the rest of what it has to. */
#define child_ends(self)						\
do {									\
	gate_open(&(self)->child.go);					\
	EXPECT_EQ(CHILD_FINE, wait_child((self)->child.pid));		\
	close((self)->child.go.pipe[1]);				\
	close((self)->child.ready.pipe[0]);				\
} while (0)

/* Each page begins with its pattern, to which @sum was added. */
static const char *check_sum(const struct mem *mem, uint64_t sum)
{
	size_t page;

	for (page = 0; page < mem->pages; page++)
		if (READ_MEM(word_of(mem, page)) != pattern_of(mem, page) + sum)
			return "a word is not what was written on this side";
	return NULL;
}

#define expect_sum(mem, sum)	expect_claim(check_sum(mem, sum))

static void cpu_adds(const struct mem *mem, uint64_t value)
{
	size_t page;

	for (page = 0; page < mem->pages; page++)
		__atomic_fetch_add(word_of(mem, page), value, __ATOMIC_SEQ_CST);
}

static int device_adds(struct dev *dev, const struct mem *mem, uint64_t value)
{
	size_t page;
	int ret = 0;

	for (page = 0; page < mem->pages && !ret; page++)
		ret = dev_add(dev, word_of(mem, page), value, NULL);
	return ret;
}

static const char *check_mapcounts(const struct mem *mem, long count)
{
	size_t page;

	for (page = 0; page < mem->pages; page++)
		if (mapcount_of(page_of(mem, page)) != count)
			return "a page is mapped by the wrong number of processes";
	return NULL;
}

/* The pages are ordinary ones again, of both processes, and nobody wrote. */
#define expect_shared(mem)						\
do {									\
	expect_entries(mem, 0, (mem)->pages, ENTRY_PRESENT);		\
	expect_claim(check_mapcounts(mem, 2));				\
} while (0)

#define expect_taken_by_fork(self)					\
do {									\
	expect_taken(&(self)->dev, &(self)->mem, 0, PAGES,		\
		     CAUSE(PROTECTION_PAGE));				\
	expect_shared(&(self)->mem);					\
} while (0)

/* The end of each test. The pages are ours alone again, whatever is in them. */
#define expect_references_only(self)					\
do {									\
	fill_mem(&(self)->mem);						\
	expect_references(&(self)->dev, &(self)->mem);			\
} while (0)

/* Children */

static int child_sees_pattern(FIXTURE_DATA(fork) *self)
{
	return child_claim(check_entries(&self->mem, 0, PAGES, ENTRY_PRESENT) ?:
			   check_data(&self->mem, 0, PAGES));
}

static int child_adds(FIXTURE_DATA(fork) *self)
{
	uint64_t was = *word_of(&self->mem, 0) - pattern_of(&self->mem, 0);

	cpu_adds(&self->mem, 2);
	return child_claim(check_sum(&self->mem, was + 2));
}

/* The child's updates come first; it must not see any that follow. */
static int child_writes(FIXTURE_DATA(fork) *self)
{
	return child_adds(self) ?: child_pause(self) ?:
	       child_claim(check_sum(&self->mem, 2));
}

/* Open a device for this process, and let it hold the pages. */
static int open_own_device(struct dev *own, unsigned int n,
			   const struct mem *mem)
{
	return dev_open(own, n) ?: dev_mirror(own, mem->p, mem->size) ?:
	       dev_acquire_all(own, mem->p, mem->pages);
}

/* Tests */

TEST_F(fork, child_reads)
{
	start_child(_metadata, self, child_sees_pattern);
	expect_taken_by_fork(self);
	child_ends(self);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_data(&self->mem, 0, PAGES);
	expect_references(&self->dev, &self->mem);
}

TEST_F(fork, parent_writes_first)
{
	start_child(_metadata, self, child_sees_pattern);
	expect_taken_by_fork(self);
	cpu_adds(&self->mem, 1);
	child_ends(self);
	expect_sum(&self->mem, 1);
	expect_references_only(self);
}

TEST_F(fork, child_writes_first)
{
	start_child(_metadata, self, child_writes);
	expect_taken_by_fork(self);
	child_step(self);
	expect_data(&self->mem, 0, PAGES);
	cpu_adds(&self->mem, 1);
	child_ends(self);
	expect_sum(&self->mem, 1);
	expect_references_only(self);
}

/*
 * The device wants the pages back while they are shared. It gets its own, and
 * keeps them whatever the child does with the others.
 */
TEST_F(fork, device_writes_first)
{
	start_child(_metadata, self, child_sees_pattern);
	expect_taken_by_fork(self);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	child_ends(self);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	expect_sum(&self->mem, 1);
	expect_references_only(self);
}

static int child_writes_late(FIXTURE_DATA(fork) *self)
{
	return child_claim(check_data(&self->mem, 0, PAGES)) ?:
	       child_writes(self);
}

/* The same, and it is the child who writes to the page that is left over. */
TEST_F(fork, device_then_child)
{
	start_child(_metadata, self, child_writes_late);
	expect_taken_by_fork(self);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	child_step(self);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	expect_nothing_taken(&self->dev, &self->mem);
	child_ends(self);
	expect_sum(&self->mem, 2);
	expect_references_only(self);
}

static int child_sees_one(FIXTURE_DATA(fork) *self)
{
	return child_claim(check_sum(&self->mem, 1));
}

/* What the device wrote before belongs to both. */
TEST_F(fork, device_wrote_before)
{
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	start_child(_metadata, self, child_sees_one);
	expect_taken_by_fork(self);
	child_ends(self);
	expect_sum(&self->mem, 1);
	expect_references_only(self);
}

static int child_does_nothing(FIXTURE_DATA(fork) *self)
{
	return CHILD_FINE;
}

/* The child leaves the pages to us. The device continues with them. */
TEST_F(fork, child_exits_first)
{
	start_child(_metadata, self, child_does_nothing);
	expect_taken_by_fork(self);
	child_ends(self);
	expect_claim(check_mapcounts(&self->mem, 1));
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	expect_sum(&self->mem, 1);
	expect_references_only(self);
}

static int child_uses_context(FIXTURE_DATA(fork) *self)
{
	struct mem *mem = &self->mem;

	if (dev_acquire(&self->dev, mem->p, 1) != -EPERM ||
	    dev_release(&self->dev, mem->p, 1) != -EPERM ||
	    dev_add(&self->dev, word_of(mem, 0), 1, NULL) != -EPERM ||
	    dev_write_word(&self->dev, word_of(mem, 0), 1) != -EPERM)
		return CHILD_CONTEXT;
	dev_close(&self->dev);
	return child_sees_pattern(self);
}

/* The context that a child inherits is and remains its parent's. */
TEST_F(fork, inherited_context)
{
	start_child(_metadata, self, child_uses_context);
	expect_taken_by_fork(self);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	child_ends(self);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	expect_data(&self->mem, 0, PAGES);
	expect_references(&self->dev, &self->mem);
}

/* The context of a process that is gone serves nobody, and tells of the end. */
static int check_dead_context(struct dev *dead, const struct mem *mem)
{
	struct taken taken;

	if (dev_acquire(dead, mem->p, 1) != -ESRCH ||
	    dev_release(dead, mem->p, 1) != -ESRCH)
		return CHILD_CONTEXT;
	if (dev_taken(dead, &taken) || taken.exclusive != PAGES ||
	    taken.causes != CAUSE(RELEASE))
		return child_claim("the exit did not take the pages once");
	return CHILD_FINE;
}

static int orphan(FIXTURE_DATA(fork) *self, struct dev *of_parent)
{
	struct mem *mem = &self->mem;
	struct dev own = {};
	int ret;

	ret = child_pause(self) ?: check_dead_context(of_parent, mem) ?:
	      child_claim(check_data(mem, 0, PAGES));
	if (ret)
		return ret;
	if (open_own_device(&own, 0, mem) || device_adds(&own, mem, 2))
		return CHILD_DEVICE;
	return child_claim(check_sum(mem, 2) ?: check_references(&own, mem));
}

/* A parent with a device. It exits with the device at work on its side. */
static int child_leaves_orphan(FIXTURE_DATA(fork) *self)
{
	struct dev own = {};

	if (open_own_device(&own, 0, &self->mem))
		return CHILD_DEVICE;
	self->notes->pid = fork();
	if (self->notes->pid < 0)
		return CHILD_OTHER;
	if (!self->notes->pid)
		_exit(orphan(self, &own));
	if (dev_acquire_all(&own, self->mem.p, PAGES) ||
	    device_adds(&own, &self->mem, 1))
		return CHILD_DEVICE;
	dev_forget_events(&own);
	return CHILD_FINE;
}

TEST_F(fork, parent_exits_first)
{
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	start_child(_metadata, self, child_leaves_orphan);
	expect_taken_by_fork(self);
	child_step(self);
	ASSERT_EQ(CHILD_FINE, wait_child(self->child.pid));
	gate_open(&self->child.go);
	EXPECT_EQ(CHILD_FINE, wait_child(self->notes->pid));
	expect_data(&self->mem, 0, PAGES);
	expect_references(&self->dev, &self->mem);
}

/* Each generation adds to what its parent had, and sees nothing else. */
static int generation(FIXTURE_DATA(fork) *self, uint64_t sum, int descendants)
{
	struct dev own = {};
	int ret = 0;
	pid_t pid;

	if (open_own_device(&own, descendants % 2, &self->mem) ||
	    device_adds(&own, &self->mem, 1))
		return CHILD_DEVICE;
	if (!descendants)
		return child_claim(check_sum(&self->mem, sum + 1));
	pid = fork();
	if (pid < 0)
		return CHILD_OTHER;
	if (!pid)
		_exit(generation(self, sum + 1, descendants - 1));
	cpu_adds(&self->mem, 10);
	ret = wait_child(pid);
	return ret ?: child_claim(check_sum(&self->mem, sum + 11));
}

static int child_has_descendants(FIXTURE_DATA(fork) *self)
{
	return generation(self, 0, 3);
}

TEST_F(fork, grandchildren)
{
	if (self->dev.info.ndevices < 2)
		SKIP(return, "there is only one device");
	start_child(_metadata, self, child_has_descendants);
	expect_taken_by_fork(self);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	child_ends(self);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_sum(&self->mem, 1);
	expect_references_only(self);
}

static int child_has_no_memory(FIXTURE_DATA(fork) *self)
{
	uint64_t value;

	if (cpu_read(word_of(&self->mem, 0), &value) != SEGV_MAPERR)
		return CHILD_ACCESS;
	return child_claim(check_entries(&self->mem, 0, PAGES, ENTRY_NONE));
}

/* What the child does not get, the device need not give up. */
TEST_F(fork, madv_dontfork)
{
	ASSERT_EQ(0, madvise(self->mem.p, self->mem.size, MADV_DONTFORK));
	start_child(_metadata, self, child_has_no_memory);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	child_ends(self);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	expect_sum(&self->mem, 1);
	expect_references_only(self);
}

static int child_sees_zeros(FIXTURE_DATA(fork) *self)
{
	size_t words = self->mem.size / sizeof(uint64_t);
	const char *wrong = NULL;
	size_t i;

	wrong = check_entries(&self->mem, 0, PAGES, ENTRY_NONE);
	for (i = 0; i < words && !wrong; i++)
		if (READ_MEM(word_of(&self->mem, 0) + i))
			wrong = "memory is not wiped";
	cpu_adds(&self->mem, 2);
	return child_claim(wrong);
}

/*
 * The child gets memory, but none of our pages: nothing of ours is copied or
 * write-protected, so there is no reason to take anything.
 */
TEST_F(fork, madv_wipeonfork)
{
	ASSERT_EQ(0, madvise(self->mem.p, self->mem.size, MADV_WIPEONFORK));
	start_child(_metadata, self, child_sees_zeros);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	child_ends(self);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	expect_sum(&self->mem, 1);
	expect_references_only(self);
}

/* The device had let go before: there is nobody to tell. */
TEST_F(fork, after_release)
{
	ASSERT_EQ(PAGES, dev_release(&self->dev, self->mem.p, PAGES));
	expect_entries(&self->mem, 0, PAGES, ENTRY_EXCLUSIVE);
	start_child(_metadata, self, child_sees_pattern);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_shared(&self->mem);
	cpu_adds(&self->mem, 1);
	child_ends(self);
	expect_sum(&self->mem, 1);
	expect_references_only(self);
}

static int child_cannot_write(FIXTURE_DATA(fork) *self)
{
	int ret = child_claim(check_data(&self->mem, 0, PAGES));

	if (cpu_write(word_of(&self->mem, 0), 1) != SEGV_ACCERR)
		return CHILD_ACCESS;
	return ret ?: child_claim(check_data(&self->mem, 0, PAGES));
}

/* Memory is made read-only while its entries are exclusive, then copied. */
TEST_F(fork, read_only)
{
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size, PROT_READ));
	expect_taken(&self->dev, &self->mem, 0, PAGES, CAUSE(PROTECTION_VMA));
	start_child(_metadata, self, child_cannot_write);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_shared(&self->mem);
	EXPECT_EQ(SEGV_ACCERR, cpu_write(word_of(&self->mem, 0), 1));
	child_ends(self);
	expect_data(&self->mem, 0, PAGES);
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size,
			      PROT_READ | PROT_WRITE));
	expect_references(&self->dev, &self->mem);
}

static int child_opens_up(FIXTURE_DATA(fork) *self)
{
	uint64_t value;

	if (cpu_read(word_of(&self->mem, 0), &value) != SEGV_ACCERR)
		return CHILD_ACCESS;
	if (mprotect(self->mem.p, self->mem.size, PROT_READ | PROT_WRITE))
		return CHILD_OTHER;
	return child_claim(check_data(&self->mem, 0, PAGES)) ?:
	       child_writes(self);
}

TEST_F(fork, inaccessible)
{
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size, PROT_NONE));
	expect_taken(&self->dev, &self->mem, 0, PAGES, CAUSE(PROTECTION_VMA));
	start_child(_metadata, self, child_opens_up);
	expect_nothing_taken(&self->dev, &self->mem);
	child_step(self);
	ASSERT_EQ(0, mprotect(self->mem.p, self->mem.size,
			      PROT_READ | PROT_WRITE));
	expect_data(&self->mem, 0, PAGES);
	cpu_adds(&self->mem, 1);
	child_ends(self);
	expect_sum(&self->mem, 1);
	expect_references_only(self);
}

/* Every second page is the device's, the others are ordinary. */
TEST_F(fork, every_second_page)
{
	size_t page;

	for (page = 1; page < PAGES; page += 2)
		READ_MEM(word_of(&self->mem, page));
	dev_forget_events(&self->dev);
	ASSERT_EQ(0, dev_add(&self->dev, word_of(&self->mem, 0), 1, NULL));
	ASSERT_EQ(0, dev_add(&self->dev, word_of(&self->mem, 2), 1, NULL));
	__atomic_fetch_add(word_of(&self->mem, 1), 1, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(word_of(&self->mem, 3), 1, __ATOMIC_SEQ_CST);

	start_child(_metadata, self, child_sees_one);
	expect_taken(&self->dev, &self->mem, 0, PAGES / 2,
		     CAUSE(PROTECTION_PAGE));
	expect_not_held(&self->dev, &self->mem, 0, PAGES);
	expect_shared(&self->mem);
	cpu_adds(&self->mem, 1);
	child_ends(self);
	expect_sum(&self->mem, 2);
	expect_references_only(self);
}

TEST_F(fork, large_range)
{
	struct mem small = self->mem;

	setup_mirrored(_metadata, &self->dev, &self->mem, MANY_PAGES);
	acquire_pages(&self->dev, &self->mem, 0, MANY_PAGES);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	start_child(_metadata, self, child_sees_one);
	mem_unmap(&small);
	expect_shared(&self->mem);
	expect_not_held(&self->dev, &self->mem, 0, MANY_PAGES);
	cpu_adds(&self->mem, 1);
	child_ends(self);
	expect_sum(&self->mem, 2);
	expect_references_only(self);
}

/*
 * Pin the pages for I/O, as long as the descriptor is open and has buffers.
 * The descriptor, or a negative errno.
 */
static int pin_pages(const struct mem *mem)
{
	struct iovec iovec = { mem->p, mem->size };
	struct io_uring_params params = {};
	int fd = syscall(__NR_io_uring_setup, 1, &params);

	if (fd < 0)
		return -errno;
	if (syscall(__NR_io_uring_register, fd, IORING_REGISTER_BUFFERS,
		    &iovec, 1)) {
		int ret = -errno;

		close(fd);
		return ret;
	}
	return fd;
}

static const char *check_pfns(FIXTURE_DATA(fork) *self)
{
	int page;

	for (page = 0; page < PAGES; page++)
		if ((pagemap_of(page_of(&self->mem, page)) & PAGEMAP_PFN) !=
		    self->notes->pfn[page])
			return "a pinned page was replaced";
	return NULL;
}

static void note_pfns(FIXTURE_DATA(fork) *self)
{
	int page;

	for (page = 0; page < PAGES; page++) {
		READ_MEM(word_of(&self->mem, page));
		self->notes->pfn[page] =
			pagemap_of(page_of(&self->mem, page)) & PAGEMAP_PFN;
	}
}

/*
 * Pages that are pinned cannot be shared, not even for a while: whoever pinned
 * them must go on to see our memory. The child gets copies at once.
 */
TEST_F(fork, pinned)
{
	int pin = pin_pages(&self->mem);

	if (pin == -ENOSYS || pin == -EPERM)
		SKIP(return, "no io_uring to pin pages with");
	ASSERT_LE(0, pin);
	note_pfns(self);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	start_child(_metadata, self, child_sees_one);
	expect_taken(&self->dev, &self->mem, 0, PAGES, CAUSE(PROTECTION_PAGE));
	expect_claim(check_mapcounts(&self->mem, 1));
	cpu_adds(&self->mem, 1);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	child_ends(self);
	expect_sum(&self->mem, 3);
	expect_claim(check_pfns(self));
	ASSERT_EQ(0, syscall(__NR_io_uring_register, pin,
			     IORING_UNREGISTER_BUFFERS, NULL, 0));
	close(pin);
	expect_references_only(self);
}

static struct mem part_of(const struct mem *mem, size_t first, size_t pages)
{
	return (struct mem) {
		.p = page_of(mem, first),
		.pages = pages,
		.size = pages * page_size(),
	};
}

static int child_uses_shared_page(FIXTURE_DATA(fork) *self)
{
	uint64_t *shared = word_of(&self->mem, 1);

	if (READ_MEM(shared) != 10)
		return child_claim("the device's write is not there");
	WRITE_MEM(shared, 11);
	return CHILD_FINE;
}

/*
 * A shared mapping between private ones stays one memory for everybody, and
 * the device keeps its mapping of it: nothing is write-protected there.
 */
TEST_F(fork, shared_neighbour)
{
	struct mem first = part_of(&self->mem, 0, 1);
	struct mem last = part_of(&self->mem, 2, 2);
	uint64_t *shared = word_of(&self->mem, 1), value;
	struct devexcl_page info;

	ASSERT_EQ(shared, mmap(shared, page_size(), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	dev_forget_events(&self->dev);
	ASSERT_EQ(0, dev_write_word(&self->dev, shared, 9));
	start_child(_metadata, self, child_uses_shared_page);
	expect_taken(&self->dev, &self->mem, 0, PAGES - 1,
		     CAUSE(PROTECTION_PAGE));
	expect_shared(&first);
	expect_shared(&last);
	ASSERT_EQ(0, dev_query(&self->dev, shared, 1, &info));
	EXPECT_NE(0, info.access & DEVEXCL_ACCESS_WRITE);
	ASSERT_EQ(0, dev_write_word(&self->dev, shared, 10));
	child_ends(self);
	ASSERT_EQ(0, dev_read_word(&self->dev, shared, &value));
	EXPECT_EQ(11, value);
	expect_data(&self->mem, 0, 1);
	expect_data(&self->mem, 2, 2);
	expect_references(&self->dev, &first);
	expect_references(&self->dev, &last);
}

/* Whoever calls vfork() should have few variables. */
static pid_t start_vforked_child(void)
{
	pid_t pid = vfork();

	if (!pid)
		_exit(CHILD_FINE);
	return pid;
}

/* A child that runs in our memory takes nothing by being born. */
TEST_F(fork, vfork)
{
	pid_t pid = start_vforked_child();

	ASSERT_LT(0, pid);
	EXPECT_EQ(CHILD_FINE, wait_child(pid));
	expect_nothing_taken(&self->dev, &self->mem);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	expect_data(&self->mem, 0, PAGES);
	expect_references(&self->dev, &self->mem);
}

/* The child's memory is ours, and so is the context. */
static int child_in_same_mm(void *data)
{
	FIXTURE_DATA(fork) *self = data;

	if (dev_add(&self->dev, word_of(&self->mem, 0), 1, NULL))
		_exit(CHILD_DEVICE);
	__atomic_fetch_add(word_of(&self->mem, 1), 1, __ATOMIC_SEQ_CST);
	_exit(CHILD_FINE);
}

TEST_F(fork, clone_vm)
{
	char *stack = malloc(STACK_SIZE);
	pid_t pid;

	ASSERT_NE(NULL, stack);
	pid = clone(child_in_same_mm, stack + STACK_SIZE,
		    CLONE_VM | CLONE_VFORK | SIGCHLD, self);
	ASSERT_LT(0, pid);
	EXPECT_EQ(CHILD_FINE, wait_child(pid));
	expect_taken(&self->dev, &self->mem, 1, 1, cause_of_fault(&self->dev));
	expect_held(&self->dev, &self->mem, 0, 1);
	expect_held(&self->dev, &self->mem, 2, PAGES - 2);
	EXPECT_EQ(pattern_of(&self->mem, 0) + 1, *word_of(&self->mem, 0));
	EXPECT_EQ(pattern_of(&self->mem, 1) + 1, *word_of(&self->mem, 1));
	expect_references_only(self);
	free(stack);
}

/* In a child: let a device hold our side of the memory, and work on it. */
static int child_has_device(FIXTURE_DATA(fork) *self)
{
	struct mem *mem = &self->mem;
	struct devexcl_page info[PAGES];
	struct dev own = {};
	int page, ret;

	/* Another device than the parent's, if there is one. */
	if (open_own_device(&own, self->dev.info.ndevices - 1, mem) ||
	    device_adds(&own, mem, 2) || dev_query(&own, mem->p, PAGES, info))
		return CHILD_DEVICE;
	for (page = 0; page < PAGES; page++)
		self->notes->pfn[page] = info[page].pfn;
	dev_forget_events(&own);
	ret = child_pause(self) ?:
	      child_claim(check_taken(&own, mem, 0, 0, 0) ?:
			  check_held(&own, mem, 0, PAGES, true) ?:
			  check_sum(mem, 2));
	if (ret)
		return ret;
	/* Exit with exclusive entries. */
	return dev_acquire_all(&own, mem->p, PAGES) ? CHILD_DEVICE : CHILD_FINE;
}

/* No page is held by the devices of both sides. */
static const char *check_two_sides(FIXTURE_DATA(fork) *self)
{
	struct devexcl_page info[PAGES];
	int page;

	if (dev_query(&self->dev, self->mem.p, PAGES, info))
		return "cannot query the pages";
	for (page = 0; page < PAGES; page++)
		if (info[page].pfn == self->notes->pfn[page])
			return "two devices hold one page for two processes";
	return NULL;
}

/*
 * The pages that the child's device held, and nobody else mapped, are gone
 * with the child. A page that is anonymous and that nobody maps is a leak.
 */
static const char *check_freed(FIXTURE_DATA(fork) *self)
{
	int page;

	drain_lru_batches();
	for (page = 0; page < PAGES; page++) {
		uint64_t pfn = self->notes->pfn[page];
		long count = frame_mapcount(pfn);

		if (count < 0)
			return "cannot read the state of a page";
		if (!count && frame_flags(pfn) & KPF_ANON)
			return "the child is gone and its page is not";
	}
	return NULL;
}

TEST_F(fork, devices_parent_first)
{
	start_child(_metadata, self, child_has_device);
	expect_taken_by_fork(self);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	child_step(self);
	expect_claim(check_two_sides(self));
	expect_nothing_taken(&self->dev, &self->mem);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	child_ends(self);
	expect_claim(check_freed(self));
	expect_sum(&self->mem, 2);
	expect_references_only(self);
}

TEST_F(fork, devices_child_first)
{
	start_child(_metadata, self, child_has_device);
	expect_taken_by_fork(self);
	child_step(self);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_claim(check_two_sides(self));
	ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
	child_ends(self);
	expect_claim(check_freed(self));
	expect_nothing_taken(&self->dev, &self->mem);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	expect_sum(&self->mem, 1);
	expect_references_only(self);
}

/* Each device loses the pages that it has. */
TEST_F(fork, two_devices)
{
	struct mem half = part_of(&self->mem, 0, PAGES / 2);
	struct dev other = {};

	if (self->dev.info.ndevices < 2)
		SKIP(return, "there is only one device");
	setup_device(_metadata, &other, 1);
	ASSERT_EQ(0, dev_mirror(&other, self->mem.p, self->mem.size));
	acquire_pages(&other, &self->mem, 0, PAGES / 2);
	dev_forget_events(&self->dev);
	ASSERT_EQ(0, device_adds(&other, &half, 1));

	start_child(_metadata, self, child_does_nothing);
	expect_taken(&other, &self->mem, 0, PAGES / 2, CAUSE(PROTECTION_PAGE));
	expect_taken(&self->dev, &self->mem, PAGES / 2, PAGES - PAGES / 2,
		     CAUSE(PROTECTION_PAGE));
	expect_shared(&self->mem);
	child_ends(self);
	expect_sum(&half, 1);
	expect_data(&self->mem, PAGES / 2, PAGES - PAGES / 2);
	expect_references_only(self);
	dev_close(&other);
}

TEST_F(fork, repeated)
{
	struct devexcl_stats before, after;
	int i;

	ASSERT_EQ(0, dev_stats(&self->dev, &before));
	for (i = 0; i < REPEATS; i++) {
		acquire_pages(&self->dev, &self->mem, 0, PAGES);
		ASSERT_EQ(0, device_adds(&self->dev, &self->mem, 1));
		start_child(_metadata, self, child_adds);
		expect_taken_by_fork(self);
		child_ends(self);
	}
	expect_sum(&self->mem, REPEATS);
	ASSERT_EQ(0, dev_stats(&self->dev, &after));
	EXPECT_EQ(REPEATS * PAGES,
		  after.lost[DEVEXCL_CAUSE_PROTECTION_PAGE] -
		  before.lost[DEVEXCL_CAUSE_PROTECTION_PAGE]);
	EXPECT_EQ(before.table_bytes, after.table_bytes);
	expect_references_only(self);
}

/*
 * A thread that counts with the device for as long as it may: in the first
 * word of the first page, then of the next one, and so on, again and again.
 */
static void *count_with_device(void *data)
{
	FIXTURE_DATA(fork) *self = data;
	struct devexcl_atomic_op op = {
		.operand = 1,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(uint64_t),
	};
	long page = 0, ret = 0;

	while (!READ_MEM(&self->notes->stop) || page) {
		op.addr = (uintptr_t)word_of(&self->mem, page);
		ret = dev_atomic(&self->dev, &op, 1, DEVEXCL_ATOMIC_ACQUIRE |
				 DEVEXCL_ATOMIC_GAP, 1000);
		if (ret == -EBUSY)	/* taken again and again: not done */
			continue;
		if (ret < 0)
			break;
		page = (page + 1) % PAGES;
		if (!page)
			__atomic_fetch_add(&self->notes->counted, 1,
					   __ATOMIC_SEQ_CST);
	}
	return (void *)(ret < 0 ? ret : 0);
}

static uint64_t counted(FIXTURE_DATA(fork) *self)
{
	return __atomic_load_n(&self->notes->counted, __ATOMIC_SEQ_CST);
}

static void await_count(FIXTURE_DATA(fork) *self, uint64_t count)
{
	while (counted(self) < count)
		sched_yield();
}

/*
 * The words as of one moment: no page has a later state than one before it,
 * and none lags behind by more than the one round that is under way.
 */
static const char *check_moment(const struct mem *mem, uint64_t low,
				uint64_t high)
{
	uint64_t first = READ_MEM(word_of(mem, 0)) - pattern_of(mem, 0);
	uint64_t last = first;
	size_t page;

	if (first < low || first > high)
		return "the counter is not between before and after";
	for (page = 1; page < mem->pages; page++) {
		uint64_t sum = READ_MEM(word_of(mem, page)) -
			       pattern_of(mem, page);

		if (sum > last || sum + 1 < first)
			return "pages are copies of different moments";
		last = sum;
	}
	return NULL;
}

/* The child's copy must be of one moment, and of no later one afterwards. */
static int child_has_snapshot(FIXTURE_DATA(fork) *self)
{
	const char *wrong = check_moment(&self->mem, self->notes->low,
					 self->notes->high);
	uint64_t seen[PAGES], page;

	for (page = 0; page < PAGES; page++)
		seen[page] = READ_MEM(word_of(&self->mem, page));
	await_count(self, counted(self) + 3);
	for (page = 0; page < PAGES && !wrong; page++)
		if (READ_MEM(word_of(&self->mem, page)) != seen[page])
			wrong = "the parent's device writes to the child";
	return child_claim(wrong);
}

/*
 * The device never stops while we fork: nothing is lost in the parent, and
 * the child's copy is what the parent's memory was at one moment.
 */
TEST_F(fork, while_device_works)
{
	pthread_t thread;
	void *ret;
	int i;

	ASSERT_EQ(0, pthread_create(&thread, NULL, count_with_device, self));
	for (i = 0; i < REPEATS / 4; i++) {
		await_count(self, counted(self) + 3);
		self->notes->low = counted(self);
		start_child(_metadata, self, child_has_snapshot);
		/* One round may be half way, and one is not noted yet. */
		self->notes->high = counted(self) + 1;
		child_ends(self);
	}
	self->notes->stop = true;
	ASSERT_EQ(0, pthread_join(thread, &ret));
	EXPECT_EQ(NULL, ret);
	expect_sum(&self->mem, counted(self));
	expect_references_only(self);
}

static int child_has_dirty_pages(FIXTURE_DATA(fork) *self)
{
	return child_claim(check_soft_dirty(&self->mem, 0, 2, true)) ?:
	       child_sees_pattern(self);
}

/* Who tracks writes must learn of the device's: on both sides. */
TEST_F(fork, soft_dirty_kept)
{
	if (!clear_soft_dirty())
		SKIP(return, "the kernel does not track soft-dirty pages");
	acquire_pages(&self->dev, &self->mem, 0, 2);
	start_child(_metadata, self, child_has_dirty_pages);
	expect_taken(&self->dev, &self->mem, 0, 2, CAUSE(PROTECTION_PAGE));
	expect_shared(&self->mem);
	expect_claim(check_soft_dirty(&self->mem, 0, 2, true));
	child_ends(self);
	expect_data(&self->mem, 0, PAGES);
	expect_references(&self->dev, &self->mem);
}

/* What nobody has written to since is not made dirty by being copied. */
TEST_F(fork, soft_dirty_clear)
{
	if (!clear_soft_dirty())
		SKIP(return, "the kernel does not track soft-dirty pages");
	expect_entries(&self->mem, 0, PAGES, ENTRY_EXCLUSIVE);
	expect_claim(check_soft_dirty(&self->mem, 0, PAGES, false));
	start_child(_metadata, self, child_sees_pattern);
	expect_shared(&self->mem);
	expect_claim(check_soft_dirty(&self->mem, 0, PAGES, false));
	child_ends(self);
	expect_data(&self->mem, 0, PAGES);
	expect_references(&self->dev, &self->mem);
}

DEVEXCL_TEST_MAIN
