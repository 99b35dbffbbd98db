// SPDX-License-Identifier: GPL-2.0
/*
 * Whoever touches a page that a device holds gets it, and the device is told,
 * once and for that page only
 */
#include <elf.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "devexcl_test.h"

#define PAGES	4
#define TARGET	1	/* the page that is touched; the others are neighbours */
#define ROUNDS	20

FIXTURE(fault) {
	struct dev dev;
	struct mem mem;
};

FIXTURE_SETUP(fault)
{
	setup_device(_metadata, &self->dev, 0);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
}

FIXTURE_TEARDOWN(fault)
{
	mem_unmap(&self->mem);
	dev_close(&self->dev);
}

/*
 * The claims that every test here makes: the target, and nothing else, was
 * taken by one call for its page alone, as a CPU fault.
 */
static const char *check_one_fault(struct dev *dev, const struct mem *mem)
{
	uintptr_t p = (uintptr_t)page_of(mem, TARGET);
	struct taken taken;
	int ret = dev_taken(dev, &taken);

	if (ret || taken.lost)
		return "events are missing";
	if (taken.calls != 1 || taken.exclusive != 1)
		return "not exactly one page was taken by one call";
	if (taken.causes != cause_of_fault(dev))
		return "the page was not taken for the cause of a CPU fault";
	if (taken.owners != 1U << DEVEXCL_OWNER_NONE)
		return "a CPU fault names an owner";
	if (taken.first != p || taken.last != p + page_size())
		return "more was invalidated than the page";
	return check_held(dev, mem, TARGET, 1, false) ?:
	       check_entries(mem, TARGET, 1, ENTRY_PRESENT);
}

#define expect_one_fault(self)						\
do {									\
	expect_claim(check_one_fault(&(self)->dev, &(self)->mem));	\
	expect_held(&(self)->dev, &(self)->mem, 0, TARGET);		\
	expect_held(&(self)->dev, &(self)->mem, TARGET + 1,		\
		    PAGES - TARGET - 1);				\
} while (0)

#define expect_data_and_references(self)				\
do {									\
	expect_data(&(self)->mem, 0, PAGES);				\
	expect_references(&(self)->dev, &(self)->mem);			\
} while (0)

TEST_F(fault, cpu_read)
{
	EXPECT_EQ(pattern_of(&self->mem, TARGET),
		  READ_MEM(word_of(&self->mem, TARGET)));
	expect_one_fault(self);
	expect_data_and_references(self);
}

TEST_F(fault, cpu_write)
{
	uint64_t *word = word_of(&self->mem, TARGET);

	WRITE_MEM(word, 4711);
	expect_one_fault(self);
	EXPECT_EQ(4711, *word);

	/* The device finds what the CPU wrote. */
	acquire_pages(&self->dev, &self->mem, TARGET, 1);
	ASSERT_EQ(0, dev_add(&self->dev, word, 1, NULL));
	EXPECT_EQ(4712, READ_MEM(word));

	*word = pattern_of(&self->mem, TARGET);
	expect_data_and_references(self);
}

/* One fault gives the page back for reading and for writing. */
TEST_F(fault, writable_again)
{
	uint64_t *word = word_of(&self->mem, TARGET);
	bool no_fault = false;
	int round;

	/* Now and then there is a fault for something else. */
	for (round = 0; round < ROUNDS && !no_fault; round++) {
		acquire_pages(&self->dev, &self->mem, TARGET, 1);
		no_fault = is_writable_when_read(word);
	}
	EXPECT_TRUE(no_fault);
	expect_data_and_references(self);
}

TEST_F(fault, cpu_atomic)
{
	uint64_t *word = word_of(&self->mem, TARGET);
	uint64_t was = pattern_of(&self->mem, TARGET);

	EXPECT_EQ(was, __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST));
	expect_one_fault(self);
	EXPECT_EQ(was + 1, *word);
	*word = was;
	expect_data_and_references(self);
}

/* What the device wrote is what the CPU reads. */
TEST_F(fault, device_wrote)
{
	uint64_t *word = word_of(&self->mem, TARGET);

	ASSERT_EQ(0, dev_add(&self->dev, word, 5, NULL));
	expect_held(&self->dev, &self->mem, 0, PAGES);
	EXPECT_EQ(pattern_of(&self->mem, TARGET) + 5, READ_MEM(word));
	expect_one_fault(self);
	*word = pattern_of(&self->mem, TARGET);
	expect_data_and_references(self);
}

/* The device had let go already: the CPU finds the page, nobody is told. */
TEST_F(fault, after_release)
{
	ASSERT_EQ(1, dev_release(&self->dev, page_of(&self->mem, TARGET), 1));
	expect_entries(&self->mem, TARGET, 1, ENTRY_EXCLUSIVE);
	EXPECT_EQ(pattern_of(&self->mem, TARGET),
		  READ_MEM(word_of(&self->mem, TARGET)));
	expect_entries(&self->mem, TARGET, 1, ENTRY_PRESENT);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_data_and_references(self);
}

/*
 * A driver that tells its own conversions by their cause must not mistake a
 * page that it loses for one that it gets.
 */
TEST_F(fault, told_apart_from_conversion)
{
	struct taken taken;

	READ_MEM(word_of(&self->mem, TARGET));
	ASSERT_EQ(0, dev_taken(&self->dev, &taken));
	EXPECT_EQ(1, taken.exclusive);
	EXPECT_EQ(0, taken.causes & CAUSE(EXCLUSIVE));
	expect_data_and_references(self);
}

/* Two faults on the same page are one restore. */
TEST_F(fault, touched_twice)
{
	READ_MEM(word_of(&self->mem, TARGET));
	WRITE_MEM(word_of(&self->mem, TARGET), pattern_of(&self->mem, TARGET));
	expect_one_fault(self);
	expect_data_and_references(self);
}

#if defined(__x86_64__) || defined(__i386__)
static const unsigned char code_return_42[] = {
	0xb8, 42, 0, 0, 0,	/* mov $42, %eax */
	0xc3,			/* ret */
};
#endif

TEST_F(fault, execute)
{
#if defined(__x86_64__) || defined(__i386__)
	char *page = page_of(&self->mem, TARGET);
	int (*code)(void) = (int (*)(void))page;

	memcpy(page, code_return_42, sizeof(code_return_42));
	ASSERT_EQ(0, mprotect(page, page_size(),
			      PROT_READ | PROT_WRITE | PROT_EXEC));
	acquire_pages(&self->dev, &self->mem, TARGET, 1);
	EXPECT_EQ(42, code());
	expect_one_fault(self);
	ASSERT_EQ(0, mprotect(page, page_size(), PROT_READ | PROT_WRITE));
	fill_mem(&self->mem);
	expect_data_and_references(self);
#else
	SKIP(return, "no machine code for this architecture");
#endif
}

/* The kernel writes to the page. */
TEST_F(fault, read_syscall)
{
	uint64_t value = 0x1234567890abcdef;
	struct gate gate;

	ASSERT_EQ(0, gate_init(&gate));
	ASSERT_EQ(8, write(gate.pipe[1], &value, 8));
	ASSERT_EQ(8, read(gate.pipe[0], word_of(&self->mem, TARGET), 8));
	expect_one_fault(self);
	EXPECT_EQ(value, *word_of(&self->mem, TARGET));
	*word_of(&self->mem, TARGET) = pattern_of(&self->mem, TARGET);
	expect_data_and_references(self);
}

/* The kernel reads from the page. */
TEST_F(fault, write_syscall)
{
	uint64_t value = 0;
	struct gate gate;

	ASSERT_EQ(0, gate_init(&gate));
	ASSERT_EQ(8, write(gate.pipe[1], word_of(&self->mem, TARGET), 8));
	expect_one_fault(self);
	ASSERT_EQ(8, read(gate.pipe[0], &value, 8));
	EXPECT_EQ(pattern_of(&self->mem, TARGET), value);
	expect_data_and_references(self);
}

/*
 * A child does something to our page, from its own address space. It must not
 * inherit the memory: fork() would take the pages from the device.
 */
static int run_in_other_mm(struct __test_metadata *_metadata,
			   FIXTURE_DATA(fault) *self,
			   int (*fn)(pid_t parent, const struct mem *mem))
{
	pid_t parent = getpid(), pid;

	ASSERT_EQ(0, madvise(self->mem.p, self->mem.size, MADV_DONTFORK));
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(fn(parent, &self->mem));
	return wait_child(pid);
}

static int other_readv(pid_t parent, const struct mem *mem)
{
	uint64_t value = 0;
	struct iovec local = { &value, sizeof(value) };
	struct iovec remote = { word_of(mem, TARGET), sizeof(value) };

	if (process_vm_readv(parent, &local, 1, &remote, 1, 0) != sizeof(value))
		return 1;
	return value == pattern_of(mem, TARGET) ? 0 : 2;
}

TEST_F(fault, process_vm_readv)
{
	EXPECT_EQ(0, run_in_other_mm(_metadata, self, other_readv));
	expect_one_fault(self);
	expect_data_and_references(self);
}

static int other_writev(pid_t parent, const struct mem *mem)
{
	uint64_t value = 99;
	struct iovec local = { &value, sizeof(value) };
	struct iovec remote = { word_of(mem, TARGET), sizeof(value) };

	return process_vm_writev(parent, &local, 1, &remote, 1, 0) !=
	       sizeof(value);
}

TEST_F(fault, process_vm_writev)
{
	EXPECT_EQ(0, run_in_other_mm(_metadata, self, other_writev));
	expect_one_fault(self);
	EXPECT_EQ(99, *word_of(&self->mem, TARGET));
	*word_of(&self->mem, TARGET) = pattern_of(&self->mem, TARGET);
	expect_data_and_references(self);
}

static int open_proc_mem(pid_t pid, int flags)
{
	char name[32];

	snprintf(name, sizeof(name), "/proc/%d/mem", pid);
	return open(name, flags);
}

static int other_proc_mem_read(pid_t parent, const struct mem *mem)
{
	uint64_t value = 0;
	int fd = open_proc_mem(parent, O_RDONLY);

	if (pread(fd, &value, sizeof(value),
		  (uintptr_t)word_of(mem, TARGET)) != sizeof(value))
		return 1;
	return value == pattern_of(mem, TARGET) ? 0 : 2;
}

TEST_F(fault, proc_mem_read)
{
	EXPECT_EQ(0, run_in_other_mm(_metadata, self, other_proc_mem_read));
	expect_one_fault(self);
	expect_data_and_references(self);
}

static int other_proc_mem_write(pid_t parent, const struct mem *mem)
{
	uint64_t value = 98;
	int fd = open_proc_mem(parent, O_RDWR);

	return pwrite(fd, &value, sizeof(value),
		      (uintptr_t)word_of(mem, TARGET)) != sizeof(value);
}

TEST_F(fault, proc_mem_write)
{
	EXPECT_EQ(0, run_in_other_mm(_metadata, self, other_proc_mem_write));
	expect_one_fault(self);
	EXPECT_EQ(98, *word_of(&self->mem, TARGET));
	*word_of(&self->mem, TARGET) = pattern_of(&self->mem, TARGET);
	expect_data_and_references(self);
}

/* A child stops its parent, and looks at its memory or changes it. */
static int ptrace_parent(pid_t parent, uint64_t *word, long request,
			 unsigned long data)
{
	long value;
	int status;

	if (ptrace(PTRACE_SEIZE, parent, NULL, NULL) ||
	    ptrace(PTRACE_INTERRUPT, parent, NULL, NULL) ||
	    waitpid(parent, &status, __WALL) != parent)
		return 1;
	errno = 0;
	value = ptrace(request, parent, word, data);
	if (errno)
		return 2;
	if (request == PTRACE_PEEKDATA && (unsigned long)value != data)
		return 3;
	return ptrace(PTRACE_DETACH, parent, NULL, NULL) ? 4 : 0;
}

static int other_ptrace_peek(pid_t parent, const struct mem *mem)
{
	return ptrace_parent(parent, word_of(mem, TARGET), PTRACE_PEEKDATA,
			     pattern_of(mem, TARGET));
}

TEST_F(fault, ptrace_peek)
{
	EXPECT_EQ(0, run_in_other_mm(_metadata, self, other_ptrace_peek));
	expect_one_fault(self);
	expect_data_and_references(self);
}

static int other_ptrace_poke(pid_t parent, const struct mem *mem)
{
	return ptrace_parent(parent, word_of(mem, TARGET), PTRACE_POKEDATA,
			     97);
}

TEST_F(fault, ptrace_poke)
{
	EXPECT_EQ(0, run_in_other_mm(_metadata, self, other_ptrace_poke));
	expect_one_fault(self);
	EXPECT_EQ(97, *word_of(&self->mem, TARGET));
	*word_of(&self->mem, TARGET) = pattern_of(&self->mem, TARGET);
	expect_data_and_references(self);
}

static long futex(void *word, int op, uint32_t value)
{
	return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* The kernel compares the word, with faults disabled at first. */
TEST_F(fault, futex_wait)
{
	uint32_t *word = (uint32_t *)page_of(&self->mem, TARGET);
	uint32_t is = (uint32_t)pattern_of(&self->mem, TARGET);

	EXPECT_EQ(-1, futex(word, FUTEX_WAIT_PRIVATE, is + 1));
	EXPECT_EQ(EAGAIN, errno);
	expect_one_fault(self);
	expect_data_and_references(self);
}

/* The kernel changes the word atomically, with faults disabled at first. */
TEST_F(fault, futex_wake_op)
{
	uint32_t *word = (uint32_t *)page_of(&self->mem, TARGET);
	uint32_t op = FUTEX_OP(FUTEX_OP_SET, 7, FUTEX_OP_CMP_EQ, 0);
	uint32_t other = 0;

	EXPECT_EQ(0, syscall(SYS_futex, &other, FUTEX_WAKE_OP_PRIVATE, 0, 0,
			     word, op));
	expect_one_fault(self);
	EXPECT_EQ(7, *word);
	fill_mem(&self->mem);
	expect_data_and_references(self);
}

/* Nobody takes a page away before he has said so */

/**
 * struct move - mremap() to somewhere else, and who looks there
 * @self: the fixture
 * @away: where the memory comes to
 * @ready: who looks is there
 * @begin: and waits for this
 * @progress: how far he is
 * @seen: what he has seen in the page behind the first
 */
struct move {
	FIXTURE_DATA(fault) *self;
	struct mem away;
	struct gate ready;
	struct gate begin;
	struct progress progress;
	uint64_t seen;
};

static bool move_mem(const struct mem *to, const struct mem *from)
{
	return mremap(from->p, from->size, to->size,
		      MREMAP_MAYMOVE | MREMAP_FIXED, to->p) == to->p;
}

static void *move_away(void *arg)
{
	struct move *move = arg;

	return move_mem(&move->away, &move->self->mem) ? NULL : move;
}

static void *look_there(void *arg)
{
	struct move *move = arg;

	touch_stack();
	progress_open(&move->progress);
	gate_open(&move->ready);
	gate_wait(&move->begin);
	progress_begin(&move->progress);
	move->seen = READ_MEM(word_of(&move->away, 1));
	progress_end(&move->progress);
	return NULL;
}

/* The device has the first page, and the others are there for the CPU. */
static void prepare_move(struct __test_metadata *_metadata,
			 FIXTURE_DATA(fault) *self, struct move *move)
{
	size_t page;

	ASSERT_EQ(0, gate_init(&move->ready));
	ASSERT_EQ(0, gate_init(&move->begin));
	ASSERT_EQ(0, mem_map(&move->away, PAGES));
	/* A VMA of its own: none has to be split, which is told as well. */
	ASSERT_EQ(0, madvise(self->mem.p, self->mem.size, MADV_DONTDUMP));
	for (page = 0; page < PAGES; page++)
		READ_MEM(word_of(&self->mem, page));
	acquire_pages(&self->dev, &self->mem, 0, 1);
	ASSERT_EQ(0, load_program());
}

/*
 * The kernel has begun to tell the device that the memory moves: nothing of it
 * is at the new place yet, where one could write to what the device has. A page
 * that is there can be read; else, who reads waits for the end of mremap().
 */
TEST_F(fault, told_before_mremap)
{
	struct move move = { .self = self };
	pthread_t mover, looker;
	void *failed;
	bool there;
	int stop;

	prepare_move(_metadata, self, &move);
	ASSERT_EQ(0, pthread_create(&looker, NULL, look_there, &move));
	ASSERT_EQ(0, gate_wait(&move.ready));
	stop = dev_break(&self->dev, DEVEXCL_POINT_INVALIDATE, self->mem.p);
	ASSERT_LE(0, stop);
	ASSERT_EQ(0, pthread_create(&mover, NULL, move_away, &move));
	ASSERT_EQ(0, wait_for_break(stop, STOP_SECONDS));
	gate_open(&move.begin);
	there = progress_wait(&move.progress);
	close(stop);
	ASSERT_EQ(0, pthread_join(mover, &failed));
	ASSERT_EQ(0, pthread_join(looker, NULL));

	EXPECT_FALSE(there);
	ASSERT_EQ(NULL, failed);
	EXPECT_EQ(pattern_of(&self->mem, 1), move.seen);
	ASSERT_TRUE(move_mem(&self->mem, &move.away));
	expect_not_held(&self->dev, &self->mem, 0, PAGES);
	expect_data_and_references(self);
}

DEVEXCL_TEST_MAIN
